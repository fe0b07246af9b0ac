"""What a run was computed on, and how long it took: for its card."""

import os
import platform
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import torch

from training.common.wording import duration

_STOPPED = 20  # a gap of more than so many usual ones between two rows of a log: the run stood still


def describe_machine(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """This machine, and what the rows of a run's log say of its time and device."""
    on_gpu = any(str(row.get("device", "cpu")).startswith("cuda") for row in rows)
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "accelerator": torch.cuda.get_device_name() if on_gpu and torch.cuda.is_available() else None,
        "seconds": training_seconds(rows),
    }


def training_seconds(rows: Sequence[dict[str, Any]]) -> float | None:
    """Seconds from the first to the last row of a log, held-out scores and saves included, breaks left out.

    None without two rows.
    """
    times = [float(row["time"]) for row in rows]
    gaps = [max(0.0, later - earlier) for earlier, later in pairwise(times)]
    if not gaps:
        return None
    usual = median(gaps)
    return round(sum(gap for gap in gaps if gap <= _STOPPED * usual or usual == 0), 1)


def hardware_line(machine: dict[str, Any], run: dict[str, Any]) -> str:
    """One sentence; run: the content of `run.json`. Empty where nothing is known."""
    if not machine:
        return ""
    processes, threads = run.get("num_processes", 1), run.get("threads")
    workers = f"{processes} process{'es' if processes > 1 else ''}"
    workers += f" of {threads} thread{'s' if threads > 1 else ''}" if threads else ""
    host = f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gib']:g} GiB of memory"
    where = host if machine["accelerator"] is None else f"{machine['accelerator']} ({host})"
    seconds = machine["seconds"]
    took = "" if seconds is None else f"It took {duration(seconds)}, held-out scores included, "
    asked = run.get("recipe", {}).get("training", {}).get("bf16")
    other = ", in float32, as that CPU has no bfloat16" if asked and run.get("precision") == "float32" else ""
    return f"{took or 'It ran '}in {workers} on: {where}{other}."


def _processor() -> str:
    """The processor's name as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
