"""What the recipes of the video model may hold beside what all families share. Imports no torch."""

from dataclasses import dataclass
from typing import ClassVar

from training.common.options import SHARE, Allowed, at_least, option
from training.data.settings import HELD_OUT_CLIPS
from training.settings.common import RATE, EvaluationSettings, OptimizerSettings


@dataclass
class VideoTrainingSettings(OptimizerSettings):
    """The `training` section of a recipe of the video model."""

    per_device_train_batch_size: int = option(16, "clips per process and forward pass", at_least(1))
    learning_rate: float = option(3e-4, "peak rate; 3e-4 to 3e-3 are sensible", RATE)
    final_learning_rate: float = option(1e-6, "floor: where warm-up starts and the cosine ends")
    constant_share: float = option(0.0, "share of the steps after warm-up that stay at the peak rate (0 to 1)", SHARE)
    group_by_length: bool = option(False, "without effect: the clips of a step are equally long")


@dataclass
class VideoEvaluationSettings(EvaluationSettings):
    """The `evaluation` section of a recipe of the video model."""

    best_metrics: ClassVar[tuple[str, ...]] = ("mse", "future_loss", "future_accuracy")
    lower_is_better: ClassVar[tuple[str, ...]] = best_metrics[:2]

    eval_rows: int = option(
        100, "held-out clips whose second half is predicted during training, a seeded subset", at_least(1)
    )
    best_metric: str = option("mse", "decides which checkpoint is kept: " + ", ".join(best_metrics))
    sample_phrases: list[str] = option(
        ["0"],
        "numbers of held-out clips, whose error by predicted frame is told at every milestone",
        Allowed(
            lambda numbers: all(number.isdecimal() and int(number) < HELD_OUT_CLIPS for number in numbers),
            f"numbers of held-out clips, from 0 to {HELD_OUT_CLIPS - 1:,}",
        ),
    )
    score_rows: int | None = option(1000, "test clips of that score, a seeded subset; null for all", at_least(1))
