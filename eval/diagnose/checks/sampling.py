"""Group `sampling`: what the model says when it is asked to go on, and which accuracies are true.

Greedy decoding is deterministic, its accuracy is above that of a draw, and text that repeats itself is named.
"""

import statistics

import torch
from torch import Tensor

from eval.diagnose import thresholds as limits
from eval.diagnose.checks.check import Check
from eval.diagnose.checks.sampling_claims import Scored, claims_of_record, metric_of_trainer
from eval.diagnose.report.report import FAIL, NOTE, Finding, passed
from eval.diagnose.subject.subject import Subject
from eval.metrics.generation import repetition

_GENERATING = ("causal", "seq2seq")


def greedy_deterministic(subject: Subject) -> Finding:
    """The same prompts, twice, under other random numbers: the same answers."""
    threshold = "greedy decoding of the same prompts gives the same tokens under any random numbers"
    answers = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        answers.append(_continued(subject, sample=False) if _generates(subject) else _best_tokens(subject))
    differ = float((answers[0] != answers[1]).double().mean()) if answers[0].shape == answers[1].shape else 1.0
    evidence = {"tokens": answers[0].numel(), "share_that_differs": differ, "by_generate": _generates(subject)}
    if differ == 0:
        return passed("sampling.greedy_deterministic", evidence, threshold)
    return Finding(
        "sampling.greedy_deterministic",
        FAIL,
        evidence,
        threshold,
        "the forward pass draws random numbers in evaluation mode: dropout that is left on, or noise",
        "make what is random depend on self.training; dropout as nn.Dropout, or F.dropout(x, p, self.training)",
    )


def greedy_vs_topk(subject: Subject) -> list[Finding]:
    """Accuracy of the most likely token, beside what draws and easier metrics would score; and the run's claims."""
    scored = Scored.of(subject, 2 * subject.limits.rows, min(subject.limits.length, subject.context))
    accuracies = scored.accuracies
    threshold = "the most likely token is right at least as often as a draw, give or take three standard errors"
    evidence = {**accuracies, "loss": scored.loss, "positions": scored.count}
    claims = claims_of_record(subject, scored)
    drawn = max(accuracies["sampled"], accuracies["sampled_top_k"])
    # Of a model that knows nothing, draws hit one in V and greedy answers may hit none.
    if accuracies["greedy"] >= drawn - scored.error(drawn) or drawn < limits.ABOVE_CHANCE / subject.vocab_size:
        return [passed("sampling.greedy_vs_topk", evidence, threshold), *claims]
    cause = "the most likely token is wrong more often than a draw: the model is sure of the wrong tokens"
    remedy = (
        "see distribution.shape and distribution.calibration; train with less confidence (label smoothing), or longer"
    )
    return [Finding("sampling.greedy_vs_topk", NOTE, evidence, threshold, cause, remedy), *claims]


def repeats(subject: Subject) -> Finding:
    """How much of the continuations was there before, greedy and drawn from the 50 best, beside real text."""
    real = subject.batch(limits.PROMPTS, min(subject.context, limits.PROMPT_LENGTH + limits.NEW_TOKENS)).input_ids
    shares = {
        "greedy": _repetition(_continued(subject, sample=False)),
        "drawn": _repetition(_continued(subject, sample=True)),
        "real_text": _repetition(real),
    }
    threshold = (
        f"drawn text (top-k 50, temperature 1) repeats under {limits.REPEATING:.0%} of its {limits.GRAM}-grams, or as "
        "few as real text; that greedy text repeats is usual for small models"
    )
    allowed = max(limits.REPEATING, 2 * (shares["real_text"] or 0.0))
    if (shares["drawn"] or 0.0) > allowed:
        cause = (
            "even drawn text repeats itself: the distribution has all its mass on a few tokens, whatever the prompt"
        )
        remedy = "see distribution.shape; a learning rate that was too large or far too many passes leave such a model"
        return Finding("sampling.repetition", NOTE, shares, threshold, cause, remedy)
    if (shares["greedy"] or 0.0) > allowed:
        cause = "greedy text goes in circles, drawn text does not: usual for small or briefly trained models"
        remedy = "generate with do_sample=True, top_k=50, temperature=0.7 to 1, or a repetition_penalty of 1.1 to 1.3"
        return Finding("sampling.repetition", NOTE, shares, threshold, cause, remedy)
    return passed("sampling.repetition", shares, threshold)


def claimed_accuracy(subject: Subject) -> list[Finding]:
    """The Trainer's own metric."""
    return metric_of_trainer(subject)


CHECKS = (
    Check("greedy_deterministic", run=greedy_deterministic),
    Check("greedy_vs_topk", run=greedy_vs_topk),
    Check("repetition", run=repeats, kinds=_GENERATING),
    Check("claimed_accuracy", run=claimed_accuracy, needs="trainer"),
)


def _generates(subject: Subject) -> bool:
    return subject.kind in _GENERATING and subject.model.can_generate()


def _best_tokens(subject: Subject) -> Tensor:
    """Most likely tokens of real text, (rows, length)."""
    batch = subject.batch(limits.PROMPTS, limits.PROMPT_LENGTH)
    return subject.logits(subject.holes(batch) if subject.kind == "masked" else batch).argmax(-1)


@torch.no_grad()
def _continued(subject: Subject, sample: bool) -> Tensor:
    """(prompts, new tokens) after the beginnings of real rows; an end token does not end it."""
    new = max(1, min(limits.NEW_TOKENS, subject.context // 2))
    batch = subject.batch(limits.PROMPTS, max(1, min(limits.PROMPT_LENGTH, subject.context - new)))
    if not _generates(subject):
        return _by_hand(subject, batch.input_ids, new, sample)
    chosen = {"do_sample": True, "top_k": 50, "temperature": 1.0} if sample else {"do_sample": False, "num_beams": 1}
    ids, mask = (
        (batch.source_ids, batch.source_mask) if subject.kind == "seq2seq" else (batch.input_ids, batch.attention_mask)
    )
    said = subject.model.generate(ids, attention_mask=mask, max_new_tokens=new, min_new_tokens=new, **chosen)
    return said[:, 1:] if subject.kind == "seq2seq" else said[:, ids.shape[1] :]


def _by_hand(subject: Subject, ids: Tensor, new: int, sample: bool) -> Tensor:
    """For models without `generate`: the whole row again for every token."""
    said = ids
    for _ in range(new):
        logits = subject.model(input_ids=said, attention_mask=torch.ones_like(said), return_dict=True).logits[:, -1]
        best = logits.float().topk(min(50, logits.shape[-1])) if sample else logits.float().topk(1)
        drawn = torch.multinomial(best.values.softmax(-1), 1)
        said = torch.cat([said, best.indices.gather(1, drawn)], 1)
    return said[:, ids.shape[1] :]


def _repetition(ids: Tensor) -> float | None:
    """Mean over the rows of the share of n-grams of tokens that were there before."""
    found = [repetition([str(token) for token in row], limits.GRAM) for row in ids.tolist()]
    return statistics.mean(share for share in found if share is not None) if None not in found else None
