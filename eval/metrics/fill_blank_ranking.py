"""Fill-in-the-blank ranking over a whole vocabulary, as a metric object of the `evaluate` library.

metric = FillBlankRanking(keep_in_memory=True)
metric.add_batch(predictions=[7, 9], references=[7, 8], ranks=[1, 4], cosines=[0.8, 0.1])
metric.compute(token_counts=counts)
"""

import datasets
import evaluate
import numpy as np

from .ranks import decile_figures, most_predicted, ranking_figures, without_nan

_DESCRIPTION = (
    "Ranks of the right tokens of held-out blanks among the whole vocabulary, ties counted against the model."
)
_INPUTS = """
Args:
    predictions: token id put first for each blank.
    references: true token id of each blank.
    ranks: rank of the true token, 1 + the number of other entries scored at least as high.
    cosines: cosine between prediction and the true token's direction; None for a model without a latent.
    token_counts: optional, training counts of every token id; without it `by_decile` is None.
    spreads: optional, for each blank the standard deviation of the prediction's cosines with all tokens.
Returns:
    top1, top5, top10, mrr, share_cos_above_0_9 (0..1), median_rank, mean_rank (1..V), cosine (-1..1), cosine_spread
    (mean of the spreads, from 0), by_decile (list of the same figures but the last, most frequent tenth first),
    most_predicted (list of [token id, share]).
Examples:
    >>> import evaluate
    >>> metric = evaluate.load("eval/metrics/fill_blank_ranking.py", keep_in_memory=True)
    >>> figures = metric.compute(predictions=[7, 9], references=[7, 8], ranks=[1, 4], cosines=[0.95, 0.25])
    >>> figures["top1"], figures["mrr"], figures["median_rank"], figures["cosine"]
    (0.5, 0.625, 2.5, 0.6)
"""
_CITATION = r"""
@inproceedings{voorhees1999trec8,
  title = {The {TREC-8} Question Answering Track Report},
  author = {Ellen M. Voorhees},
  booktitle = {Proceedings of the Eighth Text REtrieval Conference (TREC-8)},
  year = {1999},
}
"""


class FillBlankRanking(evaluate.Metric):
    """See the module's text; formulas stand in `ranks.py`."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features(
                {
                    "predictions": datasets.Value("int64"),
                    "references": datasets.Value("int64"),
                    "ranks": datasets.Value("int64"),
                    "cosines": datasets.Value("float64"),
                }
            ),
        )

    def _compute(self, predictions, references, ranks, cosines, token_counts=None, spreads=None) -> dict:
        """Everything in `_INPUTS`' Returns; plain Python numbers, None where a figure makes no sense."""
        ranks, references = np.asarray(ranks), np.asarray(references)
        known_cosines = without_nan(cosines)
        deciles = None
        if token_counts is not None:
            deciles = decile_figures(ranks, known_cosines, references, np.asarray(token_counts))
        return {
            **ranking_figures(ranks, known_cosines),
            "cosine_spread": None if spreads is None else float(np.mean(spreads)),
            "by_decile": deciles,
            "most_predicted": most_predicted(np.asarray(predictions)),
        }
