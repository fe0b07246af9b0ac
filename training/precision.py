"""Where bfloat16 saves time, and where it costs it."""

import logging
import os
import platform
from functools import cache
from typing import Any

import torch
from accelerate.utils import parse_flag_from_env
from torch import Tensor
from torch.optim import Muon
from transformers import TrainingArguments

from training.arguments import Run
from training.processes import wants_cpu

EMULATE = "JEPA_EMULATE_BFLOAT16"

logger = logging.getLogger(__name__)


@cache
def cpu_has_bfloat16() -> bool:
    """Whether this CPU has instructions for products in bfloat16.

    Where it has none they are emulated, which took 30 times as long as float32 on an x86 CPU that has AVX2 alone.
    """
    if platform.machine().lower() in ("x86_64", "amd64"):
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def emulates_bfloat16() -> bool:
    """Whether autocast is to emulate bfloat16 on a CPU without it: environment variable `JEPA_EMULATE_BFLOAT16`."""
    return parse_flag_from_env(EMULATE)


def precision_of(run: Run) -> str:
    """What products of a run are computed in: `bfloat16`, `float16` or `float32`.

    The run or its launcher asks; on a CPU that would have to emulate bfloat16 the answer is float32.
    """
    asked = os.environ.get("ACCELERATE_MIXED_PRECISION")
    if run.training.bf16 or asked == "bf16":
        here = not wants_cpu(run) or cpu_has_bfloat16() or emulates_bfloat16()
        return "bfloat16" if here else "float32"
    return "float16" if run.training.fp16 or asked == "fp16" else "float32"


def settle_precision(arguments: TrainingArguments, run: Run) -> TrainingArguments:
    """The arguments, without a bfloat16 that would be emulated; a note says so."""
    if arguments.mixed_precision == "bf16" and precision_of(run) == "float32":
        logger.warning(
            "bf16: this CPU has no instructions for bfloat16, and emulating it takes many times as long: computing in "
            "float32 (%s=1 emulates it)",
            EMULATE,
        )
        arguments.bf16, arguments.mixed_precision = False, "no"
    return arguments


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
        if elsewhere or cpu_has_bfloat16():
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
