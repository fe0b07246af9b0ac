"""Log patterns of whether a run learns at all: broken numbers, chance levels, cosines and ranks."""

import itertools
import math
import statistics

from eval.advice import run_log as limits
from eval.advice.run_log import Advice, RunFacts, RunLog, trend
from eval.rules import expected_acc_neg

# ---- broken ----


def explosion(log: RunLog, facts: RunFacts) -> Advice | None:
    """NaN, a loss that has left its lowest value far behind, or a gradient that has."""
    if not log.train:
        return None
    remedy = f"lower learning_rate (now {facts.learning_rate:g}) to a third, or raise warmup_steps"
    newest = log.train[-1]
    for name in ("loss", "grad_norm"):
        value = newest.get(name, 0.0)
        if value is None or not math.isfinite(value):
            return Advice("explosion", f"{name} is {value} at step {newest['step']:,}", remedy, math.inf)
    losses, norms = log.values("loss"), log.values("grad_norm")
    if len(losses) > 2 and min(losses[-2:]) > limits.EXPLOSION * min(losses):
        evidence = f"the loss is {losses[-1]:.3g}, after {min(losses):.3g} at its lowest"
        return Advice("explosion", evidence, remedy, losses[-1] / min(losses))
    usual = statistics.median(norms[:-1]) if len(norms) > limits.MIN_ROWS else math.inf
    if norms and norms[-1] > limits.GRADIENT_EXPLOSION * usual > 0:
        evidence = f"the gradient norm is {norms[-1]:.3g}, usually {usual:.3g}"
        return Advice("explosion", evidence, remedy, norms[-1] / usual)
    return None


def loss_not_falling(log: RunLog, facts: RunFacts) -> Advice | None:
    """The loss is lately what it was at the first step."""
    losses, lately = log.values("loss"), log.lately("loss")
    if lately is None or log.step < facts.settled or lately < (1 - limits.LOSS_STUCK) * losses[0]:
        return None
    rate = facts.learning_rate
    better = "3e-4" if rate >= 1e-3 else "1e-3"
    return Advice(
        "loss_not_falling",
        f"the loss is {lately:.3g} at step {log.step:,} and was {losses[0]:.3g} at the first",
        f"try learning_rate {better} (now {rate:g}; 1e-3 and 3e-4 are the usual two), and look at a few rows of data",
        lately / losses[0],
    )


def acc_neg_at_chance(log: RunLog, facts: RunFacts) -> Advice | None:
    """The right token is no oftener above its negatives than by chance."""
    lately = log.lately("acc_neg")
    if lately is None or log.step < facts.settled or lately >= limits.CHANCE_FACTOR * facts.chance:
        return None
    return Advice(
        "acc_neg_at_chance",
        f"acc_neg is {lately:.3f} at step {log.step:,}; chance is 1/{1 + facts.num_negatives} = {facts.chance:.3f}",
        "nothing is learnt yet: raise learning_rate (1e-3), check that the rows are language and not mostly [UNK]",
        facts.chance / max(lately, 1e-3),
    )


def representation_collapsing(log: RunLog, facts: RunFacts) -> Advice | None:
    """The encoder's vectors at different blanks point one way, or lose directions that they had."""
    cosine = log.last_held_out("mean_pairwise_cosine", facts.settled)
    ranks = log.held_out_values("effective_rank")  # random weights use many directions: losing those counts too
    if cosine is None or not ranks:
        return None
    few = ranks[-1] < limits.COLLAPSED_RANK * facts.hidden_size
    if cosine < limits.COLLAPSED_COSINE and not few and ranks[-1] > limits.RANK_LEFT * max(ranks):
        return None
    return Advice(
        "representation_collapsing",
        f"effective rank {ranks[-1]:.1f} of {facts.hidden_size} (highest so far {max(ranks):.1f}), mean pairwise "
        f"cosine {cosine:.2f} between vectors of different blanks",
        "set collapse_protection to vicreg or sigreg, raise ranking_weight, or use target_table ema",
        max(ranks) / max(ranks[-1], 1e-3),
    )


def stage_3_from_nothing(log: RunLog, facts: RunFacts) -> Advice | None:
    """Stage 3 is trained without the stages that it builds on."""
    if facts.stage != 3 or not facts.from_nothing:
        return None
    return Advice(
        "stage_3_from_nothing",
        "stage 3 starts here from random weights, without the stages that it builds on",
        "train stage 2 first and give it with --init_from; or expect more steps",
        1.0,
    )


