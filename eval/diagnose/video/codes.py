"""The data of a video model (X9): what is left of frames when they are coded, which digits, and what the loss counts.

Tokens are drawn as frames: `subject.figures["frames"]` holds a PNG for the HTML page.
"""

import base64
import io
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from eval.diagnose import thresholds as limits
from eval.diagnose.checks.check import check
from eval.diagnose.report.report import FAIL, NOTE, Finding, Rule
from eval.diagnose.subject.onlooker import training_batches
from eval.diagnose.subject.subject import IGNORED
from eval.diagnose.video.subject import VIDEO, VideoSubject

CLIPS_DRAWN, LARGEST_PICTURE = 2, 1200
_GAP, _GROUND = 2, 90  # pixels, and their brightness


@check(
    "data.codes",
    f"a reconstruction error under {limits.CODING_LOSES:.0%} of that of black, half of the codes in use, and "
    f"{limits.UNCHANGED:.0%} of them unchanged by decoding and coding again",
    kinds=(VIDEO,),
)
@torch.no_grad()
def codes(subject: VideoSubject, rule: Rule) -> Finding:
    """Reconstruction error, use and steadiness of the codes, by coding held-out frames and decoding them."""
    table, frames = subject.model.model.codes, subject.sample.frames.to(subject.device)
    known = subject.sample.codes.to(subject.device)
    again = table.decode(known)
    evidence = {
        "reconstruction_mse": _error(again, frames),
        "mse_of_black": _error(torch.zeros_like(frames), frames),
        "codes_used": len(known.unique()) / subject.vocab_size,
        "most_frequent_code": float(known.flatten().bincount().max() / known.numel()),
        "unchanged": float((table.encode(again.clamp(0, 1)) == known).double().mean()),
        "frames": frames.shape[0] * frames.shape[1],
    }
    lost = evidence["reconstruction_mse"] / max(evidence["mse_of_black"], 1e-9)
    remedy = "learn the codes anew from clips like these (more code_levels, smaller code_size), and train again"
    if lost > limits.CODING_LOSES_ALL or evidence["unchanged"] < limits.UNCHANGED:
        cause = "the codes do not hold what the frames show: a table of other clips, overwritten, or never learnt"
        return rule.failed(evidence, cause, remedy)
    if lost > limits.CODING_LOSES or evidence["codes_used"] < 0.5:
        cause = "the codes are coarse, or many of them are never used: what they lose no model can predict"
        return rule.noted(evidence, cause, remedy)
    return rule.passed(evidence)


@check(
    "data.overlap",
    f"under {limits.OVERLAP_NOTE:.0%} of the held-out digits, or clips, are those of training",
    kinds=(VIDEO,),
)
def overlap(subject: VideoSubject, rule: Rule) -> Finding | list[Finding]:
    """Held-out digits, or clips, among those of training."""
    makers = subject.sample.makers
    if not makers:
        return []
    parts = {split: {picture.tobytes() for picture in maker.pictures} for split, maker in makers.items()}
    shares = {split: len(parts[split] & parts["train"]) / len(parts[split]) for split in ("valid", "test")}
    what = "digits" if makers["train"].count is None else "clips"
    evidence: dict[str, Any] = {f"{what}_{split}": len(found) for split, found in parts.items()}
    evidence |= {f"{split}_in_training": share for split, share in shares.items()}
    if max(shares.values()) < limits.OVERLAP_NOTE:
        return rule.passed(evidence)
    verdict = FAIL if max(shares.values()) >= limits.OVERLAP_FAIL else NOTE
    cause = f"held-out {what} are {what} of training too: their score tells what was learnt by heart"
    return rule.found(verdict, evidence, cause, f"split the {what} before anything is made of them")


@check("data.visible_positions", "no label stands where the model sees the code", kinds=(VIDEO,), needs="trainer")
def visible_positions(subject: VideoSubject, rule: Rule) -> Finding | list[Finding]:
    """The share of the labels, in the Trainer's own batches, that stand where nothing is hidden."""
    assert subject.trainer is not None
    labelled = visible = 0
    for batch in training_batches(subject.trainer, limits.BATCHES_TO_LOOK_AT):
        if "labels" in batch:
            counted = batch["labels"] != IGNORED
            shown = ~batch["hidden"] if batch.get("hidden") is not None else torch.zeros_like(counted)
            labelled, visible = labelled + int(counted.sum()), visible + int((counted & shown).sum())
    share = visible / labelled if labelled else 0.0
    evidence = {"labels": labelled, "visible": visible, "visible_share": share}
    if not visible:
        return rule.passed(evidence)
    return rule.found(
        FAIL if share >= limits.VISIBLE_CODES else NOTE,
        evidence,
        f"{share:.0%} of what the loss counts is visible to the model: copying is enough for it, and the loss looks "
        "better than the model is",
        "set labels to -100 wherever hidden is False",
    )


@check("data.drawn", "clips can be drawn", kinds=(VIDEO,))
@torch.no_grad()
def drawn(subject: VideoSubject, rule: Rule) -> list[Finding]:
    """Frames, what is left of them as codes, and what the model predicts, as one picture for the page; no finding."""
    clips = subject.sample.frames[:CLIPS_DRAWN].to(subject.device)
    coded = subject.model.model.codes.decode(subject.sample.codes[:CLIPS_DRAWN].to(subject.device))
    known = clips.shape[1] - clips.shape[1] // 2
    said = subject.model.predict_frames(clips[:, :known], clips.shape[1] - known, mode="expectation")
    predicted = torch.cat([coded[:, :known], said], 1)
    rows = [sheet for triple in zip(clips, coded, predicted, strict=True) for sheet in triple]
    subject.figures["frames"] = {
        "png": base64.b64encode(_png(rows)).decode("ascii"),
        "rows": ["frames", "as codes", f"predicted from frame {known + 1} on"],
        "clips": len(clips),
    }
    return []


def _error(guess: Tensor, frames: Tensor) -> float:
    """Squared error summed over a frame, mean over the frames."""
    return float((guess - frames).square().sum((-1, -2, -3)).mean())


def _png(rows: list[Tensor]) -> bytes:
    """Rows of frames `(T, 1, S, S)` from 0 to 1 as one grey picture."""
    lines = [np.concatenate([_framed(frame[0]) for frame in row.nan_to_num()], axis=1) for row in rows]
    sheet = Image.fromarray(np.concatenate(lines, axis=0))
    if sheet.width > LARGEST_PICTURE:
        sheet = sheet.resize((LARGEST_PICTURE, sheet.height * LARGEST_PICTURE // sheet.width))
    content = io.BytesIO()
    sheet.save(content, "PNG", optimize=True)
    return content.getvalue()


def _framed(picture: Tensor) -> np.ndarray:
    grey = (picture.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
    return np.pad(grey, _GAP, constant_values=_GROUND)
