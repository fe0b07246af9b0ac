"""`python -m eval.predict_video`: what the pictures show, and its exit codes."""

import numpy as np
import pytest
import torch
from PIL import Image

from eval.plots.clips import ShownClip, difference, save_animation, save_still
from eval.predict_video import main, predict_clips, recode_clips
from tests.eval.video_models import tiny_video, tiny_video_checkpoint
from training.common.errors import InputError, NonFiniteError


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tiny_video_checkpoint(tmp_path_factory.mktemp("run") / "video")


@pytest.fixture(scope="module")
def model():
    return tiny_video()


@pytest.fixture
def frames():
    """Two clips whose pixels tell clip and frame."""
    levels = torch.arange(16).view(2, 8, 1, 1, 1) / 15
    return levels.expand(2, 8, 1, 16, 16).clone()


def test_a_shown_clip_holds_the_seen_frames_and_then_the_models(model, frames):
    for mode in ("argmax", "expectation"):
        shown = predict_clips(model, frames, mode)
        said = model.predict_frames(frames[:, :4], 4, mode=mode)
        assert [clip.first_predicted for clip in shown] == [4, 4]
        for clip, true, guess in zip(shown, frames, said, strict=True):
            assert torch.equal(clip.true, true)
            assert torch.equal(clip.predicted, torch.cat((true[:4], guess)))


def test_sampling_is_a_function_of_the_seed_and_uses_no_global_random_state(model, frames):
    state = torch.get_rng_state()
    first, again, other = (predict_clips(model, frames, "sample", seed=seed)[0].predicted for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_recoded_clips_are_the_codes_pictures(model, frames):
    codes = model.model.codes
    shown = recode_clips(model, frames)
    assert torch.equal(shown[1].predicted, codes.decode(codes.encode(frames))[1])
    assert torch.equal(shown[1].true, frames[1])


def test_a_setting_that_the_model_refuses_is_bad_input_and_nan_is_not_hidden(model, frames):
    with pytest.raises(InputError, match="temperature"):
        predict_clips(model, frames, "sample", temperature=0.0)
    broken = tiny_video()
    broken.model.norm.weight.data[0] = float("nan")
    with pytest.raises(NonFiniteError):
        predict_clips(broken, frames, "argmax")


def test_the_difference_is_white_where_something_is_missed_and_blue_where_it_is_invented():
    true, said = np.array([[1.0, 0.0, 0.5]]), np.array([[0.0, 1.0, 0.5]])
    assert difference(true, said).tolist() == [[[255, 255, 255], [40, 110, 255], [0, 0, 0]]]


def test_the_animation_has_a_frame_for_each_of_the_clip_and_marks_the_predicted_ones(tmp_path, frames):
    clips = [ShownClip(clip, clip.flip(0), 4) for clip in frames]
    save_animation(clips, tmp_path / "clips.gif")
    with Image.open(tmp_path / "clips.gif") as animation:
        assert animation.format == "GIF"
        assert animation.info["loop"] == 0
        pictures, shown_for = [], []
        for number in range(animation.n_frames):
            animation.seek(number)
            pictures.append(np.asarray(animation.convert("RGB")))
            shown_for.append(animation.info["duration"])
    assert len(pictures) == 8
    assert shown_for[-1] > shown_for[0]
    side = 128 + 2 + 4
    middle = (14 + side // 2, 4 + side // 2)
    assert [int(picture[middle][0]) for picture in pictures] == [round(255 * level / 15) for level in range(8)]
    second_column = [int(picture[middle[0], middle[1] + side][0]) for picture in pictures]
    assert second_column == [round(255 * level / 15) for level in range(7, -1, -1)]
    corner = [tuple(picture[14, 4].tolist()) for picture in pictures]
    assert len(set(corner[:4])) == len(set(corner[4:])) == 1
    assert corner[0] != corner[4]


def test_the_still_has_three_rows_a_clip_and_a_column_a_frame(tmp_path, frames):
    save_still([ShownClip(clip, clip, 4) for clip in frames], tmp_path / "deep" / "clips.png")
    with Image.open(tmp_path / "deep" / "clips.png") as still:
        assert still.format == "PNG"
        picture = np.asarray(still.convert("RGB"))
    side = 64 + 2 + 4
    assert picture.shape == (14 + 6 * side + 4 + 14, 8 * side + 4, 3)
    assert picture[14 + side // 2, 4 + 3 * side + side // 2].tolist() == [51, 51, 51]  # the first clip's fourth frame
    assert picture[14 + 2 * side + side // 2, 4 + side // 2].tolist() == [0, 0, 0]  # no difference


def test_the_command_line_writes_both_pictures_and_the_errors_beside_guessers(checkpoint, tmp_path, capsys):
    out, still = tmp_path / "clips.gif", tmp_path / "clips.png"
    command = [str(checkpoint), "--clips", "2", "--device", "cpu", "--out", str(out), "--still", str(still)]
    assert main(command) == 0
    assert out.read_bytes().startswith(b"GIF")
    assert still.read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert "black MSE" in printed
    assert "clips.gif" in printed.replace("\n", "")
    kept = still.read_bytes()
    assert main([*command, "--tokens"]) == 0
    assert "coded and decoded" in " ".join(capsys.readouterr().out.split())
    assert still.read_bytes() != kept


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "--out"),
        (["--out", "{tmp}"], "cannot be written"),
        (["--out", "{tmp}/a.gif", "--clips", "0"], "clips: got 0"),
        (["--out", "{tmp}/a.gif", "--first", "-1"], "first: got -1"),
        (["--out", "{tmp}/a.gif", "--top_k", "-1"], "top_k: got -1"),
        (["--out", "{tmp}/a.gif", "--steps", "0"], "steps=0"),
        (["--out", "{tmp}/a.gif", "--digits", "{tmp}/nowhere"], "nowhere"),
    ],
)
def test_bad_input_ends_with_one_line_that_names_it_and_code_2(arguments, named, checkpoint, tmp_path, capsys):
    filled = [argument.format(tmp=tmp_path) for argument in arguments]
    assert main([str(checkpoint), *filled, "--device", "cpu"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert named in error
    assert list(tmp_path.iterdir()) == []


def test_what_follows_a_clip_of_ones_own_begins_with_its_last_frames(checkpoint, tmp_path, capsys):
    clip = np.random.default_rng(0).integers(0, 255, (1, 9, 16, 16), np.uint8)
    np.save(tmp_path / "mine.npy", clip)
    command = [str(checkpoint), "--input", str(tmp_path / "mine.npy"), "--device", "cpu"]
    assert main([*command, "--out", str(tmp_path / "next.gif")]) == 0
    assert "the last 4 frames" in capsys.readouterr().out
    with Image.open(tmp_path / "next.gif") as picture:
        assert picture.n_frames == 8
        assert np.abs(np.asarray(picture.convert("L")).astype(int) - clip[0, 5]).max() <= 1
    np.save(tmp_path / "mine.npy", clip[:, :3])
    assert main([*command, "--out", str(tmp_path / "next.gif")]) == 2
    assert "has 3 frames" in capsys.readouterr().err
