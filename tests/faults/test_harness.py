"""What a test starts ends with it, and a wait ends with the process that it waits for."""

import os
import signal
import subprocess

import psutil
import pytest

from tests.faults.harness import Child, has_ended, started, wait_for_the_end_of, wait_until

# A shell that starts another program, says its id, and waits for it.
SHELL = ["sh", "-c", "sleep 1000 & echo $!; wait"]


def test_a_program_ends_with_its_block_and_so_does_what_it_started() -> None:
    with started(SHELL, stdout=subprocess.PIPE, text=True) as shell:
        grandchild = psutil.Process(int(shell.stdout.readline()))
        assert not has_ended(grandchild)
    assert shell.returncode == -signal.SIGKILL
    wait_for_the_end_of(grandchild)


def test_what_a_dead_program_left_behind_ends_with_the_block() -> None:
    with started(SHELL, stdout=subprocess.PIPE, text=True) as shell:
        grandchild = psutil.Process(int(shell.stdout.readline()))
        shell.kill()
        shell.wait()
        assert not has_ended(grandchild)
    wait_for_the_end_of(grandchild)


def test_a_child_that_is_interrupted_while_waited_for_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    child = Child(lambda: signal.pause() or 0)
    wait, calls = os.waitpid, []

    def interrupted(pid: int, options: int) -> tuple[int, int]:
        calls.append(pid)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return wait(pid, options)

    monkeypatch.setattr(os, "waitpid", interrupted)
    with pytest.raises(KeyboardInterrupt):
        child.wait()
    assert not psutil.pid_exists(child.pid)


def test_waiting_for_what_a_process_does_ends_when_the_process_does() -> None:
    with (
        started(["true"]) as program,
        pytest.raises(AssertionError, match="the process ended and it had not happened"),
    ):
        wait_until(lambda: False, psutil.Process(program.pid))
