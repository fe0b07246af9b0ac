"""A tiny dialogue model, its tokenizer and conversations for the tests of eval; nothing is trained."""

import json
from pathlib import Path

import datasets
import torch
from transformers import PreTrainedTokenizerFast

from configuration_jepa import DialogueJepaConfig
from modeling_jepa import DialogueJepaForConditionalGeneration
from training.data.dialogue_jepa.framing import encode_context, encode_reply
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


def tiny_pairs(tokenizer: PreTrainedTokenizerFast, count: int = 30, texts: bool = True) -> datasets.Dataset:
    """Pairs of which no two have the same reply."""
    replies = [f"{first} {second}" for _, first in PAIRS for _, second in PAIRS][:count]
    pairs = [(PAIRS[number % len(PAIRS)][0], reply) for number, reply in enumerate(replies)]
    columns = {
        "input_ids": [encode_context([prompt], tokenizer, CONTEXT)[0].tolist() for prompt, _ in pairs],
        "labels": [encode_reply(reply, tokenizer, REPLY)[0].tolist() for _, reply in pairs],
        "row_id": [1000 + 7 * number for number in range(len(pairs))],
        "dialogue_id": [number // 2 for number in range(len(pairs))],
    }
    if texts:
        columns |= {"prompt": [prompt for prompt, _ in pairs], "reply": [reply for _, reply in pairs]}
    return datasets.Dataset.from_dict(columns)


def tiny_checkpoint(folder: Path, tokenizer: PreTrainedTokenizerFast, source: Path | None = None, **changes) -> Path:
    """A checkpoint folder as a run leaves it, but for the index of replies."""
    tiny_dialogue(tokenizer, **changes).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if source is not None:
        data = {"data": str(source), "join_punctuation": False, "context_turns": 2}
        (folder / "run.json").write_text(json.dumps({"recipe": {"data": data}}), encoding="utf-8")
    return folder


def tiny_source(folder: Path) -> Path:
    """Dialogues of four turns: train, valid and test."""
    folder.mkdir()
    for split, pairs in (("train", PAIRS[:4]), ("valid", PAIRS[4:5]), ("test", PAIRS[5:])):
        lines = [json.dumps({"turns": [*pair, *pair]}) + "\n" for pair in pairs]
        (folder / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder
