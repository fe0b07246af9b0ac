"""Files into rows, line by line, so that every fault has a file and a line.

The loaders of `datasets` turn mixed types into strings, missing columns into None, and name neither file nor line of a
broken one; here each line is decoded, parsed and checked before it goes into a data set.
"""

import csv
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from training.common.errors import InputError
from training.data.sources.rows import RawRow

MAX_ROW_CHARACTERS = 1_000_000
_BOM = b"\xef\xbb\xbf"
_SURROGATE = re.compile("[\ud800-\udfff]")
_SAMPLE = 200
_COLUMN_NAME = re.compile(r"[A-Za-z_][\w.-]*")
# One of these among the words of a first line makes it one of column names.
_USUAL_NAMES = frozenset(
    "text texts label labels sentence sentence1 sentence2 id idx index title body content document review comment "
    "question answer prompt reply response utterance category class target source score".split()
)


def read_file(path: Path, text_column: str | None, sides: str) -> Iterator[RawRow]:
    """The rows of a txt, tsv, jsonl, csv or parquet file.

    Raises:
        InputError: the file is missing, empty, of another kind, or has no usable text column. Faults of single rows
            are yielded as rows with a `problem`.
    """
    check_file(path)
    refuse_column_of_lines(path, text_column)
    if path.suffix == ".txt":
        return _read_lines(path, sides)
    if path.suffix == ".tsv" and text_column is None and not (sides == "pair" and set(PAIR) <= _names_in(path)):
        _refuse_table(path)
        return _read_lines(path, sides)
    if path.suffix == ".jsonl":
        return _read_jsonl(path, text_column, sides)
    if path.suffix == ".parquet":
        return _read_parquet(path, text_column, sides)
    return _read_table(path, text_column, "\t" if path.suffix == ".tsv" else ",", sides)


READABLE = (".txt", ".tsv", ".jsonl", ".csv", ".parquet")
PAIR = ("prompt", "reply")
NO_SEPARATOR = "no TAB or ||| between prompt and reply"


def check_file(path: Path) -> None:
    """Raise InputError unless this is a readable, non-empty file of a known kind."""
    if path.suffix not in READABLE:
        raise InputError(f"data: {path} is not a file of a known kind; use one of {', '.join(READABLE)}")
    try:
        if path.stat().st_size == 0:
            raise InputError(f"data: {path} is empty (0 bytes); give a file with one phrase per line")
        path.open("rb").close()
    except OSError as error:
        raise InputError(
            f"data: {path} cannot be read ({error.strerror}); check the path and its permissions"
        ) from None


def refuse_column_of_lines(path: Path, text_column: str | None) -> None:
    """Raise InputError where a column is asked for of a file of plain lines."""
    if text_column is not None and path.name.endswith((".txt", ".txt.gz")):
        raise InputError(
            f"text_column: {text_column!r} was asked for, but {path} is a text file, whose lines are the phrases; "
            "leave it out, or give a tsv, csv, jsonl or parquet file"
        )


def note_on_header(path: Path, text_column: str | None) -> str | None:
    """What to tell of the first line of a csv file with one column; None where there is no doubt about it."""
    if path.suffix != ".csv" or text_column is not None:
        return None
    cells = _first_record(path)
    if len(cells) != 1 or cells[0].lower() in _USUAL_NAMES:
        return None
    if _is_phrase(cells[0]):
        return f"{path} has no column names: its first line is read as a phrase"
    return f"{path} has one column, named {cells[0]!r} by its first line, which is no row"


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


def _decoded_lines(path: Path) -> Iterator[tuple[int, str | None]]:
    """(line number, text without its line end; None where it is not UTF-8). Knows CRLF and a byte-order mark."""
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            raw = raw.removeprefix(_BOM) if number == 1 else raw
            try:
                yield number, raw.decode("utf-8").rstrip("\r\n")
            except UnicodeDecodeError:
                yield number, None


def _read_lines(path: Path, sides: str) -> Iterator[RawRow]:
    for number, line in _decoded_lines(path):
        yield row_of_line(line, number, sides)


def row_of_line(line: str | None, number: int, sides: str) -> RawRow:
    """A row from a line of plain text (None where it is not UTF-8).

    Args:
        sides: `left`, `both`, `pair`, or `whole` for the line as it stands, also a blank one; see
            `SourceSettings.line_sides`.
    """
    if line is None:
        return RawRow((), number, "not valid UTF-8")
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


def _read_jsonl(path: Path, text_column: str | None, sides: str) -> Iterator[RawRow]:
    sample = [record for _, record, problem in islice(_json_objects(path), _SAMPLE) if problem is None]
    if not sample and text_column is None:
        yield from (RawRow((), number, problem) for number, _, problem in _json_objects(path))
        return
    columns = choose_columns(columns_of(sample), text_column, str(path), sides) if sample else (str(text_column),)
    for number, record, problem in _json_objects(path):
        if problem is not None:
            yield RawRow((), number, problem)
        else:
            yield row_of_values([record.get(column) for column in columns], number, columns)


