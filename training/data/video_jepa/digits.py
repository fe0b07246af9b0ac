"""Pictures of handwritten digits, of which clips are made: `load_digits("PATH/TO/mnist", "train")`.

`builtin:digits` (scikit-learn's, scaled up) | a folder with idx files as MNIST is published | one idx file of
pictures | `hub:mnist` or `hub:ID[:CONFIG]`. The digits of training and test files never mix. What a source has no part
of is cut from its training digits by a hash of the picture, so it is the same everywhere and disjoint from the rest.
"""

import gzip
import hashlib
import io
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch

from training.common.errors import InputError
from training.data.sources.hub import HubAddress

SIDE = 28
_BODY = 20  # of a digit of MNIST, within its margin
BUILTIN = "builtin:digits"
SPLITS = ("train", "valid", "test")
# Of the training digits of a file or the Hub, for each part that is missing; of the few built-in ones.
HELD_OUT_SHARE = 0.05
_BUILTIN_SHARE = 0.15
_PICTURES_MAGIC, _LABELS_MAGIC = 0x00000803, 0x00000801
_HEADER = struct.Struct(">IIII")
_FILE_NAMES = {"train": "train-images*", "test": "t10k-images*"}
_HUB_SHORTCUTS = {"mnist": HubAddress("ylecun/mnist", "mnist", None, None)}


@dataclass(frozen=True)
class Digits:
    """Pictures of one split.

    Attributes:
        pictures: `(digits, 28, 28)`, uint8, white on black.
        fingerprint: changes with the pictures, and with nothing else.
    """

    pictures: np.ndarray
    fingerprint: str


def load_digits(source: str, split: str) -> Digits:
    """The digits of one split.

    Args:
        source: see the top of this file.
        split: train, valid or test.

    Raises:
        InputError: the source is missing, damaged, or holds no digits of 28 x 28 pixels.
    """
    if split not in SPLITS:
        raise InputError(f"split: got {split!r}; use one of {', '.join(SPLITS)}")
    stored, share = _read(source, split), _BUILTIN_SHARE if source == BUILTIN else HELD_OUT_SHARE
    pictures = stored.pictures[_sides(stored.pictures, stored.missing, share) == split]
    if not len(pictures):
        raise InputError(
            f"digits: none of the {len(stored.pictures):,} digits of {source} is left for {split}; give more digits"
        )
    return Digits(pictures, hashlib.sha256(pictures.tobytes()).hexdigest())


def check_digits(source: str) -> None:
    """Raise InputError unless the source exists; reads no pictures and asks no network."""
    if source.startswith("hub:"):
        _hub_address(source)
    elif source.startswith("builtin:"):
        if source != BUILTIN:
            raise InputError(f"digits: {source} is not known; use {BUILTIN}, a folder with idx files, or hub:mnist")
    else:
        _path_of(source)


def hub_id_of(source: str) -> str | None:
    """The Hub data set that `source` names, or None where it names none."""
    return _hub_address(source).hub_id if source.startswith("hub:") else None


@dataclass(frozen=True)
class _Stored:
    """What a source keeps under a name, and the splits that must be cut from it."""

    pictures: np.ndarray
    missing: tuple[str, ...]


def _read(source: str, split: str) -> _Stored:
    """The stored pictures among which those of `split` are."""
    check_digits(source)
    if source == BUILTIN:
        return _Stored(_builtin_pictures(), ("valid", "test"))
    if source.startswith("hub:"):
        return _read_hub(source, split)
    path = _path_of(source)
    if path.is_file():
        return _Stored(read_idx(path), ("valid", "test"))
    if split == "test":
        return _Stored(read_idx(_file_of(path, "test")), ("train", "valid"))
    return _Stored(read_idx(_file_of(path, "train")), ("valid",))


def _sides(pictures: np.ndarray, missing: tuple[str, ...], share: float) -> np.ndarray:
    """The split of each picture, `(digits,)`; equal pictures share one. What is stored as test is test alone."""
    if "train" in missing:
        return np.full(len(pictures), "test")
    hashes = [hashlib.blake2b(picture.tobytes(), digest_size=8).digest() for picture in pictures]
    position = np.frombuffer(b"".join(hashes), dtype="<u8") / 2.0**64
    number = np.minimum((position / share).astype(int), len(missing))
    return np.array([*missing, "train"])[number]


