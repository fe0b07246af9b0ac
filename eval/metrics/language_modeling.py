"""Figures of a causal language model, as a metric object of the `evaluate` library and as the functions it stands on.

metric = LanguageModeling(keep_in_memory=True)
metric.add_batch(predictions=[7, 9], references=[7, 8], nll=[0.1, 2.3])
metric.compute(words=2, num_bytes=11)

This file imports nothing of this package, so that it also loads from its path alone.
"""

import math

import datasets
import evaluate
import numpy as np

_DESCRIPTION = (
    "Perplexity per token and per word, bits per byte and greedy next-token accuracy, from one prediction per token."
)
_INPUTS = """
Args:
    predictions: the token id with the highest score at each predicted token (argmax, no sampling).
    references: the true token id.
    nll: -ln p(true token | what stands before it), in nats.
    words: words and line ends of the text that the tokens are; without it `word_perplexity` is None.
    num_bytes: UTF-8 bytes of that text; without it `bits_per_byte` is None.
    unknown_id: the unknown token, which is easy to predict: it never counts as right in `greedy_accuracy`. Without
        it `unknown_share` is None.
Returns:
    perplexity, word_perplexity (from 1), bits_per_byte (from 0), greedy_accuracy and unknown_share (0..1), nll (total,
    in nats) and the counts tokens, words and bytes. None where a figure makes no sense or is larger than a number can
    be.
Examples:
    >>> import evaluate
    >>> metric = evaluate.load("eval/metrics/language_modeling.py", keep_in_memory=True)
    >>> figures = metric.compute(predictions=[7, 9], references=[7, 8], nll=[0.5, 1.5], words=1, num_bytes=4)
    >>> round(figures["perplexity"], 3), round(figures["word_perplexity"], 3), figures["greedy_accuracy"]
    (2.718, 7.389, 0.5)
    >>> round(figures["bits_per_byte"], 3), figures["nll"], figures["tokens"]
    (0.721, 2.0, 2)
"""
_CITATION = r"""
@article{jelinek1977perplexity,
  title = {Perplexity -- a measure of the difficulty of speech recognition tasks},
  author = {Fred Jelinek and Robert L. Mercer and Lalit R. Bahl and James K. Baker},
  journal = {The Journal of the Acoustical Society of America},
  volume = {62},
  year = {1977},
}
@article{gao2020pile,
  title = {The {Pile}: An 800GB Dataset of Diverse Text for Language Modeling},
  author = {Leo Gao and Stella Biderman and Sid Black and others},
  journal = {arXiv preprint arXiv:2101.00027},
  year = {2020},
}
"""
FIGURE_NAMES = ("perplexity", "word_perplexity", "bits_per_byte", "greedy_accuracy")


class LanguageModeling(evaluate.Metric):
    """See the module's text."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features(
                {
                    "predictions": datasets.Value("int64"),
                    "references": datasets.Value("int64"),
                    "nll": datasets.Value("float64"),
                }
            ),
        )

    def _compute(
        self, predictions, references, nll, words=None, num_bytes=None, unknown_id=None
    ) -> dict[str, float | int | None]:
        """Everything in `_INPUTS`' Returns; plain Python numbers."""
        total, tokens = float(np.sum(np.asarray(nll, dtype=np.float64))), len(references)
        references = np.asarray(references)
        unknown = references == unknown_id if unknown_id is not None else np.zeros(tokens, bool)
        correct = (np.asarray(predictions) == references) & ~unknown
        return {
            "perplexity": perplexity(total, tokens),
            "word_perplexity": perplexity(total, words),
            "bits_per_byte": bits_per_byte(total, num_bytes),
            "greedy_accuracy": float(np.mean(correct)) if tokens else None,
            "unknown_share": float(np.mean(unknown)) if tokens and unknown_id is not None else None,
            "nll": total,
            "tokens": tokens,
            "words": words,
            "bytes": num_bytes,
        }


def perplexity(nll: float, units: int | None) -> float | None:
    """exp(nll / units): per token with the number of predicted tokens, per word with that of words and line ends.

    Of a given text, figures per word (and per byte) can be compared between tokenizers, those per token cannot.

    Args:
        nll: total of -ln p over all predicted tokens, in nats.
        units: what to share it among; None or 0 gives None.
    """
    if not units:
        return None
    try:
        return math.exp(nll / units)
    except OverflowError:
        return None


def bits_per_byte(nll: float, num_bytes: int | None) -> float | None:
    """Total nll in nats over (ln 2 x the UTF-8 bytes of the text). None or 0 bytes give None."""
    return nll / (math.log(2) * num_bytes) if num_bytes else None


def count_words(text: str, ended: bool = True) -> int:
    """Words between white space, and line ends: what published word-level perplexities of WikiText share nll among.

    Args:
        ended: the text is a whole document, whose end stands for the last line's where that is not written.
    """
    return len(text.split()) + text.count("\n") + (ended and not text.endswith("\n"))
