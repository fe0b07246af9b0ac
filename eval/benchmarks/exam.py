"""Scores a model on its way, and counts the CPU seconds and the memory of what lies between."""

import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments


@dataclass
class Examiner(TrainerCallback):
    """Scores at the marks and along a curve, with the clock stopped.

    Attributes:
        marks: steps at which `score` is called; the last is the end of the run.
        curve_steps: `look` is called every so many steps, and at the end.
        score: model -> what is kept in `scores` for that step.
        look: model -> figures of one point of `curve`, to which `step` and `cpu_seconds` are added.
        cpu_seconds: of training so far.
        peak_memory_bytes: of the process, before anything was scored.
    """

    marks: tuple[int, ...]
    curve_steps: int
    score: Callable[[PreTrainedModel], Any]
    look: Callable[[PreTrainedModel], dict[str, float]]
    cpu_seconds: float = 0.0
    peak_memory_bytes: int | None = None
    curve: list[dict[str, float]] = field(default_factory=list)
    scores: dict[int, Any] = field(default_factory=dict)
    _started: float = 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """The clock starts."""
        self._started = time.process_time()

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: PreTrainedModel | None = None,
        **kwargs: Any,
    ) -> None:
        """Score what is due."""
        step = state.global_step
        is_mark, is_curve = step in self.marks, step % self.curve_steps == 0 or step == self.marks[-1]
        if not (is_mark or is_curve):
            return
        self.cpu_seconds += time.process_time() - self._started
        if self.peak_memory_bytes is None:
            self.peak_memory_bytes = peak_memory()
        if is_curve:
            self.curve.append({"step": step, "cpu_seconds": self.cpu_seconds, **self.look(model)})
        if is_mark:
            self.scores[step] = self.score(model)
        self._started = time.process_time()

    def look_at_start(self, model: PreTrainedModel) -> None:
        """Score a model that is not trained: step 0, no seconds."""
        self.peak_memory_bytes = peak_memory()
        self.curve.append({"step": 0, "cpu_seconds": 0.0, **self.look(model)})
        self.scores[0] = self.score(model)


def peak_memory() -> int:
    """Bytes this process has held at most; Linux counts in KiB, macOS in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
