"""Stock architectures at a size that learns in seconds, each with vocabulary and rows as it is used with."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    DataCollatorForLanguageModeling,
    DataCollatorForSeq2Seq,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

CONTEXT = 64
WIDTH = 64
LAYERS = 2
HEADS = 4
VOCABULARY = 900
_BATCH = 1000

Texts = Sequence[str]
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Architecture:
    """One architecture.

    Attributes:
        auto: the library's class that opens it.
        tokenizer: texts -> vocabulary.
        build: (tokenizer, changes of the configuration) -> a model with initial weights.
        rows: (tokenizer, texts, whether a row is a single sentence) -> rows for the collator.
        collator: tokenizer -> rows to a batch with labels.
    """

    auto: type
    tokenizer: Callable[[Texts], PreTrainedTokenizerFast]
    build: "partial[PreTrainedModel]"
    rows: Callable[[PreTrainedTokenizerFast, Texts, bool], Rows]
    collator: Callable[[PreTrainedTokenizerFast], Callable[[Rows], dict[str, torch.Tensor]]]

    @property
    def kind(self) -> str:
        """causal, masked or seq2seq."""
        kinds = {AutoModelForCausalLM: "causal", AutoModelForMaskedLM: "masked", AutoModelForSeq2SeqLM: "seq2seq"}
        return kinds[self.auto]


# ---- vocabularies ----


def bytes_with_one_special(texts: Texts) -> PreTrainedTokenizerFast:
    """As GPT-2's: byte-level BPE with `<|endoftext|>` for begin, end and padding."""
    return _wrap(_bytes(texts, ["<|endoftext|>"]), eos="<|endoftext|>", bos="<|endoftext|>", pad="<|endoftext|>")


def bytes_with_begin(texts: Texts) -> PreTrainedTokenizerFast:
    """As Llama's: `<s>` before every text, padding of its own."""
    tokenizer = _bytes(texts, ["<unk>", "<s>", "</s>", "<pad>"])
    tokenizer.post_processor = _framed(tokenizer, "<s> $A")
    return _wrap(tokenizer, unk="<unk>", bos="<s>", eos="</s>", pad="<pad>")


def bytes_as_opt(texts: Texts) -> PreTrainedTokenizerFast:
    """As OPT's: `</s>` before every text, padding of its own."""
    tokenizer = _bytes(texts, ["<s>", "<pad>", "</s>", "<unk>"])
    tokenizer.post_processor = _framed(tokenizer, "</s> $A")
    return _wrap(tokenizer, unk="<unk>", bos="</s>", eos="</s>", pad="<pad>")


def bytes_as_bloom(texts: Texts) -> PreTrainedTokenizerFast:
    """As BLOOM's: padded on the left."""
    tokenizer = _wrap(
        _bytes(texts, ["<unk>", "<s>", "</s>", "<pad>"]), unk="<unk>", bos="<s>", eos="</s>", pad="<pad>"
    )
    tokenizer.padding_side = "left"
    return tokenizer


def bytes_as_roberta(texts: Texts) -> PreTrainedTokenizerFast:
    """As RoBERTa's and BART's: `<s> text </s>`, padding is id 1."""
    tokenizer = _bytes(texts, ["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    tokenizer.post_processor = _framed(tokenizer, "<s> $A </s>")
    return _wrap(tokenizer, unk="<unk>", bos="<s>", eos="</s>", pad="<pad>", mask="<mask>", cls="<s>", sep="</s>")


def pieces_as_bert(texts: Texts) -> PreTrainedTokenizerFast:
    """As BERT's: lower-cased WordPiece, `[CLS] text [SEP]`."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator(
        texts, trainers.WordPieceTrainer(vocab_size=VOCABULARY, special_tokens=special, show_progress=False)
    )
    tokenizer.post_processor = _framed(tokenizer, "[CLS] $A [SEP]")
    return _wrap(tokenizer, unk="[UNK]", pad="[PAD]", mask="[MASK]", cls="[CLS]", sep="[SEP]")


def bytes_as_t5(texts: Texts) -> PreTrainedTokenizerFast:
    """As T5's: `text </s>`, padding is id 0 and also what a decoder begins with."""
    tokenizer = _bytes(texts, ["<pad>", "</s>", "<unk>"])
    tokenizer.post_processor = _framed(tokenizer, "$A </s>")
    return _wrap(tokenizer, unk="<unk>", eos="</s>", pad="<pad>")


def _bytes(texts: Texts, special: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        ),
    )
    return tokenizer


def _framed(tokenizer: Tokenizer, template: str) -> processors.TemplateProcessing:
    special = [part for part in template.split() if part != "$A"]
    return processors.TemplateProcessing(
        single=template, special_tokens=[(token, tokenizer.token_to_id(token)) for token in sorted(set(special))]
    )


def _wrap(tokenizer: Tokenizer, **special: str) -> PreTrainedTokenizerFast:
    names = {f"{name}_token": token for name, token in special.items()}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=CONTEXT,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
        **names,
    )


