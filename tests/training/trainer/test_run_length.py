"""How long a run is, other than in steps: in epochs, or until nothing better comes; and what it shows meanwhile."""

import json
import os
import pty
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from training.families import load_family
from training.trainer.progress import Progress

# Nothing is learnt at such a rate, so no evaluation is better than the first one.
STILL = ("--learning_rate", "1e-12", "--final_learning_rate", "0", "--eval_steps", "2", "--max_steps", "20")


def steps_of(folder: Path) -> int:
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return max(row["step"] for row in rows)


def test_epochs_are_turned_into_steps_and_stand_in_the_run(train_tiny, tmp_path, capsys):
    assert train_tiny(tmp_path / "run", "--num_train_epochs", "0.5", "--gradient_accumulation_steps", "2") == 0
    recipe = json.loads((tmp_path / "run" / "run.json").read_text())["recipe"]["training"]
    assert (recipe["num_train_epochs"], recipe["max_steps"]) == (0.5, 7)  # 100 of 200 rows, 16 a step
    assert steps_of(tmp_path / "run") == 7
    capsys.readouterr()
    assert train_tiny(tmp_path / "run", "--max_steps", "7", "--gradient_accumulation_steps", "2") == 0
    assert "is finished" in capsys.readouterr().out  # the same run, said in steps


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--num_train_epochs", "0"), "num_train_epochs: got 0.0; use a number above 0"),
        (("--num_train_epochs", "2", "--streaming"), "num_train_epochs: nobody knows how long a stream is"),
        (("--early_stopping_patience", "-1"), "early_stopping_patience: got -1"),
        (("--log_format", "xml"), "log_format: got 'xml'; use one of auto, table, plain, json"),
    ],
)
def test_a_length_or_format_that_cannot_be_is_refused(train_tiny, tmp_path, capsys, flags, said):
    assert train_tiny(tmp_path / "run", *flags) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_run_ends_where_nothing_better_came_and_is_then_finished(train_tiny, tmp_path, capsys):
    flags = (*STILL, "--early_stopping_patience", "2")
    assert train_tiny(tmp_path / "run", *flags) == 0
    said = capsys.readouterr().out
    assert "ended early, at step 6: mrr was best at step 2, and no better in 2 evaluations since" in said
    assert steps_of(tmp_path / "run") == 6
    assert train_tiny(tmp_path / "run", *flags) == 0
    assert "is finished" in capsys.readouterr().out
    # Stopped after the last step and before its card: the same command writes it, and trains no step more.
    (tmp_path / "run" / "README.md").unlink()
    assert train_tiny(tmp_path / "run", *flags) == 0
    assert steps_of(tmp_path / "run") == 6
    assert (tmp_path / "run" / "README.md").is_file()


def test_more_patience_goes_on_with_the_run_that_was_ended(train_tiny, tmp_path, capsys):
    assert train_tiny(tmp_path / "run", *STILL, "--early_stopping_patience", "1") == 0
    assert steps_of(tmp_path / "run") == 4
    assert train_tiny(tmp_path / "run", *STILL, "--early_stopping_patience", "3") == 0
    assert steps_of(tmp_path / "run") == 8
    assert "ended early, at step 8" in capsys.readouterr().out


def shown(capsys, monkeypatch, log_format: str, columns: int = 100, log_parts: bool = False) -> list[str]:
    """What a training row and a held-out row look like."""
    monkeypatch.setenv("COLUMNS", str(columns))
    progress = Progress(SimpleNamespace(log_format=log_format, log_parts=log_parts), load_family("text_jepa"))
    state = SimpleNamespace(is_world_process_zero=True, max_steps=200, global_step=0)
    args = SimpleNamespace(device=SimpleNamespace(type="cpu"), world_size=1)
    progress.on_train_begin(args, state, None)
    state.global_step = 100
    row = {"loss": 5.25, "learning_rate": 1e-3, "tokens_per_second": 12345.6, "ranking": 5.1}
    progress.on_log(args, state, None, logs=row)
    progress.on_log(args, state, None, logs={"eval_top1": 0.25, "eval_mrr": 0.31, "eval_median_rank": 12.0})
    progress.on_train_end(args, state, None)
    return capsys.readouterr().out.splitlines()[0 if log_format == "json" else 1 :]


@pytest.mark.parametrize("columns", [40, 80, 100, 120])
def test_the_columns_of_the_table_stand_still_and_fit_the_terminal(capsys, monkeypatch, columns):
    lines = shown(capsys, monkeypatch, "table", columns)
    assert all(len(line) < columns for line in lines)
    *_, header, training, held_out = lines
    assert training.split()[:2] == ["100", "5.25"]
    assert training.index("5.25") + len("5.25") == header.index("loss") + len("loss")
    if columns >= 80:
        assert held_out.index("0.25") + len("0.25") == header.index("top1") + len("top1")


def test_parts_of_the_loss_are_shown_on_request(capsys, monkeypatch):
    assert "ranking 5.1" in "\n".join(shown(capsys, monkeypatch, "table", log_parts=True))
    assert "ranking" not in "\n".join(shown(capsys, monkeypatch, "table"))


def test_rows_as_json_are_all_that_is_printed(capsys, monkeypatch):
    rows = [json.loads(line) for line in shown(capsys, monkeypatch, "json")]
    assert rows[0] == {
        "step": 100,
        "loss": 5.25,
        "learning_rate": 1e-3,
        "tokens_per_second": 12345.6,
        "ranking": 5.1,
    }
    assert rows[1]["eval_mrr"] == 0.31


def test_a_terminal_gets_the_table_and_a_pipe_plain_lines(capsys, monkeypatch, tmp_path):
    program = (
        "from types import SimpleNamespace as N\n"
        "from training.families import load_family\n"
        "from training.trainer.progress import Progress\n"
        "progress = Progress(N(log_format='auto', log_parts=False), load_family('text_jepa'))\n"
        "state = N(is_world_process_zero=True, max_steps=9, global_step=3)\n"
        "args = N(device=N(type='cpu'), world_size=1)\n"
        "progress.on_train_begin(args, state, None)\n"
        "progress.on_log(args, state, None, logs={'loss': 5.25})\n"
    )
    ours, theirs = pty.openpty()
    process = subprocess.Popen([sys.executable, "-c", program], stdout=theirs, stderr=subprocess.DEVNULL)
    os.close(theirs)
    seen = bytearray()

    def read() -> None:
        try:
            while part := os.read(ours, 4096):
                seen.extend(part)
        except OSError:  # the other end is closed
            pass

    reader = threading.Thread(target=read)
    reader.start()
    assert process.wait() == 0
    reader.join()
    os.close(ours)
    assert "    step       loss" in seen.decode()
    piped = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert "step      3  train     loss 5.25" in piped
