"""Dialogues of a source, and the pairs in them: what the dialogue model trains on, and what it is scored on.

A dialogue is a row: a prompt and its reply, or a list of turns. Every turn after the first is a reply; its context are
the turns before it. Parts are cut by whole dialogues, never by pairs.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from training.common.errors import InputError
from training.data.settings import DialogueDataSettings
from training.data.sources.columns import CHATML, NO_SEPARATOR
from training.data.sources.locate import OpenedSplit, Part, belongs_to, open_split
from training.data.sources.rows import RawRow, RowReport, check_bad_share, count_bad, row_ids, subset, text_hash

ONE_TURN = "a dialogue with one turn, which nobody answers"
ONE_ROLE = "a dialogue in which one role alone speaks, or nobody answers"
ASSISTANT = "assistant"
_ROLES = {
    **dict.fromkeys(("gpt", "chatgpt", "bot", "model", "ai", "agent", "assistant"), ASSISTANT),
    **dict.fromkeys(("human", "user", "customer", "prompter"), "user"),
    **dict.fromkeys(("function", "observation", "ipython", "tool"), "tool"),
}
_NO_SPEAKERS = ("system", "developer", "tool")
_CHATML_TURN = re.compile(r"<\|im_start\|>[ \t]*(\w+)\s(.*?)(?:<\|im_end\|>|(?=<\|im_start\|>)|$)", re.DOTALL)
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
        answers: places of the replies among the turns of each dialogue: all but the first, and of a log that names an
            assistant those of the assistant alone.
        report: what was read, kept, left out and rejected; `kept` counts dialogues.
    """

    turns: list[list[str]]
    report: RowReport
    answers: list[tuple[int, ...]]


def load_dialogues(settings: DialogueDataSettings, split: str) -> Dialogues:
    """The dialogues of one split, in the order of the source.

    Args:
        split: "train", "valid", "test", or "all" for every dialogue of the source.

    Raises:
        InputError: the source cannot be found or read, holds no dialogues, too many bad rows, or none is left.
    """
    opened = open_split(settings, split, "dialogues", "dialogues, whole, chosen by hash,")
    found = [said for part in opened.parts for said in _turns_of(opened, part, settings)]
    texts = [BETWEEN_TURNS.join(turns) for turns, _ in found]
    found = [found[index] for index in subset(texts, settings.max_rows, opened.report)]
    _refuse_other_rows(opened.report, opened.where)
    check_bad_share(opened.report, settings, opened.where)
    if not found:
        raise InputError(_why_none(opened))
    return Dialogues([turns for turns, _ in found], opened.report, [places for _, places in found])


def pairs_of(dialogues: Dialogues, settings: DialogueDataSettings) -> Iterator[Pair]:
    """Every reply of every dialogue with its context, in order; too short replies are counted in the report."""
    ids = row_ids([BETWEEN_TURNS.join(turns) for turns in dialogues.turns])
    too_short = f"replies of fewer than {settings.min_reply_words} words"
    for turns, places, dialogue_id in zip(dialogues.turns, dialogues.answers, ids, strict=True):
        for place in places:
            reply = turns[place]
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


def _turns_of(
    opened: OpenedSplit, part: Part, settings: DialogueDataSettings
) -> Iterator[tuple[list[str], tuple[int, ...]]]:
    """The dialogues of one part of a source that belong to a split, with the places of their replies; what cannot be
    used is counted.
    """
    is_cut = opened.is_cut(part)
    with_assistant = without = 0
    for row, turns, roles in _read(part.read(), settings, opened.report, part.where):
        if not is_cut or belongs_to(_with_group(row, turns), opened.source, opened.split):
            opened.report.kept += 1
            with_assistant, without = with_assistant + (ASSISTANT in roles), without + (ASSISTANT not in roles)
            yield (
                turns,
                tuple(place for place in range(1, len(turns)) if ASSISTANT not in roles or roles[place] == ASSISTANT),
            )
    if with_assistant:
        others = f"; {without:,} dialogues name no assistant: there each turn after the first" if without else ""
        opened.report.notes.append(f"a reply is each turn of the assistant{others}")
    elif without:
        opened.report.notes.append("a reply is each turn after the first")


