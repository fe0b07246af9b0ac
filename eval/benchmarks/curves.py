"""Figures over seeds, and how soon an arm's curve reaches another arm's last value."""

from collections.abc import Sequence
from typing import Any

import numpy as np

_AXES = ("step", "cpu_seconds")


def mean_and_spread(values: Sequence[float | None]) -> dict[str, float | None]:
    """`mean` and sample standard deviation `sd` over seeds; None where it cannot be said."""
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return {"mean": None, "sd": None}
    return {"mean": float(np.mean(known)), "sd": float(np.std(known, ddof=1)) if len(known) > 1 else None}


def reaching(cells: list[dict], goals: list[dict], metric: str, lower_is_better: bool = False) -> dict[str, Any]:
    """Mean steps and CPU seconds to the last value of the other arm's curve of the same seed, over the seeds that got
    there.

    Args:
        cells, goals: cells with `seed` and `curve`, a list of points with `step`, `cpu_seconds` and `metric`.
    """
    ends = {cell["seed"]: cell["curve"][-1][metric] for cell in goals}
    paired = [cell for cell in cells if cell["seed"] in ends]
    points = [first_reach(cell["curve"], ends[cell["seed"]], metric, lower_is_better) for cell in paired]
    found = [point for point in points if point is not None]
    mean = {name: float(np.mean([point[name] for point in found])) if found else None for name in _AXES}
    return {**mean, "seeds_that_reached_it": len(found), "of": len(paired)}


def first_reach(
    curve: list[dict], goal: float, metric: str = "mrr", lower_is_better: bool = False
) -> dict[str, float] | None:
    """Where a curve first reaches a value: in a straight line between two points; None if it never does."""
    before = None
    for point in curve:
        value = point[metric]
        if value <= goal if lower_is_better else value >= goal:
            share = 1.0 if before is None else (goal - before[metric]) / (value - before[metric])
            start = before or point
            return {name: start[name] + share * (point[name] - start[name]) for name in _AXES}
        before = point
    return None
