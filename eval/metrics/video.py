"""Figures of predicted frames, as a metric object of the `evaluate` library and as the functions behind it.

errors = frame_errors(predicted, true)  # frames (n, S, S), from 0 (black) to 1
metric = FramePrediction(keep_in_memory=True)
metric.compute(**errors, frame=[0, 1, 2], pixels=64 * 64)

The conventions are those of the field's tables of Moving MNIST: errors are summed over the pixels of a frame and then
averaged over frames, the PSNR is that of the mean error, and SSIM is averaged over the windows inside a frame.

This file imports nothing of this package, so that it also loads from its path alone.
"""

import math

import datasets
import evaluate
import numpy as np
import torch
from torch import Tensor

_DESCRIPTION = "Squared and absolute error per frame, structural similarity and PSNR of predicted frames."
_INPUTS = """
One entry per predicted frame, as `frame_errors` gives them.

Args:
    squared_error: summed over the pixels of the frame, which go from 0 to 1.
    absolute_error: likewise.
    ssim: structural similarity of the frame.
    frame: its number among the predicted frames of its clip, from 0.
    pixels: of a frame, such as 64 * 64.
Returns:
    mse, mae (per frame, from 0), ssim (-1..1), psnr (in dB, of the mean squared error; None where that is 0), and
    per_frame: for mse, mae and ssim a list by `frame`, from the first to the last one given.
Examples:
    >>> import evaluate
    >>> metric = evaluate.load("eval/metrics/video.py", keep_in_memory=True)
    >>> figures = metric.compute(
    ...     squared_error=[4.0, 8.0], absolute_error=[6.0, 9.0], ssim=[0.9, 0.7], frame=[0, 1], pixels=600
    ... )
    >>> figures["mse"], figures["psnr"], figures["per_frame"]["mae"]
    (6.0, 20.0, [6.0, 9.0])
"""
_CITATION = r"""
@article{wang2004image,
  title = {Image Quality Assessment: From Error Visibility to Structural Similarity},
  author = {Zhou Wang and Alan C. Bovik and Hamid R. Sheikh and Eero P. Simoncelli},
  journal = {IEEE Transactions on Image Processing},
  volume = {13},
  number = {4},
  year = {2004},
}
@inproceedings{srivastava2015unsupervised,
  title = {Unsupervised Learning of Video Representations using {LSTMs}},
  author = {Nitish Srivastava and Elman Mansimov and Ruslan Salakhutdinov},
  booktitle = {International Conference on Machine Learning},
  year = {2015},
}
"""
_COLUMNS = {"mse": "squared_error", "mae": "absolute_error", "ssim": "ssim"}
FIGURE_NAMES = ("mse", "mae", "ssim", "psnr")
WINDOW = 7  # of SSIM, in pixels
_C1, _C2 = 0.01**2, 0.03**2  # (K1 L)^2 and (K2 L)^2 for a range L of 1


class FramePrediction(evaluate.Metric):
    """See the module's text."""

    def _info(self) -> evaluate.MetricInfo:
        numbers = {name: datasets.Value("float64") for name in _COLUMNS.values()}
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features({**numbers, "frame": datasets.Value("int64")}),
        )

    def _compute(
        self, squared_error, absolute_error, ssim, frame, pixels
    ) -> dict[str, float | dict[str, list[float]] | None]:
        """Everything in `_INPUTS`' Returns; plain Python numbers."""
        columns = {"mse": squared_error, "mae": absolute_error, "ssim": ssim}
        figures = {name: float(np.mean(np.asarray(column))) for name, column in columns.items()}
        by_frame = {name: _means_by(np.asarray(frame), np.asarray(column)) for name, column in columns.items()}
        return {**figures, "psnr": psnr(figures["mse"], pixels), "per_frame": by_frame}


def frame_errors(predicted: Tensor, true: Tensor) -> dict[str, Tensor]:
    """The columns of the metric object: `squared_error`, `absolute_error` and `ssim`, each `(...)`, for frames
    `(..., S, S)` from 0 to 1.

    Raises:
        ValueError: frames of different shapes, or smaller than the window of SSIM.
    """
    return {
        "squared_error": squared_error(predicted, true),
        "absolute_error": absolute_error(predicted, true),
        "ssim": ssim(predicted, true),
    }


