"""What the recipes of a classifier may hold beside what all families share. Imports no torch."""

from dataclasses import dataclass
from typing import ClassVar

from training.common.options import SHARE, at_least, option
from training.settings.common import RATE, EvaluationSettings, TrainingSettings


@dataclass
class ClassifierTrainingSettings(TrainingSettings):
    """The `training` section of a recipe of a classifier."""

    max_steps: int = option(1000, "optimizer steps of the whole run", at_least(1))
    learning_rate: float = option(5e-4, "peak rate; 1e-4 to 1e-3 are sensible for fine-tuning", RATE)
    final_learning_rate: float = option(1e-6, "floor: where warm-up starts and the cosine ends")
    constant_share: float = option(0.0, "share of the steps after warm-up that stay at the peak rate (0 to 1)", SHARE)


@dataclass
class ClassifierEvaluationSettings(EvaluationSettings):
    """The `evaluation` section of a recipe of a classifier."""

    # `quality` is the macro F1 of classes, and the correlation of numbers.
    best_metrics: ClassVar[tuple[str, ...]] = ("quality", "accuracy")

    eval_rows: int = option(2000, "held-out rows scored during training, a seeded subset", at_least(1))
    best_metric: str = option("quality", "decides which checkpoint is kept: " + ", ".join(best_metrics))
    sample_phrases: list[str] = option([], "texts whose class is told at every milestone")
    score_rows: int | None = option(None, "test rows of that score, a seeded subset; null for all", at_least(1))
