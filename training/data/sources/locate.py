"""From the name of a source to checked rows: `load_rows(settings, "train")`.

`builtin:NAME` | a file | a folder with train.*, valid.*, test.* | `hub:ID[:CONFIG][:SPLIT]`. A part that the source
lacks is cut from its training rows by a hash of the row, so it is the same everywhere and disjoint from the rest.
"""

import glob
import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa

from training.common.errors import InputError
from training.data.settings import DataSettings, SourceSettings, asking_flag
from training.data.sources.builtin import BUILTINS, builtin_fingerprint, check_builtin, read_builtin
from training.data.sources.hub import HubAddress, saved_splits, whole_split
from training.data.sources.readers import READABLE, READERS, check_file, is_text, kind_of, open_file
from training.data.sources.rows import RawRow, RowReport, collect, row_ids, short_rows, side_of, text_hash
from training.data.sources.shards import find_shards, fingerprint_of, sample_rows

SPLITS = ("train", "valid", "test")
HELD_OUT_SHARE = 0.05
_FILES_TO_HOLD_OUT = 20  # from so many texts on, whole files are held out, else parts of each
_FILE_NAMES = {"train": ("train",), "valid": ("valid", "validation"), "test": ("test",)}


@dataclass(frozen=True)
class Rows:
    """Checked rows.

    Attributes:
        dataset: columns `text` (str) and `row_id` (int64; a function of the text, the same in any order and subset).
        report: what was kept, left out and rejected.
    """

    dataset: datasets.Dataset
    report: RowReport


@dataclass(frozen=True)
class SourceInfo:
    """What a model card says about the data."""

    name: str
    licence: str | None
    language: str | None
    hub_id: str | None


@dataclass(frozen=True)
class Part:
    """One stored part of a source: a file, a split of a Hub data set, a built-in text. `note` is for the user."""

    where: str
    read: Callable[[], Iterator[RawRow]]
    fingerprint: Callable[[], str]
    note: Callable[[], str | None] = lambda: None


@dataclass(frozen=True)
class Source:
    """A located source.

    Attributes:
        name: for the screen.
        parts: the stored parts under our names; "train" alone where nothing is held out by the source itself.
        is_whole: it is a single text without parts of its own, used whole for scoring and diagnosis.
        is_text: its rows are lines of texts, and no records: documents are files, or those of a built-in text.
    """

    name: str
    parts: dict[str, Part]
    is_whole: bool
    is_text: bool = False
    missing: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "missing", tuple(split for split in SPLITS if split not in self.parts))

    def part_of(self, split: str) -> Part:
        """The stored part that holds the rows of `split`."""
        return self.parts.get(split, self.parts["train"])

    def fingerprint(self, split: str) -> str:
        """Changes with the content that `split` is made from."""
        parts = self.parts.values() if split == "all" else [self.part_of(split)]
        content = "|".join(part.fingerprint() for part in parts)
        return hashlib.sha256(f"{content}|{self.missing}|{split}|{HELD_OUT_SHARE}".encode()).hexdigest()


@dataclass(frozen=True)
class OpenedSplit:
    """A split of a source, before it is read.

    Attributes:
        parts: the stored parts that hold its rows.
        report: without counts yet.
    """

    source: Source
    split: str
    parts: list[Part]
    report: RowReport

    @property
    def where(self) -> str:
        """For the screen."""
        return ", ".join(part.where for part in self.parts)

    @property
    def is_held_out_here(self) -> bool:
        """It is not stored apart, but cut from the training part."""
        return self.split in self.source.missing

    def is_cut(self, part: Part) -> bool:
        """Whether a part holds rows of other splits too."""
        return self.split != "all" and bool(self.source.missing) and part is self.source.parts["train"]


