"""What costs and recalls: the benchmarks of the generator's stages that train nothing worth keeping."""

import json

import numpy as np
import pytest

from eval.benchmarks import associative_recall, comparison, generator_cost
from eval.benchmarks.generator_cost import DENSE, FORGETS, ROUTED, WINDOW, exponent, required


def test_costs_are_timed_side_by_side_and_written_down(tmp_path) -> None:
    flags = ["--lengths", "16", "32", "--cached", "20", "--repetitions", "1", "--layers", "1", "--hidden_size", "32"]
    assert generator_cost.main([*flags, "--json", str(tmp_path / "cost.json")]) in (0, 1)
    record = json.loads((tmp_path / "cost.json").read_text())
    assert list(record["points"]) == ["train, 16", "train, 32", "decode, 20"]
    for point in record["points"].values():
        assert set(point["seconds"]) == {DENSE, FORGETS, ROUTED, WINDOW}
        assert min(point["seconds"].values()) > 0
    assert "| train, 16 |" in (tmp_path / "cost.md").read_text()
    assert generator_cost.main(["--repetitions", "0", "--json", str(tmp_path / "none.json")]) == 2


def test_what_is_required_of_costs_is_judged_by_stage_0() -> None:
    points = {"train, 256": {"seconds": {DENSE: 1.0, FORGETS: 1.09, ROUTED: 1.19, WINDOW: 1.0}}}
    held = required(points, exponent([(8192, 1.0), (16384, 2.1), (32768, 4.2)]))
    assert list(held.values()) == [True, False, True]
    assert exponent([(8192, 3.0), (32768, 48.0)]) == pytest.approx(2.0)


def test_rows_ask_for_the_value_that_stood_after_the_key_and_stands_nowhere_else() -> None:
    ids, labels = (each.numpy() for each in associative_recall.rows_of(3, 64, np.random.default_rng(0)))
    for row, wanted in zip(ids, labels, strict=True):
        pairs = dict(zip(row[:8:2].tolist(), row[1:8:2].tolist(), strict=True))
        places = np.flatnonzero(wanted != -100)
        assert len(places) == len(pairs) == 4
        assert {row[place - 1]: wanted[place] for place in places} == pairs
        assert places.min() > 8


def test_recall_is_measured_for_each_arm_and_kept(tmp_path, monkeypatch, cells_in_this_process) -> None:
    monkeypatch.setattr(associative_recall, "run_cells", comparison.run_cells)
    monkeypatch.setattr(associative_recall, "ASKED", (32, 64))
    monkeypatch.setattr(associative_recall, "TRAINED", (16, 32))
    monkeypatch.setattr(associative_recall, "TOKENS", 64)
    monkeypatch.setattr(associative_recall, "ASKED_ROWS", 2)
    flags = ["--seeds", "1", "--steps", "2", "--out", str(tmp_path / "cells"), "--json", str(tmp_path / "recall.json")]
    monkeypatch.setattr(associative_recall, "LONGEST", "64")
    assert associative_recall.main(flags) in (0, 1)
    record = json.loads((tmp_path / "recall.json").read_text())
    assert list(record["arms"]) == list(associative_recall.ARMS)
    assert all(0 <= arm["figures"]["64"]["mean"] <= 1 for arm in record["arms"].values())
    assert associative_recall.main([*flags, "--table"]) in (0, 1)
