"""A run that was stopped goes on to the same bits. (The full matrix of faults is in tests/faults.)"""

import json
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from training.run_folder.checkpoints import list_checkpoints
from training.trainer.trainer import JepaTrainer

Train = Callable[..., int]
ReadRows = Callable[[Path], list[dict]]


class KilledError(Exception):
    """Stands for a process that is gone."""


def interrupt_before_step(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Let the run die when it begins the step after `step`, as a kill would: nothing is saved then."""
    begin = JepaTrainer.get_batch_samples

    def dying(self: JepaTrainer, *args: object) -> object:
        if self.state.global_step == step:
            raise KilledError
        return begin(self, *args)

    monkeypatch.setattr(JepaTrainer, "get_batch_samples", dying)


def assert_same_run(folder: Path, other: Path, read_rows: ReadRows) -> None:
    """Weights, optimizer, random state, our own state and log (times aside) are bitwise equal."""
    assert read_rows(folder) == read_rows(other)
    last, same = list_checkpoints(folder)[-1], list_checkpoints(other)[-1]
    assert last.name == same.name
    mine, theirs = load_file(last / "model.safetensors"), load_file(same / "model.safetensors")
    assert all(torch.equal(mine[name], theirs[name]) for name in mine | theirs)
    for name in ("optimizer.pt", "scheduler.pt"):
        assert (last / name).read_bytes() == (same / name).read_bytes(), name
    assert (last / "run_state.json").read_text() == (same / "run_state.json").read_text()
    assert json.loads((folder / "manifest.json").read_text())["step"] == json.loads(
        (other / "manifest.json").read_text()
    )["step"]  # fmt: skip


@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["--per_device_train_batch_size", "4", "--gradient_accumulation_steps", "2", "--dataloader_num_workers", "2"],
        ["--target_table", "contextual", "--alignment_weight", "1", "--save_steps", "5"],
        ["--ranking", "shared", "--num_candidates", "8"],
    ],
    ids=["plain", "accumulated, 2 workers", "teacher, saved between log rows", "shared candidates"],
)
def test_a_killed_run_goes_on_to_the_same_bits(
    train_tiny: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read_rows: ReadRows, flags: list[str]
) -> None:
    assert train_tiny(tmp_path / "whole", "--final_score", "false", *flags) == 0
    with monkeypatch.context() as patch:
        interrupt_before_step(patch, 7)
        with pytest.raises(KilledError):
            train_tiny(tmp_path / "killed", "--final_score", "false", *flags)
    assert train_tiny(tmp_path / "killed", "--final_score", "false", *flags) == 0
    assert_same_run(tmp_path / "whole", tmp_path / "killed", read_rows)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_once_ends_with_75_and_the_same_command_goes_on(
    finished_run: Path,
    train_tiny: Train,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    read_rows: ReadRows,
    capsys: pytest.CaptureFixture[str],
    number: int,
) -> None:
    begin = TrainerCallback.on_step_begin

    def send(self: TrainerCallback, args: object, state: object, *rest: object, **kwargs: object) -> None:
        if state.global_step == 6 and threading.current_thread() is threading.main_thread():
            monkeypatch.setattr(TrainerCallback, "on_step_begin", begin)
            os.kill(os.getpid(), number)

    monkeypatch.setattr(TrainerCallback, "on_step_begin", send)
    assert train_tiny(tmp_path / "run") == 75
    last_line = capsys.readouterr().out.strip().splitlines()[-1]
    assert last_line == f"stopped by {signal.Signals(number).name} at step 7, saved; the same command goes on"
    assert list_checkpoints(tmp_path / "run")[-1].name == "checkpoint-7"
    assert train_tiny(tmp_path / "run") == 0
    assert_same_run(finished_run, tmp_path / "run", read_rows)


def test_a_damaged_checkpoint_is_named_and_the_run_goes_on_from_the_one_before(
    finished_run: Path,
    train_tiny: Train,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    read_rows: ReadRows,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with monkeypatch.context() as patch:
        interrupt_before_step(patch, 9)
        with pytest.raises(KilledError):
            train_tiny(tmp_path / "run")
    newest = list_checkpoints(tmp_path / "run")[-1]
    (newest / "optimizer.pt").unlink()
    assert train_tiny(tmp_path / "run") == 0
    assert "skipped:" in (said := capsys.readouterr().err)
    assert f"{newest.name}" in said
    assert_same_run(finished_run, tmp_path / "run", read_rows)


def test_no_whole_checkpoint_ends_with_4(
    train_tiny: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        interrupt_before_step(patch, 5)
        with pytest.raises(KilledError):
            train_tiny(tmp_path / "run")
    for checkpoint in list_checkpoints(tmp_path / "run"):
        (checkpoint / "model.safetensors").write_bytes(b"")
    assert train_tiny(tmp_path / "run") == 4
    assert "no checkpoint in" in capsys.readouterr().err.strip().splitlines()[-1]


def test_a_run_killed_while_its_root_was_filled_is_repaired_at_the_next_start(
    finished_run: Path, train_tiny: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import training.finish

    with monkeypatch.context() as patch:
        patch.setattr(training.finish, "plot_run", lambda *paths: (_ for _ in ()).throw(KilledError()))
        with pytest.raises(KilledError):
            train_tiny(tmp_path / "run")
    (tmp_path / "run" / "model.safetensors").write_bytes(b"half")
    assert train_tiny(tmp_path / "run") == 0
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "run" / name).read_bytes() == (finished_run / name).read_bytes()


def test_a_damaged_log_is_cut_at_its_first_damaged_row_and_the_run_goes_on(
    train_tiny: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        interrupt_before_step(patch, 9)
        with pytest.raises(KilledError):
            train_tiny(tmp_path / "run", "--final_score", "false")
    log = tmp_path / "run" / "log.jsonl"
    rows = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join([*rows[:2], b"\0" * 40 + b"\n", *rows[3:]]))
    assert train_tiny(tmp_path / "run", "--final_score", "false") == 0
    assert (
        f"note: {log}, line 3 is damaged: {len(rows) - 2} of {len(rows)} rows are left out" in capsys.readouterr().err
    )
    steps = [json.loads(line)["step"] for line in log.read_text().splitlines()]
    assert steps[:2] == [json.loads(row)["step"] for row in rows[:2]]
    assert steps[2:][0] > 8
    assert steps[-1] == 12


def test_the_log_is_on_the_disk_before_the_checkpoint_that_counts_on_it(
    train_tiny: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, at_save = tmp_path / "run" / "log.jsonl", []
    fsync = os.fsync

    def watch(descriptor: int) -> None:
        if log.is_file() and os.path.samestat(os.fstat(descriptor), log.stat()):
            at_save.append((log.stat().st_size > 0, [path.name for path in list_checkpoints(tmp_path / "run")]))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watch)
    flags = ["--max_steps", "4", "--save_steps", "2", "--eval_steps", "4", "--final_score", "false"]
    assert train_tiny(tmp_path / "run", *flags) == 0
    assert at_save[:2] == [(True, []), (True, ["checkpoint-2"])]


def test_an_extended_run_that_was_killed_after_its_last_step_is_finished_at_the_next_start(
    train_tiny: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import training.finish
    import training.train

    folder, more = tmp_path / "run", ["--max_steps", "8", "--final_score", "false", "--extend"]
    assert train_tiny(folder, "--max_steps", "4", "--final_score", "false") == 0
    with monkeypatch.context() as patch:
        patch.setattr(training.finish, "finish", lambda *args: (_ for _ in ()).throw(KilledError()))
        with pytest.raises(KilledError):
            train_tiny(folder, *more)
    assert train_tiny(folder, *more) == 0
    milestones = json.loads((folder / "results" / "milestones.json").read_text())["milestones"]
    assert milestones[-1]["step"] == 8


def test_a_finished_run_extends_to_more_steps(train_tiny: Train, tmp_path: Path, read_rows: ReadRows) -> None:
    assert train_tiny(tmp_path / "run", "--max_steps", "4", "--final_score", "false") == 0
    assert train_tiny(tmp_path / "run", "--max_steps", "8", "--final_score", "false") == 2
    assert train_tiny(tmp_path / "run", "--max_steps", "8", "--final_score", "false", "--extend") == 0
    assert read_rows(tmp_path / "run")[-1]["step"] == 8
    assert list_checkpoints(tmp_path / "run")[-1].name == "checkpoint-8"
