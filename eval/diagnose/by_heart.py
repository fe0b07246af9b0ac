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
from eval.diagnose.sample import Batch
from eval.diagnose.subject import IGNORED, Subject

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
    clock = Clock(lesson.seconds)
    start, taken = _examined(twin, lesson.batches), 0
    seen, own = [start], math.nan
    with torch.enable_grad():
        while math.isfinite(seen[-1].loss) and taken < lesson.steps and not clock.over:
            batch = lesson.batches[taken % len(lesson.batches)]
            loss = _loss(twin, batch, lesson.objective)
            own = float(loss.detach())
            if not math.isfinite(own) or not loss.requires_grad:
                break
            _step(twin.model, optimizer, loss)
            schedule.step()
            taken += 1
            if taken % max(limits.LOOK_EVERY, len(lesson.batches)) == 0:
                seen.append(_examined(twin, lesson.batches))
                if seen[-1].knows_all or (taken >= limits.STEPS_TO_GIVE_UP and _stands_still(seen)):
                    break
        finished = taken >= lesson.steps or not clock.over
    seen.append(_examined(twin, lesson.batches))
    end = min(seen, key=lambda state: state.loss if math.isfinite(state.loss) else math.inf)
    return Attempt(
        lesson.rate, taken, finished, start.loss, end.loss, end.floor, _entropy(twin, lesson.batches), end.right, own
    )


@dataclass(frozen=True)
class _State:
    """How well batches are known: loss above the floor and the floor in nats, share of right answers."""

    loss: float
    floor: float
    right: float

    @property
    def knows_all(self) -> bool:
        """Whether they are memorised."""
        return self.loss < limits.MEMORISED_LOSS and self.right >= limits.MEMORISED_RIGHT


def _stands_still(seen: Sequence[_State]) -> bool:
    """Whether the last four looks at the loss saw nothing worth naming taken off it."""
    losses = [state.loss for state in seen]
    return len(losses) > 4 and min(losses[-4:]) > limits.STANDING_STILL * min(losses[:-4])


@torch.no_grad()
def _examined(twin: Subject, batches: Sequence[Batch]) -> _State:
    loss = floor = right = count = 0.0
    for batch in batches:
        logits, truth = _answers(twin, batch)
        lowest = _floor(twin, batch)
        loss += float(cross_entropy(logits, truth, reduction="sum")) - lowest * len(truth)
        floor += lowest * len(truth)
        right += float((logits.argmax(-1) == truth).sum())
        count += len(truth)
    loss = max(loss, 0.0) if math.isfinite(loss) else math.nan  # the floor is an estimate
    return _State(loss / count, floor / count, right / count)


def _answers(twin: Subject, batch: Batch) -> tuple[Tensor, Tensor]:
    """As `Subject.predictions`, with gradient where it is on: logits (N, V) float32 and true tokens (N,)."""
    logits = twin.ask(twin.model, batch).logits
    if twin.kind == "masked":
        holes = batch.labels != IGNORED
        return logits[holes].float(), batch.labels[holes]
    known = (batch.attention_mask[:, 1:] * batch.attention_mask[:, :-1]).bool()
    return logits[:, :-1][known].float(), batch.input_ids[:, 1:][known]


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
            scores, truth = _answers(twin, batch)
        finally:
            hook.remove()
        logits.append(scores.gather(1, truth[:, None]).mean())
    return float(logits[0] - logits[1]) / 2


def _loss(twin: Subject, batch: Batch, objective: str) -> Tensor:
    if objective == PLAIN:
        return cross_entropy(*_answers(twin, batch))
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
    truth = torch.cat([_truth(twin, batch) for batch in batches])
    shares = torch.bincount(truth).double() / len(truth)
    return float(-(shares[shares > 0] * shares[shares > 0].log()).sum())


def _truth(twin: Subject, batch: Batch) -> Tensor:
    if twin.kind == "masked":
        return batch.labels[batch.labels != IGNORED]
    return batch.input_ids[:, 1:][(batch.attention_mask[:, 1:] * batch.attention_mask[:, :-1]).bool()]
