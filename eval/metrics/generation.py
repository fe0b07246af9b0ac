"""What can be said of a sample by counting: real words, repetition, copying of the prompt. Pure functions of text.

All three are shares from 0 to 1, over words rather than tokens, so that they mean the same under any tokenizer; None
where there is nothing to count.
"""

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
_N = 4


@dataclass(frozen=True)
class SampleFigures:
    """Of one continuation: `real_words` 1 is best, `repetition` and `prompt_copying` 0."""

    real_words: float | None
    repetition: float | None
    prompt_copying: float | None


def sample_figures(prompt: str, continuation: str, words: Collection[str] | None) -> SampleFigures:
    """All three figures of a continuation (without its prompt); `words` None gives no share of real words."""
    return SampleFigures(
        None if words is None else share_real_words(continuation, words),
        repetition(continuation.split()),
        prompt_copying(prompt.split(), continuation.split()),
    )


def known_words(texts: Iterable[str]) -> frozenset[str]:
    """The words of some texts in small letters, for `share_real_words`. Numbers and marks are none."""
    found: set[str] = set()
    for text in texts:
        found.update(_words(text))
    return frozenset(found)


def share_real_words(text: str, words: Collection[str]) -> float | None:
    """Share of the words of `text` that stand in `words` (in small letters). None for a text without words."""
    spoken = _words(text)
    return sum(word in words for word in spoken) / len(spoken) if spoken else None


def repetition(words: Sequence[str], n: int = _N) -> float | None:
    """Share of n-grams that occurred before in the sample: 1 - distinct / all.

    seq-rep-n of Welleck et al., Neural Text Generation with Unlikelihood Training, ICLR 2020, section 6. None for a
    sample of fewer than n words.
    """
    grams = _ngrams(words, n)
    return 1 - len(set(grams)) / len(grams) if grams else None


def prompt_copying(prompt: Sequence[str], continuation: Sequence[str], n: int = _N) -> float | None:
    """Share of the continuation's n-grams that stand in the prompt. None where either has fewer than n words."""
    given, grams = set(_ngrams(prompt, n)), _ngrams(continuation, n)
    return sum(gram in given for gram in grams) / len(grams) if given and grams else None


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _ngrams(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(words[start : start + n]) for start in range(len(words) - n + 1)]
