"""What comes back from the loss: gradients by parameter, held against what the loss really does when weights move."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from eval.diagnose import thresholds as limit
from eval.diagnose.probes.anatomy import (
    Named,
    blocks,
    first_tensor,
    gradients_of,
    learning_batch,
    remembered,
    share_of_zeros,
    trainable,
    watching,
)
from eval.diagnose.subject.subject import Subject

SHAKEN = 0.1  # of a weight's own size; of new weights' usual size where it is zero
NEW_WEIGHTS = 0.02
STEP = 0.01  # of the weights, at most: for a straight line
WANTED_CHANGE = 0.003  # nats, at most: far above rounding


@dataclass(frozen=True)
class Backward:
    """One pass back, in evaluation mode.

    Attributes:
        inputs: that the loss was asked for.
        loss: in nats.
        noise: by which the loss differs when it is asked again.
        parameters: what could get a gradient.
        gradients: of those that got one, even zero.
    """

    inputs: dict[str, Tensor]
    loss: float
    noise: float
    parameters: dict[str, nn.Parameter]
    gradients: dict[str, Tensor]

    @property
    def finite(self) -> bool:
        """Whether loss and gradients are numbers."""
        return math.isfinite(self.loss) and all(bool(g.isfinite().all()) for g in self.gradients.values())

    def norm(self, names: list[str]) -> float:
        """Length of the gradients of these parameters together."""
        found = [self.gradients[name].double().norm() for name in names if name in self.gradients]
        return float(torch.stack(found).norm()) if found else 0.0

    def per_weight(self, names: list[str]) -> float:
        """Root mean square of the gradients of these parameters."""
        return self.norm(names) / math.sqrt(max(1, sum(self.parameters[name].numel() for name in names)))

    def without(self) -> list[str]:
        """Matrices that got no gradient, or one of zeros."""
        return [
            name
            for name, parameter in self.parameters.items()
            if parameter.ndim > 1 and (name not in self.gradients or not self.gradients[name].any())
        ]


@dataclass(frozen=True)
class Slope:
    """How steep the loss is along the gradient of some parameters, by the gradient and by trying.

    Attributes:
        said: length of the gradient.
        tried: by the losses a small step ahead and a small step back.
        error: of `tried`, by other steps and by the noise of the loss.
    """

    said: float
    tried: float
    error: float

    @property
    def differs(self) -> bool:
        """Whether the two disagree, where trying is exact enough to tell."""
        sharp = self.error < limit.SLOPE_DIFFERS / 5 * abs(self.said)
        return sharp and abs(self.said - self.tried) > limit.SLOPE_DIFFERS * abs(self.said)


def look_back(subject: Subject) -> Backward:
    """Gradients of the model's own loss on real text."""
    inputs, parameters = learning_batch(subject), trainable(subject)
    with torch.enable_grad():
        loss = subject.own_loss(subject.model, inputs)
    noise = abs(_loss(subject, inputs) - loss.item())
    return Backward(inputs, loss.item(), noise, parameters, gradients_of(loss, parameters))


def parts_of(subject: Subject, parameters: dict[str, nn.Parameter]) -> dict[str, list[str]]:
    """Names of the parameters of each block, and of what stands outside of them by its module."""
    found: dict[str, list[str]] = {name: [] for name in blocks(subject.model)}
    for name in parameters:
        inside = next((block for block in found if name.startswith(f"{block}.")), name.rpartition(".")[0])
        found.setdefault(inside, []).append(name)
    return {part: names for part, names in found.items() if names}


@torch.no_grad()
def loss_moves(subject: Subject, seen: Backward, names: list[str]) -> float:
    """By how much the loss changes when these parameters are shaken."""
    parameters = [seen.parameters[name] for name in names]
    put_back = remembered(parameters)
    generator = torch.Generator().manual_seed(0)
    try:
        for parameter in parameters:
            size = SHAKEN * float(parameter.float().square().mean().sqrt()) or NEW_WEIGHTS
            shake = torch.randn(parameter.shape, generator=generator) * size
            parameter += shake.to(parameter)
        return abs(_loss(subject, seen.inputs) - seen.loss)
    finally:
        put_back()