def open_split(settings: SourceSettings, split: str, unit: str, held_out: str) -> OpenedSplit:
    """A split of the source that the settings name.

    Args:
        split: "train", "valid", "test", or "all" for everything.
        unit: what `kept` of the report counts.
        held_out: what is held out where the source lacks a part, in words.

    Raises:
        InputError: settings out of range; the source or the split cannot be found.
    """
    settings.validate()
    if split not in (*SPLITS, "all"):
        raise InputError(f"split: got {split!r}; use one of {', '.join(SPLITS)}, all")
    source = locate(settings)
    parts = list(source.parts.values()) if split == "all" else [source.part_of(split)]
    notes = []
    if settings.streaming:
        notes.append(
            f"streaming: vocabulary, token counts and held-out {unit} are from about {settings.stream_sample:,} rows "
            "read beforehand, from the beginning of the shards"
        )
    if source.missing and split != "all":
        notes.append(
            f"{source.name} has no {' and no '.join(source.missing)} part: {HELD_OUT_SHARE:.0%} of its training "
            f"{held_out} are held out for each"
        )
    notes += filter(None, (part.note() for part in parts))
    return OpenedSplit(source, split, parts, RowReport(source.name, split, unit=unit, notes=notes))


def load_rows(settings: DataSettings, split: str, with_labels: bool = False) -> Rows:
    """The checked rows of one split: "train", "valid", "test", or "all" for every row of the source.

    Args:
        with_labels: with the column `label`: what stands in the settings' `label_column`, as JSON.

    Raises:
        InputError: the source cannot be found or read, has no text column, too many bad rows, or no row left.
    """
    unit = "documents, whole," if settings.data.startswith("builtin:") else "rows"
    opened = open_split(settings, split, "rows", f"{unit} chosen by hash")
    rows = (row for part in opened.parts for row in _rows_of(opened, part))
    labels: list[Any] | None = [] if with_labels else None
    phrases = collect(rows, settings, opened.report, opened.where, opened.is_held_out_here, labels)
    columns = {"text": pa.array(phrases, pa.string()), "row_id": pa.array(row_ids(phrases), pa.int64())}
    if labels is not None:
        columns["label"] = pa.array([json.dumps(label, default=str) for label in labels], pa.string())
    return Rows(datasets.Dataset(pa.table(columns)), opened.report)


def locate(settings: SourceSettings) -> Source:
    """The source that the settings name. Reads no rows. Raises InputError where there is none."""
    name = settings.data
    if settings.streaming:
        return _stream_source(settings)
    if name.startswith("hub:"):
        return _hub_source(settings)
    if name.startswith("builtin:"):
        builtin = name.removeprefix("builtin:")
        check_builtin(builtin)
        _refuse_split(settings, "a built-in text")
        if settings.asked_columns is not None:
            flag, column = asking_flag(settings.asked_columns)
            raise InputError(f"{flag}: {column!r} was asked for, but {name} has no columns")
        part = Part(name, lambda: read_builtin(builtin), lambda: builtin_fingerprint(builtin))
        return Source(name, {"train": part}, is_whole=False, is_text=True)
    path = Path(name).expanduser()
    try:
        is_folder, exists = path.is_dir(), path.exists()
    except OSError as error:
        raise InputError(f"data: {name[:80]} cannot be read ({error.strerror}); check the path") from None
    if is_folder:
        return _folder_source(path, settings)
    if not exists and glob.has_magic(name):
        return _files_source(name, glob_files(path), settings, any_kind=True)
    if not exists:
        raise InputError(
            f"data: {name} does not exist; give a file ({', '.join(READABLE)}), a folder with train.*, hub:ID, or one "
            f"of {', '.join(f'builtin:{builtin}' for builtin in BUILTINS)}"
        )
    check_file(path)
    _refuse_split(settings, "a single file")
    return Source(name, {"train": _file_part(path, settings)}, is_whole=True, is_text=_is_of_lines(path, settings))


