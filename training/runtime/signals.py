"""SIGTERM, SIGINT and the launcher's death, turned into a question that is asked once per step."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StoppedBySignal(BaseException):
    """A signal came when everything was saved, and nothing has to be waited for."""


class Terminated(BaseException):
    """SIGTERM came when there was nothing to save: what KeyboardInterrupt is to SIGINT."""


@contextmanager
def sigterm_raises() -> Iterator[None]:
    """Within it, and outside a `SignalWatch`, SIGTERM raises `Terminated` in this process; a second one ends it.

    A process that is forked meanwhile ends by SIGTERM as if this were not here.
    """
    owner = os.getpid()

    def end(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        if os.getpid() == owner:
            raise Terminated
        os.kill(os.getpid(), number)

    previous = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


class SignalWatch:
    """While it is entered, the first signal is noted instead of ending the process.

    A second SIGINT ends it at once, as people expect who press Ctrl-C twice.

    Args:
        launcher: process that ends without ending this one (see `find_launcher`), or None.

    Attributes:
        stopped: set by the one who acts on `told_to_stop`, when the checkpoint was asked for.
        at_once: everything is saved, so from here on a signal raises `StoppedBySignal`.
    """

    def __init__(self, launcher: int | None = None) -> None:
        self.stopped = False
        self.at_once = False
        self.reason: str | None = None
        self._previous: dict[int, Any] = {}
        self._launcher = launcher

    def __enter__(self) -> "SignalWatch":
        self._previous = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def told_to_stop(self) -> bool:
        """Whether a signal has come, or the launcher is gone."""
        if self.reason is None and self._launcher is not None and os.getppid() != self._launcher:
            self.reason = "the end of the launcher"
        return self.reason is not None

    def _note(self, number: int, frame: FrameType | None) -> None:
        again, self.reason = self.reason is not None, signal.Signals(number).name
        if self.at_once:
            raise StoppedBySignal
        if again and number == signal.SIGINT:
            raise KeyboardInterrupt
        if not again:
            print(f"{self.reason}: saving at the end of this step, then ending", file=sys.stderr, flush=True)


def find_launcher() -> int | None:
    """The process of `accelerate launch`, which leaves its script running when it is killed; None without one.

    To be asked as early as can be: a launcher that is already gone cannot be known.
    """
    return os.getppid() if "ACCELERATE_MIXED_PRECISION" in os.environ else None


def leave_signals_to_the_parent(worker_id: int) -> None:
    """For a data loader's worker: Ctrl-C reaches all processes of a terminal, and the run needs it for one more step.

    A worker still ends when the run does: it is told to, and looks for its parent.
    """
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
