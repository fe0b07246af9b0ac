"""Single lines of scripts, joined to dialogues by their numbers and speakers."""

import itertools
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from training.data.sources.rows import RawRow

_NUMBER = re.compile(r"\d+")


class Line(NamedTuple):
    """A line of a script, from any place in the file: its film, its number there such as `L1045`, who says what."""

    film: str
    number: str
    speaker: str
    text: str | None
    place: int


def joined_lines(lines: Iterable[Line]) -> Iterator[RawRow]:
    """A row for each run of lines of a film with numbers that follow each other, between two speakers who take turns.

    Where a third one speaks, or one goes on alone, another dialogue begins, unless a single line would be left. The
    film is the row's group, and the place that of its first line. A line without number or text is a row with a
    problem.
    """
    numbered: list[tuple[str, int, Line]] = []
    for line in lines:
        number = _NUMBER.search(line.number)
        if number is None:
            yield RawRow((), line.place, f"no number in line id: {line.number[:20]!r}")
        elif not isinstance(line.text, str):
            yield RawRow((), line.place, "the line has no text")
        else:
            numbered.append((line.film, int(number.group()), line))
    numbered.sort(key=lambda item: item[:2])
    # Numbers that follow each other have the same distance from their places in the order.
    for _, scene in itertools.groupby(enumerate(numbered), lambda item: (item[1][0], item[1][1] - item[0])):
        for dialogue in _dialogues([line for _, (_, _, line) in scene]):
            yield RawRow(tuple(str(line.text) for line in dialogue), dialogue[0].place, None, dialogue[0].film)


def _dialogues(scene: list[Line]) -> list[list[Line]]:
    found: list[list[Line]] = []
    for line in scene:
        if found and _goes_on(found[-1], line):
            found[-1].append(line)
        else:
            found.append([line])
    joined: list[list[Line]] = []
    for dialogue in found:
        if joined and min(len(dialogue), len(joined[-1])) == 1:
            joined[-1] += dialogue
        else:
            joined.append(dialogue)
    return joined


def _goes_on(dialogue: list[Line], following: Line) -> bool:
    """Whether the other of two speakers says it."""
    return following.speaker != dialogue[-1].speaker and (
        len(dialogue) < 2 or following.speaker == dialogue[-2].speaker
    )
