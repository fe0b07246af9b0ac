"""Memory of a run: how much is held, giving back what is not, and one line of help where it does not suffice."""

import ctypes
import platform
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from training.common.errors import InputError
from training.common.wording import readable_bytes
from training.run.run import Run

_SAMPLE_SECONDS = 0.002
_MIB = 2**20
TRIM_STEPS = 20
# What torch says on the CPU; it has no error class for it.
_CPU_MESSAGES = ("can't allocate memory", "not enough memory")


class TrimMemory(TrainerCallback):
    """Gives freed memory back to the system every few steps.

    Batches differ in length and in their number of holes, so their buffers fit badly into each other's gaps, and the
    C library keeps the gaps: measured, a process that needs 150 MiB beside its libraries grew to 600 in 2,000 steps.
    """

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Every `TRIM_STEPS` steps."""
        if state.global_step % TRIM_STEPS == 0:
            give_back_memory()


def give_back_memory() -> None:
    """Return what the C library holds free; only glibc can be told to."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def held_bytes() -> int:
    """Resident memory of this process now; taken before data is read, it is the libraries' share."""
    return psutil.Process().memory_info().rss


@contextmanager
def peak_memory(on_gpu: bool) -> Iterator[Callable[[], int]]:
    """A function that gives the most memory held in the block: the GPU allocator's, or the process's.

    The process is sampled from a thread, as not every system remembers a peak that can be reset.
    """
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
        yield torch.cuda.max_memory_reserved
        return
    highest = [held_bytes()]
    done = threading.Event()

    def sample() -> None:
        while not done.wait(_SAMPLE_SECONDS):
            highest[0] = max(highest[0], held_bytes())

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield lambda: highest[0]
    finally:
        done.set()
        thread.join()


@contextmanager
def naming_what_to_try(run: Run, fixed_bytes: int) -> Iterator[None]:
    """Turn running out of memory in the block into one line with what to try.

    Args:
        fixed_bytes: weights, gradients and AdamW's moments, which no batch size changes.

    Raises:
        InputError: memory ran out.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise InputError(_what_to_try(run, fixed_bytes, str(error))) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU, in torch on the CPU, or in Python."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(message in str(error) for message in _CPU_MESSAGES)


def _what_to_try(run: Run, fixed_bytes: int, message: str) -> str:
    settings = run.training
    batch, accumulation = settings.per_device_train_batch_size, settings.gradient_accumulation_steps
    asked = re.search(r"(?:Tried|tried) to allocate ([\d.]+) (bytes|[KMG]iB)", message)
    tried = ""
    if asked:
        amount = readable_bytes(float(asked[1])) if asked[2] == "bytes" else f"{asked[1]} {asked[2]}"
        tried = f" (one more tensor of {amount}; weights, gradients and AdamW hold {readable_bytes(fixed_bytes)})"
    remedies = []
    if batch > 1:
        half = -(-batch // 2)
        remedies.append(
            f"--per_device_train_batch_size {half} --gradient_accumulation_steps {2 * accumulation} "
            "(as many rows per step, half the memory of a batch)"
        )
    if not settings.gradient_checkpointing:
        remedies.append("--gradient_checkpointing true (activations of one layer at a time, a third slower)")
    remedies.append("a smaller max_vocab, hidden_size or max_position_embeddings")
    return (
        f"out of memory at per_device_train_batch_size={batch}, gradient_accumulation_steps={accumulation}{tried}: "
        f"try {'; or '.join(remedies)}"
    )
