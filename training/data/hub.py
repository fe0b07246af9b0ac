"""Data sets of the Hub, through `datasets`: found, checked, and turned into rows."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import datasets
import pyarrow as pa
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

from training.data.errors import InputError
from training.data.readers import arrow_kind, choose_column, row_of_value
from training.data.rows import RawRow
from training.data.shortcuts import SHORTCUTS, Shortcut, persona_chat_turns

_VALID_NAMES = ("valid", "validation", "val", "dev")
_BATCH = 2000


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
        revision = self.shortcut.revision if self.shortcut else None
        try:
            return datasets.load_dataset(self.hub_id, self.config, split=name, revision=revision)
        except (ValueError, RuntimeError, OSError, HfHubHTTPError, OfflineModeIsEnabled) as error:
            raise InputError(self._failure(error)) from error

    def stream(self, name: str) -> tuple[datasets.IterableDataset, str]:
        """One split, read as it is asked for, and its files' version. Raises InputError where it cannot be had."""
        revision = self.shortcut.revision if self.shortcut else None
        try:
            builder = datasets.load_dataset_builder(self.hub_id, self.config, revision=revision)
            return builder.as_streaming_dataset(split=name), str(builder.hash)
        except (ValueError, RuntimeError, OSError, HfHubHTTPError, OfflineModeIsEnabled) as error:
            raise InputError(self._failure(error)) from error

    def split_names(self) -> dict[str, str]:
        """train, valid, test -> the repository's split, as far as there are such."""
        if self.shortcut is not None:
            return self.shortcut.splits
        try:
            names = datasets.get_dataset_split_names(self.hub_id, self.config)
        except (ValueError, RuntimeError, OSError, HfHubHTTPError, OfflineModeIsEnabled) as error:
            raise InputError(self._failure(error)) from error
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

    def _failure(self, error: Exception) -> str:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        return (
            f"data: hub:{self.hub_id}{f':{self.config}' if self.config else ''} could not be loaded ({reason}); check "
            "the id, the config and the network, or give a local file; data sets with a loading script cannot be used"
        )


def read_hub(dataset: datasets.Dataset, address: HubAddress, text_column: str | None) -> Iterator[RawRow]:
    """The rows of one split."""
    column, group = hub_columns(dataset.data.schema, address, text_column)
    chosen = dataset.select_columns([column] if group is None else [column, group])
    place = 0
    for batch in chosen.iter(_BATCH):
        values: list[Any] = batch[column]
        groups = batch[group] if group else [None] * len(values)
        for value, key in zip(values, groups, strict=True):
            place += 1
            yield row_of_hub_value(value, key, place, column, address)


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
