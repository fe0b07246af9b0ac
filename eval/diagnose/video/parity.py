"""Parity of a video model (X8): its loss, its frames and its codes are those it learnt."""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn.functional import cross_entropy

from eval.diagnose import thresholds
from eval.diagnose.checks.check import check
from eval.diagnose.probes.anatomy import untouched
from eval.diagnose.probes.exact import NotFiniteError, clean, yardstick
from eval.diagnose.report.report import Finding, Rule
from eval.diagnose.video.subject import VIDEO, ClipBatch, VideoSubject

TOKENIZER_FILE = "frame_tokenizer.safetensors"
CLIPS = 8
_AROUND = (-1, 0, 1)


@check(
    "parity.own_loss",
    "the loss is the mean cross entropy at the hidden places, and frames say what their codes say",
    kinds=(VIDEO,),
)
@torch.no_grad()
def own_loss(subject: VideoSubject, rule: Rule) -> Finding | list[Finding]:
    """The model's own loss is the cross entropy of its answers at the hidden places, and frames are their codes."""
    batch = subject.batch(2, subject.limits.length)
    own = float(subject.own_loss(subject.model, subject.learning_inputs(batch)))
    smoothing = float(subject.model.config.label_smoothing)
    expected = float(cross_entropy(*subject.answers(subject.model, batch), label_smoothing=smoothing))
    shown = subject.plain(1, subject.limits.length)
    from_frames = subject.model(frames=_frames(subject, shown)).logits
    moved = float((clean(from_frames.float()) - clean(subject.logits(shown))).abs().max())
    evidence: dict[str, Any] = {"own_loss": own, "cross_entropy": expected, "frames_against_their_codes": moved}
    if not torch.tensor([own, expected, moved]).isfinite().all():
        raise NotFiniteError
    bar = yardstick(subject, shown)
    if abs(own - expected) > thresholds.SAME_LOSS * max(expected, thresholds.MEMORISED_LOSS):
        cause = "the loss that the model gives itself is not that of the codes at hidden places: it counts visible "
        cause += "places or other labels, or is a sum or a multiple of the mean"
        remedy = "compare model(..., labels=labels).loss with the cross entropy of the logits where they are not -100"
        return rule.failed(evidence, cause, remedy)
    if moved > bar.tolerance:
        cause = "frames are coded otherwise inside forward than by model.model.codes.encode"
        return rule.failed(evidence, cause, "code frames in one place only")
    return rule.passed(evidence)


@check(
    "parity.offset",
    "of the frames before, at and after a predicted one, its own costs least",
    kinds=(VIDEO,),
    needs="future",
)
@torch.no_grad()
def offset(subject: VideoSubject, rule: Rule) -> Finding | list[Finding]:
    """The frame that the first prediction knows best is the one it should give, at places where digits move."""
    batch = subject.asked(CLIPS, subject.context, "future")
    known = batch.codes.shape[1] - batch.codes.shape[1] // 2
    around = [batch.codes[:, known + key] for key in _AROUND]
    moved = (around[0] != around[1]) & (around[1] != around[2])
    logits = torch.cat([clean(subject.logits(clip))[:, known][at[None]] for clip, at in _pairs(batch, moved)])
    if len(logits) < thresholds.FEWEST_POSITIONS:
        return []
    if not logits.isfinite().all():
        raise NotFiniteError
    nats = {key: float(cross_entropy(logits, codes[moved])) for key, codes in zip(_AROUND, around, strict=True)}
    best = min(nats, key=lambda key: nats[key])
    evidence = {"nats_by_offset": {str(key): value for key, value in nats.items()}, "places": len(logits)}
    # A young model's blurred copy of the past knows the frame before a little better; a shifted label far better.
    if best == 0 or untouched(subject) or nats[best] > thresholds.SHIFTED_IN_TIME * nats[0]:
        return rule.passed(evidence)
    cause = f"the training taught it to give the frame {'before' if best < 0 else 'after'} the one that is asked for "
    cause += f"({best:+d}): labels are shifted in time"
    return rule.failed(evidence, cause, "labels stand where the hidden codes are: do not shift them")


@check(
    "parity.code_table",
    "pictures from 0 to 1, all different, the same as in the checkpoint's frame tokenizer, with the codes as "
    "frequent as in training, and right ones where another naming of the codes would not be better",
    kinds=(VIDEO,),
)
@torch.no_grad()
def code_table(subject: VideoSubject, rule: Rule) -> Finding:
    """The pictures of the codes are the ones that the model was trained with."""
    values = subject.model.model.codes.values.detach().float().cpu()
    evidence = _looks(values) | _beside_file(subject, values) | _counts(subject) | _naming(subject)
    wrong = _wrong(subject, evidence)
    if wrong is None:
        return rule.passed(evidence)
    return rule.failed(evidence, *wrong)


# ---- parts of a finding ----


def _frames(subject: VideoSubject, batch: ClipBatch) -> Tensor:
    return subject.sample.frames[: len(batch.codes), : batch.codes.shape[1]].to(subject.device)


