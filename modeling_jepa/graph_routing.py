"""Graph routing: each token attends to itself, a window, a few similar earlier tokens and Fibonacci distances.

A fixed number of neighbours per token, found and attended in chunks: cost and memory grow with T x K, and nothing here
has the size T x T. What a token's neighbours are is a function of the tokens before it alone, and is computed in exact
integers, so that chunks, batch-mates, padding and a cache cannot change it.

Shapes: B batch, T queries, S attended places, N heads, D head dimension, K neighbours, R width of a routing vector.
"""

from dataclasses import dataclass
from typing import Any

import torch

KINDS = ("self", "window", "similar", "shortcut")
# Routing vectors are whole numbers up to this: sums of their products are exact in float32 and TF32, in any order.
_LEVELS = 127
_NOBODY = -(2**31)
_CHUNK = 256
_ELEMENTS = {"cpu": 2**20, "cuda": 2**26}  # of the gathered keys of one chunk: what a processor's cache can hold


@dataclass(frozen=True)
class Rules:
    """Whom a token attends to.

    Attributes:
        window: nearest earlier tokens.
        top_k: most similar ones among the candidates; of equally similar ones the nearer.
        candidates: nearest tokens before the window, shortcuts left out.
        shortcuts: distances beyond the window that are always attended to.
    """

    window: int
    top_k: int
    candidates: int
    shortcuts: tuple[int, ...]

    @property
    def kinds(self) -> list[str]:
        """The kind of each neighbour, `(K,)`, in the order of `Neighbours.index`."""
        counts = (1, self.window, self.top_k, len(self.shortcuts))
        return [kind for kind, count in zip(KINDS, counts, strict=True) for _ in range(count)]


@dataclass(frozen=True)
class Neighbours:
    """Places that each query attends to.

    Attributes:
        index: `(B, T, K)` int64, places among the S attended ones.
        mask: `(B, T, K)`, False where there is no such neighbour; the token itself is always there.
    """

    index: torch.Tensor
    mask: torch.Tensor


def fibonacci_distances(above: int, below: int) -> tuple[int, ...]:
    """Fibonacci numbers d with above < d < below, ascending."""
    first, second, found = 1, 2, []
    while first < below:
        found += [first] if first > above else []
        first, second = second, first + second
    return tuple(found)


@torch.no_grad()
def routing_vectors(vectors: torch.Tensor) -> torch.Tensor:
    """Directions of `vectors` (..., R), rounded to whole numbers of -127 to 127, float32.

    Their products are 127^2 times the cosine, up to the rounding, and exact: the same however they are computed.
    """
    unit = torch.nn.functional.normalize(vectors.detach().float(), dim=-1, eps=1e-8)
    return (unit * _LEVELS).round()


@torch.no_grad()
def find_neighbours(
    queries: torch.Tensor,
    keys: torch.Tensor,
    first_place: torch.Tensor | int,
    rules: Rules,
    present: torch.Tensor | None = None,
    documents: torch.Tensor | None = None,
) -> Neighbours:
    """The neighbours of each query, all at or before its own place.

    Args:
        queries: `(B, T, R)`, routing vectors of the queries.
        keys: `(B, S, R)`, of all places so far, the queries' own included; places after them may hold anything.
        first_place: of the first query among the S places.
        rules: whom to attend to.
        present: `(B, S)`, False for padding, which nobody attends to.
        documents: `(B, S)`, a number per document; nobody attends to another document.
    """
    batch, length = queries.shape[:2]
    place = first_place + torch.arange(length, device=queries.device)
    fixed = torch.tensor([*range(rules.window + 1), *rules.shortcuts], device=queries.device)
    index = (place[:, None] - fixed).expand(batch, -1, -1)
    mask = _allowed(index, place, present, documents)
    similar, similar_mask = _most_similar(queries, keys, place, rules, present, documents)
    near = rules.window + 1
    columns = (index[..., :near], similar, index[..., near:])
    masks = (mask[..., :near], similar_mask, mask[..., near:])
    return Neighbours(torch.cat(columns, dim=-1).clamp_min(0), torch.cat(masks, dim=-1))


