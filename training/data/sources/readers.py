"""Files read line by line or row by row, so that every fault has a file and a line: one reader for each kind.

A reader is a shard. It gives its rows from a position on, and with every row the position after it: a byte offset in
lines of text and jsonl, a row number elsewhere. A whole file is a shard read from 0. Reading on replays nothing of
plain files, at most one row group of a parquet file, and at most the one shard of compressed files and the Hub.

Another kind of file is another class and another entry of `READERS`.
"""

import bz2
import csv
import gzip
import hashlib
import io
import json
import re
import sys
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from textwrap import shorten
from typing import Any, BinaryIO, ClassVar, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub.errors import HfHubHTTPError

from training.common.errors import InputError
from training.data.settings import Asked, SourceSettings, asking_flag
from training.data.sources.columns import (
    CHATML,
    PAIR,
    arrow_kinds,
    choose_columns,
    columns_of,
    flat,
    flat_table,
    json_object,
    row_of_line,
    row_of_value,
    row_of_values,
    rows_of_arrow,
    turns_of,
)
from training.data.sources.rows import NOT_UTF8, REMEDIES, TOO_LONG, RawRow

_BROKEN = (OSError, EOFError, zlib.error, pa.ArrowException, UnicodeDecodeError, RuntimeError, HfHubHTTPError)
_BOM = b"\xef\xbb\xbf"
LONGEST_LINE = 64 * 2**20  # bytes; of records that hold more than their text
_SAMPLE = 200
_BATCH = 1000
_ENDS = 65_536
_SNIFFED = 30
_COLUMN_NAME = re.compile(r"[A-Za-z_][\w.-]*")
# One of these among the words of a first line makes it one of column names.
_USUAL_NAMES = frozenset(
    "text texts label labels sentence sentence1 sentence2 id idx index title body content document review comment "
    "question answer prompt reply response utterance category class target source score".split()
)

_MARK_OF = {NOT_UTF8: "\udcff", TOO_LONG: "\udcfe"}

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

    def columns(self) -> tuple[tuple[str, ...], list[str]]:
        """The columns that are read, and all that there are; none of a text file."""
        return (), []

    def note(self) -> str | None:
        """What the user should know of it, such as which columns are read; None also where it cannot be read."""
        try:
            return self._note()
        except _BROKEN:  # who reads it says where
            return None

    def _note(self) -> str | None:
        columns, others = self.columns()
        if not columns or len(others) <= len(columns):
            return None
        read = " and ".join(map(repr, columns))
        return f"{self.name}: reads the column{'s' * (len(columns) > 1)} {read} of {', '.join(others)}"


