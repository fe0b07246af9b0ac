"""What a video model predicts (X5): untrained, flat, saturated, one code only, copies of the last frame, healthy."""

import torch
from torch import Tensor

from eval.diagnose import thresholds as limit
from eval.diagnose.checks.distribution import RIGHT, calibration, evidence_of, keep_series, name_of
from eval.diagnose.probes.anatomy import untouched
from eval.diagnose.probes.predictions import look_at_predictions
from eval.diagnose.report.report import FAIL, NOTE, Finding, passed
from eval.diagnose.video.subject import VideoSubject
from eval.metrics.frame_baselines import frame_baselines
from eval.metrics.video import squared_error

CLIPS = 8


def shape(subject: VideoSubject) -> list[Finding]:
    """One finding named after what the predictions are like, and one of their calibration."""
    seen = look_at_predictions(subject)
    if seen is None:
        finite = {"finite": False}
        return [Finding("distribution.shape", NOTE, finite, "logits that are numbers", *_SAID["not_numbers"])]
    keep_series(subject, seen)
    name, evidence = name_of(seen, untouched(subject)), evidence_of(seen)
    if name == "healthy":
        return [passed("distribution.healthy", evidence, RIGHT), calibration(seen)]
    if name == "too_few":
        return [Finding("distribution.shape", NOTE, evidence, RIGHT, *_SAID[name])]
    steps = None if subject.record is None else subject.record.steps
    if name in ("unigram_only", "flat") and steps is not None and steps < limit.YOUNG_STEPS:
        young = Finding(f"distribution.{name}", NOTE, {**evidence, "steps": steps}, RIGHT, *_SAID["young"])
        return [young, calibration(seen)]
    return [Finding(f"distribution.{name}", FAIL, evidence, RIGHT, *_SAID[name]), calibration(seen)]


@torch.no_grad()
def copies_last(subject: VideoSubject) -> Finding | list[Finding]:
    """Whether the first predicted frame is the last one seen, where the digits have moved on."""
    if subject.sample.objective != "future":
        return []
    name = "distribution.copies_last"
    batch = subject.asked(CLIPS, subject.context, "future")
    known = batch.codes.shape[1] - batch.codes.shape[1] // 2
    best = torch.cat([subject.logits(clip)[:, known].argmax(-1) for clip in batch.split(1)])
    last, true = batch.codes[:, known - 1], batch.codes[:, known]
    common = int(batch.codes.flatten().bincount().argmax())
    moved = (last != true) & (last != common)
    shown = (last != true) & (true != common)
    evidence = {
        "places": int(moved.sum()),
        "copied": _mean((best == last)[moved]),
        "right": _mean((best == true)[shown]),
    }
    threshold = f"where digits moved on, fewer than {limit.COPIED_LAST:.0%} of the codes are those of the last frame"
    if evidence["places"] < limit.FEWEST_POSITIONS or evidence["copied"] < limit.COPIED_LAST:
        return passed(name, evidence, threshold)
    return Finding(
        name,
        FAIL,
        evidence,
        threshold,
        "the model repeats the last frame that it saw: it was trained on frames that do not move, its labels are "
        "those of a frame before, or what it should predict stands in its input",
        "look at clips and labels of a training batch as pictures: labels[t] must be the codes of frame t, and frames "
        "must differ",
    )


@torch.no_grad()
def frames(subject: VideoSubject) -> Finding | list[Finding]:
    """The squared error of predicted frames, beside guessers that know nothing of motion."""
    if subject.sample.objective != "future":
        return []
    name = "distribution.frames"
    clips = subject.sample.frames[:CLIPS].to(subject.device)
    known = clips.shape[1] - clips.shape[1] // 2
    seen, true = clips[:, :known], clips[:, known:]
    mean = None if "train" not in subject.sample.makers else _mean_picture(subject)
    said = torch.cat([subject.model.predict_frames(clip, true.shape[1], mode="expectation") for clip in seen.split(1)])
    errors = {"model": float(squared_error(said, true).mean())}
    for guesser, guess in frame_baselines(mean).items():
        errors[guesser] = float(squared_error(guess(seen, true.shape[1]), true).mean())
    threshold = "a squared error of the predicted frames below that of black, of copying and of the mean frame"
    evidence = {f"mse_{key}": value for key, value in errors.items()} | {"clips": len(clips)}
    blind = {key: value for key, value in errors.items() if key not in ("model", "constant_velocity")}
    best = min(blind, key=lambda key: blind[key])
    if not torch.isfinite(said).all() or errors["model"] < blind[best] or untouched(subject):
        return passed(name, evidence, threshold) if torch.isfinite(said).all() else []
    return Finding(
        name,
        NOTE,
        evidence,
        threshold,
        f"{best.replace('_', ' ')}, which looks at no motion, has a smaller squared error than the model: it was "
        "trained for a few hundred steps only, or on other clips than these",
        "train on while the held-out loss falls; see distribution.shape, parity.code_table and data.codes",
    )


def _mean_picture(subject: VideoSubject) -> Tensor:
    return subject.sample.makers["train"].frames(range(64)).mean((0, 1, 2))


def _mean(values: Tensor) -> float | None:
    return float(values.double().mean()) if values.numel() else None


_SAID: dict[str, tuple[str, str]] = {
    "not_numbers": (
        "some logits are NaN or infinite, so nothing can be said of the predictions",
        "see gradient.non_finite, which says where they begin",
    ),
    "untrained": (
        "untrained: the weights are those that a model begins with, and the predictions know nothing of the clips",
        "train it; if it was trained, the wrong folder was saved or opened, or the learning rate was 0",
    ),
    "flat": (
        "the predictions do not hang on what the model is shown, and are not even as good as how frequent codes are: "
        "the output weights shrank or exploded, its codes are others than in training (see parity.code_table), or it "
        "was hardly trained",
        "look at parity.code_table, at the loss of the run and at the norm of the output weights",
    ),
    "saturated": (
        "nearly all the mass lies on a code that is mostly wrong: output weights or a bias exploded, or the codes are "
        "others than in training",
        "look at parity.code_table, and at the largest output weights and biases; lower the learning rate",
    ),
    "unigram_only": (
        "the model knows how frequent codes are (black nearly everywhere) and nothing else: what it is shown does not "
        "reach its prediction, or it was not trained for long",
        "train on if the loss is still falling; else look at gradient.flow and collapse.predictions",
    ),
    "young": (
        "the model knows at most how frequent codes are, as every model does in its first hundreds of steps",
        "train on",
    ),
    "too_few": ("too few predicted codes to tell", "give more or longer clips"),
}
