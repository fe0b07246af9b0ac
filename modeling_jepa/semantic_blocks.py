"""Token embeddings seen as equal semantic blocks.

Shapes: B batch, T sequence, E embedding size, G blocks, W = E / G their width.
"""

import torch
from torch import nn

from configuration_jepa.configuration_staged_generator import StagedGeneratorConfig
from modeling_jepa.layers import RMSNorm, ZeroInitLinear


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
