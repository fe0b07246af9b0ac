"""SIGTERM, SIGINT and the launcher's death, turned into a question that is asked once per step."""

import os
import signal
import sys
from types import FrameType, TracebackType
from typing import Any

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class SignalWatch:
    """While it is entered, the first signal is noted instead of ending the process.

    A second SIGINT ends it at once, as people expect who press Ctrl-C twice.

    Attributes:
        stopped: set by the one who acts on `told_to_stop`, when the checkpoint was asked for.
    """

    def __init__(self) -> None:
        self.stopped = False
        self.reason: str | None = None
        self._previous: dict[int, Any] = {}
        # `accelerate launch` leaves its script running when it is killed; a run without a launcher has no such parent.
        self._launcher = os.getppid() if "ACCELERATE_MIXED_PRECISION" in os.environ else None

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
        if self.reason is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.reason = signal.Signals(number).name
        print(f"{self.reason}: saving a checkpoint at the end of this step, then ending", file=sys.stderr, flush=True)
