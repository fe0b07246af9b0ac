"""Patterns in a run's log: each a small pure function (log, facts) -> `Advice`, or None on a healthy run.

`look(log, facts)` asks all of them. Limits and their reasons stand in `run_log.py`. Training prints what they find
while it runs; a diagnosis can ask them about any `log.jsonl`.
"""

from collections.abc import Callable

from eval.advice.course import (
    far_fewer_sequences,
    flat_after_decay,
    loss_falls_accuracy_flat,
    one_part_dominating,
    overfitting,
    repetitive_samples,
    underfitting,
)
from eval.advice.dialogue_jepa import latent_not_used, latents_collapsing, reply_perplexity_rising
from eval.advice.learning import (
    acc_neg_at_chance,
    cosine_not_rising,
    cosines_in_narrow_range,
    explosion,
    good_acc_neg_poor_full_rank,
    loss_not_falling,
    noisy_acc_neg,
    representation_collapsing,
    stage_3_from_nothing,
)
from eval.advice.run_log import Advice, RunFacts, RunLog
from eval.advice.staged_generator import looping_samples, loss_stuck, perplexity_rising, starved_part
from eval.advice.video_jepa import frames_explode, frames_no_better_than_guessed, future_loss_rising, future_loss_stuck

Pattern = Callable[[RunLog, RunFacts], Advice | None]

# Family -> its patterns, the gravest kind first.
PATTERNS: dict[str, tuple[Pattern, ...]] = {
    "text_jepa": (
        explosion,
        representation_collapsing,
        loss_not_falling,
        acc_neg_at_chance,
        stage_3_from_nothing,
        far_fewer_sequences,
        good_acc_neg_poor_full_rank,
        cosines_in_narrow_range,
        cosine_not_rising,
        one_part_dominating,
        loss_falls_accuracy_flat,
        underfitting,
        overfitting,
        flat_after_decay,
        repetitive_samples,
        noisy_acc_neg,
    ),
    "staged_generator": (
        explosion,
        loss_stuck,
        stage_3_from_nothing,
        perplexity_rising,
        starved_part,
        flat_after_decay,
        looping_samples,
    ),
    "dialogue_jepa": (
        explosion,
        latents_collapsing,
        loss_stuck,
        latent_not_used,
        reply_perplexity_rising,
        flat_after_decay,
    ),
    "video_jepa": (
        frames_explode,
        future_loss_stuck,
        frames_no_better_than_guessed,
        future_loss_rising,
    ),
}
# Of a family that has none of its own.
GENERAL: tuple[Pattern, ...] = (explosion, loss_stuck, flat_after_decay)


def look(log: RunLog, facts: RunFacts) -> list[Advice]:
    """Everything that the log shows now."""
    found = (pattern(log, facts) for pattern in PATTERNS.get(facts.family, GENERAL))
    return [advice for advice in found if advice is not None]
