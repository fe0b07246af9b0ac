"""Output that a run outlives: Ctrl-C ends `tee` as well, and the checkpoint still has to be saved."""

import io
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO


@contextmanager
def lasting_outputs() -> Iterator[None]:
    """Within it, a reader of stdout or stderr that is gone is no error: what is printed for it is dropped."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _Lasting(before[0]), _Lasting(before[1])
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


class _Lasting(io.TextIOBase):
    """A text stream that writes to another until nobody reads that any more."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except BrokenPipeError:
            self._drop()
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except BrokenPipeError:
            self._drop()

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()

    @property
    def encoding(self) -> str:
        return self._stream.encoding

    def _drop(self) -> None:
        """What is buffered would fail once more at the end of the process, and spoil its exit code."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)


def show_notes(here: bool = True) -> None:
    """Let the data layer say, unless another process does, what it kept, left out and found prepared, and the
    libraries be quiet.
    """
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()  # one for every file of a checkpoint
    notes = logging.getLogger("training")
    notes.handlers = [logging.StreamHandler(sys.stdout)]
    notes.setLevel(logging.INFO if here else logging.WARNING)
    notes.propagate = False
