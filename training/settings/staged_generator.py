"""What the recipes of the staged generator may hold beside what all families share. Imports no torch."""

from dataclasses import dataclass
from typing import ClassVar

from training.common.options import SHARE, Allowed, at_least, one_of, option
from training.settings.common import EvaluationSettings, OptimizerSettings

CREDIT_CONTROLS = ("none", "gradient_scaling", "random_part", "equal_rate")
CREDIT_STAGE = 2


@dataclass
class GeneratorTrainingSettings(OptimizerSettings):
    """The `training` section of a recipe of the staged generator."""

    per_device_train_batch_size: int = option(16, "blocks per process and forward pass", at_least(1))
    group_by_length: bool = option(
        False, "put blocks of like length into one batch; nearly all are full, so it gains little"
    )
    gate_rate: float = option(
        8.0,
        "learning rate of the gates that start at zero (stages 1 and 3), as a multiple of the run's: a small gate "
        "holds back all that is behind it",
        Allowed(lambda value: value > 0, "a number above 0"),
    )
    credit: str = option(
        "auto",
        "hierarchical credit assignment: off; analyse (attribute the error to the parts, and log it); scale (the "
        "most responsible part gets its full update, the others a share of theirs); adapt (to learn a new text and "
        "keep the old one: the most responsible part and, less, its siblings; in between choices the other blocks are "
        "frozen, which saves their share of the backward pass); auto: scale at stage 2, else off",
        one_of("auto", "off", "analyse", "scale", "adapt"),
    )
    credit_steps: int = option(10, "credit: choose the most responsible part every so many steps", at_least(1))
    credit_siblings: float = option(
        0.15, "credit: share of its update that a part of the same block gets (0 to 1)", SHARE
    )
    credit_rest: float = option(
        0.05, "credit: share of their update that the parts of other blocks get (0 to 1)", SHARE
    )
    credit_floor: float = option(0.05, "credit: no part gets a smaller share of its update than this (0 to 1)", SHARE)
    credit_measure: str = option(
        "relative",
        "credit: relative (a part's squared gradient against what is usual for it), or absolute (which is nearly "
        "always largest for the token table)",
        one_of("relative", "absolute"),
    )
    credit_control: str = option(
        "none",
        "credit, for comparisons: gradient_scaling (scales gradients, which Adam undoes), random_part (a part "
        "drawn by chance gets the full update), equal_rate (every part gets the mean share); none for the real "
        "thing",
        one_of(*CREDIT_CONTROLS),
    )

    def credit_mode(self, stage: int | None) -> str:
        """`credit` with `auto` resolved: off, analyse, scale or adapt."""
        if self.credit != "auto":
            return self.credit
        return "scale" if stage == CREDIT_STAGE else "off"


@dataclass
class GeneratorEvaluationSettings(EvaluationSettings):
    """The `evaluation` section of a recipe of the staged generator."""

    best_metrics: ClassVar[tuple[str, ...]] = ("perplexity", "word_perplexity", "bits_per_byte", "greedy_accuracy")
    lower_is_better: ClassVar[tuple[str, ...]] = best_metrics[:3]

    eval_steps: int = option(250, "score held-out text every so many steps, and at the end", at_least(1))
    eval_rows: int = option(64, "held-out blocks scored during training, a seeded subset", at_least(1))
    best_metric: str = option("perplexity", "decides which checkpoint is kept: " + ", ".join(best_metrics))
    sample_phrases: list[str] = option(
        [], "prompts, continued greedily and by top-k side by side at every milestone and every sample_steps"
    )
    keep: str | None = option(
        None,
        "a text that the model should not forget, such as that of its first training: its held-out part is scored "
        "beside the new one",
    )
    sample_steps: int | None = option(
        None, "also continue the prompts every so many steps; null: at milestones only", at_least(1)
    )
    score_rows: int | None = option(2000, "test documents of that score, a seeded subset; null for all", at_least(1))
