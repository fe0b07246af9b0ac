"""Clips of moving digits in the style of Moving MNIST (Srivastava et al., 2015, arXiv:1502.04681, section 4).

Digits of 28 x 28 pixels cross a canvas of 64 x 64 at a constant speed and turn back at its walls; where they overlap
the brighter pixel counts. Every clip is a function of (split, seed, index) and of nothing else: the same in every
process, batch and order.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypedDict

import datasets
import numpy as np
import pyarrow as pa
import torch
from torch.utils.data import Dataset

from modeling_jepa.counter_random import counter_uniform
from training.common.errors import InputError
from training.data.cache import digest
from training.data.video_jepa.digits import SIDE, SPLITS, Digits

CANVAS = 64
STEP = 0.1  # of the free range, in each frame
FRAME_SIZES = (64, 32, 16)
CLIPS_VERSION = 1  # of how an index becomes a clip
_DIGIT, _PLACE, _HEADING, _FLIP, _ANGLE, _BRIGHTNESS, _CONTRAST = range(1, 8)


@dataclass(frozen=True)
class Augmentation:
    """How training clips are varied; the defaults leave them as they are.

    Attributes:
        flip: half of the clips are mirrored, left to right, with their motion.
        rotation: each digit is turned by an angle within plus or minus this, in degrees.
        brightness: a clip is multiplied by a factor within 1 plus or minus this.
        contrast: a clip's distance from its mean is multiplied by a factor within 1 plus or minus this.
    """

    flip: bool = False
    rotation: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0


class ClipMaker:
    """Renders clips of one split.

    Attributes:
        count: of the split's clips where they are given ones; None of those that are made.

    Args:
        digits: of the split.
        split: train, valid or test: a part of every clip's randomness.
        seed: of the clips, not of the training run.
        length: frames of a clip.
        frame_size: 64; 32 or 16 are its means over 2 x 2 or 4 x 4 pixels, rounded to 1/255.
        num_digits: in each clip, drawn with replacement.
        augmentation: of the clips.

    Raises:
        InputError: a frame size that is none of `FRAME_SIZES`.
    """

    count: int | None = None

    def __init__(
        self,
        digits: Digits,
        split: str,
        seed: int = 0,
        length: int = 20,
        frame_size: int = CANVAS,
        num_digits: int = 2,
        augmentation: Augmentation | None = None,
    ) -> None:
        if frame_size not in FRAME_SIZES:
            raise InputError(f"frame_size: got {frame_size}; use one of {', '.join(map(str, FRAME_SIZES))}")
        self.pictures = digits.pictures
        self._digits_fingerprint = digits.fingerprint
        self.split = SPLITS.index(split)
        self.seed = seed
        self.length = length
        self.frame_size = frame_size
        self.num_digits = num_digits
        self.augmentation = augmentation or Augmentation()

    @property
    def fingerprint(self) -> str:
        """Changes with the clips."""
        sizes = (self.split, self.seed, self.length, self.frame_size, self.num_digits)
        return digest("clips", CLIPS_VERSION, self._digits_fingerprint, sizes, asdict(self.augmentation))

    def render(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """`(clips, length, frame_size, frame_size)`, uint8."""
        index = torch.as_tensor(np.asarray(indices), dtype=torch.int64)
        pictures = self._pictures(index)
        corners = self._corners(index)
        canvas = np.zeros((len(index), self.length, CANVAS, CANVAS), np.uint8)
        for clip, path in enumerate(corners.tolist()):
            for digit, places in enumerate(path):
                picture = pictures[clip, digit]
                for frame, (top, left) in zip(canvas[clip], places, strict=True):
                    window = frame[top : top + SIDE, left : left + SIDE]
                    np.maximum(window, picture, out=window)
        return _shrunk(self._varied(canvas, index), CANVAS // self.frame_size)

    def frames(self, indices: Sequence[int] | np.ndarray) -> torch.Tensor:
        """As the model takes them: `(clips, length, 1, frame_size, frame_size)`, float32, 0 to 1."""
        return as_frames(torch.from_numpy(self.render(indices)))

    def __call__(self, rows: dict[str, Any]) -> dict[str, Any]:
        """As a transform of a `datasets.Dataset` with a column `row_id`: adds `frames`, as of `render`."""
        return {"row_id": rows["row_id"], "frames": self.render(rows["row_id"])}

    def _pictures(self, index: torch.Tensor) -> np.ndarray:
        """Each clip's digits, `(clips, digits, 28, 28)`."""
        chosen = (self._uniform(_DIGIT, index, self.num_digits) * len(self.pictures)).long()
        pictures = self.pictures[chosen.numpy()]
        limit = self.augmentation.rotation
        if not limit:
            return pictures
        degrees = limit * (2 * self._uniform(_ANGLE, index, self.num_digits) - 1)
        return _turned(pictures, degrees)

    def _corners(self, index: torch.Tensor) -> np.ndarray:
        """The digits' upper left corners (row, column), `(clips, digits, length, 2)`, int64."""
        place = torch.stack([self._uniform(_PLACE + 16 * axis, index, self.num_digits) for axis in (1, 2)], -1)
        heading = 2 * torch.pi * self._uniform(_HEADING, index, self.num_digits)
        return moving_corners(place.numpy(), heading.numpy(), self.length)

    def _varied(self, canvas: np.ndarray, index: torch.Tensor) -> np.ndarray:
        asked = self.augmentation
        if asked.flip:
            mirrored = (self._uniform(_FLIP, index, 1)[:, 0] < 0.5).numpy()
            canvas[mirrored] = canvas[mirrored][..., ::-1]
        if not (asked.brightness or asked.contrast):
            return canvas
        shape = (-1, 1, 1, 1)
        bright = 1 + asked.brightness * (2 * self._uniform(_BRIGHTNESS, index, 1).view(shape) - 1)
        spread = 1 + asked.contrast * (2 * self._uniform(_CONTRAST, index, 1).view(shape) - 1)
        varied = torch.from_numpy(canvas).double() * bright
        mean = varied.mean((1, 2, 3), keepdim=True)
        return ((varied - mean) * spread + mean).round().clamp(0, 255).to(torch.uint8).numpy()

    def _uniform(self, purpose: int, index: torch.Tensor, count: int) -> torch.Tensor:
        """`(clips, count)`, float64, in [0, 1)."""
        return counter_uniform(self.seed, self.split, purpose, index[:, None], torch.arange(count))


