"""X3, gradient flow: what every part gets back from the loss, the first NaN, and the size of a step."""

import math
import statistics
from typing import Any

import torch
from torch import Tensor

from eval.diagnose import thresholds as limit
from eval.diagnose.checks.check import ANY, check
from eval.diagnose.probes.anatomy import first_tensor, gradients_of, learning_batch, trained_copy, untouched, watching
from eval.diagnose.probes.backward import Backward, look_at_blocks, look_back, loss_moves, parts_of, slope
from eval.diagnose.report.report import Finding, Rule
from eval.diagnose.subject.subject import Subject

SHOWN = 5
MOST_SLOPES = 12
USUAL_RATE = 1e-3
ADAM_EPSILON = 1e-8
_FLOW = Rule(
    "gradient.flow",
    "every layer changes what it reads, every matrix gets the gradient that the loss really has, and no layer's "
    f"gradient per weight is more than {limit.GRADIENT_RATIO_NOTE:g} times another's",
)

# ---- flow ----


@check(_FLOW.check, _FLOW.threshold, kinds=ANY)
def flow(subject: Subject, rule: Rule) -> list[Finding]:
    """Layers that do nothing, parts that the gradient does not reach or reaches wrongly, and its size by layer."""
    seen = look_back(subject)
    if not seen.parameters:
        return [_FLOW.noted({"trainable": 0}, "every parameter is frozen", "set requires_grad to train it")]
    if not seen.finite:
        return [_FLOW.noted({"finite": False}, "the loss or a gradient is NaN or infinite", "see gradient.non_finite")]
    parts = parts_of(subject, seen.parameters)
    subject.figures["gradient_norms"] = [[part, seen.norm(names)] for part, names in parts.items()]
    found = [*_idle_layers(subject), *_cut_off(subject, seen, parts), *_sizes(seen, parts)]
    evidence = {"loss": seen.loss, "gradient_norm": seen.norm(list(seen.parameters)), "parts": len(parts)}
    return found or [rule.passed(evidence)]


def _idle_layers(subject: Subject) -> list[Finding]:
    """Layers that do nothing, in a model in which others do something or that has been trained."""
    seen = look_at_blocks(subject)
    idle = {name: block.idle for name, block in seen.items() if block.idle}
    starts_so = len(idle) == len(seen) and untouched(subject) is not False
    if not idle or starts_so:
        return []
    evidence = {
        "idle": dict(list(idle.items())[:SHOWN]),
        "num_idle": len(idle),
        "layers": len(seen),
        "changes": {name: block.change for name, block in list(seen.items())[:SHOWN]},
    }
    layers, why = ", ".join(list(idle)[:SHOWN]), next(iter(idle.values()))
    return [
        _FLOW.failed(
            evidence,
            f"{layers}: {why}, so the layer does nothing: its weights were zeroed or not saved, its branches are not "
            "added, or weights that exploded saturate it",
            "load its weights again, or start the layer anew with a lower learning rate; new layers that begin at "
            "zero on purpose need training",
        )
    ]


def _cut_off(subject: Subject, seen: Backward, parts: dict[str, list[str]]) -> list[Finding]:
    """Matrices without gradient on which the loss hangs; ones on which it does not; gradients that are wrong."""
    idle = {name for name, block in look_at_blocks(subject).items() if block.idle}
    without = {name for name in seen.without() if not _is_formula(seen.parameters[name])}
    lacking = {part: [name for name in names if name in without] for part, names in parts.items()}
    lacking = {part: names for part, names in lacking.items() if names}
    moves = {part: loss_moves(subject, seen, names) for part, names in lacking.items()}
    enough = limit.LOSS_MOVES * max(1.0, abs(seen.loss)) + 10 * seen.noise
    detached = {part: lacking[part] for part, moved in moves.items() if moved > enough}
    if detached:
        return [_detached(detached, moves, subject)]
    waiting = [name for part, names in lacking.items() if part not in idle for name in names]
    return [*_never_reached(subject, seen, waiting), *_wrong_slopes(subject, seen, parts)]


