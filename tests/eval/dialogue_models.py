"""A tiny dialogue model, its tokenizer and conversations for the tests of eval; nothing is trained."""

import torch
from transformers import PreTrainedTokenizerFast

from configuration_jepa import DialogueJepaConfig
from modeling_jepa import DialogueJepaForConditionalGeneration
from training.data.settings import DataSettings
from training.data.tokenization import build_tokenizer

CONTEXT, REPLY = 24, 20
PAIRS = [
    ("how are you ?", "i am fine , thank you ."),
    ("where do you live ?", "in a small house by the sea ."),
    ("do you like music ?", "yes , i like it very much ."),
    ("what do you do ?", "i am a teacher ."),
    ("is it cold today ?", "no , it is warm ."),
    ("thank you very much .", "you are welcome ."),
]


def tiny_words() -> PreTrainedTokenizerFast:
    texts = [text for pair in PAIRS for text in pair]
    return build_tokenizer(DataSettings(data="memory", tokenizer="word", max_vocab=80), texts, CONTEXT)


def tiny_dialogue(
    tokenizer: PreTrainedTokenizerFast, seed: int = 0, **changes
) -> DialogueJepaForConditionalGeneration:
    torch.manual_seed(seed)
    config = DialogueJepaConfig(
        **{
            "vocab_size": len(tokenizer),
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "decoder_layers": 1,
            "max_position_embeddings": CONTEXT,
            "max_reply_length": REPLY,
            "num_latents": 2,
            "initializer_range": 0.3,  # so that replies and latents differ without training
            **changes,
        }
    )
    return DialogueJepaForConditionalGeneration(config).eval()
