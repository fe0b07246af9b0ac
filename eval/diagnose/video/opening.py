"""From a video model and what a user names to what is examined: which clips, and what it was trained for."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, Trainer

from eval.advice.record import TrainingRecord
from eval.diagnose.subject.subject import Limits
from eval.diagnose.video.subject import MOST_FRAMES, MOST_ROWS, OBJECTIVES, VIDEO, Clips, VideoSubject
from training.common.errors import InputError
from training.data.families import FAMILIES
from training.data.settings import VideoDataSettings
from training.data.video_jepa.clips import ClipMaker
from training.data.video_jepa.digits import BUILTIN, SPLITS, load_digits
from training.data.video_jepa.own_clips import with_source
from training.data.video_jepa.prepared import make_clips

NUM_CLIPS = 24


def make_video_subject(
    model: PreTrainedModel,
    data: Any,
    record: TrainingRecord | None,
    trainer: Trainer | None,
    *,
    limits: Limits | None = None,
    name: str | None = None,
) -> VideoSubject:
    """What is examined.

    Args:
        data: frames `(B, T, 1, S, S)` from 0 to 1, clips (a folder of GIFs, a `.npy` or `.npz`), or a source of digits
            (`builtin:digits`, `PATH/TO/mnist`, `hub:mnist`); None takes the run's own, and without a run the
            built-in ones.

    Raises:
        InputError: other data; digits that cannot be read; a frame size for which no clips can be made.
    """
    sample, where = _find_clips(model, data, record)
    allowed = limits or Limits()
    allowed.rows, allowed.length = min(allowed.rows, MOST_ROWS), min(MOST_FRAMES, sample.context)
    return VideoSubject(
        name=name or model.config._name_or_path or type(model).__name__,
        model=model,
        tokenizer=None,
        kind=VIDEO,
        sample=sample,
        parts={},
        data=where,
        limits=allowed,
        record=record,
        trainer=trainer,
        is_opened=name is not None,
    )


def _find_clips(model: PreTrainedModel, data: Any, record: TrainingRecord | None) -> tuple[Clips, str]:
    recipe = {} if record is None or record.run is None else record.run["recipe"]
    objective = recipe.get("masking", {}).get("objective", "future")
    objective = objective if objective in OBJECTIVES else "future"
    if isinstance(data, Tensor):
        frames = data.float()
        return Clips(frames, _coded(model, frames), objective), "clips that were handed over"
    if data is not None and not isinstance(data, str):
        raise InputError(
            f"data: got {type(data).__name__}; a video model needs frames (clips, frames, 1, S, S) from 0 to 1, a "
            f"folder of GIFs, a .npy, or a source of digits such as {BUILTIN}"
        )
    own = recipe.get("data")
    settings = FAMILIES[model.config.model_type].data_settings(**own) if own else VideoDataSettings()
    settings = settings if data is None else with_source(settings, data)
    where = _named(settings)
    if data is None and own and record is not None:
        settings, where = _still_there(settings, f"{where}, the run's own ({record.folder})")
    elif data is None:
        where += ", as no data was given"
    length, size = model.config.max_position_embeddings, model.config.frame_size
    makers = {split: make_clips(settings, split, length, size)[0] for split in SPLITS}
    frames = _held_out(makers)
    num_clips = (makers["train"].count or settings.num_clips) if own else None
    return Clips(frames, _coded(model, frames), objective, makers, num_clips), where


def _held_out(makers: dict[str, ClipMaker]) -> Tensor:
    """Test clips; where there are few, those of valid too."""
    test, valid = makers["test"], makers["valid"]
    frames = test.frames(range(min(NUM_CLIPS, test.count or NUM_CLIPS)))
    more = min(NUM_CLIPS - len(frames), valid.count or 0)
    return torch.cat([frames, valid.frames(range(more))]) if more else frames


def _named(settings: VideoDataSettings) -> str:
    return f"clips of {settings.data}" if settings.clips is None else f"the clips of {settings.clips}"


def _still_there(settings: VideoDataSettings, where: str) -> tuple[VideoDataSettings, str]:
    """The run's settings, with the built-in digits where its own source is gone."""
    try:
        if settings.clips is None:
            load_digits(settings.digits, "test")
        elif not Path(settings.clips).expanduser().exists():
            raise InputError(f"clips: {settings.clips} does not exist")
    except InputError as error:
        return with_source(settings, BUILTIN), f"clips of {BUILTIN}, as those of the run are gone ({error})"
    return settings, where


@torch.no_grad()
def _coded(model: PreTrainedModel, frames: Tensor) -> Tensor:
    """The frames' codes, on the CPU; a code's picture may be NaN, of which `gradient.non_finite` speaks.

    Raises:
        InputError: frames of another shape or range, or fewer than 4 in a clip.
    """
    try:
        codes = model.model.codes.encode(frames.to(model.device)).cpu()
    except ValueError as error:
        raise InputError(f"data: {error}") from error
    longest = model.config.max_position_embeddings
    if not len(codes) or not 4 <= codes.shape[1] <= longest:
        raise InputError(
            f"data: got {codes.shape[0]} clips of {codes.shape[1]} frames; use at least 1 of 4 to {longest}"
        )
    return codes
