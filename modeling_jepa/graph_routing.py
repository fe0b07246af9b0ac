"""Graph routing (stage 3): edges from a token to far places that its content names, and attention along them.

Each kind of edge leads from a query to K places. Those after earlier occurrences of the same token are found by one
stable sort of (group, place) per row, O(T log T): in sorted order the k-th earlier occurrence stands k places before,
so attention along the edges is attention inside a band of width K, computed in blocks; nothing has the size T x T,
forward or backward. One token after a cache compares itself with what is cached and gathers its K places.

Which edges a token has is decided in whole numbers, by the tokens up to its own: batch-mates, padding and a cache
cannot change them.

Shapes: B batch, T queries, S places so far, N heads, D head dimension, K edges of one kind.
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import pad, scaled_dot_product_attention

from configuration_jepa.configuration_staged_generator import StagedGeneratorConfig

NOBODY = -1  # the group of padding, and of what has no edges
_BLOCK = 32  # queries that are computed together; each block reads `_BLOCK` + K keys
_FEW = 8  # queries up to which comparing with every place is quicker than sorting
_ELEMENTS = 2**24  # of the gathered keys of one chunk


@dataclass(frozen=True)
class SortedEdges:
    """Edges of whole rows: from each query to places that stand shortly before it in the order of its group.

    Attributes:
        queries: `(B x blocks, size)`, rows of `(B x T, ...)` in sorted order; what lacks to whole blocks is any row.
        keys: `(B x blocks, reach)`, the rows that a block reads.
        mask: `(B x blocks, size, reach)`, False where there is no such edge.
        back: `(B x T,)`, where each query's output stands.
    """

    queries: torch.Tensor
    keys: torch.Tensor
    mask: torch.Tensor
    back: torch.Tensor

    def attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scaling: float,
        null_key: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """softmax(q . k of the edges) times their values; all `(B, N, T, D) -> (B, T, N, D)`.

        Args:
            null_key: `(N, D)`, a key of nothing: who attends to it gets 0.
        """
        batch, heads, length, width = query.shape
        query, key, value = (states.transpose(1, 2).reshape(batch * length, -1) for states in (query, key, value))
        rows, mask = self.keys, self.mask
        if null_key is not None:  # one row more, which every block reads
            nobody = rows.new_full((rows.shape[0], 1), batch * length)  # `pad` would fix the length of an export
            rows, mask = torch.cat((rows, nobody), dim=1), pad(mask, (0, 1), value=True)
            key, value = torch.cat((key, null_key.to(key.dtype).view(1, -1))), pad(value, (0, 0, 0, 1))
        queries, keys, values = (
            states.index_select(0, index.flatten()).view(*index.shape, heads, width).transpose(1, 2)
            for states, index in ((query, self.queries), (key, rows), (value, rows))
        )
        output = scaled_dot_product_attention(queries, keys, values, attn_mask=mask[:, None], scale=scaling)
        output = output.transpose(1, 2).reshape(-1, heads * width)
        return output.index_select(0, self.back).view(batch, length, heads, width)


@dataclass(frozen=True)
class ListedEdges:
    """Edges of some queries, one by one.

    Attributes:
        index: `(B, T, K)` places among the S.
        mask: `(B, T, K)`, False where there is no such edge.
        turn: cosine and sine `(B, T, K, D)` that keys are turned by first; None for none.
    """

    index: torch.Tensor
    mask: torch.Tensor
    turn: tuple[torch.Tensor, torch.Tensor] | None = None

    def attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scaling: float,
        null_key: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """As of `SortedEdges`, with S keys and values; gathers once per chunk of queries."""
        if torch.compiler.is_compiling():  # chunks would fix the length of an export
            return self._attend(slice(None), query, key, value, scaling, null_key)
        size = max(1, _ELEMENTS // (query.shape[0] * query.shape[1] * self.index.shape[2] * query.shape[3]))
        parts = [slice(start, start + size) for start in range(0, self.index.shape[1], size)]
        return torch.cat([self._attend(part, query, key, value, scaling, null_key) for part in parts], dim=1)

    def _attend(
        self,
        part: slice,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scaling: float,
        null_key: torch.Tensor | None,
    ) -> torch.Tensor:
        index, mask, few = self.index[:, part], self.mask[:, None, part], query[:, :, part]
        keys, values = _gather(key, index), _gather(value, index)
        if self.turn is not None:
            precise = torch.promote_types(keys.dtype, torch.float32)
            cos, sin = (states[:, None, part].to(precise) for states in self.turn)
            first, second = keys.chunk(2, dim=-1)
            keys = (keys * cos + torch.cat((-second, first), dim=-1) * sin).to(keys.dtype)
        scores = (keys @ few[..., None]).squeeze(-1)
        if null_key is not None:
            scores = torch.cat((scores, few @ null_key[..., None].to(few.dtype)), dim=-1)
            values, mask = pad(values, (0, 0, 0, 1)), pad(mask, (0, 1), value=True)
        scores = (scores * scaling).masked_fill(~mask, torch.finfo(scores.dtype).min)
        precise = torch.promote_types(scores.dtype, torch.float32)
        probabilities = torch.softmax(scores, dim=-1, dtype=precise).to(values.dtype)
        return (probabilities[..., None, :] @ values).squeeze(-2).transpose(1, 2)


Edges = SortedEdges | ListedEdges


class FarAttention(nn.Module):
    """What a layer learns about one kind of edge: per head a gate, zero at the start, and a key of nobody.

    The gated output of each head is added to that of its usual attention; queries and keys come without rotary
    positions.
    """

    def __init__(self, config: StagedGeneratorConfig) -> None:
        super().__init__()
        heads = config.num_attention_heads
        self.gate = nn.Parameter(torch.zeros(heads))
        self.null_key = nn.Parameter(torch.zeros(heads, config.hidden_size // heads))

    def forward(
        self, edges: Edges, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float
    ) -> torch.Tensor:
        """`(B, N, T, D) -> (B, T, N, D)`."""
        return self.gate[:, None].to(value.dtype) * edges.attend(query, key, value, scaling, self.null_key)

    def mass(
        self, edges: Edges, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float
    ) -> torch.Tensor:
        """How much of each head's attention goes along these edges, times the size of its gate: `(B, N, T)`."""
        shares = edges.attend(query, key, torch.ones_like(value), scaling, self.null_key)
        return (self.gate.abs()[:, None] * shares).mean(-1).transpose(1, 2)


