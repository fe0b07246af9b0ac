"""The command line from end to end: what a finished run holds, and how bad input ends."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer

from training.common.manifest import verify_manifest
from training.train import main

Train = Callable[..., int]


def test_a_finished_run_holds_model_log_results_curves_and_card(finished_run: Path) -> None:
    names = {path.name for path in finished_run.iterdir()}
    assert names >= {"model.safetensors", "config.json", "tokenizer.json", "run.json", "log.jsonl", "README.md"}
    assert (finished_run / "plots" / "loss.png").stat().st_size > 1000
    verify_manifest(finished_run)
    score = json.loads((finished_run / "results" / "score.json").read_text())
    assert score["family"] == "text_jepa"
    assert score["split"] == "test"
    assert score["baselines"]["unigram"]["top1"] is not None


def test_nothing_that_is_published_is_a_pickle(finished_run: Path) -> None:
    published = [path.name for path in finished_run.iterdir() if path.is_file()]
    assert [name for name in published if name.endswith((".pt", ".pth", ".bin", ".pkl"))] == []
    assert not list(finished_run.rglob("training_args.bin"))


def test_the_root_opens_with_the_auto_classes(finished_run: Path) -> None:
    model = AutoModelForMaskedLM.from_pretrained(finished_run)
    assert model.config.vocab_size == len(AutoTokenizer.from_pretrained(finished_run))
    assert float(model.token_counts.sum()) > 0


def test_every_checkpoint_and_the_root_say_what_run_they_are_of(finished_run: Path) -> None:
    run = json.loads((finished_run / "run.json").read_text())
    assert run["recipe"]["training"]["max_steps"] == 12
    assert len(run["identity"]) == 64
    for checkpoint in finished_run.glob("checkpoint-*"):
        assert json.loads((checkpoint / "run.json").read_text()) == run


def test_the_log_has_the_figures_of_training_and_of_held_out_rows(finished_run: Path) -> None:
    rows = [json.loads(line) for line in (finished_run / "log.jsonl").read_text().splitlines()]
    train = [row for row in rows if "loss" in row]
    assert [row["step"] for row in train] == [1, 3, 6, 9, 12]
    figures = "loss ranking alignment auxiliary cos_mean acc_neg acc_ema accuracy learning_rate grad_norm passes"
    assert set(figures.split()) | {"tokens_per_second", "device", "time"} <= set(train[-1])
    assert "epoch" not in train[-1]
    assert [row["step"] for row in rows if "eval_mrr" in row] == [0, 6, 12]


def test_the_card_holds_the_measured_figures(finished_run: Path) -> None:
    card = (finished_run / "README.md").read_text()
    score = json.loads((finished_run / "results" / "score.json").read_text())
    assert f"| this model | {score['metrics']['top1']:.3f} |" in card
    assert f"| unigram | {score['baselines']['unigram']['top1']:.3f} |" in card
    assert "0.00M" not in card
    assert "| 0 | " in card


def test_the_same_command_again_has_nothing_to_do(
    finished_run: Path, train_tiny: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished_run.rglob("*.safetensors")}
    assert train_tiny(finished_run) == 0
    said = capsys.readouterr().out
    assert "is finished" in said.splitlines()[-1]
    assert "decile: training count" in said  # the table that the run left, for who looks for it
    assert before == {path: path.stat().st_mtime_ns for path in finished_run.rglob("*.safetensors")}


def test_a_dry_run_prints_parameters_memory_and_time_and_writes_nothing(
    train_tiny: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train_tiny(tmp_path / "run", "--dry_run", "--hidden_size", "32") == 0
    shown = capsys.readouterr().out
    assert "parameters  0.0" in shown
    assert "MiB" in shown
    assert " steps of " in shown
    assert not (tmp_path / "run").exists()


def test_a_run_can_start_from_another_runs_weights_and_tokenizer(
    finished_run: Path, train_tiny: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--init_from", str(finished_run), "--max_steps", "3", "--final_score", "false", "--learning_rate", "1e-4"]
    assert train_tiny(tmp_path / "run", *flags) == 0
    first = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    earlier = [json.loads(line) for line in (finished_run / "log.jsonl").read_text().splitlines()]
    # its step 0 is where the other run ended
    assert first[0]["eval_mrr"] == pytest.approx(earlier[-1]["eval_mrr"], rel=1e-6)
    assert train_tiny(tmp_path / "wide", "--hidden_size", "32", *flags) == 2
    assert "init_from" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--data", "absent.txt"], "absent.txt"),
        (["--per_device_train_batch_size", "999"], "fewer than one batch of 999"),
        (["--ranking", "sampled", "--num_negatives", "59"], "num_negatives"),
        pytest.param(
            ["--device", "cuda"],
            "device: cuda is not available here",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="it is available here"),
        ),
        (["--hidden_size", "4000000"], "hidden_size=4000000: the weights alone need more memory"),
        (["--intermediate_size", "4000000000"], "the weights alone need more memory"),
        (["--report_to", "neptune"], "report_to: neptune is not installed here"),
        (["--init_from", "absent/folder/x"], "absent/folder/x"),
        (["--resume", "absent"], "resume: absent is no folder"),
    ],
)
def test_bad_input_ends_with_2_and_one_line(
    train_tiny: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], said: str
) -> None:
    assert train_tiny(tmp_path / "run", *flags) == 2
    errors = capsys.readouterr().err.strip().splitlines()
    assert errors[-1].startswith("error: ")
    assert said in errors[-1]
    assert "Traceback" not in "".join(errors)


def test_a_file_that_the_system_refuses_is_one_line(
    train_tiny: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import training.trainer.log_file

    monkeypatch.setattr(training.trainer.log_file, "append_row", lambda *row: tmp_path.write_text("no file"))
    assert train_tiny(tmp_path / "run", "--max_steps", "3") == 2
    last_line = capsys.readouterr().err.strip().splitlines()[-1]
    assert last_line == f"error: {tmp_path}: Is a directory"


def test_the_time_left_is_said_after_three_measured_steps(
    train_tiny: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train_tiny(tmp_path / "run", "--logging_steps", "1", "--final_score", "false") == 0
    lines = capsys.readouterr().out.splitlines()
    said = next(i for i, line in enumerate(lines) if line.endswith("of training left (first estimate)"))
    assert lines[said + 1].startswith("step      4  train")


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_signal_while_the_libraries_are_imported_is_one_line(
    repository: Path, tiny_recipe: Path, name: str, code: int
) -> None:
    program = (
        "import os, signal, sys\n"
        # A shell's background job starts with SIGINT ignored, and this test may run in one.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "class Interrupt:\n"
        "    def find_spec(self, name, *rest):\n"
        "        if name == 'torch':\n"
        "            os.kill(os.getpid(), signal.NAME)\n"
        "from training.train import main\n"
        "sys.meta_path.insert(0, Interrupt())\n"
        f"sys.exit(main([{str(tiny_recipe)!r}]))"
    ).replace("signal.NAME", f"signal.{name}")
    ended = subprocess.run([sys.executable, "-c", program], cwd=repository, capture_output=True, text=True)
    assert ended.returncode == code
    assert ended.stderr == "interrupted; the same command goes on from the last checkpoint\n"


def test_a_run_that_is_not_finite_ends_with_3(
    train_tiny: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--learning_rate", "0.99", "--max_grad_norm", "0", "--warmup_steps", "0", "--temperature", "1e-30"]
    assert train_tiny(tmp_path / "run", "--logit_scale", "fixed", *flags) == 3
    assert "error: not finite at step" in capsys.readouterr().err


@pytest.mark.skipif(torch.accelerator.is_available(), reason="the run would take the accelerator")
@pytest.mark.parametrize("flags", [[], ["--bf16"]])
def test_without_an_accelerator_nothing_has_to_be_said_of_the_cpu(tiny_recipe: Path, tmp_path: Path, flags: list[str]):
    steps = ["--max_steps", "2", "--warmup_steps", "1", "--final_score", "false"]
    assert main([str(tiny_recipe), "--output_dir", str(tmp_path / "run"), *steps, *flags]) == 0
