"""Figures of a dialogue model's replies, as a metric object of the `evaluate` library and as the functions behind it.

metric = DialogueReplies(keep_in_memory=True)
metric.compute(predictions=said, references=true, nll=nll, swapped_nll=swapped, correct=correct, tokens=n, rank=rank)
"""

import math
import re
from collections.abc import Sequence

import datasets
import evaluate
import numpy as np

from .ranks import hits_at, mean_reciprocal_rank

_DESCRIPTION = (
    "Perplexity of replies, how much of it hangs on the predicted latents, ranks of the true reply among candidates, "
    "and the variety of what is said."
)
_INPUTS = """
One entry per pair of context and reply; in each column None, for a text "", where it is not known.

Args:
    predictions: the reply that the model says (greedy).
    references: the true reply.
    nll: -ln p of the true reply's tokens, summed, in nats; of the same reply with another pair's latents, in
        `swapped_nll`.
    correct: tokens of the true reply that are the likeliest at their place; `tokens` of them there are.
    rank: of the true reply among the candidates, 1 the best.
Returns:
    perplexity (per token, from 1), latent_usage_ratio (1: the latents are not used), accuracy, hits_at_1, hits_at_5,
    mrr, distinct_1, distinct_2 (0..1). None where a figure makes no sense.
Examples:
    >>> import evaluate
    >>> metric = evaluate.load("eval/metrics/dialogue.py", keep_in_memory=True)
    >>> figures = metric.compute(
    ...     predictions=["yes .", "yes ."], references=["yes .", "no ."], nll=[2.0, 4.0], swapped_nll=[3.0, 5.0],
    ...     correct=[2, 1], tokens=[3, 3], rank=[1, 2],
    ... )
    >>> round(figures["perplexity"], 3), round(figures["latent_usage_ratio"], 3), figures["accuracy"]
    (2.718, 1.396, 0.5)
    >>> figures["hits_at_1"], figures["mrr"], figures["distinct_1"]
    (0.5, 0.75, 0.5)
"""
_CITATION = r"""
@inproceedings{li2016diversity,
  title = {A Diversity-Promoting Objective Function for Neural Conversation Models},
  author = {Jiwei Li and Michel Galley and Chris Brockett and Jianfeng Gao and Bill Dolan},
  booktitle = {Proceedings of NAACL-HLT},
  year = {2016},
}
"""
FIGURE_NAMES = (
    "perplexity",
    "latent_usage_ratio",
    "accuracy",
    "hits_at_1",
    "hits_at_5",
    "mrr",
    "distinct_1",
    "distinct_2",
)
_WORD = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]")
_NUMBERS = {"nll": "float64", "swapped_nll": "float64", "correct": "int64", "tokens": "int64", "rank": "int64"}


class DialogueReplies(evaluate.Metric):
    """See the module's text."""

    def _info(self) -> evaluate.MetricInfo:
        texts = {name: datasets.Value("string") for name in ("predictions", "references")}
        numbers = {name: datasets.Value(kind) for name, kind in _NUMBERS.items()}
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features({**texts, **numbers}),
        )

    def _compute(
        self, predictions=(), references=(), nll=(), swapped_nll=(), correct=(), tokens=(), rank=()
    ) -> dict[str, float | None]:
        """Everything in `_INPUTS`' Returns; plain Python numbers."""
        ranks = _known(rank)
        total, swapped, units = (float(np.sum(_known(values))) for values in (nll, swapped_nll, tokens))
        scored, both, guessed = len(_known(nll)), len(_known(swapped_nll)), len(_known(correct))
        return {
            "perplexity": perplexity(total, units) if scored else None,
            "latent_usage_ratio": usage_ratio(total, swapped, units) if both else None,
            "accuracy": float(np.sum(_known(correct))) / units if guessed and units else None,
            "hits_at_1": hits_at(ranks, 1),
            "hits_at_5": hits_at(ranks, 5),
            "mrr": mean_reciprocal_rank(ranks),
            "distinct_1": distinct(predictions, 1),
            "distinct_2": distinct(predictions, 2),
        }


def perplexity(nll: float, tokens: float) -> float | None:
    """exp(nll / tokens), end tokens among them; None without tokens, or where it is larger than a number can be."""
    if not tokens:
        return None
    try:
        return math.exp(nll / tokens)
    except OverflowError:
        return None


def usage_ratio(nll: float, swapped_nll: float, tokens: float) -> float | None:
    """Perplexity with latents of other pairs over that with each pair's own: exp((swapped - own) / tokens).

    1 where the latents say nothing; below 1 where they mislead.
    """
    return perplexity(swapped_nll - nll, tokens)


def distinct(texts: Sequence[str], n: int) -> float | None:
    """Different n-grams of words over all of them, in small letters, of all texts together, 0..1.

    distinct-n of Li et al., A Diversity-Promoting Objective Function for Neural Conversation Models, NAACL 2016,
    section 5.2. It falls with the number of texts: compare equal numbers. None where no text has n words.
    """
    words = [_WORD.findall(text.lower()) for text in texts]
    grams = [tuple(row[start : start + n]) for row in words for start in range(len(row) - n + 1)]
    return len(set(grams)) / len(grams) if grams else None


def _known(values: Sequence[float | None]) -> np.ndarray:
    """Those that are not None, which a table may hand back as NaN, as float64."""
    numbers = np.array([math.nan if value is None else value for value in values], dtype=np.float64)
    return numbers[~np.isnan(numbers)]
