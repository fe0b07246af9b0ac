"""Files read line by line or row by row, so that every fault has a file and a line: one reader for each kind.

A reader is a shard. It gives its rows from a position on, and with every row the position after it: a byte offset in
lines of text and jsonl, a row number elsewhere. A whole file is a shard read from 0. Reading on replays nothing of
plain files, at most one row group of a parquet file, and at most the one shard of compressed files and the Hub.

Another kind of file is another class and another entry of `READERS`.
"""

import csv
import gzip
import hashlib
import re
import sys
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub.errors import HfHubHTTPError

from training.common.errors import InputError
from training.data.settings import SourceSettings
from training.data.sources.columns import (
    MAX_ROW_CHARACTERS,
    PAIR,
    arrow_kinds,
    choose_columns,
    columns_of,
    json_object,
    row_of_line,
    row_of_value,
    row_of_values,
    rows_of_arrow,
)
from training.data.sources.rows import RawRow

_BROKEN = (OSError, EOFError, zlib.error, pa.ArrowException, UnicodeDecodeError, RuntimeError, HfHubHTTPError)
_BOM = b"\xef\xbb\xbf"
_SAMPLE = 200
_BATCH = 1000
_ENDS = 65_536
_COLUMN_NAME = re.compile(r"[A-Za-z_][\w.-]*")
# One of these among the words of a first line makes it one of column names.
_USUAL_NAMES = frozenset(
    "text texts label labels sentence sentence1 sentence2 id idx index title body content document review comment "
    "question answer prompt reply response utterance category class target source score".split()
)

Piece = TypeVar("Piece", pa.RecordBatch, pa.Table)


class Shard(ABC):
    """One piece of a source.

    Attributes:
        name: the same wherever the source lies; goes into the rows' numbers.
        where: for the screen.
        unit, remedy: of messages: what is counted, and what to do where it breaks off.
    """

    name: str
    where: str
    unit: ClassVar[str] = "row"
    remedy: ClassVar[str] = "check the file, or write it again"

    def rows(self, position: int = 0, line: int = 0) -> Iterator[tuple[RawRow, int]]:
        """(row, position after it) from a position on.

        Args:
            position: 0, or one that an earlier row came with.
            line: the `place` of that row, for counting on.

        Raises:
            InputError: it cannot be read (any more), or has no usable text column. Faults of single rows are yielded
                as rows with a `problem`.
        """
        broken = _BROKEN  # a generator may be closed when the module is gone
        try:
            for row, after in self._rows(position, line):
                line = row.place
                yield row, after
        except broken as error:
            raise InputError(
                f"data: {self.where} after {self.unit} {line:,}: {first_line(error)}; {self.remedy}"
            ) from None

    def read(self) -> Iterator[RawRow]:
        """All rows; one with a problem says where it is."""
        for row, _ in self.rows():
            yield row if row.problem is None else row._replace(where=self.where)

    @abstractmethod
    def _rows(self, position: int, line: int) -> Iterator[tuple[RawRow, int]]:
        """As `rows`, which makes one error of what the libraries raise."""

    def share_before(self, position: int) -> float:
        """The share of the shard that lies before a position; 0 where that is not known."""
        return 0.0

    @abstractmethod
    def fingerprint(self) -> str:
        """Changes with the content, as far as a glance shows it."""


@dataclass(frozen=True)
class LineReader(Shard):
    """Lines of text, plain or gzipped. Only LF and CRLF end a line; a byte-order mark is passed over.

    Attributes:
        sides: see `SourceSettings.line_sides`.
        longest_line: bytes; a longer one is a row with a problem, of which no more is held. -1 for no limit.
    """

    name: str
    path: Path
    text_column: str | None
    sides: str
    longest_line: int = -1
    is_streamable: ClassVar[bool] = True
    unit = "line"

    @property
    def where(self) -> str:
        """See `Shard`."""
        return str(self.path)

    def share_before(self, position: int) -> float:
        """See `Shard`."""
        return 0.0 if self.path.suffix == ".gz" else position / self.path.stat().st_size

    def fingerprint(self) -> str:
        """Size, first and last bytes: the file may be larger than one wants to read twice."""
        with self.path.open("rb") as file:
            size = file.seek(0, 2)
            digest = hashlib.sha256()
            for begin in (0, max(0, size - _ENDS)):
                file.seek(begin)
                digest.update(file.read(_ENDS))
        return f"{size} {digest.hexdigest()}"

    def note(self) -> str | None:
        """What the user should know of the file."""
        return None

    def _rows(self, position: int, line: int) -> Iterator[tuple[RawRow, int]]:
        row_of = self._row_of()
        for text, problem, number, after in self._lines(position, line):
            row = RawRow((), number, problem) if problem is not None else row_of(text, number)
            if row is not None:
                yield row, after

    def _row_of(self) -> Callable[[str, int], RawRow | None]:
        """(text of a line, its number) -> its row, None for a line without one."""
        return lambda text, number: row_of_line(text, number, self.sides)

    def _lines(self, position: int = 0, line: int = 0) -> Iterator[tuple[str, str | None, int, int]]:
        """(text without its line end, what is wrong with it, line number, offset after it)."""
        with gzip.open(self.path) if self.path.suffix == ".gz" else self.path.open("rb") as file:
            file.seek(position)
            while raw := file.readline(self.longest_line):
                line += 1
                position += len(raw)
                if len(raw) == self.longest_line and not raw.endswith(b"\n"):
                    position += _rest_of_line(file, self.longest_line)
                    yield "", f"longer than {MAX_ROW_CHARACTERS:,} characters", line, position
                else:
                    yield *_decoded(raw, line), line, position


