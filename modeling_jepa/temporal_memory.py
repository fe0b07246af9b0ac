"""Stage 1: how long what a token wrote lasts, and what came just before it. Both are nothing at the start.

Shapes: B batch, T tokens, C channels, H width, N heads.
"""

import torch
from torch import nn

from configuration_jepa.configuration_staged_generator import StagedGeneratorConfig
from modeling_jepa.layers import ZeroInitLinear

KERNEL = 4
_STRENGTH, _OFFSET = 8.0, 3.0
_PIECES = 3


class ShortConvolution(nn.Module):
    """A causal depthwise convolution over a token and the three before it, added to what comes in; zero at the start.

    y_t = x_t + sum over i of taps_i * x_(t - i), i = 0 to 3, per channel (So et al., 2021, arXiv:2109.08668).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.taps = nn.Parameter(torch.zeros(KERNEL, width))

    def forward(self, states: torch.Tensor, earlier: torch.Tensor) -> torch.Tensor:
        """`(B, L, C) -> (B, T, C)`: of the last T rows.

        Args:
            states: some rows to look back at, then those of the T tokens.
            earlier: `(3, B x T)`, the rows of the flat `(B x L, C)` that stand 1, 2 and 3 tokens before each token.
        """
        batch, length = states.shape[0], earlier.shape[1] // states.shape[0]
        taps = self.taps.to(states.dtype)
        flat, output = states.flatten(0, 1), states[:, -length:] * (1 + taps[0])
        for rows, tap in zip(earlier, taps[1:], strict=True):
            output = output + tap * flat.index_select(0, rows).view(batch, length, -1)
        return output


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