def squared_error(predicted: Tensor, true: Tensor) -> Tensor:
    """Sum over pixels of (p - t)^2, `(..., S, S) -> (...)`. A frame of 64 x 64 all wrong has 4,096."""
    _check_shapes(predicted, true)
    return (predicted.float() - true.float()).pow(2).sum((-2, -1))


def absolute_error(predicted: Tensor, true: Tensor) -> Tensor:
    """Sum over pixels of |p - t|, `(..., S, S) -> (...)`."""
    _check_shapes(predicted, true)
    return (predicted.float() - true.float()).abs().sum((-2, -1))


def psnr(mse: float, pixels: int) -> float | None:
    """10 log10(1 / (mse / pixels)) in dB, `mse` summed over a frame of so many pixels and averaged over frames.

    Of the mean error, not the mean over frames, which a few perfect frames could raise without bound. None for 0.
    """
    return 10 * math.log10(pixels / mse) if mse > 0 else None


def ssim(predicted: Tensor, true: Tensor) -> Tensor:
    """Structural similarity, `(..., S, S) -> (...)`, from -1 to 1, which is equal.

    (2 m_p m_t + C1)(2 s_pt + C2) / ((m_p^2 + m_t^2 + C1)(s_p^2 + s_t^2 + C2)), eq. 13 of Wang et al., Image Quality
    Assessment: From Error Visibility to Structural Similarity, IEEE TIP 13(4), 2004, with K1 = 0.01, K2 = 0.03 and a
    range of 1. As in the field's tables of Moving MNIST (scikit-image's default): means under an even window of 7 x 7
    pixels, (co)variances over n - 1 = 48, averaged over all windows that lie wholly inside the frame.

    A black window predicted as black counts as 1, so a black frame does well on moving digits. The paper's own window
    (Gaussian, 11 x 11) gives black frames some 0.05 less: figures compare within one convention only.

    Raises:
        ValueError: frames of different shapes, or smaller than the window.
    """
    _check_shapes(predicted, true)
    if min(true.shape[-2:]) < WINDOW:
        size = " x ".join(map(str, true.shape[-2:]))
        raise ValueError(f"frames of {size} pixels have no SSIM: its window is {WINDOW} x {WINDOW}.")
    pixels = WINDOW**2
    return windowed_ssim(predicted, true, torch.full((WINDOW,), 1 / WINDOW), pixels / (pixels - 1))


def windowed_ssim(predicted: Tensor, true: Tensor, weights: Tensor, correction: float = 1.0) -> Tensor:
    """As `ssim` with any window.

    Args:
        weights: of the window along rows and along columns, `(size,)`, with the sum 1.
        correction: what (co)variances are multiplied by.
    """
    rows, columns = (_band(size, weights).to(true.device) for size in true.shape[-2:])
    p, t = predicted.float(), true.float()
    mean_p, mean_t, mean_pp, mean_tt, mean_pt = (rows @ of @ columns.T for of in (p, t, p * p, t * t, p * t))
    spread = correction * (mean_pp - mean_p**2 + mean_tt - mean_t**2)
    shared = correction * (mean_pt - mean_p * mean_t)
    luminance = (2 * mean_p * mean_t + _C1) / (mean_p**2 + mean_t**2 + _C1)
    return (luminance * (2 * shared + _C2) / (spread + _C2)).mean((-2, -1))


def _band(size: int, weights: Tensor) -> Tensor:
    """`(size - w + 1, size)`: row i holds the w weights at the places from i on, so one product slides the window."""
    band = torch.zeros(size - len(weights) + 1, size)
    for start in range(len(band)):
        band[start, start : start + len(weights)] = weights
    return band


def _means_by(number: np.ndarray, values: np.ndarray) -> list[float]:
    """The mean of the values of each number, from the smallest one to the largest."""
    return [float(values[number == one].mean()) for one in np.unique(number)]


def _check_shapes(predicted: Tensor, true: Tensor) -> None:
    if predicted.shape != true.shape or true.dim() < 2:
        raise ValueError(
            f"predicted has shape {tuple(predicted.shape)} and true {tuple(true.shape)}: give two of one shape, "
            "(..., height, width)."
        )
