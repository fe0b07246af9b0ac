"""The processes and threads of a run: how many there are, and doing a thing once for all of them."""

import os
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import TypeVar

import psutil
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, parse_flag_from_env

from training.common.errors import InputError
from training.run.run import Run

T = TypeVar("T")

# The others wait this long while the first process prepares a corpus; a process that dies ends the wait at once.
_PATIENCE = timedelta(hours=6)


class FirstProcessError(RuntimeError):
    """The first process failed, and said why; this one only ends with it.

    Attributes:
        reason: what the first process raised.
    """

    def __init__(self, reason: Exception) -> None:
        super().__init__(str(reason))
        self.reason = reason


def start_processes(run: Run) -> PartialState:
    """Join the other processes, if there are any, and choose this one's threads.

    Raises:
        InputError: several processes were started, and do not find each other.
    """
    processes = PartialState(cpu=wants_cpu(run), timeout=_PATIENCE)
    asked_for = int(os.environ.get("WORLD_SIZE", 1))
    if processes.num_processes != asked_for:
        raise InputError(
            f"processes: {asked_for} were started and this one sees {processes.num_processes}; give --device cpu to "
            "run them on the CPU, or as many GPUs as processes"
        )
    if processes.device.type == "cpu" or run.threads != "auto":
        torch.set_num_threads(choose_threads(run.threads, int(os.environ.get("LOCAL_WORLD_SIZE", 1))))
    return processes


def leave_processes() -> None:
    """End this process's part in the group, if there is one: its threads then end before the interpreter does.

    A thread of the group that still works for a process which is on its way out ends it by SIGABRT, and with it,
    through the launcher, the whole run.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def wants_cpu(run: Run) -> bool:
    """Whether the CPU is asked for, by the run or the launcher, or is all there is."""
    if run.device == "cpu" or parse_flag_from_env("ACCELERATE_USE_CPU"):
        return True
    # Without being told, the libraries start no several processes on a CPU, and know no bfloat16 there.
    return run.device == "auto" and not torch.accelerator.is_available()


def choose_threads(setting: str, local_processes: int) -> int:
    """Threads for this process: what was asked for, by `--threads` or OMP_NUM_THREADS; else its share of the cores.

    A launcher sets OMP_NUM_THREADS to 1 in what it starts, so a 1 there counts only where the user's own environment,
    which is the launcher's, has it too.
    """
    if setting != "auto":
        return int(setting)
    given = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    launcher = launcher_environment()
    if launcher is not None and given == "1":
        given = launcher.get("OMP_NUM_THREADS", "").split(",")[0]
    return int(given) if given.isdecimal() and int(given) > 0 else max(available_cores() // local_processes, 1)


def cpu_threads(processes: PartialState) -> int | None:
    """Threads that compute on a CPU, whose number decides how sums are rounded; None elsewhere."""
    return torch.get_num_threads() if processes.device.type == "cpu" else None


def available_cores() -> int:
    """Cores that this process may use, each counted once however many hardware threads it has, as torch does."""
    try:
        allowed = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS and Windows have no such call
        allowed = os.cpu_count() or 1
    return min(allowed, psutil.cpu_count(logical=False) or allowed)


def missing_processes(processes: PartialState) -> str | None:
    """What to say where several processes were asked for and one runs, or None.

    `accelerate launch --cpu --num_processes 2` prepares a meeting point for two and starts one, without a word.
    """
    launcher = launcher_environment()
    if processes.num_processes > 1 or launcher is None or "MASTER_ADDR" in launcher:
        return None
    if "MASTER_ADDR" not in os.environ or "WORLD_SIZE" in os.environ:
        return None
    return (
        "several processes were asked for and this is the only one (`accelerate launch --cpu` starts one, whatever "
        "--num_processes says): use --config_file training/launch/two_cpu_processes.yaml, with any --num_processes"
    )


def launcher_environment() -> Mapping[str, str] | None:
    """The environment in which `accelerate launch` (or torchrun) was started; None without a launcher."""
    if "ACCELERATE_MIXED_PRECISION" not in os.environ and "TORCHELASTIC_RUN_ID" not in os.environ:
        return None
    try:
        return psutil.Process(os.getppid()).environ()
    except psutil.Error:  # another user's, or gone
        return {}


def once(processes: PartialState, work: Callable[[], T]) -> T:
    """`work` done by the first process; all get its result, which must be picklable.

    Raises:
        FirstProcessError: in the other processes, where `work` failed in the first.
    """
    if processes.num_processes == 1:
        return work()
    outcome: list = [None, None]
    if processes.is_main_process:
        try:
            outcome = [work(), None]
        except (ValueError, OSError, RuntimeError) as error:
            outcome = [None, error]
    broadcast_object_list(outcome)
    result, error = outcome
    if error is not None:
        raise error if processes.is_main_process else FirstProcessError(error)
    return result


def first_then_others(processes: PartialState, work: Callable[[], T]) -> T:
    """`work` done by the first process, and then by the others, which find on the disk what it made.

    Raises:
        FirstProcessError: see `once`.
    """
    done: list[T] = []
    once(processes, lambda: done.append(work()))
    return done[0] if done else work()
