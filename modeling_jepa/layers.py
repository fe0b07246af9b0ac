"""The layers of every family: norm, rotary positions, attention and its cache, MLP, block. The only copy.

Shapes: B batch, T sequence, S attended sequence, H hidden size, N heads, D head dimension.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers.activations import ACT2FN
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, EncoderDecoderCache
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs

from configuration_jepa.configuration_base import JepaConfig

PositionEmbeddings = tuple[torch.Tensor, torch.Tensor]
_LEAST_ROOM, _SHARE_OF_ROOM = 64, 8  # places, and of those held: kept behind the last token of a cache


class ZeroInitLinear(nn.Linear):
    """A linear layer whose weights start at zero.

    A class of its own, because the library asks a module that has no parameters itself for no initialisation: whoever
    holds this layer could not set it.
    """


class ZeroInitEmbedding(nn.Embedding):
    """A table whose rows start at zero."""


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last axis (Zhang and Sennrich, 2019, arXiv:1910.07467).

    Inside it computes in float32, or in float64 when that comes in.
    """

    def __init__(self, hidden_size: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden_size))
        self.eps = eps

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """`(..., H) -> (..., H)`, in the input's dtype."""
        wide = hidden_states.to(torch.promote_types(hidden_states.dtype, torch.float32))
        normed = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * normed.to(hidden_states.dtype)


