"""Subjects small enough to be looked at in a moment, for tests of single checks; nothing is kept or read."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from configuration_jepa import StagedGeneratorConfig, TextJepaConfig
from eval.advice.record import TrainingRecord
from eval.diagnose.opening import make_subject
from eval.diagnose.subject.subject import Limits, Subject
from modeling_jepa import StagedGeneratorForCausalLM, TextJepaForMaskedLM

SPECIAL = ["[PAD]", "[UNK]", "[MASK]", "[BOS]", "[EOS]"]
WORDS = [f"w{number}" for number in range(55)]
SIZE = len(SPECIAL) + len(WORDS)
WIDTH = 32


def texts(count: int = 48) -> list[str]:
    """Rows in which each word tells the next one, mostly, and low words are frequent."""
    generator = torch.Generator().manual_seed(0)
    rows = []
    for _ in range(count):
        at, row = 0, []
        for draw in torch.rand(40, 2, generator=generator).tolist():
            at = (3 * at + 1) % len(WORDS) if draw[0] < 0.8 else int(len(WORDS) * draw[1] ** 3)
            row.append(WORDS[at])
        rows.append(" ".join(row))
    return rows


def tokenizer() -> PreTrainedTokenizerFast:
    """One token a word."""
    made = Tokenizer(models.WordLevel({word: place for place, word in enumerate(SPECIAL + WORDS)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "mask_token": "[MASK]", "bos_token": "[BOS]"}
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="[EOS]", **names)


def gpt2() -> PreTrainedModel:
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=SIZE, n_embd=WIDTH, n_layer=2, n_head=2, n_positions=64, bos_token_id=3, eos_token_id=4)
    )


def llama() -> PreTrainedModel:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=SIZE,
            hidden_size=WIDTH,
            intermediate_size=2 * WIDTH,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=64,
        )
    )


def opt() -> PreTrainedModel:
    return OPTForCausalLM(
        OPTConfig(
            vocab_size=SIZE,
            hidden_size=WIDTH,
            word_embed_proj_dim=WIDTH,
            ffn_dim=4 * WIDTH,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=64,
        )
    )


def bert() -> PreTrainedModel:
    return BertForMaskedLM(
        BertConfig(
            vocab_size=SIZE,
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=64,
        )
    )


def t5() -> PreTrainedModel:
    return T5ForConditionalGeneration(
        T5Config(
            vocab_size=SIZE,
            d_model=WIDTH,
            d_kv=16,
            d_ff=2 * WIDTH,
            num_layers=2,
            num_heads=2,
            decoder_start_token_id=0,
            pad_token_id=0,
        )
    )


def generator(stage: int = 0) -> PreTrainedModel:
    return StagedGeneratorForCausalLM(
        StagedGeneratorConfig(
            vocab_size=SIZE,
            hidden_size=WIDTH,
            num_hidden_layers=2,
            num_attention_heads=2,
            embedding_size=24,
            num_semantic_blocks=4,
            semantic_blocks="full",
            max_position_embeddings=64,
            time_dim=8,
            stage=stage,
        )
    )


def text_jepa(table: str = "online") -> PreTrainedModel:
    return TextJepaForMaskedLM(
        TextJepaConfig(
            vocab_size=SIZE,
            hidden_size=WIDTH,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=64,
            target_table=table,
            mask_token_id=2,
        )
    )


MAKERS: dict[str, Callable[[], PreTrainedModel]] = {
    "gpt2": gpt2,
    "llama": llama,
    "opt": opt,
    "bert": bert,
    "t5": t5,
    "generator-0": generator,
    "generator-1": lambda: generator(1),
    "generator-3": lambda: generator(3),
    "text_jepa": text_jepa,
    "text_jepa-ema": lambda: text_jepa("ema"),
}


def untrained(name: str, seed: int = 0) -> Subject:
    """A subject with the weights that its model begins with."""
    torch.manual_seed(seed)
    return make_subject(MAKERS[name]().eval(), tokenizer(), texts(), limits=Limits(rows=8, length=32), name=name)


def trained(name: str, steps: int = 60, seed: int = 0, rate: float = 5e-3) -> Subject:
    """A subject after some steps of AdamW on its own text."""
    subject = untrained(name, seed)
    subject.model.load_state_dict(_trained_weights(name, steps, seed, rate))
    return subject


def record(steps: int, learning_rate: float | None = None) -> TrainingRecord:
    """The record of a run that logged one row."""
    return TrainingRecord(Path(), [{"step": steps, "loss": 3.0}], learning_rate, {}, [], ours=False)


@cache
@torch.enable_grad()
def _trained_weights(name: str, steps: int, seed: int, rate: float) -> dict[str, torch.Tensor]:
    subject = untrained(name, seed)
    model = subject.model
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    batch = subject.batch(16, 32)
    for step in range(steps):
        asked = subject.holes(batch, seed=step) if subject.kind == "masked" else batch
        loss = subject.own_loss(model, subject.learning_inputs(asked))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.state_dict()
