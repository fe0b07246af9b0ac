"""Muon for matrices of one shape together, also where bfloat16 is emulated."""

from typing import Any

import torch
from torch import Tensor
from torch.optim import Muon

from training.runtime import precision


class BatchedMuon(Muon):
    """The library's Muon, which orthogonalises matrix by matrix in bfloat16; here those of one shape at once, and in
    float32 on a CPU without bfloat16.

    Args:
        params: matrices, or groups of them.
        **settings: the library's; `nesterov` and `adjust_lr_fn` have the one value that is of use here.
    """

    def __init__(self, params: Any, **settings: Any) -> None:
        super().__init__(params, **settings, nesterov=True, adjust_lr_fn="match_rms_adamw")

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            known: tuple[list[Tensor], list[Tensor], list[Tensor]] = ([], [], [])
            self._init_group(group, *known)
            alike: dict[Any, list[tuple[Tensor, Tensor, Tensor]]] = {}
            for found in zip(*known, strict=True):
                alike.setdefault((found[0].shape, found[0].device, found[0].dtype), []).append(found)
            for members in alike.values():
                _update(*map(list, zip(*members, strict=True)), group)
        return loss


def _update(parameters: list[Tensor], gradients: list[Tensor], buffers: list[Tensor], group: dict[str, Any]) -> None:
    """As the library does it, for parameters of one shape."""
    momentum, rate = group["momentum"], float(group["lr"])
    torch._foreach_lerp_(buffers, gradients, 1 - momentum)
    updates = torch.stack(torch._foreach_lerp(gradients, buffers, momentum))
    directions = orthogonalised(updates, group["ns_coefficients"], group["ns_steps"], group["eps"])
    torch._foreach_mul_(parameters, 1 - rate * group["weight_decay"])
    scale = 0.2 * max(updates.shape[1:]) ** 0.5
    torch._foreach_add_(parameters, list(directions.to(updates.dtype)), alpha=-rate * scale)


def orthogonalised(updates: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float = 1e-7) -> Tensor:
    """Newton-Schulz iteration (Jordan et al., 2024) in bfloat16, or float32 where a CPU would emulate that.

    Args:
        updates: `(K, M, N)`, each matrix by itself.
        coefficients: of the quintic.
        steps: iterations.
        eps: least norm that is divided by.
    """
    a, b, c = coefficients
    is_tall = updates.shape[1] > updates.shape[2]
    dtype = torch.bfloat16 if updates.device.type != "cpu" or precision.cpu_has_bfloat16() else torch.float32
    wide = (updates.mT if is_tall else updates).to(dtype)
    wide = wide / wide.norm(dim=(1, 2), keepdim=True).clamp(min=eps)
    for _ in range(steps):
        gram = wide @ wide.mT
        wide = torch.baddbmm(wide, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
    return wide.mT if is_tall else wide
