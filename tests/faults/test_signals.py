"""SIGTERM and SIGINT save once and end with 75, wherever they arrive; the launcher's death counts as one."""

import os
import re
import signal
import sys
from pathlib import Path

import psutil
import pytest

from tests.faults.harness import (
    Child,
    assert_same_run,
    before_step,
    command,
    started,
    train,
    wait_for_the_end_of,
    wait_until,
)
from training.run_folder.checkpoints import list_checkpoints
from training.runtime.signals import SignalWatch, Terminated, sigterm_raises

SIGNALS = {"SIGTERM": signal.SIGTERM, "SIGINT": signal.SIGINT}
# So long that it has not ended when a test comes to stop it, and yet a run that overlooks the signal has an end.
LONG = "--max_steps 20000 --save_steps 20000 --eval_steps 20000 --milestones 19999 --logging_steps 5"


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("name", SIGNALS)
def test_a_signal_to_the_whole_group_saves_once_and_ends_with_75(
    whole_run, recipe: Path, tmp_path: Path, name: str, workers: int
) -> None:
    """As Ctrl-C in a terminal: the data loader's workers get it too."""

    hurt = before_step(7, lambda: os.killpg(0, SIGNALS[name]))
    flags = f"--dataloader_num_workers {workers}"
    ending = train(recipe, tmp_path / "run", flags, hurt)
    assert ending.code == 75, ending
    assert ending.out.strip().splitlines()[-1] == f"stopped by {name} at step 8, saved; the same command goes on"
    assert [path.name for path in list_checkpoints(tmp_path / "run")] == ["checkpoint-6", "checkpoint-8"]
    assert train(recipe, tmp_path / "run", flags).code == 0
    assert_same_run(whole_run(""), tmp_path / "run")


@pytest.mark.parametrize("name", SIGNALS)
def test_a_signal_after_the_last_step_ends_with_75_and_the_same_command_finishes(
    whole_run, recipe: Path, tmp_path: Path, name: str
) -> None:
    def hurt() -> None:
        import training.finish as finish

        finish.write_run_card = lambda *args: os.kill(os.getpid(), SIGNALS[name])

    ending = train(recipe, tmp_path / "run", "", hurt)
    assert ending.code == 75, ending
    assert f"stopped by {name} after the last step, saved" in ending.out
    assert train(recipe, tmp_path / "run").code == 0
    assert_same_run(whole_run(""), tmp_path / "run")


@pytest.mark.parametrize("name", SIGNALS)
def test_a_signal_during_the_last_save_ends_with_75_before_the_run_is_finished(
    recipe: Path, tmp_path: Path, name: str
) -> None:
    def hurt() -> None:
        import training.trainer.trainer as trainer

        rotate = trainer.rotate

        def signalled(*args: object, newest: int) -> None:
            if newest == 18:
                os.kill(os.getpid(), SIGNALS[name])
            rotate(*args, newest=newest)

        trainer.rotate = signalled

    ending = train(recipe, tmp_path / "run", "", hurt)
    assert ending.code == 75, ending
    assert not (tmp_path / "run" / "README.md").exists()


def test_a_reader_of_the_output_that_is_gone_costs_no_checkpoint(whole_run, recipe: Path, tmp_path: Path) -> None:
    """As Ctrl-C on `python training/train.py ... | tee log`, which ends `tee` too."""

    def hurt() -> None:
        reading, writing = os.pipe()
        os.dup2(writing, 1)
        os.dup2(writing, 2)
        os.close(writing)

        def interrupt() -> None:
            os.close(reading)
            os.kill(os.getpid(), signal.SIGINT)

        before_step(7, interrupt)()

    assert train(recipe, tmp_path / "run", "", hurt).code == 75
    assert [path.name for path in list_checkpoints(tmp_path / "run")] == ["checkpoint-6", "checkpoint-8"]
    assert train(recipe, tmp_path / "run").code == 0
    assert_same_run(whole_run(""), tmp_path / "run")


def test_a_second_interrupt_ends_the_run_at_once(recipe: Path, tmp_path: Path) -> None:
    def twice() -> None:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)

    ending = train(recipe, tmp_path / "run", "", before_step(7, twice))
    assert ending.code == 130
    assert [path.name for path in list_checkpoints(tmp_path / "run")] == ["checkpoint-6"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_the_launchers_death_saves_once_and_ends(recipe: Path, tmp_path: Path, number: int) -> None:
    """A launcher that dies leaves its script behind, as an orphan to whom no signal is sent."""
    run = tmp_path / "run"

    def as_launched() -> None:
        os.environ["ACCELERATE_MIXED_PRECISION"] = "no"

    def launch() -> int:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        return Child(command(recipe, run, LONG, as_launched)).wait().code

    launcher = Child(launch)
    script = None
    try:
        wait_until(lambda: _logged_rows(run) > 1, psutil.Process(launcher.pid))
        script = psutil.Process(launcher.pid).children()[0]
        os.kill(launcher.pid, number)
        assert launcher.wait().code == -number
        wait_for_the_end_of(script)
    finally:
        launcher.end()
        if script is not None and script.is_running():
            script.kill()
    assert len(list_checkpoints(run)) == 1
    assert not (run / ".lock.json").exists()


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_signal_before_the_first_step_is_one_line(recipe: Path, tmp_path: Path, name: str, code: int) -> None:
    def hurt() -> None:
        import training.trainer.build as build

        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
        build.build_model = lambda *args: os.kill(os.getpid(), SIGNALS[name])

    ending = train(recipe, tmp_path / "run", "", hurt)
    assert ending.code == code, ending
    assert ending.err == "interrupted; the same command goes on from the last checkpoint\n"
    assert not (tmp_path / "run" / ".lock.json").exists()
    assert train(recipe, tmp_path / "run", "--max_steps 3").code == 0


def test_sigterm_at_start_up_ends_a_forked_process_as_ever_and_leaves_its_parents_handler() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with sigterm_raises():
        forked = Child(lambda: os.kill(os.getpid(), signal.SIGTERM) or 0)
        assert forked.wait().code == -signal.SIGTERM
        with SignalWatch() as watch:
            os.kill(os.getpid(), signal.SIGTERM)
            assert watch.told_to_stop()
        with pytest.raises(Terminated):
            os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == before


def test_sigterm_to_accelerate_launch_saves_once_and_ends(recipe: Path, tmp_path: Path, repository: Path) -> None:
    run = tmp_path / "run"
    accelerate = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--config_file",
        "training/launch/one_process.yaml",
    ]
    flags = ["--output_dir", str(run), "--device", "cpu", *LONG.split()]
    command = [*accelerate, "training/train.py", str(recipe), *flags]
    with (
        (tmp_path / "said").open("w+") as said,
        started(command, cwd=repository, stdout=said, stderr=said) as launcher,
    ):
        wait_until(lambda: _logged_rows(run) > 0, psutil.Process(launcher.pid))
        script = psutil.Process(launcher.pid).children()[0]
        launcher.terminate()
        assert launcher.wait() != 0
        wait_for_the_end_of(script)
        said.seek(0)
        last_line = said.read().strip().splitlines()[-1]
    assert re.fullmatch(
        r"stopped by the end of the launcher at step [\d,]+, saved; the same command goes on", last_line
    )
    assert len(list_checkpoints(run)) == 1


def _logged_rows(run: Path) -> int:
    return len((run / "log.jsonl").read_text().splitlines()) if (run / "log.jsonl").is_file() else 0
