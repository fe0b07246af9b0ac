"""Files of figures: whole or not there, never with NaN, with the versions that made them. Imports no torch."""

import importlib.metadata
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from training.common.errors import InputError

PACKAGES = ("jepa-lm", "torch", "transformers", "datasets", "evaluate", "tokenizers")


def write_json(record: dict[str, Any], path: str | Path, indent: int | None = 2) -> None:
    """Write a record as JSON in one step: a reader sees the old file or the whole new one. Refuses NaN."""
    write_text(json.dumps(record, indent=indent, allow_nan=False, ensure_ascii=False) + "\n", path)


def write_text(text: str, path: str | Path) -> None:
    """Write a text in one step, as `write_json`. Raises `InputError` for a place that cannot be written to."""
    write_bytes(text.encode(), path)


def write_bytes(content: bytes, path: str | Path) -> None:
    """Write a file in one step, as `write_json`. Raises `InputError` for a place that cannot be written to."""
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        staged = target.with_name(f".{target.name}.{os.getpid()}")
        staged.write_bytes(content)
        os.replace(staged, target)
    except OSError as error:
        raise InputError(f"cannot write {target}: {error.strerror}; choose another place") from error


def plain(value: Any) -> Any:
    """What JSON can hold: numbers of NumPy as Python's own, names as text, None for what is not finite."""
    if isinstance(value, dict):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def package_versions(names: Sequence[str] = PACKAGES) -> dict[str, str | None]:
    """Installed versions of what produced a number; None for one that is used from a checkout without installing."""
    versions: dict[str, str | None] = {}
    for name in names:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def check_target(target: Path) -> None:
    """Raise InputError for a place that cannot be written to: before minutes of work, not after."""
    folder = next(parent for parent in target.absolute().parents if parent.exists())
    if target.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise InputError(f"{target} cannot be written; name a file in a folder that can")
