"""Log patterns of a causal language model: overfitting by perplexity, parts starved of updates, samples in loops."""

from eval.advice import run_log as limits
from eval.advice.course import repetition
from eval.advice.learning import loss_not_falling
from eval.advice.run_log import Advice, RunFacts, RunLog

_RATE = "credit_rate/"


def loss_stuck(log: RunLog, facts: RunFacts) -> Advice | None:
    """`loss_not_falling` in a run from nothing: one that grew starts low, and its peak rate raises the loss first."""
    return loss_not_falling(log, facts) if facts.from_nothing else None


def perplexity_rising(log: RunLog, facts: RunFacts, part: str = "cross_entropy") -> Advice | None:
    """Held-out perplexity has left its best behind while the training loss, `part` of it in nats, still falls."""
    held_out = log.held_out_values("perplexity", facts.settled)
    losses = log.values(part, facts.settled)
    if len(held_out) < 3 or len(losses) < 2 or min(held_out[-2:]) <= limits.PERPLEXITY_RISE * min(held_out):
        return None
    if losses[-1] >= losses[0]:
        return None
    rows = [row for row in log.held_out if row["step"] >= facts.settled and row.get("eval_perplexity") is not None]
    best = min(rows, key=lambda row: row["eval_perplexity"])
    return Advice(
        "overfitting",
        f"held-out perplexity was best at step {best['step']:,} ({best['eval_perplexity']:.3g}) and is now "
        f"{held_out[-1]:.3g}, while the training loss fell from {losses[0]:.3g} to {losses[-1]:.3g} nats",
        "more text, fewer steps, a smaller model, or dropout 0.1 to 0.3 and more weight_decay; the best checkpoint is "
        "kept",
        held_out[-1] / min(held_out),
    )


def starved_part(log: RunLog, facts: RunFacts) -> Advice | None:
    """Credit assignment never finds a part responsible, so that it hardly learns."""
    if facts.credit_rest is None or log.step < facts.settled:
        return None
    names = sorted({name for row in log.train for name in row if name.startswith(_RATE)})
    # Fewer rows hold too few choices to tell a part that is starved from one that was unlucky.
    values = {name: found for name in names if len(found := log.values(name)) >= 2 * limits.MIN_ROWS}
    means = {name: sum(found) / len(found) for name, found in values.items()}
    starved = [name for name, mean in means.items() if mean <= limits.STARVED * facts.credit_rest]
    if not starved or len(starved) == len(means):
        return None
    shown = ", ".join(f"{name.removeprefix(_RATE)} ({means[name]:.1%})" for name in starved)
    return Advice(
        "starved_part",
        f"{len(starved)} of {len(means)} parts got hardly more than the least share of their updates so far: {shown}",
        "raise credit_rest or credit_floor, choose more often (credit_steps), or train with --credit analyse",
        len(starved) / len(means),
    )


def looping_samples(log: RunLog, facts: RunFacts) -> Advice | None:
    """Samples say the same again and again."""
    if log.step < facts.settled or not log.samples:
        return None
    share = repetition(log.samples)
    if share < limits.GREEDY_LOOP:
        return None
    return Advice(
        "repetitive_samples",
        f"{share:.0%} of the words in the samples repeat what stands there already",
        "train longer; when generating, sample (top_k 50, temperature 0.7 to 1) with repetition_penalty 1.1 to 1.3",
        share,
    )
