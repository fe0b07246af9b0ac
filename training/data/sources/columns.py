"""From what stands in a file to rows: which columns hold the text, and what makes a value unusable.

The loaders of `datasets` turn mixed types into strings, missing columns into None, and name neither file nor line of a
broken one; here each value is checked before it goes into a data set.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa

from training.common.errors import InputError
from training.data.sources.rows import RawRow

MAX_ROW_CHARACTERS = 1_000_000
PAIR = ("prompt", "reply")
NO_SEPARATOR = "no TAB or ||| between prompt and reply"
_SURROGATE = re.compile("[\ud800-\udfff]")


def choose_column(columns: dict[str, str], text_column: str | None, where: str) -> str:
    """The text column among `columns` (name -> type, "text" for text and lists of it).

    Raises:
        InputError: the asked one is missing or no text, or there are several and none is asked for.
    """
    usable = [name for name, kind in columns.items() if kind == "text"]
    listed = ", ".join(f"{name} ({kind})" for name, kind in columns.items())
    if text_column is not None:
        if text_column not in columns:
            raise InputError(f"text_column: {where} has no column {text_column!r}; it has {listed or 'none'}")
        if text_column not in usable:
            raise InputError(f"text_column: {text_column!r} of {where} holds no text; it has {listed}")
        return text_column
    if "text" in usable:
        return "text"
    if len(usable) == 1:
        return usable[0]
    found = "has no text column" if not usable else f"has {len(usable)} text columns"
    raise InputError(f"data: {where} {found}; choose with --text_column among: {listed or 'none'}")


def choose_columns(columns: dict[str, str], text_column: str | None, where: str, sides: str) -> tuple[str, ...]:
    """The columns that make a row: one, see `choose_column`.

    Where `sides` is `pair`, a row is a dialogue: `prompt` and `reply`, or a list of its turns, by default in `turns`.
    """
    if sides == "pair" and text_column is None:
        if all(columns.get(name) == "text" for name in PAIR):
            return PAIR
        if columns.get("turns") == "text":
            return ("turns",)
    return (choose_column(columns, text_column, where),)


def row_of_values(values: Sequence[Any], place: int, columns: tuple[str, ...], group: str | None = None) -> RawRow:
    """A row from what stands in the columns of `choose_columns`."""
    if columns != PAIR:
        return row_of_value(values[0], place, columns[0], group)
    for name, value in zip(PAIR, values, strict=True):
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
    """A row from what stands in a text column: text, or (nested) lists of it, which are flattened."""
    if value is None:
        return RawRow((), place, f"column {column!r} is missing or null")
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


def _fault(text: str) -> str | None:
    if len(text) > MAX_ROW_CHARACTERS:
        return f"longer than {MAX_ROW_CHARACTERS:,} characters: {len(text):,}"
    if "\0" in text:
        return "NUL byte"
    if not text.isascii() and _SURROGATE.search(text):
        return "not valid UTF-8"
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
    """Name -> "text" or the most common type's name, over the first records."""
    kinds: dict[str, Counter[str]] = {}
    for record in records:
        for name, value in record.items():
            row = row_of_value(value, 0, name)
            kind = "text" if row.problem is None or isinstance(value, str) else type(value).__name__
            kinds.setdefault(name, Counter())[kind] += 1
    return {name: counts.most_common(1)[0][0] for name, counts in kinds.items()}


def arrow_kinds(schema: pa.Schema) -> dict[str, str]:
    """Column -> the word `text` for text and (nested) lists of it, else the type's name."""
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
    for table in tables:
        keys = table.column(group).to_pylist() if group else [None] * len(table)
        values = zip(*(table.column(name).to_pylist() for name in columns), strict=True)
        for key, row in zip(keys, values, strict=True):
            place += 1
            found = row if convert is None else tuple(map(convert, row))
            yield row_of_values(found, place, columns, None if key is None else str(key))


def _arrow_kind(kind: pa.DataType) -> str:
    inner = kind
    while pa.types.is_list(inner) or pa.types.is_large_list(inner):
        inner = inner.value_type
    is_text = pa.types.is_string(inner) or pa.types.is_large_string(inner) or pa.types.is_string_view(inner)
    return "text" if is_text else str(kind)
