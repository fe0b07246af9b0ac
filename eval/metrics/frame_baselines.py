"""What a video model is compared with in every score: guessers of the frames that follow a clip.

Each takes the seen frames `(B, T, 1, S, S)` and how many to guess, and gives `(B, num_frames, 1, S, S)`.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Predict = Callable[[Tensor, int], Tensor]


def frame_baselines(mean_picture: Tensor | None) -> dict[str, Predict]:
    """All guessers by name; `mean_frame` only where the mean picture of training clips, `(S, S)`, is known."""
    guessers: dict[str, Predict] = {"black": black, "copy_last": copy_last}
    if mean_picture is not None:
        picture = mean_picture
        guessers["mean_frame"] = lambda seen, num_frames: always(picture, seen, num_frames)
    return guessers | {"constant_velocity": constant_velocity}


def black(seen: Tensor, num_frames: int) -> Tensor:
    """Nothing. On moving digits it beats copying, as a digit in the wrong place is counted twice."""
    return torch.zeros_like(seen[:, :1]).repeat(1, num_frames, 1, 1, 1)


def copy_last(seen: Tensor, num_frames: int) -> Tensor:
    """The last seen frame again and again."""
    return seen[:, -1:].repeat(1, num_frames, 1, 1, 1)


def always(picture: Tensor, seen: Tensor, num_frames: int) -> Tensor:
    """The same picture `(S, S)` for every clip: with the mean of training clips, the best guess that looks at none."""
    return picture.to(seen.device).expand(len(seen), num_frames, 1, *picture.shape)


def constant_velocity(seen: Tensor, num_frames: int) -> Tensor:
    """The last frame, moved on by the shift between the last two frames; what it leaves is black.

    One shift for the whole frame: of two digits that part, at most one is followed, and none turns at a wall.
    """
    last = seen[:, -1, 0]
    ahead = torch.arange(1, num_frames + 1, device=seen.device)[:, None]
    offsets = frame_shifts(seen[:, -2, 0], last)[:, None] * ahead  # (B, num_frames, 2)
    return shifted(last[:, None].expand(-1, num_frames, -1, -1), offsets)[:, :, None]


def frame_shifts(first: Tensor, second: Tensor) -> Tensor:
    """How far the second picture has moved on from the first, `(B, S, S)` -> `(B, 2)`, rows and columns, int64.

    The peak of the phase correlation F^-1[ conj(A) B / |conj(A) B| ] (Kuglin and Hines, The phase correlation image
    alignment method, 1975), among shifts of at most an eighth of the frame.
    """
    side = first.shape[-1]
    cross = torch.fft.fft2(first).conj() * torch.fft.fft2(second)
    surface = torch.fft.ifft2(cross / cross.abs().clamp(min=1e-6)).real
    reach = side // 8
    near = torch.arange(-reach, reach + 1, device=first.device)
    windowed = surface[:, near % side][:, :, near % side].flatten(1)
    best = windowed.argmax(1)
    return torch.stack((near[best // len(near)], near[best % len(near)]), -1)


def shifted(pictures: Tensor, offsets: Tensor) -> Tensor:
    """Pictures `(..., S, S)` moved by `offsets` `(..., 2)` rows and columns; black comes in from outside."""
    side = pictures.shape[-1]
    place = torch.arange(side, device=pictures.device)
    rows, columns = (place - offsets[..., axis, None] for axis in (0, 1))  # (..., S): where each pixel comes from
    inside = _within(rows, side)[..., :, None] & _within(columns, side)[..., None, :]
    moved = pictures.gather(-2, rows.clamp(0, side - 1)[..., :, None].expand(pictures.shape))
    moved = moved.gather(-1, columns.clamp(0, side - 1)[..., None, :].expand(pictures.shape))
    return moved.masked_fill(~inside, 0.0)


def _within(places: Tensor, side: int) -> Tensor:
    return (places >= 0) & (places < side)
