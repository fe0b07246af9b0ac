"""The course of a training run, from its log: broken numbers, the learning rate, what the loss did; and of a Trainer,
where a step's time goes (X11).

Works on the rows of our own runs and of the plain `transformers` Trainer; our own are also shown to the log patterns
that training itself asks (`eval.advice.patterns`).
"""

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch

from eval.advice import run_log
from eval.advice.facts import facts_of
from eval.advice.patterns import look
from eval.advice.record import TrainingRecord, is_finite
from eval.advice.run_log import Advice, RunFacts, RunLog
from eval.diagnose import thresholds as limit
from eval.diagnose.checks.check import ANY, check
from eval.diagnose.probes.anatomy import check_room_to_train
from eval.diagnose.probes.predictions import look_at_predictions
from eval.diagnose.report.report import FAIL, NOTE, Finding, Rule
from eval.diagnose.subject.onlooker import batches_of, unchanged
from eval.diagnose.subject.subject import Subject

Row = dict[str, Any]
_CURVE_POINTS = 500


@check("training.non_finite", "every loss and gradient norm in the log is a finite number", kinds=ANY, needs="record")
def non_finite(subject: Subject, rule: Rule) -> Finding | list[Finding]:
    """Whether every logged loss and gradient was a number; the Trainer writes 0.0 where a loss was NaN."""
    record = _record(subject)
    rows = record.training_rows
    if not rows:
        return []
    broken = next((found for number, row in enumerate(rows) if (found := _broken(row, rows[:number]))), None)
    if broken is None:
        return rule.passed({"rows": len(rows), "steps": record.steps})
    return rule.failed(
        broken,
        "a number that is not finite: the weights of that step, and of all later checkpoints, are broken. The Trainer "
        "goes on without a word and logs a loss of 0.0 (logging_nan_inf_filter)",
        "take a checkpoint from before that step; lower learning_rate, clip gradients (max_grad_norm 1), avoid fp16, "
        "and set logging_nan_inf_filter=False",
    )


@check(
    "training.learning_rate",
    f"a rate above 0, and one above {limit.LARGE_RATE:g} only where the loss falls below that of guessing by "
    "frequency",
    kinds=ANY,
    needs="record",
)
def learning_rate(subject: Subject, rule: Rule) -> Finding | list[Finding]:
    """Whether the rate was above nothing, and not so large that nothing could be learnt."""
    record = _record(subject)
    _, rates = record.values("learning_rate")
    peak = max([rate for rate in (record.learning_rate, *rates) if rate is not None], default=None)
    if peak is None or record.steps < 2:
        return []
    steps, losses = _cross_entropy(subject, record)
    figures = {"peak": peak, "lowest": min(rates, default=peak), "steps": record.steps, "rows": len(rates)}
    if max(rates, default=peak) == 0.0:
        return rule.failed(
            figures,
            "the learning rate was 0 in every row of the log: no step changed a weight",
            "set learning_rate (1e-3 from nothing, 5e-5 to fine-tune); look at the scheduler, whose multiplier may be "
            "0, and at warm-up steps beyond the end",
        )
    if peak > limit.LARGE_RATE and losses and not record.uses_muon:
        unigram, lately = _unigram(subject), _lately(losses)
        figures |= {"loss_lately": lately, "loss_of_guessing_by_frequency": unigram, "highest_loss": max(losses)}
        if lately > limit.MORE_THAN_FREQUENCIES * unigram and steps[-1] >= limit.FULL_RATE_STEPS:
            return rule.failed(
                figures,
                f"a learning rate of {peak:g} is far above what trains transformers with AdamW (1e-4 to 5e-3): the "
                "first steps threw the weights away, and what was learnt is at most how frequent tokens are",
                "start again from fresh weights with a hundredth of it",
            )
    return rule.passed(figures)


