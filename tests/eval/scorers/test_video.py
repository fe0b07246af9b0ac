"""Figures of a video model: what they mean, on which clips, beside what; the score file and the command line."""

import json
import shutil

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file

from eval.metrics.video import squared_error, ssim
from eval.score import main, score, score_table
from eval.scorers.checkpoint import data_settings
from eval.scorers.holes import choose_rows
from eval.scorers.request import ScoreRequest
from eval.scorers.video import (
    affordable_clips,
    answer_clips,
    clips_at_a_time,
    halves,
    mean_training_picture,
    score_clips,
)
from tests.eval.video_models import tiny_video, tiny_video_checkpoint
from training.common.errors import InputError, NonFiniteError
from training.data.settings import VideoDataSettings
from training.data.video_jepa.clips import ClipMaker, clip_rows
from training.data.video_jepa.digits import load_digits

REQUIRED = (
    *("mse", "mae", "ssim", "psnr", "sampled_mse", "sampled_ssim", "per_frame", "reconstruction_mse"),
    *("argmax_mse", "expectation_ssim"),
)
BASELINES = ["black", "copy_last", "mean_frame", "constant_velocity"]


@pytest.fixture(scope="module")
def maker():
    return ClipMaker(load_digits("builtin:digits", "test"), "test", length=8, frame_size=16)


@pytest.fixture(scope="module")
def model():
    return tiny_video()


@pytest.fixture(scope="module")
def scores(model, maker):
    return score_clips(model, clip_rows(maker, 50), torch.full((16, 16), 0.1), max_rows=12, seed=1, sampled_clips=5)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tiny_video_checkpoint(tmp_path_factory.mktemp("run") / "video")


@pytest.fixture(scope="module")
def record(checkpoint):
    return score(ScoreRequest(str(checkpoint), max_rows=10, device="cpu"))


# ---- figures ----


def test_figures_are_those_of_the_predicted_half_of_the_chosen_clips(scores, model, maker):
    rows = choose_rows(np.arange(50), 12, 1)
    frames = maker.frames(rows)
    true = frames[:, 4:, 0]
    expected, best = (model.predict_frames(frames[:, :4], 4, mode=mode)[:, :, 0] for mode in ("expectation", "argmax"))
    assert scores.metrics["mse"] == pytest.approx(squared_error(expected, true).mean().item(), rel=1e-4)
    assert scores.metrics["mae"] == pytest.approx((expected - true).abs().sum((2, 3)).mean().item(), rel=1e-4)
    assert scores.metrics["psnr"] == pytest.approx(10 * np.log10(256 / scores.metrics["mse"]), rel=1e-4)
    assert scores.metrics["ssim"] == pytest.approx(ssim(best, true).mean().item(), abs=1e-4)
    by_frame = squared_error(best, true).mean(0).tolist()
    assert scores.metrics["per_frame"]["argmax_mse"] == pytest.approx(by_frame, rel=1e-4)
    codes = model.model.codes
    again = codes.decode(codes.encode(frames[:, 4:]))[:, :, 0]
    assert scores.metrics["reconstruction_mse"] == pytest.approx(squared_error(again, true).mean().item(), rel=1e-4)
    assert scores.num_examples == scores.num_rows == 12


def test_baselines_have_the_models_keys_and_their_own_errors(scores, maker):
    assert list(scores.baselines) == BASELINES
    assert all(set(of) == set(scores.metrics) == set(REQUIRED) for of in scores.baselines.values())
    frames = maker.frames(choose_rows(np.arange(50), 12, 1))[:, :, 0]
    black, copied = scores.baselines["black"], scores.baselines["copy_last"]
    assert black["mse"] == black["argmax_mse"] == pytest.approx(frames[:, 4:].pow(2).sum((2, 3)).mean().item())
    copies = (frames[:, 4:] - frames[:, 3:4]).pow(2).sum((2, 3)).mean(0).tolist()
    assert copied["per_frame"]["mse"] == pytest.approx(copies, rel=1e-4)
    assert scores.baselines["mean_frame"]["mse"] != black["mse"]


def test_sampled_figures_are_of_the_same_few_clips_for_model_and_baselines(scores, maker):
    rows = choose_rows(np.arange(50), 12, 1)
    some = rows[choose_rows(rows, 5, 1)]
    black = maker.frames(some)[:, 4:, 0].pow(2).sum((2, 3)).mean().item()
    assert scores.baselines["black"]["sampled_mse"] == pytest.approx(black, rel=1e-4)
    assert scores.answers["sample"].squared_error.shape == (5, 4)
    assert scores.details["sampled_clips"] == 5


def test_scores_do_not_depend_on_batch_size_or_random_state_and_leave_the_models_mode(scores, maker):
    model = tiny_video(dropout=0.5).train()
    torch.manual_seed(77)
    state = torch.get_rng_state()
    again = score_clips(
        model, clip_rows(maker, 50), torch.full((16, 16), 0.1), max_rows=12, seed=1, sampled_clips=5, batch_size=5
    )
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    flat = {**again.metrics, **again.metrics.pop("per_frame")}
    ours = {**scores.metrics, **scores.metrics["per_frame"]}
    for name, value in flat.items():
        assert value == pytest.approx(ours[name], rel=1e-4)


