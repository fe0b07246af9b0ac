import numpy as np
import pytest
import torch

from configuration_jepa import VideoJepaConfig
from training.common.errors import InputError
from training.data.video_jepa import frame_tokenizer, quantiser
from training.data.video_jepa.clips import Augmentation, ClipMaker
from training.data.video_jepa.digits import Digits
from training.data.video_jepa.frame_tokenizer import (
    FrameTokenizer,
    count_codes,
    describe,
    make_frame_tokenizer,
    measure,
)

SMALL = VideoJepaConfig(vocab_size=24, frame_size=16, patch_size=8, code_size=4)
GREY = VideoJepaConfig(vocab_size=16, frame_size=16, patch_size=4, code_size=1, frame_codes="grey")


def maker_of(split: str, seed: int = 0, augmentation: Augmentation | None = None) -> ClipMaker:
    """Small clips of round blobs."""
    grid = torch.linspace(-1, 1, 28)
    ring = torch.exp(-8 * ((grid[:, None] ** 2 + grid**2).sqrt() - 0.6).abs())
    digits = Digits((255 * ring).to(torch.uint8)[None].numpy(), "ring")
    return ClipMaker(digits, split, seed, length=4, frame_size=16, augmentation=augmentation)


@pytest.fixture
def quick(monkeypatch, tmp_path):
    monkeypatch.setenv("JEPA_CACHE", str(tmp_path))
    monkeypatch.setattr(frame_tokenizer, "LEARNING_CLIPS", 16)
    monkeypatch.setattr(frame_tokenizer, "MEASURED_CLIPS", 12)
    learned = []

    def learn(squares: torch.Tensor, levels: list[int]) -> torch.Tensor:
        learned.append(squares)
        return quantiser.learn_pictures(squares, levels, steps=15)

    monkeypatch.setattr(frame_tokenizer, "learn_pictures", learn)
    return learned


def test_learned_codes_describe_held_out_clips_and_say_how_well(quick):
    tokenizer = make_frame_tokenizer(SMALL, [6, 4], maker_of("train"), maker_of("valid"))
    assert len(tokenizer) == 24
    frames = maker_of("valid").frames(range(12))
    decoded = tokenizer.decode(tokenizer.encode(frames))
    assert tokenizer.report["reconstruction_mse"] == pytest.approx(
        float((decoded - frames).pow(2).sum() / 48), rel=1e-4
    )
    assert tokenizer.report["reconstruction_mse"] < 0.3 * float(frames.pow(2).sum() / 48)
    assert tokenizer.report["unchanged"] >= 0.99
    assert tokenizer.report["codes_used"] == len(tokenizer.encode(frames).unique()) / 24
    assert "24 learned codes" in describe(tokenizer)


def test_squares_that_are_learned_from_are_not_black(quick):
    make_frame_tokenizer(SMALL, [6, 4], maker_of("train"), maker_of("valid"))
    assert quick[0].shape[1] == 16
    assert (quick[0].amax(1) > 0).all()


def test_a_black_frame_stays_exactly_black(quick):
    tokenizer = make_frame_tokenizer(SMALL, [6, 4], maker_of("train"), maker_of("valid"))
    assert tokenizer.decode(tokenizer.encode(torch.zeros(1, 2, 1, 16, 16))).abs().max() == 0


def test_the_tokenizer_is_learned_once_and_again_only_for_other_clips_or_sizes(quick):
    first = make_frame_tokenizer(SMALL, [6, 4], maker_of("train"), maker_of("valid"))
    again = make_frame_tokenizer(SMALL, [6, 4], maker_of("train"), maker_of("valid"))
    assert len(quick) == 1
    assert torch.equal(first.values, again.values)
    assert (first.report, first.fingerprint) == (again.report, again.fingerprint)
    others = [
        make_frame_tokenizer(SMALL, [6, 4], maker_of("train", seed=1), maker_of("valid")),
        make_frame_tokenizer(
            SMALL, [6, 4], maker_of("train", augmentation=Augmentation(flip=True)), maker_of("valid")
        ),
        make_frame_tokenizer(SMALL, [5, 4], maker_of("train"), maker_of("valid")),
    ]
    assert len(quick) == 4
    assert len({first.fingerprint, *(other.fingerprint for other in others)}) == 4


def test_greys_are_equal_steps_and_lose_little(quick):
    tokenizer = make_frame_tokenizer(GREY, [16], maker_of("train"), maker_of("valid"))
    assert not quick
    assert torch.allclose(tokenizer.values[:, 0], torch.arange(16) / 15)
    assert tokenizer.report["reconstruction_mse"] < 256 * (1 / 30) ** 2
    assert tokenizer.report["unchanged"] == 1


def test_a_saved_tokenizer_is_the_same_when_it_is_opened(tmp_path):
    tokenizer = FrameTokenizer(SMALL, torch.rand(24, 16), {"reconstruction_mse": 1.5, "levels": [6, 4]})
    tokenizer.save_pretrained(tmp_path / "here")
    opened = FrameTokenizer.from_pretrained(tmp_path / "here")
    assert torch.equal(opened.values, tokenizer.values)
    assert (opened.report, opened.fingerprint, len(opened)) == (tokenizer.report, tokenizer.fingerprint, 24)


@pytest.mark.parametrize("content", [None, b"", b"\x08\0\0\0\0\0\0\0{}      "])
def test_a_folder_without_a_whole_tokenizer_is_named(tmp_path, content):
    if content is not None:
        (tmp_path / frame_tokenizer.TOKENIZER_FILE).write_bytes(content)
    with pytest.raises(InputError, match="is no frame tokenizer that can be opened") as caught:
        FrameTokenizer.from_pretrained(tmp_path)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("config", "levels", "named"),
    [(GREY, [4, 4], "code_levels"), (VideoJepaConfig(vocab_size=16, frame_size=16, code_size=1), [4, 4], "code_size")],
)
def test_levels_that_do_not_suit_the_kind_of_codes_are_refused(quick, config, levels, named):
    with pytest.raises(InputError, match=named):
        make_frame_tokenizer(config, levels, maker_of("train"), maker_of("valid"))


def test_codes_are_counted_over_training_clips():
    tokenizer = FrameTokenizer(GREY)
    counts = count_codes(tokenizer, maker_of("train"), clips=10)
    assert counts.sum() == 10 * 4 * 256
    assert np.array_equal(
        counts, tokenizer.encode(maker_of("train").frames(range(10))).flatten().bincount(minlength=16)
    )


def test_measured_figures_are_of_exactly_the_clips_asked_for():
    report = measure(FrameTokenizer(GREY), maker_of("valid"), clips=3)
    frames = maker_of("valid").frames(range(3))
    rounded = (frames * 15).round() / 15
    assert report["clips"] == 3
    assert report["reconstruction_mse"] == pytest.approx(float((rounded - frames).pow(2).sum() / 12), rel=1e-3)
