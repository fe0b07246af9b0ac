"""What happens around the steps: progress, the log file, held-out figures and milestones, the teacher."""

import itertools
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate.optimizer import AcceleratedOptimizer
from tqdm.auto import tqdm
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from training.layout import LOG_FILE
from training.run_state import RunState
from training.settings import EvaluationSettings
from training.signals import SignalWatch

# After how many measured steps the expected time is said: soon, and once more when it is known better.
_STEPS_TO_MEASURE = {3: " (first estimate)", 20: ""}
_NOT_SHOWN = ("epoch", "passes", "grad_norm")
_HELD_OUT_SHOWN = 7


class TeacherUpdate(TrainerCallback):
    """Moves the target network after every optimizer step that was made."""

    def __init__(self, run_state: RunState) -> None:
        self.run_state = run_state

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: PreTrainedModel | None = None,
        optimizer: AcceleratedOptimizer | None = None,
        **kwargs: Any,
    ) -> None:
        """The step is done: the moving average follows, unless the step was skipped, by us or by float16's scaler."""
        skipped = self.run_state.skipped_in_a_row > 0 or (optimizer is not None and optimizer.step_was_skipped)
        if model.has_teacher and not skipped:
            model.update_teacher()


class HeldOut(TrainerCallback):
    """Decides when held-out rows are scored, which checkpoint is the best, and keeps the milestone rows.

    Only the regular evaluations count for the best: then the choice does not hang on which milestones a recipe shows.
    """

    def __init__(self, settings: EvaluationSettings, run_state: RunState, phrases: "SamplePhrases") -> None:
        self.settings = settings
        self.run_state = run_state
        self.phrases = phrases

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Ask for a log row and an evaluation where one is due."""
        last = state.global_step >= state.max_steps
        # The loss of the first step is that of the initial weights, which milestone 0 shows.
        control.should_log |= last or self._is_milestone(state) or state.global_step == 1
        control.should_evaluate |= last or self._is_milestone(state) or self._is_regular(state)

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, Any],
        model: PreTrainedModel | None = None,
        **kwargs: Any,
    ) -> None:
        """Take the figures in, and ask for a checkpoint where they are the best so far."""
        if self._is_regular(state):
            named = {**metrics, "acc_ema": self.run_state.acc_ema}
            value = named[self.settings.best_metric]
            lower = self.settings.best_metric in self.settings.lower_is_better
            if value is not None and self.run_state.update_best(
                state.global_step, value, self.settings.best_smoothing, lower_is_better=lower
            ):
                control.should_save = True
        if self._is_milestone(state) or state.global_step >= state.max_steps:
            figures = {name: value for name, value in metrics.items() if isinstance(value, int | float)}
            row = {"step": state.global_step, "loss": self._last_loss(state), **figures}
            self.run_state.milestones.append({**row, "samples": self.phrases.fill(model)})

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Give milestone 0 its loss, once it is known."""
        if state.global_step == 1 and "loss" in logs:
            for row in self.run_state.milestones:
                row["loss"] = logs["loss"] if row["step"] == 0 else row["loss"]

    def _is_milestone(self, state: TrainerState) -> bool:
        return state.global_step in self.settings.milestones

    def _is_regular(self, state: TrainerState) -> bool:
        step = state.global_step
        return step > 0 and (step % self.settings.eval_steps == 0 or step >= state.max_steps)

    @staticmethod
    def _last_loss(state: TrainerState) -> float | None:
        return next((row["loss"] for row in reversed(state.log_history) if "loss" in row), None)


class SamplePhrases:
    """The recipe's sample phrases, filled by whatever the family calls filling."""

    def __init__(self, phrases: list[str], sample: Any, tokenizer: Any) -> None:
        self.phrases = phrases
        self.sample = sample
        self.tokenizer = tokenizer

    def fill(self, model: PreTrainedModel) -> list[str]:
        """One line per phrase."""
        return [self.sample(model, self.tokenizer, phrase) for phrase in self.phrases]