# ---- cosines and ranks ----


def cosine_not_rising(log: RunLog, facts: RunFacts) -> Advice | None:
    """Predictions do not turn towards their targets."""
    ends = trend(log.values("cos_mean", facts.settled))
    if not facts.table_head or ends is None or ends[1] >= limits.LOW_COSINE or ends[1] - ends[0] >= limits.COSINE_RISE:
        return None
    return Advice(
        "cosine_not_rising",
        f"cos_mean went from {ends[0]:.3f} to {ends[1]:.3f} since step {facts.settled:,}; random directions give 0.00",
        f"raise alignment_weight (now {facts.weights.get('alignment', 0.0):g}) to 1, or learning_rate",
        limits.LOW_COSINE - ends[1] + 1.0,
    )


def cosines_in_narrow_range(log: RunLog, facts: RunFacts) -> Advice | None:
    """All tokens of the table are nearly equally near to a prediction."""
    spread = log.last_held_out("cosine_spread", facts.settled)
    random = 1 / math.sqrt(facts.hidden_size)
    if not facts.table_head or spread is None or spread >= limits.NARROW_SPREAD * random:
        return None
    return Advice(
        "cosines_in_narrow_range",
        f"cosines of a prediction with all tokens spread by {spread:.3f} only; random directions by {random:.3f}",
        f"lower temperature to 0.05 (now {facts.temperature:g}), or let logit_scale be learned",
        random / max(spread, 1e-6),
    )


def good_acc_neg_poor_full_rank(log: RunLog, facts: RunFacts) -> Advice | None:
    """The right token beats 32 random ones, and is still no better placed than by guessing the most frequent words."""
    lately = log.lately("acc_neg")
    rank, top1 = log.last_held_out("median_rank", facts.settled), log.last_held_out("top1")
    if lately is None or lately < limits.GOOD_ACC_NEG or rank is None or not _full_rank_is_poor(log, rank):
        return None
    implied = expected_acc_neg(max(rank, 1), max(facts.vocab_size, int(rank) + 1), facts.num_negatives)
    unigram = log.last_held_out("unigram_top1")
    beside = "" if unigram is None else f" (a unigram guess: {unigram:.3f})"
    return Advice(
        "good_acc_neg_poor_full_rank",
        f"acc_neg {lately:.2f} against {facts.num_negatives} random tokens, but median rank {rank:,.0f} of "
        f"{facts.vocab_size:,} and top-1 {top1:.3f}{beside}; such a rank alone gives acc_neg {implied:.2f}",
        "take the ladder: alignment_weight up, temperature down, smaller max_vocab or larger hidden_size; "
        "or ranking: full, which ranks against the whole vocabulary",
        rank,
    )


def _full_rank_is_poor(log: RunLog, rank: float) -> bool:
    """No better than unigram guesses, and not getting better either; without a baseline, by the rank alone."""
    mrr = log.held_out_values("mrr", start=1)
    if len(mrr) > 1 and mrr[-1] > limits.MRR_RISE * mrr[-2]:
        return False
    top1, unigram = log.last_held_out("top1"), log.last_held_out("unigram_top1")
    if top1 is None or unigram is None:
        return rank > limits.POOR_MEDIAN_RANK
    return top1 <= unigram and rank > limits.POOR_MEDIAN_RANK


def noisy_acc_neg(log: RunLog, facts: RunFacts) -> Advice | None:
    """acc_neg jumps from row to row, as it must where a row holds few blanks."""
    values = log.values("acc_neg", facts.settled)[-2 * limits.MIN_ROWS :]
    if len(values) < limits.MIN_ROWS:
        return None
    # Of differences, so that a trend is not taken for noise.
    noise = statistics.pstdev(b - a for a, b in itertools.pairwise(values)) / math.sqrt(2)
    blanks = facts.rows_per_step * facts.holes_per_row * facts.logging_steps
    mean = statistics.fmean(values)
    expected = math.sqrt(mean * (1 - mean) / blanks)
    if noise < limits.NOISY or expected < noise / 3:
        return None
    return Advice(
        "noisy_acc_neg",
        f"acc_neg jumps by {noise:.2f} between rows of about {blanks:,.0f} blanks; chance alone gives {expected:.2f}",
        "normal at a small batch: read acc_ema, or raise per_device_train_batch_size or logging_steps",
        noise,
        level="note",
    )