def _pairs(batch: ClipBatch, moved: Tensor) -> list[tuple[ClipBatch, Tensor]]:
    return list(zip(batch.split(1), moved, strict=True))


def _looks(values: Tensor) -> dict[str, Any]:
    """Whether the pictures are pictures, and differ."""
    finite = bool(values.isfinite().all())
    low, high = (float(edge) for edge in torch.aminmax(values)) if finite else (None, None)
    return {"codes": len(values), "lowest": low, "highest": high, "different": len(values.unique(dim=0))}


def _beside_file(subject: VideoSubject, values: Tensor) -> dict[str, Any]:
    """How far the pictures are from those of the checkpoint's frame tokenizer, where it lies beside the weights."""
    path = Path(subject.model.config._name_or_path or subject.name) / TOKENIZER_FILE
    try:
        with safe_open(path, "pt") as file:
            kept = file.get_tensor("values").float()
    except (OSError, SafetensorError):
        return {}
    apart = float((kept - values).abs().max()) if kept.shape == values.shape else None
    return {"largest_difference_from_file": apart, "same_shape_as_file": kept.shape == values.shape}


def _counts(subject: VideoSubject) -> dict[str, Any]:
    """Share of the codes of these clips that the training's counts expect elsewhere: half their distance, 0 to 1."""
    kept = subject.model.token_counts.double().cpu()
    if not kept.any():
        return {}
    found = subject.sample.codes.flatten().bincount(minlength=len(kept)).double()
    return {"share_unlike_training": float((found / found.sum() - kept / kept.sum()).abs().sum() / 2)}


def _naming(subject: VideoSubject) -> dict[str, Any]:
    """What is said for the most frequent code; and for the others, accuracy, and that after the best renaming."""
    batch = subject.batch(CLIPS, subject.context)
    best, true = (torch.cat(found) for found in zip(*(_best(subject, one) for one in batch.split(1)), strict=True))
    common = int(true.bincount().argmax())
    said, said_elsewhere = best[true == common], best[true != common]
    usual = int(said.bincount().argmax())
    evidence = {
        "most_frequent": common,
        "said_for_it": usual,
        "share_said_for_it": float((said == usual).double().mean()),
        "share_said_elsewhere": float((said_elsewhere == usual).double().mean()) if len(said_elsewhere) else 1.0,
    }
    best, true = said_elsewhere, true[true != common]
    if len(true) < thresholds.FEWEST_POSITIONS:
        return evidence
    size = subject.vocab_size
    table = (true * size + best).bincount(minlength=size * size).view(size, size).cpu().numpy()
    rows, columns = linear_sum_assignment(-table)
    # What one renamed code alone gains is what always predicting one code gains.
    hits = sorted((int(table[row, column]) for row, column in zip(rows, columns, strict=True)), reverse=True)
    return evidence | {
        "right": float((best == true).double().mean()),
        "right_if_renamed": sum(hits[1:]) / len(true),
        "places": len(true),
    }


def _best(subject: VideoSubject, clip: ClipBatch) -> tuple[Tensor, Tensor]:
    logits, truth = subject.answers(subject.model, clip)
    return clean(logits).argmax(-1), truth


def _wrong(subject: VideoSubject, seen: dict[str, Any]) -> tuple[str, str] | None:
    """Cause and remedy, the surest first."""
    remedy = "give the model its own table again: set_frame_codes(FrameTokenizer.from_pretrained(RUN).values)"
    if seen["lowest"] is None or seen["lowest"] < 0 or seen["highest"] > 1:
        return "the pictures of the codes are no brightnesses from 0 to 1: the table was overwritten", remedy
    if seen["different"] < thresholds.DIFFERENT_PICTURES * seen["codes"]:
        return "many codes have one and the same picture, so that coding cannot choose among them", remedy
    if seen.get("same_shape_as_file") is False or (seen.get("largest_difference_from_file") or 0.0) > 1e-6:
        return f"the table differs from {TOKENIZER_FILE} beside it: it was replaced or shuffled after training", remedy
    renamed = seen.get("right_if_renamed", 0.0) - seen.get("right", 0.0)
    usual = seen["said_for_it"] != seen["most_frequent"] and seen["share_said_for_it"] > thresholds.SATURATED_SHARE
    # One that says a single code everywhere is saturated, which distribution.shape names.
    usual = usual and seen["share_said_elsewhere"] < seen["share_said_for_it"] - thresholds.SAID_ELSEWHERE
    if (renamed > thresholds.RENAMED_BETTER or usual) and not untouched(subject):
        return (
            "the model says the right code under another number: its table of codes was shuffled, or replaced by one "
            "that was learnt anew, after training",
            remedy,
        )
    if seen.get("share_unlike_training", 0.0) > thresholds.UNLIKE_TRAINING:
        return (
            "codes that were frequent in training are hardly used here, and others are: the table of codes is not the "
            "one that it was trained with, or these clips are of another kind",
            remedy + "; or give clips like those of its training (--data)",
        )
    return None
