"""Is what a run calls accuracy the share of positions where the most likely token is the true one?

A sampled answer is right less often, and the best of 33 candidates far more often. `compute_metrics` is asked with
answers of which all three are known; figures in a log are compared with what the model does on text.
"""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import EvalPrediction, Trainer

from eval.diagnose import thresholds as limits
from eval.diagnose.checks.check import check
from eval.diagnose.report.report import Finding, Rule
from eval.diagnose.subject.subject import IGNORED, Subject

_RULE = Rule(
    "sampling.claimed_accuracy",
    "an accuracy is the share of positions whose most likely token is the true one, the same at every look",
)
_REMEDY = (
    "compare logits.argmax(-1) with the labels at every position that is predicted (causal: logits[:, :-1] with "
    "labels[:, 1:]), over the whole vocabulary; call any other figure by its own name"
)
_ROWS, _LENGTH, _VOCABULARY = 32, 33, 256


def expected_accuracies(logits: Tensor, truth: Tensor) -> dict[str, float]:
    """What different ways to answer would score on (N, V) logits and (N,) true tokens, as shares.

    `greedy`: the most likely token; `sampled`: a draw from the distribution, `sampled_top_k` from its 50 best at
    temperature 0.7 (expected values); `top_5`; `among_negatives`: the true token above 32 others drawn uniformly,
    whose chance at rank r of V is C(V - r, 32) / C(V - 1, 32), by the product of its factors.
    """
    probabilities = logits.softmax(-1)
    true_score = logits.gather(1, truth[:, None])
    ranks = (logits > true_score).sum(-1).double()
    others = logits.shape[1] - 1
    drawn = min(limits.NEGATIVES, others)
    steps = torch.arange(drawn, device=logits.device).double()
    above = ((others - ranks[:, None] - steps).clamp(min=0) / (others - steps)).prod(-1)
    best = (logits / 0.7).topk(min(50, logits.shape[1]), -1)
    among_best = torch.where(best.indices == truth[:, None], best.values.softmax(-1), 0.0).sum(-1)
    return {
        "greedy": float((logits.argmax(-1) == truth).double().mean()),
        "sampled": float(probabilities.gather(1, truth[:, None]).mean()),
        "sampled_top_k": float(among_best.mean()),
        "top_5": float((ranks < 5).double().mean()),
        "among_negatives": float(above.mean()),
    }


@dataclass(frozen=True)
class Scored:
    """`expected_accuracies` over some positions of real text, and the cross entropy there in nats."""

    accuracies: dict[str, float]
    loss: float
    count: int

    @classmethod
    def of(cls, subject: Subject, rows: int, length: int) -> "Scored":
        """Of the subject's sample, no more logits at once than its limits allow."""
        pieces = [subject.predictions(piece) for (piece,) in subject.pieces(subject.batch(rows, length))]
        counts = torch.tensor([float(len(truth)) for _, truth in pieces])
        found = [
            {**expected_accuracies(logits, truth), "loss": float(cross_entropy(logits, truth))}
            for logits, truth in pieces
        ]
        means = {
            name: float((torch.tensor([one[name] for one in found]) * counts).sum() / counts.sum())
            for name in found[0]
        }
        return cls({name: value for name, value in means.items() if name != "loss"}, means["loss"], int(counts.sum()))

    def error(self, share: float) -> float:
        """Three standard errors of a share that is counted over these positions."""
        return 3 * math.sqrt(max(share * (1 - share), 1 / self.count) / self.count)


@check(_RULE.check, _RULE.threshold, needs="trainer")
def claimed_accuracy(subject: Subject, rule: Rule) -> list[Finding]:
    """`compute_metrics` of the Trainer, asked twice about made-up answers; nothing where it says no accuracy."""
    trainer = subject.trainer
    if trainer is None or trainer.compute_metrics is None:
        return []
    logits, labels = _made_up(subject.kind)
    first, second = (_ask(trainer, logits, labels, seed) for seed in (1, 2))
    names = [name for name in first if limits.ACCURACY_NAME.search(name)]
    return [_judge_metric(name, first[name], second[name], logits, labels) for name in names]


def claims_of_record(subject: Subject, scored: Scored) -> list[Finding]:
    """Figures of the run, beside what different ways to answer score on the text at hand."""
    record = subject.record
    # Of a dialogue model claims are about replies to what was said, and the rows here are passages of text.
    if record is None or subject.traits.dialogues:
        return []
    losses = record.values("eval_loss")[1]
    alike = record.ours or (bool(losses) and abs(losses[-1] - scored.loss) < limits.TEXT_ALIKE * losses[-1])
    return [_judge_claim(name, claim, scored, alike) for name, claim in record.claims.items()]