def read_idx(path: Path) -> np.ndarray:
    """The pictures of an idx file (`.gz` or not), `(digits, 28, 28)`, uint8.

    The format: http://yann.lecun.com/exdb/mnist: big-endian magic 0x00000803, number, rows, columns, then the bytes.

    Raises:
        InputError: the file is damaged, or holds something else.
    """
    content = _bytes_of(path)
    if len(content) < _HEADER.size:
        raise InputError(f"digits: {path} holds {len(content)} bytes, an idx file at least {_HEADER.size}; replace it")
    magic, number, rows, columns = _HEADER.unpack_from(content)
    if magic == _LABELS_MAGIC:
        raise InputError(f"digits: {path} holds labels (magic 0x{magic:08x}); give the file of the images")
    if magic != _PICTURES_MAGIC:
        raise InputError(
            f"digits: {path} begins with 0x{magic:08x}, an idx file of pictures with 0x{_PICTURES_MAGIC:08x}; "
            "give another file"
        )
    if (rows, columns) != (SIDE, SIDE):
        raise InputError(f"digits: {path} holds pictures of {rows} x {columns} pixels; use {SIDE} x {SIDE}")
    expected = _HEADER.size + number * rows * columns
    if len(content) != expected:
        raise InputError(
            f"digits: {path} holds {len(content):,} bytes, but its header promises {expected:,} "
            f"({number:,} pictures); fetch it again"
        )
    return np.frombuffer(content, np.uint8, offset=_HEADER.size).reshape(number, rows, columns)


def _bytes_of(path: Path) -> bytes:
    try:
        stored = path.read_bytes()
    except OSError as error:
        raise InputError(f"digits: {path} cannot be read ({error.strerror}); check the path") from None
    if not stored.startswith(b"\x1f\x8b"):
        return stored
    try:
        return gzip.decompress(stored)
    except (EOFError, OSError, zlib.error) as error:
        raise InputError(
            f"digits: {path} ends early or is damaged after {len(stored):,} bytes ({error}); fetch it again"
        ) from None


def _path_of(source: str) -> Path:
    path = Path(source).expanduser()
    try:
        exists = path.exists()
    except OSError as error:
        raise InputError(f"digits: {source[:80]} cannot be read ({error.strerror}); check the path") from None
    if not source.strip() or not exists:
        raise InputError(
            f"digits: {source!r} does not exist; give a folder with train-images and t10k-images idx files, "
            f"hub:mnist or {BUILTIN}"
        )
    return path


def _file_of(folder: Path, split: str) -> Path:
    found = sorted(path for path in folder.glob(_FILE_NAMES[split]) if path.is_file())
    if not found:
        raise InputError(
            f"digits: {folder} holds no {_FILE_NAMES[split]} file; it needs train-images-idx3-ubyte and "
            "t10k-images-idx3-ubyte (.gz or not)"
        )
    return found[0]


def _builtin_pictures() -> np.ndarray:
    """scikit-learn's 1,797 digits of 8 x 8 pixels and 17 greys, as large as MNIST's and with the same margin."""
    import sklearn.datasets  # slow to import, and only needed here

    small = torch.from_numpy(sklearn.datasets.load_digits().images).float()[:, None] / 16.0
    large = torch.nn.functional.interpolate(small, size=(_BODY, _BODY), mode="bicubic").clamp(0, 1)
    padded = torch.nn.functional.pad(large, ((SIDE - _BODY) // 2,) * 4)[:, 0]
    return (padded * 255).round().to(torch.uint8).numpy()


def _hub_address(source: str) -> HubAddress:
    name = source.removeprefix("hub:")
    if name in _HUB_SHORTCUTS:
        return _HUB_SHORTCUTS[name]
    identity, _, config = name.partition(":")
    if "/" not in identity or ":" in config:
        raise InputError(
            f"digits: {source} is no address; use {', '.join(f'hub:{short}' for short in _HUB_SHORTCUTS)}, "
            "hub:OWNER/NAME or hub:OWNER/NAME:CONFIG"
        )
    return HubAddress(identity, config or None, None, None)


def _read_hub(source: str, split: str) -> _Stored:
    address = _hub_address(source)
    try:
        names = address.split_names()
        if split == "test" and "test" in names:
            return _Stored(_hub_pictures(address.load(names["test"]), source), ("train", "valid"))
        if split == "valid" and "valid" in names:
            return _Stored(_hub_pictures(address.load(names["valid"]), source), ("train", "test"))
        missing = tuple(name for name in ("valid", "test") if name not in names)
        return _Stored(_hub_pictures(address.load(names["train"]), source), missing)
    except InputError as error:  # the shared reader knows no other flag than its own
        raise InputError(str(error).replace("data:", "digits:", 1)) from None


def _hub_pictures(dataset: datasets.Dataset, source: str) -> np.ndarray:
    columns = [name for name, feature in dataset.features.items() if isinstance(feature, datasets.Image)]
    if len(columns) != 1:
        raise InputError(f"digits: {source} has the columns {', '.join(dataset.features)}; it needs one of pictures")
    stored = dataset.cast_column(columns[0], datasets.Image(decode=False))[columns[0]]
    return np.stack([_decoded(value, source) for value in stored])


def _decoded(value: dict[str, Any], source: str) -> np.ndarray:
    from PIL import Image  # optional for `datasets`, and only needed here

    content = value["bytes"] if value["bytes"] is not None else _bytes_of(Path(value["path"]))
    picture = np.asarray(Image.open(io.BytesIO(content)).convert("L"))
    if picture.shape != (SIDE, SIDE):
        raise InputError(
            f"digits: {source} holds pictures of {picture.shape[0]} x {picture.shape[1]} pixels; use {SIDE} x {SIDE}"
        )
    return picture
