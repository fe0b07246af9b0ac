"""What planted faults and strange models taught: each of these was a wrong answer of the doctor once."""

import json
import math
from itertools import product

import pytest
import torch
from torch import Tensor
from transformers import (
    BambaForCausalLM,
    BartForCausalLM,
    BertForMaskedLM,
    ConvBertForMaskedLM,
    FNetForMaskedLM,
    FunnelForMaskedLM,
    MiniMaxForCausalLM,
    NystromformerConfig,
    NystromformerForMaskedLM,
    PegasusForConditionalGeneration,
    RecurrentGemmaForCausalLM,
    RwkvConfig,
    RwkvForCausalLM,
    SwitchTransformersForConditionalGeneration,
    XLMConfig,
    XLMWithLMHeadModel,
    XLNetConfig,
    XLNetLMHeadModel,
)

from eval.diagnose import Report, diagnose
from eval.diagnose.__main__ import main
from eval.diagnose.checks.parity_offset import offset
from eval.diagnose.opening import make_subject
from tests.diagnose import architectures
from tests.diagnose.architectures import ARCHITECTURES
from training.common.errors import InputError

WORDS = (("people", "king", "army", "house"), ("Rome", "Spain"), ("saw", "made"), ("law", "road", "ship"))
TEXTS = [f"the {noun} of {place} {verb} a {thing} in {place}" for noun, place, verb, thing in product(*WORDS)] * 3


def made(name: str, **changes: object) -> tuple[object, object]:
    """An untrained model of an architecture, and its tokenizer."""
    tokenizer = ARCHITECTURES[name].tokenizer(TEXTS)
    torch.manual_seed(0)
    return ARCHITECTURES[name].build(tokenizer, changes).eval(), tokenizer


def named(report: Report) -> dict[str, str]:
    """Check -> verdict."""
    return {finding.check: finding.verdict for finding in report.findings}


def test_a_table_of_fixed_sinusoids_is_no_detached_branch():
    model, tokenizer = made("pegasus")
    assert isinstance(model, PegasusForConditionalGeneration)
    assert diagnose(model, tokenizer, TEXTS, only=("gradient",)).fails() == set()


def test_a_masked_model_of_numbers_that_are_none_can_be_opened():
    model, tokenizer = made("bert")
    assert isinstance(model, BertForMaskedLM)
    with torch.no_grad():
        model.bert.encoder.layer[1].output.LayerNorm.weight[3] = math.inf
    report = diagnose(model, tokenizer, TEXTS, only=("gradient",))
    assert report.kind == "masked"
    assert "gradient.non_finite" in report.fails()


def test_a_model_of_questions_and_answers_is_not_called_broken_for_text_that_it_never_wrote():
    model, tokenizer = made("t5")
    learn_to_answer(model, tokenizer)
    assert named(diagnose(model, tokenizer, TEXTS, only=("distribution",)))["distribution.flat"] == "note"


def test_a_rate_of_zero_is_not_called_divergence(tmp_path):
    model, tokenizer = made("t5")
    rows = [{"step": step, "loss": 9.0 + step / 100, "learning_rate": 0.0} for step in range(10, 80, 10)]
    state = {"log_history": rows, "global_step": 70, "max_steps": 70}
    (tmp_path / "trainer_state.json").write_text(json.dumps(state), encoding="utf-8")
    report = diagnose(model, tokenizer, TEXTS, run=tmp_path, only=("training",))
    assert report.fails() == {"training.learning_rate"}


def test_an_offset_beside_the_one_of_tied_tables_is_named(monkeypatch):
    """The token itself is as likely as in a fresh model, and the one after the next likelier than the next."""
    model, tokenizer = made("gpt2")
    with torch.no_grad():
        model.transformer.ln_f.weight += torch.rand(model.config.n_embd)  # trained
    generator = torch.Generator().manual_seed(0)
    levels = {0: 5.0, 1: 6.8, 2: 6.0, 3: 6.8}

    def nats(*_: object) -> dict[int, Tensor]:
        return {key: level + 0.1 * torch.randn(900, generator=generator) for key, level in levels.items()}

    monkeypatch.setattr("eval.diagnose.checks.parity_offset._nats_by_offset", nats)
    finding = offset(make_subject(model, tokenizer, TEXTS))
    assert (finding.verdict, finding.evidence["best_offset"]) == ("fail", 2)


@pytest.mark.parametrize("level", [6.8, 7.5])
def test_no_offset_is_named_where_only_tied_tables_speak(monkeypatch, level):
    model, tokenizer = made("gpt2")
    with torch.no_grad():
        model.transformer.ln_f.weight += torch.rand(model.config.n_embd)
    generator = torch.Generator().manual_seed(0)
    levels = {0: 5.0, 1: 6.8, 2: level, 3: level}

    def nats(*_: object) -> dict[int, Tensor]:
        return {key: level + 0.1 * torch.randn(900, generator=generator) for key, level in levels.items()}

    monkeypatch.setattr("eval.diagnose.checks.parity_offset._nats_by_offset", nats)
    assert offset(make_subject(model, tokenizer, TEXTS)).verdict == "pass"


