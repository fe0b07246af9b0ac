"""Group `sampling`: what the model says when it is asked to go on, and which accuracies are true.

Greedy decoding is deterministic, its accuracy is above that of a draw, and text that repeats itself is named.
"""

import math
import statistics

import torch
from torch import Tensor

from eval.diagnose import thresholds as limits
from eval.diagnose.checks.check import ANY, check
from eval.diagnose.checks.sampling_claims import Scored, claimed_accuracy, claims_of_record
from eval.diagnose.probes.exact import NotFiniteError, clean
from eval.diagnose.report.report import Finding, Rule
from eval.diagnose.subject.subject import Subject
from eval.metrics.generation import repetition


@check(
    "sampling.greedy_deterministic",
    "greedy decoding of the same prompts gives the same tokens under any random numbers",
    kinds=ANY,
)
def greedy_deterministic(subject: Subject, rule: Rule) -> Finding:
    """The same prompts, twice, under other random numbers: the same answers."""
    answers = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        answers.append(subject.greedy())
    differ = float((answers[0] != answers[1]).double().mean()) if answers[0].shape == answers[1].shape else 1.0
    evidence = {"tokens": answers[0].numel(), "share_that_differs": differ, "by_generate": subject.generates}
    if differ == 0:
        return rule.passed(evidence)
    return rule.failed(
        evidence,
        "the forward pass draws random numbers in evaluation mode: dropout that is left on, or noise",
        "make what is random depend on self.training; dropout as nn.Dropout, or F.dropout(x, p, self.training)",
    )


@check(
    "sampling.greedy_vs_topk",
    "the most likely token is right at least as often as a draw, give or take three standard errors",
)
def greedy_vs_topk(subject: Subject, rule: Rule) -> list[Finding]:
    """Accuracy of the most likely token, beside what draws and easier metrics would score; and the run's claims."""
    scored = Scored.of(subject, 2 * subject.limits.rows, min(subject.limits.length, subject.context))
    if math.isnan(scored.loss):
        raise NotFiniteError
    accuracies = scored.accuracies
    evidence = {**accuracies, "loss": scored.loss, "positions": scored.count}
    claims = claims_of_record(subject, scored)
    drawn = max(accuracies["sampled"], accuracies["sampled_top_k"])
    # Of a model that knows nothing, draws hit one in V and greedy answers may hit none.
    if accuracies["greedy"] >= drawn - scored.error(drawn) or drawn < limits.ABOVE_CHANCE / subject.vocab_size:
        return [rule.passed(evidence), *claims]
    cause = "the most likely token is wrong more often than a draw: the model is sure of the wrong tokens"
    remedy = (
        "see distribution.shape and distribution.calibration; train with less confidence (label smoothing), or longer"
    )
    return [rule.noted(evidence, cause, remedy), *claims]


@check(
    "sampling.repetition",
    f"drawn text (top-k 50, temperature 1) repeats under {limits.REPEATING:.0%} of its {limits.GRAM}-grams, or as "
    "few as real text; that greedy text repeats is usual for small models",
    kinds=("causal", "seq2seq"),
)
def repeats(subject: Subject, rule: Rule) -> Finding:
    """How much of the continuations was there before, greedy and drawn from the 50 best, beside real text."""
    real_batch = subject.batch(limits.PROMPTS, min(subject.context, limits.PROMPT_LENGTH + limits.NEW_TOKENS))
    if clean(subject.logits(real_batch)).isnan().any():
        raise NotFiniteError  # nothing can be drawn
    real = real_batch.input_ids
    shares = {
        "greedy": _repetition(subject.continued(sample=False)),
        "drawn": _repetition(subject.continued(sample=True)),
        "real_text": _repetition(real),
    }
    allowed = max(limits.REPEATING, 2 * (shares["real_text"] or 0.0))
    if (shares["drawn"] or 0.0) > allowed:
        cause = "even drawn text repeats itself: the distribution has its mass on a few tokens, whatever the prompt"
        remedy = "see distribution.shape; a learning rate that was too large or far too many passes leave such a model"
        return rule.noted(shares, cause, remedy)
    if (shares["greedy"] or 0.0) > allowed:
        cause = "greedy text goes in circles, drawn text does not: usual for small or briefly trained models"
        remedy = "generate with do_sample=True, top_k=50, temperature=0.7 to 1, or a repetition_penalty of 1.1 to 1.3"
        return rule.noted(shares, cause, remedy)
    return rule.passed(shares)


def _repetition(ids: Tensor) -> float | None:
    """Mean over the rows of the share of n-grams of tokens that were there before."""
    found = [repetition([str(token) for token in row], limits.GRAM) for row in ids.tolist()]
    return statistics.mean(share for share in found if share is not None) if None not in found else None


CHECKS = (greedy_deterministic, greedy_vs_topk, repeats, claimed_accuracy)