@dataclass(frozen=True)
class LineReader(Shard):
    """Lines of text, plain or compressed. Only LF and CRLF end a line; a byte-order mark is passed over.

    Attributes:
        sides: see `SourceSettings.line_sides`.
        longest_line: bytes; a longer one is a row with a problem, of which no more is held.
    """

    name: str
    path: Path
    text_column: Asked
    sides: str
    longest_line: int = LONGEST_LINE
    is_streamable: ClassVar[bool] = True
    unit = "line"

    @property
    def where(self) -> str:
        """See `Shard`."""
        return str(self.path)

    def share_before(self, position: int) -> float:
        """See `Shard`."""
        return 0.0 if self.path.suffix in COMPRESSED else position / self.path.stat().st_size

    def fingerprint(self) -> str:
        """Size, first and last bytes: the file may be larger than one wants to read twice."""
        with self.path.open("rb") as file:
            size = file.seek(0, 2)
            digest = hashlib.sha256()
            for begin in (0, max(0, size - _ENDS)):
                file.seek(begin)
                digest.update(file.read(_ENDS))
        return f"{size} {digest.hexdigest()}"

    def _rows(self, position: int, line: int) -> Iterator[tuple[RawRow, int]]:
        if self.sides == "pair" and next(self._lines(), ("",))[0].startswith(CHATML):
            yield from self._chatml()
            return
        row_of = self._row_of()
        for text, problem, number, after in self._lines(position, line):
            row = RawRow((), number, problem) if problem is not None else row_of(text, number)
            if row is not None:
                yield row, after

    def _chatml(self) -> Iterator[tuple[RawRow, int]]:
        """Dialogues in ChatML: one begins with a system message, or after a blank line behind the end of a turn."""
        lines: list[str] = []
        first = 1
        for text, problem, number, after in self._lines():
            if problem is not None:
                yield RawRow((), number, problem), after
                continue
            is_gap = not text.strip() and bool(lines) and lines[-1].rstrip().endswith("<|im_end|>")
            if lines and (is_gap or text.startswith(f"{CHATML}system")):
                yield RawRow(("\n".join(lines),), first), after
                lines, first = [], number
            lines += [text] if lines or text.strip() else []
        if lines:
            yield RawRow(("\n".join(lines),), first), number

    def _row_of(self) -> Callable[[str, int], RawRow | None]:
        """(text of a line, its number) -> its row, None for a line without one."""
        return lambda text, number: row_of_line(text, number, self.sides)

    def _lines(self, position: int = 0, line: int = 0) -> Iterator[tuple[str, str | None, int, int]]:
        """(text without its line end, what is wrong with it, line number, offset after it)."""
        with open_bytes(self.path) as file:
            if self.path.suffix in COMPRESSED:
                _read_over(file, position)
            else:
                file.seek(position)
            while raw := file.readline(self.longest_line):
                line += 1
                position += len(raw)
                if len(raw) == self.longest_line and not raw.endswith(b"\n"):
                    position += _rest_of_line(file, self.longest_line)
                    yield "", TOO_LONG, line, position
                else:
                    yield *_decoded(raw, line), line, position


class JsonReader(LineReader):
    """Objects of a jsonl file, one a line; a blank line is none. The columns are chosen by the first good ones."""

    def _row_of(self) -> Callable[[str, int], RawRow | None]:
        columns, _ = self.columns()

        def row_of(text: str, number: int) -> RawRow | None:
            if not text.strip():
                return None
            record, problem = json_object(text)
            if problem is not None:
                return RawRow((), number, problem)
            record = {**flat(record), **record}  # an object in the place of a text is named, not missing
            return row_of_values([record.get(column) for column in columns], number, columns)

        return row_of

    def columns(self) -> tuple[tuple[str, ...], list[str]]:
        """See `Shard`."""
        parsed = (json_object(text) for text, problem, *_ in self._lines() if problem is None and text.strip())
        sample = [flat(record) for record in islice((rec for rec, problem in parsed if problem is None), _SAMPLE)]
        if not sample:
            asked = self.text_column or "text"
            return (asked if isinstance(asked, tuple) else (asked,)), []
        kinds = columns_of(sample)
        return choose_columns(kinds, self.text_column, self.where, self.sides, sample[0]), list(kinds)


class JsonFileReader(JsonReader):
    """A json file: an array of objects, an object that holds one (where dialogues are read, no array of turns), or
    objects one a line. Read whole.
    """

    is_streamable = False

    def _lines(self, position: int = 0, line: int = 0) -> Iterator[tuple[str, str | None, int, int]]:
        """Each object as a line; the line number is its place."""
        with open_bytes(self.path) as file:
            raw = file.read()
        try:
            found = json.loads(raw.decode("utf-8-sig"))
        except (ValueError, RecursionError):
            yield from super()._lines(position, line)
            return
        if isinstance(found, dict):
            arrays = [
                value for value in found.values() if isinstance(value, list) and value and isinstance(value[0], dict)
            ]
            found = arrays[0] if len(arrays) == 1 and not (self.sides == "pair" and turns_of(arrays[0])) else [found]
        for number, record in enumerate(found if isinstance(found, list) else [found], start=1):
            yield json.dumps(record, ensure_ascii=False), None, number, number


