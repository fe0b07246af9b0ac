"""The shards of a corpus that is read as training goes on: files, or those of a split on the Hub."""

import glob
import hashlib
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from training.common.errors import InputError
from training.data.settings import SourceSettings
from training.data.sources.hub import HubAddress, stream_shards
from training.data.sources.readers import STREAMABLE, Shard, open_file
from training.data.sources.rows import MAX_ROW_CHARACTERS, RawRow

_SPLIT_OF_NAME = re.compile(r"(train|valid|validation|test)([-_.].*)?")
_LONGEST_LINE = 4 * MAX_ROW_CHARACTERS + 1024  # bytes
_LEAST_OF_A_SHARD = 500


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
        yield from islice(shard.read(), per_shard)


def fingerprint_of(shards: list[Shard]) -> str:
    """Changes with the shards' names and content."""
    content = "|".join(f"{shard.name} {shard.fingerprint()}" for shard in shards)
    return f"stream {hashlib.sha256(content.encode('utf-8', 'surrogatepass')).hexdigest()}"


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
    return open_file(path, settings, name, _LONGEST_LINE)


def _hub_shards(settings: SourceSettings) -> dict[str, list[Shard]]:
    address = HubAddress.parse(settings.data, settings.split)
    names = {"train": address.split} if address.split else address.split_names()
    return {split: stream_shards(address, name, settings) for split, name in names.items()}


def _root_of(pattern: Path) -> Path:
    """The folder above the first part with a wildcard."""
    parts = list(pattern.parts)
    first = next(number for number, part in enumerate(parts) if glob.has_magic(part))
    return Path(*parts[:first])
