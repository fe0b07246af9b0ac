"""What the recipes of the staged generator may hold beside what all families share. Imports no torch."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from training.settings.common import OPTIMIZERS, EvaluationSettings, TrainingSettings, require

CREDIT_MODES = ("auto", "off", "analyse", "scale")
CREDIT_MEASURES = ("relative", "absolute")
CREDIT_CONTROLS = ("none", "gradient_scaling", "random_part", "equal_rate")
CREDIT_STAGE = 2


def _help(text: str) -> dict[str, str]:
    return {"help": text}


@dataclass
class GeneratorTrainingSettings(TrainingSettings):
    """The `training` section of a recipe of the staged generator."""

    per_device_train_batch_size: int = field(default=16, metadata=_help("blocks per process and forward pass"))
    weight_decay: float = field(
        default=0.1, metadata=_help("decoupled decay of matrices and tables (not of norms and biases)")
    )
    adam_beta2: float = field(default=0.95, metadata=_help("AdamW's second momentum"))
    group_by_length: bool = field(
        default=False,
        metadata=_help("put blocks of like length into one batch; nearly all are full, so it gains little"),
    )
    optimizer: str = field(
        default="adamw",
        metadata=_help("adamw, or muon: Muon for the matrices of the trunk, AdamW for tables, norms and the rest"),
    )
    muon_momentum: float = field(default=0.95, metadata=_help("Muon's Nesterov momentum"))
    gate_rate: float = field(
        default=8.0,
        metadata=_help(
            "learning rate of the gates that start at zero (stages 1 and 3), as a multiple of the run's: a small gate "
            "holds back all that is behind it"
        ),
    )
    credit: str = field(
        default="auto",
        metadata=_help(
            "hierarchical credit assignment: off; analyse (attribute the error to the parts, and log it); scale (the "
            "most responsible part gets its full update, the others a share of theirs); auto: scale at stage 2, else "
            "off"
        ),
    )
    credit_steps: int = field(
        default=10, metadata=_help("credit: choose the most responsible part every so many steps")
    )
    credit_siblings: float = field(
        default=0.15, metadata=_help("credit: share of its update that a part of the same block gets (0 to 1)")
    )
    credit_rest: float = field(
        default=0.05, metadata=_help("credit: share of their update that the parts of other blocks get (0 to 1)")
    )
    credit_floor: float = field(
        default=0.05, metadata=_help("credit: no part gets a smaller share of its update than this (0 to 1)")
    )
    credit_measure: str = field(
        default="relative",
        metadata=_help(
            "credit: relative (a part's squared gradient against what is usual for it), or absolute (which is nearly "
            "always largest for the token table)"
        ),
    )
    credit_control: str = field(
        default="none",
        metadata=_help(
            "credit, for comparisons: gradient_scaling (scales gradients, which Adam undoes), random_part (a part "
            "drawn by chance gets the full update), equal_rate (every part gets the mean share); none for the real "
            "thing"
        ),
    )

    def validate(self) -> None:
        """See `TrainingSettings.validate`."""
        super().validate()
        choices = {"optimizer": OPTIMIZERS, "credit": CREDIT_MODES}
        choices |= {"credit_measure": CREDIT_MEASURES, "credit_control": CREDIT_CONTROLS}
        for name, allowed in choices.items():
            require(self, name, getattr(self, name) in allowed, "one of " + ", ".join(allowed))
        require(self, "muon_momentum", 0 <= self.muon_momentum < 1, "at least 0 and below 1")
        require(self, "gate_rate", self.gate_rate > 0, "above 0")
        require(self, "credit_steps", self.credit_steps >= 1, "at least 1")
        for name in ("credit_siblings", "credit_rest", "credit_floor"):
            require(self, name, 0 <= getattr(self, name) <= 1, "from 0 to 1")


@dataclass
class GeneratorEvaluationSettings(EvaluationSettings):
    """The `evaluation` section of a recipe of the staged generator."""

    best_metrics: ClassVar[tuple[str, ...]] = ("perplexity", "word_perplexity", "bits_per_byte", "greedy_accuracy")
    lower_is_better: ClassVar[tuple[str, ...]] = best_metrics[:3]

    eval_steps: int = field(default=250, metadata=_help("score held-out text every so many steps, and at the end"))
    eval_rows: int = field(default=64, metadata=_help("held-out blocks scored during training, a seeded subset"))
    best_metric: str = field(
        default="perplexity", metadata=_help("decides which checkpoint is kept: " + ", ".join(best_metrics))
    )
    sample_phrases: list[str] = field(
        default_factory=list,
        metadata=_help(
            "prompts, continued greedily and by top-k side by side at every milestone and every sample_steps"
        ),
    )
    sample_steps: int | None = field(
        default=None, metadata=_help("also continue the prompts every so many steps; null: at milestones only")
    )
    score_rows: int | None = field(
        default=2000, metadata=_help("test documents of that score, a seeded subset; null for all")
    )

    def validate(self) -> None:
        """See `EvaluationSettings.validate`."""
        super().validate()
        require(self, "sample_steps", self.sample_steps is None or self.sample_steps >= 1, "at least 1, or null")


def credit_mode(settings: Any, stage: int | None) -> str:
    """`credit` with `auto` resolved: off, analyse or scale. Families without it have it off."""
    if not isinstance(settings, GeneratorTrainingSettings):
        return "off"
    if settings.credit != "auto":
        return settings.credit
    return "scale" if stage == CREDIT_STAGE else "off"
