"""Far edges: exactly the rules, however they are found; and attention along them, without T x T."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.utils._python_dispatch import TorchDispatchMode

from configuration_jepa.configuration_staged_generator import EDGES
from modeling_jepa import graph_routing
from modeling_jepa.graph_routing import (
    NOBODY,
    Edges,
    FarAttention,
    ListedEdges,
    SortedEdges,
    fibonacci_distances,
    listed_edges,
    sorted_edges,
)
from tests.modeling_jepa.tiny_generators import random_tokens, tiny_config, tiny_generator

HEADS, WIDTH, SCALING = 2, 4, 0.3


def some_groups(length: int) -> torch.Tensor:
    """Two rows of five groups; a quarter of the places has none."""
    groups = torch.randint(0, 5, (2, length), generator=torch.Generator().manual_seed(1))
    return groups.masked_fill(torch.rand(2, length, generator=torch.Generator().manual_seed(2)) < 0.25, NOBODY)


def by_the_rules(groups: torch.Tensor, row: int, place: int, count: int) -> list[int]:
    """The latest `count` earlier places of the same group, the latest first."""
    own = groups[row, place]
    same = [earlier for earlier in range(place) if groups[row, earlier] == own != NOBODY]
    return same[::-1][:count]


@pytest.mark.parametrize("find", [graph_routing._by_comparison, graph_routing._by_sorting])
@pytest.mark.parametrize(("length", "count"), [(60, 3), (5, 8), (40, 1)])
@pytest.mark.parametrize("first", [0, 2])
def test_earlier_places_are_those_of_the_rules(find, length: int, count: int, first: int) -> None:
    groups = some_groups(length)
    index = find(groups, torch.arange(first, length), count)
    for row in range(2):
        for place in range(first, length):
            found = [each for each in index[row, place - first].tolist() if each >= 0]
            assert found == by_the_rules(groups, row, place, count)


@pytest.mark.parametrize("place", [0, 7, 30])
def test_what_stands_after_a_query_does_not_matter(place: int) -> None:
    groups = some_groups(40)
    later = groups.clone()
    later[:, place + 1 :] = groups[:, place : place + 1]
    for first in (place, torch.tensor(place)):
        honest, other = (listed_edges(each, first, 1, 3) for each in (groups, later))
        assert torch.equal(honest.mask, other.mask)
        assert torch.equal(honest.index, other.index)


def as_dense_mask(edges: ListedEdges, places: int) -> torch.Tensor:
    """`(B, 1, T, S)`."""
    counts = torch.zeros(*edges.index.shape[:2], places, dtype=torch.long)
    counts.scatter_add_(2, edges.index, edges.mask.long())
    assert counts.max() <= 1
    return counts[:, None].bool()


def some_states(length: int, dtype: torch.dtype = torch.double) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [
        torch.randn(2, HEADS, length, WIDTH, dtype=dtype, generator=generator, requires_grad=True) for _ in range(3)
    ]


def dense(states: list[torch.Tensor], mask: torch.Tensor, null_key: torch.Tensor | None) -> torch.Tensor:
    query, key, value = states
    if null_key is not None:
        key = torch.cat((key, null_key[None, :, None].expand(2, -1, 1, -1)), dim=2)
        value = torch.nn.functional.pad(value, (0, 0, 0, 1))
        mask = torch.nn.functional.pad(mask, (0, 1), value=True)
    return scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=SCALING).transpose(1, 2)


def both_roads(groups: torch.Tensor, count: int) -> tuple[SortedEdges, ListedEdges]:
    return sorted_edges(groups, count), listed_edges(groups, 0, groups.shape[1], count)


@pytest.mark.parametrize(("length", "count"), [(70, 3), (33, 8), (12, 40), (64, 1)])
def test_attention_along_edges_equals_dense_attention_with_the_same_mask(length: int, count: int, monkeypatch) -> None:
    groups, states = some_groups(length), some_states(length)
    null_key = torch.randn(HEADS, WIDTH, dtype=torch.double, requires_grad=True)
    roads = both_roads(groups, count)
    expected = dense(states, as_dense_mask(roads[1], length), null_key)
    upstream = torch.randn_like(expected)
    wanted = torch.autograd.grad(expected, [*states, null_key], upstream)
    for chunk in (100, graph_routing._ELEMENTS):
        monkeypatch.setattr(graph_routing, "_ELEMENTS", chunk)
        for edges in roads:
            found = edges.attend(*states, SCALING, null_key)
            torch.testing.assert_close(found, expected)
            gradients = torch.autograd.grad(found, [*states, null_key], upstream)
            for ours, theirs in zip(gradients, wanted, strict=True):
                torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(("length", "window"), [(70, 3), (20, 40), (32, 1)])
def test_a_window_is_a_token_and_those_before_it(length: int, window: int) -> None:
    states, place = some_states(length), torch.arange(length)
    band = (place <= place[:, None]) & (place >= place[:, None] - window)
    expected = dense(states, band[None, None], None)
    row = torch.zeros(2, length, dtype=torch.long)
    torch.testing.assert_close(sorted_edges(row, window, lowest=0).attend(*states, SCALING), expected)


def test_edges_lead_to_what_they_are_told_to() -> None:
    groups, states = some_groups(30), some_states(30)
    following = (torch.arange(30) + 1).clamp_max(29).expand(2, -1)
    whole = sorted_edges(groups, 3, targets=following)
    listed = listed_edges(groups, 0, 30, 3, targets=following)
    null_key = torch.zeros(HEADS, WIDTH, dtype=torch.double)
    torch.testing.assert_close(whole.attend(*states, SCALING, null_key), listed.attend(*states, SCALING, null_key))
    assert (listed.index[listed.mask] > 0).all()


def test_a_gate_at_zero_lets_nothing_through_and_learns() -> None:
    groups, states = some_groups(30), some_states(30, torch.float32)
    far = FarAttention(tiny_config(3, hidden_size=8, num_attention_heads=HEADS))
    output = far(sorted_edges(groups, 3), *states, SCALING)
    assert not output.any()
    output.sum().backward()
    assert (far.gate.grad != 0).all()
    assert not far.null_key.grad.any()


def test_the_mass_of_edges_is_what_does_not_go_to_nobody() -> None:
    groups, states = some_groups(30), some_states(30, torch.float32)
    far = FarAttention(tiny_config(3, hidden_size=8, num_attention_heads=HEADS))
    torch.nn.init.constant_(far.gate, -0.5)
    edges: list[Edges] = [*both_roads(groups, 3)]
    masses = [far.mass(each, *states, SCALING) for each in edges]
    torch.testing.assert_close(masses[0], masses[1])
    has_edges = edges[1].mask.any(-1)[:, None].expand_as(masses[0])
    assert not masses[0][~has_edges].any()
    assert (masses[0][has_edges] > 0).all()
    assert (masses[0] < 0.5).all()
    torch.nn.init.constant_(far.null_key, 1e3)  # who looks there
    assert (far.mass(edges[0], states[0].abs(), *states[1:], SCALING) < 1e-6).all()


def test_shortcuts_are_fibonacci_numbers_beyond_the_window() -> None:
    assert fibonacci_distances(32, 1024) == (34, 55, 89, 144, 233, 377, 610, 987)
    assert fibonacci_distances(0, 9) == (1, 2, 3, 5, 8)
    assert fibonacci_distances(34, 55) == ()


def test_far_edges_do_not_depend_on_the_attention_implementation() -> None:
    tokens = random_tokens(2)
    eager, sdpa = (tiny_generator(3, name).double()(tokens).logits for name in ("eager", "sdpa"))
    torch.testing.assert_close(eager, sdpa, atol=1e-9, rtol=0)


class Shapes(TorchDispatchMode):
    """The shapes of all tensors that come out of an operation."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[int, ...]] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, torch.Tensor):
                self.seen.add(tuple(tensor.shape))
        return result

    def square(self, length: int) -> list[tuple[int, ...]]:
        return [shape for shape in self.seen if sum(size >= length for size in shape) > 1]

    @property
    def largest(self) -> int:
        return max(torch.Size(shape).numel() for shape in self.seen)


def shapes_of_a_step(stage: int, length: int, **changes: object) -> Shapes:
    """Forward, backward, evaluation and a cached token; narrow enough that only T x T has two long axes."""
    model = tiny_generator(stage, max_position_embeddings=2048, intermediate_size=32, **changes)
    tokens = random_tokens(1, length)
    with Shapes() as shapes:
        model.train()(tokens, labels=tokens).loss.backward()
        with torch.no_grad():
            cache = model.eval()(tokens[:, :-1], use_cache=True).past_key_values
            model(tokens[:, -1:], past_key_values=cache)
    return shapes


@pytest.mark.parametrize("kinds", [list(EDGES[:-1]), ["fibonacci"]], ids=["content", "fibonacci"])
def test_nothing_with_a_window_has_the_size_of_the_square_of_the_length(kinds: list[str]) -> None:
    short, long = (
        shapes_of_a_step(3, length, routing_window=8, routing_edges=kinds, num_hidden_layers=1)
        for length in (512, 1024)
    )
    assert short.square(512) == []
    assert long.square(1024) == []
    assert long.largest <= 2.2 * short.largest


def test_the_square_of_the_length_is_noticed_where_it_is() -> None:
    assert shapes_of_a_step(0, 512).square(512)
