"""Faults that the test Hub shows on request."""

import re
import threading
from dataclasses import dataclass, field

MOMENTS = ("before", "during", "after")


@dataclass
class Fault:
    """What goes wrong with requests that fit.

    Attributes:
        method: of the request, such as PUT.
        path: a pattern that is searched in the request's path.
        status: the answer; None cuts the connection.
        moment: before the body is read, in the middle of it, or after everything was done.
        times: how often; None is always.
        headers: of the answer.
        body: of the answer; None is the Hub's own kind, `{"error": ...}`.
    """

    method: str
    path: str
    status: int | None = None
    moment: str = "before"
    times: int | None = 1
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None

    @classmethod
    def parse(cls, text: str) -> "Fault":
        """`METHOD:PATTERN:STATUS|cut[:TIMES]`, such as `POST:/commit/:503:2`. Raises ValueError."""
        method, pattern, what, *times = text.split(":")
        status = None if what == "cut" else int(what)
        return cls(method.upper(), pattern, status, "before" if status else "during", int(times[0]) if times else None)


class Faults:
    """The faults that are still to happen."""

    def __init__(self) -> None:
        self._waiting: list[Fault] = []
        self._lock = threading.Lock()

    def add(self, fault: Fault) -> None:
        """Let it happen from now on."""
        with self._lock:
            self._waiting.append(fault)

    def clear(self) -> None:
        """All is well again."""
        with self._lock:
            self._waiting.clear()

    def take(self, method: str, path: str) -> Fault | None:
        """The first fault that fits a request; it has then happened once more."""
        with self._lock:
            found = next((f for f in self._waiting if f.method == method and re.search(f.path, path)), None)
            if found is not None and found.times is not None:
                found.times -= 1
                if found.times == 0:
                    self._waiting.remove(found)
            return found