@check(
    "training.loss",
    f"a loss that is lately less than {limit.DIVERGED:g} times its lowest, below ln V, and below "
    f"{1 - run_log.LOSS_STUCK:.2f} of its first",
    needs="record",
)
def loss(subject: Subject, rule: Rule) -> Finding | list[Finding]:
    """Whether the loss fell, and stayed down."""
    record = _record(subject)
    _keep_curve(subject, record)
    steps, losses = record.values("loss")
    if len(losses) < 2:
        subject.notes.append(f"{rule.check}: the log of {record.folder} holds {len(losses)} rows with a loss")
        return []
    if record.learning_rate == 0:
        return []  # training.learning_rate says why it stands where it began
    lowest, lately, ln_v = min(losses), _lately(losses), math.log(subject.vocab_size)
    figures = {
        "first": losses[0],
        "lowest": lowest,
        "lately": lately,
        "last_step": steps[-1],
        "ln_v": ln_v,
        "rows": len(losses),
    }
    _, entropies = _cross_entropy(subject, record)
    if (scaled := _scaled(subject, record, lately, ln_v)) is not None:
        return rule.named("training.loss_scale").failed(
            {**figures, "own_loss": scaled},
            f"the log has {lately / scaled:.2g} times the loss that the model has on its text: it is a sum, or was "
            "not divided by the steps of accumulation, and gradients are as many times too large",
            "divide the loss by the number of predicted tokens of the whole step (num_items_in_batch under a Trainer)",
        )
    risen = min(losses[-2:]) > limit.DIVERGED * lowest and lately - lowest > limit.DIVERGED_OF_FIRST * losses[0]
    if risen or (entropies and _worse_than_nothing(entropies, ln_v) and len(losses) >= limit.FEWEST_ROWS):
        return rule.named("training.diverged").failed(
            figures,
            "the loss left its lowest value far behind, or is above ln V, which is what knowing nothing costs: the "
            "learning rate is too large, or the loss is a sum or a multiple of the mean",
            "lower learning_rate to a third and add warm-up; see that the loss is a mean over tokens",
        )
    if _stuck(record, losses, entropies, ln_v):
        return rule.named("training.loss_not_falling").failed(
            figures,
            "the loss is what it was at the first row: no gradient reaches the weights, the optimizer does not hold "
            "them, or the rate is far too small",
            "see gradient.flow; try learning_rate 1e-3; see that the optimizer was made from this model's parameters",
        )
    return rule.passed(figures)


@check(
    "training.too_good",
    f"more than {limit.TOO_GOOD:g} of the loss of guessing by frequency on text seen for the first time",
    kinds=("causal", "masked"),
    needs="record",
)
def too_good(subject: Subject, rule: Rule) -> Finding | list[Finding]:
    """Whether text that was never seen before costs less than any language model pays."""
    record = _record(subject)
    unseen = _unseen_losses(record)
    if not unseen:
        return []
    unigram, (step, lowest) = _unigram(subject), min(unseen, key=lambda pair: pair[1])
    figures = {"lowest_unseen_loss": lowest, "step": step, "loss_of_guessing_by_frequency": unigram}
    if lowest >= limit.TOO_GOOD * unigram:
        return rule.passed(figures)
    return rule.noted(
        figures,
        "no model predicts unseen natural text so well: it sees its answer (future tokens, labels that are not "
        "shifted), or the text repeats itself or stood in training",
        "read leak.future_tokens, parity.offset and data.overlap; of a made-up language this may be right",
    )


@check(
    "training.course",
    f"a rate that ends its warm-up and is above {limit.SMALL_RATE:g}, held-out loss within "
    f"{limit.OVERFITTED_NOTE - 1:.0%} of its best, and no sudden rise",
    needs="record",
)
def course(subject: Subject, rule: Rule) -> list[Finding]:
    """How rate, training loss and held-out loss went on together."""
    record = _record(subject)
    steps, losses = record.values("loss")
    if len(losses) < limit.FEWEST_ROWS or record.learning_rate == 0:
        return []
    found = [
        *_rate_found(rule, subject, record, losses),
        *_overfitting(rule, record, losses),
        *_jump(rule, steps, losses),
    ]
    return found or [rule.passed({"rows": len(losses), "steps": record.steps})]


