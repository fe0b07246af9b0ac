"""What a video model predicts (X5): untrained, flat, saturated, one code only, copies of the last frame, healthy."""

import torch
from torch import Tensor

from eval.diagnose import thresholds as limit
from eval.diagnose.checks.check import check
from eval.diagnose.checks.distribution import RIGHT, Said, judge_shape
from eval.diagnose.probes.anatomy import untouched
from eval.diagnose.report.report import Finding, Rule
from eval.diagnose.video.subject import VIDEO, VideoSubject
from eval.metrics.frame_baselines import frame_baselines
from eval.metrics.video import squared_error

CLIPS = 8


@check("distribution.shape", RIGHT, kinds=(VIDEO,))
def shape(subject: VideoSubject, rule: Rule) -> list[Finding]:
    """One finding named after what the predictions are like, and one of their calibration."""
    return judge_shape(subject, rule, _SAID, early=("unigram_only", "flat", "worse_than_guessing"))


@check(
    "distribution.copies_last",
    f"where digits moved on, fewer than {limit.COPIED_LAST:.0%} of the codes are those of the last frame",
    kinds=(VIDEO,),
    needs="future",
)
@torch.no_grad()
def copies_last(subject: VideoSubject, rule: Rule) -> Finding:
    """Whether the first predicted frame is the last one seen, where the digits have moved on."""
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
    if evidence["places"] < limit.FEWEST_POSITIONS or evidence["copied"] < limit.COPIED_LAST:
        return rule.passed(evidence)
    return rule.failed(
        evidence,
        "the model repeats the last frame that it saw: it was trained on frames that do not move, its labels are "
        "those of a frame before, or what it should predict stands in its input",
        "look at clips and labels of a training batch as pictures: labels[t] must be the codes of frame t, and frames "
        "must differ",
    )


@check(
    "distribution.frames",
    "a squared error of the predicted frames below that of black, of copying and of the mean frame",
    kinds=(VIDEO,),
    needs="future",
)
@torch.no_grad()
def frames(subject: VideoSubject, rule: Rule) -> Finding | list[Finding]:
    """The squared error of predicted frames, beside guessers that know nothing of motion."""
    clips = subject.sample.frames[:CLIPS].to(subject.device)
    known = clips.shape[1] - clips.shape[1] // 2
    seen, true = clips[:, :known], clips[:, known:]
    mean = None if "train" not in subject.sample.makers else _mean_picture(subject)
    said = torch.cat([subject.model.predict_frames(clip, true.shape[1], mode="expectation") for clip in seen.split(1)])
    errors = {"model": float(squared_error(said, true).mean())}
    for guesser, guess in frame_baselines(mean).items():
        errors[guesser] = float(squared_error(guess(seen, true.shape[1]), true).mean())
    evidence = {f"mse_{key}": value for key, value in errors.items()} | {"clips": len(clips)}
    blind = {key: value for key, value in errors.items() if key not in ("model", "constant_velocity")}
    best = min(blind, key=lambda key: blind[key])
    if not torch.isfinite(said).all() or errors["model"] < blind[best] or untouched(subject):
        return rule.passed(evidence) if torch.isfinite(said).all() else []
    return rule.noted(
        evidence,
        f"{best.replace('_', ' ')}, which looks at no motion, has a smaller squared error than the model: it was "
        "trained for a few hundred steps only, or on other clips than these",
        "train on while the held-out loss falls; see distribution.shape, parity.code_table and data.codes",
    )


def _mean_picture(subject: VideoSubject) -> Tensor:
    return subject.sample.makers["train"].frames(range(64)).mean((0, 1, 2))


def _mean(values: Tensor) -> float | None:
    return float(values.double().mean()) if values.numel() else None


_SAID: Said = {
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
    "worse_than_guessing": (
        "the model reads what it is shown and is still worse than a guess by how frequent codes are: its codes or its "
        "weights are not as they were in training",
        "look at parity.code_table and at the loss of the run; open an earlier checkpoint",
    ),
    "young": (
        "the model knows at most how frequent codes are, as every model does in its first hundreds of steps",
        "train on",
    ),
    "too_few": ("too few predicted codes to tell", "give more or longer clips"),
}
