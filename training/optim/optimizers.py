"""Optimizers whose groups know what they hold: AdamW alone, or Muon for the matrices of the trunk.

Decay is for matrices and tables, not for norms and biases. With credit assignment every part of the model has groups
of its own (`training/optim/credit.py`). A part may have a learning rate of its own: its groups start with it, and a
scheduler multiplies what each group started with.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW, Optimizer

from training.optim.credit import part_of
from training.optim.muon import BatchedMuon
from training.settings.common import TrainingSettings

_ADAM_EPS = 1e-8


@dataclass(frozen=True)
class Grouping:
    """Which parameters share a group, beside their decay.

    Attributes:
        part: (name) -> the part of the model, which the groups have as their key `part`.
        rate: (name) -> the peak learning rate; None for the run's.
        is_matrix_of_trunk: (name, parameter) -> whether Muon may have it.
    """

    part: Callable[[str], str] = lambda name: ""
    rate: Callable[[str], float] | None = None
    is_matrix_of_trunk: Callable[[str, nn.Parameter], bool] = lambda name, parameter: (
        parameter.ndim == 2 and re.search(r"\blayers\.\d+\.(?!.*(?:taps|null_key|forgetting))", name) is not None
    )


ONE_PART, BY_PART = Grouping(), Grouping(part=part_of)


def grouped_adamw(model: nn.Module, settings: TrainingSettings, grouping: Grouping = ONE_PART) -> AdamW:
    """AdamW (Loshchilov and Hutter, 2019, arXiv:1711.05101) with decay on matrices only."""
    return _adamw(_groups(model, settings, grouping, with_muon=False), settings)


class MuonWithAdamW(Optimizer):
    """Muon (Jordan et al., 2024; with the update's size of Liu et al., 2025, arXiv:2502.16982, so that both take the
    same learning rate) for the matrices of the trunk, AdamW for tables, norms and the rest, as one optimizer.
    """

    def __init__(self, model: nn.Module, settings: Any, grouping: Grouping = ONE_PART) -> None:
        groups = _groups(model, settings, grouping, with_muon=True)
        # The library's optimizers take the very dictionaries, so that a scheduler and credit change them for both.
        self._muon = BatchedMuon(
            [group for group in groups if group["muon"]],
            lr=settings.learning_rate,
            momentum=settings.muon_momentum,
        )
        self._adamw = _adamw([group for group in groups if not group["muon"]], settings)
        super().__init__(self._muon.param_groups + self._adamw.param_groups, {})
        self._share_with_both()

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step of both."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._muon.step()
        self._adamw.step()
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As the library's, for both."""
        super().load_state_dict(state_dict)
        self._share_with_both()

    def _share_with_both(self) -> None:
        for inner, is_muon in ((self._muon, True), (self._adamw, False)):
            inner.state = self.state
            inner.param_groups = [group for group in self.param_groups if group["muon"] == is_muon]


def _adamw(groups: list[dict[str, Any]], settings: TrainingSettings) -> AdamW:
    betas = (settings.adam_beta1, settings.adam_beta2)
    return AdamW(groups, lr=settings.learning_rate, betas=betas, eps=_ADAM_EPS, fused=True)


def _groups(model: nn.Module, settings: TrainingSettings, grouping: Grouping, with_muon: bool) -> list[dict[str, Any]]:
    """Parameters that learn, by part, optimizer, decay and rate; in the model's order, which a resume needs."""
    found: dict[tuple[str, bool, bool, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_muons = with_muon and grouping.is_matrix_of_trunk(name, parameter)
            rate = settings.learning_rate if grouping.rate is None else grouping.rate(name)
            found.setdefault((grouping.part(name), is_muons, parameter.ndim > 1, rate), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": rate,
            "weight_decay": settings.weight_decay if decays else 0.0,
            "part": part,
            "muon": is_muon,
        }
        for (part, is_muon, decays, rate), parameters in found.items()
    ]
