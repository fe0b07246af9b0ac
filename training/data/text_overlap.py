"""Which texts stand in others: exactly, or nearly, by their n-grams of words or tokens. Pure functions, bounded.

Shares are of words, so that short rows that every corpus repeats ("Thank you.") weigh little.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import datasets
import numpy as np

_WORD = re.compile(r"\w+")
_FACTOR = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Words:
    """Texts as hashed words: `flat` (words,) uint64 one text after the other, `ends` (texts,) where each ends."""

    flat: np.ndarray
    ends: np.ndarray

    @classmethod
    def of(cls, texts: Sequence[str], most: int) -> "Words":
        """The words in small letters without marks, of the first texts that together have no more than `most`."""
        hashes: list[int] = []
        ends: list[int] = []
        for text in texts:
            found = _WORD.findall(text.lower())
            if hashes and len(hashes) + len(found) > most:
                break
            hashes += [hash(word) & 0xFFFFFFFFFFFFFFFF for word in found]
            ends.append(len(hashes))
        return cls(np.array(hashes, dtype=np.uint64), np.array(ends, dtype=np.int64))

    @classmethod
    def of_ids(cls, rows: datasets.Dataset, most: int) -> "Words":
        """The tokens of `input_ids`, of the first rows that together have no more than `most`."""
        column = rows.with_format("arrow")[:].column("input_ids").combine_chunks()
        ends = np.cumsum(column.value_lengths().to_numpy(zero_copy_only=False), dtype=np.int64)
        ends = ends[: max(1, int(np.searchsorted(ends, most, side="right")))]
        return cls(column.flatten().to_numpy()[: ends[-1] if len(ends) else 0].astype(np.uint64), ends)

    @property
    def lengths(self) -> np.ndarray:
        """(texts,) words of each."""
        return np.diff(self.ends, prepend=0)

    def whole(self) -> np.ndarray:
        """(texts,) uint64, the same for texts of the same words."""
        powers = self._powers()
        sums = np.concatenate([[np.uint64(0)], np.cumsum(_mixed(self.flat) * powers[self._places()])])
        starts = np.concatenate([[0], self.ends[:-1]]).astype(np.int64)
        return sums[self.ends] - sums[starts] + self.lengths.astype(np.uint64) * _FACTOR

    def ngrams(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """(grams,) uint64 of all n-grams within a text, and (grams,) the text of each."""
        count = len(self.flat) - n + 1
        if count <= 0:
            return np.zeros(0, np.uint64), np.zeros(0, np.int64)
        grams = np.zeros(count, np.uint64)
        for offset in range(n):
            grams = grams * _FACTOR + _mixed(self.flat[offset : offset + count])
        first = np.searchsorted(self.ends, np.arange(count), side="right")
        last = np.searchsorted(self.ends, np.arange(count) + n - 1, side="right")
        return grams[first == last], first[first == last]

    def _places(self) -> np.ndarray:
        """(words,) place of each word in its text."""
        return np.arange(len(self.flat)) - np.repeat(self.ends - self.lengths, self.lengths)

    def _powers(self) -> np.ndarray:
        longest = int(self.lengths.max(initial=0)) + 1
        return np.cumprod(np.full(longest, _FACTOR, dtype=np.uint64))


@dataclass(frozen=True)
class Found:
    """Shares of the words of texts with at least `shortest` words: in rows found elsewhere, exactly and nearly.

    `hits` are the rows that were found, of `texts`.
    """

    exact: float
    near: float
    hits: int
    texts: int
    words: int
    example: int | None


def repeated(words: Words, shortest: int) -> Found:
    """Texts that stand a second time among the same texts; the first of each is none."""
    counted = np.flatnonzero(words.lengths >= shortest)
    whole = words.whole()[counted]
    _, first = np.unique(whole, return_index=True)
    again = np.ones(len(counted), bool)
    again[first] = False
    return _found(words, counted, again, again)


def standing_in(words: Words, others: Words, shortest: int, n: int, near_share: float) -> Found:
    """Texts that stand among the others: with the same words, or with nearly all of their n-grams."""
    counted = np.flatnonzero(words.lengths >= shortest)
    exact = np.isin(words.whole()[counted], others.whole())
    grams, owner = words.ngrams(n)
    known = np.isin(grams, others.ngrams(n)[0])
    total = np.bincount(owner, minlength=len(words.ends))[counted]
    hits = np.bincount(owner[known], minlength=len(words.ends))[counted]
    near = exact | ((total > 0) & (hits >= near_share * total))
    return _found(words, counted, exact, near)


def _found(words: Words, counted: np.ndarray, exact: np.ndarray, near: np.ndarray) -> Found:
    lengths = words.lengths[counted]
    total = int(lengths.sum())
    places = np.flatnonzero(near)
    return Found(
        exact=float(lengths[exact].sum() / total) if total else 0.0,
        near=float(lengths[near].sum() / total) if total else 0.0,
        hits=len(places),
        texts=len(counted),
        words=total,
        example=int(counted[places[0]]) if len(places) else None,
    )


def _mixed(values: np.ndarray) -> np.ndarray:
    """Python's hash of short words is good enough only after its bits are mixed."""
    return (values ^ (values >> np.uint64(31))) * np.uint64(0xBF58476D1CE4E5B9)
