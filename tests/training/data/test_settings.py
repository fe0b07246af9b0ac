import pytest

from training.common.errors import InputError
from training.data.settings import (
    DataSettings,
    DialogueDataSettings,
    MaskingSettings,
    VideoDataSettings,
    VideoMaskingSettings,
)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("masking", "words"),
        ("mask_rate", 0.0),
        ("mask_rate", 1.0),
        ("mask_rate_final", 1.0),
        ("max_spans", 0),
        ("max_span_length", 0),
        ("max_span_share", 0.0),
        ("mask_token_share", 1.1),
        ("random_token_share", -0.1),
        ("random_token_share", 0.3),
    ],
)
def test_an_impossible_masking_setting_is_named(field, value):
    with pytest.raises(InputError, match=field):
        MaskingSettings(**{field: value}).validate()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("data", " "),
        ("sides", "right"),
        ("pre_tokenizer", "none"),
        ("long_rows", "drop"),
        ("max_vocab", 3),
        ("min_words", 0),
        ("max_words", 1),
        ("max_rows", 0),
        ("max_bad_share", 2.0),
    ],
)
def test_an_impossible_data_setting_is_named(field, value):
    with pytest.raises(InputError, match=field):
        DataSettings(**{field: value}).validate()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("digits", " "),
        ("num_digits", 0),
        ("num_clips", 0),
        ("clip_seed", -1),
        ("code_levels", []),
        ("code_levels", [8, 1]),
        ("code_levels", [300, 300]),
        ("rotation", -1.0),
        ("brightness", 1.1),
        ("contrast", -0.1),
    ],
)
def test_an_impossible_setting_of_clips_is_named(field, value):
    with pytest.raises(InputError, match=field):
        VideoDataSettings(**{field: value}).validate()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("objective", "past"),
        ("future_share", 0.6),
        ("joint_share", -0.1),
        ("individual_share", 1.2),
        ("context_frames", 0),
        ("mask_ratio_start", 0.0),
        ("mask_ratio_end", 1.1),
        ("curriculum_frames", [1, 5]),
        ("curriculum_frames", [5, 5]),
        ("curriculum_share", 0.0),
    ],
)
def test_an_impossible_masking_setting_of_clips_is_named(field, value):
    with pytest.raises(InputError, match=field):
        VideoMaskingSettings(**{field: value}).validate()


@pytest.mark.parametrize("settings", [DataSettings(), MaskingSettings(), VideoDataSettings(), VideoMaskingSettings()])
def test_the_defaults_are_valid_and_every_field_has_its_help(settings):
    settings.validate()
    assert all(field.metadata["help"] for field in type(settings).__dataclass_fields__.values())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (DataSettings(sides="right"), "sides: got 'right'; use one of left, both"),
        (DataSettings(max_vocab=3), "max_vocab: got 3; use 8 or more"),
        (DataSettings(max_words=1), "max_words: got 1; use 2 or more (it may not be below min_words)"),
        (DataSettings(max_bad_share=2.0), "max_bad_share: got 2.0; use a share from 0 to 1"),
        (DialogueDataSettings(context_turns=0), "context_turns: got 0; use 1 or more"),
        (MaskingSettings(mask_rate=1.0), "mask_rate: got 1.0; use a share above 0 and below 1 (such as 0.3)"),
        (MaskingSettings(mask_rate=float("nan")), "mask_rate: got nan; use a share above 0 and below 1 (such as 0.3)"),
        (VideoDataSettings(rotation=-1.0), "rotation: got -1.0; use 0 to 180 degrees (10 is usual)"),
        (VideoMaskingSettings(mask_ratio_end=0.0), "mask_ratio_end: got 0.0; use a share above 0 and at most 1"),
    ],
)
def test_a_value_out_of_range_is_named_with_what_is_allowed(settings, said):
    with pytest.raises(InputError) as caught:
        settings.validate()
    assert str(caught.value) == said


def test_a_list_of_one_settings_object_is_not_that_of_another():
    first = VideoDataSettings()
    first.code_levels.append(3)
    assert VideoDataSettings().code_levels == [8, 8, 4]
