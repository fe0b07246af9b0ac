"""Dialogues of a source, and the pairs in them: what the dialogue model trains on, and what it is scored on.

A dialogue is a row: a prompt and its reply, or a list of turns. Every turn after the first is a reply; its context are
the turns before it. Parts are cut by whole dialogues, never by pairs.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from training.common.errors import InputError
from training.data.settings import DialogueDataSettings
from training.data.sources.columns import NO_SEPARATOR
from training.data.sources.locate import OpenedSplit, Part, belongs_to, open_split
from training.data.sources.rows import RawRow, RowReport, check_bad_share, count_bad, row_ids, subset, text_hash

ONE_TURN = "a dialogue with one turn, which nobody answers"
BETWEEN_TURNS = "\n"
_BEFORE_PUNCTUATION = re.compile(r"(?<=\S) +(?=[.,!?;:%](?:\s|$))")
_IN_CONTRACTION = re.compile(r"(?<=\w) *(['’]) ?(?=(?:s|t|m|d|ll|re|ve)\b)", re.IGNORECASE)
_WORDS = re.compile(r"\w+")


class Pair(NamedTuple):
    """A reply, and what came before it.

    Attributes:
        context: the last turns before the reply, oldest first, at least one.
        reply: the text that answers.
        row_id: of the pair; a function of its dialogue's text and of its place there.
        dialogue_id: of the dialogue.
    """

    context: list[str]
    reply: str
    row_id: int
    dialogue_id: int


@dataclass(frozen=True)
class Dialogues:
    """The dialogues of one split.

    Attributes:
        turns: the turns of each dialogue, two or more, none of them blank, each without line ends.
        report: what was read, kept, left out and rejected; `kept` counts dialogues.
    """

    turns: list[list[str]]
    report: RowReport


def load_dialogues(settings: DialogueDataSettings, split: str) -> Dialogues:
    """The dialogues of one split, in the order of the source.

    Args:
        split: "train", "valid", "test", or "all" for every dialogue of the source.

    Raises:
        InputError: the source cannot be found or read, holds no dialogues, too many bad rows, or none is left.
    """
    opened = open_split(settings, split, "dialogues", "dialogues, whole, chosen by hash,")
    texts = [BETWEEN_TURNS.join(turns) for part in opened.parts for turns in _turns_of(opened, part, settings)]
    texts = subset(texts, settings.max_rows, opened.report)
    _refuse_other_rows(opened.report, opened.where)
    check_bad_share(opened.report, settings, opened.where)
    if not texts:
        raise InputError(_why_none(opened))
    return Dialogues([text.split(BETWEEN_TURNS) for text in texts], opened.report)


def pairs_of(dialogues: Dialogues, settings: DialogueDataSettings) -> Iterator[Pair]:
    """Every reply of every dialogue with its context, in order; too short replies are counted in the report."""
    ids = row_ids([BETWEEN_TURNS.join(turns) for turns in dialogues.turns])
    too_short = f"replies of fewer than {settings.min_reply_words} words"
    for turns, dialogue_id in zip(dialogues.turns, ids, strict=True):
        for place, reply in enumerate(turns[1:], start=1):
            if len(reply.split()) < settings.min_reply_words:
                dialogues.report.filtered[too_short] = dialogues.report.filtered.get(too_short, 0) + 1
                continue
            context = turns[max(0, place - settings.context_turns) : place]
            yield Pair(context, reply, text_hash(f"{dialogue_id} turn {place}"), dialogue_id)


def tidy_turn(text: str, join_punctuation: bool) -> str:
    """A turn on one line, without spaces at its ends or several in a row.

    >>> tidy_turn(" I ’ m fine ,  thanks !", join_punctuation=True)
    'I’m fine, thanks!'
    """
    line = " ".join(text.split())
    if join_punctuation:
        line = _IN_CONTRACTION.sub(r"\1", _BEFORE_PUNCTUATION.sub("", line))
    return line


def normalised(text: str) -> str:
    """The words of a text alone, in lower case: texts that agree in it are near-duplicates.

    >>> normalised("Yes , I do !") == normalised("yes I do")
    True
    """
    return " ".join(_WORDS.findall(text.lower()))


def _turns_of(opened: OpenedSplit, part: Part, settings: DialogueDataSettings) -> Iterator[list[str]]:
    """The dialogues of one part of a source that belong to a split; what cannot be used is counted."""
    is_cut = opened.is_cut(part)
    for row, turns in _read(part.read(), settings, opened.report, part.where):
        if not is_cut or belongs_to(_with_group(row, turns), opened.source, opened.split):
            opened.report.kept += 1
            yield turns


def _read(
    rows: Iterable[RawRow], settings: DialogueDataSettings, report: RowReport, where: str
) -> Iterator[tuple[RawRow, list[str]]]:
    for row in rows:
        if row.problem is None and not row.texts:
            report.blank_lines += 1
            continue
        report.read += 1
        turns = [turn for text in row.texts if (turn := tidy_turn(text, settings.join_punctuation))]
        if row.problem is None and len(turns) < 2:
            row = row._replace(problem=ONE_TURN if turns else "a dialogue without turns")
        if row.problem is None:
            report.filtered |= _blank_turns(len(row.texts) - len(turns), report)
            yield row, turns
        else:
            count_bad(row, report, where)


def _blank_turns(count: int, report: RowReport) -> dict[str, int]:
    return {"blank turns": report.filtered.get("blank turns", 0) + count} if count else {}


def _with_group(row: RawRow, turns: list[str]) -> RawRow:
    """Dialogues that begin alike, such as two records of the same one, lie on the same side of a cut."""
    return row if row.group is not None else row._replace(group=normalised(BETWEEN_TURNS.join(turns[:2])))


def _refuse_other_rows(report: RowReport, where: str) -> None:
    """Raise InputError where most rows are no dialogues at all, naming the first."""
    for problem in (NO_SEPARATOR, ONE_TURN):
        if 2 * report.bad.get(problem, 0) > report.read:
            first = next(example for example in report.bad_examples if example.endswith(problem))
            raise InputError(
                f"data: {first}, and so with {report.bad[problem]:,} of {report.read:,} rows of {where}; give lines "
                "`prompt TAB reply` or `prompt ||| reply`, jsonl with `prompt` and `reply` or a list of `turns`, or "
                "builtin:chatterbot"
            )


def _why_none(opened: OpenedSplit) -> str:
    if opened.is_held_out_here and opened.report.read:
        return (
            f"data: {opened.where} has so few different dialogues that none is held out for {opened.split}; give more "
            "of them, or a folder with train.*, valid.* and test.*"
        )
    return (
        f"data: no usable dialogue in {opened.where} [{opened.split}] ({opened.report.summary()}); give another source"
    )
