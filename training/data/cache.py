"""What was made once, kept by content.

Every item is a folder under `$JEPA_CACHE`, or `~/.cache/jepa-lm`, whose name is the hash of what it was made from. A
folder is written under another name first and renamed when it is whole, so a killed run or a second one at the same
time does no harm.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets

from training.common.errors import InputError

FORMAT_VERSION = 2


def cache_folder() -> Path:
    """`$JEPA_CACHE`, or `~/.cache/jepa-lm`."""
    return Path(os.environ.get("JEPA_CACHE", "~/.cache/jepa-lm")).expanduser()


def digest(*parts: Any) -> str:
    """The name of what is made from these (JSON values) and this format's version."""
    text = json.dumps([FORMAT_VERSION, *parts], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def cached(key: str, make: Callable[[Path], None]) -> tuple[Path, bool]:
    """The folder of this key, and whether it was made now: by `make`, which fills an empty one.

    Raises:
        InputError: the cache cannot be written.
    """
    folder = cache_folder() / "prepared" / key
    if folder.is_dir():
        return folder, False
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=".staging-", dir=folder.parent))
    except OSError as error:
        raise InputError(
            f"{folder.parent} cannot be written ({error.strerror}): prepared data is kept there; "
            "set JEPA_CACHE to a folder that can"
        ) from None
    try:
        make(staging)
        os.rename(staging, folder)
    except OSError:
        if not folder.is_dir():  # else another run was quicker, and its folder holds the same
            raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return folder, True


def save_quietly(dataset: datasets.Dataset, folder: Path) -> None:
    """Without the library's progress bar, which has no argument that turns it off."""
    was_shown = datasets.are_progress_bars_disabled() is False
    datasets.disable_progress_bars()
    try:
        dataset.save_to_disk(folder)
    finally:
        if was_shown:
            datasets.enable_progress_bars()