def fibonacci_distances(above: int, below: int) -> tuple[int, ...]:
    """Fibonacci numbers d with above < d < below, ascending."""
    first, second, found = 1, 2, []
    while first < below:
        found += [first] if first > above else []
        first, second = second, first + second
    return tuple(found)


@torch.no_grad()
def sorted_edges(
    groups: torch.Tensor, highest: int, lowest: int = 1, targets: torch.Tensor | None = None
) -> SortedEdges:
    """Edges to the `lowest`-th to `highest`-th latest place of the same group.

    Args:
        groups: `(B, T)` whole numbers, `NOBODY` for who has no edges.
        highest, lowest: `lowest` is 0 where a token attends to itself as well.
        targets: `(B, T)`, the place that an edge to a place leads to instead; by default that place itself.
    """
    batch, length = groups.shape
    found, order = _sorted(groups)
    ends = order if targets is None else targets.gather(1, order).clamp_max(length - 1)
    size = max(_BLOCK, highest)
    blocks = (length + size - 1) // size
    if torch.compiler.is_compiling():
        blocks = blocks + 1  # a graph made for a single block would be of no use for longer rows
    starts = size * torch.arange(blocks, device=order.device)[:, None]
    own = (starts + torch.arange(size, device=order.device)).flatten()
    read = (starts - highest + torch.arange(size + highest - lowest, device=order.device)).flatten()
    queries, keys = own.clamp_max(length - 1), read.clamp(0, length - 1)
    distance = own.view(blocks, -1, 1) - read.view(blocks, 1, -1)
    group = found[:, queries].view(batch, blocks, -1, 1)
    mask = (group == found[:, keys].view(batch, blocks, 1, -1)) & (group != NOBODY) & (read >= 0).view(blocks, 1, -1)
    mask = mask & (distance >= lowest) & (distance <= highest)
    if not lowest:
        mask = mask | (distance == 0)  # padding attends to itself: there is nobody else
    row = torch.arange(batch, device=order.device)[:, None]
    place = torch.arange(length, device=order.device).expand_as(order)
    back = torch.empty_like(order).scatter_(1, order, place) + row * blocks * size
    return SortedEdges(
        queries=(order[:, queries] + row * length).view(batch * blocks, -1),
        keys=(ends[:, keys] + row * length).view(batch * blocks, -1),
        mask=mask.flatten(0, 1),
        back=back.flatten(),
    )


