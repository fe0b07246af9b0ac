"""Who attends to whom: exactly the rules, however it is computed; and attention to them, without T x T."""

from collections.abc import Iterator

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from modeling_jepa import graph_routing
from modeling_jepa.graph_routing import (
    Neighbours,
    Rules,
    fibonacci_distances,
    find_neighbours,
    gathered_attention,
    routing_vectors,
)
from tests.modeling_jepa.tiny_generators import random_tokens, tiny_generator

WIDTH = 12
# Few and many candidates; more neighbours than places; no shortcuts; nothing but a window.
CASES = (
    (50, Rules(3, 4, 10, fibonacci_distances(3, 50))),
    (130, Rules(4, 3, 1000, fibonacci_distances(4, 130))),
    (9, Rules(16, 4, 100, ())),
    (40, Rules(1, 6, 6, (2, 3, 5, 34))),
    (30, Rules(5, 0, 0, ())),
)
each_case = pytest.mark.parametrize(("length", "rules"), CASES)


def routes_with_ties(length: int) -> torch.Tensor:
    """Routing vectors of two rows of only six different tokens: most are as similar as another."""
    tokens = torch.randint(0, 6, (2, length), generator=torch.Generator().manual_seed(1))
    return routing_vectors(torch.randn(6, WIDTH)[tokens])


def by_the_rules(routes: torch.Tensor, rules: Rules, row: int, place: int, seen: torch.Tensor) -> dict[str, set[int]]:
    """The neighbours of one query by their kind, one by one; `seen` (S,) may be attended to."""
    window = {place - distance for distance in range(1, rules.window + 1)}
    shortcuts = {place - distance for distance in rules.shortcuts}
    first = max(0, place - rules.window - rules.candidates)
    candidates = [j for j in range(first, place - rules.window) if seen[j] and j not in shortcuts]
    candidates.sort(key=lambda j: (-float(routes[row, place] @ routes[row, j]), place - j))
    found = {"self": {place}, "window": window, "similar": set(candidates[: rules.top_k]), "shortcut": shortcuts}
    return {kind: {j for j in places if j == place or (j >= 0 and seen[j])} for kind, places in found.items()}


def by_kind(neighbours: Neighbours, rules: Rules, row: int, query: int) -> dict[str, set[int]]:
    found: dict[str, set[int]] = {kind: set() for kind in graph_routing.KINDS}
    index, mask = neighbours.index[row, query].tolist(), neighbours.mask[row, query].tolist()
    for kind, place, there in zip(rules.kinds, index, mask, strict=True):
        assert not there or place not in found[kind]
        found[kind] |= {place} if there else set()
    return found


