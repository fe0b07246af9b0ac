"""Two runs that differ in one thing: it is named, with both values, and where the curves part."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eval.diagnose.__main__ import main
from eval.diagnose.against import Comparison, compare

RUN: dict[str, Any] = {
    "schema_version": 1,
    "family": "text_jepa",
    "recipe": {
        "model": {"hidden_size": 64},
        "data": {"data": "builtin:sotu", "max_vocab": 900},
        "training": {"learning_rate": 1e-3, "per_device_train_batch_size": 64, "seed": 1},
    },
    "init_from": None,
    "data_hash": "aaaa",
    "num_processes": 1,
    "identity": "x",
    "command": "python training/train.py",
    "versions": {"torch": "2.13.0"},
    "precision": "float32",
}


def write(folder: Path, name: str, content: Any) -> None:
    (folder / name).write_text(json.dumps(content), encoding="utf-8")


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    folder = tmp_path / "one"
    folder.mkdir()
    write(folder, "run.json", RUN)
    write(folder, "config.json", {"model_type": "text_jepa", "hidden_size": 64, "dtype": "float32"})
    write(folder, "tokenizer.json", {"model": {"type": "WordLevel", "vocab": {"the": 0, "of": 1}}})
    (folder / "modeling_text_jepa.py").write_text("# code\n")
    rows = [{"step": step, "loss": 5.0 - step / 100} for step in range(0, 100, 10)]
    (folder / "log.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


@pytest.fixture
def stock(tmp_path: Path) -> Path:
    folder = tmp_path / "one"
    folder.mkdir()
    rows = [{"step": step, "loss": 5.0 - step / 100, "learning_rate": 1e-3} for step in range(0, 100, 10)]
    write(folder, "trainer_state.json", {"log_history": rows, "train_batch_size": 8, "global_step": 90})
    write(folder, "config.json", {"model_type": "gpt2", "n_embd": 64, "dtype": "float32"})
    return folder


def changed(folder: Path, name: str, change: Callable[[Any], None]) -> Path:
    """A copy of a run with one of its JSON files changed."""
    other = folder.parent / "other"
    shutil.copytree(folder, other)
    content = json.loads((other / name).read_text())
    change(content)
    write(other, name, content)
    return other


def said(compared: Comparison) -> list[tuple[str, Any, Any]]:
    return [(each.what, each.one, each.other) for each in compared.differences]


def rows_differ(state: dict[str, Any]) -> None:
    for row in state["log_history"]:
        row["learning_rate"] = 3e-3


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda run: run["recipe"]["training"].update(learning_rate=1e-2), ("training.learning_rate", 1e-3, 1e-2)),
        (lambda run: run["recipe"]["training"].update(seed=2), ("training.seed", 1, 2)),
        (lambda run: run.update(data_hash="bbbb"), ("data_hash", "aaaa", "bbbb")),
        (lambda run: run.update(precision="bfloat16"), ("precision", "float32", "bfloat16")),
        (lambda run: run.update(num_processes=2), ("num_processes", 1, 2)),
        (lambda run: run["versions"].update(torch="2.14.1"), ("versions.torch", "2.13.0", "2.14.1")),
        (lambda run: run.update(init_from={"path": "outputs/old"}), ("init_from", None, None)),
    ],
)
def test_what_differs_in_our_runs_is_named(ours: Path, change: Callable[[Any], None], expected: tuple) -> None:
    found = said(compare(ours, changed(ours, "run.json", change)))
    assert [each[0].split(".path")[0] for each in found][:1] == [expected[0]]
    if expected[1:] != (None, None):
        assert found == [expected]


@pytest.mark.parametrize(
    ("change", "name", "expected"),
    [
        (rows_differ, "trainer_state.json", ("learning_rate", 1e-3, 3e-3)),
        (lambda state: state.update(train_batch_size=16), "trainer_state.json", ("train_batch_size", 8, 16)),
        (lambda config: config.update(dtype="bfloat16"), "config.json", ("dtype", "float32", "bfloat16")),
    ],
)
def test_what_differs_in_runs_of_the_stock_trainer_is_named(stock: Path, change, name: str, expected: tuple) -> None:
    assert said(compare(stock, changed(stock, name, change))) == [expected]


def test_one_token_of_the_tokenizer_is_named(ours: Path) -> None:
    other = changed(ours, "tokenizer.json", lambda content: content["model"]["vocab"].update({"of": 2, "off": 1}))
    assert said(compare(ours, other)) == [("tokenizer: tokens", ["of"], ["of", "off"])]


def test_another_code_is_named(ours: Path) -> None:
    other = ours.parent / "other"
    shutil.copytree(ours, other)
    (other / "modeling_text_jepa.py").write_text("# other code\n")
    ((what, one, second),) = said(compare(ours, other))
    assert what == "code: modeling_text_jepa.py"
    assert one != second


def test_where_the_curves_part_is_said(ours: Path, capsys) -> None:
    other = ours.parent / "other"
    shutil.copytree(ours, other)
    rows = [{"step": step, "loss": 5.0 - step / 100 + (step > 20) * 0.01 * (step - 20)} for step in range(0, 100, 10)]
    (other / "log.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (curve,) = compare(ours, other).curves
    assert (curve.figure, curve.first, curve.parted, curve.step) == ("loss", 30, 50, 90)
    assert main([str(ours), "--against", str(other)]) == 0
    assert "first differs at step 30, apart by 5% from step 50" in " ".join(capsys.readouterr().out.split())


def test_the_command_writes_json_and_says_1_where_something_differs(ours: Path, tmp_path: Path, capsys) -> None:
    other = changed(ours, "run.json", lambda run: run["recipe"]["training"].update(seed=2))
    assert main([str(ours), "--against", str(other), "--json", str(tmp_path / "found.json")]) == 1
    assert "1 thing differs" in capsys.readouterr().out
    assert json.loads((tmp_path / "found.json").read_text())["differences"][0]["what"] == "training.seed"


def test_a_folder_that_is_no_run_is_refused(ours: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "empty").mkdir()
    assert main([str(ours), "--against", str(tmp_path / "empty")]) == 2
    assert "holds no log" in capsys.readouterr().err
