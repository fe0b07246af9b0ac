"""All that a training run takes from clips: rows that are rendered when they are read, and the frame tokenizer."""

import logging
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import datasets
from torch import Tensor

from configuration_jepa import VideoJepaConfig
from training.common.errors import InputError
from training.data.cache import digest
from training.data.prepared import Prepared
from training.data.settings import HELD_OUT_CLIPS, VideoDataSettings
from training.data.sources.rows import RowReport
from training.data.video_jepa.clips import Augmentation, ClipMaker, clip_rows
from training.data.video_jepa.digits import Digits, load_digits
from training.data.video_jepa.frame_tokenizer import (
    FrameTokenizer,
    count_codes,
    describe,
    make_frame_tokenizer,
    measure,
)
from training.data.video_jepa.own_clips import OwnClips, read_clips

MEAN_CLIPS = 500  # their mean picture differs from that of all by an MSE of about 0.1

logger = logging.getLogger(__name__)


@dataclass
class PreparedClips(Prepared):
    """As `Prepared`, for clips.

    `train`, `valid` and `test` have the columns `row_id` and `frames` (length, S, S; uint8), see `clip_rows`.
    `max_length` is the clips' length in frames. `counts` are those of the codes in the first training clips. A report
    holds `rows` (a RowReport as a dict, which counts clips), `tokens` (of training: what was measured of the frame
    tokenizer) and `key`.

    Attributes:
        frame_size: of the clips.
    """

    settings: VideoDataSettings
    tokenizer: FrameTokenizer
    frame_size: int = field(kw_only=True)

    @cached_property
    def mean_picture(self) -> Tensor:
        """See `mean_picture`."""
        return mean_picture(self.settings, self.max_length, self.frame_size)


def prepare_clips(
    settings: VideoDataSettings, config: VideoJepaConfig, tokenizer: FrameTokenizer | None = None
) -> PreparedClips:
    """Train and valid as rows of clips, with a frame tokenizer learned from training clips unless one is given.

    Args:
        config: its frame and square sizes, `frame_codes` and `max_position_embeddings`, the clips' length.

    Raises:
        InputError: see `load_digits`, `ClipMaker` and `make_frame_tokenizer`; a tokenizer of other sizes.
    """
    settings.validate()
    size, length = config.frame_size, config.max_position_embeddings
    (train, train_report), (valid, valid_report) = (
        make_clips(settings, split, length, size) for split in ("train", "valid")
    )
    if tokenizer is None:
        tokenizer = make_frame_tokenizer(config, settings.code_levels, train, valid)
    _check_sizes(tokenizer, config)
    if not tokenizer.report:
        tokenizer.report = measure(tokenizer, valid)

    def make_test() -> tuple[datasets.Dataset, dict[str, Any]]:
        maker, report = make_clips(settings, "test", length, size)
        return clip_rows(maker, maker.count or HELD_OUT_CLIPS), report

    for report in (train_report, valid_report):
        logger.info("%s; %s", RowReport(**report["rows"]).summary(), report["rows"]["notes"][0])
    logger.info("%s", describe(tokenizer))
    return PreparedClips(
        settings=settings,
        max_length=length,
        tokenizer=tokenizer,
        train=clip_rows(train, train.count or settings.num_clips),
        valid=clip_rows(valid, valid.count or HELD_OUT_CLIPS),
        counts=count_codes(tokenizer, train),
        data_hash=digest(train.fingerprint, valid.fingerprint, settings.num_clips, tokenizer.fingerprint),
        make_test=make_test,
        reports={"train": train_report | {"tokens": tokenizer.report}, "valid": valid_report},
        frame_size=size,
    )


def make_clips(
    settings: VideoDataSettings, split: str, length: int, frame_size: int
) -> tuple[ClipMaker, dict[str, Any]]:
    """What renders the clips of one split, and its report. Training clips alone are augmented.

    Raises:
        InputError: see `load_digits` and `ClipMaker`.
    """
    augmentation = Augmentation(settings.flip, settings.rotation, settings.brightness, settings.contrast)
    if settings.clips is not None:
        clips, notes = read_clips(Path(settings.clips).expanduser(), frame_size)
        own = OwnClips(clips, split, settings.clip_seed, length, augmentation if split == "train" else None)
        note = "; ".join([f"of {len(clips):,} clips in all; whole ones are held out", *notes])
        report = RowReport(settings.clips, split, kept=own.count, read=own.count, notes=[note], unit="clips")
        return own, {"rows": report.to_dict(), "tokens": {}, "key": own.fingerprint}
    digits = load_digits(settings.digits, split)
    maker = ClipMaker(
        digits,
        split,
        seed=settings.clip_seed,
        length=length,
        frame_size=frame_size,
        num_digits=settings.num_digits,
        augmentation=augmentation if split == "train" else None,
    )
    count = settings.num_clips if split == "train" else HELD_OUT_CLIPS
    return maker, {"rows": _row_report(settings, split, digits, count), "tokens": {}, "key": maker.fingerprint}


def mean_picture(settings: VideoDataSettings, length: int, frame_size: int) -> Tensor:
    """The mean frame of training clips that are not augmented, `(S, S)`."""
    plain = replace(settings, flip=False, rotation=0.0, brightness=0.0, contrast=0.0)
    maker, _ = make_clips(plain, "train", length, frame_size)
    return maker.frames(range(MEAN_CLIPS)).mean((0, 1, 2))


def _row_report(settings: VideoDataSettings, split: str, digits: Digits, count: int) -> dict[str, Any]:
    note = f"made of {len(digits.pictures):,} digits that no other part has, in the style of Moving MNIST"
    report = RowReport(settings.digits, split, kept=count, read=count, notes=[note], unit="clips")
    return report.to_dict()


def _check_sizes(tokenizer: FrameTokenizer, config: VideoJepaConfig) -> None:
    for name in ("frame_codes", "frame_size", "patch_size", "code_size"):
        ours, asked = getattr(tokenizer.config, name), getattr(config, name)
        if ours != asked:
            raise InputError(f"{name}: got {asked!r}, but the given frame tokenizer has {ours!r}; use that")