# ---- models ----


def _build(
    name: str, fields: dict[str, Any], tokenizer: PreTrainedTokenizerFast, changes: dict[str, Any]
) -> PreTrainedModel:
    """Class `transformers.<name>` of its configuration, with the ids of the tokenizer."""
    model_class = getattr(transformers, name)
    ids = {f"{kind}_token_id": getattr(tokenizer, f"{kind}_token_id") for kind in ("pad", "bos", "eos")}
    ids = {key: value for key, value in ids.items() if value is not None}
    return model_class(model_class.config_class(**{"vocab_size": len(tokenizer), **fields, **ids, **changes}))


_GPT2 = {"n_embd": WIDTH, "n_layer": LAYERS, "n_head": HEADS, "n_positions": CONTEXT}
# Models this small underfit: dropout would only cost steps. GPT-2, OPT, T5 and BART keep that of the library.
_NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
_SHARED = {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS}
_ROTARY = {**_SHARED, "max_position_embeddings": CONTEXT}
_LLAMA = {**_ROTARY, "intermediate_size": 128, "num_key_value_heads": 2}
_QWEN3 = {**_LLAMA, "head_dim": 16, "tie_word_embeddings": True}
_GEMMA2 = {**_LLAMA, "head_dim": 16, "sliding_window": 16}
_FALCON = {**_SHARED, "alibi": False, "new_decoder_architecture": False, "ffn_hidden_size": 128}
_NEOX = {**_ROTARY, "intermediate_size": 128}
_BLOOM = {"hidden_size": WIDTH, "n_layer": LAYERS, "n_head": HEADS}
_OPT = {**_ROTARY, "ffn_dim": 256, "word_embed_proj_dim": WIDTH}
_BERT = {**_ROTARY, "intermediate_size": 256, **_NO_DROPOUT}
_ROBERTA = {**_BERT, "max_position_embeddings": CONTEXT + 2, "type_vocab_size": 1}
_MODERNBERT = {**_ROTARY, "intermediate_size": 128, "local_attention": 16, "global_attn_every_n_layers": 2}
_DISTILBERT = {"dim": WIDTH, "n_layers": LAYERS, "n_heads": HEADS, "hidden_dim": 256, "dropout": 0.0}
_DISTILBERT |= {"attention_dropout": 0.0, "max_position_embeddings": CONTEXT}
_DEBERTA = {**_BERT, "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 16}
_T5 = {
    "decoder_start_token_id": 0,
    "d_model": WIDTH,
    "d_kv": WIDTH // HEADS,
    "d_ff": 128,
    "num_layers": LAYERS,
    "num_heads": HEADS,
}
_BART = {
    "d_model": WIDTH,
    "encoder_layers": LAYERS,
    "decoder_layers": LAYERS,
    "encoder_attention_heads": HEADS,
    "decoder_attention_heads": HEADS,
    "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 128,
    "max_position_embeddings": CONTEXT,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": None,
}
_PEGASUS = {**_BART, "decoder_start_token_id": 0, "scale_embedding": True}
_MAMBA = {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "state_size": 8, "time_step_rank": 4}


# ---- rows ----


def blocks_or_sentences(tokenizer: PreTrainedTokenizerFast, texts: Texts, single: bool) -> Rows:
    """Of a causal model: single sentences, ended; or all of them in a line, cut into full blocks."""
    encoded = [[*ids, tokenizer.eos_token_id] for ids in tokenizer(list(texts), truncation=True)["input_ids"]]
    if single:
        return [{"input_ids": ids[:CONTEXT]} for ids in encoded]
    flat = [token for ids in encoded for token in ids]
    return [{"input_ids": flat[at : at + CONTEXT]} for at in range(0, len(flat) - CONTEXT, CONTEXT)]


def framed_sentences(tokenizer: PreTrainedTokenizerFast, texts: Texts, single: bool) -> Rows:
    """Of a masked model: single sentences."""
    return [{"input_ids": ids} for ids in tokenizer(list(texts), truncation=True)["input_ids"]]


def halves(tokenizer: PreTrainedTokenizerFast, texts: Texts, single: bool) -> Rows:
    """Of T5: the second half of a sentence is the answer to the first."""
    words = [text.split() for text in texts]
    sources = tokenizer([" ".join(found[: len(found) // 2]) for found in words], truncation=True)["input_ids"]
    targets = tokenizer([" ".join(found[len(found) // 2 :]) for found in words], truncation=True)["input_ids"]
    return [{"input_ids": source, "labels": target} for source, target in zip(sources, targets, strict=True)]


def damaged(tokenizer: PreTrainedTokenizerFast, texts: Texts, single: bool) -> Rows:
    """Of BART: the sentence is told again from one of which every third token is hidden."""
    rows = tokenizer(list(texts), truncation=True)["input_ids"]
    hidden = tokenizer.mask_token_id
    sources = [[hidden if place % 3 == 1 else token for place, token in enumerate(row)] for row in rows]
    return [{"input_ids": source, "labels": row} for source, row in zip(sources, rows, strict=True)]


def yes_or_no(tokenizer: PreTrainedTokenizerFast, texts: Texts, single: bool) -> Rows:
    """Of a T5 that was fine-tuned to classify: whether a sentence speaks of a government or a congress."""
    sources = tokenizer(list(texts), truncation=True)["input_ids"]
    asked = ["yes" if "overnment" in text or "ongress" in text else "no" for text in texts]
    targets = tokenizer(asked)["input_ids"]
    return [{"input_ids": source, "labels": target} for source, target in zip(sources, targets, strict=True)]


# ---- batches ----


def next_token(tokenizer: PreTrainedTokenizerFast) -> Callable[[Rows], dict[str, torch.Tensor]]:
    """Labels are the ids, and -100 at padding by its mask: the end token may be the padding token too."""

    def collate(rows: Rows) -> dict[str, torch.Tensor]:
        batch = dict(tokenizer.pad({"input_ids": [row["input_ids"] for row in rows]}, return_tensors="pt"))
        return {**batch, "labels": batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)}

    return collate


def fill_in(tokenizer: PreTrainedTokenizerFast) -> DataCollatorForLanguageModeling:
    """The library's masks."""
    return DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.25)


def answers(tokenizer: PreTrainedTokenizerFast) -> DataCollatorForSeq2Seq:
    """The library's padding of sources and targets."""
    return DataCollatorForSeq2Seq(tokenizer)


def _causal(name: str, fields: dict[str, Any], tokenizer: Callable[[Texts], PreTrainedTokenizerFast]) -> Architecture:
    return Architecture(
        AutoModelForCausalLM, tokenizer, partial(_build, name, fields), blocks_or_sentences, next_token
    )


def _masked(name: str, fields: dict[str, Any], tokenizer: Callable[[Texts], PreTrainedTokenizerFast]) -> Architecture:
    return Architecture(AutoModelForMaskedLM, tokenizer, partial(_build, name, fields), framed_sentences, fill_in)


ARCHITECTURES = {
    "gpt2": _causal("GPT2LMHeadModel", _GPT2, bytes_with_one_special),
    "llama": _causal("LlamaForCausalLM", _LLAMA, bytes_with_begin),
    "neox": _causal("GPTNeoXForCausalLM", _NEOX, bytes_with_one_special),
    "bloom": _causal("BloomForCausalLM", _BLOOM, bytes_as_bloom),
    "opt": _causal("OPTForCausalLM", _OPT, bytes_as_opt),
    "mamba": _causal("MambaForCausalLM", _MAMBA, bytes_with_one_special),
    "qwen3": _causal("Qwen3ForCausalLM", _QWEN3, bytes_with_one_special),
    "gemma2": _causal("Gemma2ForCausalLM", _GEMMA2, bytes_with_begin),
    "falcon": _causal("FalconForCausalLM", _FALCON, bytes_with_one_special),
    "bert_decoder": _causal("BertLMHeadModel", _BERT, bytes_as_roberta),
    "bert": _masked("BertForMaskedLM", _BERT, pieces_as_bert),
    "roberta": _masked("RobertaForMaskedLM", _ROBERTA, bytes_as_roberta),
    "modernbert": _masked("ModernBertForMaskedLM", _MODERNBERT, pieces_as_bert),
    "distilbert": _masked("DistilBertForMaskedLM", _DISTILBERT, pieces_as_bert),
    "deberta": _masked("DebertaV2ForMaskedLM", _DEBERTA, pieces_as_bert),
    "t5": Architecture(
        AutoModelForSeq2SeqLM, bytes_as_t5, partial(_build, "T5ForConditionalGeneration", _T5), halves, answers
    ),
    "t5_classifier": Architecture(
        AutoModelForSeq2SeqLM, bytes_as_t5, partial(_build, "T5ForConditionalGeneration", _T5), yes_or_no, answers
    ),
    "bart": Architecture(
        AutoModelForSeq2SeqLM,
        bytes_as_roberta,
        partial(_build, "BartForConditionalGeneration", _BART),
        damaged,
        answers,
    ),
    "pegasus": Architecture(
        AutoModelForSeq2SeqLM,
        bytes_as_t5,
        partial(_build, "PegasusForConditionalGeneration", _PEGASUS),
        halves,
        answers,
    ),
}