def _is_formula(table: Tensor) -> bool:
    """Whether all rows are of one length up to rounding, as those of sinusoids are: nobody means to train them."""
    squares = table.detach().double().square().sum(-1)
    return squares.numel() > 1 and bool(squares.std() < limit.SAME_LENGTHS * squares.mean())


def _detached(detached: dict[str, list[str]], moves: dict[str, float], subject: Subject) -> Finding:
    part, names = next(iter(detached.items()))
    evidence = {
        "detached": {part: names[:SHOWN] for part, names in list(detached.items())[:SHOWN]},
        "loss_moves_by": {part: moves[part] for part in list(detached)[:SHOWN]},
    }
    return _FLOW.failed(
        evidence,
        f"the loss hangs on {names[0]}{' and others' if len(names) > 1 else ''} in {part}, and no gradient reaches "
        "it: a branch is detached (.detach(), torch.no_grad(), .data, .item()) on the way to the loss",
        "take the detach out; where a stop is wanted, set requires_grad to False, so that it can be seen",
    )


def _never_reached(subject: Subject, seen: Backward, waiting: list[str]) -> list[Finding]:
    """A note on matrices that even some steps of training leave without gradient."""
    if not waiting:
        return []
    copy, _ = trained_copy(subject, seen.inputs, limit.STEPS_TO_COME_ALIVE, limit.COME_ALIVE_RATE)
    later = dict(copy.named_parameters())
    same = [name for name in waiting if torch.equal(later[name].detach(), seen.parameters[name].detach().float())]
    if not same:
        return []
    return [
        _FLOW.noted(
            {"unused": same[:SHOWN], "num_unused": len(same), "steps": limit.STEPS_TO_COME_ALIVE},
            f"{same[0]}{' and others' if len(same) > 1 else ''} never got a gradient, and the loss does not hang on "
            "it: a head or an expert that this loss does not use, or a part behind one that is zero",
            "leave it, if it serves another task; else look at what it is connected to",
        )
    ]


