"""A cell of the video comparison: train an arm, predict the second half of held-out clips at its end.

Unlike a run of `training/train.py` it writes no checkpoints and chooses no best one: what is compared is the model
after a number of steps.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from eval.benchmarks.bare_trainer import bare_trainer
from eval.benchmarks.comparison import parse_run
from eval.benchmarks.exam import Examiner
from eval.scorers.video import VideoScores, score_clips
from training.data.video_jepa.prepared import PreparedClips
from training.families import load_family
from training.families.video_held_out import future_figures
from training.trainer.build import build_config, build_model, prepare_data
from training.trainer.trainer import full_precision


@dataclass(frozen=True)
class Exam:
    """What is scored when.

    Attributes:
        marks: one step, the length of the run, after which `split` is scored.
        split: `valid` or `test`.
        max_rows: clips of it, a seeded subset; None for all.
        eval_steps, eval_rows: how often, and on how many clips, the curve on `valid` is measured.
    """

    marks: tuple[int, ...]
    split: str = "valid"
    max_rows: int | None = 300
    eval_steps: int = 100
    eval_rows: int = 50


def train_and_mark(settings: dict[str, Any], seed: int, folder: Path) -> dict[str, Any]:
    """Train and score one arm.

    `settings`: `recipe`, `overrides` (key -> value), `exam` (fields of `Exam`).

    Returns:
        `metrics` and `baselines` as `score_clips` gives them, `examples` (`mse` by expectation and `ssim` by argmax of
        each clip, see `tables.difference`), `curve` (valid; CPU seconds of training), `training_cpu_seconds`,
        `training_peak_memory_bytes`, `num_parameters`, `num_examples`.
    """
    exam = Exam(**{**settings["exam"], "marks": tuple(settings["exam"]["marks"])})
    run = parse_run(settings["recipe"], settings["overrides"], seed, exam.marks[-1], folder / "run")
    family = load_family(run.family)
    prepared: PreparedClips = prepare_data(run, family)
    model = build_model(run, family, build_config(run, family, prepared.tokenizer), prepared)
    watch = Examiner(exam.marks, exam.eval_steps, partial(_score, exam, prepared), partial(_look, exam, prepared))
    bare_trainer(run, family, prepared, model, watch).train()
    scores: VideoScores = watch.scores[exam.marks[-1]]
    return {
        "metrics": scores.metrics,
        "baselines": scores.baselines,
        "examples": clip_examples(scores),
        "num_examples": scores.num_examples,
        "curve": watch.curve,
        "training_cpu_seconds": watch.cpu_seconds,
        "training_peak_memory_bytes": watch.peak_memory_bytes,
        "num_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
    }


def clip_examples(scores: VideoScores) -> dict[str, list]:
    """Per clip: `ids`, and the means over its predicted frames of `mse` and `ssim`, for pairing."""
    mse, ssim = scores.errors["expectation"].squared_error, scores.errors["argmax"].ssim
    return {"ids": list(range(len(mse))), "mse": mse.mean(1).tolist(), "ssim": ssim.mean(1).tolist()}


def _score(exam: Exam, prepared: PreparedClips, model: PreTrainedModel) -> VideoScores:
    with full_precision(model):
        return score_clips(model, getattr(prepared, exam.split), prepared.mean_picture, max_rows=exam.max_rows)


def _look(exam: Exam, prepared: PreparedClips, model: PreTrainedModel) -> dict[str, float]:
    """A point of the curve on valid."""
    with full_precision(model):
        found = future_figures(model, prepared.tokenizer, prepared.valid, prepared.mean_picture, exam.eval_rows)
    return {name: found[name] for name in ("future_loss", "future_accuracy", "mse")}