class JsonReader(LineReader):
    """Objects of a jsonl file, one a line; a blank line is none. The columns are chosen by the first good ones."""

    def _row_of(self) -> Callable[[str, int], RawRow | None]:
        columns = self._columns()

        def row_of(text: str, number: int) -> RawRow | None:
            if not text.strip():
                return None
            record, problem = json_object(text)
            if problem is not None:
                return RawRow((), number, problem)
            return row_of_values([record.get(column) for column in columns], number, columns)

        return row_of

    def _columns(self) -> tuple[str, ...]:
        parsed = (json_object(text) for text, problem, *_ in self._lines() if problem is None)
        sample = list(islice((record for record, problem in parsed if problem is None), _SAMPLE))
        if not sample:
            return (self.text_column or "text",)
        return choose_columns(columns_of(sample), self.text_column, self.where, self.sides)


class TableReader(LineReader):
    """Records of a csv or tsv file; a tsv file without a named column is one of lines. Read from 0 alone."""

    is_streamable = False

    def note(self) -> str | None:
        """On the first line of a csv file with one column; None where there is no doubt about it."""
        if self.path.suffix != ".csv" or self.text_column is not None:
            return None
        cells = self._first_record()
        if len(cells) != 1 or cells[0].lower() in _USUAL_NAMES:
            return None
        if _is_phrase(cells[0]):
            return f"{self.path} has no column names: its first line is read as a phrase"
        return f"{self.path} has one column, named {cells[0]!r} by its first line, which is no row"

    def _rows(self, position: int, line: int) -> Iterator[tuple[RawRow, int]]:
        has_pair = self.sides == "pair" and set(PAIR) <= set(self._first_record())
        if self.path.suffix == ".tsv" and self.text_column is None and not has_pair:
            self._refuse_names()
            yield from super()._rows(position, line)
        else:
            yield from ((row, row.place) for row in self._table_rows())

    def _table_rows(self) -> Iterator[RawRow]:
        csv.field_size_limit(sys.maxsize)  # the library's own limit of 131,072 characters is a fault without a line
        lines = (text if problem is None else "\udcff" for text, problem, *_ in self._lines())
        reader = csv.reader((f"{line}\n" for line in lines), delimiter=self._delimiter, strict=True)
        _, header, problem = next(_records(reader))
        if problem is not None:
            raise InputError(f"data: {self.path} line 1: {problem}; repair the quoting of the column names")
        if len(header) == 1 and self.text_column is None and _is_phrase(header[0]):
            yield row_of_value(header[0], 1, "1")
            columns, indices = ("1",), [0]
        else:
            columns = self._columns(header)
            indices = [header.index(column) for column in columns]
        for place, record, problem in _records(reader):
            if problem is not None:
                yield RawRow((), place, problem)
            elif record:
                values = [record[index] if index < len(record) else None for index in indices]
                yield row_of_values(values, place, columns)

    def _columns(self, header: list[str]) -> tuple[str, ...]:
        is_clear = "text" in header or len(header) <= 1 or (self.sides == "pair" and set(PAIR) <= set(header))
        if self.text_column is None and not is_clear:
            raise InputError(
                f"data: {self.path} has {len(header)} columns; choose with --text_column among: {', '.join(header)}"
            )
        return choose_columns(dict.fromkeys(header, "text"), self.text_column, self.where, self.sides)

    @property
    def _delimiter(self) -> str:
        return "\t" if self.path.suffix == ".tsv" else ","

    def _first_record(self) -> list[str]:
        """The cells of the first line; none where it cannot be read as a table."""
        line = next((text for text, *_ in self._lines()), "")
        try:
            return next(csv.reader([line], delimiter=self._delimiter), [])
        except csv.Error:
            return []

    def _refuse_names(self) -> None:
        """Raise InputError where the first line of a tsv file looks like column names: which one holds the text?"""
        names = self._first_record()
        if len(names) > 1 and all(map(_COLUMN_NAME.fullmatch, names)) and _USUAL_NAMES & set(map(str.lower, names)):
            raise InputError(
                f"data: the first line of {self.path} looks like column names; choose with --text_column among: "
                f"{', '.join(names)} (if its lines are phrase, TAB, other side, name the file .txt)"
            )


