import numpy as np
import pytest
from PIL import Image

from configuration_jepa import VideoJepaConfig
from training.common.errors import InputError
from training.data.settings import VideoDataSettings
from training.data.video_jepa.own_clips import OwnClips, is_clips, read_clips
from training.data.video_jepa.prepared import prepare_clips

CLIPS = np.random.default_rng(0).integers(0, 255, (12, 6, 16, 16), np.uint8)


def saved(path, array):
    np.save(path, array)
    return path


def write_gif(path, frames):
    pictures = [Image.fromarray(frame) for frame in frames]
    pictures[0].save(path, save_all=True, append_images=pictures[1:])
    return path


@pytest.mark.parametrize("scale", [1, 255])
def test_bytes_and_floats_to_one_or_to_255_are_the_same_clips(tmp_path, scale):
    whole = read_clips(saved(tmp_path / "a.npy", CLIPS), 16)
    floats = read_clips(saved(tmp_path / "b.npy", CLIPS.astype(np.float32) / scale), 16)
    assert whole[1] == floats[1] == []
    assert np.array_equal(np.stack(whole[0]), CLIPS)
    assert np.array_equal(np.stack(floats[0]), CLIPS)


def test_colours_become_greys_and_sizes_the_models_and_both_are_said(tmp_path):
    colours = np.zeros((4, 6, 20, 30, 3), np.uint8)
    colours[..., 1] = 100
    clips, notes = read_clips(saved(tmp_path / "a.npy", colours), 16)
    assert np.stack(clips).shape == (4, 6, 16, 16)
    assert np.unique(np.stack(clips)).tolist() == [59]  # 0.587 of 100
    assert notes == ["colours are read as greys", "frames of 30 x 20 pixels are brought to 16 x 16"]


def test_a_folder_of_animations_is_read_a_file_a_clip(tmp_path):
    for number in range(4):
        grey = np.full((5, 16, 16), 40 * number, np.uint8)
        grey[:, :, :8] = np.arange(5, dtype=np.uint8)[:, None, None] * 20
        write_gif(tmp_path / f"{number}.gif", grey)
    clips, notes = read_clips(tmp_path, 16)
    assert [clip.shape for clip in clips] == [(5, 16, 16)] * 4
    assert notes == []
    assert [int(clip[0, 0, 12]) for clip in clips] == [0, 40, 80, 120]


def test_a_folder_of_arrays_is_read_one_clip_or_several_a_file(tmp_path):
    colours = np.repeat(CLIPS[..., None], 3, axis=-1)
    for name, array in {"a": colours[0], "b": CLIPS[1], "c": CLIPS[2:5], "d": colours[5:7]}.items():
        saved(tmp_path / f"{name}.npy", array)
    clips, notes = read_clips(tmp_path, 16)
    assert np.array_equal(np.stack(clips), CLIPS[:7])
    assert notes == ["colours are read as greys"]
    assert is_clips(str(tmp_path))


def test_no_two_parts_have_frames_of_the_same_clip(tmp_path):
    settings = VideoDataSettings(clips=str(saved(tmp_path / "a.npy", CLIPS)), code_levels=[16])
    sizes = {"frame_size": 16, "patch_size": 8, "code_size": 1, "max_position_embeddings": 4}
    config = VideoJepaConfig(vocab_size=16, frame_codes="grey", **sizes)
    ready = prepare_clips(settings, config)
    frames = {name: {f.tobytes() for clip in getattr(ready, name)[:]["frames"] for f in np.asarray(clip)}
              for name in ("train", "valid", "test")}  # fmt: skip
    assert len(ready.train) == 20  # two windows of each of 10 clips
    assert not frames["train"] & (frames["valid"] | frames["test"])
    assert not frames["valid"] & frames["test"]
    assert "whole ones are held out" in ready.reports["train"]["rows"]["notes"][0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: write_gif(folder / "a.gif", CLIPS[0, :1]), "has one frame"),
        (lambda folder: saved(folder / "a.npy", CLIPS[:, :1]), "clips of one frame"),
        (lambda folder: saved(folder / "a.npy", CLIPS - 1000.0), "values from -1000 to"),
        (lambda folder: saved(folder / "a.npy", np.array([{}], dtype=object)), "no array of numbers"),
        (lambda folder: saved(folder / "a.npy", CLIPS[0]), "has the shape"),
        (lambda folder: folder / "no.npy", "does not exist"),
        (lambda folder: folder, "holds no .gif"),
    ],
)
def test_what_is_no_clip_is_one_line_that_names_it(tmp_path, make, message):
    with pytest.raises(InputError, match=message) as found:
        read_clips(make(tmp_path), 16)
    assert "\n" not in str(found.value)


def test_a_zip_and_animations_of_two_sizes_are_refused(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"PK")
    with pytest.raises(InputError, match="unpack it"):
        read_clips(tmp_path / "a.zip", 16)
    write_gif(tmp_path / "a.gif", CLIPS[0])
    write_gif(tmp_path / "b.gif", CLIPS[1, :, :8])
    with pytest.raises(InputError, match="16 x 8 and of 16 x 16 pixels"):
        read_clips(tmp_path, 16)


def test_clips_too_short_for_the_model_name_the_length_to_use():
    with pytest.raises(InputError, match="--max_position_embeddings 6"):
        OwnClips(list(CLIPS), "train", 0, 8)