def _wrong_slopes(subject: Subject, seen: Backward, parts: dict[str, list[str]]) -> list[Finding]:
    """Parts along whose gradient the loss does not fall as the gradient says."""
    if subject.latent is not None or subject.average is not None:  # its targets are stopped on purpose
        return []
    with_matrices = [part for part, names in parts.items() if any(seen.parameters[n].ndim > 1 for n in names)]
    taken = with_matrices[:: -(-len(with_matrices) // MOST_SLOPES)] if with_matrices else []
    slopes = {part: slope(subject, seen, parts[part]) for part in taken}
    wrong = {part: one.tried / one.said for part, one in slopes.items() if one is not None and one.differs}
    if not wrong:
        return []
    return [
        _FLOW.failed(
            {"true_slope_over_gradient": dict(list(wrong.items())[:SHOWN]), "parts_tried": len(taken)},
            f"in {next(iter(wrong))} the loss falls {next(iter(wrong.values())):.2f} times as steeply as the gradient "
            "says: something between it and the loss is detached, or has a backward pass of its own that is wrong",
            "look for .detach(), torch.no_grad() and custom autograd functions above this part",
        )
    ]


def _sizes(seen: Backward, parts: dict[str, list[str]]) -> list[Finding]:
    """Explosion or vanishing over the layers, and of all together."""
    named = {part: seen.per_weight(names) for part, names in parts.items()}
    named = {part: size for part, size in named.items() if size > 0 and len(parts[part]) > 2}
    total = seen.norm(list(seen.parameters))
    ratio = max(named.values()) / min(named.values()) if named else 1.0
    evidence = {"ratio": ratio, "gradient_norm": total, "per_weight": dict(list(named.items())[: 2 * SHOWN])}
    if ratio <= limit.GRADIENT_RATIO_NOTE and total <= limit.GRADIENT_NORM_NOTE:
        return []
    if ratio > limit.GRADIENT_RATIO_NOTE:
        least = min(named, key=lambda part: named[part])
        cause = f"the gradient of {least} is {ratio:.1g} times smaller than that of another layer: it vanishes there"
    else:
        cause = f"all gradients together have a length of {total:,.0f}: they explode, or the loss is far from learnt"
    remedy = "use residual branches and a norm before each; start with smaller weights; clip gradients at 1"
    if ratio > limit.GRADIENT_RATIO_FAIL:
        return [_FLOW.failed(evidence, cause, remedy)]
    return [_FLOW.noted(evidence, cause, remedy)]


# ---- numbers that are none ----


@check("gradient.non_finite", "all parameters, outputs, losses and gradients are finite numbers", kinds=ANY)
def non_finite(subject: Subject, rule: Rule) -> Finding:
    """Where the first NaN or infinity stands: in a parameter, a module's output, the loss or a gradient."""
    held = {name: _bad(parameter) for name, parameter in subject.model.named_parameters()}
    held = {name: number for name, number in held.items() if number}
    inputs = learning_batch(subject)
    ran: list[str] = []

    def see(name: str, entered: Tensor | None, output: Any) -> None:
        left = first_tensor(output)
        # -inf rules a token out, and is meant.
        if left is not None and (torch.isnan(left) | torch.isposinf(left)).any():
            ran.append(name or "the model itself")

    with torch.enable_grad(), watching(dict(subject.model.named_modules()), see):
        loss = subject.own_loss(subject.model, inputs)
    parameters = {name: p for name, p in subject.model.named_parameters() if p.requires_grad}
    gradients = [name for name, gradient in gradients_of(loss, parameters).items() if _bad(gradient)]
    loss_is_finite = bool(loss.isfinite())
    evidence = {
        "parameters": dict(list(held.items())[:SHOWN]),
        "first_module": ran[0] if ran else None,
        "loss_is_finite": loss_is_finite,
        "gradients": len(gradients),
    }
    if not held and not ran and loss_is_finite and not gradients:
        return rule.passed(evidence)
    return rule.failed(evidence, *_where(held, ran, loss_is_finite, gradients))


def _where(held: dict[str, int], ran: list[str], loss_is_finite: bool, gradients: list[str]) -> tuple[str, str]:
    """Cause and remedy by the first place."""
    if held:
        name, number = next(iter(held.items()))
        seen = f"; the first output with one is that of {ran[0]}" if ran else ""
        cause = f"{name} holds {number} entries that are NaN or infinite{seen}"
        return cause, "open an earlier checkpoint; train with gradient clipping, and stop at the first such loss"
    if ran:
        cause = f"the weights are numbers, and the output of {ran[0]} is not: an overflow, a division by 0, a root or "
        return f"{cause}logarithm of 0 in it", "look into its forward; add an epsilon, or compute it in float32"
    if not loss_is_finite:
        cause = "the logits are numbers, and the loss is not: a batch without labels, or a wrong mask in the loss"
        return cause, "divide by the number of labels, at least 1; look at how the loss is made"
    cause = f"the loss is a number, and the gradient of {gradients[0]} is not: a root, norm or logarithm at 0"
    return cause, "add an epsilon inside the root; torch.autograd.set_detect_anomaly(True) names the operation"


def _bad(values: Tensor) -> int:
    return int((~torch.isfinite(values.detach())).sum())


# ---- the size of a step ----


@check(
    "gradient.update_ratio",
    f"a step of {limit.UPDATE_RATIO_TOO_SMALL:g} to {limit.UPDATE_RATIO_FAIL:g} of the weights' size, that brings the "
    "loss of its own batch down",
    kinds=ANY,
)
def update_ratio(subject: Subject, rule: Rule) -> Finding:
    """An AdamW step at the rate of the training against the weights, and what some such steps do to the loss."""
    rate = _rate(subject)
    seen = look_back(subject)
    if not seen.finite:
        return rule.noted({"finite": False}, "a gradient is no number", "see gradient.non_finite")
    ratios = _ratios(seen, USUAL_RATE if rate is None else rate)
    subject.figures["update_ratios"] = [[name, ratio] for name, ratio in ratios.items()]
    middle = statistics.median(ratios.values()) if ratios else 0.0
    evidence = {"learning_rate": rate, "median_update_over_weight": middle, "loss": seen.loss}
    if rate is None:
        evidence["judged"] = f"no: the rate of the training is not known; the ratio is that of {USUAL_RATE:g}"
        return rule.passed(evidence)
    if rate == 0:
        cause = "the learning rate is 0: no step changes a weight"
        return rule.failed(evidence, cause, "set learning_rate (1e-3 or 3e-4), look at the schedule")
    losses = {share: _after_steps(subject, seen, share * rate) for share in (1.0, limit.SMALLER_RATE)}
    evidence |= {"loss_after_steps": losses[1.0], "loss_after_smaller_steps": losses[limit.SMALLER_RATE]}
    return _judge_step(rule, rate, middle, evidence)


def _judge_step(rule: Rule, rate: float, middle: float, evidence: dict[str, Any]) -> Finding:
    start, after, smaller = (evidence[n] for n in ("loss", "loss_after_steps", "loss_after_smaller_steps"))
    thrown = after is None or (after > start and smaller is not None and smaller < start)
    if middle > limit.UPDATE_RATIO_FAIL or thrown:
        cause = (
            f"a step at {rate:g} is {middle:.2g} of the weights, and {limit.UPDATE_STEPS} of them bring the loss of "
            f"their own batch from {start:.2f} to {'NaN' if after is None else f'{after:.2f}'}: the rate is too large"
        )
        remedy = f"take about {rate * limit.SMALLER_RATE:.1g} to {rate / 10:.1g}, with a warm-up"
        return rule.failed(evidence, cause, remedy)
    if middle < limit.UPDATE_RATIO_TOO_SMALL:
        cause = f"a step at {rate:g} changes the weights by {middle:.1g} of their size: nothing is learnt in any time"
        return rule.noted(evidence, cause, "raise learning_rate (1e-3 or 3e-4)")
    return rule.passed(evidence)


@check("gradient.closed_gates", "no gate of a trained model still stands at the zero that it began at", kinds=ANY)
def closed_gates(subject: Subject, rule: Rule) -> Finding | list[Finding]:
    """Parts behind a gate that training never opened: they cost time and say nothing."""
    gates = {name: p for name, p in subject.model.named_parameters() if name.endswith("gate") and p.ndim < 2}
    if not gates or untouched(subject) is not False:
        return []
    closed = [name for name, gate in gates.items() if not gate.any()]
    evidence = {"gates": len(gates), "closed": len(closed), "such_as": closed[:3]}
    if not closed:
        return rule.passed(evidence)
    return rule.noted(
        evidence,
        "some gates never opened: no optimizer holds them, their rate is too small, or the run was short",
        "see that every parameter is in a group of the optimizer; give new parts a rate of their own (new_part_rate), "
        "or train the stage before on",
    )


def _rate(subject: Subject) -> float | None:
    """The rate of the training; None where nobody tells."""
    if subject.trainer is not None:
        return subject.trainer.args.learning_rate
    return None if subject.record is None else subject.record.adam_rate


def _ratios(seen: Backward, rate: float) -> dict[str, float]:
    """Length of the first AdamW step over that of the weights, by matrix (Kingma & Ba, 2015, algorithm 1, t = 1)."""
    found = {}
    for name, gradient in seen.gradients.items():
        weight = seen.parameters[name].detach().double().norm()
        if gradient.ndim > 1 and weight > 0 and gradient.any():
            step = gradient.double() / (gradient.double().abs() + ADAM_EPSILON)
            found[name] = float(rate * step.norm() / weight)
    return found


def _after_steps(subject: Subject, seen: Backward, rate: float) -> float | None:
    """The lowest loss of a batch within some steps on it; None where it is no number."""
    _, losses = trained_copy(subject, seen.inputs, subject.update_steps, rate)
    lowest = min(losses[1:])
    return lowest if all(map(math.isfinite, losses)) else None


CHECKS = (non_finite, flow, update_ratio, closed_gates)
