"""Where bfloat16 saves time, and where it costs it."""

import logging
import os
import platform
from functools import cache

import torch
from accelerate.utils import parse_flag_from_env
from transformers import TrainingArguments

from training.run.run import Run
from training.runtime.processes import wants_cpu

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
