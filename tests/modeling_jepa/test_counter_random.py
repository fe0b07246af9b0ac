"""Numbers that are a function of their keys."""

import torch

from modeling_jepa.counter_random import counter_hash, counter_integers, counter_normal, counter_uniform

# What the first version gave: another number would change every mask and every resumed run.
PINNED = (8494018921937625816, 870023674763279091)
ROWS, POSITIONS = torch.arange(500)[:, None], torch.arange(200)[None]


def test_numbers_do_not_depend_on_the_batch() -> None:
    whole = counter_hash(7, 3, ROWS, POSITIONS)
    assert torch.equal(whole[40:50, 5:9], counter_hash(7, 3, ROWS[40:50], POSITIONS[:, 5:9]))
    assert counter_hash(7, 3, 42, 6) == whole[42, 6]


def test_numbers_are_the_same_in_every_version() -> None:
    assert counter_hash(0, 1, 2).item() == PINNED[0]
    assert counter_hash(2**63 + 5, -1).item() == PINNED[1]


def test_every_key_and_the_seed_and_their_order_count() -> None:
    variants = [(0, 1, 2), (0, 2, 1), (1, 1, 2), (0, 1, 3), (0, 1), (0, 1, 2, 0)]
    assert len({counter_hash(*variant).item() for variant in variants}) == len(variants)


def test_neighbouring_keys_do_not_collide_or_correlate() -> None:
    numbers = counter_hash(0, ROWS, POSITIONS)
    assert numbers.unique().numel() == numbers.numel()
    uniform = counter_uniform(0, ROWS, POSITIONS)
    flat = uniform.flatten()
    assert abs(torch.corrcoef(torch.stack((flat[:-1], flat[1:])))[0, 1]) < 0.01
    assert abs(torch.corrcoef(torch.stack((uniform[:-1].flatten(), uniform[1:].flatten())))[0, 1]) < 0.01


def test_uniform_numbers_fill_the_unit_interval_evenly() -> None:
    uniform = counter_uniform(1, ROWS, POSITIONS)
    assert uniform.min() >= 0
    assert uniform.max() < 1
    shares = torch.histc(uniform.float(), bins=10, min=0, max=1) / uniform.numel()
    assert (shares - 0.1).abs().max() < 0.005


def test_integers_cover_their_range_evenly() -> None:
    counts = torch.bincount(counter_integers(2, ROWS, POSITIONS, high=7).flatten(), minlength=7)
    assert counts.numel() == 7
    assert (counts / counts.sum() - 1 / 7).abs().max() < 0.005


def test_normal_numbers_are_standard() -> None:
    normal = counter_normal(3, ROWS, POSITIONS)
    assert abs(normal.mean()) < 0.01
    assert abs(normal.std() - 1) < 0.01
    assert abs((normal.abs() > 1.96).float().mean() - 0.05) < 0.003
