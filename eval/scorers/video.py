"""Held-out figures of a video model: the frames that it predicts after the first half of a clip, beside guessers.

scores = score_clips(model, clip_rows(maker, 10_000), mean_picture)
scores.metrics["mse"], scores.baselines["black"]["mse"]
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import datasets
import numpy as np
import torch
from rich.progress import Progress
from torch import Tensor
from transformers import AutoModel, PreTrainedModel

from configuration_jepa import VideoJepaConfig
from eval.decoding.token_scores import evaluating
from eval.loading import open_model
from eval.metrics.frame_baselines import Predict, frame_baselines
from eval.metrics.of_arrays import figures_of
from eval.metrics.video import FramePrediction, frame_errors, squared_error
from eval.scorers.holes import choose_rows
from eval.scorers.request import BATCH_SIZE, MAX_CLIPS, ScoreRequest, Scores
from training.common.errors import InputError, NonFiniteError
from training.data.settings import VideoDataSettings
from training.data.sources.rows import RowReport
from training.data.video_jepa.clips import as_frames, clip_rows, row_ids
from training.data.video_jepa.prepared import HELD_OUT_CLIPS, make_clips, mean_picture

SAMPLED_CLIPS = 100
STEPS, TEMPERATURE, TOP_K = 4, 0.8, 5  # of decoding, as `predict_frames` has them
_LOGITS_AT_A_TIME = 2**25  # 128 MiB of float32
_SAMPLED_AT_A_TIME = 20  # fixed: what is drawn depends on it
_AFFORDABLE_FLOPS = 30e12  # two cores: five to seven minutes, at some 50e9 a second each


@dataclass(frozen=True)
class FrameErrors:
    """Of each predicted frame, `(clips, frames)`, float64; see `eval.metrics.video`."""

    squared_error: np.ndarray
    absolute_error: np.ndarray
    ssim: np.ndarray

    def of_clips(self, clips: np.ndarray) -> "FrameErrors":
        """Those of some clips."""
        return FrameErrors(self.squared_error[clips], self.absolute_error[clips], self.ssim[clips])


def score_clips(
    model: PreTrainedModel,
    dataset: datasets.Dataset,
    mean_picture: Tensor | None = None,
    *,
    max_rows: int | None = MAX_CLIPS,
    batch_size: int = BATCH_SIZE,
    seed: int = 0,
    sampled_clips: int = SAMPLED_CLIPS,
    progress: bool = False,
) -> Scores:
    """Score a video model beside its baselines: the second half of each clip after the first.

    `answers` are the errors of every predicted frame, `{name: FrameErrors}`: of the model by `expectation`, `argmax`
    and `sample` (fewer clips), and of each baseline.

    `mse`, `mae` and `psnr` are of the mean frame under the model's probabilities (`expectation`), the best guess by
    squared error; `ssim` is of its best codes (`argmax`), as blurred frames have no structure; what the other way
    gives stands in `argmax_mse` and `expectation_ssim`. `sampled_mse` and `sampled_ssim` are of frames drawn from the
    model, on `sampled_clips` of the same clips. `reconstruction_mse` is that of the true frames, coded and decoded:
    what is left of an error where every code is right. Squared and absolute errors are summed over a frame.
    `per_frame` has lists by predicted frame.

    A baseline has one guess, so several of its figures are equal; its sampled ones are of those fewer clips.

    Memory: the logits of some clips, see `clips_at_a_time`. Uses no global random state, and leaves the model in the
    mode it was given in.

    Args:
        dataset: columns `row_id` and `frames` (length, S, S; uint8), as of `clip_rows`.
        mean_picture: `(S, S)`, of training frames, for the baseline `mean_frame`; None leaves it out.
        max_rows: clips to score, the same for a given seed; None for all.
        sampled_clips: at most.

    Raises:
        InputError: a bad setting. NonFiniteError: the model gives NaN.
    """
    ids = row_ids(dataset)
    rows = choose_rows(ids, max_rows, seed)
    some = choose_rows(ids[rows], sampled_clips, seed)
    baselines = frame_baselines(mean_picture)
    decodings: dict[str, Predict] = {name: decoder(model, name) for name in ("expectation", "argmax")}
    drawn: dict[str, Predict] = {"sample": decoder(model, "sample", torch.Generator(model.device).manual_seed(seed))}
    with Progress(disable=not progress, transient=True) as bar:
        errors = answer_clips(model, {**decodings, **baselines}, dataset, rows, batch_size, bar)
        errors |= answer_clips(model, drawn, dataset, rows[some], _SAMPLED_AT_A_TIME, bar)
        reconstruction = _reconstruction_error(model, dataset, rows, bar)
    pixels = model.config.frame_size**2
    ours = _figures(errors["expectation"], errors["argmax"], errors["sample"], pixels, reconstruction)
    guessed = {name: errors[name] for name in baselines}
    theirs = {name: _figures(of, of, of.of_clips(some), pixels, None) for name, of in guessed.items()}
    known, predicted = halves(model)
    how = {
        "context_frames": known,
        "predicted_frames": predicted,
        "frame_size": model.config.frame_size,
        "sampled_clips": len(some),
        "steps": STEPS,
        "temperature": TEMPERATURE,
        "top_k": TOP_K,
    }
    return Scores(ours, theirs, len(rows), len(rows), errors, how)


def answer_clips(
    model: PreTrainedModel,
    guessers: Mapping[str, Predict],
    dataset: datasets.Dataset,
    rows: np.ndarray,
    batch_size: int = BATCH_SIZE,
    bar: Progress | None = None,
) -> dict[str, FrameErrors]:
    """The errors of each guesser's frames, `{name: FrameErrors}`: `decoder`s of the model, `frame_baselines`.

    Args:
        dataset: as of `score_clips`.
        rows: indices of the clips.
        batch_size: clips of a forward pass, at most.

    Raises:
        NonFiniteError: a guess is NaN.
    """
    bar = bar or Progress(disable=True)
    task = bar.add_task(f"predicting frames ({', '.join(guessers)})", total=len(rows))
    found: dict[str, list[dict[str, Tensor]]] = {name: [] for name in guessers}
    known, predicted = halves(model)
    step = clips_at_a_time(model, batch_size)
    with evaluating(model):
        for start in range(0, len(rows), step):
            frames = _frames(model, dataset, rows[start : start + step])
            true = frames[:, known:]
            for name, guess in guessers.items():
                answer = guess(frames[:, :known], predicted)
                if not torch.isfinite(answer).all():
                    raise NonFiniteError("the model predicts NaN: its weights are broken, use an earlier checkpoint")
                found[name].append(frame_errors(answer[:, :, 0], true[:, :, 0]))
            bar.advance(task, len(frames))
    return {name: _joined(parts) for name, parts in found.items()}


def figures(errors: FrameErrors, pixels: int) -> dict[str, Any]:
    """`mse`, `mae`, `ssim`, `psnr` and `per_frame`, through the metric object."""
    clips, length = errors.squared_error.shape
    return figures_of(
        FramePrediction,
        squared_error=errors.squared_error.ravel(),
        absolute_error=errors.absolute_error.ravel(),
        ssim=errors.ssim.ravel(),
        frame=np.tile(np.arange(length), clips),
        pixels=pixels,
    )


def decoder(model: PreTrainedModel, mode: str, generator: torch.Generator | None = None) -> Predict:
    """The model's frames by `expectation`, `argmax` or `sample`, as a guesser."""
    return partial(
        model.predict_frames, steps=STEPS, temperature=TEMPERATURE, top_k=TOP_K, mode=mode, generator=generator
    )


