"""Contexts and replies as token ids: the tokenizer of a dialogue model, and how it frames a turn.

A context is `begin turn end turn end ...`: the end token stands between turns and after the last one, and a single
turn is what the tokenizer makes of a text by itself. A reply is `tokens end`; the begin token is what its decoder is
given first.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from transformers import PreTrainedTokenizerFast

from training.common.errors import InputError
from training.data.settings import TRAINED_TOKENIZERS, DialogueDataSettings
from training.data.staged_generator.framing import begin_and_end, encode_documents
from training.data.tokenization import ENDED, build_tokenizer, open_with_ends, wrap

# `apply_chat_template` frames messages as `frame_context` does turns; nobody says what a system or a tool says.
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] not in ('system', 'developer', 'tool') %}"
    "{{ message['content'] | trim }}{{ eos_token }}{% endif %}{% endfor %}"
)


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
        return _with_template(build_tokenizer(settings, texts, max_length))
    backend, names = open_with_ends(settings.tokenizer)
    begin, end = names.get("bos_token", names.get("eos_token")), names.get("eos_token", names.get("bos_token"))
    # a context of one turn begins and ends as a text does
    names |= {"bos_token": begin, "eos_token": end}
    return _with_template(wrap(backend, names, max_length, ENDED, "{begin} $A {end} $B {end}"))


def _with_template(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


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