def learn_to_answer(model: torch.nn.Module, tokenizer: object, steps: int = 60) -> None:
    """Yes or no, as a classifier by text does."""
    rows = architectures.yes_or_no(tokenizer, [text.replace("army", "government") for text in TEXTS], True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    collate = architectures.answers(tokenizer)
    model.train()
    for step in range(steps):
        optimizer.zero_grad()
        model(**collate(rows[8 * (step % 6) :][:8])).loss.backward()
        optimizer.step()
    model.eval()


_HYBRIDS = {
    RecurrentGemmaForCausalLM: {"num_hidden_layers": 3, "lru_width": 32, "attention_window_size": 16},
    BambaForCausalLM: {
        "num_hidden_layers": 2,
        "attn_layer_indices": [1],
        "mamba_n_heads": 4,
        "mamba_d_head": 16,
        "mamba_d_state": 8,
        "mamba_n_groups": 1,
        "mamba_chunk_size": 8,
    },
    MiniMaxForCausalLM: {
        "num_hidden_layers": 2,
        "head_dim": 16,
        "num_local_experts": 2,
        "num_experts_per_tok": 1,
        "layer_types": ["linear_attention", "full_attention"],
        "block_size": 8,
    },
}


@pytest.mark.parametrize("model_class", _HYBRIDS, ids=lambda made: made.__name__)
def test_a_hybrid_that_generates_the_same_with_its_cache_does_not_fail_for_it(model_class):
    tokenizer = architectures.bytes_with_begin(TEXTS)
    sizes = {"hidden_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 64}
    ids = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    torch.manual_seed(0)
    config = model_class.config_class(vocab_size=len(tokenizer), **sizes, **_HYBRIDS[model_class], **ids)
    report = diagnose(model_class(config).eval(), tokenizer, TEXTS, only=("leak",))
    assert named(report)["leak.cache"] in ("pass", "note")
    assert report.fails() == set()


_SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "intermediate_size": 64}
_HEADS = {**_SMALL, "num_attention_heads": 2}
# What the library's classes really do, beside their own row alone: RWKV takes a mask and does not use it, the
# convolution of ConvBERT and the pooling of Funnel read padding, FNet takes no mask, BART's decoder shifts no labels.
_STOCK = [
    (
        RwkvForCausalLM,
        {**_SMALL, "num_hidden_layers": 2, "attention_hidden_size": 32, "context_length": 64},
        "leak.padding",
        "fail",
    ),
    (ConvBertForMaskedLM, {**_HEADS, "embedding_size": 32, "head_ratio": 1}, "leak.padding", "fail"),
    (
        FunnelForMaskedLM,
        {"block_sizes": [1, 1], "d_model": 32, "n_head": 2, "d_head": 16, "d_inner": 64},
        "leak.padding",
        "fail",
    ),
    (FNetForMaskedLM, _SMALL, "leak.padding", "note"),
    (
        SwitchTransformersForConditionalGeneration,
        {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2, "num_experts": 2},
        "leak.padding",
        "pass",
    ),
    (
        BartForCausalLM,
        {"d_model": 32, "decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 64},
        "parity.own_loss",
        "fail",
    ),
]


@pytest.mark.parametrize(
    ("model_class", "sizes", "check", "verdict"), _STOCK, ids=lambda made: getattr(made, "__name__", "")
)
def test_the_librarys_own_models_are_told_what_they_do(model_class, sizes, check, verdict):
    fills = model_class.__name__.endswith("MaskedLM")
    tokenizer = (architectures.pieces_as_bert if fills else architectures.bytes_with_begin)(TEXTS)
    ids = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    torch.manual_seed(0)
    model = model_class(model_class.config_class(vocab_size=len(tokenizer), **sizes, **ids)).eval()
    if model.config.is_encoder_decoder:
        model.config.decoder_start_token_id = tokenizer.pad_token_id
    report = diagnose(model, tokenizer, TEXTS, only=(check.split(".")[0],))
    assert named(report)[check] == verdict
    assert report.fails() == ({check} if verdict == "fail" else set())
    unused = [finding for finding in report.findings if "does nothing with it" in finding.cause]
    assert bool(unused) == (model_class is RwkvForCausalLM)


def test_a_fresh_model_whose_decays_differ_and_whose_state_is_kept_in_place_passes():
    """Units that begin apart are no sign of training, and learning keeps no state."""
    tokenizer = architectures.bytes_with_one_special(TEXTS)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "context_length": 64}
    config = RwkvConfig(vocab_size=len(tokenizer), **sizes)
    report = diagnose(RwkvForCausalLM(config).eval(), tokenizer, TEXTS, only=("gradient", "parity"))
    assert report.fails() == set()
    assert [finding.check for finding in report.findings if "error" in finding.evidence] == []


def test_a_masked_model_that_can_generate_is_not_taken_for_a_causal_one():
    tokenizer = architectures.pieces_as_bert(TEXTS)
    torch.manual_seed(0)
    config = XLMConfig(vocab_size=len(tokenizer), emb_dim=32, n_layers=1, n_heads=2, max_position_embeddings=64)
    report = diagnose(XLMWithLMHeadModel(config).eval(), tokenizer, TEXTS, only=("leak",))
    assert (report.kind, report.fails()) == ("masked", set())


def test_a_model_of_permuted_orders_is_refused_in_one_line():
    tokenizer = architectures.pieces_as_bert(TEXTS)
    model = XLNetLMHeadModel(XLNetConfig(vocab_size=len(tokenizer), d_model=16, n_layer=1, n_head=2, d_inner=16))
    with pytest.raises(InputError, match=r"^XLNetLMHeadModel reads tokens in permuted orders"):
        make_subject(model, tokenizer, TEXTS)


def test_a_model_that_refuses_the_rows_it_is_asked_about_is_bad_input_and_exit_code_2(tmp_path, capsys):
    tokenizer = architectures.pieces_as_bert(TEXTS)
    landmarks = {"num_landmarks": 8, "segment_means_seq_len": 64, "pad_token_id": tokenizer.pad_token_id}
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = NystromformerConfig(vocab_size=len(tokenizer), **sizes, **landmarks)
    NystromformerForMaskedLM(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    capsys.readouterr()
    assert main([str(tmp_path), "--only", "leak", "--device", "cpu"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: NystromformerForMaskedLM refuses a row of 8 tokens: ")
    assert error.count("\n") == 1
