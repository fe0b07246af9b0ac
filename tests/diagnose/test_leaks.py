"""What must not move a logit, and what must: each fault is named by its own check, and healthy models by none."""

import functools

import pytest
import torch
from transformers import PreTrainedModel

from configuration_jepa import StagedGeneratorConfig, TextJepaConfig
from eval.diagnose import Finding, Limits, Report, diagnose
from modeling_jepa import StagedGeneratorForCausalLM, TextJepaForMaskedLM
from tests.diagnose import broken_models as broken
from tests.diagnose.tiny_training import texts_of, untrained
from training.data.settings import DataSettings
from training.data.tokenization import build_tokenizer

TEXTS = texts_of("valid")[:200]
CAUSAL = ("gpt2", "llama", "neox", "bloom", "opt", "mamba")
OTHERS = ("bert", "roberta", "modernbert", "t5", "bart")


def look(model: PreTrainedModel, tokenizer: object) -> Report:
    return diagnose(model, tokenizer, TEXTS, only=("leak",), name="model", limits=Limits(rows=8, length=20))


def look_at(architecture: str, change=lambda model: model) -> Report:
    model, tokenizer = untrained(architecture)
    return look(change(model).eval(), tokenizer)


def finding(report: Report, check: str) -> Finding:
    return next(one for one in report.findings if one.check == check)


@pytest.mark.parametrize("architecture", CAUSAL + OTHERS)
def test_a_stock_model_leaks_nothing(architecture: str) -> None:
    assert look_at(architecture).fails() == set()


@functools.cache
def words():
    return build_tokenizer(DataSettings(data="memory", tokenizer="word", max_vocab=500), TEXTS)


def generator(stage: int, **changes: object) -> StagedGeneratorForCausalLM:
    torch.manual_seed(0)
    small = {"hidden_size": 32, "embedding_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "time_dim": 8}
    config = {**small, "vocab_size": len(words()), "num_semantic_blocks": 4, "max_position_embeddings": 64, **changes}
    return StagedGeneratorForCausalLM(StagedGeneratorConfig(stage=stage, **config)).eval()


@pytest.mark.parametrize("stage", range(4))
def test_no_stage_of_the_generator_leaks(stage: int) -> None:
    assert look(generator(stage, zero_init_residual=False), words()).of("fail") == []


def test_a_generator_that_begins_without_attention_is_not_called_blind_to_order() -> None:
    report = look(generator(0), words())
    assert report.fails() == set()
    assert finding(report, "leak.position_ignored").verdict == "note"


@pytest.mark.parametrize("target", ["online", "contextual"])
def test_the_latent_text_model_leaks_nothing(target: str) -> None:
    torch.manual_seed(0)
    config = TextJepaConfig(
        vocab_size=len(words()),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=48,
        target_table=target,
    )
    assert look(TextJepaForMaskedLM(config).eval(), words()).fails() == set()


@pytest.mark.parametrize("architecture", ["gpt2", "bert"])
def test_rounding_of_half_precision_is_no_leak(architecture: str) -> None:
    assert look_at(architecture, lambda model: model.to(torch.bfloat16)).fails() == set()


def test_logits_far_from_zero_are_no_leak() -> None:
    assert look_at("llama", broken.explodes).fails() <= {"leak.position_ignored"}


# ---- faults ----


@pytest.mark.parametrize("architecture", ["llama", "t5"])
def test_a_missing_causal_mask_is_found_and_told_by_its_reach(architecture: str) -> None:
    change = broken.sees_everything if architecture == "llama" else everyone_sees_the_row
    report = look_at(architecture, change)
    assert report.fails() == {"leak.future_tokens"}
    evidence = finding(report, "leak.future_tokens").evidence
    assert (evidence["leak_begins_at_distance"], evidence["leak_ends_at_distance"]) == (1, evidence["length"] - 1)
    assert evidence["teacher_forced_nats"] != pytest.approx(evidence["prefix_only_nats"], abs=1e-4)


def test_an_edge_to_the_next_token_is_told_by_the_first_layer_that_has_it() -> None:
    found = finding(look_at("neox", broken.sees_next), "leak.future_tokens")
    assert found.verdict == "fail"
    assert (found.evidence["leak_begins_at_distance"], found.evidence["leak_ends_at_distance"]) == (1, 1)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (broken.routes_to_the_next, "leak.future_tokens"),
        (broken.routes_beyond_the_query, "leak.future_tokens"),
        (broken.routes_to_the_first, "leak.documents"),
        (broken.routes_to_the_first, "leak.padding"),
    ],
)
def test_a_far_edge_that_leads_where_it_must_not_is_found(change, expected: str) -> None:
    model = change(generator(3, zero_init_residual=False))
    assert expected in look(model, words()).fails()