@check(
    "training.advice",
    "none of the patterns of a run that goes wrong (eval/advice/run_log.py)",
    kinds=ANY,
    needs="record",
)
def advice(subject: Subject, rule: Rule) -> list[Finding]:
    """What the log patterns of training say about a run of this package."""
    record = _record(subject)
    facts = facts_of(record, subject.model.config)
    if facts is None:
        return []
    log = RunLog([row for row in record.rows if _is_whole(row)])
    said = [one for one in look(log, facts) if one.level != "note"]
    if not said:
        return [rule.passed({"rows": len(record.rows), "steps": record.steps})]
    facts = replace(facts, from_nothing=facts.from_nothing and subject.foretells)
    return [_finding_of(rule, one, log, facts) for one in said]


@check(
    "training.time",
    f"under {limit.WAITING_NOTE:.0%} of a step's time waits for data",
    kinds=ANY,
    needs="trainer",
)
def step_time(subject: Subject, rule: Rule) -> Finding | list[Finding]:
    """Seconds that a step waits for its batch, and that it computes: some steps on a copy, without the optimizer."""
    assert subject.trainer is not None
    check_room_to_train(subject)
    waiting, computing, tokens = [], [], []
    twin, began = subject.copy(dropout=True), time.monotonic()
    with unchanged(subject.trainer):
        batches = batches_of(subject.trainer)
        while len(waiting) <= limit.BATCHES_TO_TIME and time.monotonic() - began < limit.SECONDS_TO_TIME:
            asked = time.monotonic()
            batch = next(batches, None)
            if batch is None:
                break
            given = time.monotonic()
            with torch.enable_grad():
                subject.trainer.compute_loss(twin, dict(batch)).backward()
            twin.zero_grad(set_to_none=True)
            if subject.device.type == "cuda":
                torch.cuda.synchronize(subject.device)
            waiting.append(given - asked)
            computing.append(time.monotonic() - given)
            tokens.append(batch["input_ids"].numel() if "input_ids" in batch else 0)
    if len(waiting) < 2:
        return []
    # The first batch starts workers, and the first step makes its kernels.
    waited, computed, seen = sum(waiting[1:]), sum(computing[1:]), sum(tokens[1:])
    share = waited / (waited + computed)
    evidence: dict[str, Any] = {
        "waiting_share": share,
        "seconds_waiting_a_step": waited / len(waiting[1:]),
        "seconds_computing_a_step": computed / len(waiting[1:]),
        "tokens_per_second": seen / (waited + computed),
        "steps": len(waiting[1:]),
    }
    if share < limit.WAITING_NOTE:
        return rule.passed(evidence)
    return rule.found(
        FAIL if share > limit.WAITING_FAIL else NOTE,
        evidence,
        f"{share:.0%} of a step waits for its batch: reading, tokenizing or masking is slower than the model",
        "tokenize once and keep the result (datasets.map), set dataloader_num_workers to 2 or more, and do no work "
        "row by row in the collator",
    )


# ---- what the log says ----