def _read(
    rows: Iterable[RawRow], settings: DialogueDataSettings, report: RowReport, where: str
) -> Iterator[tuple[RawRow, list[str], list[str]]]:
    """(row, its turns, who says each: no names where the source has none)."""
    for row in rows:
        if row.problem is None and not row.texts:
            report.blank_lines += 1
            continue
        report.read += 1
        row = _read_chatml(row)
        tidied = [tidy_turn(text, settings.join_punctuation) for text in row.texts]
        said, left_out = said_turns(tidied, [role_of(role) for role in row.roles or [""] * len(tidied)])
        turns, roles = [text for _, text in said], [role for role, _ in said]
        if row.problem is None and len(turns) < 2:
            one = ONE_TURN if row.roles is None else ONE_ROLE
            row = row._replace(problem=one if turns else "a dialogue without turns")
        if row.problem is None and not any(role in ("", ASSISTANT) for role in roles[1:]) and ASSISTANT in roles:
            row = row._replace(problem=ONE_ROLE)
        if row.problem is None:
            for reason, count in left_out.items():
                report.filtered[reason] = report.filtered.get(reason, 0) + count
            yield row, turns, roles
        else:
            count_bad(row, report, where)


def role_of(name: str) -> str:
    """The usual name of a speaker, by which chat logs can be compared.

    >>> role_of("gpt"), role_of("human"), role_of("Alice")
    ('assistant', 'user', 'alice')
    """
    return _ROLES.get(name.strip().lower(), name.strip().lower())


def said_turns(texts: list[str], roles: list[str]) -> tuple[list[tuple[str, str]], Counter[str]]:
    """(role, text) of what people say to each other, and what is left out of it, counted; what one of them says in
    several turns is one turn.
    """
    left_out: Counter[str] = Counter()
    said: list[tuple[str, str]] = []
    for role, text in zip(roles, texts, strict=True):
        if not text:
            left_out["blank turns"] += 1
        elif role in _NO_SPEAKERS:
            left_out[f"{role} turns"] += 1
        elif role and said and said[-1][0] == role:
            left_out["turns joined to the one before, of the same role"] += 1
            said[-1] = (role, f"{said[-1][1]} {text}")
        else:
            said.append((role, text))
    return said, left_out


def _read_chatml(row: RawRow) -> RawRow:
    """A row whose only text is ChatML, with its turns; any other as it is."""
    if len(row.texts) != 1 or CHATML not in row.texts[0]:
        return row
    found = _CHATML_TURN.findall(row.texts[0])
    return row._replace(texts=tuple(text for _, text in found), roles=tuple(role for role, _ in found))


def _with_group(row: RawRow, turns: list[str]) -> RawRow:
    """Dialogues that begin alike, such as two records of the same one, lie on the same side of a cut."""
    return row if row.group is not None else row._replace(group=normalised(BETWEEN_TURNS.join(turns[:2])))


def _refuse_other_rows(report: RowReport, where: str) -> None:
    """Raise InputError where most rows are no dialogues at all, naming the first."""
    for problem in (NO_SEPARATOR, ONE_TURN, ONE_ROLE):
        if 2 * report.bad.get(problem, 0) > report.read:
            first = next(example for example in report.bad_examples if example.endswith(problem))
            raise InputError(
                f"data: {first}, and so with {report.bad[problem]:,} of {report.read:,} rows of {where}; give lines "
                "`prompt TAB reply` or `prompt ||| reply`, a table with --prompt_column and --reply_column, or with a "
                "list of `turns`, `messages` (role, content) or `conversations` (from, value), or builtin:chatterbot"
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
