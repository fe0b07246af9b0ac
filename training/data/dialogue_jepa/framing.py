"""Contexts and replies as token ids: the tokenizer of a dialogue model, and how it frames a turn.

A context is `begin turn end turn end ...`: the end token stands between turns and after the last one, and a single
turn is what the tokenizer makes of a text by itself. A reply is `tokens end`; the begin token is what its decoder is
given first.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from tokenizers import Tokenizer, processors
from transformers import PreTrainedTokenizerFast

from training.common.errors import InputError
from training.data.settings import TRAINED_TOKENIZERS, DialogueDataSettings
from training.data.staged_generator.framing import begin_and_end, encode_documents
from training.data.tokenization import SPECIAL_TOKENS, build_tokenizer, open_given, special_tokens

_NAMES = ("bos_token", "eos_token", "pad_token", "unk_token", "mask_token")


def build_dialogue_tokenizer(
    settings: DialogueDataSettings, texts: Iterable[str], max_length: int
) -> PreTrainedTokenizerFast:
    """The tokenizer that the settings ask for.

    A given one keeps its vocabulary: where it has only one of a begin and an end token, that one does both; where it
    has no padding token, the end token fills up; only where it has neither begin nor end are they added.

    Args:
        texts: turns of the training part; not looked at when `settings.tokenizer` names a given tokenizer.
        max_length: the model's longest context; becomes `model_max_length`.

    Raises:
        InputError: no such tokenizer, or `max_vocab` too small for byte-level BPE.
    """
    if settings.tokenizer in TRAINED_TOKENIZERS:
        return build_tokenizer(settings, texts, max_length)
    given = open_given(settings.tokenizer)
    names = {name: token for name in _NAMES if (token := given.special_tokens_map.get(name)) is not None}
    backend = Tokenizer.from_str(given.backend_tokenizer.to_str())
    if "bos_token" not in names and "eos_token" not in names:
        own = {name: SPECIAL_TOKENS[name] for name in ("bos_token", "eos_token")}
        backend.add_special_tokens([token for token in special_tokens() if token.content in own.values()])
        names |= own
    begin, end = names.get("bos_token", names.get("eos_token")), names.get("eos_token", names.get("bos_token"))
    names |= {"bos_token": begin, "eos_token": end, "pad_token": names.get("pad_token", end)}
    return _wrap(backend, {name: str(token) for name, token in names.items()}, max_length)


def encode_turns(turns: Iterable[str], tokenizer: PreTrainedTokenizerFast) -> list[np.ndarray]:
    """Each turn as ids, int32, without begin and end. What looks like a special token is text."""
    return [framed[1:-1] for framed in encode_documents(turns, tokenizer)]


def frame_context(
    turns: Sequence[np.ndarray], tokenizer: PreTrainedTokenizerFast, max_length: int
) -> tuple[np.ndarray, int]:
    """The ids of a context, int32, and how many tokens of it were cut: it is kept from its end.

    Args:
        turns: of `encode_turns`, oldest first, at least one.
        max_length: the longest context, begin and end tokens included.
    """
    begin, end = begin_and_end(tokenizer)
    joined = np.concatenate([part for turn in turns for part in (turn, [end])])
    cut = max(0, len(joined) - (max_length - 1))
    return np.concatenate([[begin], joined[cut:]]).astype(np.int32), cut


def frame_reply(
    reply: np.ndarray, tokenizer: PreTrainedTokenizerFast, max_reply_length: int
) -> tuple[np.ndarray, int]:
    """The labels of a reply, int32, with its end token, and how many of them were cut.

    A reply that does not fit loses its end, and the end token with it: it did not end there.

    Args:
        max_reply_length: the longest reply, its begin token, which is no label, included.
    """
    whole = np.concatenate([reply, [begin_and_end(tokenizer)[1]]]).astype(np.int32)
    kept = whole[: max_reply_length - 1]
    return kept, len(whole) - len(kept)


def encode_context(
    turns: Sequence[str], tokenizer: PreTrainedTokenizerFast, max_length: int
) -> tuple[np.ndarray, int]:
    """The last turns of a dialogue as the ids of a context, int32, and how many tokens of it were cut.

    Raises:
        InputError: no turn, or a blank one.
    """
    if not turns or not all(turn.strip() for turn in turns):
        raise InputError("message: is empty; say something")
    return frame_context(encode_turns(turns, tokenizer), tokenizer, max_length)


def encode_reply(text: str, tokenizer: PreTrainedTokenizerFast, max_reply_length: int) -> tuple[np.ndarray, int]:
    """A reply as labels, int32, and how many of them were cut; see `frame_reply`."""
    return frame_reply(encode_turns([text], tokenizer)[0], tokenizer, max_reply_length)


def _wrap(backend: Tokenizer, names: dict[str, str], max_length: int) -> PreTrainedTokenizerFast:
    """As a tokenizer that begins and ends a text as a context of one turn."""
    begin, end = names["bos_token"], names["eos_token"]
    backend.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A {end}",
        pair=f"{begin} $A {end} $B {end}",
        special_tokens=[(token, backend.token_to_id(token)) for token in dict.fromkeys((begin, end))],
    )
    backend.no_truncation()
    backend.no_padding()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=max_length,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
        padding_side="right",
        **names,
    )
