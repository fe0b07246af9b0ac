"""The growing cache holds what the library's holds, whatever is done to it, and copies it seldom."""

import copy

import pytest
import torch
from transformers.cache_utils import DynamicCache, DynamicLayer, StaticLayer

from modeling_jepa.layers import GrowingLayer, growing


def states(length: int, rows: int = 2, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values of different widths, as stages 1 to 3 have them."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(rows, 3, length, width, generator=generator) for width in (5, 8))


def same(one: DynamicLayer, other: DynamicLayer) -> bool:
    return torch.equal(one.keys, other.keys) and torch.equal(one.values, other.values)


@torch.no_grad()
def test_it_holds_what_the_librarys_layer_holds_after_everything_that_is_done_to_a_cache() -> None:
    ours, theirs = GrowingLayer(), DynamicLayer()
    operations = [
        lambda layer: layer.update(*states(7)),
        *[lambda layer, seed=seed: layer.update(*states(1, seed=seed)) for seed in range(90)],
        lambda layer: layer.crop(-3),
        lambda layer: layer.update(*states(2, seed=91)),
        lambda layer: layer.batch_select_indices(torch.tensor([1, 0])),
        lambda layer: layer.update(*states(1, seed=92)),
        lambda layer: layer.reorder_cache(torch.tensor([1, 1])),
        lambda layer: layer.update(*states(1, seed=93)),
        lambda layer: layer.batch_repeat_interleave(2),
        lambda layer: layer.update(*states(1, rows=4, seed=94)),
        lambda layer: layer.reset(),
        lambda layer: layer.update(*states(4, seed=95)),
    ]
    for operate in operations:
        for layer in (ours, theirs):
            operate(layer)
        if theirs.is_initialized:
            assert same(ours, theirs)
            assert ours.get_seq_length() == theirs.get_seq_length()


@torch.no_grad()
def test_further_tokens_are_written_in_place() -> None:
    layer = GrowingLayer()
    places = set()
    for seed in range(200):
        layer.update(*states(1, seed=seed))
        places.add(layer.keys.data_ptr())
    assert len(places) < 5


@torch.no_grad()
def test_what_others_hold_of_a_cropped_or_copied_cache_stays_as_it_was() -> None:
    layer = GrowingLayer()
    layer.update(*states(6))
    held, before = layer.keys, layer.keys.clone()
    twin = copy.deepcopy(layer)
    layer.crop(-4)
    layer.update(*states(4, seed=1))
    assert torch.equal(held, before)
    twin.update(*states(1, seed=2))
    assert torch.equal(twin.keys[..., :6, :], before)


def test_gradients_flow_through_it() -> None:
    layer = GrowingLayer()
    keys, values = (part.requires_grad_() for part in states(3))
    layer.update(keys, values)
    layer.update(*states(1, seed=1))[0].sum().backward()
    assert torch.equal(keys.grad, torch.ones_like(keys))


@pytest.mark.parametrize("first", [torch.inference_mode, torch.no_grad])
def test_it_may_be_filled_in_inference_mode_and_go_on_outside(first) -> None:
    layer, plain = GrowingLayer(), DynamicLayer()
    for each in (layer, plain):
        with first():
            each.update(*states(5))
        with torch.no_grad():
            each.update(*states(1, seed=1))
    assert same(layer, plain)


def test_only_empty_dynamic_layers_are_made_to_grow() -> None:
    empty, filled = DynamicCache(), DynamicCache()
    with torch.no_grad():
        filled.update(*states(2), 0)
        growing(empty).update(*states(2), 0)
        growing(filled).update(*states(1), 0)
    assert type(empty.layers[0]) is GrowingLayer
    assert type(filled.layers[0]) is DynamicLayer
    static = DynamicCache()
    static.layers.append(StaticLayer(8))
    assert type(growing(static).layers[0]) is StaticLayer
    assert growing(None) is None
