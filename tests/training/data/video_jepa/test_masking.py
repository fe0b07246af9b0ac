import pytest
import torch

from configuration_jepa import VideoJepaConfig
from modeling_jepa.modeling_video_jepa import TIME_VIEWS, VideoJepaForFramePrediction
from training.common.errors import InputError
from training.data.settings import OBJECTIVES, VideoMaskingSettings
from training.data.video_jepa.frame_tokenizer import FrameTokenizer
from training.data.video_jepa.masking import MOST_HIDDEN, VideoMasker

GREY = VideoJepaConfig(vocab_size=16, frame_size=16, patch_size=4, code_size=1, frame_codes="grey")


def masker_of(length: int = 12, seed: int = 0, **settings) -> VideoMasker:
    return VideoMasker(VideoMaskingSettings(**settings), FrameTokenizer(GREY), seed, length)


def batch_of(clips: int, length: int = 12, first: int = 0) -> dict[str, torch.Tensor]:
    """Clips whose pixels are their own: any mix-up shows."""
    rows = torch.arange(first, first + clips)
    pixels = torch.arange(length * 256).view(length, 16, 16)
    return {
        "frames": ((pixels + 37 * rows[:, None, None, None]) % 256).to(torch.uint8),
        "row_id": rows,
        "pass_index": torch.zeros(clips, dtype=torch.int64),
    }


def test_labels_are_the_codes_at_hidden_places_and_nothing_elsewhere():
    masked = masker_of()(batch_of(20), 0.5)
    assert masked["codes"].shape == masked["hidden"].shape == masked["labels"].shape == (20, 12, 16, 16)
    assert torch.equal(masked["labels"] != -100, masked["hidden"])
    assert torch.equal(masked["labels"][masked["hidden"]], masked["codes"][masked["hidden"]])
    assert set(masked) == {"codes", "hidden", "labels", "time_view"}


def test_objectives_and_time_views_are_in_the_same_order():
    assert dict(zip(OBJECTIVES, TIME_VIEWS, strict=True)) == {"future": "past", "joint": "all", "individual": "own"}


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_one_objective_alone_is_every_clips(objective):
    masked = masker_of(objective=objective)(batch_of(30))
    assert (masked["time_view"] == OBJECTIVES.index(objective)).all()
    clean = ~masked["hidden"].flatten(2).any(2)
    assert clean[:, 0].all() == (objective == "future")


def test_objectives_are_drawn_by_their_shares():
    rows = torch.arange(4000)
    drawn = masker_of().objectives(rows, torch.zeros_like(rows)).bincount(minlength=3) / 4000
    assert torch.allclose(drawn, torch.tensor([0.5, 0.4, 0.1]), atol=0.03)
    none = masker_of(future_share=0.0, joint_share=1.0, individual_share=0.0)
    assert (none.objectives(rows, torch.zeros_like(rows)) == 1).all()


def test_future_leaves_a_quarter_to_three_quarters_of_the_frames_clean_and_hides_later_ones_alike():
    masked = masker_of(objective="future")(batch_of(200))
    touched = masked["hidden"].flatten(2).any(2)
    contexts = touched.int().argmax(1)
    assert contexts.unique().tolist() == list(range(3, 10))
    assert all(touched[clip, context:].all() for clip, context in enumerate(contexts.tolist()))
    shares = [masked["hidden"][clip, context:].double().mean() for clip, context in enumerate(contexts.tolist())]
    assert abs(sum(shares) / 200 - 0.5) < 0.01


def test_a_fixed_context_is_kept_and_is_shortened_with_the_clips():
    masker = masker_of(objective="future", context_frames=10, curriculum_frames=[5, 12])
    for progress, clean in ((0.9, 10), (0.0, 4)):
        touched = masker(batch_of(8), progress)["hidden"].flatten(2).any(2)
        assert (touched.int().argmax(1) == clean).all()


