"""Log patterns of a dialogue model: latents that collapse, a decoder that does not listen to them, overfitting."""

from eval.advice import run_log as limits
from eval.advice.run_log import Advice, RunFacts, RunLog
from eval.advice.staged_generator import perplexity_rising


def latents_collapsing(log: RunLog, facts: RunFacts) -> Advice | None:
    """Different replies get nearly the same latents, or those lose directions that they had."""
    cosine = log.last_held_out("mean_pairwise_cosine", facts.settled)
    # Untrained latents use far more directions than any that mean something, so those do not count.
    ranks = log.held_out_values("target_effective_rank", facts.settled)
    if cosine is None or not ranks:
        return None
    if cosine < limits.COLLAPSED_COSINE and ranks[-1] > limits.RANK_LEFT * max(ranks):
        return None
    of_predictions = log.last_held_out("effective_rank") or 0.0
    return Advice(
        "representation_collapsing",
        f"effective rank of the replies' latents {ranks[-1]:.1f} (highest so far {max(ranks):.1f}), of predicted ones "
        f"{of_predictions:.1f}, mean pairwise cosine {cosine:.2f} between predictions",
        "set collapse_protection to vicreg or sigreg, raise collapse_weight or ranking_weight, or lower "
        "alignment_weight: latents that are all alike are easiest to predict",
        max(ranks) / max(ranks[-1], 1e-3),
    )


def latent_not_used(log: RunLog, facts: RunFacts) -> Advice | None:
    """The decoder says replies as well with another pair's latents as with their own."""
    usage = log.held_out_values("latent_usage_ratio", facts.settled)
    if len(usage) < 2 or max(usage[-2:]) >= limits.LATENT_USED:
        return None
    return Advice(
        "latent_not_used",
        f"perplexity with the latents of other pairs is {usage[-1]:.3f} times that with their own: the decoder hardly "
        "listens to them",
        "train longer; raise num_latents (4 to 8), lower alignment_weight, or keep decoder_gradient on; with "
        "context_access: both the decoder may take what it needs from the context itself, and latent forbids that",
        1 / max(usage[-1] - 1, 1e-3),
        level="note",
    )


def reply_perplexity_rising(log: RunLog, facts: RunFacts) -> Advice | None:
    """`perplexity_rising`, of the reply's part of the loss."""
    return perplexity_rising(log, facts, part="reply")
