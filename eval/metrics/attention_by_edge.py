"""Where a model that attends along a graph looks, as a metric object of the `evaluate` library.

metric = AttentionByEdge(keep_in_memory=True)
metric.compute(predictions=[3.0, 1.0], references=["near", "successors"])

This file imports nothing of this package, so that it also loads from its path alone.
"""

import datasets
import evaluate
import numpy as np

_DESCRIPTION = "Share of the attention on each kind of edge of a graph."
_INPUTS = """
Args:
    predictions: attention on an edge, summed over whatever is looked at; from 0.
    references: the kind of that edge.
Returns:
    edge_mass: for each kind its share (0..1) of all attention, in the order in which the kinds come. None without any.
Examples:
    >>> import evaluate
    >>> metric = evaluate.load("eval/metrics/attention_by_edge.py", keep_in_memory=True)
    >>> metric.compute(predictions=[2.0, 1.0, 1.0], references=["near", "successors", "near"])
    {'edge_mass': {'near': 0.75, 'successors': 0.25}}
"""
_CITATION = r"""
@software{jepa_lm,
  title = {jepa-lm: small latent-prediction and staged language models},
  note = {The figure is this package's own.},
}
"""


class AttentionByEdge(evaluate.Metric):
    """See the module's text."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features(
                {"predictions": datasets.Value("float64"), "references": datasets.Value("string")}
            ),
        )

    def _compute(self, predictions, references) -> dict[str, dict[str, float] | None]:
        """Everything in `_INPUTS`' Returns; plain Python numbers."""
        mass, total = np.asarray(predictions, dtype=np.float64), float(np.sum(predictions))
        if not total:
            return {"edge_mass": None}
        names = dict.fromkeys(references)
        return {
            "edge_mass": {name: float(mass[[kind == name for kind in references]].sum() / total) for name in names}
        }
