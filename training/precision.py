"""Where bfloat16 saves time, and where it costs it."""

import logging
import os
import platform
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.optim import Muon

EMULATE = "JEPA_EMULATE_BFLOAT16"

logger = logging.getLogger(__name__)


@cache
def cpu_has_bfloat16() -> bool:
    """Whether this CPU has instructions for products in bfloat16.

    Where it has none they are emulated, which took 30 times as long as float32 on an x86 CPU that has AVX2 alone.
    """
    if platform.machine().lower() in ("x86_64", "amd64"):
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def autocasts_to_bfloat16(asked: bool, on_cpu: bool) -> bool:
    """Whether a run that asks for bfloat16 gets it; where it would be emulated it gets float32, and a note says so.

    The environment variable `JEPA_EMULATE_BFLOAT16` asks for the emulation: the same roundings, slowly.
    """
    if asked and on_cpu and not cpu_has_bfloat16() and not os.environ.get(EMULATE):
        logger.warning(
            "bf16: this CPU has no instructions for bfloat16, and emulating it takes many times as long: computing in "
            "float32 (%s=1 emulates it)",
            EMULATE,
        )
        return False
    return asked


class PortableMuon(Muon):
    """The library's Muon, which orthogonalises in bfloat16 on any device; here in float32 on a CPU without it."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step."""
        if cpu_has_bfloat16() or any(p.device.type != "cpu" for group in self.param_groups for p in group["params"]):
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
    """As `torch.optim.Muon` with `adjust_lr_fn="match_rms_adamw"` does it, but for the precision."""
    momentum, rate = group["momentum"], float(group["lr"])
    buffer.lerp_(gradient, 1 - momentum)
    direction = orthogonalised(
        gradient.lerp(buffer, momentum), group["ns_coefficients"], group["ns_steps"], group["eps"]
    )
    parameter.mul_(1 - rate * group["weight_decay"])
    parameter.add_(direction, alpha=-rate * 0.2 * max(parameter.shape) ** 0.5)


def orthogonalised(update: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float = 1e-7) -> Tensor:
    """Newton-Schulz iteration (Jordan et al., 2024) in the update's own precision.

    Args:
        update: `(M, N)`.
        coefficients: of the quintic.
        steps: iterations.
        eps: least norm that is divided by.
    """
    a, b, c = coefficients
    wide = update if update.shape[0] <= update.shape[1] else update.T
    wide = wide / wide.norm().clamp(min=eps)
    for _ in range(steps):
        gram = wide @ wide.T
        wide = torch.addmm(wide, torch.addmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
    return wide if update.shape[0] <= update.shape[1] else wide.T
