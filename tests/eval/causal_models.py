"""Tiny causal models, their tokenizer and texts, for the tests of scoring and generation; none of it is trained."""

import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from configuration_jepa import StagedGeneratorConfig
from modeling_jepa import StagedGeneratorForCausalLM
from training.data.settings import GeneratorDataSettings
from training.data.staged_generator.framing import build_generator_tokenizer

CONTEXT = 24
TEXTS = [
    " = Peace = \n \n the people of the united states , and the state of the union \n",
    " short one \n",
    " we must work for peace and freedom in the last year , and we spent more than we had \n" * 3,
]


def tiny_bpe() -> PreTrainedTokenizerFast:
    return build_generator_tokenizer(GeneratorDataSettings(max_vocab=300), TEXTS, CONTEXT)


def tiny_llama(vocab_size: int, cls: type[LlamaForCausalLM] = LlamaForCausalLM) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=CONTEXT,
        initializer_range=0.5,
        pad_token_id=0,
    )
    return cls(config).eval()


def tiny_gpt2(vocab_size: int) -> GPT2LMHeadModel:
    torch.manual_seed(0)
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=vocab_size, n_embd=16, n_layer=2, n_head=2, n_positions=CONTEXT, initializer_range=0.3)
    ).eval()


def tiny_generator(tokenizer: PreTrainedTokenizerFast, stage: int = 0) -> StagedGeneratorForCausalLM:
    """Ours, with weights at random everywhere, those that start at zero included."""
    names = ("pad_token_id", "unk_token_id", "mask_token_id", "bos_token_id", "eos_token_id")
    config = StagedGeneratorConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=CONTEXT,
        embedding_size=16,
        num_semantic_blocks=4,
        routing_occurrences=2,
        stage=stage,
        **{name: getattr(tokenizer, name) for name in names},
    )
    torch.manual_seed(0)
    model = StagedGeneratorForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model
