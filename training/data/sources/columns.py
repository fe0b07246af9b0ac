"""From what stands in a file to rows: which columns hold the text, and what makes a value unusable.

The loaders of `datasets` turn mixed types into strings, missing columns into None, and name neither file nor line of a
broken one; here each value is checked before it goes into a data set.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from textwrap import shorten
from typing import Any

import pyarrow as pa

from training.common.errors import InputError
from training.data.settings import Asked, Labelled
from training.data.sources.rows import MAX_ROW_CHARACTERS, NOT_UTF8, TOO_LONG, RawRow

PAIR = ("prompt", "reply")
# Other names that data sets give to the two sides, and to a list of turns.
_PAIRS = (
    *(PAIR, ("prompt", "response"), ("prompt", "completion"), ("question", "answer"), ("instruction", "output")),
    *(("instruction", "response"), ("input", "output")),
)
_TURNS = ("turns", "messages", "conversations", "conversation", "dialogue", "dialog")
# What names the speaker and the text of a turn.
_TURN_KEYS = (
    *(("role", "content"), ("from", "value"), ("role", "text"), ("speaker", "text"), ("speaker", "utterance")),
    *(("user", "text"), ("author", "text"), ("author", "content"), ("role", "value")),
)
_NO_TEXT = re.compile(
    r"(?:.*[_ .-])?(?:id|uuid|guid|url|hash|path|date|time|timestamp|lang|language|labels?|tags?|keywords?)", re.I
)
_SHOWN = 40
CHATML = "<|im_start|>"
NO_SEPARATOR = "no TAB or ||| between prompt and reply"
_SURROGATE = re.compile("[\ud800-\udfff]")


def choose_column(
    columns: dict[str, str], text_column: str | None, where: str, sample: Mapping[str, Any] | None = None
) -> str:
    """The text column among `columns` (name -> type, "text" for text, "texts" for lists of it, or of turns).

    Args:
        sample: a row, to be shown where the user has to choose.

    Raises:
        InputError: the asked one is missing or no text, or there are several and none is asked for, or the only one
            is named like an id.
    """
    usable = [name for name, kind in columns.items() if kind in ("text", "texts")]
    listed = _listed(columns, sample)
    if text_column is not None:
        if text_column not in columns:
            raise InputError(f"text_column: {where} has no column {text_column!r}; it has {listed or 'none'}")
        if text_column not in usable:
            raise InputError(f"text_column: {text_column!r} of {where} holds no text; it has {listed}")
        return text_column
    if "text" in usable:
        return "text"
    likely = [name for name in usable if not _NO_TEXT.fullmatch(name)]
    if len(likely) == 1:
        return likely[0]
    found = f"has {len(likely)} text columns" if likely else "has no text column"
    raise InputError(f"data: {where} {found}; choose with --text_column among: {listed or 'none'}")


def choose_columns(
    columns: dict[str, str], asked: Asked, where: str, sides: str, sample: Mapping[str, Any] | None = None
) -> tuple[str, ...]:
    """The columns that make a row: one, see `choose_column`.

    Where `sides` is `pair`, a row is a dialogue: two columns (asked for, or of a usual pair of names) with a prompt
    and its reply, or one with the list of its turns. A column of single texts is taken for one where its name is
    `text` alone: it may hold ChatML. Where a label is asked for, the columns are `Labelled`.

    Raises:
        InputError: as `choose_column`; nothing that looks like dialogues; no column of that label.
    """
    if isinstance(asked, Labelled):
        if asked.label not in columns:
            raise InputError(f"label_column: {where} has no column {asked.label!r}; it has {_listed(columns, sample)}")
        others = {name: kind for name, kind in columns.items() if name != asked.label}
        return Labelled(choose_column(others, asked.text, where, sample), asked.label)
    if isinstance(asked, tuple):
        for flag, name in zip(("prompt_column", "reply_column"), asked, strict=True):
            if columns.get(name) != "text":
                raise InputError(f"{flag}: {where} has no text column {name!r}; it has {_listed(columns, sample)}")
        return asked
    if sides != "pair" or asked is not None:
        return (choose_column(columns, asked, where, sample),)
    found = [pair for pair in _PAIRS if all(columns.get(name) == "text" for name in pair)]
    lists = [name for name in _TURNS if columns.get(name) == "texts"]
    lists = lists or [name for name, kind in columns.items() if kind == "texts" and not _NO_TEXT.fullmatch(name)]
    if found[:1] == [PAIR] or (found and not lists):
        return found[0]
    if lists and (len(lists) == 1 or lists[0] in _TURNS):
        return (lists[0],)
    if columns.get("text") == "text":
        return ("text",)
    raise InputError(
        f"data: {where} has no column that is surely a dialogue; choose with --prompt_column and --reply_column, or a "
        f"list of turns with --text_column, among: {_listed(columns, sample) or 'none'}"
    )


def flat(record: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """What objects within a record hold, by path.

    >>> flat({"id": 1, "doc": {"body": "b"}})
    {'id': 1, 'doc.body': 'b'}
    """
    found: dict[str, Any] = {}
    for name, value in record.items():
        path = f"{prefix}{name}"
        found |= flat(value, f"{path}.") if isinstance(value, dict) and value else {path: value}
    return found


def _listed(columns: dict[str, str], sample: Mapping[str, Any] | None) -> str:
    """Columns with their kinds, and how the text of a row begins in each."""
    shown = []
    for name, kind in columns.items():
        value = (sample or {}).get(name)
        begins = f": {shorten(str(value), _SHOWN, placeholder='...')!r}" if kind in ("text", "texts") and value else ""
        shown.append(f"{name} ({kind}{begins})")
    return ", ".join(shown)


def row_of_values(values: Sequence[Any], place: int, columns: tuple[str, ...], group: str | None = None) -> RawRow:
    """A row from what stands in the columns of `choose_columns`."""
    if len(columns) == 1:
        return row_of_value(values[0], place, columns[0], group)
    if isinstance(columns, Labelled):
        row = row_of_value(values[0], place, columns.text or "text", group)
        if row.problem is None and values[1] in (None, ""):
            return RawRow((), place, f"column {columns.label!r} is missing or null")
        return row._replace(label=values[1])
    for name, value in zip(columns, values, strict=True):
        if isinstance(value, list | tuple):
            return RawRow((), place, f"column {name!r} holds a list, not text")
        row = row_of_value(value, place, name)
        if row.problem is not None:
            return row
    return _pair(*values, place=place, group=group)


def _pair(prompt: str, reply: str, place: int, group: str | None = None) -> RawRow:
    empty = [name for name, text in zip(PAIR, (prompt, reply), strict=True) if not text.strip()]
    return RawRow((), place, f"empty {empty[0]}") if empty else RawRow((prompt, reply), place, None, group)


def row_of_value(value: Any, place: int, column: str, group: str | None = None) -> RawRow:
    """A row from what stands in a text column: text, (nested) lists of it, which are flattened, or a list of turns
    with their speakers.
    """
    if value is None:
        return RawRow((), place, f"column {column!r} is missing or null")
    turns = turns_of(value)
    if turns is not None:
        problem = next(filter(None, (_fault(text) for _, text in turns)), None)
        roles = tuple(role for role, _ in turns)
        return (
            RawRow((), place, problem)
            if problem
            else RawRow(tuple(t for _, t in turns), place, None, group, roles=roles)
        )
    texts: list[str] = []
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, (list, tuple)):
            pending.extend(reversed(item))
        elif isinstance(item, str):
            texts.append(item)
        else:
            return RawRow((), place, f"column {column!r} holds {type(item).__name__}, not text")
    problem = next(filter(None, map(_fault, texts)), None)
    return RawRow((), place, problem) if problem else RawRow(tuple(texts) or ("",), place, None, group)


def turns_of(value: Any) -> list[tuple[str, str]] | None:
    """(role, text) of a list of turns such as `{"role": ..., "content": ...}`; None for anything else.

    A turn without text, such as a call of a tool, has an empty one; of a list of parts their texts are taken.
    """
    if not isinstance(value, list | tuple) or not value or not all(isinstance(turn, dict) for turn in value):
        return None
    keys = next((keys for keys in _TURN_KEYS if all(set(keys) <= set(turn) for turn in value)), None)
    if keys is None:
        return None
    found = []
    for turn in value:
        role, text = turn[keys[0]], turn[keys[1]]
        if isinstance(text, list):
            text = " ".join(str(part.get("text") or "") for part in text if isinstance(part, dict))
        if not isinstance(text, str | None):
            return None
        found.append((str(role), text or ""))
    return found


def _fault(text: str) -> str | None:
    if len(text) > MAX_ROW_CHARACTERS:
        return f"{TOO_LONG}: {len(text):,}"
    if "\0" in text:
        return "NUL byte"
    if not text.isascii() and _SURROGATE.search(text):
        return NOT_UTF8
    return None


def row_of_line(line: str, number: int, sides: str) -> RawRow:
    """A row from a line of plain text.

    Args:
        sides: `left`, `both`, `pair`, or `whole` for the line as it stands, also a blank one; see
            `SourceSettings.line_sides`.
    """
    if sides == "whole":
        return RawRow((line,) if _fault(line) is None else (), number, _fault(line))
    if not line.strip():
        return RawRow((), number)
    if sides == "pair":
        return _pair_of_line(line, number)
    left, _, right = line.partition("|||") if "|||" in line else line.strip().partition("\t")
    texts = (left, right) if sides == "both" and right.strip() else (left,)
    return RawRow(texts if _fault(line) is None else (), number, _fault(line))


def _pair_of_line(line: str, number: int) -> RawRow:
    sides = line.split("|||" if "|||" in line else "\t")
    problem = _fault(line)
    if problem is None and len(sides) != len(PAIR):
        problem = NO_SEPARATOR if len(sides) == 1 else "more than one separator between prompt and reply"
    return RawRow((), number, problem) if problem is not None else _pair(*sides, place=number)


def json_object(line: str) -> tuple[dict[str, Any], str | None]:
    """The object on a line of jsonl and, where it is none, why."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        return {}, f"not valid JSON: {error}"
    return (record, None) if isinstance(record, dict) else ({}, "not a JSON object")