def halves(model: PreTrainedModel) -> tuple[int, int]:
    """How many frames the model is shown, and how many it is to predict: of 20, 10 and 10.

    Raises:
        InputError: a model of too few frames to see motion and predict.
    """
    length = model.config.max_position_embeddings
    if length < 3:
        raise InputError(
            f"the model has places for {length} frame(s): motion is seen in 2, so use a model of 3 frames or more"
        )
    return length - length // 2, length // 2


def clips_at_a_time(model: PreTrainedModel, batch_size: int = BATCH_SIZE) -> int:
    """How many clips one forward pass takes, at most `batch_size`: the memory of the logits is bounded."""
    config = model.config
    logits = halves(model)[1] * config.tokens_per_frame * config.codes_per_token * config.vocab_size
    return max(1, min(batch_size, _LOGITS_AT_A_TIME // logits))


def affordable_clips(model: PreTrainedModel) -> int:
    """How many clips two cores score in five to seven minutes, from `SAMPLED_CLIPS` to `MAX_CLIPS`; on a GPU all.

    2 operations per parameter and token; all frames pass once by expectation, and by argmax each predicted frame once
    a step and once more when it is known.
    """
    if model.device.type != "cpu":
        return MAX_CLIPS
    known, predicted = halves(model)
    passes = 2 * known + predicted + predicted * (STEPS + 1)
    cost = 2 * model.num_parameters() * model.config.tokens_per_frame * passes
    return int(min(MAX_CLIPS, max(SAMPLED_CLIPS, _AFFORDABLE_FLOPS // cost)))


def _figures(
    expected: FrameErrors, best: FrameErrors, drawn: FrameErrors, pixels: int, reconstruction: float | None
) -> dict[str, Any]:
    """All keys of a Score JSON's `metrics`."""
    by_expectation, by_argmax, sampled = (figures(errors, pixels) for errors in (expected, best, drawn))
    return {
        "mse": by_expectation["mse"],
        "mae": by_expectation["mae"],
        "ssim": by_argmax["ssim"],
        "psnr": by_expectation["psnr"],
        "argmax_mse": by_argmax["mse"],
        "expectation_ssim": by_expectation["ssim"],
        "sampled_mse": sampled["mse"],
        "sampled_ssim": sampled["ssim"],
        "reconstruction_mse": reconstruction,
        "per_frame": {
            "mse": by_expectation["per_frame"]["mse"],
            "mae": by_expectation["per_frame"]["mae"],
            "ssim": by_argmax["per_frame"]["ssim"],
            "argmax_mse": by_argmax["per_frame"]["mse"],
            "expectation_ssim": by_expectation["per_frame"]["ssim"],
        },
    }


def _frames(model: PreTrainedModel, dataset: datasets.Dataset, rows: np.ndarray) -> Tensor:
    """`(B, T, 1, S, S)` on the model's device."""
    rendered = torch.from_numpy(np.stack(dataset[rows.tolist()]["frames"]))
    return as_frames(rendered.to(model.device))


def _reconstruction_error(model: PreTrainedModel, dataset: datasets.Dataset, rows: np.ndarray, bar: Progress) -> float:
    """Squared error of the frames to predict, coded and decoded, summed over a frame and averaged over frames."""
    codes, known = model.model.codes, halves(model)[0]
    task = bar.add_task("coding frames", total=len(rows))
    sums = []
    for start in range(0, len(rows), BATCH_SIZE):
        true = _frames(model, dataset, rows[start : start + BATCH_SIZE])[:, known:]
        sums.append(squared_error(codes.decode(codes.encode(true)), true).double().flatten())
        bar.advance(task, len(true))
    return float(torch.cat(sums).mean())


def _joined(parts: list[dict[str, Tensor]]) -> FrameErrors:
    return FrameErrors(**{name: torch.cat([part[name] for part in parts]).double().cpu().numpy() for name in parts[0]})


VIDEO = VideoJepaConfig.model_type


def score_request(request: ScoreRequest, settings: VideoDataSettings, split: str) -> tuple[Scores, RowReport]:
    """A video model's figures on clips of a source's digits."""
    model = open_model(request.checkpoint, AutoModel, request.device).float()
    maker, report = make_clips(settings, split, model.config.max_position_embeddings, model.config.frame_size)
    scores = score_clips(
        model,
        clip_rows(maker, maker.count or HELD_OUT_CLIPS),
        mean_training_picture(settings, model.config),
        max_rows=request.rows(affordable_clips(model)),
        batch_size=request.batch_size,
        seed=request.seed,
        progress=request.progress,
    )
    return scores, RowReport(**report["rows"])


def mean_training_picture(settings: VideoDataSettings, config: VideoJepaConfig) -> Tensor:
    """The mean frame of training clips that are not augmented, `(S, S)`."""
    return mean_picture(settings, config.max_position_embeddings, config.frame_size)
