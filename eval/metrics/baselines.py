"""What a model is compared with in every printed score: guessers that look at nothing but training counts."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class GuessedBlanks:
    """Answers of a guesser for held-out blanks: `ranks` (blanks,) from 1, `predictions` (blanks,) token ids."""

    ranks: np.ndarray
    predictions: np.ndarray


def unigram_ranks(targets: np.ndarray, token_counts: np.ndarray, never: tuple[int, ...] = ()) -> GuessedBlanks:
    """The guesser that always orders the vocabulary by training frequency.

    rank(t) = 1 + #{v != t : count(v) >= count(t)}: ties count against the guesser, as they do for models.

    Args:
        targets: (blanks,) true token ids.
        token_counts: (V,) counts in the training part.
        never: token ids that are never an answer (special and unknown tokens); the guesser knows it.
    """
    counts = np.asarray(token_counts, dtype=np.float64).copy()
    counts[list(never)] = -1.0
    ascending = np.sort(counts)
    below = np.searchsorted(ascending, counts[np.asarray(targets, dtype=np.int64)], side="left")
    best = int(np.argmax(counts))
    return GuessedBlanks(len(counts) - below, np.full(len(targets), best, dtype=np.int64))
