"""Data sets of the Hub, through `datasets`: found, checked, and turned into rows."""

import http.client
import logging
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import datasets
import pyarrow as pa
from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

from training.common.errors import InputError
from training.data.settings import Asked, SourceSettings
from training.data.sources.columns import arrow_kinds, choose_column, choose_columns, rows_of_arrow
from training.data.sources.film_lines import Line, joined_lines
from training.data.sources.readers import Shard, first_line, from_row
from training.data.sources.rows import RawRow
from training.data.sources.shortcuts import SHORTCUTS, Shortcut, persona_chat_turns

_VALID_NAMES = ("valid", "validation", "val", "dev")
_BATCH = 1000
_PATIENCE = 10  # seconds


@dataclass(frozen=True)
class HubAddress:
    """`hub:ID[:CONFIG][:SPLIT]`, with a shortcut's entries filled in."""

    hub_id: str
    config: str | None
    split: str | None
    shortcut: Shortcut | None

    @classmethod
    def parse(cls, source: str, split: str | None) -> "HubAddress":
        """Raise InputError where the address is malformed."""
        identity, config, own_split = ([part or None for part in source.removeprefix("hub:").split(":")] + [None] * 2)[
            :3
        ]
        if identity is None or source.count(":") > 3:
            raise InputError(f"data: {source} is no address; use hub:ID, hub:ID:CONFIG or hub:ID:CONFIG:SPLIT")
        shortcut = SHORTCUTS.get(identity)
        if shortcut is None and "/" not in identity:
            raise InputError(
                f"data: hub:{identity} is no shortcut; use one of {', '.join(SHORTCUTS)} or a full id such as "
                "hub:owner/name"
            )
        if shortcut is None:
            return cls(identity, config, split or own_split, None)
        return cls(shortcut.hub_id, config or shortcut.config, split or own_split, shortcut)

    def load(self, name: str) -> datasets.Dataset:
        """One split of the repository. Raises InputError where it cannot be had."""
        with self._asking():
            return datasets.load_dataset(self.hub_id, self.config, split=name, revision=self._revision)

    def stream(self, name: str) -> tuple[datasets.IterableDataset, str]:
        """One split, read as it is asked for, and its files' version. Raises InputError where it cannot be had."""
        with self._asking():
            builder = datasets.load_dataset_builder(self.hub_id, self.config, revision=self._revision)
            return builder.as_streaming_dataset(split=name), str(builder.hash)

    def split_names(self) -> dict[str, str]:
        """train, valid, test -> the repository's split, as far as there are such."""
        if self.shortcut is not None:
            return self.shortcut.splits
        with self._asking():
            names = datasets.get_dataset_split_names(self.hub_id, self.config)
        found = {"train": "train"} if "train" in names else {}
        found |= (
            {"valid": next(name for name in _VALID_NAMES if name in names)} if set(_VALID_NAMES) & set(names) else {}
        )
        found |= {"test": "test"} if "test" in names else {}
        if "train" not in found:
            raise InputError(
                f"split: hub:{self.hub_id} has no split `train`; choose with --split among {', '.join(names)}"
            )
        return found

    @property
    def _revision(self) -> str | None:
        return self.shortcut.revision if self.shortcut else None

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """What the libraries raise within is one InputError, without their words on every retry before it."""
        if not Path(self.hub_id).exists() and not constants.HF_HUB_OFFLINE:
            self._refuse_unreachable()
        loggers = [logging.getLogger(name) for name in ("huggingface_hub", "datasets")]
        levels = [logger.level for logger in loggers]
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        except (ValueError, RuntimeError, OSError, HfHubHTTPError, OfflineModeIsEnabled) as error:
            raise InputError(self._failure(error)) from error
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)

    def _refuse_unreachable(self) -> None:
        """Look once whether the Hub answers at all: the library would try for half a minute."""
        try:
            urllib.request.urlopen(constants.ENDPOINT, timeout=_PATIENCE).close()
        except urllib.error.HTTPError:  # an answer
            return
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            if isinstance(reason, ssl.SSLError | http.client.HTTPException):  # the library may know better
                return
            raise InputError(
                f"data: hub:{self.hub_id} could not be loaded: {constants.ENDPOINT} cannot be reached ({reason}); "
                "check the network, set HF_HUB_OFFLINE=1 to use what was downloaded before, or give a local file"
            ) from None

    def _failure(self, error: Exception) -> str:
        network = (
            "that it was downloaded before (HF_HUB_OFFLINE=1 is set)" if constants.HF_HUB_OFFLINE else "the network"
        )
        return (
            f"data: hub:{self.hub_id}{f':{self.config}' if self.config else ''} could not be loaded "
            f"({first_line(error)}); check the id, the config and {network}, or give a local file; data sets with a "
            "loading script cannot be used"
        )