class ParquetReader(LineReader):
    """Rows of a parquet file. Reading on begins with the row group that holds the row."""

    unit = "row"

    def share_before(self, position: int) -> float:
        """See `Shard`."""
        return position / max(1, pq.read_metadata(self.path).num_rows)

    def _rows(self, position: int, line: int) -> Iterator[tuple[RawRow, int]]:
        try:  # Read in pieces: by default whole column chunks would be held.
            file = pq.ParquetFile(self.path, buffer_size=1 << 20, pre_buffer=False)
        except (pa.ArrowException, OSError) as error:
            raise InputError(
                f"data: {self.path} is no whole parquet file ({first_line(error)}); write it again"
            ) from None
        with file:
            columns = choose_columns(arrow_kinds(file.schema_arrow), self.text_column, self.where, self.sides)
            groups, inside = _groups_from(file.metadata, position)
            batches = file.iter_batches(batch_size=_BATCH, row_groups=groups, columns=list(columns))
            for row in rows_of_arrow(from_row(batches, inside), columns, position):
                yield row, row.place


READERS: dict[str, type[LineReader]] = {
    ".txt": LineReader,
    ".tsv": TableReader,
    ".jsonl": JsonReader,
    ".csv": TableReader,
    ".parquet": ParquetReader,
    ".txt.gz": LineReader,
    ".jsonl.gz": JsonReader,
}
READABLE = tuple(suffix for suffix in READERS if not suffix.endswith(".gz"))  # as a whole
STREAMABLE = tuple(suffix for suffix, reader in READERS.items() if reader.is_streamable)


def open_file(path: Path, settings: SourceSettings, name: str = "", longest_line: int = -1) -> LineReader:
    """The reader of a file.

    Args:
        name: of the shard, see `Shard`.
        longest_line: see `LineReader`.

    Raises:
        InputError: the file is missing, empty, of another kind, or has no columns where one is asked for.
    """
    check_file(path, READERS)
    if settings.text_column is not None and path.name.endswith((".txt", ".txt.gz")):
        raise InputError(
            f"text_column: {settings.text_column!r} was asked for, but {path} is a text file, whose lines are the "
            "phrases; leave it out, or give a tsv, csv, jsonl or parquet file"
        )
    reader = next(reader for suffix, reader in READERS.items() if path.name.endswith(suffix))
    return reader(name or path.name, path, settings.text_column, settings.line_sides, longest_line)


def check_file(path: Path, kinds: Iterable[str] = READABLE) -> None:
    """Raise InputError unless this is a readable, non-empty file of a known kind."""
    if not path.name.endswith(tuple(kinds)):
        raise InputError(f"data: {path} is not a file of a known kind; use one of {', '.join(READABLE)}")
    try:
        if path.stat().st_size == 0:
            raise InputError(f"data: {path} is empty (0 bytes); give a file with one phrase per line")
        path.open("rb").close()
    except OSError as error:
        raise InputError(
            f"data: {path} cannot be read ({error.strerror}); check the path and its permissions"
        ) from None


def from_row(pieces: Iterable[Piece], position: int) -> Iterator[Piece]:
    """The pieces without their first `position` rows."""
    for piece in pieces:
        if position < len(piece):
            yield piece.slice(position)
        position = max(0, position - len(piece))


def first_line(error: Exception) -> str:
    """Of what a library says, for a message of one line."""
    return (str(error).splitlines() or [type(error).__name__])[0]


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


def _groups_from(metadata: pq.FileMetaData, position: int) -> tuple[list[int], int]:
    """The row groups from the one that holds row `position` on, and the rows of it that lie before."""
    for group in range(metadata.num_row_groups):
        rows = metadata.row_group(group).num_rows
        if position < rows:
            return list(range(group, metadata.num_row_groups)), position
        position -= rows
    return [], 0


def _decoded(raw: bytes, number: int) -> tuple[str, str | None]:
    """A line's text and, where it has none, why."""
    try:
        return (raw.removeprefix(_BOM) if number == 1 else raw).decode("utf-8").rstrip("\r\n"), None
    except UnicodeDecodeError:
        return "", "not valid UTF-8"


def _rest_of_line(file: BinaryIO, at_once: int) -> int:
    """Read over what is left of a line; returns its bytes."""
    passed = 0
    while raw := file.readline(at_once):
        passed += len(raw)
        if raw.endswith(b"\n"):
            break
    return passed
