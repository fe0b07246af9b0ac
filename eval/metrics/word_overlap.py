"""What retrieval is compared with in every printed score: the words that a context and a reply share."""

import math
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

K1, B = 1.5, 0.75
_WORD = re.compile(r"\w+(?:['’]\w+)*")


class WordOverlap:
    """BM25 (Robertson and Zaragoza, The Probabilistic Relevance Framework, 2009, section 3.4) over some replies.

    score(q, d) = sum over words w of q: idf(w) tf(w, d) (k1 + 1) / (tf(w, d) + k1 (1 - b + b |d| / mean |d|)), with
    idf(w) = ln(1 + (N - n(w) + 0.5) / (n(w) + 0.5)), k1 = 1.5, b = 0.75. Words are in small letters, marks are none.
    """

    def __init__(self, replies: Sequence[str]) -> None:
        self.counts = [Counter(words(reply)) for reply in replies]
        lengths = np.array([sum(counts.values()) for counts in self.counts], dtype=np.float64)
        self.damping = K1 * (1 - B + B * lengths / max(float(lengths.mean()), 1e-9))
        found = Counter(word for counts in self.counts for word in counts)
        self.idf = {
            word: math.log(1 + (len(replies) - number + 0.5) / (number + 0.5)) for word, number in found.items()
        }

    def scores(self, query: str, replies: Sequence[int]) -> np.ndarray:
        """(replies,) of a context's text with the replies of these indices; 0 where no word is shared."""
        asked = Counter(words(query))
        return np.array([self._score(asked, int(index)) for index in replies])

    def _score(self, asked: Counter[str], index: int) -> float:
        counts, damping = self.counts[index], self.damping[index]
        shared = asked.keys() & counts.keys()
        return sum(
            asked[word] * self.idf[word] * counts[word] * (K1 + 1) / (counts[word] + damping) for word in shared
        )


def words(text: str) -> list[str]:
    """The words of a text in small letters."""
    return _WORD.findall(text.lower())
