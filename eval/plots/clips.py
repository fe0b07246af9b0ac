"""Clips as pictures: what was there, what a model says, and the difference; as an animation and as a still.

shown = [ShownClip(true, predicted, first_predicted=10)]
save_animation(shown, "clips.gif"); save_still(shown, "clips.png")
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from training.common.records import write_bytes

_GAP, _HEADING = 4, 14  # pixels between pictures, and of the line above them
_GROUND, _INK, _MARK = (40, 40, 40), (220, 220, 220), (255, 190, 60)
_MILLISECONDS = 200  # of a frame
_HOLD = 4  # frames that the last one stands still for


@dataclass(frozen=True)
class ShownClip:
    """A clip and what is said of it: `(T, 1, S, S)` each, from 0 (black) to 1.

    Frames before `first_predicted` were given to the model; `predicted` holds them too.
    """

    true: Tensor
    predicted: Tensor
    first_predicted: int = 0


def save_animation(
    clips: Sequence[ShownClip], path: str | Path, labels: tuple[str, str, str] = ("truth", "prediction", "difference")
) -> None:
    """Write a GIF: a row for each clip with truth, prediction and difference beside each other.

    A frame that is predicted has a frame of colour. The difference is white where truth is brighter than the
    prediction, which missed something, and blue where the prediction is brighter, which put something there.

    Raises:
        InputError: the file cannot be written.
    """
    scale = _scale(clips)
    frames = []
    for number in range(len(clips[0].true)):
        rows = []
        for clip in clips:
            predicted = number >= clip.first_predicted
            rows.append([_enlarged(picture, scale, predicted) for picture in _three(clip, number)])
        frames.append(_sheet(rows, list(labels)))
    frames += [frames[-1]] * _HOLD
    content = io.BytesIO()
    frames[0].save(
        content, "GIF", save_all=True, append_images=frames[1:], duration=_MILLISECONDS, loop=0, optimize=False
    )
    write_bytes(content.getvalue(), path)


def save_frames(frames: Tensor, path: str | Path) -> None:
    """Write a GIF of one clip, `(T, 1, S, S)` from 0 to 1, as it is. Raises InputError where it cannot be written."""
    pixels = (frames[:, 0].clamp(0, 1) * 255).round().byte().numpy()
    pictures = [Image.fromarray(picture, "L") for picture in pixels]
    content = io.BytesIO()
    pictures[0].save(content, "GIF", save_all=True, append_images=pictures[1:], duration=_MILLISECONDS, loop=0)
    write_bytes(content.getvalue(), path)


def save_still(
    clips: Sequence[ShownClip], path: str | Path, labels: tuple[str, str, str] = ("truth", "prediction", "difference")
) -> None:
    """Write a PNG: three rows for each clip (truth, prediction, difference), its frames from left to right.

    Raises:
        InputError: the file cannot be written.
    """
    scale = max(1, _scale(clips) // 2)
    rows = []
    for clip in clips:
        columns = [_three(clip, number) for number in range(len(clip.true))]
        for kind in range(3):
            rows.append(
                [_enlarged(of[kind], scale, number >= clip.first_predicted) for number, of in enumerate(columns)]
            )
    headings = [str(number + 1) for number in range(len(clips[0].true))]
    sheet = _sheet(rows, headings, caption=f"rows: {', '.join(labels)}, of each clip")
    content = io.BytesIO()
    sheet.save(content, "PNG")
    write_bytes(content.getvalue(), path)


def difference(true: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Two pictures `(S, S)`, 0 to 1 -> colours `(S, S, 3)`, uint8: see `save_animation`."""
    missing, invented = (true - predicted).clip(0, 1), (predicted - true).clip(0, 1)
    colours = missing[..., None] * np.array([255, 255, 255]) + invented[..., None] * np.array([40, 110, 255])
    return colours.round().astype(np.uint8)


def _three(clip: ShownClip, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Truth, prediction and difference of one frame, `(S, S, 3)`, uint8."""
    true, predicted = (frames[number, 0].float().cpu().numpy() for frames in (clip.true, clip.predicted))
    greys = [np.repeat((one * 255).round().astype(np.uint8)[..., None], 3, -1) for one in (true, predicted)]
    return greys[0], greys[1], difference(true, predicted)


def _scale(clips: Sequence[ShownClip]) -> int:
    """Whole screen pixels for one of a frame: frames are some 128 pixels wide."""
    return max(1, 128 // clips[0].true.shape[-1])


def _enlarged(picture: np.ndarray, scale: int, marked: bool) -> np.ndarray:
    """Pixels as squares; with a coloured line around where `marked`, `(scale S + 2, scale S + 2, 3)`."""
    large = picture.repeat(scale, 0).repeat(scale, 1)
    framed = np.empty((large.shape[0] + 2, large.shape[1] + 2, 3), np.uint8)
    framed[:] = _MARK if marked else _GROUND
    framed[1:-1, 1:-1] = large
    return framed


def _sheet(rows: list[list[np.ndarray]], headings: list[str], caption: str = "") -> Image.Image:
    """Pictures of equal size in rows, with a word above each column."""
    side = len(rows[0][0]) + _GAP
    height = _HEADING + len(rows) * side + _GAP + (_HEADING if caption else 0)
    sheet = Image.new("RGB", (len(headings) * side + _GAP, height), _GROUND)
    write = ImageDraw.Draw(sheet)
    for column, heading in enumerate(headings):
        write.text((_GAP + column * side, 1), heading, fill=_INK)
    for number, row in enumerate(rows):
        for column, picture in enumerate(row):
            place = (_GAP + column * side, _HEADING + number * side)
            sheet.paste(Image.fromarray(picture), place)
    if caption:
        write.text((_GAP, height - _HEADING), caption, fill=_INK)
    return sheet
