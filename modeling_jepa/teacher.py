"""The moving-average target network that JEPA objectives predict."""

from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback
from transformers.utils import logging

logger = logging.get_logger(__name__)

# Training steps after which a teacher that nobody updated is spoken of.
STEPS_BEFORE_A_WARNING = 10


class MovingAverageTeacher(nn.Module):
    """A module of its own whose weights follow a student's: w <- m w + (1 - m) student (Grill et al., 2020,
    arXiv:2006.07733). It gets no gradient, never trains and has no dropout. What is frozen in the
    student stays as it is here: beside adapters (`peft`), all of it.

    Args:
        target: a module built from the config, with the parameter names of the student. Never a deep copy, whose
            weights would be initialised again.
        momentum: m, from 0 to below 1.
    """

    num_updates: torch.Tensor

    def __init__(self, target: nn.Module, momentum: float) -> None:
        super().__init__()
        self.target = target
        self.momentum = momentum
        # 0 means: nothing averaged yet, the teacher is the student. Saved, so that a resumed run goes on averaging.
        self.register_buffer("num_updates", torch.zeros((), dtype=torch.int64))
        self._names = tuple(name for name, _ in target.named_parameters())  # as they are without adapters
        self._was_learnt_from = False
        self._version = 0
        self.steps_without_update = 0  # that the student made; see `stands_still`
        self.freeze()

    def freeze(self) -> None:
        """Take the gradient away again: loading a checkpoint gives it back to every parameter."""
        self.requires_grad_(False)

    def train(self, mode: bool = True) -> "MovingAverageTeacher":
        """Stays in evaluation mode: a target with dropout would be noise."""
        return super().train(False)

    @torch.no_grad()
    def follow_until_updated(self, student: nn.Module) -> None:
        """Be the student as long as nothing has been averaged; call before the teacher is asked."""
        if torch.compiler.is_compiling():  # no branch on a tensor
            self._blend(student, (self.num_updates > 0).float())
            return
        self._notice_steps(student)
        if self.num_updates == 0:
            self._blend(student, 0.0)

    def weight(self, student: nn.Module, name: str) -> torch.Tensor:
        """The target's weight `name`, or the student's as long as nothing has been averaged. Can be exported."""
        if torch.compiler.is_compiling():
            return torch.where(self.num_updates > 0, _weight_of(self.target, name), _weight_of(student, name).detach())
        self.follow_until_updated(student)
        return _weight_of(self.target, name)

    @torch.no_grad()
    def update(self, student: nn.Module) -> None:
        """One step of the average, after the student's optimiser step; the first one copies the student."""
        if self.num_updates > 0:
            self._blend(student, self.momentum, only_learning=True)
        else:
            self._blend(student, 0.0)
        self.num_updates += 1
        self.steps_without_update = 0

    @property
    def stands_still(self) -> bool:
        """Whether the student has learnt for `STEPS_BEFORE_A_WARNING` steps since the last update, or for more."""
        return self.steps_without_update >= STEPS_BEFORE_A_WARNING

    def watch(self, loss: torch.Tensor) -> None:
        """Notice when `loss` is learnt from: see `stands_still`."""
        if loss.requires_grad and not torch.compiler.is_compiling():
            loss.register_hook(self._note_backward)

    def _note_backward(self, gradient: torch.Tensor) -> None:
        self._was_learnt_from = True

    def _notice_steps(self, student: nn.Module) -> None:
        """Count the optimiser steps since the last update, and warn once of a training that makes none."""
        learning = next((parameter for parameter in student.parameters() if parameter.requires_grad), None)
        if learning is None or not self._was_learnt_from:
            return
        # A step ends in taking gradients away; an optimiser that is not fused changes its parameters' versions.
        if learning.grad is None or self._version != learning._version:
            self._was_learnt_from = False
            self.steps_without_update += 1
        self._version = learning._version
        if self.stands_still:
            logger.warning_once(
                f"The model has learnt for {STEPS_BEFORE_A_WARNING} steps while its moving-average teacher stood "
                "still. Give the Trainer callbacks=[TeacherCallback()] (from modeling_jepa.teacher), or call "
                "model.update_teacher() after each optimizer.step()."
            )

    def _blend(self, student: nn.Module, momentum: float | torch.Tensor, only_learning: bool = False) -> None:
        for name in self._names:
            own, weight = _weight_of(self.target, name), _weight_of(student, name)
            if not isinstance(own, nn.Parameter):
                raise ValueError(
                    f"trainable_token_indices adapts the teacher's {name}, which follows no gradient: give a list of "
                    "ids, or name the student's table in full (model.get_input_embeddings())."
                )
            if weight.requires_grad or not only_learning:
                own.data.lerp_(weight.detach().to(own.dtype), 1.0 - momentum)


def _weight_of(module: nn.Module, name: str) -> torch.Tensor:
    """The weight `name` as it is used: of a layer in a wrapper of `peft`, that of its active adapter."""
    path, _, leaf = name.rpartition(".")
    with torch.enable_grad():  # what a wrapper puts together says here whether it learns
        return getattr(module.get_submodule(path), leaf)


class TeacherCallback(TrainerCallback):
    """For `transformers.Trainer`: the teacher follows after each optimiser step. Nothing without a teacher.

    Example:
        >>> from transformers import Trainer
        >>> Trainer(model, callbacks=[TeacherCallback()])  # doctest: +SKIP
    """

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Called by the Trainer."""
        model.update_teacher()


class TaughtMixin:
    """For models with a teacher, or None, in `self.teacher`: what training asks of them. Before `PreTrainedModel`."""

    teacher: MovingAverageTeacher | None

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """As the library's; the teacher is frozen again, since loading gives every parameter a gradient."""
        loaded = super().from_pretrained(*args, **kwargs)  # type: ignore[misc] # of the library's class
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        model.freeze_teacher()
        return loaded

    @property
    def has_teacher(self) -> bool:
        """Whether a moving average follows the student."""
        return self.teacher is not None

    def update_teacher(self) -> None:
        """One step of the moving average; after each optimiser step. Nothing without a teacher."""
        if self.teacher is not None:
            self.teacher.update(self._student())

    def freeze_teacher(self) -> None:
        """Take the teacher out of what an optimiser may be given."""
        if self.teacher is not None:
            self.teacher.freeze()

    def _student(self) -> nn.Module:
        """The module whose parameters the teacher follows."""
        raise NotImplementedError  # abstract: every family with a teacher names its own student