def _is_of_lines(path: Path, settings: SourceSettings) -> bool:
    return is_text(path) or (kind_of(path) == ".tsv" and settings.asked_columns is None)


def scoring_split(settings: SourceSettings, split: str) -> str:
    """The split to score when a user names a source only to score on it: a single file is used whole."""
    return "all" if locate(settings).is_whole else split


def describe_source(settings: SourceSettings) -> SourceInfo:
    """Name, licence and language of the source, for cards; None where unknown. Reads no rows, asks no network."""
    if settings.data.startswith("builtin:"):
        name = settings.data.removeprefix("builtin:")
        check_builtin(name)
        builtin = BUILTINS[name]
        return SourceInfo(f"{settings.data}: {builtin.title}", builtin.licence, builtin.language, None)
    if settings.data.startswith("hub:"):
        address = HubAddress.parse(settings.data, settings.split)
        if address.shortcut is None:
            return SourceInfo(address.hub_id, None, None, address.hub_id)
        known = address.shortcut
        return SourceInfo(known.title, known.licence, known.language, known.hub_id)
    return SourceInfo(Path(settings.data).name, None, None, None)


def _rows_of(opened: OpenedSplit, part: Part) -> Iterator[RawRow]:
    is_cut = opened.is_cut(part)
    rows = (piece for row in part.read() for piece in short_rows(row)) if opened.source.is_whole else part.read()
    return (row for row in rows if not is_cut or belongs_to(row, opened.source, opened.split))


def belongs_to(row: RawRow, source: Source, split: str) -> bool:
    """Whether a row of the source's training part is one of `split`, where some of them are held out."""
    return side_of(row, source.missing, HELD_OUT_SHARE) == split


def _stream_source(settings: SourceSettings) -> Source:
    found = find_shards(settings)
    sample = settings.stream_sample  # of a stream, a part is a bounded number of its rows
    parts = {
        split: Part(
            f"{settings.data} [{split}]",
            partial(sample_rows, shards, sample),
            partial(fingerprint_of, shards),
            shards[0].note,
        )
        for split, shards in found.items()
    }
    return Source(settings.data, parts, is_whole=False)


def _folder_source(folder: Path, settings: SourceSettings) -> Source:
    saved = saved_splits(folder, settings)
    if saved is not None:
        parts = {split: Part(one.where, one.read, one.fingerprint, one.note) for split, one in saved.items()}
        return Source(str(folder), parts, is_whole=False)
    files = {split: path for split in SPLITS if (path := _file_of(folder, split)) is not None}
    if settings.split is not None:
        if settings.split not in files:
            raise InputError(f"split: {folder} has no {settings.split}.*; it has {', '.join(files) or 'none of them'}")
        files = {"train": files[settings.split]}
    if "train" not in files:
        return _files_source(str(folder), sorted(path for path in folder.rglob("*") if path.is_file()), settings)
    parts = {split: _file_part(path, settings) for split, path in files.items()}
    return Source(str(folder), parts, is_whole=False, is_text=all(_is_of_lines(p, settings) for p in files.values()))