def test_the_share_of_hidden_codes_grows_with_the_steps_and_only_adds_holes():
    masker = masker_of(objective="future")
    before, middle, last = (masker(batch_of(12), progress)["hidden"] for progress in (0.0, 0.5, 1.0))
    assert (before <= middle).all()
    assert (middle <= last).all()
    assert [masker.mask_ratio(progress) for progress in (0.0, 0.5, 1.0, 2.0)] == [0.5, 0.75, 1.0, 1.0]
    frames_hidden = last.flatten(2).double().mean(2)
    assert set(frames_hidden.unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("objective", ["joint", "individual"])
def test_where_all_frames_lose_codes_a_few_are_left(objective):
    hidden = masker_of(objective=objective)(batch_of(20), 1.0)["hidden"].double().mean()
    assert abs(hidden - MOST_HIDDEN) < 0.003


def test_a_clip_always_loses_a_code():
    masked = masker_of(mask_ratio_start=1e-9)(batch_of(50))
    assert (masked["hidden"].flatten(1).sum(1) == 1).all()
    future = masked["time_view"] == 0
    assert not masked["hidden"][future, :3].any()


def test_masks_do_not_depend_on_the_batch():
    masker, together = masker_of(), batch_of(9)
    whole = masker(together, 0.3)
    for clip in (0, 4, 8):
        alone = masker({name: value[clip : clip + 1] for name, value in together.items()}, 0.3)
        assert all(torch.equal(alone[name][0], whole[name][clip]) for name in whole)


def test_another_seed_pass_or_clip_has_other_masks():
    batch = batch_of(1)
    masks = [
        masker_of(objective="joint")(batch)["hidden"],
        masker_of(objective="joint", seed=1)(batch)["hidden"],
        masker_of(objective="joint")(batch | {"pass_index": torch.ones(1, dtype=torch.int64)})["hidden"],
        masker_of(objective="joint")(batch | {"row_id": torch.ones(1, dtype=torch.int64)})["hidden"],
    ]
    assert len({mask.numpy().tobytes() for mask in masks}) == 4


def test_a_curriculum_cuts_clips_and_leaves_the_masks_of_what_stays():
    plain = masker_of(objective="joint")
    grown = masker_of(objective="joint", curriculum_frames=[3, 6, 9, 12], curriculum_share=0.5)
    lengths = [grown.length_at(progress) for progress in (0.0, 0.124, 0.126, 0.26, 0.38, 0.5, 1.0)]
    assert lengths == [3, 3, 6, 9, 12, 12, 12]
    short, whole = grown(batch_of(4), 0.2), plain(batch_of(4), 0.2)
    assert short["codes"].shape[1] == 6
    assert torch.equal(short["hidden"], whole["hidden"][:, :6])
    assert torch.equal(short["codes"], whole["codes"][:, :6])


def test_a_masked_batch_is_what_the_model_takes():
    config = VideoJepaConfig(
        **{
            name: getattr(GREY, name)
            for name in ("vocab_size", "frame_size", "patch_size", "code_size", "frame_codes")
        },
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=4,
    )
    output = VideoJepaForFramePrediction(config)(**masker_of(length=4)(batch_of(3, length=4)))
    assert torch.isfinite(output.loss)


@pytest.mark.parametrize(
    ("length", "settings", "named"),
    [
        (1, {}, "max_position_embeddings"),
        (12, {"curriculum_frames": [5, 10]}, "curriculum_frames"),
        (12, {"curriculum_frames": [10, 5, 12]}, "curriculum_frames"),
        (12, {"context_frames": 12}, "context_frames"),
        (12, {"objective": "past"}, "objective"),
        (12, {"mask_ratio_end": 1.5}, "mask_ratio_end"),
    ],
)
def test_masks_that_are_not_possible_are_refused(length, settings, named):
    with pytest.raises(InputError, match=named):
        masker_of(length, **settings)
