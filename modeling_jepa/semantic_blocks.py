"""Token embeddings seen as equal semantic blocks, and the time embedding of each token.

Shapes: B batch, T sequence, E embedding size, G blocks, W = E / G their width, V vocabulary, H hidden size.
"""

import torch
from torch import nn

from configuration_jepa.configuration_staged_generator import StagedGeneratorConfig
from modeling_jepa.layers import RMSNorm, ZeroInitEmbedding, ZeroInitLinear


class BlockAttention(nn.Module):
    """Attention between the blocks of one token, added to them; starts as the identity.

    The blocks of a token are its sequence: nothing of another token enters.
    """

    def __init__(self, config: StagedGeneratorConfig) -> None:
        super().__init__()
        self.num_blocks = config.num_semantic_blocks
        width = config.embedding_size // self.num_blocks
        self.norm = RMSNorm(width, config.norm_eps)
        self.qkv_proj = nn.Linear(width, 3 * width, bias=False)
        self.out_proj = ZeroInitLinear(width, width, bias=False)

    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        """`(B, T, E) -> (B, T, E)`."""
        blocks = embeddings.unflatten(-1, (self.num_blocks, -1))
        query, key, value = self.qkv_proj(self.norm(blocks)).chunk(3, dim=-1)
        scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
        attended = torch.softmax(scores, dim=-1, dtype=torch.float32).to(value.dtype) @ value
        return (blocks + self.out_proj(attended)).flatten(-2)


class TimeEmbedding(nn.Module):
    """What time does to each token: an amplitude per token, zero at the start, times waves of its position.

    t(v, p) = W (a_v * [sin(p f), cos(p f)]), with frequencies f in a geometric row from 1 down to
    1 / max_position_embeddings. The position is that within the document, counted from its start: a cache knows it.
    """

    def __init__(self, config: StagedGeneratorConfig) -> None:
        super().__init__()
        self.longest = config.max_position_embeddings
        self.amplitudes = ZeroInitEmbedding(config.vocab_size, config.time_dim)
        self.out_proj = nn.Linear(config.time_dim, config.hidden_size, bias=False)

    def forward(self, input_ids: torch.LongTensor, position_ids: torch.LongTensor) -> torch.Tensor:
        """`(B, T)`, `(B or 1, T)` -> `(B, T, H)`."""
        amplitudes = self.amplitudes(input_ids)
        pairs = amplitudes.shape[-1] // 2
        steps = torch.arange(pairs, dtype=torch.float32, device=input_ids.device) / max(pairs - 1, 1)
        angles = position_ids[..., None].float() * float(self.longest) ** -steps
        waves = torch.cat((angles.sin(), angles.cos()), dim=-1)
        return self.out_proj(amplitudes * waves.to(amplitudes.dtype))


def block_decorrelation(embeddings: torch.Tensor, num_blocks: int) -> torch.Tensor:
    """Mean squared cosine between different blocks of a vector, `(n, E) -> (n,)`, float32; 0 for a single block."""
    cosines = block_cosines(embeddings, num_blocks)
    pairs = max(num_blocks * (num_blocks - 1), 1)
    return cosines.pow(2).sum((-1, -2)) / pairs


def block_cosines(embeddings: torch.Tensor, num_blocks: int) -> torch.Tensor:
    """Cosines between the blocks of each vector, `(n, E) -> (n, G, G)`, float32, with 0 on the diagonal."""
    unit = nn.functional.normalize(embeddings.float().unflatten(-1, (num_blocks, -1)), dim=-1, eps=1e-8)
    cosines = unit @ unit.transpose(-1, -2)
    return cosines * (1.0 - torch.eye(num_blocks, device=cosines.device))
