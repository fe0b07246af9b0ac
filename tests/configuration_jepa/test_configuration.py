"""Configurations: every name known, every value possible, one complete `auto_map`."""

import json

import pytest
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig

from configuration_jepa import TextJepaConfig
from tests.families import FAMILIES, Family

each_family = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)

IMPOSSIBLE = (
    ({"hidden_size": -4}, "hidden_size=-4"),
    ({"hidden_size": 130}, "hidden_size=130 is not a multiple of 2 \\* num_attention_heads=4"),
    ({"hidden_size": 36, "num_attention_heads": 12}, "hidden_size=36"),
    ({"num_hidden_layers": 0}, "num_hidden_layers=0"),
    ({"vocab_size": 0}, "vocab_size=0"),
    ({"max_position_embeddings": 1}, "max_position_embeddings=1"),
    ({"dropout": 1.0}, "dropout=1.0"),
    ({"attention_dropout": -0.1}, "attention_dropout=-0.1"),
    ({"norm_eps": 0.0}, "norm_eps=0.0"),
    ({"initializer_range": -1.0}, "initializer_range=-1.0"),
    ({"mask_token_id": 97}, "mask_token_id=97"),
    ({"hidden_size": "wide"}, "hidden_size"),
    ({"tie_word_embeddings": "yes"}, "tie_word_embeddings"),
)

IMPOSSIBLE_FOR_TEXT = (
    ({"head": "cosin"}, "head='cosin' is not possible: it must be one of cosine, softmax"),
    ({"ranking": "some"}, "ranking='some'"),
    ({"negative_sampling": "x"}, "negative_sampling='x'"),
    ({"logit_scale": "x"}, "logit_scale='x'"),
    ({"target_table": "x"}, "target_table='x'"),
    ({"collapse_protection": "x"}, "collapse_protection='x'"),
    ({"temperature": 0}, "temperature=0 is not possible: it must be above 0"),
    ({"teacher_momentum": 1.0}, "teacher_momentum=1.0"),
    ({"num_negatives": 0}, "num_negatives=0"),
    ({"num_negatives": 92, "ranking": "sampled"}, "num_negatives=92 is more than the 91 tokens"),
    ({"alignment_weight": -1.0}, "alignment_weight=-1.0"),
    ({"predictor_layers": -1}, "predictor_layers=-1"),
    ({"ranking_weight": 0.0}, "nothing to learn"),
    ({"target_gradient": "positive"}, "target_gradient='positive' needs ranking='sampled'"),
    ({"head": "softmax", "target_table": "ema"}, "target_table='ema' needs head='cosine'"),
    ({"tie_word_embeddings": False, "target_table": "ema"}, "target_table='ema' needs tie_word_embeddings=True"),
)


@each_family
@pytest.mark.parametrize(("change", "message"), IMPOSSIBLE)
def test_an_impossible_value_is_refused_by_name(family: Family, change: dict, message: str) -> None:
    with pytest.raises(StrictDataclassError, match=message):
        family.config(**change)


@pytest.mark.parametrize(("change", "message"), IMPOSSIBLE_FOR_TEXT)
def test_an_impossible_text_value_is_refused_by_name(change: dict, message: str) -> None:
    with pytest.raises(StrictDataclassError, match=message):
        TextJepaConfig(**{"vocab_size": 97, "num_negatives": 8, **change})


@each_family
def test_an_unknown_name_is_refused_with_the_nearest_one(family: Family) -> None:
    with pytest.raises(ValueError, match=r"no field 'hiden_size' \(did you mean 'hidden_size'\?\)"):
        family.config(hiden_size=16)


@each_family
def test_an_unknown_name_in_a_checkpoint_is_refused(family: Family, tmp_path) -> None:
    family.config().save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**stored, "hiden_size": 16}))
    with pytest.raises(ValueError, match="no field 'hiden_size'"):
        AutoConfig.from_pretrained(tmp_path)


@each_family
def test_an_impossible_value_cannot_be_saved(family: Family, tmp_path) -> None:
    config = family.config()
    config.num_hidden_layers = 0
    with pytest.raises(StrictDataclassError, match="num_hidden_layers=0"):
        config.save_pretrained(tmp_path)


@each_family
def test_auto_map_is_complete_and_belongs_to_the_instance(family: Family) -> None:
    config = family.config()
    classes = {**family.classes, **family.heads}
    assert set(config.auto_map) == {"AutoConfig", *classes}
    assert {name: entry.split(".")[1] for name, entry in config.auto_map.items() if name != "AutoConfig"} == {
        name: ours.__name__ for name, ours in classes.items()
    }
    config.auto_map["AutoModel"] = "changed"
    assert family.config().auto_map["AutoModel"] != "changed"


@each_family
def test_an_integer_will_do_where_a_number_is_asked_for(family: Family) -> None:
    assert family.config(dropout=0, rope_theta=500).dropout == 0


def test_special_tokens_are_listed_once_and_sorted() -> None:
    assert TextJepaConfig(bos_token_id=4, eos_token_id=4, unk_token_id=None).special_token_ids == (0, 2, 4)


def test_loss_fields_are_fields() -> None:
    assert set(TextJepaConfig.loss_fields) <= set(TextJepaConfig().to_dict())