def rows_seen(length: int, what: str) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """`present` and `documents` of two different rows."""
    present = torch.ones(2, length, dtype=torch.bool)
    present[1, : length // 4] = False
    documents = torch.zeros(2, length, dtype=torch.long)
    documents[0, length // 2 :] = 1
    documents[1, 3:] = 1
    documents[1, length - 2 :] = 2
    return {"all": (None, None), "padding": (present, None), "documents": (None, documents)}.get(
        what, (present, documents)
    )


@each_case
@pytest.mark.parametrize("what", ["all", "padding", "documents", "both"])
def test_neighbours_are_those_of_the_rules(length: int, rules: Rules, what: str) -> None:
    routes, (present, documents) = routes_with_ties(length), rows_seen(length, what)
    found = find_neighbours(routes, routes, 0, rules, present, documents)
    assert found.index.shape[-1] == len(rules.kinds)
    for row in range(2):
        for place in range(length):
            seen = torch.ones(length, dtype=torch.bool) if present is None else present[row]
            seen = seen if documents is None else seen & (documents[row] == documents[row, place])
            assert by_kind(found, rules, row, place) == by_the_rules(routes, rules, row, place, seen), (row, place)


@each_case
@pytest.mark.parametrize("what", ["all", "both"])
def test_one_query_after_a_cache_finds_the_same(length: int, rules: Rules, what: str) -> None:
    """With its place as a number and as a tensor, and with places after it that hold anything."""
    routes, (present, documents) = routes_with_ties(length), rows_seen(length, what)
    whole = find_neighbours(routes, routes, 0, rules, present, documents)
    for place in (0, 1, length // 2, length - 1):
        later = routes.clone()
        later[:, place + 1 :] = 127
        for first in (place, torch.tensor(place)):
            one = find_neighbours(routes[:, place : place + 1], later, first, rules, present, documents)
            for row in range(2):
                assert by_kind(one, rules, row, 0) == by_kind(whole, rules, row, place)


def test_of_equally_similar_tokens_the_nearer_is_taken() -> None:
    routes = routing_vectors(torch.ones(1, 20, WIDTH))
    found = find_neighbours(routes, routes, 0, Rules(2, 3, 100, (5,)))
    assert by_kind(found, Rules(2, 3, 100, (5,)), 0, 19)["similar"] == {16, 15, 13}


def test_padding_takes_no_place_among_the_similar() -> None:
    routes = routing_vectors(torch.ones(1, 20, WIDTH))
    present = torch.ones(1, 20, dtype=torch.bool)
    present[0, 14:17] = False
    found = find_neighbours(routes, routes, 0, Rules(2, 3, 100, ()), present)
    assert by_kind(found, Rules(2, 3, 100, ()), 0, 19)["similar"] == {13, 12, 11}


@pytest.mark.parametrize("chunk", [1, 7, 64, 1000])
@pytest.mark.parametrize(("length", "rules"), CASES[:2])
def test_chunks_change_no_neighbour(length: int, rules: Rules, chunk: int, monkeypatch) -> None:
    routes = routing_vectors(torch.randn(2, length, WIDTH))
    whole = find_neighbours(routes, routes, 0, rules)
    monkeypatch.setattr(graph_routing, "_CHUNK", chunk)
    parts = find_neighbours(routes, routes, 0, rules)
    assert torch.equal(parts.mask, whole.mask)
    assert torch.equal(parts.index[parts.mask], whole.index[whole.mask])


@pytest.mark.parametrize("width", [12, 512, 2048])
def test_products_of_routing_vectors_are_exact(width: int) -> None:
    """Whatever the order of the sum: so no chunk, batch or cache can break a tie in another way."""
    routes = routing_vectors(torch.randn(2, 200, width))
    assert torch.equal(routes, routes.round())
    products = graph_routing._products(routes, routes)
    assert torch.equal(products.double(), routes.double() @ routes.double().transpose(1, 2))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(graph_routing._products(routes, routes), products)
    # With the nearness of 1,024 candidates they still fit 32 bits.
    assert products.abs().max() * 1024 + 1024 < 2**31


def test_routing_vectors_are_directions() -> None:
    vectors = torch.randn(50, 64)
    cosines = torch.nn.functional.cosine_similarity(vectors[:, None], vectors[None], dim=-1)
    routes = routing_vectors(vectors)
    torch.testing.assert_close(routes @ routes.T / 127**2, cosines, atol=0.03, rtol=0)
    assert torch.equal(routing_vectors(1000 * vectors), routes)
    assert not routing_vectors(torch.zeros(1, 8)).any()


def test_shortcuts_are_fibonacci_numbers_beyond_the_window() -> None:
    assert fibonacci_distances(32, 1024) == (34, 55, 89, 144, 233, 377, 610, 987)
    assert fibonacci_distances(0, 9) == (1, 2, 3, 5, 8)
    assert fibonacci_distances(34, 55) == ()


@pytest.fixture(params=[400, 2**20], ids=lambda elements: f"{elements} elements")
def _chunked(request, monkeypatch) -> Iterator[None]:
    monkeypatch.setitem(graph_routing._ELEMENTS, "cpu", request.param)


def attention_case(length: int = 20, dtype: torch.dtype = torch.double) -> tuple[list[torch.Tensor], Neighbours]:
    """Queries, keys and values `(2, 3, length, 4)`, and neighbours in two documents."""
    states = [torch.randn(2, 3, length, 4, dtype=dtype, requires_grad=True) for _ in range(3)]
    routes = routing_vectors(torch.randn(2, length, WIDTH))
    documents = (torch.arange(length) >= 8).long().expand(2, -1)
    return states, find_neighbours(routes, routes, 0, Rules(2, 3, 6, (3, 5)), documents=documents)


def as_dense_mask(neighbours: Neighbours, length: int) -> torch.Tensor:
    counts = torch.zeros(*neighbours.index.shape[:2], length, dtype=torch.long)
    counts.scatter_add_(2, neighbours.index, neighbours.mask.long())
    assert counts.max() == 1  # nobody is attended to twice
    return counts[:, None].bool()


@pytest.mark.usefixtures("_chunked")
@pytest.mark.parametrize("with_probabilities", [True, False])
def test_gathered_attention_equals_dense_attention_with_the_same_mask(with_probabilities: bool) -> None:
    states, neighbours = attention_case()
    upstream = torch.randn(2, 20, 3, 4, dtype=torch.double)
    gathered, probabilities = gathered_attention(*states, neighbours, 0.3, with_probabilities)
    gradients = torch.autograd.grad(gathered, states, upstream)
    mask = as_dense_mask(neighbours, 20)
    dense = torch.nn.functional.scaled_dot_product_attention(*states, attn_mask=mask, scale=0.3).transpose(1, 2)
    torch.testing.assert_close(gathered, dense)
    for ours, theirs in zip(gradients, torch.autograd.grad(dense, states, upstream), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert (probabilities is not None) == with_probabilities


def test_probabilities_are_nothing_where_there_is_no_neighbour() -> None:
    states, neighbours = attention_case()
    _, probabilities = gathered_attention(*states, neighbours, 0.3)
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(2, 3, 20, dtype=torch.double))
    assert not probabilities[~neighbours.mask[:, None].expand_as(probabilities)].any()


@pytest.mark.usefixtures("_chunked")
@pytest.mark.parametrize("with_probabilities", [True, False])
def test_gradients_are_those_of_finite_differences(with_probabilities: bool) -> None:
    states, neighbours = attention_case(length=10)
    assert torch.autograd.gradcheck(
        lambda *given: gathered_attention(*given, neighbours, 0.3, with_probabilities)[0], states
    )


def test_the_first_token_attends_to_itself_alone() -> None:
    states, neighbours = attention_case()
    attended, _ = gathered_attention(*states, neighbours, 0.3)
    torch.testing.assert_close(attended[:, 0], states[2][:, :, 0])


def test_routing_does_not_depend_on_the_attention_implementation() -> None:
    tokens = random_tokens(2)
    eager, sdpa = (tiny_generator(3, implementation)(tokens).logits for implementation in ("eager", "sdpa"))
    assert torch.equal(eager, sdpa)
    dense = tiny_generator(3)
    dense.config.stage = 2
    assert (dense(tokens).logits - eager).abs().max() > 1e-3


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


def shapes_of_a_step(stage: int, length: int) -> Shapes:
    """Forward, backward, evaluation and a cached token; narrow enough that only T x T has two long axes."""
    model = tiny_generator(stage, max_position_embeddings=2048, routing_candidates=64, intermediate_size=32)
    tokens = random_tokens(1, length)
    with Shapes() as shapes:
        model.train()(tokens, labels=tokens).loss.backward()
        with torch.no_grad():
            cache = model.eval()(tokens[:, :-1], use_cache=True).past_key_values
            model(tokens[:, -1:], past_key_values=cache)
    return shapes


def test_nothing_at_stage_3_has_the_size_of_the_square_of_the_length() -> None:
    short, long = shapes_of_a_step(3, 512), shapes_of_a_step(3, 1024)
    assert short.square(512) == []
    assert long.square(1024) == []
    assert long.largest <= 2 * short.largest


def test_the_square_of_the_length_is_noticed_where_it_is() -> None:
    assert shapes_of_a_step(0, 512).square(512)


def test_normed_queries_and_plain_values_of_autocast_have_gradients() -> None:
    """There norms give float32, and linear layers bfloat16."""
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, 2, 12, 4, generator=generator) for _ in range(3))
    value = value.bfloat16()
    leaves = [tensor.requires_grad_() for tensor in (query, key, value)]
    index = torch.arange(12)[None, :, None].expand(1, 12, 1)
    neighbours = Neighbours(index, torch.ones_like(index, dtype=torch.bool))
    output, _ = gathered_attention(*leaves, neighbours, 0.5, with_probabilities=False)
    output.float().sum().backward()
    assert [leaf.grad.dtype for leaf in leaves] == [torch.float32, torch.float32, torch.bfloat16]
    assert torch.equal(value.grad, torch.ones_like(value))
