"""Attention of the staged generator: the usual one, with memory from stage 1 on, and far edges at stage 3.

What all layers need to know of the rows (who is padding, which document begins where, which edges a token has) is
found once per forward pass, in a `RowPlan`.

A cache keeps, beside keys and values, what the next tokens need: the sum of the log decays in columns of the keys, the
layer's hidden states (which the convolution looks back at) behind the values; and token and position of each place in
one layer more. So whatever is done to a cache (reordered for beams, cropped, repeated) is done to all of it.

Shapes: B batch, T new tokens, S places so far, N heads, D head dimension, H width.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.functional import pad
from transformers.cache_utils import Cache, DynamicLayer, StaticLayer
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs

from configuration_jepa.configuration_staged_generator import LAST_STAGE, StagedGeneratorConfig
from modeling_jepa.graph_routing import (
    NOBODY,
    Edges,
    FarAttention,
    ListedEdges,
    fibonacci_distances,
    listed_edges,
    sorted_edges,
)
from modeling_jepa.layers import (
    Attention,
    PositionEmbeddings,
    apply_rotary,
    full_precision_on_cpu,
    rotary_position_embeddings,
)
from modeling_jepa.temporal_memory import KERNEL, Earlier, Forgetting, ShortConvolution, decay_columns, sums_of

_BACK = KERNEL - 1


@dataclass(frozen=True)
class RowPlan:
    """What the layers need to know of the rows.

    Attributes:
        first: place of the first new token; a tensor with a static cache.
        real: `(B, T)`, False for padding among the new tokens; None where there is none.
        documents: `(B, S)`, a number per document; None where each row is one.
        earlier: which rows of a layer's input the convolution looks back at.
        before: `(B, 3)`, the cached places that stand before the new tokens, -1 for none; None without a cache.
        near: edges of the window; None for dense attention.
        far: kind of edge -> edges.
    """

    first: int | torch.Tensor
    real: torch.Tensor | None
    documents: torch.Tensor | None
    earlier: Earlier
    before: torch.Tensor | None
    near: Edges | None
    far: dict[str, Edges]


class StagedAttention(Attention):
    """Causal self-attention with what each stage adds; at stage 0 it is `Attention`.

    Queries, keys and values pass a short convolution each; scores fade by the decays between key and query; far edges
    are attended to beside it, with their own softmax, and added behind gates.
    """

    config: StagedGeneratorConfig

    def __init__(self, config: StagedGeneratorConfig, layer_idx: int, is_causal: bool = True) -> None:
        super().__init__(config, layer_idx, is_causal=is_causal)
        if config.stage >= 1:
            self.forgetting = Forgetting(config)
            self.convolutions = nn.ModuleList([ShortConvolution(config.hidden_size) for _ in range(3)])
        if config.stage == LAST_STAGE:
            self.far = nn.ModuleDict({kind: FarAttention(config) for kind in config.routing_edges})

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: PositionEmbeddings | None = None,
        attention_mask: torch.Tensor | None = None,
        key_value_states: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        plan: RowPlan | None = None,
        token_times: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Attend: see `Attention.forward`.

        Args:
            plan: needed from stage 1 on.
            token_times: `(B, T, time_dim)`, what the decay comes from where it is the token that decides.

        Returns:
            `(B, T, H)`, and below stage 3 the probabilities where the implementation gives them; at stage 3, where
            `output_attentions` asks for it, `(B, N, T, kinds)`: see `StagedGeneratorForCausalLM.attention_kinds`.
        """
        if plan is None or position_embeddings is None:
            return super().forward(
                hidden_states, position_embeddings, attention_mask, past_key_values=past_key_values, **kwargs
            )
        old_keys, old_values = self._cached(past_key_values, plan)
        rows = self._with_rows_before(hidden_states, old_values, plan)
        plain_query, plain_key, value = (
            self._split_heads(convolve(proj(rows), plan.earlier, hidden_states.shape[1]))
            for convolve, proj in zip(self.convolutions, (self.q_proj, self.k_proj, self.v_proj), strict=True)
        )
        plain_query, plain_key = self._normed(plain_query, self.q_norm), self._normed(plain_key, self.k_norm)
        query, key = (apply_rotary(states, position_embeddings) for states in (plain_query, plain_key))
        decays = self.forgetting(hidden_states if token_times is None else token_times, plan.real)
        sums = decays.cumsum(-1) + self._sum_before(old_keys, plan)
        columns = decay_columns(sums, value.dtype, self.scaling)
        key = torch.cat((key, columns.to(key.dtype)), dim=-1)
        query = torch.cat((query, query.new_ones(*query.shape[:-1], columns.shape[-1])), dim=-1)
        far_key, far_value = plain_key, value
        if past_key_values is not None:
            kept = torch.cat((value, self._split_heads(hidden_states).to(value.dtype)), dim=-1)
            key, value = past_key_values.update(key, kept, self.layer_idx)
            if plan.before is not None:
                far_key, far_value = key[..., : self.head_dim], value[..., : self.head_dim]
        with full_precision_on_cpu(query) as full_precision:
            if full_precision:
                query, key, value = query.float(), key.float(), value.float()
                plain_query, far_key, far_value = plain_query.float(), far_key.float(), far_value.float()
            output, probabilities = self._near(query, key, value, attention_mask, plan, **kwargs)
            if self.config.stage == LAST_STAGE:
                far = self._like_values(plain_query, far_key, far_value)
                for kind, edges in plan.far.items():
                    output = output + self.far[kind](edges, *far, self.scaling)
                probabilities = self._masses(plan, far, bool(kwargs.get("output_attentions")))
        return self.o_proj(output.flatten(2).contiguous()), probabilities

    def _near(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        plan: RowPlan,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """`(B, N, T, D + columns) -> (B, T, N, D)`. Kernels want values as wide as keys: the rest is cut off."""
        query, key, value = self._like_values(query, key, value)
        width = key.shape[-1]
        value = value[..., :width] if value.shape[-1] >= width else pad(value, (0, width - value.shape[-1]))
        if plan.near is not None:
            return plan.near.attend(query, key, value, self.scaling)[..., : self.head_dim], None
        output, probabilities = self._attend(query, key, value, attention_mask, **kwargs)
        return output[..., : self.head_dim], probabilities

    @staticmethod
    def _like_values(
        query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Under autocast normed queries and keys are float32, and values are not."""
        return query.to(value.dtype), key.to(value.dtype), value

    def _masses(
        self, plan: RowPlan, far: tuple[torch.Tensor, torch.Tensor, torch.Tensor], wanted: bool
    ) -> torch.Tensor | None:
        if not wanted:
            return None
        parts: dict[str, Any] = dict(self.far.items())
        masses = [parts[kind].mass(edges, *far, self.scaling) for kind, edges in plan.far.items()]
        return torch.stack([torch.ones_like(masses[0]), *masses], dim=-1)

    def _cached(self, cache: Cache | None, plan: RowPlan) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Keys and values of this layer so far; None where there are none."""
        if cache is None or plan.before is None or len(cache.layers) <= self.layer_idx:
            return None, None
        layer: Any = cache.layers[self.layer_idx]
        if not layer.is_initialized or layer.keys is None or layer.values is None:
            return None, None
        device = plan.before.device
        return layer.keys.to(device), layer.values.to(device)

    def _with_rows_before(
        self, hidden_states: torch.Tensor, old_values: torch.Tensor | None, plan: RowPlan
    ) -> torch.Tensor:
        """The new rows; before them, as `Earlier` has it, a row of zeros and three cached ones."""
        if plan.earlier.rows is None:
            return hidden_states
        if plan.before is None:
            return pad(hidden_states, (0, 0, 1, 0))
        if old_values is None:
            return pad(hidden_states, (0, 0, 1 + _BACK, 0))
        rows = old_values[..., self.head_dim :].transpose(1, 2)
        index = plan.before.clamp_min(0)[..., None, None].expand(-1, -1, *rows.shape[2:])
        before = rows.gather(1, index).flatten(2).masked_fill(plan.before[..., None] < 0, 0.0)
        return torch.cat((pad(before, (0, 0, 1, 0)).to(hidden_states.dtype), hidden_states), dim=1)

    def _sum_before(self, old_keys: torch.Tensor | None, plan: RowPlan) -> torch.Tensor | float:
        """The sum of log decays up to the last cached place, `(B, N, 1)`."""
        if old_keys is None:
            return 0.0
        columns = old_keys[..., self.head_dim :]
        last = torch.as_tensor(plan.first - 1, device=columns.device)
        sums = sums_of(columns.index_select(2, last.clamp_min(0).view(1)), self.scaling)
        return sums.masked_fill(last < 0, 0.0)


@torch.no_grad()
def make_plan(
    config: StagedGeneratorConfig,
    tokens: torch.Tensor | None,
    positions: torch.Tensor,
    present: torch.Tensor | None,
    documents_begin: bool,
    cache: Cache | None,
    first: int | torch.Tensor,
    table: torch.Tensor,
    dtype: torch.dtype,
) -> RowPlan:
    """Find what the layers need to know.

    Args:
        tokens: `(B, T)`; None below stage 3, where only embeddings are known.
        positions: `(B, T)`, place in the document of each new token.
        present: `(B, S)` or shorter, the padding mask.
        documents_begin: whether a position of 0 begins a document.
        first: place of the first new token.
        table: `(V, E)`, the token table, for edges between tokens that are alike.
        dtype: of the rotary positions.
    """
    length = positions.shape[1]
    ids = torch.full_like(positions, NOBODY) if tokens is None else tokens
    if cache is not None:
        ids, positions = _remember(config, ids, positions, cache)
    # A static cache holds more places than there are tokens.
    has_past = cache is not None and not (isinstance(first, int) and first == 0 and ids.shape[1] == length)
    queries = first + torch.arange(length, device=ids.device)
    real = _real(ids, present, queries, first)
    documents = _documents(positions, real, documents_begin, isinstance(first, int) and has_past)
    last, previous = _previous(ids, real, documents)
    earlier, before = _earlier(previous, last, real, queries, has_past)
    edges = _EdgeFinder(config, ids, positions, real, documents, previous, queries, has_past, dtype)
    return RowPlan(
        first=first,
        real=None if real is None else real.expand(ids.shape[0], -1).index_select(1, queries),
        documents=documents,
        earlier=earlier,
        before=before,
        near=edges.near() if config.stage == LAST_STAGE and config.routing_window else None,
        far=edges.far(table) if config.stage == LAST_STAGE else {},
    )


def _remember(
    config: StagedGeneratorConfig, ids: torch.Tensor, positions: torch.Tensor, cache: Cache
) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens and positions of all places so far, `(B, S)` both: one layer more of the cache."""
    place = config.num_hidden_layers
    if cache.layer_class_to_replicate is None and len(cache.layers) == place:
        if cache.get_seq_length():
            raise ValueError(f"past_key_values: this cache was not filled by a model of stage {config.stage}.")
        first = cache.layers[0]
        cache.layers.append(StaticLayer(first.max_cache_len) if isinstance(first, StaticLayer) else DynamicLayer())
    found = cache.update(ids[:, None, :, None], positions[:, None, :, None], place)
    ids, positions = (states[:, 0, :, 0] for states in found)
    return ids, positions


def _real(
    ids: torch.Tensor, present: torch.Tensor | None, queries: torch.Tensor, first: int | torch.Tensor
) -> torch.Tensor | None:
    """Which places hold a token, `(B or 1, S)`; None for all of them."""
    places = ids.shape[1]
    is_full = isinstance(first, int) and places == first + queries.shape[0]
    if present is None:
        if is_full:
            return None
        return (torch.arange(places, device=ids.device) <= queries[-1])[None]
    # Where it costs no wait for a device.
    if is_full and present.device.type == "cpu" and not torch.compiler.is_compiling() and bool(present.all()):
        return None
    lacking = places - present.shape[1]
    return pad(present.bool(), (0, lacking)) if lacking else present.bool()


def _documents(
    positions: torch.Tensor, real: torch.Tensor | None, begin: bool, may_be_one: bool
) -> torch.Tensor | None:
    if not begin:
        return None
    begins = positions == 0
    documents = (begins if real is None else begins & real).cumsum(-1)
    if may_be_one and not torch.compiler.is_compiling() and bool((documents[:, -1] <= 1).all()):
        return None
    return documents


def _places_by_rank(real: torch.Tensor, none: int) -> tuple[torch.Tensor, torch.Tensor]:
    """How many real places stand up to each, `(B, S)`, and where the n-th of them is, `(B, S + 2)`, `none` for n = 0
    and beyond the last. ONNX has no running maximum that would say it in one.
    """
    rank = real.cumsum(-1)
    place = torch.arange(real.shape[1], device=real.device).expand_as(rank)
    slots = place.new_full((real.shape[0], real.shape[1] + 2), none)
    slots = slots.scatter(1, torch.where(real, rank, 0), place)
    return rank, torch.cat((torch.full_like(slots[:, :1], none), slots[:, 1:]), dim=1)


def _previous(
    ids: torch.Tensor, real: torch.Tensor | None, documents: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The last real place up to each place, and the one before it in the same document; -1 for none. `(B, S)` both."""
    place = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    last = place
    if real is not None:
        rank, places = _places_by_rank(real.expand_as(ids), -1)
        last = places.gather(1, rank)
    previous = pad(last[:, :-1], (1, 0), value=-1)
    if documents is not None:
        same = documents.gather(1, previous.clamp_min(0)) == documents
        previous = torch.where(same, previous, -1)
    return last, previous


def _earlier(
    previous: torch.Tensor,
    last: torch.Tensor,
    real: torch.Tensor | None,
    queries: torch.Tensor,
    has_past: bool,
) -> tuple[Earlier, torch.Tensor | None]:
    """`earlier` and `before` of the plan."""
    places = [previous.index_select(1, queries)]
    for _ in range(_BACK - 1):
        places.append(_step(previous, places[-1]))
    found, before = torch.stack(places), None
    if not has_past:
        if not torch.compiler.is_compiling() and (missing := _missing_neighbours(found, real)):
            return Earlier(None, missing), None
        rows = found + 1  # behind the row of zeros
    else:
        newest = queries[:1] - 1
        cached = [torch.where(newest >= 0, last.index_select(1, newest.clamp_min(0)), -1)]
        for _ in range(_BACK - 1):
            cached.append(torch.where(cached[-1] > 0, last.gather(1, (cached[-1] - 1).clamp_min(0)), -1))
        before = torch.cat(cached[::-1], dim=1)
        # Real tokens follow each other in the cached rows, whatever stands between their places.
        rank = last + 1 if real is None else real.expand_as(last).cumsum(-1)
        ranks = torch.stack([_at_or(rank, each) for each in found])
        so_far = torch.where(newest >= 0, rank.index_select(1, newest.clamp_min(0)), 0)
        rows = torch.where(found >= queries[0], found - queries[0] + 1 + _BACK, _BACK - (so_far - ranks))
        rows = torch.where(found < 0, 0, rows)
    total = queries.shape[0] + 1 + (_BACK if has_past else 0)
    row_starts = total * torch.arange(previous.shape[0], device=previous.device)[:, None]
    return Earlier((rows + row_starts).flatten(1)), before


def _missing_neighbours(found: torch.Tensor, real: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
    """`Earlier.missing` of places `(3, B, T)`, -1 for none; empty where padding stands inside a row."""
    back = torch.arange(1, KERNEL, device=found.device)[:, None, None]
    beside = torch.arange(found.shape[2], device=found.device) - back
    elsewhere = (found >= 0) & (found != beside)
    if bool((elsewhere if real is None else elsewhere & real).any()):
        return ()
    return tuple(absent.flatten().nonzero().flatten() for absent in (found < 0) & (beside >= 0))


def _step(previous: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    return torch.where(places >= 0, previous.gather(1, places.clamp_min(0)), -1)


def _at_or(values: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    return values.gather(1, places.clamp_min(0))


@dataclass(frozen=True)
class _EdgeFinder:
    """What edges are found from."""

    config: StagedGeneratorConfig
    ids: torch.Tensor
    positions: torch.Tensor
    real: torch.Tensor | None
    documents: torch.Tensor | None
    previous: torch.Tensor
    queries: torch.Tensor
    has_past: bool
    dtype: torch.dtype

    def near(self) -> Edges:
        """A token, and the `routing_window` before it."""
        window = self.config.routing_window
        if self.has_past:
            return self._at_distances(torch.arange(window + 1, device=self.ids.device))
        groups = torch.zeros_like(self.ids) if self.documents is None else self.documents
        return sorted_edges(self._only_real(groups), window, lowest=0)

    def far(self, table: torch.Tensor) -> dict[str, Edges]:
        """Kind -> edges."""
        found: dict[str, Edges] = {}
        following = self._following()
        for kind in self.config.routing_edges:
            if kind == "fibonacci":
                distances = fibonacci_distances(self.config.routing_window, self.config.max_position_embeddings)
                found[kind] = self._turned(self._at_distances(torch.tensor(distances, device=self.ids.device)))
                continue
            targets = None if kind == "places" else following
            groups, count = self._groups(kind, table), self.config.routing_occurrences
            if self.has_past:
                found[kind] = self._turned(
                    listed_edges(groups, self.queries[0], self.queries.shape[0], count, targets)
                )
            else:
                found[kind] = sorted_edges(groups, count, targets=targets)
        return found

    def _groups(self, kind: str, table: torch.Tensor) -> torch.Tensor:
        """`(B, S)`: equal where an earlier place is an occurrence of a later one."""
        groups, size = self.ids, table.shape[0]
        if kind == "blocks":
            groups, size = self._codes(table)[groups.clamp_min(0)], 2**self.config.routing_code_bits
        elif kind == "pairs":
            before = _at_or(self.ids, self.previous)
            groups, size = torch.where(self.previous < 0, NOBODY, before * size + groups), size**2
        if self.documents is not None:
            groups = torch.where(groups < 0, NOBODY, self.documents * size + groups)
        return self._only_real(groups)

    def _codes(self, table: torch.Tensor) -> torch.Tensor:
        """Code of each token `(V,)`: signs of entries of the chosen blocks, one of each block in turn."""
        blocks = table.unflatten(-1, (self.config.num_semantic_blocks, -1))
        chosen = (
            range(self.config.num_semantic_blocks)
            if self.config.routing_blocks is None
            else self.config.routing_blocks
        )
        signs = blocks[:, list(chosen)].transpose(1, 2).flatten(1)[:, : self.config.routing_code_bits] > 0
        return (signs.long() << torch.arange(signs.shape[1], device=table.device)).sum(-1)

    def _following(self) -> torch.Tensor:
        """The next real place after each, `(B, S)`."""
        places = self.ids.shape[1]
        if self.real is None:
            place = torch.arange(places, device=self.ids.device).expand_as(self.ids)
            return (place + 1).clamp_max(places - 1)
        rank, found = _places_by_rank(self.real.expand_as(self.ids), places - 1)
        return found.gather(1, rank + 1)

    def _at_distances(self, distances: torch.Tensor) -> ListedEdges:
        """Edges to the tokens so many real tokens before."""
        rank = torch.arange(self.ids.shape[1], device=self.ids.device).expand_as(self.ids)
        order = rank
        if self.real is not None:
            real = self.real.expand_as(self.ids)
            rank, order = (real.cumsum(-1) - 1).clamp_min(0), (~real).long().argsort(dim=-1, stable=True)
        own = rank.index_select(1, self.queries)
        earlier = own[..., None] - distances
        index = _at(order, earlier.clamp_min(0))
        mask = earlier >= 0
        if self.real is not None:
            mask = mask & self.real.expand_as(self.ids).index_select(1, self.queries)[..., None]
        if self.documents is not None:
            mask = mask & (_at(self.documents, index) == self.documents.index_select(1, self.queries)[..., None])
        return ListedEdges(index, mask)

    def _turned(self, edges: ListedEdges) -> ListedEdges:
        """Cached keys are rotated: they are turned back."""
        if not self.has_past:
            return edges
        head_dim = self.config.hidden_size // self.config.num_attention_heads
        positions = _at(self.positions, edges.index).flatten(1)
        turned = rotary_position_embeddings(positions, head_dim, self.config.rope_theta, self.dtype)
        cos, sin = (part.double().view(*edges.index.shape, head_dim) for part in turned)
        length = cos.square() + sin.square()  # not quite 1: both are rounded
        return ListedEdges(edges.index, edges.mask, (cos / length, -sin / length))

    def _only_real(self, groups: torch.Tensor) -> torch.Tensor:
        return groups if self.real is None else groups.masked_fill(~self.real, NOBODY)


def _at(values: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """`values` (B, S) at `index` (B, T, K)."""
    return values.gather(1, index.flatten(1)).view(index.shape)
