"""What the recipes of the video model may hold beside what all families share. Imports no torch."""

from dataclasses import dataclass, field
from typing import ClassVar

from training.data.settings import HELD_OUT_CLIPS
from training.settings.common import EvaluationSettings, OptimizerSettings, require


def _help(text: str) -> dict[str, str]:
    return {"help": text}


@dataclass
class VideoTrainingSettings(OptimizerSettings):
    """The `training` section of a recipe of the video model."""

    per_device_train_batch_size: int = field(default=16, metadata=_help("clips per process and forward pass"))
    learning_rate: float = field(default=3e-4, metadata=_help("peak rate; 3e-4 to 3e-3 are sensible"))
    final_learning_rate: float = field(default=1e-6, metadata=_help("floor: where warm-up starts and the cosine ends"))
    constant_share: float = field(
        default=0.0, metadata=_help("share of the steps after warm-up that stay at the peak rate (0 to 1)")
    )
    group_by_length: bool = field(
        default=False, metadata=_help("without effect: the clips of a step are equally long")
    )


@dataclass
class VideoEvaluationSettings(EvaluationSettings):
    """The `evaluation` section of a recipe of the video model."""

    best_metrics: ClassVar[tuple[str, ...]] = ("mse", "future_loss", "future_accuracy")
    lower_is_better: ClassVar[tuple[str, ...]] = best_metrics[:2]

    eval_rows: int = field(
        default=100,
        metadata=_help("held-out clips whose second half is predicted during training, a seeded subset"),
    )
    best_metric: str = field(
        default="mse", metadata=_help("decides which checkpoint is kept: " + ", ".join(best_metrics))
    )
    sample_phrases: list[str] = field(
        default_factory=lambda: ["0"],
        metadata=_help("numbers of held-out clips, whose error by predicted frame is told at every milestone"),
    )
    score_rows: int | None = field(
        default=1000, metadata=_help("test clips of that score, a seeded subset; null for all")
    )

    def validate(self) -> None:
        """See `EvaluationSettings.validate`."""
        super().validate()
        known = all(number.isdecimal() and int(number) < HELD_OUT_CLIPS for number in self.sample_phrases)
        require(self, "sample_phrases", known, f"numbers of held-out clips, from 0 to {HELD_OUT_CLIPS - 1:,}")
