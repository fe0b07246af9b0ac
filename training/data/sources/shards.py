"""Shards: the files (or Hub shards) of a corpus that is read as training goes on, each from any place in it.

A shard gives its rows from a position on, and with every row the position after it: a byte offset in lines of text
and jsonl, a row number in parquet files and on the Hub. Reading on from there replays nothing of plain files, at most
one row group of a parquet file, and at most the one shard of compressed files and the Hub.
"""

import glob
import gzip
import hashlib
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Protocol, TypeVar

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub.errors import HfHubHTTPError

from training.common.errors import InputError
from training.data.settings import SourceSettings
from training.data.sources.hub import HubAddress, hub_columns, row_of_hub_value
from training.data.sources.readers import (
    MAX_ROW_CHARACTERS,
    arrow_kind,
    choose_column,
    columns_of,
    json_object,
    refuse_column_of_lines,
    row_of_line,
    row_of_value,
)
from training.data.sources.rows import RawRow

STREAMABLE = (".txt", ".jsonl", ".parquet", ".txt.gz", ".jsonl.gz")
_SPLIT_OF_NAME = re.compile(r"(train|valid|validation|test)([-_.].*)?")
_LONGEST_LINE = 4 * MAX_ROW_CHARACTERS + 1024  # bytes; of a longer one no more is held
_SAMPLE = 200
_BATCH = 1000
_ENDS = 65_536
_LEAST_OF_A_SHARD = 500
_BOM = b"\xef\xbb\xbf"
_BROKEN = (OSError, EOFError, zlib.error, pa.ArrowException, UnicodeDecodeError, RuntimeError, HfHubHTTPError)
Piece = TypeVar("Piece", pa.RecordBatch, pa.Table)


class Shard(Protocol):
    """One piece of a corpus.

    Attributes:
        name: the same wherever the corpus lies; goes into the rows' numbers.
        where: for the screen.
    """

    name: str
    where: str

    def rows(self, position: int = 0, line: int = 0) -> Iterator[tuple[RawRow, int]]:
        """(row, position after it) from a position on.

        Args:
            position: 0, or one that an earlier row came with.
            line: the `place` of that row, for counting on.

        Raises:
            InputError: it cannot be read (any more), or has no usable text column.
        """

    def share_before(self, position: int) -> float:
        """The share of the shard that lies before a position; 0 where that is not known."""

    def fingerprint(self) -> str:
        """Changes with the content, as far as a glance shows it."""


def find_shards(settings: SourceSettings) -> dict[str, list[Shard]]:
    """The shards of train, and of valid and test where the corpus has its own, each in the order of their names.

    Raises:
        InputError: there are none, one is empty or of a kind that cannot be streamed, or no split of that name.
    """
    name = settings.data
    if name.startswith("builtin:"):
        raise InputError(f"streaming: {name} is small and read whole; leave streaming out")
    found = _hub_shards(settings) if name.startswith("hub:") else _local_shards(settings)
    if settings.split is not None and not name.startswith("hub:"):
        if settings.split not in found:
            raise InputError(f"split: {name} has no {settings.split} shards; it has {', '.join(found)}")
        found = {"train": found[settings.split]}
    return found


