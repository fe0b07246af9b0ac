"""Documents as tokens, and the overlapping windows in which a causal model with a bounded context scores them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from eval.metrics.language_modeling import count_words
from modeling_jepa.counter_random import counter_hash
from training.data.errors import InputError

_DOCUMENTS_AT_A_TIME = 256


@dataclass(frozen=True)
class Document:
    """One document as the model reads it.

    Attributes:
        index: its place among the given texts.
        ids: (n,) begin token, text, end token where the tokenizer has one; the first is given, the others are scored.
        words: words and line ends of the text that the ids are.
        num_bytes: its UTF-8 bytes.
    """

    index: int
    ids: np.ndarray
    words: int
    num_bytes: int

    @property
    def predictions(self) -> int:
        """Tokens to be scored."""
        return len(self.ids) - 1


@dataclass(frozen=True)
class Window:
    """Inputs `start` to `stop` of a document, and the predictions (numbered by input) that are scored in it.

    Prediction j is of token j + 1 from the inputs `start` to j.
    """

    document: int
    start: int
    first_scored: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


def tokenize_documents(
    texts: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    max_documents: int | None = None,
    max_tokens: int | None = None,
    seed: int = 0,
) -> list[Document]:
    """Documents as token ids, in the given order; a seeded choice of them where they are more than is asked for.

    Documents are taken in the order of a hash of (seed, place) until `max_documents` or `max_tokens` predictions are
    reached. The one that crosses `max_tokens` is cut at white space; its words and bytes are those of what is
    left of it.

    Raises:
        InputError: a tokenizer with neither begin nor end token.
    """
    chosen, left = [], max_tokens
    order = _order(len(texts), max_documents, max_tokens, seed)
    for start in range(0, len(order), _DOCUMENTS_AT_A_TIME):
        places = order[start : start + _DOCUMENTS_AT_A_TIME]
        for place, ids in zip(places, _encode([texts[i] for i in places], tokenizer), strict=True):
            document = _document(place, texts[place], ids)
            if left is not None and document.predictions > left:
                document = _cut(place, texts[place], tokenizer, left)
                if document is not None:
                    chosen.append(document)
                return sorted(chosen, key=lambda one: one.index)
            if left is not None:
                left -= document.predictions
            chosen.append(document)
    return sorted(chosen, key=lambda one: one.index)


def windows_of(predictions: int, context: int, stride: int, document: int = 0) -> Iterator[Window]:
    """Windows in which each of a document's predictions is scored exactly once.

    The first window scores all of its `context` predictions, each further one its last `stride`. So every token is
    said from all that stands before it in the document, or from at least `context - stride` + 1 tokens.

    Raises:
        InputError: a context below 1, or a stride outside 1..context.
    """
    if context < 1:
        raise InputError(f"context must be at least 1, was given {context}")
    if not 1 <= stride <= context:
        raise InputError(f"stride must lie between 1 and the context of {context} tokens, was given {stride}")
    done = 0
    while done < predictions:
        start = 0 if done == 0 else done - (context - stride)
        stop = min(start + context, predictions)
        yield Window(document, start, done, stop)
        done = stop


def prompt_ids(prompt: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """A text to be continued: the begin token and the text, without an end."""
    return _framed(_text_ids([prompt], tokenizer)[0], tokenizer, ended=False)


def _order(number: int, max_documents: int | None, max_tokens: int | None, seed: int) -> list[int]:
    if max_tokens is None and (max_documents is None or number <= max_documents):
        return list(range(number))
    hashes = counter_hash(seed, torch.arange(number)).numpy()
    return np.argsort(hashes, kind="stable")[:max_documents].tolist()


def _encode(texts: list[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    return [_framed(ids, tokenizer, ended=True) for ids in _text_ids(texts, tokenizer)]


def _text_ids(texts: list[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    return tokenizer([model_text(text, tokenizer) for text in texts], add_special_tokens=False, verbose=False)[
        "input_ids"
    ]


def _document(index: int, text: str, ids: list[int]) -> Document:
    return Document(index, np.asarray(ids, dtype=np.int64), count_words(text), len(text.encode()))


def _cut(index: int, text: str, tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> Document | None:
    """The longest beginning of a text, ended at white space, of at most `max_tokens` predictions; None for nothing."""
    end = len(text)
    while end > 0:
        ids = _framed(_text_ids([text[:end]], tokenizer)[0], tokenizer, ended=False)
        if len(ids) - 1 <= max_tokens:
            return _document(index, text[:end], ids) if len(ids) > 1 else None
        # Proportionally, and a little less: a few rounds for any text.
        aim = min(end - 1, int(end * max_tokens / (len(ids) - 1)) + 1)
        end = max(text.rfind(" ", 0, aim), text.rfind("\n", 0, aim) + 1)
    return None


def model_text(text: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """The text with a literal <unk> as the tokenizer's own unknown token."""
    unknown = tokenizer.unk_token
    if unknown is None or unknown in (tokenizer.bos_token, tokenizer.eos_token):
        return text
    return text.replace("<unk>", unknown)


def _framed(ids: list[int], tokenizer: PreTrainedTokenizerBase, ended: bool) -> list[int]:
    begin = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    if begin is None:
        raise InputError("tokenizer: it has neither a begin nor an end token; a document needs one to begin with")
    end = tokenizer.eos_token_id
    return [begin, *ids, *([end] if ended and end is not None and end != begin else [])]