def _files_source(name: str, files: list[Path], settings: SourceSettings, any_kind: bool = False) -> Source:
    """Several files as one part: texts, each a document, or tables of one kind.

    Args:
        any_kind: the user named the files by a pattern: those of unknown kinds are read as text.

    Raises:
        InputError: nothing readable among them, or texts and tables together.
    """
    _refuse_split(settings, "several files")
    files = [path for path in files if not path.name.startswith(".")]
    kinds = Counter(kind_of(path) or path.name for path in files)
    readable = [path for path in files if any_kind or path.name.endswith(tuple(READERS))]
    if not readable:
        found = ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common(5)) or "no files"
        raise InputError(
            f"data: {name} holds no train.* and nothing else that can be read ({found}); give {', '.join(READABLE)}, "
            "or a pattern that names other text files, such as 'src/**/*.py'"
        )
    texts = [path for path in readable if is_text(path)]
    tables = {kind_of(path) for path in readable if not is_text(path)}
    if (texts and tables) or len(tables) > 1:
        found = ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common(5))
        raise InputError(f"data: {name} holds files of several kinds ({found}); name one by a pattern: '{name}/*.txt'")
    extra = tuple({path.suffix for path in readable}) if any_kind else ()
    readers = [open_file(path, settings, extra=extra) for path in readable]

    def read() -> Iterator[RawRow]:
        names = [reader.where for reader in readers]
        groups = _groups_of(names) if texts and len(readers) >= _FILES_TO_HOLD_OUT else [None] * len(names)
        for reader, group in zip(readers, groups, strict=True):
            yield from (row._replace(where=reader.where, group=group) for row in reader.read())

    def fingerprint() -> str:
        return "|".join(f"{path.name} {file_hash(path)}" for path in readable)

    def note() -> str:
        left = len(files) - len(readable)
        said = f"{name}: {len(readable):,} files{f', {left:,} of other kinds left out' if left else ''}"
        columns = None if texts else readers[0].note()
        return said if columns is None else f"{said}; {columns}"

    return Source(name, {"train": Part(name, read, fingerprint, note)}, is_whole=True, is_text=bool(texts))


def _groups_of(names: list[str]) -> list[str]:
    """A group for each file, so that the split by hash holds out a twentieth of them, and at least one, for valid and
    for test: those whose names come first by their hash.
    """
    held_out = max(1, round(HELD_OUT_SHARE * len(names)))
    order = sorted(names, key=lambda name: text_hash(Path(name).name))
    sides = dict(zip(order, ["valid"] * held_out + ["test"] * held_out, strict=False))

    def group(name: str) -> str:
        tried = (f"{Path(name).name} {number}" for number in itertools.count())
        wanted = sides.get(name, "train")
        return next(g for g in tried if side_of(RawRow((), 0, group=g), SPLITS[1:], HELD_OUT_SHARE) == wanted)

    return [group(name) for name in names]


def glob_files(pattern: Path) -> list[Path]:
    """The files that a pattern names, in the order of their names. Raises InputError where there is none."""
    found = sorted(Path(match) for match in glob.glob(str(pattern), recursive=True) if Path(match).is_file())
    if not found:
        raise InputError(f"data: {pattern} names no file; check the pattern, and quote it: --data 'notes/*.txt'")
    return found


def _file_of(folder: Path, split: str) -> Path | None:
    found = [folder / f"{name}{kind}" for name in _FILE_NAMES[split] for kind in READERS]
    found = [path for path in found if path.exists()]
    if len(found) > 1:
        raise InputError(f"data: {folder} holds several {split} files ({', '.join(p.name for p in found)}); keep one")
    return found[0] if found else None


def _file_part(path: Path, settings: SourceSettings) -> Part:
    return Part(
        str(path),
        lambda: open_file(path, settings).read(),
        lambda: file_hash(path),
        lambda: open_file(path, settings).note(),
    )


def file_hash(path: Path) -> str:
    """Changes with a file's kind and content."""
    with path.open("rb") as file:
        return f"{path.suffix} {hashlib.file_digest(file, 'sha256').hexdigest()}"


def _hub_source(settings: SourceSettings) -> Source:
    address = HubAddress.parse(settings.data, settings.split)
    names = {"train": address.split} if address.split else address.split_names()
    splits = {split: whole_split(address, name, settings) for split, name in names.items()}
    parts = {
        split: Part(reader.where, reader.read, reader.fingerprint, reader.note) for split, reader in splits.items()
    }
    return Source(f"hub:{address.hub_id}", parts, is_whole=False)


def _refuse_split(settings: SourceSettings, what: str) -> None:
    if settings.split is not None:
        raise InputError(
            f"split: {settings.split!r} was asked for, but {settings.data} is {what} without named splits"
        )