@torch.no_grad()
def listed_edges(
    groups: torch.Tensor, first: torch.Tensor | int, length: int, count: int, targets: torch.Tensor | None = None
) -> ListedEdges:
    """Edges of the `length` queries from place `first` on to the latest `count` earlier places of the same group.

    Args:
        groups: `(B, S)`, `NOBODY` for who has no edges; places after the queries may hold anything.
        targets: see `sorted_edges`.
    """
    queries = first + torch.arange(length, device=groups.device)
    find = _by_comparison if length <= _FEW else _by_sorting
    index = find(groups, queries, count)
    mask = index >= 0
    index = index.clamp_min(0)
    return ListedEdges(index if targets is None else _at(targets, index), mask)


def _by_comparison(groups: torch.Tensor, queries: torch.Tensor, count: int) -> torch.Tensor:
    """Latest `count` earlier places of the same group `(B, T, count)`, -1 where there are fewer."""
    own = groups.index_select(1, queries)[..., None]
    place = torch.arange(groups.shape[1], device=groups.device)
    same = (own == groups[:, None]) & (own != NOBODY) & (place < queries[:, None])
    found = torch.where(same, place, -1).topk(min(count, groups.shape[1]), dim=-1).values
    return pad(found, (0, count - found.shape[-1]), value=-1)


def _sorted(groups: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Groups in ascending order, and the places that they come from, ascending within a group: a stable sort, by keys
    that are all different, as ONNX has no other.
    """
    length = groups.shape[1]
    keys = (groups - NOBODY) * length + torch.arange(length, device=groups.device)
    keys = keys.sort(dim=-1).values
    found = keys // length
    return found + NOBODY, keys - found * length


def _by_sorting(groups: torch.Tensor, queries: torch.Tensor, count: int) -> torch.Tensor:
    # What stands after the last query is nobody's.
    place = torch.arange(groups.shape[1], device=groups.device)
    found, order = _sorted(groups.masked_fill(place > queries[-1], NOBODY))
    back = torch.empty_like(order).scatter_(1, order, place.expand_as(order)).index_select(1, queries)[..., None]
    earlier = back - torch.arange(1, count + 1, device=groups.device)
    safe = earlier.clamp_min(0)
    own = groups.index_select(1, queries)[..., None]
    same = (earlier >= 0) & (_at(found, safe) == own) & (own != NOBODY)
    return torch.where(same, _at(order, safe), -1)


def _gather(states: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """`(B, N, S, D)`, places `(B, C, K)` -> `(B, N, C, K, D)`."""
    batch, heads, places, width = states.shape
    if not (states.is_contiguous() or torch.compiler.is_compiling()):  # to make it so would copy the whole cache
        rows = torch.arange(batch, device=index.device)[:, None, None]
        return states.transpose(1, 2)[rows, index].permute(0, 3, 1, 2, 4)
    first = torch.arange(batch * heads, device=index.device).view(batch, heads, 1, 1) * places
    rows = index[:, None] + first
    return states.reshape(-1, width).index_select(0, rows.flatten()).view(*rows.shape, width)


def _at(values: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """`values` (B, S) at `index` (B, C, K)."""
    return values.gather(1, index.flatten(1)).view(index.shape)