class ShowSamples(TrainerCallback):
    """Prints the recipe's prompts with their continuations every so many steps, and keeps them in the log.

    Args:
        stop_clock: called before; what comes then is not training time.
    """

    def __init__(self, steps: int, phrases: SamplePhrases, stop_clock: Callable[[], None]) -> None:
        self.steps = steps
        self.phrases = phrases
        self.stop_clock = stop_clock

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: PreTrainedModel | None = None,
        **kwargs: Any,
    ) -> None:
        """Where a sample is due."""
        if state.global_step % self.steps or not self.phrases.phrases:
            return
        self.stop_clock()
        samples = self.phrases.fill(model)
        if state.is_world_process_zero:
            tqdm.write("\n".join(f"sample: {sample}" for sample in samples))
            path = Path(args.output_dir) / LOG_FILE
            append_row(path, state.global_step, args.device.type, {"samples": samples})


class JsonlLog(TrainerCallback):
    """`log.jsonl` in the run folder: one JSON object per row, flushed, and cut back to the checkpoint on a resume."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Drop rows that the resumed run will write again."""
        if state.is_world_process_zero:
            path = Path(args.output_dir) / LOG_FILE
            kept = _rows_until(path, state.global_step) if state.global_step > 0 else []
            part = path.with_name(f".{LOG_FILE}.part")
            part.write_bytes(b"".join(kept))
            os.replace(part, path)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Append a row; the library's summary of the whole run is none."""
        if not state.is_world_process_zero or "train_runtime" in logs:
            return
        # `epoch` would be the share of the run, since the run is one epoch to the library; `passes` says it rightly.
        figures = {name: value for name, value in logs.items() if name != "epoch"}
        append_row(Path(args.output_dir) / LOG_FILE, state.global_step, args.device.type, figures)


class SaveOnSignal(TrainerCallback):
    """After SIGTERM, SIGINT or the launcher's death: one checkpoint at the end of the step, and out."""

    def __init__(self, watch: SignalWatch, any_process: Any) -> None:
        self.watch = watch
        self.any_process = any_process

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Stop where any process was told to."""
        if self.any_process(self.watch.told_to_stop()):
            self.watch.stopped = True
            control.should_save = True
            control.should_training_stop = True


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

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """One line per row."""
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


def append_row(path: Path, step: int, device: str, content: dict[str, Any]) -> None:
    """Add one row to a `log.jsonl`."""
    row = {"step": step, "time": round(time.time(), 3), "device": device, **content}
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row, ensure_ascii=False) + "\n")


def duration(seconds: float) -> str:
    """Seconds as people say them: `45 s`, `12 min`, `3.4 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _where(args: TrainingArguments) -> str:
    """The device, with what a run's speed, and on a CPU its bits, hang on."""
    threads = torch.get_num_threads()
    device = f"the CPU, {threads} thread{'s' * (threads > 1)}" if args.device.type == "cpu" else str(args.device)
    return device if args.world_size == 1 else f"{args.world_size} processes, the first on {device}"


def _short(value: Any) -> str:
    return f"{value:,.0f}" if isinstance(value, float) and abs(value) >= 1000 else f"{value:.4g}"


def _rows_until(path: Path, step: int) -> list[bytes]:
    """Lines of rows up to `step`. A kill can leave half a line, which goes unsaid: its row will be written again."""
    kept: list[bytes] = []
    lines = path.read_bytes().split(b"\n")[:-1] if path.is_file() else []
    for number, line in enumerate(lines, start=1):
        at = _step_of_row(line)
        if at is None:
            left = f"{len(lines) - number + 1} of {len(lines)} rows"
            print(f"note: {path}, line {number} is damaged: {left} are left out", file=sys.stderr, flush=True)
            break
        kept += [line + b"\n"] if at <= step else []
    return kept


def _step_of_row(line: bytes) -> int | None:
    """The step of a row, or None where it is no row."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return None
