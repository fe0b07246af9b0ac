"""Losses and training figures: pure functions, tensors in, (sum, count) out, float32 inside.

A part is a float32 tensor of shape (2,): the sum over its items and their number. Sums and counts add over
micro-batches and processes, so that a mean is right however a batch was cut.

Shapes: K holes, H width, V vocabulary, M negatives.
"""

import torch
from torch import nn

from modeling_jepa.counter_random import counter_normal


def cosine(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Cosine over the last axis, float32: sum(u v) / (|u| |v|). Random directions give 0 +- 1 / sqrt(width)."""
    return (unit(first) * unit(second)).sum(-1)


def unit(vectors: torch.Tensor) -> torch.Tensor:
    """Vectors of length 1 along the last axis, float32 (zero stays zero)."""
    return nn.functional.normalize(vectors.float(), dim=-1, eps=1e-8)


def alignment_loss(predictions: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """2 - 2 cos, which is the squared distance of the unit vectors, summed over the width (Grill et al., 2020,
    arXiv:2006.07733, eq. 2).

    Args:
        predictions: `(K, H)`.
        targets: `(K, H)`; no gradient flows into them.
    """
    return part(2.0 - 2.0 * cosine(predictions, targets.detach()))


def auxiliary_loss(encoded: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """1 - cos between the encoder's own vector at a hole and the target; arguments as of `alignment_loss`."""
    return part(1.0 - cosine(encoded, targets.detach()))


def ranking_loss(logits: torch.Tensor, target_ids: torch.Tensor) -> torch.Tensor:
    """Cross entropy of the true token over all columns.

    Args:
        logits: `(K, V)`.
        target_ids: `(K,)`, columns of the true tokens.
    """
    return part(nn.functional.cross_entropy(logits.float(), target_ids, reduction="none"))


def sampled_ranking_loss(
    target_logits: torch.Tensor, negative_logits: torch.Tensor, log_correction: torch.Tensor | None = None
) -> torch.Tensor:
    """Cross entropy of the true token over 1 + M columns.

    Args:
        target_logits: `(K,)`.
        negative_logits: `(K, M)`.
        log_correction: `(K, 1 + M)` log of the proposal's probability, subtracted from the logits of true token and
            negatives, so that training by frequency-drawn negatives estimates the full softmax (Bengio and Senecal,
            2008, https://doi.org/10.1109/TNN.2007.912312).
    """
    logits = torch.cat((target_logits[:, None], negative_logits), dim=1).float()
    if log_correction is not None:
        logits = logits - log_correction
    return ranking_loss(logits, torch.zeros_like(target_logits, dtype=torch.int64))


def proposal_probabilities(token_counts: torch.Tensor) -> torch.Tensor:
    """How often each token is drawn as a negative by frequency, `(V,) -> (V,)`, float32.

    Proportional to (count + 1)^0.75 (Mikolov et al., 2013, arXiv:1310.4546); the drawing leaves special tokens out.
    """
    weights = (token_counts.float() + 1.0) ** 0.75
    return weights / weights.sum()


def above_negatives(target_logits: torch.Tensor, negative_logits: torch.Tensor) -> torch.Tensor:
    """Share of holes whose true token is strictly above all its negatives: `(K,)`, `(K, M)` -> (sum, count).

    Chance is 1 / (1 + M). A model that gives everything the same score gets 0.
    """
    return part((target_logits[:, None] > negative_logits).all(1))


def vicreg_penalty(vectors: torch.Tensor, eps: float = 1e-4) -> torch.Tensor:
    """Variance and covariance terms of VICReg (Bardes et al., 2022, arXiv:2105.04906, eq. 1 and 3), 0-d.

    mean_d max(0, 1 - std_d) + sum_(d != e) C_de^2 / H, over `vectors` (K, H). A batch statistic: it cannot be summed
    over micro-batches. Fewer than two vectors give 0.
    """
    if vectors.shape[0] < 2:
        return vectors.sum() * 0.0
    centred = vectors.float() - vectors.float().mean(0)
    covariance = centred.T @ centred / (vectors.shape[0] - 1)
    spread = torch.sqrt(covariance.diagonal() + eps)
    off_diagonal = covariance.pow(2).sum() - covariance.diagonal().pow(2).sum()
    return torch.relu(1.0 - spread).mean() + off_diagonal / vectors.shape[1]


def sigreg_penalty(
    vectors: torch.Tensor, key: torch.Tensor | int, num_directions: int = 64, num_points: int = 17
) -> torch.Tensor:
    """Sketched isotropic Gaussian regularisation (Balestriero and LeCun, 2025, arXiv:2511.08544), 0-d.

    Mean over random directions of the Epps-Pulley statistic of the projections: the weighted squared distance of their
    empirical characteristic function from the standard normal's, exp(-t^2 / 2), by the trapezoid rule over t in
    [-5, 5] with weight exp(-t^2 / 2). Not scaled by the number of vectors. Zero for none.

    Args:
        vectors: `(K, H)`.
        key: of the directions, a number or a 0-d integer tensor; a function of the data, so that the loss is
            deterministic given its inputs.
        num_directions: projections.
        num_points: values of t.
    """
    if vectors.shape[0] == 0:
        return vectors.sum() * 0.0
    index = torch.arange(vectors.shape[1] * num_directions, device=vectors.device)
    directions = unit(counter_normal(0, key, index).view(num_directions, -1))
    points = torch.linspace(-5.0, 5.0, num_points, device=vectors.device)
    angles = (vectors.float() @ directions.T)[..., None] * points
    gaussian = torch.exp(-points.pow(2) / 2)
    distance = (angles.cos().mean(0) - gaussian).pow(2) + angles.sin().mean(0).pow(2)
    return torch.trapezoid(distance * gaussian, points, dim=-1).mean()


def part(values: torch.Tensor) -> torch.Tensor:
    """`(K,)` values, numbers or truths, to (sum, count), float32."""
    values = values.float()
    return torch.stack((values.sum(), values.new_tensor(float(values.numel()))))
