"""Group `memorise`: can the model learn anything at all? One sentence, one batch, a hundred samples, on copies.

A model that cannot memorise one sentence at any learning rate is broken; one that can, but not at the run's learning
rate, has the wrong learning rate. What "memorised" means: see `eval.diagnose.probes.by_heart`.
"""

import math
from dataclasses import replace
from typing import Any

from eval.diagnose import thresholds as limits
from eval.diagnose.checks.check import check
from eval.diagnose.probes.anatomy import check_room_to_train
from eval.diagnose.probes.by_heart import PLAIN, Attempt, Clock, Lesson, learn
from eval.diagnose.report.report import FAIL, NOTE, Finding, Rule
from eval.diagnose.subject.sample import Batch
from eval.diagnose.subject.subject import Subject


@check(
    "memorise.sentence",
    f"prediction loss above its floor under {limits.MEMORISED_LOSS} nats within {limits.SENTENCE_STEPS} steps, at one "
    f"of the learning rates {', '.join(f'{rate:g}' for rate in limits.RATES)}",
)
def memorise(subject: Subject, rule: Rule) -> list[Finding]:
    """A sentence, then a batch and 100 samples at the learning rate that served it."""
    check_room_to_train(subject)
    seconds = seconds_to_learn(subject)
    clock = Clock(seconds)
    lesson = Lesson([one_sentence(subject)], limits.RATES[0], limits.SENTENCE_STEPS, limits.SENTENCE_SHARE * seconds)
    finding, best = by_heart(subject, rule, lesson)
    if not best.memorised:
        return [finding]
    rated = _judge_rate(subject, best, limits.RATE_SHARE * seconds)
    batch = _batch(subject, best.rate, limits.BATCH_SHARE * clock.left)
    return [finding, *rated, batch, _samples(subject, best.rate, clock.left)]


CHECKS = (memorise,)


def seconds_to_learn(subject: Subject) -> float:
    """The share of the report's time that this group may take."""
    share = limits.MEMORISE_SECONDS / limits.REPORT_SECONDS
    return min(subject.limits.seconds * share, subject.seconds_left())


# ---- one sentence, or one clip ----


def by_heart(subject: Subject, rule: Rule, lesson: Lesson) -> tuple[Finding, Attempt]:
    """Whether one batch can be memorised, and the best attempt at it by the model's own loss."""
    attempts = _ladder(subject, lesson)
    best = min(attempts, key=_rank)
    return rule.passed(best.evidence) if best.memorised else _not_memorised(subject, rule, lesson, attempts), best


def _ladder(subject: Subject, lesson: Lesson) -> list[Attempt]:
    """Attempts at one batch, until one succeeds or the time is over."""
    attempts, clock = [], Clock(lesson.seconds)
    for rate in limits.RATES:
        attempts.append(learn(subject, replace(lesson, rate=rate, seconds=clock.left)))
        if attempts[-1].memorised or not attempts[-1].finished:
            break
    return attempts


def _rank(attempt: Attempt) -> tuple[bool, float]:
    """The smaller, the better it was learnt."""
    return not attempt.memorised, attempt.loss if math.isfinite(attempt.loss) else math.inf


def _not_memorised(subject: Subject, rule: Rule, lesson: Lesson, attempts: list[Attempt]) -> Finding:
    """Broken, slow, taught something else by its own loss, or cut off by the clock."""
    what, best = rule.check.partition(".")[2], min(attempts, key=_rank)
    plain = _ladder(subject, replace(lesson, objective=PLAIN))
    best_plain = min(plain, key=_rank)
    evidence = {**best.evidence, "rates": [attempt.rate for attempt in attempts]}
    evidence |= {"loss_by_cross_entropy": best_plain.evidence["loss"]}
    if best_plain.memorised:
        return _taught_something_else(rule, best, {**evidence, "rate_of_cross_entropy": best_plain.rate})
    if not math.isfinite(best_plain.start):
        return rule.failed(
            evidence,
            "the loss is not finite before the first step: a parameter or an activation is NaN or infinite",
            "see gradient.non_finite, which names the first one; start from weights that are finite",
        )
    if not all(attempt.finished for attempt in [*attempts, *plain]):
        subject.notes.append(f"{rule.check}: the time was over after {best.steps} steps; nothing is said of it")
        return rule.but(f"{rule.threshold}; not finished in time").passed({**evidence, "finished": False})
    if best.learnt_nothing and best_plain.learnt_nothing:
        return rule.failed(
            evidence,
            f"broken: at no learning rate does it learn a single {what}, not even by plain cross entropy; what it "
            "answers does not depend on what it reads, or gradients do not reach the weights",
            "look at gradient.flow, leak.position_ignored and gradient.non_finite; check the forward pass layer by "
            f"layer on one {what}",
        )
    return rule.noted(
        evidence,
        f"it learns the {what}, but slowly: a very small or very deep model, or weights far from a usual start",
        f"try more steps or another learning rate on one {what}; widen the model if that does not help",
    )


