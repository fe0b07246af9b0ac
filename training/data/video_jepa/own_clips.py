"""Clips of one's own: a folder of animated pictures (GIF), or an array of numpy, as clips of one length and size.

Whole clips are held out: no two parts have frames of the same file, or of the same clip of an array.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageSequence

from training.common.errors import InputError
from training.data.cache import digest
from training.data.settings import VideoDataSettings
from training.data.video_jepa.clips import Augmentation, ClipMaker
from training.data.video_jepa.digits import SPLITS

KINDS = (".gif", ".npy", ".npz")
_SHARE = 0.05
_GREY = (0.299, 0.587, 0.114)  # of red, green and blue, as Pillow has them


def is_clips(source: str) -> bool:
    """Whether a source is clips, and no digits: a file of a kind that holds some, or a folder with one."""
    path = Path(source).expanduser()
    return path.suffix in KINDS or (path.is_dir() and bool(_files_of(path)))


def with_source(settings: VideoDataSettings, source: str) -> VideoDataSettings:
    """The settings with other clips, or other digits, as `is_clips` tells."""
    if is_clips(source):
        return replace(settings, clips=source, rotation=0.0)
    return replace(settings, digits=source, clips=None)


class OwnClips(ClipMaker):
    """Clips of one split out of given ones; made like a `ClipMaker`, whose clips are rendered.

    Attributes:
        count: of the split's clips; a longer one of them gives several, which overlap by half.
        pictures: these clips, `(count, length, S, S)`, uint8: what no two parts share.

    Args:
        clips: of all splits, see `read_clips`.

    Raises:
        InputError: fewer than 3 clips, or shorter ones than asked for.
    """

    def __init__(
        self, clips: list[np.ndarray], split: str, seed: int, length: int, augmentation: Augmentation | None = None
    ) -> None:
        shortest = min(map(len, clips))
        if shortest < length:
            raise InputError(
                f"clips: the shortest has {shortest} frames, and the model takes {length}; use "
                f"--max_position_embeddings {shortest}, or leave short clips out"
            )
        if len(clips) < len(SPLITS):
            raise InputError(f"clips: got {len(clips)}; give 3 or more, so that whole ones can be held out")
        chosen = _side(clips, split)
        step = max(1, length // 2)
        self.pictures = np.concatenate(
            [
                np.stack([clip[begin : begin + length] for begin in range(0, len(clip) - length + 1, step)])
                for clip in chosen
            ]
        )
        self.count = len(self.pictures)
        self.split, self.seed, self.length = SPLITS.index(split), seed, length
        self.frame_size = clips[0].shape[-1]
        self.augmentation = augmentation or Augmentation()

    @property
    def fingerprint(self) -> str:
        """Changes with the clips."""
        return digest("own clips", hashlib.sha256(self.pictures).hexdigest(), self.seed, vars(self.augmentation))

    def render(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """`(clips, length, S, S)`, uint8; beyond the last clip they begin anew."""
        index = np.asarray(indices, dtype=np.int64)
        return self._varied(self.pictures[index % self.count].copy(), torch.as_tensor(index))


def read_clips(path: Path, size: int) -> tuple[list[np.ndarray], list[str]]:
    """All clips, each `(frames, size, size)` uint8, grey; and what was changed, one line each.

    Args:
        path: a GIF, a `.npy` or `.npz` of `(N, T, H, W)` or `(N, T, H, W, 3)`, bytes or floats from 0 to 1 or to 255,
            or a folder of such files, where an array may also be one clip: `(T, H, W)` or `(T, H, W, 3)`.

    Raises:
        InputError: nothing of that kind; one frame alone; several sizes; values out of range; an array of objects.
    """
    if not path.exists():
        raise InputError(f"clips: {path} does not exist; give a folder of GIFs, or a {', '.join(KINDS)} file")
    files = _files_of(path) if path.is_dir() else [path]
    if not files:
        raise InputError(f"clips: {path} holds no {', '.join(KINDS)}; give a folder or a file of such")
    if files[0].suffix not in KINDS:
        raise InputError(f"clips: {path} is no {', '.join(KINDS)}; unpack it, or give a folder of GIFs")
    clips: list[np.ndarray] = []
    for file in files:
        clips.extend([_read_gif(file)] if file.suffix == ".gif" else _read_array(file, may_be_one=path.is_dir()))
    sizes = {clip.shape[1:3] for clip in clips}
    if len(sizes) > 1:
        (one, other), *_ = [sorted(sizes)[:2]]
        raise InputError(
            f"clips: {path} holds frames of {_by(one)} and of {_by(other)} pixels; bring them to one size"
        )
    notes = []
    if any(clip.ndim == 4 for clip in clips):
        notes.append("colours are read as greys")
        clips = [np.rint(clip @ np.array(_GREY)).astype(np.uint8) if clip.ndim == 4 else clip for clip in clips]
    if (size, size) not in sizes:
        notes.append(f"frames of {_by(next(iter(sizes)))} pixels are brought to {size} x {size}")
        clips = [_resized(clip, size) for clip in clips]
    return clips, notes


def _files_of(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.suffix in KINDS and file.is_file())


def _read_gif(file: Path) -> np.ndarray:
    try:
        with Image.open(file) as picture:
            frames = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(picture)]
    except OSError as error:
        raise InputError(f"clips: {file} cannot be read as a picture ({error}); leave it out") from None
    if len(frames) < 2:
        raise InputError(f"clips: {file} has one frame, and a clip has several; leave it out")
    clip = np.stack(frames)
    is_grey = (clip[..., 0] == clip[..., 1]).all() and (clip[..., 1] == clip[..., 2]).all()
    return clip[..., 0] if is_grey else clip


def _read_array(path: Path, may_be_one: bool) -> np.ndarray:
    try:
        found = np.load(path, allow_pickle=False)
        if not isinstance(found, np.ndarray):
            if len(found.files) != 1:
                raise InputError(f"clips: {path} holds {', '.join(found.files) or 'nothing'}; keep one array in it")
            found = found[found.files[0]]
    except (ValueError, OSError, EOFError) as error:
        said = str(error).splitlines()[0]
        raise InputError(f"clips: {path} is no array of numbers ({said}); save (N, T, H, W) bytes or floats") from None
    if may_be_one and (found.ndim == 3 or (found.ndim == 4 and found.shape[-1] in (1, 3))):
        found = found[None]
    if found.ndim not in (4, 5) or (found.ndim == 5 and found.shape[-1] not in (1, 3)) or 0 in found.shape:
        raise InputError(f"clips: {path} has the shape {found.shape}; use (N, T, H, W) or (N, T, H, W, 3)")
    if found.shape[1] < 2:
        raise InputError(f"clips: {path} has clips of one frame; a clip has several")
    found = found[..., 0] if found.ndim == 5 and found.shape[-1] == 1 else found
    if found.dtype == np.uint8:
        return found
    low, high = float(found.min()), float(found.max())
    if not (np.isfinite([low, high]).all() and low >= 0 and high <= 255):
        raise InputError(f"clips: {path} has values from {low:g} to {high:g}; use bytes, or floats to 1 or to 255")
    scale = 255 if np.issubdtype(found.dtype, np.floating) and high <= 1 else 1
    return np.rint(found * scale).astype(np.uint8)


def _resized(clip: np.ndarray, size: int) -> np.ndarray:
    frames = torch.from_numpy(np.ascontiguousarray(clip))[:, None].float()
    small = torch.nn.functional.interpolate(frames, (size, size), mode="bilinear", antialias=True)
    return small[:, 0].round().clamp(0, 255).to(torch.uint8).numpy()


def _side(clips: list[np.ndarray], split: str) -> list[np.ndarray]:
    """The clips of a split, chosen by a hash of their content: a twentieth, and at least one, are held out for each.
    Equal clips lie on one side.
    """
    keys = [hashlib.sha256(np.ascontiguousarray(clip)).hexdigest() for clip in clips]
    different = sorted(set(keys))
    if len(different) < len(SPLITS):
        raise InputError(f"clips: got {len(different)} different ones; give 3 or more, so that some can be held out")
    held_out = max(1, round(_SHARE * len(different)))
    sides = {"valid": different[:held_out], "test": different[held_out : 2 * held_out]}
    sides["train"] = different[2 * held_out :]
    wanted = set(sides[split])
    return [clip for clip, key in zip(clips, keys, strict=True) if key in wanted]


def _by(size: tuple[int, ...]) -> str:
    return f"{size[1]} x {size[0]}"
