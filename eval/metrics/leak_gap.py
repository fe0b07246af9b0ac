"""What a causal model loses when it sees no more than it should, as a metric object of the `evaluate` library.

metric = LeakGap(keep_in_memory=True)
metric.compute(predictions=[2.31, 0.52], references=[2.30, 0.52])

This file imports nothing of this package, so that it also loads from its path alone.
"""

import datasets
import evaluate
import numpy as np

_DESCRIPTION = (
    "Prefix-only minus teacher-forced loss of the same tokens: about 0 for a causal model, large for one that is "
    "given what it is asked to predict."
)
_INPUTS = """
Args:
    predictions: -ln p of each token, in nats, where the model is given the tokens before it and nothing else.
    references: the same where it is given the whole text, as in training and scoring.
Returns:
    leak_gap (mean difference, in nats) and leak_gap_largest (the largest absolute one). None without tokens.
Examples:
    >>> import evaluate
    >>> metric = evaluate.load("eval/metrics/leak_gap.py", keep_in_memory=True)
    >>> metric.compute(predictions=[6.0, 5.0], references=[0.5, 0.0])
    {'leak_gap': 5.25, 'leak_gap_largest': 5.5}
"""
_CITATION = r"""
@software{jepa_lm,
  title = {jepa-lm: small latent-prediction and staged language models},
  note = {The figure is this package's own.},
}
"""
FIGURE_NAMES = ("leak_gap", "leak_gap_largest")


class LeakGap(evaluate.Metric):
    """See the module's text."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features(
                {"predictions": datasets.Value("float64"), "references": datasets.Value("float64")}
            ),
        )

    def _compute(self, predictions, references) -> dict[str, float | None]:
        """Everything in `_INPUTS`' Returns; plain Python numbers."""
        gaps = np.asarray(predictions, dtype=np.float64) - np.asarray(references, dtype=np.float64)
        if not len(gaps):
            return dict.fromkeys(FIGURE_NAMES)
        return {"leak_gap": float(gaps.mean()), "leak_gap_largest": float(np.abs(gaps).max())}
