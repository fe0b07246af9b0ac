"""What training needs to know about the video model, beyond what all families share."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModel, PreTrainedModel

from configuration_jepa import VideoJepaConfig
from eval.loading import open_model
from eval.metrics.frame_baselines import black, copy_last
from eval.metrics.video import squared_error
from eval.plots.clips import save_animation, save_still
from eval.plots.frame_curves import plot_frames
from eval.predict_video import predict_clips
from eval.rules import Range, Verdict, judge_video_size, readable, video_size_range
from eval.scorers.video import decoder, halves
from modeling_jepa import VideoJepaForFramePrediction
from training.common.layout import CLIPS_FILE, FRAMES_FILE, STILL_FILE, TEMPLATES
from training.data.settings import VideoDataSettings
from training.data.sources.locate import SourceInfo
from training.data.video_jepa.clips import as_frames
from training.data.video_jepa.digits import BUILTIN, hub_id_of
from training.data.video_jepa.frame_tokenizer import FrameTokenizer
from training.data.video_jepa.prepared import PreparedClips
from training.families.video_held_out import future_figures
from training.family import CardStyle, Family, Sample
from training.run.run import Run

_SHOWN_CLIPS = 4


def _video_tokens(prepared: PreparedClips) -> int:
    """Clips x frames x tokens of a frame; `counts` are those of a few clips only."""
    return len(prepared.train) * prepared.max_length * prepared.tokenizer.config.tokens_per_frame


def _frames(dataset: Any, numbers: list[int]) -> Tensor:
    """`(clips, T, 1, S, S)`, float32."""
    return as_frames(torch.from_numpy(np.stack(dataset[numbers]["frames"])))


def _card_extras(recipe: dict[str, Any], score: dict[str, Any] | None) -> dict[str, Any]:
    model = recipe["model"]
    predicted = model["max_position_embeddings"] // 2
    return {
        "known_frames": model["max_position_embeddings"] - predicted,
        "predicted_frames": predicted,
        "frame_size": model["frame_size"],
    }


class VideoJepa(Family):
    """The video model."""

    name = "video_jepa"
    config_class = VideoJepaConfig
    model_class = VideoJepaForFramePrediction
    auto_class = AutoModel
    card = CardStyle(
        template=TEMPLATES / "template_video_jepa.md",
        task="video-to-video",
        claimed=("mse", "ssim", "psnr"),
        figures=("mse", "mae", "psnr", "ssim", "argmax_mse", "sampled_mse", "sampled_ssim"),
        milestone_figures=("loss", "future_loss", "future_accuracy", "mse", "black_mse", "mean_frame_mse"),
        extras=_card_extras,
        shown={"tokens": None, "clips_file": None, "shown_clips": 0},
        unit="clips",
        data_flag="digits",
    )

    def put_in(self, model: PreTrainedModel, prepared: PreparedClips) -> None:
        """The pictures of the codes, which decode them wherever the model goes."""
        super().put_in(model, prepared)
        model.set_frame_codes(prepared.tokenizer.values)

    def count_tokens(self, inputs: dict[str, Tensor]) -> Tensor:
        """All squares of all frames: clips have no padding."""
        codes = inputs["codes"]
        return codes.new_tensor(codes[..., 0].numel())

    def score_held_out(self, model: PreTrainedModel, prepared: PreparedClips, max_rows: int) -> dict[str, Any]:
        """How well the hidden second half is predicted."""
        return future_figures(model, prepared.tokenizer, prepared.valid, prepared.mean_picture, max_rows)

    def make_sample(self, prepared: PreparedClips) -> Sample:
        """The errors of one held-out clip."""

        def sample(model: PreTrainedModel, tokenizer: FrameTokenizer, number: str) -> str:
            """The error of each predicted frame of one held-out clip, beside the means of two guessers."""
            clip = _frames(prepared.valid, [int(number)]).to(model.device)
            known, predicted = halves(model)
            seen, true = clip[:, :known], clip[:, known:]
            errors = squared_error(decoder(model, "expectation")(seen, predicted), true)
            guessed = [float(squared_error(guess(seen, predicted), true).mean()) for guess in (black, copy_last)]
            by_frame = ", ".join(f"{float(error):.0f}" for error in errors.flatten())
            return (
                f"clip {number}, squared error of frames {known + 1} to {known + predicted}: {by_frame} (mean: black "
                f"{guessed[0]:.0f}, copy last {guessed[1]:.0f})"
            )

        return sample

    def describe_data(self, prepared: PreparedClips) -> str:
        """Clips, frames, tokens and codes."""
        size = prepared.frame_size
        return (
            f"{len(prepared.train):,} clips of {prepared.max_length} frames of {size} x {size} pixels: "
            f"{readable(_video_tokens(prepared))} tokens, {len(prepared.tokenizer):,} codes"
        )

    def suits(self, prepared: PreparedClips) -> Range:
        """By the tokens of all clips."""
        return video_size_range(_video_tokens(prepared))

    def judge(self, run: Run, prepared: PreparedClips, trainable: int, rows_per_step: int) -> list[Verdict]:
        """The size alone: clips are made anew."""
        return [judge_video_size(trainable, _video_tokens(prepared))]

    def source(self, settings: VideoDataSettings) -> SourceInfo:
        """The digits or clips, by name; a path says nothing but its last part."""
        if settings.clips is not None:
            return SourceInfo(f"clips of {Path(settings.clips).name}", None, None, None)
        if settings.digits == BUILTIN:
            title = "clips in the style of Moving MNIST, made of scikit-learn's handwritten digits"
            return SourceInfo(title, "CC BY 4.0", None, None)
        hub_id = hub_id_of(settings.digits)
        name = hub_id or Path(settings.digits).name
        return SourceInfo(f"clips in the style of Moving MNIST, made of the digits of {name}", None, None, hub_id)

    def at_end(self, run: Run, prepared: PreparedClips) -> dict[str, Any]:
        """Truth, prediction and difference of the first test clips, as an animation and as a still."""
        model = open_model(run.output_dir, AutoModel, None if run.device == "auto" else run.device)
        shown = predict_clips(model, _frames(prepared.test, list(range(min(_SHOWN_CLIPS, len(prepared.test))))))
        save_animation(shown, run.output_dir / CLIPS_FILE)
        save_still(shown, run.output_dir / STILL_FILE)
        return {"tokens": prepared.tokenizer.report, "clips_file": CLIPS_FILE, "shown_clips": len(shown)}

    def plot_score(self, record: dict[str, Any], run_dir: Path) -> None:
        """Error and similarity by predicted frame, beside the guessers'."""
        plot_frames(record, run_dir / FRAMES_FILE)
