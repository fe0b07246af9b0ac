"""Documents as tokens, and the overlapping windows in which a causal model with a bounded context scores them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from eval.metrics.language_modeling import count_words
from modeling_jepa.counter_random import counter_hash
from training.common.errors import InputError
from training.data.staged_generator.framing import encode_documents


@dataclass(frozen=True)
class Document:
    """One document as the model reads it.

    Attributes:
        index: its place among the given texts.
        ids: (n,) begin token, text, end token (none where the text was cut); all but the first are scored.
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
    reached. The one that crosses `max_tokens` is cut at white space; its words and bytes are those of what is left of
    it.

    Raises:
        InputError: a tokenizer with neither begin nor end token.
    """
    chosen: list[Document] = []
    left = max_tokens
    places = _order(len(texts), max_documents, max_tokens, seed)
    for place, ids in zip(places, encode_documents((texts[i] for i in places), tokenizer), strict=True):
        document = _document(place, texts[place], ids, ended=True)
        if left is not None and document.predictions >= left:
            last = document if document.predictions == left else _cut(place, texts[place], tokenizer, left)
            chosen += [] if last is None else [last]
            break
        left = None if left is None else left - document.predictions
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


def prompt_ids(prompt: str, tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """A text to be continued, (n,): a document's begin and the text, without an end."""
    return next(encode_documents([prompt], tokenizer))[:-1]


def model_length(model: PreTrainedModel) -> int | None:
    """Tokens that a model takes at most; None where its configuration sets no bound."""
    return model.config.to_dict().get(
        model.config.attribute_map.get("max_position_embeddings", "max_position_embeddings")
    )


def _order(number: int, max_documents: int | None, max_tokens: int | None, seed: int) -> list[int]:
    if max_tokens is None and (max_documents is None or number <= max_documents):
        return list(range(number))
    hashes = counter_hash(seed, torch.arange(number)).numpy()
    return np.argsort(hashes, kind="stable")[:max_documents].tolist()


def _document(index: int, text: str, ids: np.ndarray, ended: bool) -> Document:
    return Document(index, ids.astype(np.int64), count_words(text, ended), len(text.encode()))


def _cut(index: int, text: str, tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> Document | None:
    """A beginning of a text, ended at white space, of nearly `max_tokens` predictions; None where none is as short."""
    end = len(text)
    while end > 0:
        ids = prompt_ids(text[:end], tokenizer)
        if len(ids) - 1 <= max_tokens:
            return _document(index, text[:end], ids, ended=False)
        aim = min(end - 1, int(end * max_tokens / (len(ids) - 1)) + 1)  # proportionally: a few rounds for any text
        end = max(text.rfind(" ", 0, aim), text.rfind("\n", 0, aim) + 1)
    return None
