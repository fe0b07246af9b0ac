"""What a run knows beyond weights and optimizer: sums of the current log window, smoothed figures, milestones.

Saved as `run_state.json` in every checkpoint, so that the log goes on after a resume as if nothing had happened.
"""

import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

RUN_STATE = "run_state.json"
ACC_EMA_KEEP = 0.92


class LogWindow:
    """Sums of (sum, count) pairs since the last log row; on the device, so that adding never waits for it.

    Attributes:
        step: those of the step at work, which join the others when it is taken in.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self.step: dict[str, Tensor] = {}
        self._seconds = 0.0
        self._started: float | None = None

    def add(self, name: str, pair: Tensor) -> None:
        """Add one (sum, count) pair, shape (2,), to those of the step at work."""
        _add(self.step, name, pair.detach().double())

    def take_step(self) -> None:
        """The step was good: its sums count."""
        for name, pair in self.step.items():
            _add(self._sums, name, pair)
        self.step = {}

    def drop_step(self) -> None:
        """The step is skipped: its sums do not count."""
        self.step = {}

    def start_clock(self) -> None:
        """A step begins; the one before, if it was not stopped, ended here."""
        self.stop_clock()
        self._started = time.perf_counter()

    def stop_clock(self) -> None:
        """What comes now (scoring, saving) is not training time."""
        if self._started is not None:
            self._seconds += time.perf_counter() - self._started
        self._started = None

    def reduced(self, accelerator: Accelerator) -> dict[str, list[float]]:
        """Name -> [sum, count] over all processes. Every process must call it."""
        if not self._sums:  # alike in all processes: they take and drop the same steps
            return {}
        names = sorted(self._sums)
        # cloned: with several processes the reduction works in place
        stacked = torch.stack([self._sums[name] for name in names]).clone()
        return dict(zip(names, accelerator.reduce(stacked, reduction="sum").tolist(), strict=True))

    def reset(self) -> float:
        """Forget the sums; returns the seconds of training that they took."""
        seconds, self._seconds = self._seconds, 0.0
        self._sums = {}
        return seconds

    def restore(self, sums: dict[str, list[float]], device: torch.device) -> None:
        """Go on from saved sums."""
        self._sums = {name: torch.tensor(pair, dtype=torch.float64, device=device) for name, pair in sums.items()}


@dataclass
class RunState:
    """The part of a run's state that is ours; all of it survives a resume."""

    window: dict[str, list[float]] = field(default_factory=dict)
    acc_ema: float | None = None
    smoothed: float | None = None
    best_value: float | None = None
    best_step: int | None = None
    evaluations_without_gain: int = 0
    milestones: list[dict[str, Any]] = field(default_factory=list)
    advice: dict[str, float] = field(default_factory=dict)  # pattern -> how bad it was when it was said
    cursor: dict[str, Any] | None = None  # of a stream: after the last batch that was trained on
    credit: dict[str, Any] | None = None  # see `training.optim.credit`
    growth: dict[str, Any] | None = None  # see `training.init_from.growing`
    skipped_steps: int = 0
    skipped_in_a_row: int = 0

    def update_acc_ema(self, acc_neg: float) -> float:
        """`acc_ema`: 0.92 old + 0.08 new at every log row; it starts at the first value."""
        old = acc_neg if self.acc_ema is None else self.acc_ema
        self.acc_ema = ACC_EMA_KEEP * old + (1 - ACC_EMA_KEEP) * acc_neg
        return self.acc_ema

    def update_best(self, step: int, value: float, smoothing: float, lower_is_better: bool = False) -> bool:
        """Smooth `value` in, and say whether the smoothed value is a new best."""
        self.smoothed = value if self.smoothed is None else smoothing * self.smoothed + (1 - smoothing) * value
        if self.best_value is not None:
            better = self.smoothed < self.best_value if lower_is_better else self.smoothed > self.best_value
            if not better:
                self.evaluations_without_gain += 1
                return False
        self.best_value, self.best_step, self.evaluations_without_gain = self.smoothed, step, 0
        return True

    def is_patient(self, patience: int) -> bool:
        """Whether a better model may still come; a patience of 0 waits for ever."""
        return patience == 0 or self.evaluations_without_gain < patience

    def save(self, folder: Path) -> None:
        """Write `run_state.json` (finite numbers round-trip exactly)."""
        (folder / RUN_STATE).write_text(json.dumps(asdict(self), allow_nan=False) + "\n", encoding="utf-8")

    def restore(self, folder: Path) -> None:
        """Take over what `folder` holds, in place: callbacks keep their reference."""
        for name, value in json.loads((folder / RUN_STATE).read_text(encoding="utf-8")).items():
            setattr(self, name, value)


def _add(sums: dict[str, Tensor], name: str, pair: Tensor) -> None:
    sums[name] = sums[name] + pair if name in sums else pair
