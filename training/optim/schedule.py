"""The learning rate over a run: warm-up, constant, cosine to a floor.

The library's `warmup_stable_decay` does the work; here its arguments are made from ours.
"""

from typing import NamedTuple

from training.settings.common import TrainingSettings


class Phases(NamedTuple):
    """Steps of each phase; their sum is the run."""

    warmup: int
    constant: int
    decay: int


def phases(settings: TrainingSettings) -> Phases:
    """Split `max_steps`: warm-up first, then `constant_share` of what is left at the peak, the rest on the cosine."""
    left = settings.max_steps - settings.num_warmup_steps
    constant = round(settings.constant_share * left)
    return Phases(settings.num_warmup_steps, constant, left - constant)


def scheduler_arguments(settings: TrainingSettings) -> dict:
    """The keyword arguments for `TrainingArguments` that give this schedule."""
    split = phases(settings)
    return {
        "lr_scheduler_type": "warmup_stable_decay",
        "warmup_steps": split.warmup,
        "lr_scheduler_kwargs": {
            "num_decay_steps": split.decay,
            "decay_type": "cosine",
            "min_lr_ratio": settings.final_learning_rate / settings.learning_rate,
        },
    }