class TableReader(LineReader):
    """Records of a csv or tsv file; a tsv file without a named column is one of lines. Read from 0 alone."""

    is_streamable = False

    def _note(self) -> str | None:
        """On the separator, the columns, and the first line of a csv file with one column."""
        if self._kind != ".csv":
            return None
        cells = self._first_record()
        if len(cells) > 1:
            said = super()._note() or f"{self.name}: a table"
            return said if self._delimiter == "," else f"{said} (separated by {self._delimiter!r}, which was sniffed)"
        if self.text_column is not None:
            return None
        if len(cells) != 1 or cells[0].lower() in _USUAL_NAMES:
            return None
        if _is_phrase(cells[0]):
            return f"{self.name} has no column names: its first line is read as a phrase"
        return f"{self.name} has one column, named {cells[0]!r} by its first line, which is no row"

    def _rows(self, position: int, line: int) -> Iterator[tuple[RawRow, int]]:
        has_pair = self.sides == "pair" and set(PAIR) <= set(self._first_record())
        if self._kind == ".tsv" and self.text_column is None and not has_pair:
            self._refuse_names()
            yield from super()._rows(position, line)
        else:
            yield from ((row, row.place) for row in self._table_rows())

    def _table_rows(self) -> Iterator[RawRow]:
        csv.field_size_limit(sys.maxsize)  # the library's own limit of 131,072 characters is a fault without a line
        # The csv library reads on over a line that cannot be used, of which a mark is left.
        lines = (text if problem is None else _MARK_OF[problem] for text, problem, *_ in self._lines())
        reader = csv.reader((f"{line}\n" for line in lines), delimiter=self._delimiter, strict=True)
        _, header, problem = next(_records(reader))
        self._refuse_first_line()
        if problem is not None:
            raise InputError(f"data: {self.path} line 1: {problem}; repair the quoting of the column names")
        if len(header) == 1 and self.text_column is None and _is_phrase(header[0]):
            yield row_of_value(header[0], 1, "1")
            columns, indices = ("1",), [0]
        else:
            columns = self._columns(header, self._sample(header))
            indices = [header.index(column) for column in columns]
        for place, record, problem in _records(reader):
            problem = problem or next((said for said, mark in _MARK_OF.items() if mark in record), None)
            if problem is not None:
                yield RawRow((), place, problem)
            elif record:
                values = [record[index] if index < len(record) else None for index in indices]
                yield row_of_values(values, place, columns)

    def columns(self) -> tuple[tuple[str, ...], list[str]]:
        """See `Shard`."""
        header = self._first_record()
        return self._columns(header, self._sample(header)), header

    def _columns(self, header: list[str], sample: dict[str, str]) -> tuple[str, ...]:
        is_clear = "text" in header or len(header) <= 1
        if self.text_column is None and not is_clear and self.sides != "pair":
            listed = ", ".join(f"{name} ({shorten(sample.get(name, ''), 40, placeholder='...')!r})" for name in header)
            raise InputError(f"data: {self.path} has {len(header)} columns; choose with --text_column among: {listed}")
        return choose_columns(dict.fromkeys(header, "text"), self.text_column, self.where, self.sides, sample)

    def _sample(self, header: list[str]) -> dict[str, str]:
        """A row below the names."""
        lines = islice((text for text, problem, *_ in self._lines() if problem is None), 1, 2)
        try:
            return dict(zip(header, next(csv.reader(lines, delimiter=self._delimiter), []), strict=False))
        except csv.Error:
            return {}

    @property
    def _kind(self) -> str:
        return self.path.with_suffix("").suffix if self.path.suffix in COMPRESSED else self.path.suffix

    @cached_property
    def _delimiter(self) -> str:
        """A TAB of tsv files. Of csv files the one that cuts the first records into as many cells each; a comma where
        there is none such.
        """
        if self._kind == ".tsv":
            return "\t"
        lines = [f"{text}\n" for text, problem, *_ in islice(self._lines(), _SNIFFED) if problem is None]
        return next((mark for mark in ",;\t|" if _cuts_evenly(lines, mark)), ",")

    def _first_record(self) -> list[str]:
        """The cells of the first line; none where it cannot be read as a table."""
        line = self._refuse_first_line()
        try:
            return next(csv.reader([line], delimiter=self._delimiter), [])
        except csv.Error:
            return []

    def _refuse_first_line(self) -> str:
        """The first line. Raises InputError where it cannot be used, so that no column has a name."""
        line, problem, *_ = next(self._lines(), ("", None))
        if problem is not None:
            said = f"{self.path} line 1, which names the columns, is {problem}"
            raise InputError(f"data: {said}; {REMEDIES.get(problem, self.remedy)}")
        return line

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

    def columns(self) -> tuple[tuple[str, ...], list[str]]:
        """See `Shard`."""
        with self._open() as file:
            return self._chosen(file.schema_arrow, next(file.iter_batches(1), None))

    def _open(self) -> Any:
        try:  # Read in pieces: by default whole column chunks would be held.
            return pq.ParquetFile(self.path, buffer_size=1 << 20, pre_buffer=False)
        except (pa.ArrowException, OSError) as error:
            raise InputError(
                f"data: {self.path} is no whole parquet file ({first_line(error)}); write it again"
            ) from None

    def _chosen(self, schema: pa.Schema, first: pa.RecordBatch | None) -> tuple[tuple[str, ...], list[str]]:
        kinds = arrow_kinds(schema)
        sample = None if first is None or not len(first) else flat_table(first).to_pylist()[0]
        return choose_columns(kinds, self.text_column, self.where, self.sides, sample), list(kinds)

    def _rows(self, position: int, line: int) -> Iterator[tuple[RawRow, int]]:
        with self._open() as file:
            columns, _ = self._chosen(file.schema_arrow, next(file.iter_batches(1), None))
            groups, inside = _groups_from(file.metadata, position)
            batches = file.iter_batches(batch_size=_BATCH, row_groups=groups, columns=list(columns))
            for row in rows_of_arrow(from_row(batches, inside), columns, position):
                yield row, row.place


