"""Documents as token ids: the tokenizer of a causal language model, and how it frames a document.

A document is `begin tokens end`. The begin token is given, never predicted; the end is predicted like any token. A
prompt is what the tokenizer makes of a text by itself: begun, and not ended.
"""

import re
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from transformers import PreTrainedTokenizerFast

from training.common.errors import InputError
from training.data.settings import GeneratorDataSettings
from training.data.tokenization import SPECIAL_TOKENS, open_with_ends, own_names, train_bpe, wrap
from training.data.unknown import unknown_token

UNKNOWN_LITERAL = "<unk>"
_CHARACTERS_AT_ONCE = 1_000_000
_BETWEEN_WORDS = re.compile(r"(?<=\S) (?=\S)")


def build_generator_tokenizer(
    settings: GeneratorDataSettings, texts: Iterable[str], max_length: int
) -> PreTrainedTokenizerFast:
    """The tokenizer that the settings ask for.

    A given one keeps its vocabulary: where it has no padding token, its end token fills up; only where it has neither
    a begin nor an end token are they added.

    Args:
        texts: the training part; not looked at when `settings.tokenizer` names a given tokenizer.
        max_length: the model's length; becomes `model_max_length`.

    Raises:
        InputError: no such tokenizer, or `max_vocab` too small for byte-level BPE.
    """
    if settings.tokenizer == "bpe":
        known = (text.replace(UNKNOWN_LITERAL, SPECIAL_TOKENS["unk_token"]) for text in texts)
        backend, names = train_bpe(settings, known), own_names()
    else:
        backend, names = open_with_ends(settings.tokenizer)
    # Begins every text, ends none. `generate` of a decoder wants pads on the left; training packs rows, and pads none.
    return wrap(backend, names, max_length, "{begin} $A", "{begin} $A {begin} $B", padding_side="left")


def begin_and_end(tokenizer: PreTrainedTokenizerFast) -> tuple[int, int]:
    """The ids that frame a document; the same one twice where a tokenizer has only one, such as `<|endoftext|>`.

    Raises:
        InputError: the tokenizer has neither.
    """
    begin, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    begin, end = (end if begin is None else begin), (begin if end is None else end)
    if begin is None or end is None:
        raise InputError("tokenizer: it has neither a begin nor an end token, so no document ends; use another one")
    return begin, end


def frame_document(ids: Sequence[int] | np.ndarray, tokenizer: PreTrainedTokenizerFast) -> np.ndarray:
    """A document's ids with begin and end, int32 (tokens + 2,): every end can be learnt, and every token predicted."""
    begin, end = begin_and_end(tokenizer)
    return np.concatenate([[begin], np.asarray(ids, dtype=np.int32), [end]]).astype(np.int32)


def encode_documents(texts: Iterable[str], tokenizer: PreTrainedTokenizerFast) -> Iterator[np.ndarray]:
    """Each text as framed ids, int32.

    A literal `<unk>` becomes the tokenizer's unknown token, where it has one that is nothing else. What looks like
    another special token is text: it may not end a document. (In a document with such a place `<unk>` is text too.)
    """
    unknown = unknown_token(tokenizer)
    controls = {token for token in tokenizer.all_special_tokens if token != unknown}
    for group in _groups(texts):
        as_text = [any(token in text for token in controls) for text in group]
        ids = {
            flag: _encode([t for t, own in zip(group, as_text, strict=True) if own == flag], tokenizer, flag, unknown)
            for flag in (False, True)
        }
        yield from (frame_document(next(ids[flag]), tokenizer) for flag in as_text)


def _encode(
    texts: list[str], tokenizer: PreTrainedTokenizerFast, as_text: bool, unknown: str | None
) -> Iterator[np.ndarray]:
    """The ids of each text; with `as_text`, whatever looks like a special token is text."""
    if unknown is not None and not as_text:
        texts = [text.replace(UNKNOWN_LITERAL, unknown) for text in texts]
    pieces = [_pieces(text) for text in texts]
    encoded: list[np.ndarray] = []
    for group in _groups(piece for of_text in pieces for piece in of_text):
        ids = tokenizer(
            group, add_special_tokens=False, return_attention_mask=False, split_special_tokens=as_text, verbose=False
        )
        encoded += [np.asarray(values, dtype=np.int32) for values in ids["input_ids"]]
    following = iter(encoded)
    for of_text in pieces:
        yield np.concatenate([next(following) for _ in of_text])


def _pieces(text: str) -> list[str]:
    """A long text cut before the space between two words, over which no usual tokenizer joins anything.

    One of 10 MB would need 2 GB to be encoded at once. Text without spaces stays whole.
    """
    pieces, begin = [], 0
    while len(text) - begin > _CHARACTERS_AT_ONCE:
        space = _BETWEEN_WORDS.search(text, begin + _CHARACTERS_AT_ONCE // 2)
        if space is None:
            break
        pieces.append(text[begin : space.start()])
        begin = space.start()
    return [*pieces, text[begin:]]


def _groups(texts: Iterable[str]) -> Iterator[list[str]]:
    """Texts to encode at once: together not much more than so many characters, which bounds the memory."""
    group: list[str] = []
    characters = 0
    for text in texts:
        group.append(text)
        characters += len(text)
        if characters >= _CHARACTERS_AT_ONCE:
            yield group
            group, characters = [], 0
    if group:
        yield group
