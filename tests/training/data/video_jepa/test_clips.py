import hashlib
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from training.common.errors import InputError
from training.data.video_jepa.clips import (
    Augmentation,
    ClipCollator,
    ClipDataset,
    ClipMaker,
    as_frames,
    clip_rows,
    moving_corners,
    row_ids,
)
from training.data.video_jepa.digits import Digits

FULL = Digits(np.full((3, 28, 28), 200, np.uint8), "full")
MIXED = Digits(np.random.default_rng(0).integers(0, 256, (20, 28, 28), dtype=np.uint8), "mixed")
IN_ANOTHER_PROCESS = """
import hashlib, numpy as np
from training.data.video_jepa.clips import ClipMaker
from training.data.video_jepa.digits import Digits
digits = Digits(np.random.default_rng(0).integers(0, 256, (20, 28, 28), dtype=np.uint8), "mixed")
print(hashlib.sha256(ClipMaker(digits, "valid", 3).render([7]).tobytes()).hexdigest())
"""


def test_a_clip_is_the_same_in_any_batch_order_and_process():
    maker = ClipMaker(MIXED, "valid", seed=3)
    together = maker.render([9, 7, 2**40])
    assert np.array_equal(maker.render([7])[0], together[1])
    assert np.array_equal(maker.render([2**40])[0], together[2])
    said = subprocess.run([sys.executable, "-c", IN_ANOTHER_PROCESS], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == hashlib.sha256(together[1].tobytes()).hexdigest()


def test_another_split_seed_or_index_is_another_clip():
    clips = [
        ClipMaker(MIXED, "train", 0).render([0])[0],
        ClipMaker(MIXED, "valid", 0).render([0])[0],
        ClipMaker(MIXED, "train", 1).render([0])[0],
        ClipMaker(MIXED, "train", 0).render([1])[0],
    ]
    assert len({clip.tobytes() for clip in clips}) == 4


def test_row_ids_are_told_without_rendering_a_clip(monkeypatch: pytest.MonkeyPatch):
    rows = clip_rows(ClipMaker(MIXED, "valid"), 1000)
    monkeypatch.setattr(ClipMaker, "render", lambda self, indices: pytest.fail("rendered"))
    assert np.array_equal(row_ids(rows), np.arange(1000))


def test_a_longer_clip_begins_with_the_shorter_one():
    long, short = (ClipMaker(MIXED, "train", length=length).render([4]) for length in (20, 5))
    assert np.array_equal(long[:, :5], short)


def test_digits_move_straight_by_a_tenth_of_the_free_range_and_turn_at_the_walls():
    path = moving_corners(np.array([0.5, 0.75]), np.array(0.0), length=8)
    assert path[:, 0].tolist() == [18] * 8
    # 0.85, 0.95, the wall at 1, and back: 0.9, 0.8, ...
    assert path[:, 1].tolist() == [30, 34, 36, 32, 28, 25, 21, 18]


def test_places_and_headings_are_uniform():
    maker = ClipMaker(MIXED, "train")
    index = torch.arange(4000)
    corners = maker._corners(index)[:, :, 0]
    assert corners.min() == 0
    assert corners.max() == 36
    assert abs(corners.mean() - 17.5) < 0.5
    first, second = corners[:, 0].T, corners[:, 1].T
    assert abs(np.corrcoef(np.concatenate((first, second)))[np.triu_indices(4, 1)]).max() < 0.06


def test_where_digits_overlap_the_brighter_pixel_counts():
    one, two = (ClipMaker(FULL, "train", num_digits=number).render([0, 1]) for number in (1, 2))
    assert (one == 200).sum() == 2 * 20 * 28 * 28
    assert set(np.unique(two)) == {0, 200}
    assert 0.5 < (two == 200).mean() / (one == 200).mean() <= 2


def test_smaller_frames_are_means_of_the_large_ones():
    large, half, quarter = (ClipMaker(MIXED, "train", frame_size=size).render([3]) for size in (64, 32, 16))
    means = large.reshape(1, 20, 32, 2, 32, 2).mean((3, 5))
    assert abs(half - means).max() <= 0.5
    assert abs(quarter - large.reshape(1, 20, 16, 4, 16, 4).mean((3, 5))).max() <= 0.5


def test_frames_are_of_the_shape_and_range_that_the_model_takes():
    frames = ClipMaker(MIXED, "train", length=3, frame_size=32).frames([0, 1])
    assert (frames.shape, frames.dtype) == ((2, 3, 1, 32, 32), torch.float32)
    assert frames.min() == 0
    assert 0.5 < frames.max() <= 1


@pytest.mark.parametrize("size", [63, 128, 0])
def test_a_size_that_is_no_part_of_the_canvas_is_refused(size):
    with pytest.raises(InputError, match="frame_size"):
        ClipMaker(MIXED, "train", frame_size=size)


def test_half_of_the_clips_are_mirrored_when_asked():
    plain, flipped = (ClipMaker(MIXED, "train", augmentation=Augmentation(flip=flip)) for flip in (False, True))
    before, after = plain.render(range(40)), flipped.render(range(40))
    kept = (before == after).all((1, 2, 3))
    assert 10 <= kept.sum() <= 30
    assert np.array_equal(before[~kept][..., ::-1], after[~kept])


def test_turned_digits_stay_near_and_move_alike():
    plain, turned = (ClipMaker(FULL, "train", augmentation=Augmentation(rotation=angle)) for angle in (0.0, 20.0))
    before, after = plain.render(range(8)).astype(int), turned.render(range(8)).astype(int)
    assert 0 < abs(before - after).mean() < 0.3 * before.mean()
    assert 0.85 < after.mean() / before.mean() < 1.0  # the corners of a turned square fall outside


def test_brightness_and_contrast_vary_by_clip_within_their_range():
    vary = ClipMaker(FULL, "train", augmentation=Augmentation(brightness=0.2)).render(range(30)).max((1, 2, 3))
    assert 160 <= vary.min() < 175
    assert 225 < vary.max() <= 240
    plain = ClipMaker(MIXED, "train").render(range(4)).astype(float)
    spread = ClipMaker(MIXED, "train", augmentation=Augmentation(contrast=0.5)).render(range(4)).astype(float)
    assert len({round(ratio, 2) for ratio in spread.std((1, 2, 3)) / plain.std((1, 2, 3))}) == 4


def test_rows_are_rendered_when_they_are_read_and_keep_their_index():
    maker = ClipMaker(MIXED, "train", length=4, frame_size=16)
    rows = ClipDataset(clip_rows(maker, 1_000_000))
    assert (len(rows), len(rows.lengths)) == (1_000_000, 1_000_000)
    batch = next(iter(DataLoader(rows, sampler=[(999_999, 2), (5, 3)], batch_size=2, collate_fn=ClipCollator())))
    assert batch["row_id"].tolist() == [999_999, 5]
    assert batch["pass_index"].tolist() == [2, 3]
    assert batch["frames"].dtype == torch.uint8
    assert torch.equal(as_frames(batch["frames"]), maker.frames([999_999, 5]))
    assert rows[(5, 0)]["row_id"] == 5
