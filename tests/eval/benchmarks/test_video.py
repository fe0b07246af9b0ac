"""The comparison of the video objectives at the size of a test: every arm trains, is scored, stands in the table."""

import json
import re

import pytest

from eval.benchmarks import readme_tables, video_objectives
from eval.benchmarks.exams.runs import parse_run

TINY = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "frame_size": 16,
    "patch_size": 8,
    "code_size": 1,
    "frame_codes": "grey",
    "code_levels": 4,
    "latent_size": 8,
    "max_position_embeddings": 20,
    "per_device_train_batch_size": 2,
    "warmup_steps": 1,
    "bf16": "false",
}


def flags(folder, *more):
    place = ["--digits", "builtin:digits", "--out", str(folder / "cells")]
    place += ["--json", str(folder / "video_objectives.json")]
    size = ["--steps", "2", "--eval_steps", "2", "--eval_rows", "4", "--max_rows", "6"]
    return [*place, *size, *more, "--set", *(f"{key}={value}" for key, value in TINY.items())]


def test_arms_are_scored_on_the_same_clips_and_stand_in_the_tables(tmp_path, cells_in_this_process, monkeypatch):
    arms = ["future", "joint", "future, clips of 5, 10, 15, 20"]
    arguments = flags(tmp_path, "--seeds", "2", "--arms", *arms)
    assert video_objectives.main(arguments) == 0
    assert len(cells_in_this_process) == 3 * 2
    cells_in_this_process.clear()
    assert video_objectives.main(arguments) == 0
    assert cells_in_this_process == []
    record = json.loads((tmp_path / "video_objectives.json").read_text(encoding="utf-8"))
    assert list(record["arms"]) == arms
    assert record["num_examples"] == 6
    future, joint = record["arms"]["future"], record["arms"]["joint"]
    assert future["mse_difference"] is None
    assert joint["mse_difference"]["difference"] == pytest.approx(
        joint["figures"]["mse"]["mean"] - future["figures"]["mse"]["mean"], abs=1e-3
    )
    assert len(future["per_frame_mse"]) == 10
    assert set(record["baselines"]) >= {"black", "copy_last", "mean_frame", "constant_velocity"}
    assert "--digits builtin:digits" in record["command"]

    monkeypatch.setattr(readme_tables, "RESULTS", tmp_path)
    page = readme_tables.filled("<!-- results:video_objectives -->\n<!-- /results:video_objectives -->\n")
    assert page.count("\n| ") == 2 + 3 + len(record["baselines"])
    assert re.search(r"^\| joint \| 2 \|.*\[", page, flags=re.MULTILINE)


def test_arms_differ_in_what_their_names_say_alone(repository, monkeypatch, tmp_path):
    monkeypatch.chdir(repository)
    options = video_objectives.COMPARISON.parser().parse_args(["--digits", "builtin:digits", "--out", str(tmp_path)])
    cells = video_objectives.COMPARISON.plan(options, {})
    made = {cell.arm.name: cell.arm.settings["overrides"] for cell in cells}
    runs = {name: parse_run(video_objectives.RECIPE, one, 0, 10, tmp_path) for name, one in made.items()}
    plain = runs.pop("future")
    assert len(runs) == len(video_objectives.ARMS) - 1
    for name, run in runs.items():
        sections = ("data", "masking", "training")
        changed = {
            key
            for section in sections
            for key, value in vars(getattr(run, section)).items()
            if value != vars(getattr(plain, section))[key]
        }
        changed |= {key for key, value in run.model.items() if value != plain.model.get(key)}
        assert changed == set(video_objectives.ARMS[name]) - {"mask_ratio_end"}
