"""Advice in a run: said once, kept in the log and in the state, and not said again after a resume."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

from configuration_jepa import TextJepaConfig
from eval.advice.run_log import RunFacts
from training.families import load_family
from training.run.arguments import parse_arguments
from training.run.state import RunState
from training.trainer.advice import Advise


@pytest.fixture
def arguments(tmp_path: Path) -> TrainingArguments:
    return TrainingArguments(output_dir=str(tmp_path), use_cpu=True)


def stuck(steps: int, acc_neg: float = 0.03) -> TrainerState:
    """A run whose acc_neg stays at chance."""
    rows = [{"step": step, "loss": 5.0 - step / 1000, "acc_neg": acc_neg} for step in range(50, steps + 1, 50)]
    state = TrainerState(global_step=steps)
    state.log_history = rows
    return state


def advise(run_state: RunState, state: TrainerState, arguments: TrainingArguments) -> None:
    Advise(RunFacts(), run_state).on_log(arguments, state, TrainerControl(), logs=state.log_history[-1])


def kept(arguments: TrainingArguments) -> list[dict]:
    path = Path(arguments.output_dir) / "log.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def test_a_finding_is_printed_once_with_evidence_and_remedy_and_kept_in_the_log(arguments, capsys) -> None:
    run_state = RunState()
    for steps in (300, 350, 400):
        advise(run_state, stuck(steps), arguments)
    printed = capsys.readouterr().out
    assert printed.count("acc neg at chance: acc_neg is 0.030 at step 300; chance is 1/33 = 0.030") == 1
    assert "raise learning_rate" in printed
    assert [(row["step"], row["advice"]) for row in kept(arguments)] == [(300, "acc_neg_at_chance")]


def test_it_is_said_again_only_where_it_worsens(arguments, capsys) -> None:
    run_state = RunState()
    for acc_neg in (0.05, 0.045, 0.02):
        advise(run_state, stuck(300, acc_neg), arguments)
    assert capsys.readouterr().out.count("acc neg at chance") == 2


def test_what_was_said_survives_a_resume(arguments, tmp_path: Path, capsys) -> None:
    run_state = RunState()
    advise(run_state, stuck(300), arguments)
    run_state.save(tmp_path)
    resumed = RunState()
    resumed.restore(tmp_path)
    advise(resumed, stuck(350), arguments)
    assert capsys.readouterr().out.count("acc neg at chance") == 1


def test_a_finding_without_measure_can_be_saved(arguments, tmp_path: Path) -> None:
    run_state = RunState()
    state = stuck(50)
    state.log_history.append({"step": 100, "loss": float("nan")})
    advise(run_state, state, arguments)
    run_state.save(tmp_path)
    assert "explosion" in json.loads((tmp_path / "run_state.json").read_text())["advice"]


def test_a_run_gets_advice_of_its_own_data(train_tiny: Callable[..., int], tmp_path: Path, capsys) -> None:
    assert train_tiny(tmp_path / "run", "--max_steps", "4", "--warmup_steps", "1", "--final_score", "false") == 0
    assert "far fewer sequences: 200 sequences to train on" in capsys.readouterr().out
    rows = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [row["advice"] for row in rows if "advice" in row] == ["far_fewer_sequences"]


@pytest.mark.parametrize(("streaming", "known"), [("true", 0), ("false", 30)])
def test_a_stream_is_not_judged_by_its_sample(tiny_recipe: Path, streaming: str, known: int) -> None:
    run = parse_arguments([str(tiny_recipe), "--streaming", streaming])
    report = {"rows": {"kept": 20, "filtered": {"too short": 10}, "bad": {}}}
    prepared = SimpleNamespace(reports={"train": report}, counts=np.array([60]), train=range(20))
    facts = load_family("text_jepa").facts(run, TextJepaConfig(vocab_size=97), prepared, rows_per_step=8)
    assert facts.rows_read == known
