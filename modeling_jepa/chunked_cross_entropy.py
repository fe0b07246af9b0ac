"""Cross entropy of a linear output layer in chunks, so that the logits of a whole batch never exist.

Shapes: n predictions, E width, V vocabulary.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

_CHUNK_ELEMENTS = 2**24  # logits held at a time: 64 MiB in float32


@dataclass(frozen=True)
class NextTokenParts:
    """Sums over the predictions, 0-d float32.

    Attributes:
        loss: what is learned from: with label smoothing and z-loss; the only one with a gradient.
        cross_entropy: plain, in nats.
        correct: predictions whose most likely token is the true one.
    """

    loss: torch.Tensor
    cross_entropy: torch.Tensor
    correct: torch.Tensor


def chunked_cross_entropy(
    hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, smoothing: float = 0.0, z_weight: float = 0.0
) -> NextTokenParts:
    """Sums of -log softmax(hidden weight^T)[target], and what else is learned from.

    The loss per prediction is (1 - smoothing) (-log p_target) + smoothing mean_v(-log p_v) + z_weight (log Z)^2.
    Gradients are made in the forward pass, chunk by chunk (Hsu et al., 2024, arXiv:2410.10989), in the dtype of
    autocast where it is on.

    Args:
        hidden: `(n, E)`.
        weight: `(V, E)`.
        targets: `(n,)` ids.
        smoothing: share of a target that is spread over the vocabulary.
        z_weight: weight of the squared log-normaliser.
    """
    loss, cross_entropy, correct = _ChunkedCrossEntropy.apply(hidden, weight, targets, smoothing, z_weight)
    return NextTokenParts(loss, cross_entropy, correct)


def cross_entropy_parts(
    logits: torch.Tensor, targets: torch.Tensor, smoothing: float = 0.0, z_weight: float = 0.0
) -> NextTokenParts:
    """The same sums from logits `(n, V)` that exist."""
    logits = logits.float()
    plain = nn.functional.cross_entropy(logits, targets, reduction="sum")
    loss = nn.functional.cross_entropy(logits, targets, reduction="sum", label_smoothing=smoothing)
    if z_weight:
        loss = loss + z_weight * torch.logsumexp(logits, dim=-1).pow(2).sum()
    return NextTokenParts(loss, plain.detach(), (logits.argmax(-1) == targets).sum().float())


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        targets: torch.Tensor,
        smoothing: float,
        z_weight: float,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        wanted = ctx.needs_input_grad
        dtype = _autocast_dtype(hidden)
        table = weight.to(dtype)
        sums = torch.zeros(3, device=hidden.device)
        hidden_gradient = torch.empty_like(hidden) if wanted[0] else None
        weight_gradient = torch.zeros_like(weight, dtype=torch.float32) if wanted[1] else None
        size = max(1, _CHUNK_ELEMENTS // weight.shape[0])
        with torch.autocast(hidden.device.type, enabled=False):
            for start in range(0, hidden.shape[0], size):
                few, target = hidden[start : start + size].to(dtype), targets[start : start + size]
                found, gradient = _loss_and_gradient((few @ table.T).float(), target, smoothing, z_weight, any(wanted))
                sums += found
                if gradient is None:
                    continue
                gradient = gradient.to(dtype)
                if hidden_gradient is not None:
                    hidden_gradient[start : start + size] = gradient @ table
                if weight_gradient is not None:
                    weight_gradient += gradient.T @ few
        ctx.save_for_backward(hidden_gradient, weight_gradient)
        ctx.weight_dtype = weight.dtype
        loss, cross_entropy, correct = sums.unbind()
        ctx.mark_non_differentiable(cross_entropy, correct)
        return loss, cross_entropy, correct

    @staticmethod
    def backward(
        ctx: Any, upstream: torch.Tensor, _cross_entropy: torch.Tensor, _correct: torch.Tensor
    ) -> tuple[torch.Tensor | None, ...]:
        hidden_gradient, weight_gradient = ctx.saved_tensors
        for_hidden = None if hidden_gradient is None else hidden_gradient * upstream.to(hidden_gradient.dtype)
        for_weight = None if weight_gradient is None else (weight_gradient * upstream).to(ctx.weight_dtype)
        return for_hidden, for_weight, None, None, None


def _loss_and_gradient(
    logits: torch.Tensor, targets: torch.Tensor, smoothing: float, z_weight: float, with_gradient: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Sums (loss, cross entropy, correct) of a chunk, and the gradient of the loss by its logits, in their place."""
    log_normaliser = torch.logsumexp(logits, dim=-1)
    plain = log_normaliser - logits.gather(1, targets[:, None]).squeeze(1)
    loss = plain
    if smoothing:
        loss = (1.0 - smoothing) * plain + smoothing * (log_normaliser - logits.mean(-1))
    if z_weight:
        loss = loss + z_weight * log_normaliser.pow(2)
    sums = torch.stack((loss.sum(), plain.sum(), (logits.argmax(-1) == targets).sum().float()))
    if not with_gradient:
        return sums, None
    gradient = logits.sub_(log_normaliser[:, None]).exp_()
    if z_weight:
        gradient *= (1.0 + 2.0 * z_weight * log_normaliser)[:, None]
    if smoothing:
        gradient -= smoothing / logits.shape[-1]
    taken = torch.full_like(plain, smoothing - 1.0)
    return sums, gradient.scatter_add_(1, targets[:, None], taken[:, None])


def _autocast_dtype(hidden: torch.Tensor) -> torch.dtype:
    device = hidden.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
