"""Held-out figures of a video model while it is trained: the second half of clips after the first, in one pass."""

from typing import Any

import datasets
import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from eval.decoding.token_scores import evaluating
from eval.metrics.frame_baselines import always, black, copy_last
from eval.metrics.video import squared_error
from eval.scorers.holes import choose_rows
from eval.scorers.video import clips_at_a_time, halves
from training.data.settings import VideoMaskingSettings
from training.data.video_jepa.clips import as_frames, row_ids
from training.data.video_jepa.frame_tokenizer import FrameTokenizer
from training.data.video_jepa.masking import VideoMasker

_SEED = 0


def future_figures(
    model: PreTrainedModel,
    tokenizer: FrameTokenizer,
    dataset: datasets.Dataset,
    mean_picture: Tensor,
    max_rows: int | None,
) -> dict[str, Any]:
    """`future_loss` (nats per code) and `future_accuracy` of the hidden second half; `mse`, summed over a frame, of
    the mean frame under the same probabilities, beside `black_mse`, `copy_last_mse` and `mean_frame_mse`.

    The loss is without label smoothing. No random state is used, and the model stays in its mode.

    Args:
        dataset: as of `clip_rows`.
        mean_picture: `(S, S)`, of training clips.
        max_rows: clips, the same ones every time; None for all.
    """
    known, predicted = halves(model)
    everything = VideoMaskingSettings(objective="future", context_frames=known, mask_ratio_start=1.0)
    masker = VideoMasker(everything, tokenizer, _SEED, known + predicted)
    rows = choose_rows(row_ids(dataset), max_rows, _SEED)
    step = clips_at_a_time(model)
    sums: dict[str, list[Tensor]] = {}
    with evaluating(model):
        for start in range(0, len(rows), step):
            batch = _batch(dataset, rows[start : start + step], model.device)
            for name, values in _look(model, masker, batch, mean_picture).items():
                sums.setdefault(name, []).append(values.double().flatten().cpu())
    return {name: float(torch.cat(values).mean()) for name, values in sums.items()}


def _batch(dataset: datasets.Dataset, rows: np.ndarray, device: torch.device) -> dict[str, Tensor]:
    read = dataset[rows.tolist()]
    row_id = torch.as_tensor(np.asarray(read["row_id"]), dtype=torch.int64, device=device)
    frames = torch.from_numpy(np.stack(read["frames"])).to(device)
    return {"frames": frames, "row_id": row_id, "pass_index": torch.zeros_like(row_id)}


def _look(
    model: PreTrainedModel, masker: VideoMasker, batch: dict[str, Tensor], mean_picture: Tensor
) -> dict[str, Tensor]:
    """One value for each hidden code, or for each predicted frame."""
    known, predicted = halves(model)
    inputs = masker(batch)
    logits = model(**inputs).logits.float()
    true_codes = inputs["labels"][inputs["labels"] != -100]
    clips, _, *of_frame = inputs["codes"].shape
    guess = model.model.codes.expected(logits.softmax(-1).view(clips, predicted, *of_frame, -1))
    frames = as_frames(batch["frames"])
    seen, true = frames[:, :known], frames[:, known:]
    return {
        "future_loss": torch.nn.functional.cross_entropy(logits, true_codes, reduction="none"),
        "future_accuracy": logits.argmax(-1) == true_codes,
        "mse": squared_error(guess, true),
        "black_mse": squared_error(black(seen, predicted), true),
        "copy_last_mse": squared_error(copy_last(seen, predicted), true),
        "mean_frame_mse": squared_error(always(mean_picture, seen, predicted), true),
    }
