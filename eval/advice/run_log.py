"""What log patterns read: the rows of a run's log, the facts of its recipe, and the limits in one place.

A log row is a row of `log.jsonl`: training rows hold `loss` and its parts as means since the row before, held-out rows
hold figures named `eval_...`. `None` stands where a figure made no sense.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from eval.rules import chance_above_negatives

# ---- limits, each with its reason ----

SETTLING_STEPS = 200  # below this nearly every run looks bad: the first thing learnt is how frequent words are
WINDOW = 5  # training rows in "lately": one row of a small batch is noise
MIN_ROWS = 6  # rows that a trend needs: two thirds of three rows and of two say nothing
CHANCE_FACTOR = (
    2.0  # a model that learns is above twice chance within a few hundred steps (prototype: 0.5 at step 100)
)
LOW_COSINE = 0.1  # random directions give 0 +- 0.09 at a width of 128
COSINE_RISE = 0.01  # less over the run so far is the noise of a row
NARROW_SPREAD = 0.5  # of 1 / sqrt(width), the spread of random directions: all tokens look alike
LOSS_FALL = 0.05  # share of the loss; a fall that anybody would call one
ACCURACY_RISE = 0.02  # share of the accuracy; less is the noise of a row of 20,000 holes
ACCURACY_FULL = 0.9  # nothing left to gain
GOOD_ACC_NEG = 0.5  # 32 uniform negatives: the rank of 170 of 8,000 already gives this
MRR_RISE = 1.1  # since the held-out row before; a run that is learning gains more in its first thousand steps
POOR_MEDIAN_RANK = 20.0  # where no unigram baseline is known
DECAYED = 0.5  # of the peak rate
DECAYED_SHARE = 0.15  # of all steps, after the rate has decayed: earlier a flat stretch may be chance
FALL_BEFORE = 0.03  # the loss must have been falling before the decay, or the schedule is not to blame
FALL_LEFT = 0.25  # of that fall; a decaying rate normally makes the loss fall faster
DOMINATING = 0.8  # of the weighted loss, for a part beside the ranking, which alone decides answers
LEFT_TO_RANK = 0.1  # nats; below it the ranking is learnt, and its small share no fault
LOSS_STUCK = 0.02  # share of the first loss: weights that learn anything give more
NOISY = 0.05  # standard deviation between rows; it hides the gain of a hundred steps
GAP = 0.1  # training accuracy above held-out top-1; 10 % of the holes keep their token, which is worth a few points
GAP_GROWTH = 0.05  # over three held-out rows
KEPT_SHARE = 0.5  # of the rows that were read
FEW_SEQUENCES = 1000  # a million parameters learn so many by heart, whatever the settings
REPEATED_SHARE = 0.5  # of all blanks get one answer; the most frequent word is 5 to 8 % of them
EXPLOSION = 1.5  # times the lowest loss so far
GRADIENT_EXPLOSION = 50.0  # times the median gradient norm so far
COLLAPSED_COSINE = 0.95  # between the vectors of different blanks: they point one way
COLLAPSED_RANK = 0.03  # of the width: 4 of 128 directions
RANK_LEFT = 0.33  # of the highest effective rank so far
LATENT_USED = 1.01  # usage ratio: two evaluations of a decoder that ignores its latents differ by less
STARVED = 1.2  # times the share of the rest: a part that was the most responsible in 1 of 100 choices is above it
PERPLEXITY_RISE = 1.02  # over the best held-out one; evaluations of the same text differ by less on a healthy run
FRAME_LOSS_RISE = 1.02  # of the held-out loss of frames over its best; the same clips are scored every time
HALF_WAY = 0.5  # of all steps, from which frames must be predicted better than by guessers
GREEDY_LOOP = 0.8  # of the words in samples; greedy text of small models loops, sampled text must not


@dataclass(frozen=True)
class Advice:
    """One finding: what was seen, in figures, and what to do.

    Attributes:
        pattern: its name, for programs.
        badness: a positive number that grows as it gets worse; compared with itself only.
        level: "warning", or "note" where nothing is wrong.
    """

    pattern: str
    evidence: str
    remedy: str
    badness: float
    level: str = "warning"


@dataclass(frozen=True)
class RunFacts:
    """What the patterns know of a run beside its log.

    Attributes:
        family: of the model, which decides the patterns.
        rows_per_step: rows of one optimizer step, over all processes and accumulation.
        hidden_size: of all latents together, where a model has several.
        holes_per_row: mean number of holes.
        weights: of the parts of the loss.
        table_head: whether answers are cosines with a table (not a softmax head).
        rows_read, rows_kept: of the training part, before and after filters and rejects; 0 where unknown.
        stage: of a family that grows by stages.
        from_nothing: not started from a checkpoint.
        credit_rest: share of its update that a part gets which is never the most responsible; None without credit.
    """

    family: str = "text_jepa"
    max_steps: int = 2000
    warmup_steps: int = 100
    learning_rate: float = 1e-3
    logging_steps: int = 50
    rows_per_step: int = 64
    holes_per_row: float = 1.0
    num_negatives: int = 32
    hidden_size: int = 128
    vocab_size: int = 8000
    temperature: float = 0.1
    table_head: bool = True
    weights: Mapping[str, float] = field(default_factory=lambda: {"ranking": 1.0, "auxiliary": 0.1})
    rows_read: int = 0
    rows_kept: int = 0
    stage: int | None = None
    from_nothing: bool = True
    credit_rest: float | None = None

    @property
    def settled(self) -> int:
        """The step from which the log says something about learning."""
        return max(SETTLING_STEPS, 2 * self.warmup_steps)

    @property
    def chance(self) -> float:
        """`acc_neg` of a model that knows nothing."""
        return chance_above_negatives(self.num_negatives)


class RunLog:
    """Rows in order of their steps; `samples` are the newest sample lines, where a run makes some."""

    def __init__(self, rows: Sequence[Mapping[str, Any]], samples: Sequence[str] = ()) -> None:
        self.train = [row for row in rows if "loss" in row]
        self.held_out = [row for row in rows if any(name.startswith("eval_") for name in row)]
        self.samples = list(samples)

    @property
    def step(self) -> int:
        """Of the newest row; 0 without one."""
        return max((row["step"] for row in (*self.train[-1:], *self.held_out[-1:])), default=0)

    def values(self, name: str, start: int = 0, end: float = math.inf) -> list[float]:
        """A training figure at all rows of steps in [start, end] that have it."""
        return [float(row[name]) for row in self.train if start <= row["step"] <= end and _is_number(row.get(name))]

    def lately(self, name: str) -> float | None:
        """Mean of a training figure over the last few rows, or None where fewer have it."""
        values = self.values(name)[-WINDOW:]
        return sum(values) / WINDOW if len(values) == WINDOW else None

    def held_out_values(self, name: str, start: int = 0) -> list[float]:
        """A held-out figure (`mrr` for `eval_mrr`) at all rows from step `start` that have it."""
        rows = [row for row in self.held_out if row["step"] >= start]
        return [float(row[f"eval_{name}"]) for row in rows if _is_number(row.get(f"eval_{name}"))]

    def last_held_out(self, name: str, start: int = 0) -> float | None:
        """The newest of `held_out_values`, or None."""
        return next(reversed(self.held_out_values(name, start)), None)


def trend(values: Sequence[float]) -> tuple[float, float] | None:
    """Means of the first and of the last third, or None for fewer than `MIN_ROWS` values."""
    if len(values) < MIN_ROWS:
        return None
    third = len(values) // 3
    return sum(values[:third]) / third, sum(values[-third:]) / third


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
