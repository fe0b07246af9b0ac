"""A bar on a terminal, and one line per log row everywhere."""

import itertools
import statistics
import sys
import time
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from training.common.wording import duration

# After how many measured steps the expected time is said: soon, and once more when it is known better.
_STEPS_TO_MEASURE = {3: " (first estimate)", 20: ""}


_NOT_SHOWN = ("epoch", "passes", "grad_norm")


_HELD_OUT_SHOWN = 7


class Progress(TrainerCallback):
    """A bar with steps, speed and time left on a terminal, and one line per log row everywhere."""

    def __init__(self) -> None:
        self._bar: tqdm | None = None
        self._ended: float | None = None
        self._seconds: list[float] = []

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Say where the run runs."""
        if state.is_world_process_zero:
            print(f"training on {_where(args)}: steps {state.global_step:,} to {state.max_steps:,}", flush=True)
            self._bar = tqdm(
                total=state.max_steps, initial=state.global_step, unit="step", disable=not sys.stderr.isatty()
            )

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Move the bar; say the expected time once it can be measured."""
        if self._bar is None:
            return
        self._bar.update(1)
        before, self._ended = self._ended, time.perf_counter()
        if before is None or len(self._seconds) >= max(_STEPS_TO_MEASURE):
            return  # the first step compiles and allocates: it is not measured
        self._seconds.append(self._ended - before)
        if len(self._seconds) in _STEPS_TO_MEASURE:
            seconds = statistics.median(self._seconds)  # some have scoring or a save in between
            left = duration(seconds * (state.max_steps - state.global_step))
            which = _STEPS_TO_MEASURE[len(self._seconds)]
            self._bar.write(f"{1000 * seconds:.0f} ms per step: about {left} of training left{which}")

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """One line per row."""
        logs = kwargs["logs"]
        if self._bar is None or "train_runtime" in logs:
            return
        shown = {
            name: value for name, value in logs.items() if name not in _NOT_SHOWN and not name.startswith("credit")
        }
        if any(name.startswith("eval_") for name in shown):  # the first are the ones a family leads with
            shown = dict(itertools.islice(shown.items(), _HELD_OUT_SHOWN))
        if "tokens_per_second" in shown:
            self._bar.set_postfix({"tokens/s": f"{shown['tokens_per_second']:,.0f}"}, refresh=False)
        figures = "  ".join(f"{name.removeprefix('eval_')} {_short(value)}" for name, value in shown.items())
        kind = "held-out" if any(name.startswith("eval_") for name in logs) else "train"
        self._bar.write(f"step {state.global_step:>6,}  {kind:<8}  {figures}")
        sys.stdout.flush()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _where(args: TrainingArguments) -> str:
    """The device, with what a run's speed, and on a CPU its bits, hang on."""
    threads = torch.get_num_threads()
    device = f"the CPU, {threads} thread{'s' * (threads > 1)}" if args.device.type == "cpu" else str(args.device)
    return device if args.world_size == 1 else f"{args.world_size} processes, the first on {device}"


def _short(value: Any) -> str:
    return f"{value:,.0f}" if isinstance(value, float) and abs(value) >= 1000 else f"{value:.4g}"