@dataclass(frozen=True)
class HubReader(Shard):
    """A split of a Hub data set, or one shard of it. Positions are row numbers in it.

    Attributes:
        address: None for a data set on disk, which `save_to_disk` wrote.
        tables: its rows, from the first on.
        sides: `pair` for dialogues, see `choose_columns`.
        version: see `fingerprint`.
    """

    name: str
    where: str
    address: HubAddress | None
    text_column: Asked
    sides: str
    tables: Callable[[], Iterator[pa.Table]]
    version: Callable[[], str]
    remedy = "check the network and the data set, and run the same command again"

    def fingerprint(self) -> str:
        """The files' versions, as `datasets` knows them."""
        return self.version()

    def _rows(self, position: int, line: int) -> Iterator[tuple[RawRow, int]]:
        shortcut = self.address.shortcut if self.address is not None else None
        if self.sides == "pair" and self.text_column is None and shortcut is not None and shortcut.line_columns:
            yield from ((row, row.place) for row in joined_lines(self._film_lines(shortcut)))
            return
        turns_of = persona_chat_turns if shortcut is not None and shortcut.is_persona_chat else None
        for table in from_row(self.tables(), position):
            columns, group = self._columns(arrow_kinds(table.schema))
            for row in rows_of_arrow([table], columns, position, group, turns_of):
                yield row, row.place
            position += len(table)

    def columns(self) -> tuple[tuple[str, ...], list[str]]:
        """See `Shard`. Of lines that are joined to dialogues, their texts."""
        table = next(self.tables(), None)
        kinds = {} if table is None else arrow_kinds(table.schema)
        return (self._columns(kinds)[0], list(kinds)) if kinds else ((), [])

    def _columns(self, kinds: dict[str, str]) -> tuple[tuple[str, ...], str | None]:
        """The text columns, and the one by which rows stay together in a split by hash. Raises InputError."""
        shortcut = self.address.shortcut if self.address is not None else None
        where = self.where if self.address is None else f"hub:{self.address.hub_id}"
        if shortcut is None or isinstance(self.text_column, tuple):
            return choose_columns(kinds, self.text_column, where, self.sides), None
        group = shortcut.group_column if shortcut.group_column in kinds else None
        if shortcut.is_persona_chat and self.text_column is None:
            return (_present(shortcut.column, kinds, where),), group
        return (choose_column(kinds, self.text_column or shortcut.column, where),), group

    def _film_lines(self, shortcut: Shortcut) -> Iterator[Line]:
        names = (shortcut.group_column, *(shortcut.line_columns or ()), shortcut.column)
        place = 0
        for table in self.tables():
            columns = [_present(str(name), arrow_kinds(table.schema), f"hub:{shortcut.hub_id}") for name in names]
            values = (table.column(column).to_pylist() for column in columns)
            for place, (film, number, speaker, text) in enumerate(zip(*values, strict=True), start=place + 1):  # noqa: B020
                yield Line(str(film), str(number), str(speaker), text, place)


def whole_split(address: HubAddress, name: str, settings: SourceSettings) -> HubReader:
    """A split that is downloaded, as one shard."""
    split = cache(lambda: address.load(name))
    return HubReader(
        name,
        f"hub:{address.hub_id}:{name}",
        address,
        settings.asked_columns,
        settings.line_sides,
        lambda: split().with_format("arrow").iter(_BATCH),
        lambda: hub_fingerprint(split()),
    )


def saved_splits(folder: Path, settings: SourceSettings) -> dict[str, HubReader] | None:
    """The splits of a folder that `save_to_disk` of `datasets` wrote; None for any other folder."""
    if not (folder / "dataset_dict.json").is_file() and not (folder / "state.json").is_file():
        return None
    try:
        found = datasets.load_from_disk(str(folder))
    except (OSError, ValueError, pa.ArrowException) as error:
        raise InputError(f"data: {folder} is no whole saved data set ({first_line(error)}); save it again") from None
    splits = found if isinstance(found, datasets.DatasetDict) else {"train": found}

    def reader(name: str, split: datasets.Dataset) -> HubReader:
        return HubReader(
            name,
            f"{folder} [{name}]",
            None,
            settings.asked_columns,
            settings.line_sides,
            lambda: split.with_format("arrow").iter(_BATCH),
            lambda: str(split._fingerprint),
        )

    ours = {"valid" if name in _VALID_NAMES else name: reader(name, split) for name, split in splits.items()}
    if settings.split is not None:
        if settings.split not in splits:
            raise InputError(f"split: {folder} has no {settings.split}; it has {', '.join(splits)}")
        return {"train": reader(settings.split, splits[settings.split])}
    if "train" not in ours:
        raise InputError(f"split: {folder} has no `train`; choose with --split among {', '.join(splits)}")
    return {name: ours[name] for name in ("train", "valid", "test") if name in ours}


def stream_shards(address: HubAddress, name: str, settings: SourceSettings) -> list[Shard]:
    """The shards of a split that is read as it is asked for. Raises InputError where it cannot be had."""
    stream, version = address.stream(name)

    def shard(index: int) -> HubReader:
        return HubReader(
            f"{name} shard {index}",
            f"hub:{address.hub_id} {name} shard {index}",
            address,
            settings.asked_columns,
            settings.line_sides,
            lambda: stream.shard(stream.num_shards, index).with_format("arrow").iter(_BATCH),
            lambda: version,
        )

    return [shard(index) for index in range(stream.num_shards)]


def hub_fingerprint(dataset: datasets.Dataset) -> str:
    """The files (with their revision) that this split was made from, as `datasets` recorded them."""
    checksums = dataset.info.download_checksums or {}
    return f"{sorted(checksums)} {dataset.num_rows} {sorted(dataset.column_names)} {dataset.info.dataset_size}"


def _present(column: str, columns: dict[str, str], where: str) -> str:
    if column not in columns:
        raise InputError(f"data: {where} has no column {column!r} any more; choose with --text_column among {columns}")
    return column
