"""A model asked in two ways says the same: each fault is named by its own check, and healthy models by none."""

import functools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from configuration_jepa import TextJepaConfig
from eval.diagnose import Finding, Limits, Report, diagnose
from modeling_jepa import TextJepaForMaskedLM
from tests.diagnose import broken_models as broken
from tests.diagnose.tiny_training import texts_of, untrained
from training.data.settings import DataSettings
from training.data.tokenization import build_tokenizer

TEXTS = texts_of("valid")[:200]
ARCHITECTURES = ("gpt2", "llama", "bloom", "mamba", "bert", "roberta", "modernbert", "bart")
Change = Callable[[PreTrainedModel], PreTrainedModel]


def look(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: list[str] = TEXTS) -> Report:
    return diagnose(model.eval(), tokenizer, texts, only=("parity",), name="model", limits=Limits(rows=8, length=48))


def look_at(architecture: str, change: Change = lambda model: model, **fields: object) -> Report:
    model, tokenizer = untrained(architecture, **fields)
    return look(change(model), tokenizer)


def finding(report: Report, check: str) -> Finding:
    return next(one for one in report.findings if one.check == check)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_untrained_stock_model_is_the_same_in_all_ways(architecture: str) -> None:
    report = look_at(architecture)
    assert [one.check for one in report.findings if one.verdict != "pass"] == []


def test_t5_is_the_same_in_all_ways() -> None:
    assert look_at("t5", decoder_start_token_id=0).fails() == set()


@pytest.mark.parametrize("target", ["online", "ema", "contextual"])
def test_the_latent_text_model_is_the_same_in_all_ways(target: str) -> None:
    tokenizer = build_tokenizer(DataSettings(data="memory", tokenizer="word", max_vocab=500), TEXTS)
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 48}
    model = TextJepaForMaskedLM(TextJepaConfig(vocab_size=len(tokenizer), target_table=target, **small))
    assert look(model, tokenizer).fails() == set()


# ---- training and evaluation ----


@pytest.mark.parametrize("architecture", ["llama", "bert"])
def test_dropout_in_evaluation_is_found(architecture: str) -> None:
    assert look_at(architecture, broken.drops_always).fails() == {"parity.random_in_evaluation"}


def test_what_is_kept_from_the_pass_before_is_found() -> None:
    class Remembers(nn.Module):
        def __init__(self, norm: nn.Module) -> None:
            super().__init__()
            self.norm = norm
            self.register_buffer("mean", torch.zeros(()))

        def forward(self, hidden: Tensor) -> Tensor:
            found = self.norm(hidden) + self.mean
            self.mean = hidden.detach().std() * hidden.detach().mean().sign()
            return found

    def remembers(model: PreTrainedModel) -> PreTrainedModel:
        model.transformer.ln_f = Remembers(model.transformer.ln_f)
        return model

    found = finding(look_at("gpt2", remembers), "parity.random_in_evaluation")
    assert found.verdict == "fail"


def test_another_road_in_training_is_found_and_dropout_is_not() -> None:
    def change(made: PreTrainedModel) -> PreTrainedModel:
        norm = made.transformer.ln_f
        base = type(norm)

        def forward(self: nn.Module, hidden: Tensor) -> Tensor:
            return base.forward(self, hidden) * (1.5 if self.training else 1.0)

        norm.__class__ = type("Own", (base,), {"forward": forward})
        return made

    assert look_at("gpt2", change).fails() == {"parity.train_eval"}


def test_a_scale_by_the_length_of_the_row_is_found() -> None:
    def by_length(model: PreTrainedModel) -> PreTrainedModel:
        broken.replace_part(model.transformer.ln_f, lambda right, hidden: right(hidden) * (1 + 0.01 * hidden.shape[1]))
        return model

    assert look_at("gpt2", by_length).fails() == {"parity.length"}


# ---- saving ----


def test_tables_that_went_apart_are_found() -> None:
    assert look_at("gpt2", broken.unties).fails() == {"parity.tied_weights"}