def _taught_something_else(rule: Rule, best: Attempt, evidence: dict[str, Any]) -> Finding:
    """It can learn it, but not by its own loss."""
    if best.right >= limits.MEMORISED_RIGHT or not best.learnt_nothing:
        # Label smoothing, an alignment part or collapse protection keep it above the floor of the ranking alone.
        return rule.but(f"{rule.threshold}, by its own loss or by plain cross entropy").passed(evidence)
    return rule.failed(
        evidence,
        "the loss that the model computes from labels is not that of what it should predict: by plain cross entropy "
        f"of its answers the {rule.check.partition('.')[2]} is learnt, by its own loss it is not",
        "compare the model's loss with the cross entropy of logits[:, :-1] against labels[:, 1:] (masked models: of "
        "the holes); see parity.own_loss and parity.offset",
    )


# ---- the learning rate of the run ----


def _judge_rate(subject: Subject, best: Attempt, seconds: float) -> list[Finding]:
    """Whether the rate that the run uses can learn the sentence too; nothing where none is known or AdamW is not used.

    Only a rate far from the one that served is tried: between them nothing can be wrong.
    """
    given = _given_rate(subject)
    if given is None:
        return []
    rule = Rule(
        "memorise.learning_rate",
        f"the run's learning rate is from 1/{limits.RATE_TOO_LOW:g} to {limits.RATE_TOO_HIGH:g} times one that "
        "memorises a sentence, or memorises it as well",
    )
    evidence: dict[str, Any] = {"learning_rate": given, "memorised_at": best.rate}
    if best.rate / limits.RATE_TOO_LOW <= given <= best.rate * limits.RATE_TOO_HIGH:
        return [rule.passed(evidence)]
    attempt = learn(subject, Lesson([one_sentence(subject)], given, limits.SENTENCE_STEPS, seconds))
    evidence |= {"start": attempt.evidence["start"], "loss": attempt.evidence["loss"], "steps": attempt.steps}
    if attempt.memorised or not attempt.finished:
        return [rule.passed(evidence)]
    return [_wrong_rate(subject, rule, attempt, best, evidence)]


def _wrong_rate(subject: Subject, rule: Rule, attempt: Attempt, best: Attempt, evidence: dict[str, Any]) -> Finding:
    remedy = (
        f"set the learning rate near {best.rate:g}, at which this model memorised a sentence in {best.steps} steps"
    )
    if attempt.rate > best.rate:
        # Another optimizer than AdamW may stand behind the rate in a log.
        certain = attempt.learnt_nothing and subject.trainer is not None
        cause = (
            f"the learning rate {attempt.rate:g} is too large: with it the model does not even learn one sentence, "
            f"which it memorises at {best.rate:g}"
        )
        return rule.found(FAIL if certain else NOTE, evidence, cause, remedy)
    fallen = (attempt.start - attempt.loss) / max(attempt.start, limits.MEMORISED_LOSS)
    idle = fallen < limits.RATE_MOVES_NOTHING
    cause = (
        f"the learning rate {attempt.rate:g} moves nothing: after {attempt.steps} steps on one sentence the loss is "
        "where it was"
        if idle
        else f"the learning rate {attempt.rate:g} is low: {attempt.steps} steps do not memorise a sentence"
    )
    return rule.found(FAIL if idle else NOTE, evidence, cause, remedy)