def gathered_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    neighbours: Neighbours,
    scaling: float,
    with_probabilities: bool = True,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """softmax(q . k of the neighbours) times their values, in chunks of queries.

    Args:
        query: `(B, N, T, D)`.
        key, value: `(B, N, S, D)`.
        neighbours: places among the S.
        scaling: of the products.
        with_probabilities: whether they are wanted. Without them the backward pass gathers once more, instead of
            keeping what was gathered.

    Returns:
        `(B, T, N, D)`, and the probabilities `(B, N, T, K)`, 0 where there is no neighbour, or None.
    """
    # Under autocast normed queries and keys are float32, and values are not.
    query, key = query.to(value.dtype), key.to(value.dtype)
    if not with_probabilities:
        output = _GatheredAttention.apply(query, key, value, neighbours.index, neighbours.mask, scaling)
        return output.transpose(1, 2), None
    outputs, probabilities = [], []
    for part in _chunks(query, neighbours.index):
        index = _rows(neighbours.index[:, part], key)
        attended = _attend(query[:, :, part], key, value, index, neighbours.mask[:, part], scaling)
        outputs.append(attended[0])
        probabilities.append(attended[1])
    return torch.cat(outputs, dim=2).transpose(1, 2), torch.cat(probabilities, dim=2)


