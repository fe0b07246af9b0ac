"""Learning by heart: a copy of a model is trained on a few batches, and what came of it is measured.

The measure is the *prediction loss above its floor*: the cross entropy of what the model answers without labels, less
the smallest that its head can give, without dropout. So label smoothing and collapse protection have no part in it.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from eval.diagnose import thresholds as limits
from eval.diagnose.subject.sample import Batch
from eval.diagnose.subject.subject import Subject

OWN, PLAIN = "own", "plain"


@dataclass(frozen=True)
class Attempt:
    """What came of learning some batches by heart.

    Attributes:
        rate: the learning rate, after a short warm-up.
        steps: optimizer steps taken.
        finished: whether it ended for another reason than the clock.
        start, loss: prediction loss above its floor, before and at its lowest, in nats; NaN where it is not finite.
        floor: the smallest prediction loss that the head can give, in nats.
        entropy: of the true tokens: what a model that does not look at its input can reach, in nats.
        right: share of the answers that are the true tokens then.
        own: the loss that the model gives itself, after; NaN where it is not finite.
    """

    rate: float
    steps: int
    finished: bool
    start: float
    loss: float
    floor: float
    entropy: float
    right: float
    own: float

    @property
    def memorised(self) -> bool:
        """Loss above the floor under 0.1, and the answers are right."""
        return self.loss < limits.MEMORISED_LOSS and self.right >= limits.MEMORISED_RIGHT

    @property
    def learnt_nothing(self) -> bool:
        """Hardly better than a guess that does not look at the input; also where it is not finite."""
        return not self.loss + self.floor < limits.BROKEN_SHARE_OF_ENTROPY * self.entropy

    @property
    def evidence(self) -> dict[str, float | int | None]:
        """Figures for a finding; None where not finite."""
        names = ("rate", "steps", "start", "loss", "floor", "entropy", "right", "own")
        values = {name: getattr(self, name) for name in names}
        return {name: value if math.isfinite(value) else None for name, value in values.items()}


@dataclass(frozen=True)
class Lesson:
    """How it is tried.

    Attributes:
        batches: taken in turn.
        rate: the peak learning rate.
        steps: at most.
        seconds: at most, of the processor; so a busy machine changes no verdict, while it takes up to
            `thresholds.PATIENCE` times as long.
        objective: `own`, the loss that the model gives itself, or `plain`, the cross entropy of its answers.
    """

    batches: Sequence[Batch]
    rate: float
    steps: int
    seconds: float
    objective: str = OWN


class Clock:
    """Seconds of the processor that may be used; on a busy machine they last `PATIENCE` times as long at most."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._busy, self._began = time.process_time(), time.monotonic()

    @property
    def left(self) -> float:
        """Seconds that are left."""
        busy, gone = time.process_time() - self._busy, time.monotonic() - self._began
        return self.seconds - max(busy, gone / limits.PATIENCE)

    @property
    def over(self) -> bool:
        """Whether none is left."""
        return self.left <= 0


def learn(subject: Subject, lesson: Lesson) -> Attempt:
    """Train a copy on the batches, with AdamW and gradients cut to a norm of 1, until they are memorised."""
    twin = replace(subject, model=_trainable(subject))
    optimizer = _adamw(twin.model, lesson.rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / limits.WARM_UP_STEPS))
    clock, course, taken, own = Clock(lesson.seconds), _Course(twin, lesson.batches), 0, math.nan
    with torch.enable_grad():
        while course.is_finite and taken < lesson.steps and not clock.over:
            loss = _loss(twin, lesson.batches[taken % len(lesson.batches)], lesson.objective)
            own = float(loss.detach())
            if not math.isfinite(own) or not loss.requires_grad:
                break
            _step(twin.model, optimizer, loss)
            schedule.step()
            taken += 1
            if taken % max(limits.LOOK_EVERY, len(lesson.batches)) == 0:
                course.look()
                if course.knows_all or (taken >= limits.STEPS_TO_GIVE_UP and course.stands_still):
                    break
        finished = taken >= lesson.steps or not clock.over
    course.look()
    return Attempt(
        rate=lesson.rate,
        steps=taken,
        finished=finished,
        start=course.above_floor(course.losses[0]),
        loss=course.above_floor(course.losses[course.best]),
        floor=course.floor,
        entropy=_entropy(twin, lesson.batches),
        right=course.right[course.best],
        own=own,
    )


