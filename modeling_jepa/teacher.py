"""The moving-average target network that JEPA objectives predict."""

from typing import Any

import torch
from torch import nn


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
        if self.num_updates == 0:
            self._blend(student, 0.0)

    @torch.no_grad()
    def update(self, student: nn.Module) -> None:
        """One step of the average, after the student's optimiser step; the first one copies the student."""
        if self.num_updates > 0:
            self._blend(student, self.momentum, only_learning=True)
        else:
            self._blend(student, 0.0)
        self.num_updates += 1

    def _blend(self, student: nn.Module, momentum: float, only_learning: bool = False) -> None:
        weights = _own_parameters(student)
        for name, own in _own_parameters(self.target).items():
            if weights[name].requires_grad or not only_learning:
                own.lerp_(weights[name].to(own.dtype), 1.0 - momentum)


def _own_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """A module's parameters by the names that they have without adapters, and none of the adapters' own.

    `peft` moves `x.weight` to `x.base_layer.weight` and puts `x.lora_A...` beside it.
    """
    return {
        name.replace(".base_layer.", "."): parameter
        for name, parameter in module.named_parameters()
        if ".lora_" not in name
    }


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