def test_a_leak_in_long_rows_only_is_found() -> None:
    def only_long(model: PreTrainedModel) -> PreTrainedModel:
        def around(right, own, **given):
            return long(**given) if given["input_ids"].shape[1] > 50 else right(**given)

        long = broken.sees_everything(untrained("llama")[0].eval())
        return broken.replace_forward(model, around)

    assert "leak.future_tokens" in look_at("llama", only_long).fails()


def everyone_sees_the_row(model: PreTrainedModel) -> PreTrainedModel:
    """Of a decoder of T5: its last norm adds the mean of the row."""
    broken.replace_part(model.decoder.final_layer_norm, lambda right, hidden: right(hidden + hidden.mean(1, True)))
    return model


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_a_leak_through_the_cache_alone_is_told_from_one_without(architecture: str) -> None:
    report = look_at(architecture, broken.sees_everything_in_a_chunk)
    assert report.fails() == {"leak.cache"}
    evidence = finding(report, "leak.cache").evidence
    assert evidence["future_moves_in_second_piece"] > evidence["tolerance"] > evidence["future_moves_in_first_piece"]


def test_positions_that_begin_anew_after_a_cache_are_found() -> None:
    def anew(model: PreTrainedModel) -> PreTrainedModel:
        def around(right, own, **given):
            return right(**{**given, "position_ids": torch.arange(given["input_ids"].shape[1])[None]})

        return broken.replace_forward(model, around)

    assert look_at("gpt2", anew).fails() == {"leak.cache"}


@pytest.mark.parametrize("architecture", ["gpt2", "bert"])
@pytest.mark.parametrize("change", [broken.mixes_rows, broken.hears_the_row_before])
def test_rows_that_see_each_other_are_found_and_not_called_anything_else(architecture: str, change) -> None:
    assert look_at(architecture, change).fails() == {"leak.batch_mates"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (broken.sees_everything, "there is no causal mask"),
        (broken.sees_next, "off by one"),
        (broken.sees_three_ahead, "3 places ahead"),
        (broken.sees_the_last_token, "last token of the row"),
        (broken.wraps_around, "wraps around"),
    ],
)
@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_the_pattern_of_a_leak_tells_its_cause(architecture: str, change, said: str) -> None:
    found = finding(look_at(architecture, change), "leak.future_tokens")
    assert found.verdict == "fail"
    assert said in found.cause


@pytest.mark.parametrize("architecture", ["roberta", "neox"])
def test_an_attention_mask_that_is_not_handed_on_is_found(architecture: str) -> None:
    def blind(model: PreTrainedModel) -> PreTrainedModel:
        def around(right, own, **given):
            given.pop("attention_mask", None)
            return right(**given)

        return broken.replace_forward(model, around)

    assert look_at(architecture, blind).fails() == {"leak.padding"}


def test_a_model_that_takes_padding_on_the_right_only_gets_a_note() -> None:
    found = finding(look_at("bart"), "leak.padding")
    assert found.verdict == "note"
    assert found.evidence["right"] < found.evidence["tolerance"] < found.evidence["left"]


@pytest.mark.parametrize("architecture", ["bert", "gpt2", "llama"])
def test_a_model_without_positions_is_found(architecture: str) -> None:
    assert look_at(architecture, broken.forgets_positions).fails() == {"leak.position_ignored"}


def test_an_encoder_without_positions_is_named() -> None:
    def no_bias(model: PreTrainedModel) -> PreTrainedModel:
        table = model.encoder.block[0].layer[0].SelfAttention.relative_attention_bias
        torch.nn.init.zeros_(table.weight)
        return model

    found = finding(look_at("t5", no_bias), "leak.position_ignored")
    assert found.verdict == "fail"
    assert "the encoder" in found.cause
    assert "decoder" not in found.cause


def test_a_first_layer_that_does_nothing_is_not_called_blind_to_order() -> None:
    def no_first_layer(model: PreTrainedModel) -> PreTrainedModel:
        for parameter in broken.layers_of(model)[0].parameters():
            torch.nn.init.zeros_(parameter)
        return model

    assert look_at("neox", no_first_layer).fails() == set()


def test_chance_in_evaluation_is_no_leak() -> None:
    assert look_at("llama", broken.drops_always).fails() == set()


def test_logits_that_are_not_finite_are_said_once() -> None:
    report = look_at("gpt2", broken.holds_a_nan)
    assert [one.verdict for one in report.findings] == ["note"]
    assert any("not finite" in note for note in report.notes)
