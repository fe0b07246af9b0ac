"""A video checkpoint's figures on clips of a source's digits, in the style of Moving MNIST."""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from transformers import AutoModel, PreTrainedModel

from configuration_jepa import VideoJepaConfig
from eval.loading import open_model
from eval.scorers.video import VideoScores, score_clips
from training.data.clips import clip_rows
from training.data.prepared_clips import HELD_OUT_CLIPS, make_clips, mean_picture
from training.data.rows import RowReport
from training.data.settings import VideoDataSettings

VIDEO = VideoJepaConfig.model_type


def score_video_checkpoint(
    checkpoint: str,
    settings: VideoDataSettings,
    split: str,
    *,
    bound: Callable[[PreTrainedModel], int | None],
    batch_size: int,
    seed: int,
    device: str | None,
    progress: bool,
) -> tuple[VideoScores, RowReport, dict[str, Any]]:
    """Figures, what became of the digits, and how it was scored (`scoring` of the Score JSON).

    Args:
        settings: of the digits.
        bound: (model) -> clips to score at most, None for all there are.

    Raises:
        InputError: bad checkpoint, source or setting. NonFiniteError: the model predicts NaN.
    """
    model = open_model(checkpoint, AutoModel, device).float()
    maker, report = make_clips(settings, split, model.config.max_position_embeddings, model.config.frame_size)
    scores = score_clips(
        model,
        clip_rows(maker, HELD_OUT_CLIPS),
        mean_training_picture(settings, model.config),
        max_rows=bound(model),
        batch_size=batch_size,
        seed=seed,
        progress=progress,
    )
    return scores, RowReport(**report["rows"]), {"scoring": scores.details}


def mean_training_picture(settings: VideoDataSettings, config: VideoJepaConfig) -> Tensor:
    """The mean frame of training clips that are not augmented, `(S, S)`."""
    return mean_picture(settings, config.max_position_embeddings, config.frame_size)
