"""Figures of a classifier or a regression, as a metric object of the `evaluate` library.

metric = Classification(keep_in_memory=True)
metric.add_batch(predictions=[[2.0, 0.0], [0.5, 1.5]], references=[[1.0, 0.0], [1.0, 0.0]])
metric.compute(problem_type="single_label_classification")

This file imports nothing of this package, so that it also loads from its path alone.
"""

import datasets
import evaluate
import numpy as np
from scipy.special import log_expit, log_softmax
from sklearn.metrics import f1_score, matthews_corrcoef

_DESCRIPTION = "Accuracy, F1, correlation and loss of one model's logits on labelled rows."
_INPUTS = """
Args:
    predictions: logits of each row, one for each class; of a regression the one number.
    references: of each row 1 at its classes and 0 elsewhere; of a regression the true number.
    problem_type: `single_label_classification`, `multi_label_classification` (a class holds where its logit is above
        0) or `regression`.
Returns:
    loss (mean cross entropy in nats, of several labels the mean over classes, of a regression the squared error),
    accuracy (0..1; of several labels of whole rows), macro_f1 and micro_f1 (0..1), matthews (-1..1), mae, pearson
    (-1..1), and quality: macro_f1, or pearson of a regression. None where a figure makes no sense.
Examples:
    >>> import evaluate
    >>> metric = evaluate.load("eval/metrics/classification.py", keep_in_memory=True)
    >>> logits, classes = [[2.0, 0.0], [0.5, 1.5]], [[1.0, 0.0], [1.0, 0.0]]
    >>> kind = "single_label_classification"
    >>> figures = metric.compute(predictions=logits, references=classes, problem_type=kind)
    >>> figures["accuracy"], round(figures["macro_f1"], 3), round(figures["loss"], 3)
    (0.5, 0.333, 0.72)
"""
_CITATION = r"""
@article{pedregosa2011scikit,
  title = {Scikit-learn: Machine Learning in {P}ython},
  author = {Pedregosa, F. and others},
  journal = {Journal of Machine Learning Research},
  volume = {12},
  year = {2011},
}
"""
FIGURE_NAMES = ("quality", "loss", "accuracy", "macro_f1", "micro_f1", "matthews", "mae", "pearson")


class Classification(evaluate.Metric):
    """See the module's text."""

    def _info(self) -> evaluate.MetricInfo:
        row = datasets.Sequence(datasets.Value("float64"))
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": row, "references": row}),
        )

    def _compute(self, predictions, references, problem_type) -> dict:
        """Everything in `_INPUTS`' Returns."""
        logits, true = np.asarray(predictions, dtype=np.float64), np.asarray(references, dtype=np.float64)
        figures = {
            "single_label_classification": _of_one,
            "multi_label_classification": _of_several,
            "regression": _of_number,
        }[problem_type](logits, true)
        return {name: None if (value := figures.get(name)) is None else float(value) for name in FIGURE_NAMES}


def _of_one(logits: np.ndarray, true: np.ndarray) -> dict:
    said, wanted = logits.argmax(1), true.argmax(1)
    macro = f1_score(wanted, said, average="macro", zero_division=0)
    return {
        "quality": macro,
        "loss": -(log_softmax(logits, axis=1) * true).sum(1).mean(),
        "accuracy": (said == wanted).mean(),
        "macro_f1": macro,
        "micro_f1": f1_score(wanted, said, average="micro", zero_division=0),
        "matthews": matthews_corrcoef(wanted, said),
    }


def _of_several(logits: np.ndarray, true: np.ndarray) -> dict:
    said, wanted = logits > 0, true > 0
    macro = f1_score(wanted, said, average="macro", zero_division=0)
    return {
        "quality": macro,
        "loss": -np.where(wanted, log_expit(logits), log_expit(-logits)).mean(),
        "accuracy": (said == wanted).all(1).mean(),
        "macro_f1": macro,
        "micro_f1": f1_score(wanted, said, average="micro", zero_division=0),
    }


def _of_number(said: np.ndarray, true: np.ndarray) -> dict:
    said, true = said[:, 0], true[:, 0]
    varies = len(true) > 1 and said.std() > 0 and true.std() > 0
    pearson = np.corrcoef(said, true)[0, 1] if varies else None
    errors = said - true
    return {"quality": pearson, "loss": (errors**2).mean(), "mae": np.abs(errors).mean(), "pearson": pearson}
