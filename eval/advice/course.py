"""Log patterns of how a run goes on: the course of the loss, and the model against its data."""

import math
import statistics
from collections import Counter

from eval.advice import run_log as limits
from eval.advice.run_log import Advice, RunFacts, RunLog, trend
from eval.rules import readable

# ---- the course of the loss ----


def loss_falls_accuracy_flat(log: RunLog, facts: RunFacts) -> Advice | None:
    """The loss goes down by something that answers nothing."""
    start = max(facts.settled, log.step // 2)
    loss, accuracy = trend(log.values("loss", start)), trend(log.values("accuracy", start))
    if loss is None or accuracy is None or accuracy[1] >= limits.ACCURACY_FULL:
        return None
    fall = 1 - loss[1] / loss[0] if loss[0] > 0 else 0.0
    if fall < limits.LOSS_FALL or accuracy[1] > (1 + limits.ACCURACY_RISE) * accuracy[0]:
        return None
    return Advice(
        "loss_falls_accuracy_flat",
        f"since step {start:,} the loss fell by {fall:.0%} ({loss[0]:.3g} to {loss[1]:.3g}) while the share of right "
        f"answers went from {accuracy[0]:.3f} to {accuracy[1]:.3f}; {_fallen_part(log, facts, start)}",
        "raise ranking_weight or lower the weight of the part that falls; with ranking: sampled, use ranking: full",
        fall,
    )


def _fallen_part(log: RunLog, facts: RunFacts, start: int) -> str:
    """Which weighted part of the loss fell most."""
    falls = {}
    for name, weight in facts.weights.items():
        ends = trend(log.values(name, start))
        if ends is not None and weight > 0:
            falls[name] = weight * (ends[0] - ends[1])
    if not falls:
        return "its parts are not logged"
    most = max(falls, key=lambda name: falls[name])
    return f"most of the fall is in {most} ({falls[most]:.3g})"


def one_part_dominating(log: RunLog, facts: RunFacts) -> Advice | None:
    """A part beside the ranking makes up nearly all of the loss, though the ranking still has much to learn."""
    parts = {name: weight * (log.lately(name) or 0.0) for name, weight in facts.weights.items() if weight > 0}
    total = sum(abs(value) for value in parts.values())
    ranking = parts.get("ranking", 0.0)
    if not total or ranking < limits.LEFT_TO_RANK or log.step < facts.settled:
        return None
    largest = max(parts, key=lambda name: abs(parts[name]))
    share = abs(parts[largest]) / total
    if largest == "ranking" or share < limits.DOMINATING:
        return None
    lower = facts.weights[largest] * ranking / abs(parts[largest])
    return Advice(
        "one_part_dominating",
        f"{share:.0%} of the weighted loss is {largest} ({parts[largest]:.3g}); the ranking has {ranking:.3g} left",
        f"lower {largest}_weight from {facts.weights[largest]:g} to about {lower:.2g}",
        share,
    )


def flat_after_decay(log: RunLog, facts: RunFacts) -> Advice | None:
    """The loss fell until the rate decayed, and then stopped."""
    decayed = [
        row["step"]
        for row in log.train
        if row["step"] > facts.warmup_steps
        and row.get("learning_rate", facts.learning_rate) < limits.DECAYED * facts.learning_rate
    ]
    if not decayed or log.step - decayed[0] < limits.DECAYED_SHARE * facts.max_steps:
        return None
    start, length = decayed[0], log.step - decayed[0]
    before, after = trend(log.values("loss", start - length, start)), trend(log.values("loss", start))
    if before is None or after is None or min(before[0], after[0]) <= 0:
        return None
    fell, falls = 1 - before[1] / before[0], 1 - after[1] / after[0]
    if fell < limits.FALL_BEFORE or falls > limits.FALL_LEFT * fell:
        return None
    return Advice(
        "flat_after_decay",
        f"the loss fell by {fell:.1%} over the {length:,} steps before the rate was halved (step {start:,}) and by "
        f"{falls:.1%} over the {length:,} since",
        "lengthen the constant phase (constant_share 0.5), or raise max_steps or final_learning_rate",
        fell - falls,
    )


# ---- model against data ----


def underfitting(log: RunLog, facts: RunFacts) -> Advice | None:
    """At full rate, training accuracy has stopped rising."""
    start = max(facts.settled, log.step // 2)
    at_peak = [row for row in log.train if row.get("learning_rate", 0.0) >= limits.DECAYED * facts.learning_rate]
    ends = trend(log.values("accuracy", start))
    if ends is None or not at_peak or at_peak[-1]["step"] < log.train[-1]["step"]:
        return None
    if ends[1] >= limits.ACCURACY_FULL or ends[1] > (1 + limits.ACCURACY_RISE) * ends[0]:
        return None
    return Advice(
        "underfitting",
        f"training accuracy {ends[0]:.3f} to {ends[1]:.3f} between step {start:,} and {log.step:,}, at full rate",
        "the model has no room to learn more: larger hidden_size or num_hidden_layers, less dropout, or ranking: full",
        1 / max(ends[1], 1e-3),
    )


def overfitting(log: RunLog, facts: RunFacts) -> Advice | None:
    """Training accuracy leaves the held-out one behind, which no longer improves."""
    rows = [row for row in log.held_out if row["step"] >= facts.settled and row.get("eval_top1") is not None]
    gaps = [(row, _accuracy_before(log, row["step"]) - row["eval_top1"]) for row in rows[-3:]]
    if len(gaps) < 3:
        return None
    mrr = log.held_out_values("mrr", facts.settled)
    growth = gaps[-1][1] - gaps[0][1]
    improves = len(mrr) < 3 or mrr[-1] >= max(mrr)
    if math.isnan(growth) or gaps[-1][1] < limits.GAP or growth < limits.GAP_GROWTH or improves:
        return None
    best = log.held_out[max(range(len(log.held_out)), key=lambda i: log.held_out[i].get("eval_mrr") or 0.0)]["step"]
    return Advice(
        "overfitting",
        f"training accuracy is {gaps[-1][1]:.2f} above held-out top-1 and was {gaps[0][1]:.2f} above at step "
        f"{gaps[0][0]['step']:,}; held-out MRR was best at step {best:,} ({max(mrr):.3f}, now {mrr[-1]:.3f})",
        "more data, fewer steps, a smaller model, or dropout 0.1 and more weight_decay; the best checkpoint is kept",
        gaps[-1][1],
    )


def _accuracy_before(log: RunLog, step: int) -> float:
    """Mean training accuracy of the few rows up to a step; NaN without any."""
    values = log.values("accuracy", end=step)[-limits.WINDOW :]
    return statistics.fmean(values) if values else math.nan


def far_fewer_sequences(log: RunLog, facts: RunFacts) -> Advice | None:
    """Most of the source was left out, or there is very little of it."""
    read, kept = facts.rows_read, facts.rows_kept
    if not kept or (kept >= limits.KEPT_SHARE * read and kept >= limits.FEW_SEQUENCES):
        return None
    return Advice(
        "far_fewer_sequences",
        f"{kept:,} sequences to train on, of {max(read, kept):,} rows read",
        "look at what was left out and why (first lines of the run): min_words, max_words, the text column, the "
        f"separator; below about {readable(limits.FEW_SEQUENCES)} sequences everything is learnt by heart",
        max(read, 1) / kept,
    )


def repetitive_samples(log: RunLog, facts: RunFacts) -> Advice | None:
    """The same answer to nearly every question."""
    if log.step < facts.settled:
        return None
    share, evidence = log.last_held_out("top_token_share", facts.settled), ""
    if share is not None and share >= limits.REPEATED_SHARE:
        evidence = f"{share:.0%} of all held-out blanks get one and the same first answer"
    else:
        share = repetition(log.samples)
        if share < limits.REPEATED_SHARE:
            return None
        evidence = f"{share:.0%} of the words in the samples repeat what stands there already"
    return Advice(
        "repetitive_samples",
        evidence,
        "it answers by frequency, not by context: train longer, ranking: full (or negative_sampling: frequency) with "
        "frequency_bias; when generating, top_k and a repetition penalty",
        share,
    )


def repetition(samples: list[str], length: int = 3) -> float:
    """Share (0..1) of the runs of `length` words that stood in their sample before; shorter samples count nothing."""
    repeated = total = 0
    for sample in samples:
        words = sample.split()
        runs = Counter(tuple(words[i : i + length]) for i in range(len(words) - length + 1))
        total += sum(runs.values())
        repeated += sum(count - 1 for count in runs.values())
    return repeated / total if total else 0.0