def _given_rate(subject: Subject) -> float | None:
    """The peak learning rate of the Trainer or the run; None where unknown, or of no optimizer of Adam's kin."""
    trainer = subject.trainer
    if trainer is None:
        return None if subject.record is None else subject.record.adam_rate
    if trainer.optimizer is None:
        return trainer.args.learning_rate if "adam" in str(trainer.args.optim).lower() else None
    groups = trainer.optimizer.param_groups
    if not all("betas" in group for group in groups):
        return None
    return max(group.get("initial_lr", group["lr"]) for group in groups)


# ---- one batch, a hundred samples ----


def _batch(subject: Subject, rate: float, seconds: float) -> Finding:
    rows = max(2, subject.limits.rows // 2)
    batch = _learnable(subject, subject.batch(rows, subject.limits.length // 2))
    attempt = learn(subject, Lesson([batch], rate, limits.BATCH_STEPS, seconds))
    if attempt.finished and attempt.learnt_nothing:  # a rate that served one sentence may be too lively for a batch
        attempt = min(attempt, learn(subject, Lesson([batch], rate / 5, limits.BATCH_STEPS, seconds)), key=_rank)
    rule = Rule(
        "memorise.batch",
        f"within {limits.BATCH_STEPS} steps on one batch the loss above its floor falls under {limits.MEMORISED_LOSS} "
        "nats, or, where time or size do not allow it, well below a guess that ignores the input",
    )
    evidence = {**attempt.evidence, "rows": len(batch.input_ids)}
    if attempt.finished and attempt.learnt_nothing:
        return rule.failed(
            evidence,
            "it memorises a sentence but not a batch: rows are mixed up, or the answers do not depend on the input",
            "look at leak.batch_mates, leak.padding and at the order of axes where rows and positions are reshaped",
        )
    return rule.passed(evidence)


def _samples(subject: Subject, rate: float, seconds: float) -> Finding:
    """A hundred rows in small batches, as long as the time allows."""
    rows = subject.sentences(limits.SAMPLES, subject.limits.length // 2)
    # Rows from all over in every batch: neighbours are alike, and the last of them would overwrite the first.
    number = -(-len(rows) // max(1, subject.limits.rows))
    pieces = [rows[start::number] for start in range(number)]
    batches = [_learnable(subject, subject.padded(piece)) for piece in pieces]
    attempt = learn(subject, Lesson(batches, rate / 3, limits.SAMPLE_STEPS, seconds))
    evidence = {**attempt.evidence, "samples": len(rows), "passes": attempt.steps / len(batches)}
    rule = Rule(
        "memorise.samples",
        f"the loss of {len(rows)} samples falls by a tenth in {limits.SAMPLE_STEPS_TO_JUDGE} steps or more; "
        f"under {limits.MEMORISED_LOSS} nats above its floor they are memorised",
    )
    if attempt.steps < limits.SAMPLE_STEPS_TO_JUDGE and not attempt.memorised:
        subject.notes.append(f"memorise.samples: time for {attempt.steps} steps only, too few to judge by")
        return rule.passed({**evidence, "finished": False})
    total = attempt.start + attempt.floor
    if attempt.memorised or attempt.loss + attempt.floor < (1 - limits.SAMPLES_FALL) * total:
        return rule.passed(evidence)
    return rule.noted(
        evidence,
        "it memorises a sentence, but a hundred samples hardly move its loss: too small for them, or a step on one "
        "row undoes another",
        "train longer on 100 samples with a lower learning rate before training on all data; if it stays, widen it",
    )


# ---- what is learnt ----


def one_sentence(subject: Subject) -> Batch:
    """The row, among some, that has most to tell apart: (1, length)."""
    rows = subject.sentences(limits.SENTENCES_TO_CHOOSE_FROM, limits.SENTENCE_LENGTH)
    return _learnable(subject, subject.padded([max(rows, key=lambda row: len(set(row)))]))


def _learnable(subject: Subject, batch: Batch) -> Batch:
    """With holes, where the kind has them: many, so that there is something to tell apart."""
    return subject.holes(batch, limits.HOLES_SHARE) if subject.kind == "masked" else batch