def columns_of(records: list[dict[str, Any]]) -> dict[str, str]:
    """Name -> "text", "texts" (a list) or the most common type's name, over the first records."""
    kinds: dict[str, Counter[str]] = {}
    for record in records:
        for name, value in record.items():
            row = row_of_value(value, 0, name)
            kind = "text" if isinstance(value, str) else "texts" if row.problem is None else type(value).__name__
            kinds.setdefault(name, Counter())[kind] += 1
    return {name: counts.most_common(1)[0][0] for name, counts in kinds.items()}


def arrow_kinds(schema: pa.Schema) -> dict[str, str]:
    """Column -> `text` for text, `texts` for (nested) lists of it or of turns, else the type's name; those of objects
    by their paths, such as `doc.body`.
    """
    while any(pa.types.is_struct(field.type) for field in schema):
        schema = schema.empty_table().flatten().schema
    return {name: _arrow_kind(schema.field(name).type) for name in schema.names}


def rows_of_arrow(
    tables: Iterable[pa.RecordBatch | pa.Table],
    columns: tuple[str, ...],
    place: int = 0,
    group: str | None = None,
    convert: Callable[[Any], Any] | None = None,
) -> Iterator[RawRow]:
    """The rows of tables, counted on from `place`; those with the same value of column `group` stay together.

    Args:
        convert: what stands in a column to text, or lists of it.
    """
    for table in map(flat_table, tables):
        keys = table.column(group).to_pylist() if group else [None] * len(table)
        values = zip(*(table.column(name).to_pylist() for name in columns), strict=True)
        for key, row in zip(keys, values, strict=True):
            place += 1
            found = row if convert is None else tuple(map(convert, row))
            yield row_of_values(found, place, columns, None if key is None else str(key))


def flat_table(table: pa.RecordBatch | pa.Table) -> pa.Table:
    """With a column of its own for all that objects hold."""
    table = pa.Table.from_batches([table]) if isinstance(table, pa.RecordBatch) else table
    while any(pa.types.is_struct(field.type) for field in table.schema):
        table = table.flatten()
    return table


def _arrow_kind(kind: pa.DataType) -> str:
    inner = kind
    while pa.types.is_list(inner) or pa.types.is_large_list(inner):
        inner = inner.value_type
    is_text = pa.types.is_string(inner) or pa.types.is_large_string(inner) or pa.types.is_string_view(inner)
    if pa.types.is_struct(inner):
        names = {field.name for field in inner}
        return "texts" if any(set(keys) <= names for keys in _TURN_KEYS) else str(kind)
    return ("text" if inner is kind else "texts") if is_text else str(kind)