def test_a_perfect_guesser_has_no_error_and_no_psnr(model, maker):
    dataset, rows = clip_rows(maker, 4), np.arange(4)
    true = maker.frames(rows)[:, 4:]
    errors = answer_clips(model, {"oracle": lambda seen, count: true}, dataset, rows)["oracle"]
    assert errors.squared_error.max() == errors.absolute_error.max() == 0
    assert errors.ssim.min() == pytest.approx(1, abs=1e-5)


def test_a_model_that_predicts_nan_is_refused(maker):
    model = tiny_video()
    model.model.norm.weight.data[0] = float("nan")
    with pytest.raises(NonFiniteError, match="NaN"):
        score_clips(model, clip_rows(maker, 5))


def test_the_mean_picture_is_of_training_digits_without_augmentation(model):
    plain = VideoDataSettings(digits="builtin:digits")
    varied = VideoDataSettings(digits="builtin:digits", flip=True, brightness=0.5)
    first = mean_training_picture(plain, model.config)
    assert first.shape == (16, 16)
    assert torch.equal(first, mean_training_picture(varied, model.config))
    assert first[8, 8] > first[0, 0]


# ---- how much ----


def test_large_models_are_scored_on_fewer_clips_on_a_cpu_and_memory_is_bounded(model):
    assert affordable_clips(model) == 1000
    large = tiny_video(hidden_size=512, num_hidden_layers=4, num_attention_heads=4, frame_size=64)
    assert 100 <= affordable_clips(large) < 1000
    assert clips_at_a_time(model, 64) == 64
    assert clips_at_a_time(tiny_video(vocab_size=60_000), 64) == 2**25 // (4 * 4 * 4 * 60_000)
    assert halves(model) == (4, 4)


def test_two_frames_are_too_few_to_score():
    with pytest.raises(InputError, match="3 frames or more"):
        halves(tiny_video(max_position_embeddings=2))


# ---- checkpoint and command line ----


def test_the_record_holds_the_agreed_keys_and_is_json_without_nan(record):
    assert set(record["metrics"]) == set(REQUIRED)
    assert list(record["baselines"]) == BASELINES
    assert (record["family"], record["data"], record["split"]) == ("video_jepa", "builtin:digits", "test")
    assert record["num_examples"] == record["num_rows"] == record["scoring"]["sampled_clips"] == 10
    json.dumps(record, allow_nan=False)


def test_settings_of_the_run_are_kept_when_only_the_digits_change(checkpoint, tmp_path):
    for request in (ScoreRequest(str(checkpoint), digits="x"), ScoreRequest(str(checkpoint), data="x")):
        settings = data_settings(request)
        assert (settings.digits, settings.flip, settings.clip_seed) == ("x", True, 3)
    folder = shutil.copytree(checkpoint, tmp_path / "copy")
    (folder / "run.json").unlink()
    with pytest.raises(InputError, match="--digits"):
        data_settings(ScoreRequest(str(folder)))


def test_the_table_shows_every_baseline_under_the_model_and_the_conventions(record):
    console = Console(width=130, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(score_table(record))
    text = console.export_text()
    for name in ("model", "black", "copy last", "mean frame", "constant velocity", "summed over a frame", "by frame"):
        assert name in text


def test_the_command_line_writes_figures_and_curves(checkpoint, tmp_path, capsys):
    target, plot = tmp_path / "deep" / "video.json", tmp_path / "frames.png"
    command = [str(checkpoint), "--digits", "builtin:digits", "--max_rows", "3", "--device", "cpu"]
    assert main([*command, "--json", str(target), "--plot", str(plot)]) == 0
    assert json.loads(target.read_text())["num_examples"] == 3
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert "constant velocity" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--digits", "{tmp}/nowhere"], "nowhere"),
        (["--digits", "{tmp}/short.idx"], "short.idx"),
        (["--digits", "a", "--data", "b"], "--digits alone"),
        (["--split", "all"], "train, valid, test"),
        (["--text_column", "body"], "text_column"),
        (["--context", "4"], "context"),
        (["--max_rows", "0"], "max_rows"),
        (["--plot", "{tmp}"], "cannot be written"),
    ],
)
def test_bad_input_ends_with_one_line_that_names_it_and_code_2(arguments, named, checkpoint, tmp_path, capsys):
    (tmp_path / "short.idx").write_bytes(b"\0\0\x08\x03")
    filled = [argument.format(tmp=tmp_path) for argument in arguments]
    assert main([str(checkpoint), *filled, "--device", "cpu"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert named in error


def test_a_broken_checkpoint_ends_with_code_3(checkpoint, tmp_path, capsys):
    folder = shutil.copytree(checkpoint, tmp_path / "copy")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"][0] = float("nan")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert main([str(folder), "--max_rows", "3", "--device", "cpu"]) == 3
    assert "NaN" in capsys.readouterr().err