def _rate_found(rule: Rule, subject: Subject, record: TrainingRecord, losses: Sequence[float]) -> list[Finding]:
    """A rate that still rises at the end, or that was never large enough."""
    _, rates = record.values("learning_rate")
    figures = {"rates": [rates[0], rates[len(rates) // 2], rates[-1]] if rates else [], "steps": record.steps}
    rising = all(later >= earlier for earlier, later in pairwise(rates))
    if len(rates) >= limit.FEWEST_ROWS and rising and rates[-1] > 1.2 * rates[len(rates) // 2]:
        return [
            rule.named("training.still_warming_up").failed(
                figures,
                "the learning rate was still rising when the run ended: its warm-up is longer than the run",
                "set warmup_steps to some percent of the steps, or train on",
            )
        ]
    entropies = _cross_entropy(subject, record)[1]
    from_nothing = bool(entropies) and entropies[0] > limit.FROM_NOTHING * math.log(subject.vocab_size)
    if rates and not record.uses_muon and 0 < max(rates) < limit.SMALL_RATE and from_nothing:
        return [
            rule.named("training.rate_too_small").failed(
                {**figures, "first": losses[0], "lately": _lately(losses)},
                f"a peak rate of {max(rates):g} moves weights that begin at random next to nothing",
                "train from nothing with 3e-4 to 3e-3 (AdamW); such a rate is for fine-tuning large models",
            )
        ]
    return []


def _overfitting(rule: Rule, record: TrainingRecord, losses: Sequence[float]) -> list[Finding]:
    """Held-out loss that rises while training loss falls."""
    rows = [(row["step"], row["eval_loss"]) for row in record.rows if is_finite(row.get("eval_loss"))]
    if record.ours or len(rows) < 2:  # our runs keep their best model, and have advice of their own
        return []
    (best_step, best), (last_step, last) = min(rows, key=lambda pair: pair[1]), rows[-1]
    epochs = max((row["epoch"] for row in record.rows if is_finite(row.get("epoch"))), default=0)
    figures = {"best_held_out": best, "at_step": best_step, "last_held_out": last, "last_step": last_step}
    figures |= {"training_lately": _lately(losses), "epochs": epochs}
    if last <= limit.OVERFITTED_NOTE * best or _lately(losses) >= best:
        return []
    many = epochs > limit.MANY_EPOCHS
    rows_seen = f"few rows, which it saw {epochs:.0f} times," if many else "rows"
    return [
        rule.named("training.same_rows" if many else "training.overfitting").found(
            FAIL if last > limit.OVERFITTED_FAIL * best else NOTE,
            figures,
            f"held-out loss was best at step {best_step} and has risen since, while the training loss fell: the model "
            f"learns its {rows_seen} by heart",
            f"take the checkpoint of step {best_step} (load_best_model_at_end); use more text, a smaller model, "
            "dropout or weight decay, and stop earlier",
        )
    ]


def _jump(rule: Rule, steps: Sequence[int], losses: Sequence[float]) -> list[Finding]:
    """A sudden rise that lasts for rows: what was learnt, or the optimizer's state, was lost."""
    for at in range(2, len(losses) - 1):
        before, after = max(losses[max(0, at - 3) : at]), min(losses[at : at + 2])
        if after - before > max(limit.JUMPED, limit.JUMPED_OF_FALL * (losses[0] - min(losses[:at]))):
            return [
                rule.named("training.jump").failed(
                    {
                        "step": steps[at],
                        "loss_before": losses[at - 1],
                        "loss_after": losses[at],
                        "lowest": min(losses),
                    },
                    f"the loss jumped at step {steps[at]}: a resume that did not bring back weights, optimizer, "
                    "schedule or data order, or a batch that broke the weights",
                    "resume from the whole checkpoint (resume_from_checkpoint=PATH, not only the weights); compare "
                    "the learning rate before and after; else clip gradients at 1",
                )
            ]
    return []


def _scaled(subject: Subject, record: TrainingRecord, lately: float, ln_v: float) -> float | None:
    """The model's own loss, where the log has a multiple of it that is above what knowing nothing costs."""
    if record.ours or lately <= limit.ABOVE_LN_V * ln_v or subject.kind not in ("causal", "masked"):
        return None
    seen = look_at_predictions(subject)
    return seen.loss if seen is not None and lately > limit.MULTIPLE_OF_OWN * seen.loss else None


def _broken(row: Row, before: Sequence[Row]) -> Row | None:
    """Evidence of a number that is none in a row, or of the 0.0 that stands for it."""
    for name in ("loss", "grad_norm"):
        if name in row and not is_finite(row[name]):
            return {"step": row["step"], "figure": name, "value": str(row[name])}
    last = next((earlier["loss"] for earlier in reversed(before)), None)
    if row["loss"] == 0.0 and last is not None and last > limit.LOSS_BEFORE_ZERO:
        return {"step": row["step"], "figure": "loss", "value": "0.0", "loss_before": last}
    return None


def _cross_entropy(subject: Subject, record: TrainingRecord) -> tuple[list[int], list[float]]:
    """Steps and training losses that may be compared with ln V; empty where the loss is something else."""
    if not record.ours:
        return record.values("loss")
    steps, losses = record.values("cross_entropy")
    ranks_all = record.run is not None and record.run["recipe"]["loss"].get("ranking") == "full"
    return record.values("ranking") if not losses and ranks_all else (steps, losses)


def _unigram(subject: Subject) -> float:
    """Entropy of the sample's tokens in nats: the loss of guessing by frequency, a little too low for few tokens."""
    counts = subject.batch(4 * subject.limits.rows, subject.limits.length).input_ids.flatten().bincount().double()
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * shares.log()).sum())


def _lately(values: Sequence[float]) -> float:
    """Mean of the last rows, at most five and at most a third of all."""
    last = values[-max(1, min(run_log.WINDOW, len(values) // 3)) :]
    return sum(last) / len(last)


def _worse_than_nothing(losses: Sequence[float], ln_v: float) -> bool:
    lately = _lately(losses)
    return lately > limit.ABOVE_LN_V * ln_v and lately > limit.HARDLY_FALLEN * losses[0]


def _stuck(record: TrainingRecord, losses: Sequence[float], entropies: Sequence[float], ln_v: float) -> bool:
    """Whether a run from nothing did not get below its first loss, at a rate above 0 that it had long enough."""
    steps, rates = record.values("learning_rate")
    if not rates or max(rates) == 0.0 or len(losses) < limit.FEWEST_ROWS or not entropies:
        return False
    full = next(step for step, rate in zip(steps, rates, strict=True) if rate >= 0.99 * max(rates))
    from_nothing = entropies[0] > limit.FROM_NOTHING * ln_v
    long_enough = record.steps - full >= limit.FULL_RATE_STEPS
    return from_nothing and long_enough and _lately(losses) >= (1 - run_log.LOSS_STUCK) * losses[0]


def _unseen_losses(record: TrainingRecord) -> list[tuple[int, float]]:
    """(step, mean nats) of held-out text, and of training text in the first pass over it, when it is as new."""
    found = []
    for row in record.rows:
        if is_finite(row.get("eval_perplexity")) and row["eval_perplexity"] > 0:
            found.append((row["step"], math.log(row["eval_perplexity"])))
        elif is_finite(row.get("eval_loss")) and not record.ours:
            found.append((row["step"], row["eval_loss"]))
        first_pass = is_finite(row.get("epoch")) and row["epoch"] <= 1 and not record.ours
        if first_pass and is_finite(row.get("loss")) and row["loss"] > 0:
            found.append((row["step"], row["loss"]))
    return found


def _finding_of(rule: Rule, said: Advice, log: RunLog, facts: RunFacts) -> Finding:
    """A fail where nothing can come of the run; a note where it may be young, or meant so."""
    losses = log.values("loss")
    far = bool(losses) and losses[-1] - min(losses) > limit.DIVERGED_OF_FIRST * losses[0]
    hopeless = {
        "explosion": far,
        "loss_not_falling": facts.from_nothing,
        "acc_neg_at_chance": True,
    }
    verdict = FAIL if hopeless.get(said.pattern, False) else NOTE
    return rule.named(f"training.{said.pattern}").found(verdict, {"seen": said.evidence}, said.evidence, said.remedy)


def _is_whole(row: Row) -> bool:
    """The patterns expect numbers; `training.non_finite` speaks of the others."""
    return all(is_finite(row[name]) for name in ("loss", "grad_norm") if name in row)


def _keep_curve(subject: Subject, record: TrainingRecord) -> None:
    steps, losses = record.values("loss")
    every = max(1, len(steps) // _CURVE_POINTS)
    subject.figures["loss_curve"] = {
        "step": steps[::every],
        "loss": losses[::every],
        "held_out": [[row["step"], row["eval_loss"]] for row in record.rows if is_finite(row.get("eval_loss"))],
    }


def _record(subject: Subject) -> TrainingRecord:
    assert subject.record is not None
    return subject.record


CHECKS = (non_finite, learning_rate, loss, course, too_good, advice, step_time)
