"""The learning rate over a run: warm-up, constant, cosine to a floor.

The library's `warmup_stable_decay` does the work; here its arguments are made from ours.
"""

import math
from dataclasses import replace
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


def rate_at(settings: TrainingSettings, step: int) -> float:
    """The learning rate of a step."""
    split, peak, floor = phases(settings), settings.learning_rate, settings.final_learning_rate
    if step < split.warmup:
        return floor + (peak - floor) * step / split.warmup
    done = (step - split.warmup - split.constant) / max(split.decay, 1)
    return floor + (peak - floor) * (1 + math.cos(math.pi * min(max(done, 0.0), 1.0))) / 2


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


def extension_note(settings: TrainingSettings, earlier_steps: int, step: int) -> str | None:
    """What becomes of the learning rate of a run that goes on to more steps than it had; None where it has no more."""
    if settings.max_steps <= earlier_steps:
        return None
    before, now = rate_at(replace(settings, max_steps=earlier_steps), step), rate_at(settings, step)
    return (
        f"max_steps is {settings.max_steps:,} and was {earlier_steps:,}: the learning rate of step {step:,} is "
        f"{now:.3g}, and was {before:.3g}, as its schedule is spread over all steps"
    )
