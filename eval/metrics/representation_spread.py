"""How much of its space a representation uses, as a metric object of the `evaluate` library.

metric = RepresentationSpread(keep_in_memory=True)
metric.compute(predictions=vectors)  # (samples, width)
"""

import datasets
import evaluate
import numpy as np
import torch

from eval.metrics.representation import representation_figures

_DESCRIPTION = "Effective rank, spread per dimension, mean pairwise cosine and uniformity of a set of vectors."
_INPUTS = """
Args:
    predictions: vectors of one width, at least two; a few thousand at most.
Returns:
    effective_rank (1..min(samples, width)), spread_mean and spread_min (standard deviations over the samples),
    mean_pairwise_cosine (-1..1), uniformity (about -4..0; 0 is collapse).
Examples:
    >>> import evaluate
    >>> metric = evaluate.load("eval/metrics/representation_spread.py", keep_in_memory=True)
    >>> figures = metric.compute(predictions=[[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    >>> round(figures["effective_rank"], 6), round(figures["mean_pairwise_cosine"], 6)
    (2.0, -0.333333)
"""
_CITATION = r"""
@inproceedings{roy2007effective,
  title = {The Effective Rank: A Measure of Effective Dimensionality},
  author = {Olivier Roy and Martin Vetterli},
  booktitle = {15th European Signal Processing Conference (EUSIPCO)},
  year = {2007},
}
@inproceedings{wang2020understanding,
  title = {Understanding Contrastive Representation Learning through Alignment and Uniformity on the Hypersphere},
  author = {Tongzhou Wang and Phillip Isola},
  booktitle = {International Conference on Machine Learning},
  year = {2020},
}
"""


class RepresentationSpread(evaluate.Metric):
    """See the module's text; formulas stand in `eval/metrics/representation.py`."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": datasets.Sequence(datasets.Value("float64"))}),
        )

    def _compute(self, predictions: np.ndarray) -> dict[str, float]:
        """Everything in `_INPUTS`' Returns."""
        return representation_figures(torch.as_tensor(np.asarray(predictions, dtype=np.float64)))
