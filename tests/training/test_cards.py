"""The card's milestone rows: what was measured at each of them, with a sample, and the same in the results."""

import json
from pathlib import Path


def test_milestones_stand_in_the_results_and_in_the_card_with_a_sample(finished_run: Path) -> None:
    rows = json.loads((finished_run / "results" / "milestones.json").read_text(encoding="utf-8"))["milestones"]
    assert [row["step"] for row in rows] == [0, 6, 12]
    card = (finished_run / "README.md").read_text(encoding="utf-8").splitlines()
    for row in rows:
        assert {"loss", "mrr", "top1", "median_rank", "effective_rank", "mean_pairwise_cosine"} <= row.keys()
        line = next(line for line in card if line.startswith(f"| {row['step']} | {row['loss']:.3f} | "))
        assert line.endswith(f"| {row['samples'][0]} |")
        assert f"| {row['effective_rank']:,.1f} |" in line


def test_the_score_holds_figures_of_the_representation_and_none_for_the_baseline(finished_run: Path) -> None:
    record = json.loads((finished_run / "results" / "score.json").read_text(encoding="utf-8"))
    assert 1 <= record["metrics"]["effective_rank"] <= 16
    assert -1 <= record["metrics"]["mean_pairwise_cosine"] <= 1
    assert record["metrics"]["cosine_spread"] > 0
    assert record["baselines"]["unigram"]["effective_rank"] is None
    assert record["baselines"]["unigram"].keys() == record["metrics"].keys()