class ArrowReader(ParquetReader):
    """Record batches of an Arrow file or stream, such as `datasets` writes. Read from 0 alone."""

    is_streamable = False

    def columns(self) -> tuple[tuple[str, ...], list[str]]:
        """See `Shard`."""
        with self._open() as reader:
            return self._chosen(reader.schema, None)

    def _rows(self, position: int, line: int) -> Iterator[tuple[RawRow, int]]:
        with self._open() as reader:
            columns, _ = self._chosen(reader.schema, None)
            is_file = isinstance(reader, pa.ipc.RecordBatchFileReader)
            batches = map(reader.get_batch, range(reader.num_record_batches)) if is_file else reader
            for row in rows_of_arrow(from_row(batches, position), columns, position):
                yield row, row.place

    def _open(self) -> Any:
        try:
            return pa.ipc.open_file(self.path)
        except pa.ArrowInvalid:
            try:
                return pa.ipc.open_stream(self.path)
            except pa.ArrowException as error:
                raise InputError(f"data: {self.path} is no whole Arrow file ({first_line(error)})") from None


COMPRESSED = (".gz", ".bz2", ".zst")
TEXTS = (".txt", ".md", ".markdown", ".rst", ".text")  # of which a file is a document
_OF_LINES: dict[str, type[LineReader]] = {
    **dict.fromkeys(TEXTS, LineReader),
    ".tsv": TableReader,
    ".jsonl": JsonReader,
    ".csv": TableReader,
    ".json": JsonFileReader,
}
READERS: dict[str, type[LineReader]] = {
    **{f"{suffix}{packed}": reader for suffix, reader in _OF_LINES.items() for packed in ("", *COMPRESSED)},
    ".parquet": ParquetReader,
    ".arrow": ArrowReader,
    ".feather": ArrowReader,
}
READABLE = (*_OF_LINES, ".parquet", ".arrow", ".feather")  # as a whole, those of lines compressed too
STREAMABLE = tuple(suffix for suffix, reader in READERS.items() if reader.is_streamable)


