"""What keeps the dialogue model's latents apart: the comparison at the size of a test, and what it requires."""

import json

import pytest

from eval.benchmarks import comparison, readme_tables
from eval.benchmarks import dialogue_collapse as benchmark
from eval.benchmarks.cells import Outcome
from training.common.records import write_json


def arm(ranks=(20.0, 9.0), advice=(), doctor="pass"):
    curve = [
        {"step": 100 * place, "effective_rank": rank / 2, "target_effective_rank": rank}
        for place, rank in enumerate(ranks)
    ]
    said = [{"step": 100, "advice": name, "evidence": "alike", "remedy": "protect"} for name in advice]
    return {"curve": curve, "advice": said, "doctor": [{"check": "collapse.latents", "verdict": doctor}]}


def healthy_and_collapsed(**changes):
    arms = {name: arm() for name in benchmark.ARMS}
    arms[benchmark.UNPROTECTED] = arm((20.0, 1.0), (benchmark.COLLAPSING,), "fail")
    return {**arms, **changes}


def required(arms):
    return benchmark.COMPARISON.required({"arms": arms})


def test_what_is_required_holds_where_only_the_unprotected_run_is_named():
    found = required(healthy_and_collapsed())
    assert len(found) == 5
    assert all(found.values())
    assert required({}) == {}


@pytest.mark.parametrize(
    ("name", "changed", "broken"),
    [
        (benchmark.PROTECTED, arm((20.0, 2.9)), "three times"),
        (benchmark.PROTECTED, arm(advice=(benchmark.COLLAPSING,)), "neither advice nor doctor"),
        (benchmark.HEALTHY, arm(doctor="fail"), "neither advice nor doctor"),
        (benchmark.UNPROTECTED, arm((20.0, 1.0), ("latent_not_used",), "fail"), "the advice names"),
        (benchmark.UNPROTECTED, arm((20.0, 1.0), (benchmark.COLLAPSING,), "note"), "the doctor names"),
    ],
)
def test_each_requirement_can_fail(name, changed, broken):
    found = required(healthy_and_collapsed(**{name: changed}))
    assert [broken in said for said, holds in found.items() if not holds] == [True]


def test_the_table_has_both_ranks_at_every_step_and_what_was_said(tmp_path, monkeypatch):
    rows = benchmark.COMPARISON.table({"arms": healthy_and_collapsed()})
    assert rows[0][1:] == ["0", "100", "advice at step", "doctor"]
    found = {row[0]: row[1:] for row in rows[1:]}
    assert found[benchmark.UNPROTECTED] == ["10.0 / 20.0", "0.5 / 1.0", "100", "collapse.latents"]
    assert found[benchmark.HEALTHY] == ["10.0 / 20.0", "4.5 / 9.0", "none", "passes"]
    write_json({"arms": healthy_and_collapsed(), "command": "again"}, tmp_path / "dialogue_collapse.json")
    monkeypatch.setattr(readme_tables, "RESULTS", tmp_path)
    assert f"| {benchmark.UNPROTECTED} | 10.0 / 20.0 | 0.5 / 1.0 |" in readme_tables.render("dialogue_collapse")


def test_an_arm_is_a_whole_run_with_its_log_and_the_doctors_findings(talks, tmp_path, repository, monkeypatch):
    monkeypatch.chdir(repository)
    tiny = {"hidden_size": 16, "num_hidden_layers": 1, "decoder_layers": 1, "num_attention_heads": 2}
    tiny |= {"per_device_train_batch_size": 8, "data": str(talks), **benchmark.ARMS[benchmark.UNPROTECTED]}
    settings = {"recipe": benchmark.RECIPE, "overrides": tiny, "steps": 4, "eval_steps": 2}
    found = benchmark.train_and_examine(settings, 0, tmp_path)
    assert [point["step"] for point in found["curve"]] == [0, 2, 4]
    assert found["metrics"].keys() == set(benchmark.CURVE)
    assert {"collapse.latents", "collapse.latent_ignored"} <= {one["check"] for one in found["doctor"]}
    assert found["advice"] == []
    with pytest.raises(RuntimeError, match="exit code 2"):
        benchmark.train_and_examine({**settings, "overrides": {"hiden_size": 1}}, 0, tmp_path / "other")


def test_the_command_writes_all_arms_and_names_no_folder(talks, tmp_path, repository, monkeypatch):
    monkeypatch.chdir(repository)
    monkeypatch.setattr(comparison, "plan_cells", planned := Planned(tmp_path))
    monkeypatch.setattr(comparison, "run_cells", lambda cells, workers, progress: Outcome(kept=list(cells)))
    flags = ["--data", str(talks), "--steps", "100", "--json", str(tmp_path / "result.json")]
    assert benchmark.main(flags) == 0
    record = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))
    assert planned.arms == list(benchmark.ARMS) == list(record["arms"])
    assert record["command"].startswith(f"python -m eval.benchmarks.dialogue_collapse --data PATH/TO/{talks.name} ")
    assert str(talks.parent) not in record["command"]


def test_data_that_is_not_there_is_one_line_and_exit_code_2(tmp_path, repository, monkeypatch, capsys):
    monkeypatch.chdir(repository)
    assert benchmark.main(["--data", "nowhere", "--json", str(tmp_path / "x.json")]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: data 'nowhere' is neither")
    assert "\n" not in error


class Planned:
    """Stands for `plan_cells`: every cell is done."""

    def __init__(self, folder):
        self.folder, self.arms = folder, []

    def __call__(self, arms, seeds, out):
        from eval.benchmarks.cells import Cell

        self.arms = [one.name for one in arms]
        done = healthy_and_collapsed()
        cells = [Cell(one, 0, "key", self.folder / f"{place}.json") for place, one in enumerate(arms)]
        for cell in cells:
            write_json({"seed": 0, **done[cell.arm.name]}, cell.path)
        return cells
