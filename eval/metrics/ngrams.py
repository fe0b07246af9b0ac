"""What a causal model is compared with in every printed score: guessers that know one token back, or none."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class Guess:
    """-ln p(target) in nats and the most likely token, both of shape (tokens,)."""

    nll: np.ndarray
    predictions: np.ndarray


class NextTokenGuesser(Protocol):
    """A baseline that says a distribution over the next token."""

    def guess(self, previous: np.ndarray, targets: np.ndarray) -> Guess:
        """Both (tokens,): the token before, and the token that is to be said."""


class Unigram:
    """Always the same distribution: p(w) = (c(w) + 1) / (N + V), training counts with one added to each (Laplace)."""

    def __init__(self, counts: np.ndarray) -> None:
        smoothed = np.asarray(counts, dtype=np.float64) + 1.0
        self.nll = np.log(smoothed.sum()) - np.log(smoothed)
        self.best = int(np.argmax(smoothed))

    def guess(self, previous: np.ndarray, targets: np.ndarray) -> Guess:
        """See `NextTokenGuesser`; what stands before is not looked at."""
        return Guess(self.nll[targets], np.full(len(targets), self.best, dtype=np.int64))


class Bigram:
    """Interpolated Kneser-Ney of order two (Kneser and Ney, 1995; Chen and Goodman, 1999, section 2.7).

    p(w | v) = max(c(vw) - D, 0) / c(v.) + D N1+(v.) / c(v.) p1(w), where p1 counts in how many contexts w was seen:
    p1(w) = max(N1+(.w) - D, 0) / N1+(..) + D |{w: N1+(.w) > 0}| / (N1+(..) V), so that every token has a chance.
    D = n1 / (n1 + 2 n2) of the pairs seen once and twice. A token v that was never followed by another gives p1.
    """

    def __init__(self, pairs: np.ndarray, counts: np.ndarray, vocab_size: int) -> None:
        """`pairs` (P,) int64, sorted, each v * V + w; `counts` (P,) how often each was seen, from 1."""
        self.vocab_size = vocab_size
        self.pairs = np.asarray(pairs, dtype=np.int64)
        self.counts = np.asarray(counts, dtype=np.float64)
        once, twice = ((self.counts == number).sum() for number in (1, 2))
        self.discount = float(once / (once + 2 * twice)) if once else 0.5
        before, after = self.pairs // vocab_size, self.pairs % vocab_size
        self.lower = self._lower(np.bincount(after, minlength=vocab_size).astype(np.float64))
        total = np.bincount(before, weights=self.counts, minlength=vocab_size)
        kinds = np.bincount(before, minlength=vocab_size)
        self.seen = np.maximum(total, 1.0)
        # What is left to p1; 1 after a token that nothing was seen after.
        self.weight = np.where(total > 0, self.discount * kinds / self.seen, 1.0)
        self.best = self._best(before, after)

    @classmethod
    def fit(cls, documents: Iterable[np.ndarray], vocab_size: int) -> "Bigram":
        """Count the pairs within documents of token ids."""
        found = [ids[:-1].astype(np.int64) * vocab_size + ids[1:] for ids in documents]
        pairs, counts = np.unique(np.concatenate(found) if found else np.zeros(0, np.int64), return_counts=True)
        return cls(pairs, counts, vocab_size)

    def guess(self, previous: np.ndarray, targets: np.ndarray) -> Guess:
        """See `NextTokenGuesser`."""
        return Guess(-np.log(self.probability(previous, targets)), self.best[previous])

    def probability(self, previous: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """p(target | previous), (tokens,); over all targets it sums to 1."""
        pair = np.asarray(previous, dtype=np.int64) * self.vocab_size + targets
        place = np.searchsorted(self.pairs, pair)
        inside = place < len(self.pairs)
        place = np.where(inside, place, 0)
        found = inside & (self.pairs[place] == pair) if len(self.pairs) else inside
        count = np.where(found, self.counts[place] - self.discount, 0.0) if len(self.pairs) else 0.0
        return count / self.seen[previous] + self.weight[previous] * self.lower[targets]

    def _lower(self, contexts: np.ndarray) -> np.ndarray:
        """p1 (V,) from the number of contexts of each token."""
        total = contexts.sum()
        if total == 0:
            return np.full(self.vocab_size, 1.0 / self.vocab_size)
        left = self.discount * (contexts > 0).sum() / (total * self.vocab_size)
        return np.maximum(contexts - self.discount, 0.0) / total + left

    def _best(self, before: np.ndarray, after: np.ndarray) -> np.ndarray:
        """(V,) the most likely token after each: among the tokens seen there, or the likeliest of all."""
        best = np.full(self.vocab_size, int(np.argmax(self.lower)), dtype=np.int64)
        value = self.weight * self.lower.max()
        score = (self.counts - self.discount) / self.seen[before] + self.weight[before] * self.lower[after]
        order = np.lexsort((-after, score, before))  # the best of each context comes last; of equals the smaller id
        last = np.flatnonzero(np.diff(before[order], append=-1))
        rows = order[last]
        better = score[rows] >= value[before[rows]]
        best[before[rows[better]]] = after[rows[better]]
        return best
