"""Optimizers whose groups know what they hold: AdamW alone, or Muon for the matrices of the trunk.

Decay is for matrices and tables, not for norms and biases. With credit assignment every part of the model has groups
of its own (`training/credit.py`).
"""

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW, Muon, Optimizer

from training.credit import part_of
from training.settings import TrainingSettings

_ADAM_EPS = 1e-8


def grouped_adamw(model: nn.Module, settings: TrainingSettings, by_part: bool) -> AdamW:
    """AdamW (Loshchilov and Hutter, 2019, arXiv:1711.05101) with decay on matrices only.

    Args:
        by_part: groups have a key `part`, and hold parameters of that part only.
    """
    return _adamw(_groups(model, settings, by_part), settings)


class MuonWithAdamW(Optimizer):
    """Muon (Jordan et al., 2024; with the update's size of Liu et al., 2025, arXiv:2502.16982, so that both take the
    same learning rate) for the matrices of the trunk, AdamW for tables, norms and the rest, as one optimizer.

    Args:
        by_part: see `grouped_adamw`.
    """

    def __init__(self, model: nn.Module, settings: Any, by_part: bool) -> None:
        groups = _groups(model, settings, by_part, is_muons=_is_trunk_matrix)
        # The library's optimizers take the very dictionaries, so that a scheduler and credit change them for both.
        self._muon = Muon(
            [group for group in groups if group["muon"]],
            lr=settings.learning_rate,
            momentum=settings.muon_momentum,
            adjust_lr_fn="match_rms_adamw",
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


def _groups(
    model: nn.Module,
    settings: TrainingSettings,
    by_part: bool,
    is_muons: Callable[[str, nn.Parameter], bool] = lambda name, parameter: False,
) -> list[dict[str, Any]]:
    """Parameters that learn, by part (if asked), optimizer and decay; in the model's order, which a resume needs."""
    found: dict[tuple[str, bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            key = (part_of(name) if by_part else "", is_muons(name, parameter), parameter.ndim > 1)
            found.setdefault(key, []).append(parameter)
    return [
        {
            "params": parameters,
            "weight_decay": settings.weight_decay if decays else 0.0,
            "part": part,
            "muon": is_muon,
        }
        for (part, is_muon, decays), parameters in found.items()
    ]


def _is_trunk_matrix(name: str, parameter: nn.Parameter) -> bool:
    return parameter.ndim == 2 and re.search(r"\blayers\.\d+\.", name) is not None
