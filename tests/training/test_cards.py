"""The card's milestone rows: what was measured at each of them, with a sample, and the same in the results."""

import json
import shlex
from pathlib import Path

from eval.score import main as score_main


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


def test_the_command_in_the_card_gives_the_figures_of_the_card(finished_run: Path, tmp_path: Path) -> None:
    card = (finished_run / "README.md").read_text(encoding="utf-8")
    command = next(line for line in card.splitlines() if line.startswith("python -m eval.score "))
    words = shlex.split(command.replace("PATH_OR_REPOSITORY", str(finished_run)).replace("scores.json", ""))
    assert "--max_rows 10" in command
    assert score_main([*words[3:-1], "--json", str(tmp_path / "again.json"), "--device", "cpu"]) == 0
    again = json.loads((tmp_path / "again.json").read_text(encoding="utf-8"))
    stored = json.loads((finished_run / "results" / "score.json").read_text(encoding="utf-8"))
    assert (again["num_rows"], again["metrics"]) == (stored["num_rows"], stored["metrics"])
