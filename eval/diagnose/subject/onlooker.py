"""Looking at a Trainer's batches and losses without leaving a trace in it."""

import copy
import random
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from types import FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from accelerate.data_loader import DataLoaderStateMixin
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainingArguments

# What is never changed by a look, or restored by the doctor itself.
_LEFT_ALONE = (
    nn.Module,
    Dataset,
    PreTrainedTokenizerBase,
    TrainingArguments,
    torch.optim.Optimizer,
    FunctionType,
    MethodType,
    type,
)

Inputs = dict[str, Any]


def training_batches(trainer: Trainer, count: int) -> list[Inputs]:
    """The first batches of a pass, as the Trainer would hand them to `compute_loss`.

    Masks that a Trainer makes itself, in `get_batch_samples`, are made.
    """
    with unchanged(trainer):
        return list(islice(batches_of(trainer, count), count))


def batches_of(trainer: Trainer, at_once: int = 1) -> Iterator[Inputs]:
    """The batches of a pass, one after the other; to be used inside `unchanged`."""
    loader = trainer.get_train_dataloader()
    # Around it Accelerate keeps count of the pass at work, which is not this one.
    inner = iter(loader.base_dataloader if isinstance(loader, DataLoaderStateMixin) else loader)
    trainer.state.max_steps = trainer.state.max_steps or max(trainer.args.max_steps, 1)
    while True:
        batches, _ = trainer.get_batch_samples(inner, at_once, trainer.args.device)
        if not batches:
            return
        yield from (_moved(batch, trainer.args.device) for batch in batches)


@torch.no_grad()
def training_loss(trainer: Trainer, model: PreTrainedModel, inputs: Inputs) -> float:
    """The loss that the Trainer computes for these inputs, of the model as it stands (evaluation mode), in nats."""
    with unchanged(trainer):
        return float(trainer.compute_loss(model, dict(inputs)))


@contextmanager
def unchanged(trainer: Trainer) -> Iterator[None]:
    """Attributes of the Trainer, and of the objects it holds, are afterwards what they were before.

    Two levels deep, with copies of tensors, lists, dictionaries and generators; models, data, optimizer and arguments,
    which a look does not touch, are left alone.
    """
    holders = [trainer, *(value for value in vars(trainer).values() if _keeps_state(value))]
    kept = [(vars(holder), {name: _copied(value) for name, value in vars(holder).items()}) for holder in holders]
    try:
        yield
    finally:
        for attributes, before in kept:
            attributes.clear()
            attributes.update(before)


def _keeps_state(value: object) -> bool:
    return hasattr(value, "__dict__") and not isinstance(value, _LEFT_ALONE)


def _copied(value: Any) -> Any:
    if isinstance(value, nn.Parameter):
        return value
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, torch.Generator):
        return value.clone_state()
    if isinstance(value, np.random.Generator | random.Random):
        return copy.deepcopy(value)
    if type(value) is dict:
        return {key: _copied(entry) if isinstance(entry, Tensor) else entry for key, entry in value.items()}
    if type(value) in (list, set):
        return value.copy()
    return value


def _moved(batch: Any, device: torch.device) -> Inputs:
    return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}
