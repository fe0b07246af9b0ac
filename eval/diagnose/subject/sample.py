"""Real text as the rows that checks ask for: the same rows for the same text, whatever is asked before."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

_SHORTEST = 3


@dataclass(frozen=True)
class Batch:
    """Rows as the model sees them, each (rows, length) int64; masks are 1 where there is a token.

    Attributes:
        input_ids, attention_mask: the positions that have logits: the text, or of seq2seq the decoder's tokens.
        source_ids, source_mask: the encoder's side of seq2seq.
        labels: of a masked model, the true token at a hole and -100 elsewhere.
    """

    input_ids: Tensor
    attention_mask: Tensor
    source_ids: Tensor | None = None
    source_mask: Tensor | None = None
    labels: Tensor | None = None

    def split(self, rows: int) -> list["Batch"]:
        """Pieces of at most so many rows."""
        starts = range(0, len(self.input_ids), rows)
        return [self.take(slice(start, start + rows)) for start in starts]

    def take(self, rows: slice | list[int]) -> "Batch":
        """Some of its rows."""
        return Batch(**{name: value[rows] for name, value in vars(self).items() if value is not None})


@dataclass(frozen=True)
class Sample:
    """Texts and how they become rows.

    Attributes:
        texts: in their order; empty where only random ids can be had.
        tokenizer: None with random ids.
        kind: see `Subject`.
        vocab_size: of random ids.
        context: the longest row.
        pad_id, mask_id, start_id: padding, the mask token (masked), the decoder's first token (seq2seq).
    """

    texts: Sequence[str]
    tokenizer: PreTrainedTokenizerBase | None
    kind: str
    vocab_size: int
    context: int
    pad_id: int
    mask_id: int | None = None
    start_id: int | None = None

    def full(self, rows: int, length: int) -> Batch:
        """Full rows: passages of neighbouring texts, cut to the length."""
        made = [self._passage(number, length) for number in range(rows)]
        return self._batch(torch.tensor(made), torch.ones(rows, length, dtype=torch.long))

    def sentences(self, rows: int, length: int) -> list[list[int]]:
        """Single texts of different lengths, cut to `length`; shortened ones where all are alike."""
        if self.tokenizer is None:
            return [row[: length - number % (length // 2)] for number, row in enumerate(self._random(rows, length))]
        encoded = [self._encode(text, length) for text in self._spread(4 * rows)]
        long_enough = [row for row in encoded if len(row) >= _SHORTEST] or [self._passage(0, length)]
        found = [long_enough[number % len(long_enough)] for number in range(rows)]
        if len({len(row) for row in found}) > 1:
            return found
        return [row[: max(_SHORTEST, len(row) - number)] for number, row in enumerate(found)]

    def padded(self, rows: list[list[int]], side: str = "right", to: int | None = None) -> Batch:
        """Rows of one length, filled up with the padding token on one side."""
        length = max(map(len, rows)) if to is None else to
        ids = torch.full((len(rows), length), self.pad_id)
        mask = torch.zeros(len(rows), length, dtype=torch.long)
        for number, row in enumerate(rows):
            place = slice(0, len(row)) if side == "right" else slice(length - len(row), length)
            ids[number, place] = torch.tensor(row)
            mask[number, place] = 1
        return self._batch(ids, mask)

    def holes(self, batch: Batch, share: float, seed: int) -> Batch:
        """Hide a share of the ordinary tokens of each row, at least one."""
        ids = batch.input_ids.cpu()
        special = torch.tensor([] if self.tokenizer is None else self.tokenizer.all_special_ids, dtype=torch.long)
        eligible = (batch.attention_mask.cpu() == 1) & ~torch.isin(ids, special)
        draws = torch.rand(ids.shape, generator=torch.Generator().manual_seed(seed))
        draws = draws.masked_fill(~eligible, 2.0)
        chosen = (draws < share) | ((draws == draws.min(dim=1, keepdim=True).values) & eligible)
        labels = torch.where(chosen, ids, -100)
        masked = torch.where(chosen, torch.tensor(self.mask_id), ids)
        return Batch(masked, batch.attention_mask, batch.source_ids, batch.source_mask, labels)

    def _batch(self, ids: Tensor, mask: Tensor) -> Batch:
        """Of seq2seq: the decoder begins with its start token, and reads the same rows turned by one as its source."""
        if self.kind != "seq2seq":
            return Batch(ids, mask)
        source, source_mask = ids.roll(1, 0), mask.roll(1, 0)
        start = torch.full((len(ids), 1), self.start_id)
        shifted = torch.cat([start, ids[:, :-1]], 1)
        shifted_mask = torch.cat([torch.ones_like(mask[:, :1]), mask[:, :-1]], 1)
        return Batch(shifted, shifted_mask, source, source_mask)

    def _passage(self, number: int, length: int) -> list[int]:
        """One full row: a text with those after it, until it is long enough."""
        if self.tokenizer is None:
            return self._random(number + 1, length)[number]
        at = number * max(1, len(self.texts) // 64) + number
        joint, passage, row = "\n" if self.kind != "masked" else " ", "", []
        for step in range(8 * length):
            passage += self.texts[(at + step) % len(self.texts)] + joint
            row = self._encode(passage, length)
            if len(row) >= length:
                return row
        return (row * length)[:length]

    def _encode(self, text: str, length: int) -> list[int]:
        assert self.tokenizer is not None
        ids = self.tokenizer(text[: 40 * length], truncation=True, max_length=length)["input_ids"]
        # A tokenizer may be larger than the table, which has a check of its own: the others go on with the last row.
        return [min(token, self.vocab_size - 1) for token in ids]

    def _spread(self, count: int) -> list[str]:
        """Texts from all over the sample."""
        return [self.texts[place] for place in spread_over(len(self.texts), count)]

    def _random(self, rows: int, length: int) -> list[list[int]]:
        generator = torch.Generator().manual_seed(0)
        return torch.randint(0, self.vocab_size, (rows, length), generator=generator).tolist()


def spread_over(count: int, most: int) -> list[int]:
    """At most so many of `count` places, evenly from the first to the last."""
    return np.linspace(0, count - 1, min(most, count)).astype(int).tolist()


def turned(texts: Sequence[str], seed: int) -> Sequence[str]:
    """The same texts from another one on, so that another seed looks at other passages; 0 begins at the first."""
    start = int(np.random.default_rng(seed).integers(len(texts))) if seed and texts else 0
    return [*texts[start:], *texts[:start]]
