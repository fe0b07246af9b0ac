"""The manifest of a checkpoint: every file with its hash; and `run.json`, what it was trained from."""

import hashlib
import json
from pathlib import Path

from training.common.errors import InputError
from training.common.wording import one_line

MANIFEST = "manifest.json"


RUN_FILE = "run.json"


_SHOWN = 5


def read_run(checkpoint: str | Path) -> dict | None:
    """`run.json` of a checkpoint (recipe, data hash, versions), or None where it has none."""
    path = Path(checkpoint) / RUN_FILE
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is damaged: {one_line(error)}; take an earlier checkpoint") from error


def verify_manifest(folder: Path) -> None:
    """Compare every file that `manifest.json` names with its sha256; a folder without a manifest passes.

    Raises:
        InputError: naming the first files that are missing or changed.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return
    try:
        hashes = json.loads(path.read_text(encoding="utf-8"))["files"]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged; take an earlier checkpoint") from error
    damaged = [name for name, expected in sorted(hashes.items()) if sha256_of(folder / name) != expected]
    if damaged:
        raise InputError(f"{folder} is damaged: {_listed(damaged)} missing or changed since saving; take another one")


def sha256_of(path: Path) -> str | None:
    """Hex digest of a file's bytes, read in pieces; None for a file that is not there."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _listed(names: list[str]) -> str:
    """The first few of many names."""
    shown = ", ".join(names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"