def _judge_claim(name: str, claim: float, scored: Scored, alike: bool) -> Finding:
    """A claim was measured on text of which ours is another part, or (not `alike`) on any other text."""
    accuracies, greedy = scored.accuracies, scored.accuracies["greedy"]
    evidence = {"name": name, "claimed": claim, **accuracies, "positions": scored.count, "text_is_alike": alike}
    nearest = min(accuracies, key=lambda way: abs(claim - accuracies[way]))
    apart, off = abs(claim - accuracies[nearest]), abs(claim - greedy)
    same = limits.OTHER_PART + scored.error(claim)
    if alike and nearest != "greedy" and apart < same < off and apart < limits.CLAIM_NEARER * off:
        evidence["nearest"] = nearest
        return _RULE.failed(evidence, _cause(name, nearest), _REMEDY)
    if off <= limits.CLAIM_APART:
        return _RULE.passed(evidence)
    cause = (
        f"{name} is {claim:.1%}, but the most likely token is right in {greedy:.1%} of {scored.count} positions of "
        "this text: other text, or another figure"
    )
    remedy = f"score the model on the very text of the claim; {_REMEDY}"
    return _RULE.noted(evidence, cause, remedy)


def _judge_metric(name: str, first: float, second: float, logits: Tensor, labels: Tensor) -> Finding:
    ways = {}
    for shift in (0, 1):
        kept = labels[:, shift:] != IGNORED
        seen = logits[:, : logits.shape[1] - shift]
        for way, value in expected_accuracies(seen[kept], labels[:, shift:][kept]).items():
            ways[f"{way}, offset {shift}"] = value
    evidence = {"name": name, "first_look": first, "second_look": second, **ways}
    if first != second:
        cause = f"{name} of compute_metrics is drawn: the same answers give {first:.3f} and {second:.3f}"
        return _RULE.failed(evidence, cause, _REMEDY)
    exact = [way for way in ways if way.startswith("greedy")]
    if any(abs(first - scale * ways[way]) < limits.METRIC_ROUNDING for way in exact for scale in (1, 100)):
        return _RULE.passed(evidence)
    nearest = min(ways, key=lambda way: abs(first - ways[way]))
    if abs(first - ways[nearest]) < limits.METRIC_NOISE and nearest not in exact:
        cause = _cause(name, nearest.split(",")[0])
        return _RULE.failed({**evidence, "nearest": nearest}, cause, _REMEDY)
    cause = f"{name} of compute_metrics is no share of positions whose most likely token is right"
    return _RULE.noted(evidence, cause, _REMEDY)


def _cause(name: str, way: str) -> str:
    said = {
        "sampled": "of a token drawn from the distribution",
        "sampled_top_k": "of a token drawn from the 50 most likely ones",
        "top_5": "of the five most likely tokens",
        "among_negatives": "of the true token among 32 random ones, which says little about the whole vocabulary",
    }
    return f"a sampled or easier metric is passed for accuracy: {name} is what one gets {said[way]}"


def _made_up(kind: str) -> tuple[Tensor, Tensor]:
    """Logits (rows, length, V) and labels (rows, length) for which the ways to answer score far apart.

    Half of the true tokens are the likeliest, with a third of the probability; the others are scattered.
    """
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, _VOCABULARY, (_ROWS, _LENGTH), generator=generator)
    logits = torch.randn(_ROWS, _LENGTH, _VOCABULARY, generator=generator)
    # Causal models are asked for the next token by most metrics; the same place by the others.
    aimed = labels.roll(-1, 1) if kind == "causal" else labels
    high = 5.0 * (torch.rand(_ROWS, _LENGTH, 1, generator=generator) < 0.5)
    logits.scatter_add_(2, aimed[..., None], high + 1.0)
    return logits, labels


def _ask(trainer: Trainer, logits: Tensor, labels: Tensor, seed: int) -> dict[str, float]:
    """What `compute_metrics` says, behind the Trainer's own preparation of logits."""
    compute: Callable[..., dict[str, Any]] | None = trainer.compute_metrics
    assert compute is not None
    for seeded in (torch.manual_seed, np.random.seed, random.seed):  # whoever runs the check puts the caller's back
        seeded(seed)
    prepare = trainer.preprocess_logits_for_metrics
    predictions = logits.clone() if prepare is None else prepare(logits.clone(), labels.clone())
    asked = EvalPrediction(predictions=predictions.numpy(), label_ids=labels.numpy().copy())
    said = compute(asked, compute_result=True) if trainer.args.batch_eval_metrics else compute(asked)
    return {name: float(value) for name, value in said.items() if np.ndim(value) == 0}