def rotary_position_embeddings(
    position_ids: torch.Tensor, head_dim: int, theta: float, dtype: torch.dtype
) -> PositionEmbeddings:
    """Cosine and sine of each position's rotation angles (Su et al., 2021, arXiv:2104.09864).

    Computed, not stored: a buffer would come back as garbage from a model built on the meta device.

    Args:
        position_ids: `(B or 1, T)` integers.
        head_dim: D, even.
        theta: base of the geometric row of frequencies.
        dtype: of the result; the angles are float32 throughout.

    Returns:
        Two tensors `(B or 1, T, D)`.
    """
    pairs = torch.arange(0, head_dim, 2, dtype=torch.float32, device=position_ids.device)
    angles = position_ids[..., None].float() * theta ** (-pairs / head_dim)
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def apply_rotary(states: torch.Tensor, position_embeddings: PositionEmbeddings) -> torch.Tensor:
    """Rotate `states` (B, N, T, D) by the angles of `position_embeddings`, each (B or 1, T, D)."""
    cos, sin = (part.unsqueeze(1) for part in position_embeddings)
    first, second = states.chunk(2, dim=-1)
    return states * cos + torch.cat((-second, first), dim=-1) * sin


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Unpack[TransformersKwargs],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention written out: `(B, N, T, D)` queries -> `(B, T, N, D)` and probabilities `(B, N, T, S)`."""
    scores = torch.matmul(query, key.transpose(2, 3)) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    precise = torch.promote_types(scores.dtype, torch.float32)
    probabilities = nn.functional.softmax(scores, dim=-1, dtype=precise).to(query.dtype)
    probabilities = nn.functional.dropout(probabilities, p=dropout, training=module.training)
    return torch.matmul(probabilities, value).transpose(1, 2).contiguous(), probabilities


class Attention(nn.Module):
    """Multi-head attention through the library's attention interface and caches (Vaswani et al., 2017).

    Args:
        config: gives `hidden_size`, `num_attention_heads`, `attention_dropout`, `qk_norm` and the attention
            implementation.
        layer_idx: this layer's place in a cache.
        is_causal: whether a missing mask means causal (the interfaces read it); the mask given decides otherwise.
        is_cross_attention: keys and values come from another sequence, without rotary positions.
    """

    def __init__(
        self, config: JepaConfig, layer_idx: int, is_causal: bool = False, is_cross_attention: bool = False
    ) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.is_causal = is_causal
        self.is_cross_attention = is_cross_attention
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.num_key_value_groups = 1  # read by the library's interfaces
        self.scaling = self.head_dim**-0.5
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.o_proj = _last_linear(config)(config.hidden_size, config.hidden_size, bias=False)
        self.q_norm = RMSNorm(self.head_dim, config.norm_eps) if config.qk_norm else None
        self.k_norm = RMSNorm(self.head_dim, config.norm_eps) if config.qk_norm else None

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: PositionEmbeddings | None = None,
        attention_mask: torch.Tensor | None = None,
        key_value_states: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Attend.

        Args:
            hidden_states: `(B, T, H)`, the queries' sequence.
            position_embeddings: rotary cosine and sine of the queries' positions; for self-attention.
            attention_mask: what the library's mask functions make for the implementation in use.
            key_value_states: `(B, S, H)`, the attended sequence of cross-attention.
            past_key_values: a cache; an `EncoderDecoderCache` computes the cross-attended keys only once.
            **kwargs: for the attention interface.

        Returns:
            `(B, T, H)`, and the probabilities `(B, N, T, S)` where the implementation gives them.
        """
        query = self._normed(self._split_heads(self.q_proj(hidden_states)), self.q_norm)
        if self.is_cross_attention:
            key, value = self._cross_key_value(key_value_states, past_key_values)
        else:
            query, key, value = self._self_key_value(query, hidden_states, position_embeddings, past_key_values)

        with full_precision_on_cpu(query) as full_precision:
            if full_precision:
                query, key, value = query.float(), key.float(), value.float()
            output, probabilities = self._attend(query, key, value, attention_mask, **kwargs)
        return self.o_proj(output.flatten(2).contiguous()), probabilities

    def _attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        attend: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        return attend(
            self,
            query,
            key,
            value,
            attention_mask,
            dropout=self.config.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
            **kwargs,
        )

    def _self_key_value(
        self,
        query: torch.Tensor,
        hidden_states: torch.Tensor,
        position_embeddings: PositionEmbeddings | None,
        cache: Cache | None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        key = self._normed(self._split_heads(self.k_proj(hidden_states)), self.k_norm)
        value = self._split_heads(self.v_proj(hidden_states))
        if position_embeddings is not None:
            query, key = apply_rotary(query, position_embeddings), apply_rotary(key, position_embeddings)
        if cache is not None:
            own = cache.self_attention_cache if isinstance(cache, EncoderDecoderCache) else cache
            key, value = own.update(key, value, self.layer_idx)
        return query, key, value

    def _cross_key_value(
        self, key_value_states: torch.Tensor | None, cache: Cache | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if isinstance(cache, EncoderDecoderCache) and cache.is_updated.get(self.layer_idx):
            layer: Any = cache.cross_attention_cache.layers[self.layer_idx]
            return layer.keys, layer.values
        if key_value_states is None:
            raise ValueError("key_value_states is None: cross-attention needs the attended sequence (B, S, H).")
        key = self._normed(self._split_heads(self.k_proj(key_value_states)), self.k_norm)
        value = self._split_heads(self.v_proj(key_value_states))
        if isinstance(cache, EncoderDecoderCache):
            key, value = cache.cross_attention_cache.update(key, value, self.layer_idx)
            cache.is_updated[self.layer_idx] = True
        return key, value

    @staticmethod
    def _normed(states: torch.Tensor, norm: RMSNorm | None) -> torch.Tensor:
        return states if norm is None else norm(states)

    def _split_heads(self, states: torch.Tensor) -> torch.Tensor:
        """`(B, T, H) -> (B, N, T, D)`."""
        return states.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)


def _last_linear(config: JepaConfig) -> type[nn.Linear]:
    """The class of a branch's last matrix."""
    return ZeroInitLinear if config.zero_init_residual else nn.Linear


@contextmanager
def full_precision_on_cpu(states: torch.Tensor) -> Iterator[bool]:
    """Switch a CPU's autocast off, and say whether that was done.

    There the backward pass of attention is six times slower in bfloat16 than in float32 (14.5 against 2.3 ms for
    64 x 4 x 34 x 32, torch 2.13), while everything else is faster.
    """
    if states.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
        yield False
        return
    with torch.autocast("cpu", enabled=False):
        yield True


class MLP(nn.Module):
    """Two linear layers with an activation between them, or an activated gate beside the first."""

    def __init__(self, config: JepaConfig) -> None:
        super().__init__()
        inner_size = config.intermediate_size or 4 * config.hidden_size
        self.up_proj = nn.Linear(config.hidden_size, inner_size, bias=False)
        self.down_proj = _last_linear(config)(inner_size, config.hidden_size, bias=False)
        self.gate_proj = nn.Linear(config.hidden_size, inner_size, bias=False) if config.gated_mlp else None
        self.activation = ACT2FN[config.hidden_act]

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """`(..., H) -> (..., H)`."""
        inner = self.up_proj(hidden_states)
        if self.gate_proj is None:
            return self.down_proj(self.activation(inner))
        return self.down_proj(self.activation(self.gate_proj(hidden_states)) * inner)


class Block(GradientCheckpointingLayer):
    """Pre-norm transformer block: self-attention, cross-attention by choice, MLP; each added to the residual stream.

    Args:
        config: see `JepaConfig`.
        layer_idx: place in the trunk, and in a cache.
        is_causal: passed to self-attention.
        has_cross_attention: whether the block also attends to another sequence.
        attention: class of its self-attention.
    """

    def __init__(
        self,
        config: JepaConfig,
        layer_idx: int,
        is_causal: bool = False,
        has_cross_attention: bool = False,
        attention: type[Attention] = Attention,
    ) -> None:
        super().__init__()
        self.self_attn_norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.self_attn = attention(config, layer_idx, is_causal=is_causal)
        if has_cross_attention:
            self.cross_attn_norm = RMSNorm(config.hidden_size, config.norm_eps)
            self.cross_attn = Attention(config, layer_idx, is_cross_attention=True)
        self.has_cross_attention = has_cross_attention
        self.mlp_norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.mlp = MLP(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: PositionEmbeddings | None = None,
        attention_mask: torch.Tensor | None = None,
        encoder_hidden_states: torch.Tensor | None = None,
        encoder_attention_mask: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        """`(B, T, H) -> (B, T, H)`; arguments as of `Attention.forward`, those of cross-attention with `encoder_`."""
        attended, _ = self.self_attn(
            self.self_attn_norm(hidden_states),
            position_embeddings=position_embeddings,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            **kwargs,
        )
        hidden_states = hidden_states + self.dropout(attended)
        if self.has_cross_attention:
            attended, _ = self.cross_attn(
                self.cross_attn_norm(hidden_states),
                attention_mask=encoder_attention_mask,
                key_value_states=encoder_hidden_states,
                past_key_values=past_key_values,
                **kwargs,
            )
            hidden_states = hidden_states + self.dropout(attended)
        return hidden_states + self.dropout(self.mlp(self.mlp_norm(hidden_states)))


class GrowingLayer(DynamicLayer):
    """The library's dynamic layer, with room kept behind the last token, so that further ones are written in place.

    `keys` and `values`, `(B, N, S, D)`, are views of larger tensors. Where gradients flow, under a compiler, and after
    the cache was reordered, repeated or cropped, new tensors are made, as the library does.
    """

    _room: tuple[torch.Tensor, ...] | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add `(B, N, T, D)` states; returns those of all S places."""
        flows = torch.is_grad_enabled() and (key_states.requires_grad or value_states.requires_grad)
        if flows or torch.compiler.is_compiling():
            self._room = None
            return super().update(key_states, value_states, *args, **kwargs)
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        past = self.get_seq_length()
        length = past + key_states.shape[-2]
        if not self._fits(length):
            size = length + max(_LEAST_ROOM, length // _SHARE_OF_ROOM)
            pairs = ((self.keys, key_states), (self.values, value_states))
            self._room = tuple(_roomy(held, states, past, size) for held, states in pairs)
        assert self._room is not None
        for room, states in zip(self._room, (key_states, value_states), strict=True):
            room[..., past:length, :] = states
        self.keys, self.values = (room[..., :length, :] for room in self._room)
        return self.keys, self.values

    def crop(self, tokens_to_remove: int) -> None:
        """Remove tokens from the end; what others hold of them stays as it was."""
        super().crop(tokens_to_remove)
        self._room = None

    def reset(self) -> None:
        """Forget everything."""
        self._room = None
        super().reset()

    def _fits(self, length: int) -> bool:
        """Whether the tensors at hand are still the front of the room, and so many places find it there."""
        if self._room is None or self.keys is None or self.values is None or self._room[0].shape[-2] < length:
            return False
        if self._room[0].is_inference() and not torch.is_inference_mode_enabled():
            return False
        return all(
            held.data_ptr() == room.data_ptr() and held.shape[:2] == room.shape[:2] and held.stride() == room.stride()
            for held, room in zip((self.keys, self.values), self._room, strict=True)
        )


def growing(cache: Cache | None) -> Cache | None:
    """The cache, whose dynamic layers grow where they hold nothing yet; others stay as they are."""
    if isinstance(cache, DynamicCache) and not torch.compiler.is_compiling():
        if cache.layer_class_to_replicate is DynamicLayer:
            cache.layer_class_to_replicate = GrowingLayer
        for place, layer in enumerate(cache.layers):
            if type(layer) is DynamicLayer and not layer.is_initialized:
                cache.layers[place] = GrowingLayer()
    return cache


def _roomy(held: torch.Tensor | None, states: torch.Tensor, past: int, size: int) -> torch.Tensor:
    """`(B, N, size, D)` that begins with what was held."""
    room = states.new_empty(*states.shape[:-2], size, states.shape[-1])
    if held is not None and past:
        room[..., :past, :] = held
    return room
