import pytest

from training.data.errors import InputError
from training.data.settings import DataSettings, MaskingSettings


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


@pytest.mark.parametrize("settings", [DataSettings(), MaskingSettings()])
def test_the_defaults_are_valid_and_every_field_has_its_help(settings):
    settings.validate()
    assert all(field.metadata["help"] for field in type(settings).__dataclass_fields__.values())
