"""Data sets of the Hub, through `datasets`: found, checked, and turned into rows."""

import http.client
import logging
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

from training.common.errors import InputError
from training.data.sources.film_lines import Line, joined_lines
from training.data.sources.readers import arrow_kind, choose_column, choose_columns, row_of_value, row_of_values
from training.data.sources.rows import RawRow
from training.data.sources.shortcuts import SHORTCUTS, Shortcut, persona_chat_turns

_VALID_NAMES = ("valid", "validation", "val", "dev")
_BATCH = 2000
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
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        network = (
            "that it was downloaded before (HF_HUB_OFFLINE=1 is set)" if constants.HF_HUB_OFFLINE else "the network"
        )
        return (
            f"data: hub:{self.hub_id}{f':{self.config}' if self.config else ''} could not be loaded ({reason}); check "
            f"the id, the config and {network}, or give a local file; data sets with a loading script cannot be used"
        )


def read_hub(
    dataset: datasets.Dataset, address: HubAddress, text_column: str | None, sides: str = "whole"
) -> Iterator[RawRow]:
    """The rows of one split.

    Args:
        sides: `pair` for dialogues, see `choose_columns`.
    """
    if sides == "pair" and text_column is None and address.shortcut is not None and address.shortcut.line_columns:
        yield from joined_lines(_film_lines(dataset, address.shortcut))
        return
    columns, group = _columns(dataset.data.schema, address, text_column, sides)
    chosen = dataset.select_columns([*columns, *([] if group is None else [group])])
    place = 0
    for batch in chosen.iter(_BATCH):
        groups = batch[group] if group else [None] * len(batch[columns[0]])
        for values, key in zip(zip(*(batch[name] for name in columns), strict=True), groups, strict=True):
            place += 1
            if len(columns) == 1:
                yield row_of_hub_value(values[0], key, place, columns[0], address)
            else:
                yield row_of_values(values, place, columns)


def _film_lines(dataset: datasets.Dataset, shortcut: Shortcut) -> Iterator[Line]:
    names = (shortcut.group_column, *(shortcut.line_columns or ()), shortcut.column)
    columns = [
        _present(str(name), dict.fromkeys(dataset.column_names, ""), f"hub:{shortcut.hub_id}") for name in names
    ]
    place = 0
    for batch in dataset.select_columns(columns).iter(_BATCH):
        for group, number, speaker, text in zip(*(batch[name] for name in columns), strict=True):
            place += 1
            yield Line(str(group), str(number), str(speaker), text, place)


def _columns(
    schema: pa.Schema, address: HubAddress, text_column: str | None, sides: str
) -> tuple[tuple[str, ...], str | None]:
    if sides == "pair" and address.shortcut is None:
        kinds = {name: arrow_kind(schema.field(name).type) for name in schema.names}
        return choose_columns(kinds, text_column, f"hub:{address.hub_id}", sides), None
    column, group = hub_columns(schema, address, text_column)
    return (column,), group


def hub_columns(schema: pa.Schema, address: HubAddress, text_column: str | None) -> tuple[str, str | None]:
    """The text column, and the one by which rows stay together in a split by hash. Raises InputError."""
    where, shortcut = f"hub:{address.hub_id}", address.shortcut
    columns = {name: arrow_kind(schema.field(name).type) for name in schema.names}
    if shortcut is not None and shortcut.is_persona_chat and text_column is None:
        column = _present(shortcut.column, columns, where)
    else:
        column = choose_column(columns, text_column or (shortcut.column if shortcut else None), where)
    return column, shortcut.group_column if shortcut and shortcut.group_column in columns else None


def row_of_hub_value(value: Any, key: Any, place: int, column: str, address: HubAddress) -> RawRow:
    """A row from what stands in the text column and in the grouping one."""
    turns = persona_chat_turns(value) if address.shortcut and address.shortcut.is_persona_chat else value
    return row_of_value(turns, place, column, None if key is None else str(key))


def hub_fingerprint(dataset: datasets.Dataset) -> str:
    """The files (with their revision) that this split was made from, as `datasets` recorded them."""
    checksums = dataset.info.download_checksums or {}
    return f"{sorted(checksums)} {dataset.num_rows} {sorted(dataset.column_names)} {dataset.info.dataset_size}"


def _present(column: str, columns: dict[str, str], where: str) -> str:
    if column not in columns:
        raise InputError(f"data: {where} has no column {column!r} any more; choose with --text_column among {columns}")
    return column
