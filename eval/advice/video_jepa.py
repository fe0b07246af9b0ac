"""Log patterns of a video model. Its training loss may rise on a healthy run, as more and more codes are hidden and
clips grow longer, so that what is learnt is read from the held-out loss of frames that follow ten others.
"""

import math

from eval.advice import run_log as limits
from eval.advice.learning import explosion
from eval.advice.run_log import Advice, RunFacts, RunLog

_GUESSERS = ("black", "copy_last", "mean_frame")


def frames_explode(log: RunLog, facts: RunFacts) -> Advice | None:
    """As `explosion`, with the held-out loss in the place of that of training."""
    if log.train and not math.isfinite(log.train[-1]["loss"] or 0.0):
        return explosion(log, facts)
    level = RunLog([{**row, "loss": 1.0} for row in log.train])
    held_out = log.held_out_values("future_loss")
    if len(held_out) < 2 or held_out[-1] <= limits.EXPLOSION * min(held_out):
        return explosion(level, facts)
    return Advice(
        "explosion",
        f"the held-out loss of frames that follow is {held_out[-1]:.3g}, after {min(held_out):.3g} at its lowest",
        f"lower learning_rate (now {facts.learning_rate:g}) to a third, or raise warmup_steps",
        held_out[-1] / min(held_out),
    )


def future_loss_stuck(log: RunLog, facts: RunFacts) -> Advice | None:
    """Frames are predicted no better than by the first model."""
    losses = log.held_out_values("future_loss")
    if len(losses) < 2 or log.step < facts.settled or losses[-1] < (1 - limits.LOSS_STUCK) * losses[0]:
        return None
    rate = facts.learning_rate
    better = "3e-4" if rate >= 1e-3 else "1e-3"
    return Advice(
        "loss_not_falling",
        f"the held-out loss of frames that follow is {losses[-1]:.3g} at step {log.step:,} and was {losses[0]:.3g} at "
        "first",
        f"try learning_rate {better} (now {rate:g}); with objective: joint or individual alone it need not fall, as "
        "these see what comes later, or one frame",
        losses[-1] / losses[0],
    )


def frames_no_better_than_guessed(log: RunLog, facts: RunFacts) -> Advice | None:
    """Half of the steps are done, and a picture that looks at no clip has a smaller error."""
    errors = {name: log.last_held_out(f"{name}_mse") for name in _GUESSERS}
    known = {name: error for name, error in errors.items() if error is not None}
    mse = log.last_held_out("mse")
    if mse is None or not known or log.step < max(facts.settled, limits.HALF_WAY * facts.max_steps):
        return None
    best = min(known, key=lambda name: known[name])
    if mse < known[best]:
        return None
    return Advice(
        "no_better_than_guessed",
        f"the squared error of predicted frames is {mse:.1f} at step {log.step:,}, that of "
        f"{best.replace('_', ' ')} {known[best]:.1f}",
        "it does not follow the digits yet: more steps or a higher learning_rate (1e-3); objective: future gives "
        "every step to this task",
        mse / known[best],
    )


def future_loss_rising(log: RunLog, facts: RunFacts) -> Advice | None:
    """The held-out loss has left its best behind."""
    losses = log.held_out_values("future_loss", facts.settled)
    if len(losses) < 3 or min(losses[-2:]) <= limits.FRAME_LOSS_RISE * min(losses):
        return None
    return Advice(
        "overfitting",
        f"the held-out loss of frames that follow was {min(losses):.3g} at its best and is now {losses[-1]:.3g}",
        "more num_clips (they cost nothing), flip and rotation, or dropout; the best checkpoint is kept",
        losses[-1] / min(losses),
    )