class _GatheredAttention(torch.autograd.Function):
    """Keeps only what it was given; the backward pass gathers once more."""

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        index: torch.Tensor,
        mask: torch.Tensor,
        scaling: float,
    ) -> torch.Tensor:
        ctx.save_for_backward(query, key, value, index, mask)
        ctx.scaling = scaling
        parts = _chunks(query, index)
        return torch.cat(
            [
                _attend(query[:, :, part], key, value, _rows(index[:, part], key), mask[:, part], scaling)[0]
                for part in parts
            ],
            dim=2,
        )

    @staticmethod
    def backward(ctx: Any, output_gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, index, mask = ctx.saved_tensors
        query_gradients = []
        precise = torch.promote_types(key.dtype, torch.float32)  # a place may be many queries' neighbour
        key_gradient = torch.zeros_like(_flat(key), dtype=precise)
        value_gradient = torch.zeros_like(_flat(value), dtype=precise)
        for part in _chunks(query, index):
            rows = _rows(index[:, part], key)
            keys, values = _gather(key, rows), _gather(value, rows)
            few, upstream = query[:, :, part], output_gradient[:, :, part]
            probabilities = _probabilities(few, keys, mask[:, part], ctx.scaling)
            # d softmax: p (g - sum p g), with g the gradient of the probabilities.
            gradient = (values @ upstream[..., None]).squeeze(-1)
            scores = probabilities * (gradient - (probabilities * gradient).sum(-1, keepdim=True)) * ctx.scaling
            query_gradients.append((scores[..., None, :] @ keys).squeeze(-2))
            width = key.shape[-1]
            for_keys = scores[..., None] * few[..., None, :]
            key_gradient.index_add_(0, rows.flatten(), for_keys.view(-1, width).to(precise))
            spread = probabilities[..., None] * upstream[..., None, :]
            value_gradient.index_add_(0, rows.flatten(), spread.view(-1, width).to(precise))
        return (
            torch.cat(query_gradients, dim=2),
            key_gradient.view(key.shape).to(key.dtype),
            value_gradient.view(value.shape).to(value.dtype),
            None,
            None,
            None,
        )


def _attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, rows: torch.Tensor, mask: torch.Tensor, scaling: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """A chunk of queries `(B, N, C, D)` -> `(B, N, C, D)` and probabilities `(B, N, C, K)`."""
    probabilities = _probabilities(query, _gather(key, rows), mask, scaling)
    return (probabilities[..., None, :] @ _gather(value, rows)).squeeze(-2), probabilities


def _probabilities(query: torch.Tensor, keys: torch.Tensor, mask: torch.Tensor, scaling: float) -> torch.Tensor:
    scores = (keys @ query[..., None]).squeeze(-1) * scaling
    scores = scores.masked_fill(~mask[:, None], torch.finfo(scores.dtype).min)
    precise = torch.promote_types(scores.dtype, torch.float32)
    probabilities = torch.softmax(scores, dim=-1, dtype=precise).to(query.dtype)
    return probabilities.masked_fill(~mask[:, None], 0.0)


def _rows(index: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """Places `(B, C, K)` as rows `(B, N, C, K)` of the flat keys `(B N S, D)`: one gather serves all heads."""
    batch, heads, places, _ = key.shape
    first = torch.arange(batch * heads, device=index.device).view(batch, heads, 1, 1) * places
    return index[:, None] + first


def _gather(states: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """`(B, N, S, D)`, `(B, N, C, K)` -> `(B, N, C, K, D)`."""
    return _flat(states).index_select(0, rows.flatten()).view(*rows.shape, states.shape[-1])


def _flat(states: torch.Tensor) -> torch.Tensor:
    return states.reshape(-1, states.shape[-1])


def _chunks(query: torch.Tensor, index: torch.Tensor) -> list[slice]:
    """Slices of the queries whose gathered keys stay within the budget of the device."""
    batch, heads, length, width = query.shape
    budget = _ELEMENTS.get(query.device.type, _ELEMENTS["cuda"])
    size = max(1, budget // (batch * heads * index.shape[-1] * width))
    return [slice(start, start + size) for start in range(0, length, size)]


def _allowed(
    index: torch.Tensor, place: torch.Tensor, present: torch.Tensor | None, documents: torch.Tensor | None
) -> torch.Tensor:
    """Which of the places `(B, C, K)` may be attended to by the queries at `place` (C,)."""
    mask = index >= 0
    safe = index.clamp_min(0)
    if present is not None:
        mask = mask & _at(present, safe)
    if documents is not None:
        mask = mask & (_at(documents, safe) == documents[:, place][..., None])
    return mask | (index == place[:, None])


def _at(values: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """`values` (B, S) at `index` (B, C, K)."""
    return values.gather(1, index.flatten(1)).view(index.shape)


def _most_similar(
    queries: torch.Tensor,
    keys: torch.Tensor,
    place: torch.Tensor,
    rules: Rules,
    present: torch.Tensor | None,
    documents: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Places and mask of the `top_k` candidates of each query, `(B, T, top_k)` both."""
    # There are no more candidates than places before the window.
    candidates = max(min(rules.candidates, keys.shape[1] - 1 - rules.window), 1)
    nearness, sound = _band(min(_CHUNK, place.shape[0]), candidates, rules, place.device)
    indices, masks = [], []
    for start in range(0, place.shape[0], _CHUNK):
        few = place[start : start + _CHUNK]
        size, width = few.shape[0], candidates + few.shape[0] - 1
        run = few[0] - rules.window - candidates + torch.arange(width, device=few.device)
        safe = run.clamp(0, keys.shape[1] - 1)
        usable = sound[:size, :width] & (run >= 0)
        if present is not None:
            usable = usable & present.index_select(1, safe)[:, None]
        if documents is not None:
            same = documents.index_select(1, few)[..., None] == documents.index_select(1, safe)[:, None]
            usable = usable & same
        # Whole numbers: similarity first, and among equally similar ones nearness.
        similarity = _products(queries[:, start : start + _CHUNK], keys.index_select(1, safe)).to(torch.int32)
        order = torch.where(usable, similarity * candidates + nearness[:size, :width], _NOBODY)
        best, column = _top(order, rules.top_k)
        indices.append(run[column])
        masks.append(best > _NOBODY)
    return torch.cat(indices, dim=1), torch.cat(masks, dim=1)


def _band(size: int, candidates: int, rules: Rules, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """For `size` queries in a row and the run of places that holds the candidates of all of them: how near a place is
    to a query, 0 for the farthest candidate, int32 `(size, candidates + size - 1)`; and whether it is one of its own
    candidates, as those form a diagonal band, without the shortcuts.
    """
    run = torch.arange(candidates + size - 1, dtype=torch.int32, device=device)
    nearness = run - torch.arange(size, dtype=torch.int32, device=device)[:, None]
    distance = rules.window + candidates - nearness
    taken = torch.tensor(rules.shortcuts, dtype=torch.int32, device=device)
    return nearness, (nearness >= 0) & (nearness < candidates) & ~torch.isin(distance, taken)


def _products(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """`(B, C, R)`, `(B, L, R)` -> `(B, C, L)`, in float32 whatever autocast says."""
    with torch.autocast(first.device.type, enabled=False):
        return first.float() @ second.float().transpose(1, 2)


def _top(order: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The `count` largest along the last axis with their columns; where there are fewer, nobody at column 0."""
    best, column = order.topk(min(count, order.shape[-1]), dim=-1)
    lacking = (0, count - best.shape[-1])
    return torch.nn.functional.pad(best, lacking, value=_NOBODY), torch.nn.functional.pad(column, lacking)