def moving_corners(place: np.ndarray, heading: np.ndarray, length: int) -> np.ndarray:
    """Paths between the walls: one step, then turned back where a wall is reached, for each frame.

    Args:
        place: `(..., 2)` where a digit starts, row and column, from 0 to 1 of the free range.
        heading: `(...)` its direction, in radians.
        length: frames.

    Returns:
        `(..., length, 2)`, int64: the upper left corner in pixels, from 0 to 36.
    """
    velocity = STEP * np.stack((np.sin(heading), np.cos(heading)), -1)
    path = np.empty((*place.shape[:-1], length, 2))
    for frame in range(length):
        place = place + velocity
        velocity = np.where((place <= 0) | (place >= 1), -velocity, velocity)
        place = place.clip(0, 1)
        path[..., frame, :] = place
    return (path * (CANVAS - SIDE)).astype(np.int64)


def as_frames(rendered: torch.Tensor) -> torch.Tensor:
    """`(B, T, S, S)` uint8 -> `(B, T, 1, S, S)` float32, from 0 to 1."""
    return rendered[:, :, None].float() / 255.0


def clip_rows(maker: ClipMaker, count: int) -> datasets.Dataset:
    """Rows `row_id` and `frames` (uint8); a row is rendered when it is read, so that many cost nothing."""
    table = pa.table({"row_id": pa.array(np.arange(count), pa.int64())})
    return datasets.Dataset(table).with_transform(maker)


def row_ids(dataset: datasets.Dataset) -> np.ndarray:
    """`row_id` of all rows, int64. Asked for as a column, it would render every clip."""
    return dataset.with_format("numpy")["row_id"][:]


class ClipRow(TypedDict):
    """One clip on its way into a batch."""

    frames: np.ndarray
    row_id: int
    pass_index: int


class ClipDataset(Dataset[ClipRow]):
    """Clips by (row index, pass index).

    Args:
        dataset: of `clip_rows`, or a selection of it.
    """

    def __init__(self, dataset: datasets.Dataset) -> None:
        self._dataset = dataset

    @property
    def lengths(self) -> np.ndarray:
        """(rows,) of one value: all clips are equally long."""
        return np.ones(len(self), np.int64)

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, key: tuple[int, int]) -> ClipRow:
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: Sequence[tuple[int, int]]) -> list[ClipRow]:
        """A batch at once; the data loader looks for this method."""
        rows = self._dataset[[row for row, _ in keys]]
        return [
            {"frames": frames, "row_id": row_id, "pass_index": pass_index}
            for frames, row_id, (_, pass_index) in zip(rows["frames"], rows["row_id"], keys, strict=True)
        ]


class ClipCollator:
    """Stacks clips, which are equally long."""

    def __call__(self, rows: Sequence[ClipRow]) -> dict[str, torch.Tensor]:
        """`frames` (batch, length, S, S) uint8; `row_id`, `pass_index` (batch,) int64."""
        return {
            "frames": torch.from_numpy(np.stack([row["frames"] for row in rows])),
            "row_id": torch.tensor([row["row_id"] for row in rows], dtype=torch.int64),
            "pass_index": torch.tensor([row["pass_index"] for row in rows], dtype=torch.int64),
        }


def _shrunk(canvas: np.ndarray, factor: int) -> np.ndarray:
    """Means over squares of `factor` pixels, rounded, `(..., S, S) -> (..., S / factor, S / factor)`."""
    if factor == 1:
        return canvas
    total = np.zeros((*canvas.shape[:2], CANVAS // factor, CANVAS // factor), np.uint16)
    for row in range(factor):
        for column in range(factor):  # whole strided pictures at a time, which is eight times as fast as one sum
            total += canvas[..., row::factor, column::factor]
    return ((total + factor**2 // 2) // factor**2).astype(np.uint8)


def _turned(pictures: np.ndarray, degrees: torch.Tensor) -> np.ndarray:
    """Each picture turned about its centre, `(clips, digits, 28, 28)`; `degrees` is `(clips, digits)`."""
    angle = torch.deg2rad(degrees.flatten()).float()
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    turn = torch.stack((torch.stack((cos, -sin, zero), -1), torch.stack((sin, cos, zero), -1)), 1)
    flat = torch.from_numpy(pictures).view(-1, 1, SIDE, SIDE).float()
    grid = torch.nn.functional.affine_grid(turn, list(flat.shape), align_corners=False)
    turned = torch.nn.functional.grid_sample(flat, grid, align_corners=False)
    return turned.round().to(torch.uint8).view(pictures.shape).numpy()