def _json_objects(path: Path) -> Iterator[tuple[int, dict[str, Any], str | None]]:
    for number, line in _decoded_lines(path):
        if line is None or line.strip():
            yield number, *json_object(line)


def json_object(line: str | None) -> tuple[dict[str, Any], str | None]:
    """The object on a line of jsonl (None where it is not UTF-8) and, where it is none, why."""
    if line is None:
        return {}, "not valid UTF-8"
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


def _read_table(path: Path, text_column: str | None, delimiter: str, sides: str) -> Iterator[RawRow]:
    csv.field_size_limit(sys.maxsize)  # the library's own limit of 131,072 characters is a fault without a line
    lines = (line if line is not None else "\udcff" for _, line in _decoded_lines(path))
    reader = csv.reader((f"{line}\n" for line in lines), delimiter=delimiter, strict=True)
    _, header, problem = next(_records(reader))
    if problem is not None:
        raise InputError(f"data: {path} line 1: {problem}; repair the quoting of the column names")
    if len(header) == 1 and text_column is None and _is_phrase(header[0]):
        yield row_of_value(header[0], 1, "1")
        columns, indices = ("1",), [0]
    else:
        columns = _table_columns(header, text_column, path, sides)
        indices = [header.index(column) for column in columns]
    for place, record, problem in _records(reader):
        if problem is not None:
            yield RawRow((), place, problem)
        elif record:
            values = [record[index] if index < len(record) else None for index in indices]
            yield row_of_values(values, place, columns)


def _refuse_table(path: Path) -> None:
    """Raise InputError where the first line of a tsv file looks like column names: which one holds the text?"""
    names = _first_record(path, "\t")
    if len(names) > 1 and all(map(_COLUMN_NAME.fullmatch, names)) and _USUAL_NAMES & set(map(str.lower, names)):
        raise InputError(
            f"data: the first line of {path} looks like column names; choose with --text_column among: "
            f"{', '.join(names)} (if its lines are phrase, TAB, other side, name the file .txt)"
        )


def _names_in(path: Path) -> set[str]:
    """What could be column names of a tsv file."""
    return set(_first_record(path, "\t"))


def _first_record(path: Path, delimiter: str = ",") -> list[str]:
    """The cells of the first line; none where it cannot be read as a table."""
    line = next((line for _, line in _decoded_lines(path)), None) or ""
    try:
        return next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error:
        return []


def _is_phrase(name: str) -> bool:
    """Whether what should name a column is itself a row: several words, none of them a usual column name."""
    words = re.findall(r"\w+", name.lower())
    return len(words) > 1 and not _COLUMN_NAME.fullmatch(name) and not _USUAL_NAMES & set(words)


def _records(reader: Any) -> Iterator[tuple[int, list[str], str | None]]:
    """(first line, cells, what is wrong). A quote that is never closed swallows the rest of the file: every line of it
    is a bad one.
    """
    while True:
        first = reader.line_num + 1
        try:
            record = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield from ((line, [], f"not valid CSV: {error}") for line in range(first, reader.line_num + 1))
        else:
            yield first, record, None


def _table_columns(header: list[str], text_column: str | None, path: Path, sides: str) -> tuple[str, ...]:
    if (
        text_column is None
        and "text" not in header
        and len(header) > 1
        and not (sides == "pair" and set(PAIR) <= set(header))
    ):
        raise InputError(
            f"data: {path} has {len(header)} columns; choose with --text_column among: {', '.join(header)}"
        )
    return choose_columns(dict.fromkeys(header, "text"), text_column, str(path), sides)


def _read_parquet(path: Path, text_column: str | None, sides: str) -> Iterator[RawRow]:
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"data: {path} is no whole parquet file ({_first_line(error)}); write it again") from None
    columns = {name: arrow_kind(file.schema_arrow.field(name).type) for name in file.schema_arrow.names}
    chosen = choose_columns(columns, text_column, str(path), sides)
    batches = file.iter_batches(batch_size=10_000, columns=list(chosen))
    yield from _arrow_rows(batches, chosen, str(path))


def _arrow_rows(batches: Iterable[pa.RecordBatch], columns: tuple[str, ...], where: str) -> Iterator[RawRow]:
    place = 0
    try:
        for batch in batches:
            for values in zip(*(batch.column(name).to_pylist() for name in columns), strict=True):
                place += 1
                yield row_of_values(values, place, columns)
    except (pa.ArrowInvalid, OSError, UnicodeDecodeError) as error:
        raise InputError(f"data: {where} after row {place}: {_first_line(error)}; write the file again") from None


def arrow_kind(kind: pa.DataType) -> str:
    """The word `text` for text and (nested) lists of it, else the type's name."""
    is_list: Callable[[pa.DataType], bool] = lambda item: pa.types.is_list(item) or pa.types.is_large_list(item)  # noqa: E731
    inner = kind
    while is_list(inner):
        inner = inner.value_type
    is_text = pa.types.is_string(inner) or pa.types.is_large_string(inner) or pa.types.is_string_view(inner)
    return "text" if is_text else str(kind)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
