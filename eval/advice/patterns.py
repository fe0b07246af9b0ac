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

# The gravest kind first.
PATTERNS: tuple[Pattern, ...] = (
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
)


# Of a causal language model.
GENERATOR_PATTERNS: tuple[Pattern, ...] = (
    explosion,
    loss_stuck,
    stage_3_from_nothing,
    perplexity_rising,
    starved_part,
    flat_after_decay,
    looping_samples,
)


# Of a dialogue model.
DIALOGUE_PATTERNS: tuple[Pattern, ...] = (
    explosion,
    latents_collapsing,
    loss_stuck,
    latent_not_used,
    reply_perplexity_rising,
    flat_after_decay,
)


# Of a video model.
VIDEO_PATTERNS: tuple[Pattern, ...] = (
    frames_explode,
    future_loss_stuck,
    frames_no_better_than_guessed,
    future_loss_rising,
)


def look(log: RunLog, facts: RunFacts) -> list[Advice]:
    """Everything that the log shows now."""
    own = ((facts.generates, GENERATOR_PATTERNS), (facts.answers, DIALOGUE_PATTERNS))
    own += ((facts.predicts_frames, VIDEO_PATTERNS),)
    patterns = next((patterns for holds, patterns in own if holds), PATTERNS)
    found = (pattern(log, facts) for pattern in patterns)
    return [advice for advice in found if advice is not None]
