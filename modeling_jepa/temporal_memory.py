"""Stage 1: how long what a token wrote lasts, and what came just before it. Both are nothing at the start.

Shapes: B batch, T tokens, C channels, H width, N heads.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from configuration_jepa.configuration_staged_generator import StagedGeneratorConfig
from modeling_jepa.layers import ZeroInitLinear

KERNEL = 4
_STRENGTH, _OFFSET = 8.0, 3.0
_PIECES = 3


@dataclass(frozen=True)
class Earlier:
    """Which rows of a layer's input stand 1, 2 and 3 tokens before each token of the same document.

    Attributes:
        rows: `(3, B x T)`, rows of the flat `(B x L, C)`, which begins with a row of zeros and some to look back at.
            None where they are the rows 1, 2 and 3 above, except those in `missing`.
        missing: 1, 2 and 3 tokens before: rows of the flat `(B x T, C)` that have no such token in their document,
            beside the first ones of each sequence.
    """

    rows: torch.Tensor | None
    missing: tuple[torch.Tensor, ...] = ()


class ShortConvolution(nn.Module):
    """A causal depthwise convolution over a token and the three before it, added to what comes in; zero at the start.

    y_t = x_t + sum over i of taps_i * x_(t - i), i = 0 to 3, per channel (So et al., 2021, arXiv:2109.08668).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.taps = nn.Parameter(torch.zeros(KERNEL, width))

    def forward(self, states: torch.Tensor, earlier: Earlier, length: int) -> torch.Tensor:
        """`(B, L, C) -> (B, T, C)`: of the last T = `length` rows."""
        taps = self.taps.to(states.dtype)
        if earlier.rows is None:
            return _ShiftedSum.apply(states, taps, earlier.missing)
        flat, output = states.flatten(0, 1), states[:, -length:] * (1 + taps[0])
        for rows, tap in zip(earlier.rows, taps[1:], strict=True):
            output = output + tap * flat.index_select(0, rows).view(output.shape)
        return output


class _ShiftedSum(torch.autograd.Function):
    """The convolution where rows stand beside each other: half the passes over memory of one written with slices.

    A row that has no earlier token keeps, exactly, what it held before that tap was added.
    """

    @staticmethod
    def forward(ctx: Any, states: torch.Tensor, taps: torch.Tensor, missing: tuple[torch.Tensor, ...]) -> torch.Tensor:
        ctx.save_for_backward(states, taps, *missing)
        output = states * (1 + taps[0])
        for back, (tap, rows) in enumerate(zip(taps[1:], missing, strict=True), start=1):
            _add_but(output, rows, output[:, back:], states[:, :-back], tap)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        states, taps, *missing = ctx.saved_tensors
        gradient = gradient.contiguous()
        of_taps = [(gradient * states).sum((0, 1))]
        of_states = gradient * (1 + taps[0])
        for back, (tap, rows) in enumerate(zip(taps[1:], missing, strict=True), start=1):
            _add_but(of_states, rows - back, of_states[:, :-back], gradient[:, back:], tap)
            whole = (gradient[:, back:] * states[:, :-back]).sum((0, 1))
            few = gradient.flatten(0, 1)[rows] * states.flatten(0, 1)[rows - back]
            of_taps.append(whole - few.sum(0))
        return of_states, torch.stack(of_taps), None


def _add_but(
    whole: torch.Tensor, rows: torch.Tensor, part: torch.Tensor, states: torch.Tensor, tap: torch.Tensor
) -> None:
    """Add `states` * `tap` to a part of the whole `(B, T, C)`, and to none of these flat rows."""
    flat = whole.view(-1, whole.shape[-1])
    kept = flat[rows]
    part.addcmul_(states, tap)
    flat[rows] = kept


class Forgetting(nn.Module):
    """How fast each head forgets: a log decay per token, summed from key to query and added to their score.

    The Forgetting Transformer (Lin et al., 2025, arXiv:2503.02130), with another start:
    log decay = -8 g softplus(w . s - 3), with a gate g per head and weights w that are zero at the start. s is the
    layer's hidden state, or a vector of the token's own.
    """

    def __init__(self, config: StagedGeneratorConfig) -> None:
        super().__init__()
        width = config.time_dim if config.decay_source == "token" else config.hidden_size
        self.proj = ZeroInitLinear(width, config.num_attention_heads, bias=False)
        self.gate = nn.Parameter(torch.zeros(config.num_attention_heads))

    def forward(self, source: torch.Tensor, real: torch.Tensor | None) -> torch.Tensor:
        """Log decays `(B, N, T)` of `source` (B, T, H), float32 or better; 0 where `real` (B, T) is False."""
        scores = self.proj(source)
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        decays = -_STRENGTH * self.gate * nn.functional.softplus(scores - _OFFSET)
        if real is not None:
            decays = decays.masked_fill(~real[..., None], 0.0)
        return decays.transpose(1, 2)


def decay_columns(sums: torch.Tensor, dtype: torch.dtype, scaling: float) -> torch.Tensor:
    """More columns of the keys, which a query with ones in them turns into -`sums` (B, N, T) after `scaling`.

    The score of key j for query i gets c_i - c_j; c_i is the same for all keys, and falls out of the softmax. So any
    kernel carries the decay. In half precision a sum stands in three columns, each the rest of those before it.

    Returns:
        `(B, N, T, 1 or 3)`, in the dtype of the sums.
    """
    rest = -sums / scaling
    if dtype.itemsize > 2:
        return rest[..., None]
    pieces = []
    for _ in range(_PIECES):
        pieces.append(rest.to(dtype).to(rest.dtype))
        rest = rest - pieces[-1]
    return torch.stack(pieces, dim=-1)


def sums_of(columns: torch.Tensor, scaling: float) -> torch.Tensor:
    """The sums that stand in `decay_columns`."""
    return -columns.to(torch.promote_types(columns.dtype, torch.float32)).sum(-1) * scaling
