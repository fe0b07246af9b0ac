"""Muon where bfloat16 is emulated."""

from typing import Any

import torch
from torch import Tensor
from torch.optim import Muon

from training.runtime import precision


class PortableMuon(Muon):
    """The library's Muon, which orthogonalises in bfloat16 on any device; here in float32 on a CPU without it.

    Args:
        params: matrices, or groups of them.
        **settings: the library's; `nesterov` and `adjust_lr_fn` have the one value that is of use here.
    """

    def __init__(self, params: Any, **settings: Any) -> None:
        super().__init__(params, **settings, nesterov=True, adjust_lr_fn="match_rms_adamw")

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step."""
        elsewhere = any(p.device.type != "cpu" for group in self.param_groups for p in group["params"])
        if elsewhere or precision.cpu_has_bfloat16():
            return super().step(closure)
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            known: tuple[list[Tensor], list[Tensor], list[Tensor]] = ([], [], [])
            self._init_group(group, *known)
            for parameter, gradient, buffer in zip(*known, strict=True):
                _update(parameter, gradient, buffer, group)
        return loss


def _update(parameter: Tensor, gradient: Tensor, buffer: Tensor, group: dict[str, Any]) -> None:
    """As the library does it, but for the precision."""
    momentum, rate = group["momentum"], float(group["lr"])
    buffer.lerp_(gradient, 1 - momentum)
    direction = orthogonalised(
        gradient.lerp(buffer, momentum), group["ns_coefficients"], group["ns_steps"], group["eps"]
    )
    parameter.mul_(1 - rate * group["weight_decay"])
    parameter.add_(direction, alpha=-rate * (0.2 * max(parameter.shape) ** 0.5))


def orthogonalised(update: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float = 1e-7) -> Tensor:
    """Newton-Schulz iteration (Jordan et al., 2024) in float32.

    Args:
        update: `(M, N)`.
        coefficients: of the quintic.
        steps: iterations.
        eps: least norm that is divided by.
    """
    a, b, c = coefficients
    wide = update.float() if update.shape[0] <= update.shape[1] else update.float().T
    wide = wide / wide.norm().clamp(min=eps)
    for _ in range(steps):
        gram = wide @ wide.T
        wide = torch.addmm(wide, torch.addmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
    return wide if update.shape[0] <= update.shape[1] else wide.T
