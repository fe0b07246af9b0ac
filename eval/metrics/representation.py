"""How much of its space a set of vectors uses: figures that show a collapsing representation.

All functions take `vectors` of shape (samples, width), any float type, and compute in float64.
"""

import torch
from torch import Tensor

REPRESENTATION_NAMES = ("effective_rank", "spread_mean", "spread_min", "mean_pairwise_cosine", "uniformity")


def effective_rank(vectors: Tensor) -> float:
    """The exponential of the entropy of the normalised singular values: erank = exp(-sum p ln p), p = s / sum(s).

    From 1 (all vectors on one line) to min(samples, width) (Roy & Vetterli, EUSIPCO 2007). Vectors are not centred,
    as in the paper, so a large common offset counts as collapse. 0 when every vector is zero.
    """
    singular = torch.linalg.svdvals(_checked(vectors))
    total = singular.sum()
    if total == 0:
        return 0.0
    shares = singular / total
    return float(torch.exp(torch.special.entr(shares).sum()))


def spread_per_dimension(vectors: Tensor) -> Tensor:
    """(width,) standard deviation of each dimension over the samples (population form, units of the vectors)."""
    return _checked(vectors).std(dim=0, correction=0)


def mean_pairwise_cosine(vectors: Tensor) -> float:
    """Mean cosine over all ordered pairs i != j, -1..1; near 1 is collapse. Computed from the mean of unit vectors.

    sum_{i != j} u_i u_j = |sum u|^2 - sum |u_i|^2, so time and memory grow with samples, not with pairs.
    """
    unit = torch.nn.functional.normalize(_checked(vectors), dim=-1)
    count = len(unit)
    if count < 2:
        raise ValueError(f"mean_pairwise_cosine needs at least 2 vectors, was given {count}")
    return float((unit.sum(dim=0).square().sum() - unit.square().sum()) / (count * (count - 1)))


def alignment(first: Tensor, second: Tensor, alpha: float = 2.0) -> float:
    """Mean of |u_i - v_i|^alpha over pairs of unit vectors, 0 (same) .. 4 for alpha 2 (Wang & Isola, 2020, eq. 1)."""
    if first.shape != second.shape:
        raise ValueError(f"alignment needs two equal shapes, was given {tuple(first.shape)} and {tuple(second.shape)}")
    left = torch.nn.functional.normalize(_checked(first), dim=-1)
    right = torch.nn.functional.normalize(_checked(second), dim=-1)
    return float((left - right).norm(dim=-1).pow(alpha).mean())


def uniformity(vectors: Tensor, t: float = 2.0) -> float:
    """Log of the mean of exp(-t |u_i - u_j|^2) over pairs i < j of unit vectors; 0 is collapse, about -2t is uniform.

    Wang & Isola, ICML 2020, eq. 2. Memory grows with samples squared: hand over a few thousand at most.
    """
    unit = torch.nn.functional.normalize(_checked(vectors), dim=-1)
    if len(unit) < 2:
        raise ValueError(f"uniformity needs at least 2 vectors, was given {len(unit)}")
    squared = torch.nn.functional.pdist(unit).square()
    return float(squared.mul(-t).exp().mean().log())


def representation_figures(vectors: Tensor) -> dict[str, float]:
    """All of `REPRESENTATION_NAMES` for one set of at least two vectors."""
    spread = spread_per_dimension(vectors)
    return {
        "effective_rank": effective_rank(vectors),
        "spread_mean": float(spread.mean()),
        "spread_min": float(spread.min()),
        "mean_pairwise_cosine": mean_pairwise_cosine(vectors),
        "uniformity": uniformity(vectors),
    }


def _checked(vectors: Tensor) -> Tensor:
    """float64 on the CPU: (samples, width), finite."""
    if vectors.dim() != 2 or len(vectors) == 0:
        raise ValueError(f"vectors must have shape (samples, width) with a sample, was given {tuple(vectors.shape)}")
    values = vectors.detach().to("cpu", torch.float64)
    if not torch.isfinite(values).all():
        raise ValueError("vectors hold NaN or infinite numbers: look at the training log for the first such step")
    return values