def sample_rows(shards: list[Shard], limit: int) -> Iterator[RawRow]:
    """About `limit` rows: the first ones of shards that lie evenly between the first and the last."""
    per_shard = max(_LEAST_OF_A_SHARD, -(-limit // len(shards)))
    visited = min(len(shards), -(-limit // per_shard))
    for number in range(visited):
        shard = shards[number * len(shards) // visited]
        yield from (row for row, _ in islice(shard.rows(), per_shard))


def fingerprint_of(shards: list[Shard]) -> str:
    """Changes with the shards' names and content."""
    content = "|".join(f"{shard.name} {shard.fingerprint()}" for shard in shards)
    return f"stream {hashlib.sha256(content.encode('utf-8', 'surrogatepass')).hexdigest()}"


@dataclass(frozen=True)
class LineShard:
    """Lines of text or jsonl, plain or gzipped. Positions are byte offsets (of the unpacked text)."""

    name: str
    path: Path
    text_column: str | None
    sides: str

    @property
    def where(self) -> str:
        """See `Shard`."""
        return str(self.path)

    def rows(self, position: int = 0, line: int = 0) -> Iterator[tuple[RawRow, int]]:
        """See `Shard`."""
        to_row = self._row_of_json(self._column()) if ".jsonl" in self.path.suffixes else self._row_of_text
        for text, problem, number, after in self._lines(position, line):
            row = to_row(text, number) if problem is None else RawRow((), number, problem)
            yield row._replace(where=self.where), after

    def share_before(self, position: int) -> float:
        """See `Shard`."""
        return 0.0 if self.path.suffix == ".gz" else position / self.path.stat().st_size

    def fingerprint(self) -> str:
        """Size, first and last bytes."""
        return _ends_of(self.path)

    def _row_of_text(self, text: str | None, number: int) -> RawRow:
        return row_of_line(text, number, self.sides)

    def _row_of_json(self, column: str) -> Callable[[str | None, int], RawRow]:
        def to_row(text: str | None, number: int) -> RawRow:
            if text is not None and not text.strip():
                return RawRow((), number)
            record, problem = json_object(text)
            return RawRow((), number, problem) if problem else row_of_value(record.get(column), number, column)

        return to_row

    def _column(self) -> str:
        """By the first lines, as for a file that is read whole."""
        lines = islice(self._lines(0, 0), _SAMPLE)
        parsed = [json_object(text) for text, problem, _, _ in lines if problem is None and text != ""]
        sample = [record for record, problem in parsed if problem is None]
        if not sample:
            return self.text_column or "text"
        return choose_column(columns_of(sample), self.text_column, self.where)

    def _lines(self, position: int, line: int) -> Iterator[tuple[str | None, str | None, int, int]]:
        """(text or None where it is not UTF-8, problem with its length, line number, offset after it)."""
        number, broken = line, _BROKEN
        try:
            with gzip.open(self.path) if self.path.suffix == ".gz" else self.path.open("rb") as file:
                file.seek(position)
                while raw := file.readline(_LONGEST_LINE):
                    number += 1
                    position += len(raw)
                    if len(raw) == _LONGEST_LINE and not raw.endswith(b"\n"):
                        position += _rest_of_line(file)
                        yield "", f"longer than {MAX_ROW_CHARACTERS:,} characters", number, position
                    else:
                        yield _decoded(raw, number), None, number, position
        except broken as error:
            raise InputError(
                f"data: {self.where} after line {number:,}: {_first_line(error)}; check the file, or write it again"
            ) from None


@dataclass(frozen=True)
class ParquetShard:
    """Rows of a parquet file. Positions are row numbers; reading on begins with the row group that holds the row."""

    name: str
    path: Path
    text_column: str | None

    @property
    def where(self) -> str:
        """See `Shard`."""
        return str(self.path)

    def rows(self, position: int = 0, line: int = 0) -> Iterator[tuple[RawRow, int]]:
        """See `Shard`."""
        broken = _BROKEN  # a generator may be closed when the module is gone
        try:
            # Read in pieces: by default whole column chunks would be held.
            with pq.ParquetFile(self.path, buffer_size=1 << 20, pre_buffer=False) as file:
                names = file.schema_arrow.names
                columns = {name: arrow_kind(file.schema_arrow.field(name).type) for name in names}
                column = choose_column(columns, self.text_column, self.where)
                groups, inside = _groups_from(file.metadata, position)
                batches = file.iter_batches(batch_size=_BATCH, row_groups=groups, columns=[column])
                place = position
                for batch in _from_row(batches, inside):
                    for value in batch.column(0).to_pylist():
                        place += 1
                        yield row_of_value(value, place, column)._replace(where=self.where), place
        except broken as error:
            raise InputError(
                f"data: {self.where} is no whole parquet file ({_first_line(error)}); write it again"
            ) from None

    def share_before(self, position: int) -> float:
        """See `Shard`."""
        return position / max(1, pq.read_metadata(self.path).num_rows)

    def fingerprint(self) -> str:
        """Size, first and last bytes; the last hold the file's own table of contents."""
        return _ends_of(self.path)


@dataclass(frozen=True)
class HubShard:
    """One shard of a split of a Hub data set, streamed by `datasets`. Positions are row numbers in it."""

    name: str
    address: HubAddress
    stream: datasets.IterableDataset
    version: str
    index: int
    text_column: str | None

    @property
    def where(self) -> str:
        """See `Shard`."""
        return f"hub:{self.address.hub_id} {self.name}"

    def rows(self, position: int = 0, line: int = 0) -> Iterator[tuple[RawRow, int]]:
        """See `Shard`."""
        shard = self.stream.shard(self.stream.num_shards, self.index).with_format("arrow")
        place, broken = position, _BROKEN
        try:
            for table in _from_row(shard.iter(_BATCH), position):
                column, group = hub_columns(table.schema, self.address, self.text_column)
                keys = table.column(group).to_pylist() if group else [None] * len(table)
                for value, key in zip(table.column(column).to_pylist(), keys, strict=True):
                    place += 1
                    row = row_of_hub_value(value, key, place, column, self.address)
                    yield row._replace(where=self.where), place
        except broken as error:
            raise InputError(
                f"data: {self.where} after row {place:,}: {_first_line(error)}; check the network and the data set, "
                "and run the same command again"
            ) from None

    def share_before(self, position: int) -> float:
        """See `Shard`."""
        return 0.0

    def fingerprint(self) -> str:
        """The files' versions, as `datasets` knows them."""
        return self.version


def _local_shards(settings: SourceSettings) -> dict[str, list[Shard]]:
    path = Path(settings.data).expanduser()
    if path.is_dir():
        return _folder_shards(path, settings)
    if path.is_file():
        return {"train": [_file_shard(path, path.name, settings)]}
    found = sorted(Path(match) for match in glob.glob(str(path), recursive=True) if Path(match).is_file())
    if not found:
        raise InputError(
            f"data: {settings.data} is no file, folder or pattern with files; streaming reads "
            f"{', '.join(STREAMABLE)} or hub:ID"
        )
    return {"train": [_file_shard(file, str(file.relative_to(_root_of(path))), settings) for file in found]}


def _folder_shards(folder: Path, settings: SourceSettings) -> dict[str, list[Shard]]:
    """By the beginning of the names, `train-00001.jsonl`; without one such name, all files are training shards."""
    found: dict[str, list[Shard]] = {}
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name.endswith(STREAMABLE))
    for path in files:
        named = _SPLIT_OF_NAME.fullmatch(path.name)
        if named:
            split = named[1].replace("validation", "valid")
            found.setdefault(split, []).append(_file_shard(path, path.name, settings))
    if not found:
        found = {"train": [_file_shard(path, path.name, settings) for path in files]}
    if not found.get("train"):
        raise InputError(
            f"data: the folder {folder} holds no train-*; streaming reads files named train-*, and valid-* and test-* "
            f"if there are such ({', '.join(STREAMABLE)})"
        )
    return found


def _file_shard(path: Path, name: str, settings: SourceSettings) -> Shard:
    if not path.name.endswith(STREAMABLE):
        raise InputError(f"data: {path} cannot be streamed; use {', '.join(STREAMABLE)}, or leave streaming out")
    try:
        if path.stat().st_size == 0:
            raise InputError(f"data: {path} is empty (0 bytes); remove it, or write it again")
        path.open("rb").close()
    except OSError as error:
        raise InputError(f"data: {path} cannot be read ({error.strerror}); check its permissions") from None
    if path.suffix == ".parquet":
        return ParquetShard(name, path, settings.text_column)
    refuse_column_of_lines(path, settings.text_column)
    return LineShard(name, path, settings.text_column, settings.line_sides)


def _hub_shards(settings: SourceSettings) -> dict[str, list[Shard]]:
    address = HubAddress.parse(settings.data, settings.split)
    names = {"train": address.split} if address.split else address.split_names()
    found: dict[str, list[Shard]] = {}
    for split, name in names.items():
        stream, version = address.stream(name)
        found[split] = [
            HubShard(f"{name} shard {index}", address, stream, version, index, settings.text_column)
            for index in range(stream.num_shards)
        ]
    return found


def _root_of(pattern: Path) -> Path:
    """The folder above the first part with a wildcard."""
    parts = list(pattern.parts)
    first = next(number for number, part in enumerate(parts) if glob.has_magic(part))
    return Path(*parts[:first])


def _groups_from(metadata: pq.FileMetaData, position: int) -> tuple[list[int], int]:
    """The row groups from the one that holds row `position` on, and the rows of it that lie before."""
    for group in range(metadata.num_row_groups):
        rows = metadata.row_group(group).num_rows
        if position < rows:
            return list(range(group, metadata.num_row_groups)), position
        position -= rows
    return [], 0


def _from_row(pieces: Iterable[Piece], position: int) -> Iterator[Piece]:
    """The pieces without their first `position` rows."""
    for piece in pieces:
        if position < len(piece):
            yield piece.slice(position)
        position = max(0, position - len(piece))


def _ends_of(path: Path) -> str:
    """Not the whole file: it may be larger than one wants to read twice."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        digest = hashlib.sha256()
        for begin in (0, max(0, size - _ENDS)):
            file.seek(begin)
            digest.update(file.read(_ENDS))
    return f"{size} {digest.hexdigest()}"


def _decoded(raw: bytes, number: int) -> str | None:
    raw = raw.removeprefix(_BOM) if number == 1 else raw
    try:
        return raw.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError:
        return None


def _rest_of_line(file: BinaryIO) -> int:
    """Read over what is left of a line; returns its bytes."""
    passed = 0
    while raw := file.readline(_LONGEST_LINE):
        passed += len(raw)
        if raw.endswith(b"\n"):
            break
    return passed


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
