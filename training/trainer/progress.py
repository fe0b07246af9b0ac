"""What a run shows while it trains: a bar, and a row for every row of the log: table, plain lines or JSON."""

import itertools
import json
import shutil
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from training.common.layout import KEPT
from training.common.wording import duration
from training.family import Family
from training.run.run import Run

# After how many measured steps the expected time is said: soon, and once more when it is known better.
_STEPS_TO_MEASURE = {3: " (first estimate)", 20: ""}
_NOT_SHOWN = ("epoch", "passes", "grad_norm")
_HELD_OUT_SHOWN = 7
# Every row that has a training loss says these; what is left is a part of the loss.
_TRAINING = {"loss": "loss", "learning_rate": "rate", "tokens_per_second": "tokens/s"}
_STEP, _COLUMN = 8, 11  # characters
_ROWS_TO_HEADER = 25


class Progress(TrainerCallback):
    """A bar with steps, speed and time left on a terminal, and a row for every row of the log everywhere.

    Args:
        run: decides format and parts shown.
        family: names the held-out figures of the table, the ones that its card's milestones show.
    """

    def __init__(self, run: Run, family: Family) -> None:
        self._format, self._parts = run.log_format, run.log_parts
        first, *rest = (name for name in family.card.milestone_figures if name != "loss")
        self._figures = [first, *(KEPT if getattr(run, "keeps", False) else ()), *rest]
        self._bar: tqdm | None = None
        self._ended: float | None = None
        self._seconds: list[float] = []
        self._rows = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Say where the run runs."""
        if not state.is_world_process_zero:
            return
        if self._format == "auto":
            self._format = "table" if sys.stdout.isatty() else "plain"
        quiet = self._format == "json" or not sys.stderr.isatty()
        self._bar = tqdm(total=state.max_steps, initial=state.global_step, unit="step", disable=quiet)
        self._say(f"training on {_where(args)}: steps {state.global_step:,} to {state.max_steps:,}")

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
            self._say(f"{1000 * seconds:.0f} ms per step: about {left} of training left{which}")

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """One row."""
        logs = kwargs["logs"]
        if self._bar is None or "train_runtime" in logs:
            return
        shown = {
            name: value for name, value in logs.items() if name not in _NOT_SHOWN and not name.startswith("credit")
        }
        if "loss" in shown:
            self._bar.set_postfix({"loss": f"{shown['loss']:.4g}"}, refresh=False)
        if self._format == "json":
            self._bar.write(json.dumps({"step": state.global_step, **shown}))
        elif self._format == "table":
            self._table_row(state.global_step, shown)
        else:
            self._bar.write(_plain(state.global_step, shown))
        sys.stdout.flush()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _table_row(self, step: int, row: dict[str, Any]) -> None:
        """A line whose columns stand still: training figures on the left, held-out figures on the right."""
        assert self._bar is not None
        room = (shutil.get_terminal_size((100, 24)).columns - 1 - _STEP) // _COLUMN
        training = list(_TRAINING)[: max(1, room)]
        held_out = self._figures[: max(0, room - len(training))]
        if self._rows % _ROWS_TO_HEADER == 0:
            names = [_TRAINING[name] for name in training] + held_out
            upper, lower = zip(*(name.rpartition("_")[::2] for name in names), strict=True)
            self._bar.write("\n".join(filter(None, (_columns("", upper), _columns("step", lower)))))
        self._rows += 1
        values = [row.get(name) for name in training] + [row.get(f"eval_{name}") for name in held_out]
        self._bar.write(_columns(f"{step:,}", ["" if value is None else _short(value) for value in values]))
        if self._parts and (parts := _parts_of(row)):
            self._bar.write(" " * _STEP + "  ".join(f"{name} {_short(value)}" for name, value in parts.items()))

    def _say(self, text: str) -> None:
        assert self._bar is not None
        if self._format != "json":
            self._bar.write(text)
            sys.stdout.flush()


def _plain(step: int, shown: dict[str, Any]) -> str:
    """`step  50  train  loss 5.2 ...`: names beside figures, for a file or a pipe."""
    is_held_out = any(name.startswith("eval_") for name in shown)
    if is_held_out:  # the first are the ones a family leads with
        shown = dict(itertools.islice(shown.items(), _HELD_OUT_SHOWN))
    figures = "  ".join(f"{name.removeprefix('eval_')} {_short(value)}" for name, value in shown.items())
    return f"step {step:>6,}  {'held-out' if is_held_out else 'train':<8}  {figures}"


def _parts_of(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in _TRAINING and not name.startswith("eval_")}


def _columns(step: str, values: Sequence[str]) -> str:
    cut = "".join(f"{value[: _COLUMN - 1]:>{_COLUMN}}" for value in values)
    return f"{step:>{_STEP}}{cut}".rstrip()


def _where(args: TrainingArguments) -> str:
    """The device, with what a run's speed, and on a CPU its bits, hang on."""
    threads = torch.get_num_threads()
    device = f"the CPU, {threads} thread{'s' * (threads > 1)}" if args.device.type == "cpu" else str(args.device)
    return device if args.world_size == 1 else f"{args.world_size} processes, the first on {device}"


def _short(value: Any) -> str:
    return f"{value:,.0f}" if isinstance(value, float) and abs(value) >= 1000 else f"{value:.4g}"
