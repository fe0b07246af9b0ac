"""How far vectors point different ways, and what a predictor makes of the ones that it gets."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from eval.diagnose import thresholds as limit
from eval.diagnose.report.report import Finding, Rule

PREDICTOR_RIGHT = (
    f"a mean cosine of its output with its input below {limit.PREDICTOR_SAME:g}, and an output that varies with "
    f"the input (more than {limit.PREDICTOR_CONSTANT:g} of its variation)"
)


def variation(vectors: Tensor) -> float:
    """Mean square about the mean of unit vectors, 0 (all point one way) to 1."""
    unit = normalize(vectors.double(), dim=-1)
    return float((unit - unit.mean(dim=0)).square().sum(dim=-1).mean())


@torch.no_grad()
def judge_predictor(rule: Rule, given: Tensor, made: Tensor, hands_on: str) -> Finding:
    """Whether a predictor changes what it is given, and differently for different inputs, `(vectors, H)` each.

    Args:
        hands_on: the cause where what it gives is what it got.
    """
    figures: dict[str, Any] = {
        "cosine_with_input": float(cosine_similarity(given.double(), made.double(), dim=-1).mean()),
        "variation_kept": variation(made) / max(variation(given), 1e-30),
        "vectors": len(given),
    }
    if figures["cosine_with_input"] > limit.PREDICTOR_SAME:
        remedy = "give the predictor a hidden layer (predictor_layers 1), and see that forward calls it"
        return rule.failed(figures, hands_on, remedy)
    if figures["variation_kept"] < limit.PREDICTOR_CONSTANT:
        cause = "the predictor says the same of every context: its input is lost on the way, or its weights are zero"
        remedy = "see what reaches the predictor in forward; train it again from fresh weights with a lower rate"
        return rule.failed(figures, cause, remedy)
    return rule.passed(figures)
