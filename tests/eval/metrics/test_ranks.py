"""Figures over ranks, as functions and as a metric object."""

import evaluate
import numpy as np
import pytest

from eval.metrics.fill_blank_ranking import FillBlankRanking
from eval.metrics.ranks import FIGURE_NAMES, decile_figures, frequency_deciles, most_predicted, ranking_figures


def test_figures_of_four_ranks_are_those_worked_by_hand():
    figures = ranking_figures(np.array([1, 2, 6, 20]), np.array([0.95, 0.5, 0.1, -0.1]))
    assert figures == {
        "top1": 0.25,
        "top5": 0.5,
        "top10": 0.75,
        "mrr": pytest.approx((1 + 1 / 2 + 1 / 6 + 1 / 20) / 4),
        "median_rank": 4.0,
        "mean_rank": 7.25,
        "cosine": pytest.approx(0.3625),
        "share_cos_above_0_9": 0.25,
    }


def test_a_model_without_a_latent_has_null_cosines_and_all_other_figures():
    figures = ranking_figures(np.array([1, 3]), None)
    assert figures["cosine"] is None
    assert figures["share_cos_above_0_9"] is None
    assert figures["top1"] == 0.5


def test_no_examples_give_null_everywhere_and_never_nan():
    assert set(ranking_figures(np.array([]), np.array([])).values()) == {None}


def test_deciles_are_equal_parts_from_the_most_to_the_least_frequent_target():
    counts = np.array([0, 500, 40, 3])
    targets = np.array([3, 1, 2, 1] * 10)
    parts = frequency_deciles(targets, counts)
    assert [len(part) for part in parts] == [4] * 10
    assert sorted(np.concatenate(parts)) == list(range(40))
    assert all(targets[i] == 1 for part in parts[:5] for i in part)
    assert all(targets[i] == 3 for part in parts[8:] for i in part)


def test_deciles_do_not_depend_on_what_the_model_answered():
    counts, targets = np.arange(50), np.arange(50)
    first = decile_figures(np.arange(1, 51), None, targets, counts)
    second = decile_figures(np.arange(50, 0, -1), None, targets, counts)
    ranges = [[(row["min_count"], row["max_count"]) for row in rows] for rows in (first, second)]
    assert ranges[0] == ranges[1]
    assert first[0]["max_count"] == 49
    assert first[0]["mean_rank"] > second[0]["mean_rank"]


def test_fewer_blanks_than_deciles_leave_empty_deciles_with_null_figures():
    rows = decile_figures(np.array([1, 2]), None, np.array([0, 1]), np.array([5, 3]))
    assert len(rows) == 10
    assert rows[9]["num_examples"] == 0
    assert rows[9]["top1"] is None


def test_most_predicted_lists_tokens_with_their_share_ties_by_id():
    assert most_predicted(np.array([7, 7, 3, 9]), limit=2) == [[7, 0.5], [3, 0.25]]


@pytest.fixture(scope="module")
def by_path(repository):
    return evaluate.load(str(repository / "eval" / "metrics" / "fill_blank_ranking.py"), keep_in_memory=True)


def test_the_metric_gives_the_same_by_class_and_by_local_path_without_the_hub(by_path):
    inputs = {"predictions": [4, 2], "references": [4, 3], "ranks": [1, 5], "cosines": [0.9, 0.2]}
    by_class = FillBlankRanking(keep_in_memory=True)
    counts = [0, 0, 6, 1, 9]
    assert by_class.compute(**inputs, token_counts=counts) == by_path.compute(**inputs, token_counts=counts)


def test_the_metric_adds_up_batches():
    metric = FillBlankRanking(keep_in_memory=True)
    metric.add_batch(predictions=[4], references=[4], ranks=[1], cosines=[None])
    metric.add_batch(predictions=[2], references=[3], ranks=[4], cosines=[None])
    figures = metric.compute()
    assert figures["mrr"] == 0.625
    assert figures["cosine"] is None
    assert figures["by_decile"] is None
    assert set(figures) == {*FIGURE_NAMES, "cosine_spread", "by_decile", "most_predicted"}
