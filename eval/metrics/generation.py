"""What can be said of a sample by counting: real words, repetition, copying of the prompt.

metric = GeneratedText(keep_in_memory=True)
metric.compute(predictions=["and so on and so on"], references=["the state of the union"], words=["and", "so", "on"])

The functions behind it are pure functions of text. All three figures are shares from 0 to 1, over words rather than
tokens, so that they mean the same under any tokenizer; None where there is nothing to count.
"""

import math
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import datasets
import evaluate

_DESCRIPTION = "Share of real words, of repeated and of copied runs of four words in generated texts."
_INPUTS = """
Args:
    predictions: what was generated, without its prompt.
    references: the prompt of each.
    words: optional, known words in small letters; without it `real_words` is None.
Returns:
    real_words (1 is best), repetition and prompt_copying (0 is best): means (0..1) over the texts that have enough
    words to count; None where none has.
Examples:
    >>> import evaluate
    >>> metric = evaluate.load("eval/metrics/generation.py", keep_in_memory=True)
    >>> said, prompts = ["so on and so on and so on"], ["go on and so on then"]
    >>> metric.compute(predictions=said, references=prompts, words=["so", "on"])
    {'real_words': 0.75, 'repetition': 0.4, 'prompt_copying': 0.4}
"""
_CITATION = r"""
@inproceedings{welleck2020neural,
  title = {Neural Text Generation with Unlikelihood Training},
  author = {Sean Welleck and Ilia Kulikov and Stephen Roller and Emily Dinan and Kyunghyun Cho and Jason Weston},
  booktitle = {International Conference on Learning Representations},
  year = {2020},
}
"""
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
_N = 4


class GeneratedText(evaluate.Metric):
    """See the module's text."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features({name: datasets.Value("string") for name in ("predictions", "references")}),
        )

    def _compute(self, predictions, references, words=None) -> dict[str, float | None]:
        """Everything in `_INPUTS`' Returns; plain Python numbers."""
        known = None if words is None else frozenset(words)
        figures = [sample_figures(*pair, known) for pair in zip(references, predictions, strict=True)]
        return {
            name: _mean([getattr(one, name) for one in figures])
            for name in ("real_words", "repetition", "prompt_copying")
        }


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


def _mean(shares: Sequence[float | None]) -> float | None:
    counted = [share for share in shares if share is not None]
    return math.fsum(counted) / len(counted) if counted else None


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _ngrams(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(words[start : start + n]) for start in range(len(words) - n + 1)]