class _Course:
    """How well the batches were known, look by look; the first look is taken at once.

    Attributes:
        losses: cross entropies in nats.
        right: shares of right answers.
        floor: the lowest that the head was found to have; a scale that is learnt lowers it.
    """

    def __init__(self, twin: Subject, batches: Sequence[Batch]) -> None:
        self._twin, self._batches = twin, batches
        self.losses: list[float] = []
        self.right: list[float] = []
        self.floor = math.inf
        self.look()

    @torch.no_grad()
    def look(self) -> None:
        """Ask the model as it stands."""
        loss = right = count = 0.0
        for batch in self._batches:
            logits, truth = self._twin.answers(self._twin.model, batch)
            loss += float(cross_entropy(logits, truth, reduction="sum"))
            right += float((logits.argmax(-1) == truth).sum())
            count += len(truth)
        self.losses.append(loss / count)
        self.right.append(right / count)
        self.floor = min(self.floor, _floor(self._twin, self._batches[0]))

    @property
    def is_finite(self) -> bool:
        """Whether the last loss was."""
        return math.isfinite(self.losses[-1])

    @property
    def best(self) -> int:
        """The look at which the loss was lowest."""
        finite = [loss if math.isfinite(loss) else math.inf for loss in self.losses]
        return finite.index(min(finite))

    @property
    def knows_all(self) -> bool:
        """Whether they are memorised now."""
        return self.above_floor(self.losses[-1]) < limits.MEMORISED_LOSS and self.right[-1] >= limits.MEMORISED_RIGHT

    @property
    def stands_still(self) -> bool:
        """Whether the last four looks at the loss saw nothing worth naming taken off it."""
        return len(self.losses) > 4 and min(self.losses[-4:]) > limits.STANDING_STILL * min(self.losses[:-4])

    def above_floor(self, loss: float) -> float:
        """Not below 0, as the floor is an estimate; NaN where it is not finite."""
        return max(loss - self.floor, 0.0) if math.isfinite(loss) else math.nan


def _floor(twin: Subject, batch: Batch) -> float:
    """The smallest cross entropy that the head can give, in nats; 0 where it scores by more than directions.

    Cosines at a scale s over V tokens have about ln(1 + (V - 1) exp(-s)). The scale is half of what turning the
    prediction from the true token's row to its opposite does to that token's logit; where the prediction's length is
    part of it, a long one has no floor.
    """
    latent = twin.latent
    if latent is None or not latent.uses_cosine or not isinstance(latent.predictor, nn.Module):
        return 0.0
    wanted = latent.table.float()[batch.labels.clamp(min=0)]
    scale = max(_scale(twin, batch, latent.predictor, length * wanted) for length in (1.0, limits.LONG_PREDICTION))
    return math.log1p((twin.vocab_size - 1) * math.exp(-scale))


def _scale(twin: Subject, batch: Batch, predictor: nn.Module, wanted: Tensor) -> float:
    """Mean over the holes; `wanted` (rows, length, width) takes the place of the predictions."""
    logits = []
    for sign in (1.0, -1.0):
        hook = predictor.register_forward_hook(lambda module, inputs, output, by=sign: by * wanted)
        try:
            scores, truth = twin.answers(twin.model, batch)
        finally:
            hook.remove()
        logits.append(scores.gather(1, truth[:, None]).mean())
    return float(logits[0] - logits[1]) / 2


def _loss(twin: Subject, batch: Batch, objective: str) -> Tensor:
    if objective == PLAIN:
        return cross_entropy(*twin.answers(twin.model, batch))
    return twin.own_loss(twin.model, twin.learning_inputs(batch))


def _adamw(model: PreTrainedModel, rate: float) -> torch.optim.AdamW:
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(learning, lr=rate, weight_decay=0.0, fused=model.device.type in ("cpu", "cuda"))


def _step(model: PreTrainedModel, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


def _trainable(subject: Subject) -> PreTrainedModel:
    """A copy; all of it learns where the model at hand is frozen as a whole."""
    twin = subject.copy()
    if not any(parameter.requires_grad for parameter in twin.parameters()):
        twin.requires_grad_(True)
    return twin


def _entropy(twin: Subject, batches: Sequence[Batch]) -> float:
    """Entropy of the true tokens of all batches in nats."""
    truth = torch.cat([twin.places(batch)[1] for batch in batches])
    shares = torch.bincount(truth).double() / len(truth)
    return float(-(shares[shares > 0] * shares[shares > 0].log()).sum())
