"""`--diagnose` in a run: it says and logs what the doctor finds, and the run goes on as if it had not been there."""

import importlib
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from eval.diagnose.checks.check import Check
from eval.diagnose.report.report import FAIL, PASS, Finding
from eval.diagnose.subject.subject import Subject
from training.run_folder.checkpoints import list_checkpoints
from training.trainer import diagnosing
from training.trainer.trainer import JepaTrainer

Train = Callable[..., int]
examine = importlib.import_module("eval.diagnose.examine")  # the package's own `examine` is the function


def rows_of(folder: Path, diagnoses: bool) -> list[dict]:
    """Rows of the log, those of the doctor or the others, without what measures time."""
    lines = (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    rows = [row for row in rows if ("diagnosis" in row) == diagnoses]
    return [{k: v for k, v in row.items() if k not in ("time", "tokens_per_second")} for row in rows]


def ask_for_everything(subject: Subject) -> Finding:
    """A check as greedy as one can be: random numbers, the run's own batches, losses and masks, a trained copy."""
    trainer = subject.trainer
    torch.rand(3), random.random(), np.random.rand()
    batch = next(iter(trainer.get_train_dataloader()))
    batches, count = trainer.get_batch_samples(iter(trainer.get_train_dataloader()), 1, trainer.args.device)
    trainer.compute_loss(subject.model, batches[0], num_items_in_batch=count).backward()
    subject.model.zero_grad()
    return Finding("greedy.check", FAIL, {"rows": len(batch["input_ids"])}, "none", "because", "do that")


@pytest.fixture
def greedy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The doctor has one check only."""
    monkeypatch.setattr(examine, "GROUPS", {"greedy": ""})
    monkeypatch.setattr(examine, "checks_of", lambda group, kind="": (Check("check", ask_for_everything),))
    monkeypatch.setattr(diagnosing, "SKIPPED_GROUPS", ())


def assert_same_bits(folder: Path, other: Path) -> None:
    last, same = list_checkpoints(folder)[-1], list_checkpoints(other)[-1]
    assert last.name == same.name
    mine, theirs = load_file(last / "model.safetensors"), load_file(same / "model.safetensors")
    assert all(torch.equal(mine[name], theirs[name]) for name in mine | theirs)
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "run_state.json"):
        assert (last / name).read_bytes() == (same / name).read_bytes(), name
    assert rows_of(folder, diagnoses=False) == rows_of(other, diagnoses=False)


@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["--per_device_train_batch_size", "4", "--gradient_accumulation_steps", "2", "--dataloader_num_workers", "1"],
        ["--target_table", "contextual", "--alignment_weight", "1", "--bf16"],
        ["--streaming", "true"],
    ],
    ids=["plain", "accumulated, 1 worker", "teacher, bf16", "stream"],
)
def test_a_run_with_the_doctor_has_the_bits_of_one_without(
    greedy: None, train_tiny: Train, tmp_path: Path, flags: list[str]
) -> None:
    assert train_tiny(tmp_path / "without", "--final_score", "false", *flags) == 0
    assert train_tiny(tmp_path / "with", "--final_score", "false", "--diagnose_steps", "2", *flags) == 0
    assert len(rows_of(tmp_path / "with", diagnoses=True)) == 7
    assert_same_bits(tmp_path / "with", tmp_path / "without")


def test_a_stopped_run_with_the_doctor_goes_on_to_the_same_bits_and_the_same_findings(
    greedy: None, train_tiny: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ("--final_score", "false", "--diagnose", "--diagnose_steps", "4")
    assert train_tiny(tmp_path / "whole", *flags) == 0
    begin = JepaTrainer.get_batch_samples

    def dying(self: JepaTrainer, *args: object) -> Iterator:
        if self.state.global_step == 7:
            raise KeyboardInterrupt
        return begin(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(JepaTrainer, "get_batch_samples", dying)
        assert train_tiny(tmp_path / "killed", *flags) == 130
    assert train_tiny(tmp_path / "killed", *flags) == 0
    assert_same_bits(tmp_path / "killed", tmp_path / "whole")
    assert rows_of(tmp_path / "killed", diagnoses=True) == rows_of(tmp_path / "whole", diagnoses=True)


def test_findings_are_said_as_advice_and_logged_before_step_1_and_after_the_last(
    greedy: None, train_tiny: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train_tiny(tmp_path / "run", "--diagnose") == 0
    rows = rows_of(tmp_path / "run", diagnoses=True)
    assert [row["step"] for row in rows] == [0, 12]
    assert rows[0]["diagnosis"] == "fail"
    assert rows[0]["findings"][0]["check"] == "greedy.check"
    assert rows[0]["findings"][0]["evidence"] == {"rows": 8}
    said = capsys.readouterr().out
    assert "diagnosis before step 1: 1 fail, 0 note, 0 pass" in said
    assert "fail: greedy.check: rows 8\n        because\n        do that" in said


def test_a_model_from_nothing_is_not_called_untrained_before_step_1_and_is_afterwards(
    greedy: None, train_tiny: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    untrained = Finding(diagnosing.UNTRAINED, FAIL, {}, "none", "because", "do that")
    monkeypatch.setattr(examine, "checks_of", lambda group, kind="": (Check("shape", lambda subject: untrained),))
    assert train_tiny(tmp_path / "run", "--diagnose") == 0
    assert [row["diagnosis"] for row in rows_of(tmp_path / "run", diagnoses=True)] == [PASS, FAIL]


def test_a_doctor_that_fails_does_not_end_the_run(
    greedy: None,
    train_tiny: Train,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def failing(group: str, kind: str = "") -> tuple:
        raise AttributeError("a fault of its own")

    monkeypatch.setattr(examine, "checks_of", failing)
    assert train_tiny(tmp_path / "run", "--diagnose") == 0
    assert "diagnosis: could not be made: AttributeError: a fault of its own" in capsys.readouterr().out
    assert rows_of(tmp_path / "run", diagnoses=True) == []


def test_a_signal_does_not_wait_for_the_doctor(
    greedy: None, train_tiny: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from training.runtime.signals import SignalWatch

    monkeypatch.setattr(SignalWatch, "told_to_stop", lambda self: True)
    assert train_tiny(tmp_path / "run", "--diagnose") == 75
    assert rows_of(tmp_path / "run", diagnoses=True) == []
    assert list_checkpoints(tmp_path / "run")[-1].name == "checkpoint-1"


def test_without_the_flags_there_is_no_doctor(finished_run: Path) -> None:
    assert rows_of(finished_run, diagnoses=True) == []


def test_a_number_of_steps_below_1_is_refused(train_tiny: Train, tmp_path: Path, capsys) -> None:
    assert train_tiny(tmp_path / "run", "--diagnose_steps", "0") == 2
    assert capsys.readouterr().err.strip() == "error: diagnose_steps: got 0; use a whole number of at least 1"
