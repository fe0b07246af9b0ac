"""Untrained models of a few thousand parameters under examination, made in milliseconds."""

import random
from collections.abc import Callable

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from configuration_jepa import TextJepaConfig
from eval.diagnose.opening import make_subject
from eval.diagnose.subject.subject import Subject
from modeling_jepa import TextJepaForMaskedLM

WORDS = 120
SPECIAL = ["[PAD]", "[UNK]", "[MASK]", "[BOS]", "[EOS]"]


def causal_subject(seed: int = 0, width: int = 32, reads_sentences: bool = False) -> Subject:
    """A GPT-2 over ids drawn at random, or over sentences in which words are as frequent as in language."""
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=150, n_positions=64, n_embd=width, n_layer=2, n_head=2, bos_token_id=3, eos_token_id=4
    )
    model = GPT2LMHeadModel(config)
    if reads_sentences:
        return make_subject(model.eval(), _tokenizer(), _sentences(), name="small")
    return make_subject(model.eval(), None, ["no tokenizer reads this"], name="small")


def latent_subject(
    change: Callable[[TextJepaForMaskedLM], object] | None = None, seed: int = 0, **fields: object
) -> Subject:
    """A latent text model over sentences in which words are as frequent as in language.

    Args:
        change: done to the model in place, without gradients.
        seed: of the weights.
        fields: of its configuration.
    """
    torch.manual_seed(seed)
    tokenizer = _tokenizer()
    settings = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = TextJepaConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=64,
        pad_token_id=tokenizer.pad_token_id,
        mask_token_id=tokenizer.mask_token_id,
        **{**settings, **fields},
    )
    model = TextJepaForMaskedLM(config).eval()
    if change is not None:
        with torch.no_grad():
            change(model)
    return make_subject(model, tokenizer, _sentences(), name="small")


def _tokenizer() -> PreTrainedTokenizerFast:
    words = [*SPECIAL, *(f"w{number}" for number in range(WORDS))]
    made = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    names = ("pad_token", "unk_token", "mask_token", "bos_token", "eos_token")
    return PreTrainedTokenizerFast(tokenizer_object=made, **dict(zip(names, SPECIAL, strict=True)))


def _sentences() -> list[str]:
    """Word k about as often as 1 / (k + 1) says (Zipf)."""
    generator = random.Random(0)
    weights = [1 / (number + 1) for number in range(WORDS)]
    draw = lambda count: generator.choices(range(WORDS), weights, k=count)  # noqa: E731 (one expression, used once)
    return [" ".join(f"w{number}" for number in draw(generator.randrange(8, 20))) for _ in range(300)]
