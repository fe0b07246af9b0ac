"""Figures of collapse against values worked by hand."""

import math

import pytest
import torch

from eval.metrics.representation import (
    alignment,
    effective_rank,
    mean_pairwise_cosine,
    representation_figures,
    spread_per_dimension,
    uniformity,
)


def test_effective_rank_is_the_number_of_equal_directions():
    assert effective_rank(torch.eye(5)) == pytest.approx(5)
    assert effective_rank(torch.ones(7, 5)) == pytest.approx(1)
    assert effective_rank(torch.zeros(3, 5)) == 0


def test_effective_rank_of_unequal_directions_follows_the_entropy():
    shares = [0.75, 0.25]
    expected = math.exp(-sum(p * math.log(p) for p in shares))
    assert effective_rank(torch.diag(torch.tensor([3.0, 1.0]))) == pytest.approx(expected)


def test_mean_pairwise_cosine_equals_the_mean_over_all_pairs():
    vectors = torch.randn(9, 4, dtype=torch.float64)
    unit = torch.nn.functional.normalize(vectors, dim=-1)
    cosines = unit @ unit.T
    assert mean_pairwise_cosine(vectors) == pytest.approx(float((cosines.sum() - 9) / 72))


def test_alignment_and_uniformity_follow_wang_and_isola():
    first, second = torch.tensor([[1.0, 0.0], [0.0, 3.0]]), torch.tensor([[0.0, 2.0], [0.0, 1.0]])
    assert alignment(first, second) == pytest.approx(1.0)
    assert uniformity(torch.tensor([[1.0, 0.0], [0.0, 1.0]])) == pytest.approx(-4.0)
    assert uniformity(torch.ones(4, 3)) == pytest.approx(0.0, abs=1e-9)


def test_spread_is_the_standard_deviation_of_each_dimension():
    assert spread_per_dimension(torch.tensor([[0.0, 5.0], [2.0, 5.0]])).tolist() == [1.0, 0.0]


def test_collapsed_vectors_look_collapsed_and_random_ones_do_not():
    random = representation_figures(torch.randn(256, 16))
    collapsed = representation_figures(torch.randn(16) + 1e-3 * torch.randn(256, 16))
    assert random["effective_rank"] > 14 > 2 > collapsed["effective_rank"]
    assert collapsed["mean_pairwise_cosine"] > 0.99 > 0.1 > abs(random["mean_pairwise_cosine"])
    assert random["uniformity"] < -2 < collapsed["uniformity"]


def test_nan_vectors_are_refused():
    with pytest.raises(ValueError, match="NaN"):
        effective_rank(torch.tensor([[1.0, float("nan")]]))
