"""Cells for the tests of the runner: quick, and telling how and how often they were run."""

import os
from pathlib import Path
from typing import Any


def measure(settings: dict[str, Any], seed: int, folder: Path) -> dict[str, Any]:
    """A result that depends on settings and seed, and notes each call in `settings["calls"]`."""
    with Path(settings["calls"]).open("a") as calls:
        calls.write(f"{settings['level']} {seed} {os.environ['OMP_NUM_THREADS']} {len(list(folder.iterdir()))}\n")
    if settings.get("fails_at") == seed:
        raise ValueError("no such luck")
    hits = [1 if (n + seed) % 4 < settings["level"] else 0 for n in range(40)]
    examples = {"ids": [f"{n}:0" for n in range(40)], "clusters": [n // 2 for n in range(40)], "top1": hits}
    return {"metrics": {"top1": sum(hits) / len(hits), "cosine": None}, "examples": examples}