def is_text(path: Path) -> bool:
    """Whether the lines of a file are its rows, and no records with names."""
    return kind_of(path) in TEXTS or not path.name.endswith(tuple(READERS))


def kind_of(path: Path) -> str:
    """The suffix, without that of its compression."""
    return (path.with_suffix("") if path.suffix in COMPRESSED else path).suffix


def open_bytes(path: Path) -> BinaryIO:
    """A file's bytes, unpacked where they are compressed."""
    openers: dict[str, Callable[[Path], Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".zst": _open_zst}
    return openers.get(path.suffix, lambda plain: plain.open("rb"))(path)


def open_file(
    path: Path, settings: SourceSettings, name: str = "", longest_line: int = LONGEST_LINE, extra: tuple[str, ...] = ()
) -> LineReader:
    """The reader of a file.

    Args:
        name: of the shard, see `Shard`.
        longest_line: see `LineReader`.
        extra: suffixes of other files whose lines are read as text.

    Raises:
        InputError: the file is missing, empty, of another kind, or has no columns where one is asked for.
    """
    check_file(path, (*READERS, *extra))
    asked = settings.asked_columns
    if asked is not None and is_text(path):
        flag, name = asking_flag(asked)
        raise InputError(
            f"{flag}: {name!r} was asked for, but {path} is a text file, whose lines are the phrases; leave it out, "
            "or give a tsv, csv, json, jsonl, parquet or arrow file"
        )
    reader = next((reader for suffix, reader in READERS.items() if path.name.endswith(suffix)), LineReader)
    return reader(name or path.name, path, asked, settings.line_sides, longest_line)


def check_file(path: Path, kinds: Iterable[str] = tuple(READERS)) -> None:
    """Raise InputError unless this is a readable, non-empty file of a known kind."""
    if not path.name.endswith(tuple(kinds)):
        raise InputError(f"data: {path} is not a file of a known kind; use one of {', '.join(READABLE)}")
    try:
        if path.stat().st_size == 0:
            raise InputError(f"data: {path} is empty (0 bytes); give a file with one phrase per line")
        with path.open("rb") as file:
            begin = file.read(2)
        if begin in (b"\xff\xfe", b"\xfe\xff") and is_text(path) | (kind_of(path) in _OF_LINES):
            raise InputError(f"data: {path} is UTF-16; convert it: iconv -f UTF-16 -t UTF-8 {path} > new{path.suffix}")
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


def _cuts_evenly(lines: list[str], mark: str) -> bool:
    """Whether a separator cuts all records but the last, which may be cut off, into the same number of cells."""
    try:
        records = [record for record in csv.reader(lines, delimiter=mark) if record]
    except csv.Error:
        return False
    widths = {len(record) for record in (records[:-1] if len(records) > 2 else records)}
    return len(widths) == 1 and widths != {1}


def _open_zst(path: Path) -> Any:
    if not pa.Codec.is_available("zstd"):
        raise InputError(f"data: {path} needs a pyarrow with zstd, which is not here; unpack it: zstd -d {path}")
    return io.BufferedReader(pa.CompressedInputStream(pa.OSFile(str(path)), "zstd"))


def _read_over(file: BinaryIO, count: int) -> None:
    while count > 0:
        count -= len(file.read(min(count, 1 << 20))) or count


def _decoded(raw: bytes, number: int) -> tuple[str, str | None]:
    """A line's text and, where it has none, why."""
    try:
        return (raw.removeprefix(_BOM) if number == 1 else raw).decode("utf-8").rstrip("\r\n"), None
    except UnicodeDecodeError:
        return "", NOT_UTF8


def _rest_of_line(file: BinaryIO, at_once: int) -> int:
    """Read over what is left of a line; returns its bytes."""
    passed = 0
    while raw := file.readline(at_once):
        passed += len(raw)
        if raw.endswith(b"\n"):
            break
    return passed