def slope(subject: Subject, seen: Backward, names: list[str]) -> Slope | None:
    """Steepness along the gradient of these parameters; None where it is too flat to be tried."""
    parameters = {name: seen.parameters[name] for name in names if name in seen.gradients}
    said = seen.norm(list(parameters))
    weight = float(torch.stack([p.detach().double().norm() for p in parameters.values()]).norm()) if parameters else 0
    if said == 0 or weight == 0:
        return None
    step = min(WANTED_CHANGE / said, STEP * weight)
    if step * said < 100 * max(seen.noise, 1e-7 * max(1.0, abs(seen.loss))):
        return None
    found = _measured(subject, seen, parameters, said, (step, step / 8))
    if not found.differs:
        return found
    # Weights that saturate what follows make the loss bend within the smallest of steps.
    return _measured(subject, seen, parameters, said, (step, step / 8, step / 64))


def _measured(
    subject: Subject, seen: Backward, parameters: dict[str, nn.Parameter], said: float, steps: tuple[float, ...]
) -> Slope:
    """The slope by the smallest of some steps, and by how much the others differ from it."""
    put_back = remembered(list(parameters.values()))
    tried = []
    try:
        for step in steps:
            ends = []
            for sign in (1, -1):
                put_back()
                with torch.no_grad():
                    for name, parameter in parameters.items():
                        parameter += seen.gradients[name].to(parameter.dtype) * (sign * step / said)
                ends.append(_loss(subject, seen.inputs))
            tried.append((ends[0] - ends[1]) / (2 * step))
    finally:
        put_back()
    rounding = max(seen.noise, 1e-7 * max(1.0, abs(seen.loss))) / steps[-1]
    return Slope(said, tried[-1], max(abs(one - tried[-1]) for one in tried) + rounding)


@dataclass
class Block:
    """A repeated layer, as it is seen in one pass.

    Attributes:
        change: length of output minus input over that of the input; None where their shapes differ.
        zeros: share of its matrices' entries that are zero.
        constant: whether its output is the same at all positions though its input is not.
    """

    change: float | None = None
    zeros: float = 0.0
    constant: bool = False

    @property
    def idle(self) -> str:
        """Why it does nothing; empty where it does something."""
        if self.zeros > limit.LAYER_IS_ZERO:
            return "all its weights are zero"
        if self.change is not None and self.change < limit.LAYER_DOES_NOTHING:
            return "its output is its input"
        return "its output is the same for every token" if self.constant else ""


@torch.no_grad()
def look_at_blocks(subject: Subject) -> dict[str, Block]:
    """Every block that runs."""
    modules: Named = blocks(subject.model)
    found: dict[str, Block] = {}

    def see(name: str, entered: Tensor | None, output: Any) -> None:
        left = first_tensor(output)
        if entered is None or left is None:
            return
        change = None
        if left.shape == entered.shape and entered.any():
            change = float((left - entered).double().norm() / entered.double().norm())
        constant = _is_constant(left) and not _is_constant(entered)
        found[name] = Block(change, share_of_zeros(modules[name]), constant)

    with watching(modules, see):
        subject.ask(subject.model, subject.batch(max(2, subject.limits.rows // 4), subject.limits.length))
    return found


def _is_constant(states: Tensor) -> bool:
    flat = states.detach().double().flatten(0, -2)
    return bool((flat - flat.mean(0)).norm() <= limit.LAYER_DOES_NOTHING * flat.norm())


@torch.no_grad()
def _loss(subject: Subject, inputs: dict[str, Tensor]) -> float:
    return subject.own_loss(subject.model, inputs).item()
