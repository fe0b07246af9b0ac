"""Errors of frames: hand-worked values, the library that the field uses, and the guessers beside every score."""

import math

import numpy as np
import pytest
import torch
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from eval.metrics.frame_baselines import black, constant_velocity, copy_last, frame_baselines, frame_shifts, shifted
from eval.metrics.video import FramePrediction, absolute_error, psnr, squared_error, ssim, windowed_ssim


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def square():
    """A clip of 4 frames of 64 x 64: a white square of 10 x 10 that moves by 2 rows and -3 columns a frame."""
    frames = torch.zeros(1, 4, 1, 64, 64)
    for frame in range(4):
        frames[0, frame, 0, 20 + 2 * frame : 30 + 2 * frame, 40 - 3 * frame : 50 - 3 * frame] = 1
    return frames


# ---- figures ----


def test_errors_are_summed_over_the_pixels_of_a_frame():
    true = torch.zeros(2, 16, 16)
    true[0, :2] = 0.5  # 32 pixels
    assert squared_error(torch.zeros_like(true), true).tolist() == [8.0, 0.0]
    assert absolute_error(torch.zeros_like(true), true).tolist() == [16.0, 0.0]
    assert squared_error(torch.ones(64, 64), torch.zeros(64, 64)).item() == 4096


def test_psnr_is_that_of_the_mean_error_of_a_pixel():
    assert psnr(171.6, 64 * 64) == pytest.approx(13.78, abs=0.005)
    assert psnr(4096, 64 * 64) == 0
    assert psnr(0.0, 64 * 64) is None


def test_ssim_of_two_even_frames_is_their_luminance_term():
    # No variance: (2 m n + C1) / (m^2 + n^2 + C1).
    found = ssim(torch.full((16, 16), 0.2), torch.full((16, 16), 0.6)).item()
    assert found == pytest.approx((2 * 0.12 + 1e-4) / (0.04 + 0.36 + 1e-4), rel=1e-4)
    assert ssim(noise(3, 20, 20), noise(3, 20, 20)).tolist() == pytest.approx([1, 1, 1])


def test_ssim_is_the_mean_over_all_windows_of_seven_inside_the_frame():
    true, predicted = (noise(9, 8, seed=seed).double().numpy() for seed in (1, 2))
    values = []
    for row in range(3):
        for column in range(2):
            t, p = (of[row : row + 7, column : column + 7].ravel() for of in (true, predicted))
            (spread_t, shared), (_, spread_p) = np.cov(t, p)  # over n - 1
            luminance = (2 * t.mean() * p.mean() + 1e-4) / (t.mean() ** 2 + p.mean() ** 2 + 1e-4)
            values.append(luminance * (2 * shared + 9e-4) / (spread_t + spread_p + 9e-4))
    found = ssim(torch.from_numpy(predicted), torch.from_numpy(true)).item()
    assert found == pytest.approx(np.mean(values), abs=1e-5)


@pytest.mark.parametrize(("side", "gaussian", "size"), [(16, True, 11), (64, True, 11), (64, False, 7)])
def test_figures_agree_with_torchmetrics(side, gaussian, size):
    true, predicted = noise(4, side, side, seed=1) ** 8, noise(4, side, side, seed=2) ** 8
    _, theirs = structural_similarity_index_measure(
        predicted[:, None],
        true[:, None],
        gaussian_kernel=gaussian,
        sigma=1.5,
        kernel_size=size,
        data_range=1.0,
        return_full_image=True,
    )
    inside = theirs[:, 0, size // 2 : -(size // 2), size // 2 : -(size // 2)]  # theirs mirrors the frame outside
    weights = torch.exp(-((torch.arange(size) - size // 2) ** 2) / 4.5) if gaussian else torch.ones(size)
    ours = windowed_ssim(predicted, true, weights / weights.sum())
    assert ours.tolist() == pytest.approx(inside.mean((1, 2)).tolist(), abs=1e-5)
    mse = squared_error(predicted, true).mean().item()
    assert psnr(mse, side**2) == pytest.approx(
        peak_signal_noise_ratio(predicted, true, data_range=1.0).item(), abs=1e-4
    )


def test_frames_that_do_not_fit_are_refused_by_their_shape():
    with pytest.raises(ValueError, match=r"\(16, 16\).*\(2, 16, 16\)"):
        squared_error(torch.zeros(16, 16), torch.zeros(2, 16, 16))
    with pytest.raises(ValueError, match="6 x 8 pixels"):
        ssim(torch.zeros(6, 8), torch.zeros(6, 8))


# ---- the metric object ----


def test_the_metric_object_averages_over_frames_and_by_place_in_the_clip():
    found = FramePrediction(keep_in_memory=True).compute(
        squared_error=[1.0, 2.0, 3.0, 6.0],
        absolute_error=[2.0, 4.0, 6.0, 8.0],
        ssim=[1.0, 0.5, 0.0, 0.5],
        frame=[0, 1, 0, 1],
        pixels=300,
    )
    assert (found["mse"], found["mae"], found["ssim"]) == (3.0, 5.0, 0.5)
    assert found["psnr"] == pytest.approx(20)
    assert found["per_frame"] == {"mse": [2.0, 4.0], "mae": [4.0, 6.0], "ssim": [0.5, 0.5]}


# ---- guessers ----


def test_black_and_copy_last_are_what_they_say(square):
    assert black(square, 3).shape == copy_last(square, 3).shape == (1, 3, 1, 64, 64)
    assert black(square, 3).sum() == 0
    assert torch.equal(copy_last(square, 3), square[:, -1:].repeat(1, 3, 1, 1, 1))


def test_constant_velocity_moves_the_last_frame_on_by_its_last_shift(square):
    assert frame_shifts(square[:, 0, 0], square[:, 1, 0]).tolist() == [[2, -3]]
    assert torch.equal(constant_velocity(square[:, :2], 2), square[:, 2:])
    static = square[:, :1].repeat(1, 2, 1, 1, 1)
    assert torch.equal(constant_velocity(static, 2), static)
    assert torch.equal(constant_velocity(torch.zeros(1, 2, 1, 64, 64), 2), torch.zeros(1, 2, 1, 64, 64))


def test_what_is_moved_out_of_a_frame_is_gone_and_black_comes_in():
    picture = torch.arange(1.0, 10.0).view(1, 3, 3)
    assert shifted(picture, torch.tensor([[1, 0]])).tolist() == [[[0, 0, 0], [1, 2, 3], [4, 5, 6]]]
    assert shifted(picture, torch.tensor([[0, -2]])).tolist() == [[[3, 0, 0], [6, 0, 0], [9, 0, 0]]]
    assert shifted(picture, torch.tensor([[-5, 5]])).sum() == 0


def test_the_mean_frame_is_the_given_picture_for_every_clip(square):
    picture = noise(64, 64)
    guess = frame_baselines(picture)["mean_frame"](square, 2)
    assert torch.equal(guess, picture.expand(1, 2, 1, 64, 64))
    assert "mean_frame" not in frame_baselines(None)


def test_no_guess_has_a_smaller_squared_error_than_the_mean_among_those_that_look_at_nothing():
    true = noise(50, 16, 16, seed=3)
    best = squared_error(true.mean(0).expand_as(true), true).mean().item()
    for level in np.linspace(0, 1, 5):
        assert squared_error(torch.full_like(true, level), true).mean().item() > best
    assert math.isfinite(best)
