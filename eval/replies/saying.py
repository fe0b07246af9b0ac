"""A dialogue model from the outside: opening it, turns as its context, and the replies that it says.

model, tokenizer = open_dialogue("outputs/dialogue")
say(model, tokenizer, [read_turns(["how are you?"], model, tokenizer).ids])
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForSeq2SeqLM,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from eval.decoding.decoding import Decoding
from eval.decoding.token_scores import evaluating, pad_rows
from eval.loading import checked_name, open_model, open_tokenizer
from training.common.errors import InputError, NonFiniteError
from training.data.dialogue_jepa.dialogues import tidy_turn
from training.data.dialogue_jepa.framing import encode_context

FAMILY = "dialogue_jepa"
LOGITS_AT_A_TIME = 2**25  # 128 MiB of float32: a decoder gives (rows, L, V) at once
TOKENS_AT_A_TIME = 4096


@dataclass(frozen=True)
class Context:
    """Turns as a dialogue model reads them: `ids`, at most as many as it takes, and `left_out`, those before them."""

    ids: list[int]
    left_out: int = 0

    @property
    def note(self) -> str | None:
        """What a user should know, in one line."""
        if not self.left_out:
            return None
        whole = len(self.ids) + self.left_out
        return f"the context is {whole} tokens long, the model reads {len(self.ids)}: its beginning was left out"


def open_dialogue(checkpoint: str, device: str | None = None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A dialogue checkpoint's model, in eval mode, and its tokenizer.

    Raises:
        InputError: no such checkpoint, one of another family, or a tokenizer that is not its decoder's.
    """
    name = checked_name(checkpoint)
    try:
        kind = AutoConfig.from_pretrained(name).model_type
    except (OSError, ValueError) as error:
        raise InputError(f"{checkpoint} cannot be opened as a model: {' '.join(str(error).split())}") from error
    if kind != FAMILY:
        raise InputError(f"{checkpoint} is a {kind!r} model, which holds no conversation; give a {FAMILY} checkpoint")
    tokenizer = open_tokenizer(checkpoint)
    model = open_model(checkpoint, AutoModelForSeq2SeqLM, device)
    check_tokenizer(model, tokenizer)
    return model, tokenizer


def check_tokenizer(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise InputError for a tokenizer with tokens that reader or decoder lack, or with another begin, end or pad."""
    sizes = {
        "encoder": model.get_input_embeddings().weight.shape[0],
        "decoder": model.get_output_embeddings().weight.shape[0],
    }
    for part, size in sizes.items():
        if len(tokenizer) > size:
            raise InputError(
                f"the tokenizer has {len(tokenizer):,} tokens, the {part} knows {size:,}: they do not belong "
                "together; use the tokenizer that the model was trained with"
            )
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        own, given = getattr(model.config, name), getattr(tokenizer, name)
        if given is not None and own != given:
            raise InputError(
                f"the tokenizer's {name} is {given}, the model's {own}: they do not belong together; use the "
                "tokenizer that the model was trained with"
            )


def read_turns(turns: Sequence[str], model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Context:
    """Turns, the latest last, as the context of the next one; one that is too long is kept from its end.

    Raises:
        InputError: no turn, an empty one, or nothing in them that the model knows.
    """
    turns = [tidy_turn(turn, join_punctuation=False) for turn in turns]
    if not turns or not all(turns):
        raise InputError('message is empty: say something, for example: "how are you?"')
    ids, left_out = encode_context(turns, tokenizer, model.config.max_position_embeddings)
    if set(ids) <= {tokenizer.unk_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id}:
        raise InputError(
            f"message {turns[-1]!r} holds nothing but what is outside the vocabulary of {len(tokenizer):,} tokens; "
            "use other words"
        )
    return Context(ids.tolist(), left_out)


def whole_reply(labels: np.ndarray, tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """A reply as the teacher reads it: its labels behind the begin token."""
    return np.concatenate([[tokenizer.bos_token_id], labels])


def say(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    contexts: Sequence[Sequence[int]],
    decoding: Decoding | None = None,
    do_sample: bool = False,
    batch_size: int = 64,
) -> list[str]:
    """One reply to each context (token ids, see `read_turns`): the likeliest, or a sampled one.

    Leaves the model's mode and the random state as they were. `decoding.num_samples` is not looked at.

    Raises:
        InputError: a bad setting. NonFiniteError: the model scores NaN.
    """
    decoding = decoding or Decoding()
    decoding.validate()
    longest, config = model.config.max_reply_length, model.config
    settings = GenerationConfig(
        **decoding.arguments(do_sample),
        max_length=min(decoding.max_new_tokens + 1, longest),  # the begin token counts
        decoder_start_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id,
    )
    rows = [np.asarray(context) for context in contexts]
    replies = [""] * len(rows)
    with evaluating(model), torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
        torch.manual_seed(decoding.seed)
        for batch in batches_by_length([len(row) for row in rows], model, batch_size, longest):
            inputs = padded([rows[index] for index in batch], model)
            _check_finite(model, inputs)
            said = model.generate(**inputs, generation_config=settings)
            texts = tokenizer.batch_decode(said, skip_special_tokens=True)
            for index, text in zip(batch, texts, strict=True):
                replies[index] = text.strip()
    return replies


def padded(rows: list[np.ndarray], model: PreTrainedModel) -> dict[str, Tensor]:
    """`input_ids` and `attention_mask` `(rows, T)` of rows of unlike length, on the model's device."""
    ids, mask = pad_rows(rows, fill=model.config.pad_token_id)
    return {
        "input_ids": torch.as_tensor(ids, device=model.device),
        "attention_mask": torch.as_tensor(mask, device=model.device),
    }


def batches_by_length(
    lengths: Sequence[int], model: PreTrainedModel, batch_size: int, reply_length: int = 0
) -> Iterator[np.ndarray]:
    """Indices of all rows, in batches of similar length whose activations and logits are bounded.

    Args:
        lengths: of the rows, in tokens.
        reply_length: positions that are scored over the vocabulary beside each row; 0 for none.
    """
    order = np.argsort(-np.asarray(lengths), kind="stable")
    start = 0
    while start < len(order):
        longest = lengths[order[start]] + reply_length
        step = min(batch_size, TOKENS_AT_A_TIME // longest)
        if reply_length:
            step = min(step, LOGITS_AT_A_TIME // (reply_length * model.config.vocab_size))
        step = max(1, step)
        yield order[start : start + step]
        start += step


def _check_finite(model: PreTrainedModel, inputs: dict[str, Tensor]) -> None:
    start = torch.full((len(inputs["input_ids"]), 1), model.config.bos_token_id, device=model.device)
    if torch.isnan(model(**inputs, decoder_input_ids=start, use_cache=False).logits).any():
        raise NonFiniteError("the model scores NaN: its weights are broken, use an earlier checkpoint")
