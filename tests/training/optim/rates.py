"""The learning rate of every step of a run, as the library's schedule gives it for our arguments."""

import torch
from transformers.optimization import get_wsd_schedule

from training.optim.schedule import scheduler_arguments
from training.settings.common import TrainingSettings


def learning_rates(settings: TrainingSettings) -> list[float]:
    """The rate of each of the `max_steps` steps, the first one first."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=settings.learning_rate)
    extra = scheduler_arguments(settings)["lr_scheduler_kwargs"]
    schedule = get_wsd_schedule(
        optimizer, num_warmup_steps=settings.num_warmup_steps, num_training_steps=settings.max_steps, **extra
    )
    rates = []
    for _ in range(settings.max_steps):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return rates
