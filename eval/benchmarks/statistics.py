"""Figures over seeds: mean and spread, paired intervals between two arms, and how they are shown.

A cell is the JSON of one (arm, seed), see `cells`: `seed`, `metrics`, `curve`, and what an exam kept of the answers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from training.common.errors import InputError

Cells = list[dict]
Results = dict[str, Cells]
Figure = dict[str, float | None]

_AXES = ("step", "cpu_seconds")


def mean_and_spread(values: Sequence[float | None]) -> Figure:
    """`mean` and sample standard deviation `sd` over seeds; None where it cannot be said."""
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return {"mean": None, "sd": None}
    return {"mean": float(np.mean(known)), "sd": float(np.std(known, ddof=1)) if len(known) > 1 else None}


def over_seeds(found: Sequence[dict[str, Any]], names: Sequence[str]) -> dict[str, Figure]:
    """Mean and spread of each of these metrics over the seeds' metrics."""
    return {name: mean_and_spread([metrics.get(name) for metrics in found]) for name in names}


def reaching(cells: Cells, goals: Cells, metric: str, lower_is_better: bool = False) -> dict[str, Any]:
    """Mean steps and CPU seconds to the last value of the other arm's curve of the same seed, over the seeds that got
    there.

    Args:
        cells, goals: cells with `seed` and `curve`, a list of points with `step`, `cpu_seconds` and `metric`.
    """
    pairs = same_seeds(cells, goals)
    points = [first_reach(one["curve"], other["curve"][-1][metric], metric, lower_is_better) for one, other in pairs]
    found = [point for point in points if point is not None]
    mean = {name: float(np.mean([point[name] for point in found])) if found else None for name in _AXES}
    return {**mean, "seeds_that_reached_it": len(found), "of": len(pairs)}


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


def same_seeds(first: Cells, second: Cells) -> list[tuple[dict, dict]]:
    """Cells of two arms, paired by seed, for the seeds that both have, in their order."""
    left, right = ({cell["seed"]: cell for cell in cells} for cells in (first, second))
    return [(left[seed], right[seed]) for seed in sorted(left.keys() & right.keys())]


def marks_of(cells: Cells) -> list[str]:
    """The steps at which an arm was scored, in their order."""
    return sorted(cells[0]["marks"], key=int)


def check_asked(pairs: Sequence[tuple[dict, dict]], key: str, what: str) -> None:
    """Raise InputError where the hash under `key` of what was asked differs."""
    if len({cell[key] for pair in pairs for cell in pair}) > 1:
        raise InputError(f"the arms were asked different {what} and cannot be paired; run them on one test set")


def difference(first: Cells, second: Cells, metric: str) -> "Interval | None":
    """Interval of a metric's paired difference, or None where an arm kept no results per example.

    Raises:
        InputError: the two arms answered different examples.
    """
    pairs = [[cell.get("examples", {}) for cell in pair] for pair in same_seeds(first, second)]
    pairs = [pair for pair in pairs if all(metric in examples for examples in pair)]
    if not pairs:
        return None
    ids, clusters = pairs[0][0]["ids"], pairs[0][0].get("clusters")
    if any(examples["ids"] != ids for pair in pairs for examples in pair):
        raise InputError(f"{metric}: arms answered different test examples and cannot be paired; use one test set")
    sides = (np.array([examples[metric] for examples in side], dtype=np.float64) for side in zip(*pairs, strict=True))
    return paired_interval(*sides, clusters=None if clusters is None else np.array(clusters))


@dataclass(frozen=True)
class Interval:
    """`difference` (first minus second) of the means, with the bounds of its interval, in the metric's units."""

    difference: float
    low: float
    high: float


def paired_interval(
    first: np.ndarray,
    second: np.ndarray,
    clusters: np.ndarray | None = None,
    *,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap of mean(first - second) (Efron & Tibshirani 1993, ch. 13), resampling seeds and examples.

    Both arms answer the same examples under the same seeds, so seeds and examples are drawn together for the two.
    Examples of one cluster (blanks of one row) are no independent evidence and are drawn together.

    Args:
        first: (seeds, examples) results of one arm, such as 1.0 where the right token stood first.
        second: the other arm's, of the same shape.
        clusters: (examples,) ids; None takes each example by itself.
        resamples: number of draws.
        level: share of the draws inside the interval.
        seed: of the draws.

    Raises:
        ValueError: shapes that do not pair, or nothing in them.
    """
    if first.shape != second.shape or first.ndim != 2 or first.size == 0:
        raise ValueError(
            f"paired results need two equal shapes (seeds, examples), were given {first.shape} and {second.shape}"
        )
    sums, sizes = _per_cluster(np.asarray(first, np.float64) - np.asarray(second, np.float64), clusters)
    return interval_of_sums(sums, sizes, resamples=resamples, level=level, seed=seed)


def interval_of_sums(
    sums: np.ndarray, sizes: np.ndarray, *, resamples: int = 2000, level: float = 0.95, seed: int = 0
) -> Interval:
    """The same where each cluster's differences are added up already.

    Args:
        sums: (seeds, clusters).
        sizes: (clusters,) number of examples that each sum is of.
    """
    generator = np.random.default_rng(seed)
    num_seeds, num_clusters = sums.shape
    means = np.empty(resamples)
    for draw in range(resamples):
        weights = np.bincount(generator.integers(num_clusters, size=num_clusters), minlength=num_clusters)
        seeds = generator.integers(num_seeds, size=num_seeds)
        means[draw] = (sums[seeds] @ weights).mean() / (sizes @ weights)
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(means, [tail, 1.0 - tail])
    return Interval(float(sums.sum() / (num_seeds * sizes.sum())), float(low), float(high))


def ratio_of(found: Interval, units: float = 1.0) -> dict[str, float]:
    """A difference of nats per token as a ratio of perplexities per unit, such as a word of so many `units` tokens."""
    bounds = {"ratio": found.difference, "low": found.low, "high": found.high}
    return {name: float(np.exp(value * units)) for name, value in bounds.items()}


def shown_number(figure: Figure, form: str) -> str:
    """Mean, with the spread over seeds where there is one."""
    mean, spread = figure["mean"], figure["sd"]
    if mean is None:
        return "-"
    return f"{mean:{form}}" + (f" ({spread:{form}})" if spread is not None else "")


def shown_ratio(ratio: dict[str, float] | None) -> str:
    """A ratio with its interval."""
    return f"{ratio['ratio']:.3f} [{ratio['low']:.3f}, {ratio['high']:.3f}]" if ratio else ""


def shown_difference(found: dict[str, float] | None, digits: int = 4) -> str:
    """A difference with its interval."""
    if not found:
        return ""
    return "{:+.{n}f} [{:+.{n}f}, {:+.{n}f}]".format(*(found[key] for key in ("difference", "low", "high")), n=digits)


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Header and rows as a Markdown table."""
    header, *body = rows
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, rule, *body)) + "\n"


def _per_cluster(differences: np.ndarray, clusters: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Sums (seeds, clusters) and sizes (clusters,) of the differences of each cluster."""
    if clusters is None:
        return differences, np.ones(differences.shape[1])
    if len(clusters) != differences.shape[1]:
        raise ValueError(f"clusters must name {differences.shape[1]} examples, was given {len(clusters)}")
    _, members = np.unique(clusters, return_inverse=True)
    sizes = np.bincount(members).astype(np.float64)
    sums = np.stack([np.bincount(members, weights=row, minlength=len(sizes)) for row in differences])
    return sums, sizes
