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
    """Edges of whole rows: from each query to the `lowest` to `highest` places before it in the order of its group.

    Attributes:
        queries, keys: `(B x T,)` rows of `(B x T, ...)` in sorted order; None where that is the order there is.
        back: `(B x T,)`, the sorted place of each query.
        mask: `(B, blocks, block, keys of a block)`, False where there is no such edge.
        highest: width of the band.
        lowest: 0 where a token attends to itself as well.
    """

    queries: torch.Tensor | None
    keys: torch.Tensor | None
    back: torch.Tensor | None
    mask: torch.Tensor
    lowest: int
    highest: int

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
        length = query.shape[2]
        batch, blocks, size, reach = self.mask.shape
        lacking = blocks * size - length
        around = (0, 0, self.highest, lacking - self.lowest)
        queries = pad(_sorted(query, self.queries), (0, 0, 0, lacking)).unflatten(2, (blocks, size))
        keys, values = (
            pad(_sorted(states, self.keys), around).unfold(2, reach, size).transpose(-1, -2) for states in (key, value)
        )
        queries, keys, values = (states.transpose(1, 2).flatten(0, 1) for states in (queries, keys, values))
        mask = self.mask.flatten(0, 1)[:, None]
        if null_key is not None:
            shape = (keys.shape[0], -1, 1, -1)
            keys = torch.cat((keys, null_key[:, None].to(keys.dtype).expand(shape)), dim=2)
            values, mask = pad(values, (0, 0, 0, 1)), pad(mask, (0, 1), value=True)
        output = scaled_dot_product_attention(queries, keys, values, attn_mask=mask, scale=scaling)
        output = output.unflatten(0, (batch, blocks)).transpose(2, 3).flatten(1, 2)[:, :length]
        return output if self.back is None else _rows(output, self.back)


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
        size = self.index.shape[1]
        if not torch.compiler.is_compiling():
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
    groups: torch.Tensor | None, like: torch.Tensor, highest: int, lowest: int = 1, targets: torch.Tensor | None = None
) -> SortedEdges:
    """Edges to the `lowest`-th to `highest`-th latest place of the same group.

    Args:
        groups: `(B, T)` whole numbers, `NOBODY` for who has no edges; None: the row is one group.
        like: `(B, T)`, for shape and device.
        targets: `(B, T)`, the place that an edge to a place leads to instead; by default that place itself.
    """
    batch, length = like.shape
    if groups is None:
        band = _band(torch.zeros_like(like, dtype=torch.long), highest, lowest)
        return SortedEdges(None, None, None, band, lowest, highest)
    found, order = groups.sort(dim=-1, stable=True)
    first = length * torch.arange(batch, device=order.device)[:, None]
    ends = order if targets is None else targets.gather(1, order).clamp_max(length - 1)
    back = torch.empty_like(order).scatter_(1, order, torch.arange(length, device=order.device).expand_as(order))
    queries, keys, back = ((rows + first).flatten() for rows in (order, ends, back))
    return SortedEdges(queries, keys, back, _band(found, highest, lowest), lowest, highest)


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


def _by_sorting(groups: torch.Tensor, queries: torch.Tensor, count: int) -> torch.Tensor:
    # What stands after the last query is nobody's.
    place = torch.arange(groups.shape[1], device=groups.device)
    found, order = groups.masked_fill(place > queries[-1], NOBODY).sort(dim=-1, stable=True)
    back = torch.empty_like(order).scatter_(1, order, place.expand_as(order)).index_select(1, queries)[..., None]
    earlier = back - torch.arange(1, count + 1, device=groups.device)
    safe = earlier.clamp_min(0)
    own = groups.index_select(1, queries)[..., None]
    same = (earlier >= 0) & (_at(found, safe) == own) & (own != NOBODY)
    return torch.where(same, _at(order, safe), -1)


def _band(groups: torch.Tensor, highest: int, lowest: int) -> torch.Tensor:
    """The mask of `SortedEdges` for sorted groups `(B, T)`."""
    length, size = groups.shape[1], max(_BLOCK, highest)
    blocks = (length + size - 1) // size
    if torch.compiler.is_compiling():
        blocks = blocks + 1  # a graph made for a single block would be of no use for longer rows
    reach = size + highest - lowest
    lacking = blocks * size - length
    queries = pad(groups, (0, lacking), value=NOBODY).unflatten(1, (blocks, size))
    keys = pad(groups, (highest, lacking - lowest), value=NOBODY).unfold(1, reach, size)
    distance = (highest + torch.arange(size)[:, None] - torch.arange(reach)).to(groups.device)
    same = (queries[..., None] == keys[:, :, None]) & (queries[..., None] != NOBODY)
    same = same & (distance >= lowest) & (distance <= highest)
    if not lowest:
        same = same | (distance == 0)  # padding attends to itself: there is nobody else
    return same


def _sorted(states: torch.Tensor, rows: torch.Tensor | None) -> torch.Tensor:
    """`(B, N, T, D)` in another order of the places."""
    return states if rows is None else _rows(states.transpose(1, 2), rows).transpose(1, 2)


def _rows(states: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """`(B, T, N, D)` with the places in the order of `rows` (B x T,): all heads of a place are moved at once."""
    return states.flatten(2).flatten(0, 1).index_select(0, rows).view(states.shape)


def _gather(states: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """`(B, N, S, D)`, places `(B, C, K)` -> `(B, N, C, K, D)`."""
    batch, heads, places, width = states.shape
    first = torch.arange(batch * heads, device=index.device).view(batch, heads, 1, 1) * places
    rows = index[:, None] + first
    return states.reshape(-1, width).index_select(0, rows.flatten()).view(*rows.shape, width)


def _at(values: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """`values` (B, S) at `index` (B, C, K)."""
    return values.gather(1, index.flatten(1)).view(index.shape)
