"""A run folder, ours or the plain Trainer's, is read as it was left, and nothing else is taken for one."""

import json
from pathlib import Path

import pytest

from eval.advice.record import is_run, read_record
from training.common.errors import InputError


def write_trainers(folder: Path, rows: list[dict], **results: float) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": 20, "log_history": rows}))
    if results:
        (folder / "eval_results.json").write_text(json.dumps(results))
    return folder


def test_our_run_is_read_with_its_rate_rows_checkpoints_and_texts(finished_run: Path, tiny_data: Path) -> None:
    record = read_record(finished_run)
    assert record.ours
    assert (record.steps, record.learning_rate) == (12, 3e-3)
    assert [folder.name for folder in record.checkpoints] == ["checkpoint-8", "checkpoint-12"]
    assert record.train_texts() == (tiny_data / "train.txt").read_text().splitlines()
    assert len(record.valid_texts()) == 30
    assert record.claims == {}  # acc_neg and the accuracy of a training batch claim nothing


def test_a_run_on_dialogues_gives_a_text_for_each(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"turns": ["how are you ?", "fine"]}\n{"turns": ["bye", "bye"]}\n')
    (tmp_path / "log.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
    recipe = {"data": {"data": str(tmp_path)}, "training": {"learning_rate": 1e-3}}
    (tmp_path / "run.json").write_text(json.dumps({"family": "dialogue_jepa", "recipe": recipe}))
    assert read_record(tmp_path).train_texts() == ["how are you?\nfine", "bye\nbye"]


def test_a_checkpoint_of_our_run_knows_the_log_up_to_its_step(finished_run: Path) -> None:
    record = read_record(finished_run / "checkpoint-8")
    assert max(row["step"] for row in record.rows) <= 8


def test_a_trainers_folder_gives_rows_the_peak_rate_and_claims(tmp_path: Path) -> None:
    rows = [
        {"step": 10, "loss": 5.0, "learning_rate": 1e-4, "grad_norm": float("nan")},
        {"step": 20, "loss": 4.0, "learning_rate": 5e-5},
        {"step": 20, "eval_loss": 4.1, "eval_accuracy": 0.25, "eval_acc_neg": 0.9, "eval_unigram_accuracy": 0.05},
    ]
    record = read_record(write_trainers(tmp_path, rows, eval_accuracy=0.26, eval_top5=0.4))
    assert (record.learning_rate, record.claims, record.ours) == (1e-4, {"eval_accuracy": 0.26}, False)
    assert record.values("grad_norm") == ([], [])
    assert record.values("loss") == ([10, 20], [5.0, 4.0])
    assert record.train_texts() is None


def test_the_newest_checkpoint_tells_where_the_root_does_not(tmp_path: Path) -> None:
    write_trainers(tmp_path / "checkpoint-5", [{"step": 5, "loss": 1.0}])
    write_trainers(tmp_path / "checkpoint-10", [{"step": 5, "loss": 1.0}, {"step": 10, "loss": 0.5}])
    (tmp_path / "checkpoint-10" / "config.json").write_text("{}")
    record = read_record(tmp_path)
    assert record.steps == 10
    assert [folder.name for folder in record.checkpoints] == ["checkpoint-10"]  # of those that hold a model


def test_a_line_that_was_cut_off_is_left_out_and_said(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
    record = read_record(tmp_path)
    assert [row["step"] for row in record.rows] == [1]
    assert "line 2" in record.notes[0]


@pytest.mark.parametrize("content", ['{"name": "mine"}', "[1]", '{"recipe": "mine"}'])
def test_a_run_file_of_another_program_is_no_recipe_of_ours(tmp_path: Path, content: str) -> None:
    rows = [{"step": 1, "loss": 2.0, "learning_rate": 1e-3}]
    (write_trainers(tmp_path / "theirs", rows) / "run.json").write_text(content)
    (tmp_path / "log.jsonl").write_text(json.dumps(rows[0]))
    (tmp_path / "run.json").write_text(content)
    for record in (read_record(tmp_path / "theirs"), read_record(tmp_path)):
        assert record.run is None
        assert record.learning_rate == 1e-3
    assert not read_record(tmp_path / "theirs").ours


def test_a_source_that_is_gone_gives_no_texts_and_a_note(finished_run: Path) -> None:
    record = read_record(finished_run)
    record.run["recipe"]["data"]["data"] = "/nowhere/at/all.txt"
    assert record.train_texts() is None
    assert "cannot be read again" in record.notes[-1]


def test_a_folder_that_is_no_run_is_refused_in_one_line(tmp_path: Path) -> None:
    assert not is_run(tmp_path)
    with pytest.raises(InputError, match="no log of a training run"):
        read_record(tmp_path)
    with pytest.raises(InputError, match="is no folder"):
        read_record(tmp_path / "missing")
    (tmp_path / "trainer_state.json").write_text("{")
    with pytest.raises(InputError, match="damaged"):
        read_record(tmp_path)
