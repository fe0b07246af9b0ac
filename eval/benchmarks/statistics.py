"""Interval of a paired difference between two arms, over seeds and test examples."""

from dataclasses import dataclass

import numpy as np


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