def test_tables_that_come_back_as_two_are_found() -> None:
    def undeclared(model: PreTrainedModel) -> PreTrainedModel:
        model.config.tie_word_embeddings = False
        return model

    report = look_at("gpt2", undeclared)
    assert report.fails() == {"parity.reload", "parity.tied_weights"}
    assert "lm_head.weight" in finding(report, "parity.reload").evidence["not_in_the_file"]


class WithScale(GPT2LMHeadModel):
    """Its scale is a tensor that no state dict holds."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__(config)
        self.register_buffer("scale", torch.ones(()), persistent=False)

    def forward(self, input_ids: Tensor | None = None, **given: object) -> object:
        output = super().forward(input_ids, **given)
        output.logits = output.logits * self.scale
        return output


def test_a_tensor_that_is_not_saved_is_named() -> None:
    _, tokenizer = untrained("gpt2")
    model = WithScale(GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=1, n_head=2, n_positions=64))
    model.scale.fill_(3.0)
    found = finding(look(model, tokenizer), "parity.reload")
    assert found.verdict == "fail"
    assert found.evidence["tensors_that_differ"] == ["scale"]


def test_a_model_that_cannot_be_saved_is_told_with_the_librarys_error() -> None:
    def shared(model: PreTrainedModel) -> PreTrainedModel:
        first, second = model.transformer.h[0].mlp.c_fc, model.transformer.h[1].mlp.c_fc
        second.weight.data = first.weight.data[:, :]
        model.generation_config.temperature = 0.3
        model.generation_config.do_sample = False
        return model

    found = finding(look_at("gpt2", shared), "parity.reload")
    assert found.verdict == "fail"
    assert found.evidence["error"]


# ---- tokenizer, dtype ----


def test_a_tokenizer_larger_than_the_table_is_found() -> None:
    model, tokenizer = untrained("llama")
    tokenizer.add_tokens(["unheardof", "neverseen"])
    found = finding(look(model, tokenizer), "parity.tokenizer_size")
    assert found.verdict == "fail"
    assert found.evidence["tokens_without_a_row"] == 2
    assert "unheardof" in found.evidence["such_as"]


def test_a_table_larger_than_the_tokenizer_is_right() -> None:
    assert look_at("gpt2", vocab_size=960).fails() == set()


def test_values_too_fine_for_half_precision_get_a_note() -> None:
    assert finding(look_at("llama", broken.explodes), "parity.dtype").verdict == "note"


# ---- offsets ----

CYCLE = ["one two three four five six seven eight nine ten eleven twelve " * 6] * 40


@functools.cache
def numbers() -> PreTrainedTokenizerBase:
    return build_tokenizer(DataSettings(data="memory", tokenizer="word", max_vocab=40), CYCLE)


def learn(model: PreTrainedModel, labels_of: Callable[[Tensor], Tensor], steps: int = 25) -> PreTrainedModel:
    """Trained on random walks through the cycle, of which the next step is sure; labels_of are labels of the loss."""
    rows = torch.tensor(numbers()(CYCLE[0])["input_ids"])[None, :48]
    ids = torch.cat([rows.roll(shift, 1) for shift in range(8)])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        model(input_ids=ids, labels=labels_of(ids)).loss.backward()
        optimizer.step()
    return model.eval()


def gpt2(**fields: object) -> GPT2LMHeadModel:
    torch.manual_seed(0)
    small = {"n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 64, "resid_pdrop": 0.0}
    return GPT2LMHeadModel(GPT2Config(vocab_size=len(numbers()), **{**small, **fields}))


OFFSETS = {
    0: lambda ids: torch.cat([torch.full_like(ids[:, :1], -100), ids[:, :-1]], 1),
    1: lambda ids: ids,
    2: lambda ids: torch.cat([ids[:, 1:], torch.full_like(ids[:, :1], -100)], 1),
}


@pytest.mark.parametrize("offset", OFFSETS)
def test_the_token_that_a_causal_model_learned_to_give_is_found(offset: int) -> None:
    report = look(learn(gpt2(), OFFSETS[offset]), numbers(), CYCLE)
    found = finding(report, "parity.offset")
    assert found.evidence["best_offset"] == offset
    assert report.fails() == (set() if offset == 1 else {"parity.offset"})


def test_a_few_steps_of_right_training_are_not_called_copying() -> None:
    for width in (32, 256):
        report = look(learn(gpt2(n_embd=width), OFFSETS[1], steps=2), numbers(), CYCLE)
        assert finding(report, "parity.offset").verdict == "pass"


def test_a_masked_model_that_learned_the_neighbour_is_found() -> None:
    torch.manual_seed(0)
    tokenizer = numbers()
    model = BertForMaskedLM(
        BertConfig(
            vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64
        )
    )

    rows = torch.tensor(tokenizer(CYCLE[0])["input_ids"])[:48]
    ids = torch.stack([rows.roll(shift) for shift in range(8)])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(250):
        holes = torch.rand(ids.shape) < 0.15
        optimizer.zero_grad()
        labels = ids.roll(-1, 1).masked_fill(~holes, -100)
        model(input_ids=ids.masked_fill(holes, tokenizer.mask_token_id), labels=labels).loss.backward()
        optimizer.step()
    report = look(model, tokenizer, CYCLE)
    found = finding(report, "parity.offset")
    assert found.verdict == "fail"
    assert found.evidence["best_offset"] == 1


def own_loss(change: Callable[[Tensor, Tensor], Tensor]) -> Change:
    """A model whose loss is `change(logits, labels)`."""

    def make(model: PreTrainedModel) -> PreTrainedModel:
        def around(right, own, labels=None, **given):
            output = right(**given)
            if labels is not None:
                output.loss = change(output.logits, labels)
            return output

        return broken.replace_forward(model, around)

    return make


def nats(logits: Tensor, labels: Tensor, **more: object) -> Tensor:
    return nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), **more)


LOSSES = {
    "not shifted": (lambda logits, labels: nats(logits, labels), "fail"),
    "shifted by two": (lambda logits, labels: nats(logits[:, :-2], labels[:, 2:]), "fail"),
    "backwards": (lambda logits, labels: nats(logits[:, 1:], labels[:, :-1]), "fail"),
    "summed": (lambda logits, labels: nats(logits[:, :-1], labels[:, 1:], reduction="sum"), "fail"),
    "halved": (lambda logits, labels: 0.5 * nats(logits[:, :-1], labels[:, 1:]), "note"),
    "smoothed": (lambda logits, labels: nats(logits[:, :-1], labels[:, 1:], label_smoothing=0.1), "pass"),
    "with a constant beside it": (lambda logits, labels: nats(logits[:, :-1], labels[:, 1:]) + 0.01, "pass"),
    "something else": (lambda logits, labels: logits.pow(2).mean(), "note"),
}


@pytest.mark.parametrize("name", LOSSES)
def test_the_models_own_loss_is_held_against_its_logits(name: str) -> None:
    change, verdict = LOSSES[name]
    assert finding(look_at("llama", own_loss(change)), "parity.own_loss").verdict == verdict


def test_a_masked_models_sum_is_found() -> None:
    change = own_loss(lambda logits, labels: nats(logits, labels, reduction="sum"))
    assert look_at("bert", change).fails() == {"parity.own_loss"}


def test_logits_that_are_not_finite_are_said_once() -> None:
    report = look_at("gpt2", broken.holds_a_nan)
    assert report.fails() == set()
    assert sum("finite_logits" in one.evidence for one in report.findings) == 1


def test_a_model_that_fills_masks_and_sees_one_side_only_is_found() -> None:
    assert look_at("bert", lambda model: broken.masked_by(model, lambda query, key: key <= query)).fails() == {
        "parity.kind"
    }
