"""Figures over the ranks that a model gave to right answers. Pure functions over NumPy arrays.

A rank is 1 for the best of V vocabulary entries and V for the worst. This file imports nothing of this package,
so that the metric beside it also loads from its path alone.
"""

import math
from collections.abc import Sequence

import numpy as np

NUM_DECILES = 10
HIGH_COSINE = 0.9
FIGURE_NAMES = ("top1", "top5", "top10", "mrr", "median_rank", "mean_rank", "cosine", "share_cos_above_0_9")


def hits_at(ranks: np.ndarray, k: int) -> float | None:
    """Share (0..1) of ranks that are k or better: mean[rank <= k]. None without examples."""
    return None if len(ranks) == 0 else float(np.mean(ranks <= k))


def mean_reciprocal_rank(ranks: np.ndarray) -> float | None:
    """MRR = mean(1 / rank), from above 0 to 1 (Voorhees, TREC-8 1999). None without examples."""
    return None if len(ranks) == 0 else float(np.mean(1.0 / ranks))


def ranking_figures(ranks: np.ndarray, cosines: np.ndarray | None) -> dict[str, float | None]:
    """All of `FIGURE_NAMES` for one group of examples.

    Args:
        ranks: (examples,) integers from 1.
        cosines: (examples,) cosine between prediction and the true token's direction, -1..1; None (or any NaN, which
            is how a table stores "no value") where the model has no such thing: both cosine figures are None then.
    """
    ranks = np.asarray(ranks, dtype=np.int64)
    known = cosines is not None and len(cosines) > 0 and not np.isnan(cosines).any()
    return {
        "top1": hits_at(ranks, 1),
        "top5": hits_at(ranks, 5),
        "top10": hits_at(ranks, 10),
        "mrr": mean_reciprocal_rank(ranks),
        "median_rank": None if len(ranks) == 0 else float(np.median(ranks)),
        "mean_rank": None if len(ranks) == 0 else float(np.mean(ranks)),
        "cosine": float(np.mean(cosines)) if known else None,
        "share_cos_above_0_9": float(np.mean(np.asarray(cosines) > HIGH_COSINE)) if known else None,
    }


def frequency_deciles(targets: np.ndarray, token_counts: np.ndarray) -> list[np.ndarray]:
    """Ten equal parts of the examples, by how often their true token stood in the training part.

    Part 0 holds the examples with the most frequent targets. Examples are sorted by (count descending, token id,
    given order) and cut into ten parts whose sizes differ by at most one, so a very frequent token may fill more
    than one part. The parts depend on targets and counts only, never on the model.

    Returns:
        Ten arrays of example indices.
    """
    targets = np.asarray(targets, dtype=np.int64)
    order = np.lexsort((np.arange(len(targets)), targets, -np.asarray(token_counts, dtype=np.float64)[targets]))
    return np.array_split(order, NUM_DECILES)


def decile_figures(
    ranks: np.ndarray, cosines: np.ndarray | None, targets: np.ndarray, token_counts: np.ndarray
) -> list[dict[str, float | int | None]]:
    """`ranking_figures` for each frequency decile, most frequent first, with its size and range of counts."""
    rows = []
    for number, members in enumerate(frequency_deciles(targets, token_counts), start=1):
        counts = np.asarray(token_counts, dtype=np.float64)[np.asarray(targets, dtype=np.int64)[members]]
        rows.append(
            {
                "decile": number,
                "num_examples": len(members),
                "min_count": int(counts.min()) if len(members) else None,
                "max_count": int(counts.max()) if len(members) else None,
                **ranking_figures(np.asarray(ranks)[members], None if cosines is None else cosines[members]),
            }
        )
    return rows


def most_predicted(predictions: np.ndarray, limit: int = 10) -> list[list[float | int]]:
    """The tokens most often put first, as [token id, share of all examples 0..1]; ties go to the smaller id."""
    tokens, counts = np.unique(np.asarray(predictions, dtype=np.int64), return_counts=True)
    order = np.lexsort((tokens, -counts))[:limit]
    return [[int(tokens[i]), float(counts[i] / len(predictions))] for i in order]


def without_nan(figures: Sequence[float | None] | np.ndarray | None) -> np.ndarray | None:
    """Cosines as a float array, or None where they are missing for every example."""
    if figures is None:
        return None
    values = np.array([math.nan if value is None else value for value in figures], dtype=np.float64)
    return None if np.isnan(values).all() else values
