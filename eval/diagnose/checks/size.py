"""X2, initialisation and size: the loss against ln V, dead and symmetric units, parameters against data."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from eval.diagnose import thresholds as limit
from eval.diagnose.checks.check import ANY, check
from eval.diagnose.probes.anatomy import (
    above_random,
    blocks,
    gradients_of,
    in_rows,
    learning_batch,
    matrices,
    matrix_layers,
    random_tokens,
    share_of_zeros,
    trained_copy,
    untouched,
    watching,
)
from eval.diagnose.probes.predictions import look_at_predictions
from eval.diagnose.report.report import FAIL, NOTE, Finding, Rule
from eval.diagnose.subject.subject import Subject
from eval.rules import Verdict, judge_generator_size, judge_text_size, readable

SHOWN = 5
_CUT, _NARROW = 512, 16  # rows and columns that are enough to tell, and too few to
COUNTED_CHARACTERS = 300_000
# A part of the predictions: this asks for the loss alone.
SHARE = 0.25

# ---- the loss before training ----


@check(
    "size.loss_at_start",
    f"before training a loss at most {limit.LOSS_ABOVE_LN_V_AT_START:g} nats above ln V",
    kinds=ANY,
)
def loss_at_start(subject: Subject, rule: Rule) -> Finding:
    """An untrained model guesses among V tokens: its loss is ln V, and its logits are nearly even."""
    seen = look_at_predictions(subject, SHARE)
    if seen is None:
        return rule.noted(
            {"finite": False},
            "some logits are NaN or infinite, so there is no loss",
            "see gradient.non_finite, which says where they begin",
        )
    above = seen.loss - seen.ln_v
    starts = bool(untouched(subject))
    evidence = {
        "loss": seen.loss,
        "ln_v": seen.ln_v,
        "logit_spread": seen.spread,
        "spread_costs": seen.spread**2 / 2,
        "untrained": starts,
    }
    if not starts or above <= limit.LOSS_ABOVE_LN_V_AT_START:
        return rule.passed(evidence)
    return rule.noted(
        evidence,
        f"the first logits spread by {seen.spread:.1f}, which costs {above:.1f} nats: the output weights, or the "
        "scale of the logits, start too large, and the first steps are spent on shrinking them",
        "start the output table with a standard deviation of 1 / sqrt(width) or less, or scale the logits down",
    )


# ---- units ----


@check("size.dead_units", f"in no layer more than {limit.DEAD_UNITS_NOTE:.0%} of the units are always zero")
def dead_units(subject: Subject, rule: Rule) -> Finding:
    """Inputs of a matrix that are zero on real text and on random tokens, and stay so when the model is trained."""
    shares, layers = _silent_shares(subject, subject.model)
    worst = max(shares.values(), default=0.0)
    if worst > limit.DEAD_UNITS_NOTE:
        # What starts at zero on purpose comes alive with the first steps; what is dead gets no gradient.
        inputs = learning_batch(subject)
        copy, _ = trained_copy(subject, inputs, limit.STEPS_TO_COME_ALIVE, limit.COME_ALIVE_RATE)
        later, _ = _silent_shares(subject, copy)
        shares = {name: min(share, later.get(name, share)) for name, share in shares.items()}
        worst = max(shares.values(), default=0.0)
    listed = {name: share for name, share in _worst(shares).items() if share > limit.DEAD_UNITS_NOTE}
    evidence = {"largest_dead_share": worst, "layers": listed, "layers_looked_at": layers}
    if worst <= limit.DEAD_UNITS_NOTE:
        return rule.passed(evidence)
    return rule.found(
        FAIL if worst > limit.DEAD_UNITS_FAIL else NOTE,
        evidence,
        f"{worst:.0%} of what enters {next(iter(listed))} is zero for every token, and no gradient reaches it: the "
        "biases or weights before an activation were thrown far below zero by too large a step, or a layer is zero",
        "start this layer anew, or train again with a lower learning rate, a warm-up, or GELU in place of ReLU",
    )


@check(
    "size.symmetric_units",
    f"fewer than {limit.SYMMETRIC_UNITS_FAIL:.0%} of a layer's units are copies of each other for ever",
    kinds=ANY,
)
def symmetric_units(subject: Subject, rule: Rule) -> Finding:
    """Units of a layer with the same incoming weights that also get the same gradient: they stay one unit for ever."""
    output = subject.model.get_output_embeddings()
    layers = {name: layer for name, layer in matrix_layers(subject.model).items() if layer is not output}
    groups = {name: found for name, layer in layers.items() if len(found := _copies(layer))}
    shares: dict[str, float] = {}
    if groups:
        gradients = _gradients(subject, {name: layers[name] for name in groups})
        shares = {name: _share_alike(incoming_gradient, groups[name]) for name, incoming_gradient in gradients.items()}
    worst = max(shares.values(), default=0.0)
    listed = {name: share for name, share in _worst(shares).items() if share > 0}
    evidence = {"largest_share": worst, "layers": listed, "layers_with_equal_rows": len(groups)}
    if worst == 0:
        return rule.passed(evidence)
    return rule.found(
        FAIL if worst > limit.SYMMETRIC_UNITS_FAIL else NOTE,
        evidence,
        f"in {next(iter(listed))} {worst:.0%} of the units have the weights and the gradient of another one, so that "
        "they never come to differ: a layer was started with one constant, or copied within itself",
        "start its weights at random (trunc_normal_, std 0.02), and only the last matrix of a branch at zero",
    )


# ---- parameters for data ----


@check("size.parameters_for_data", "parameters of the order that the training text can teach")
def parameters_for_data(subject: Subject, rule: Rule) -> Finding:
    """Rules of thumb that the planner has too; only where the training text is known."""
    texts = subject.parts.get("train")
    if not texts or subject.tokenizer is None:
        return rule.passed({"parameters": subject.parameters, "training_text": "not given, so not judged"})
    tokens = _count_tokens(subject, texts)
    if subject.kind == "masked":
        return judge_size(subject, rule, tokens, [judge_text_size(subject.parameters, tokens)])
    return judge_size(subject, rule, tokens, judge_generator_size(subject.parameters, tokens))


def judge_size(subject: Subject, rule: Rule, tokens: int, verdicts: Sequence[Verdict]) -> Finding:
    """What rules of thumb say of a model for so many training tokens."""
    evidence = {"parameters": subject.parameters, "training_tokens": tokens}
    wrong = [verdict for verdict in verdicts if verdict.level in ("warning", "loud")]
    if not wrong:
        return rule.passed({**evidence, "said": verdicts[-1].message})
    # Cause and remedy: what stands before and after the last colon of each.
    parts = [verdict.message.rpartition(": ") for verdict in wrong]
    cause, remedy = "; ".join(cause for cause, _, _ in parts), "; ".join(remedy for _, _, remedy in parts)
    return rule.noted({**evidence, "found": [one.name for one in wrong]}, cause, remedy)


def _count_tokens(subject: Subject, texts: list[str]) -> int:
    """Tokens of the texts; of a part of them, scaled up, where they are many."""
    assert subject.tokenizer is not None
    characters, taken = 0, []
    for text in texts:
        taken.append(text)
        characters += len(text)
        if characters > COUNTED_CHARACTERS:
            break
    counted = sum(map(len, subject.tokenizer(taken)["input_ids"]))
    whole = sum(map(len, texts))
    if len(taken) < len(texts):
        subject.notes.append(f"size: tokens counted in {readable(characters)} of {readable(whole)} characters")
    return round(counted * whole / max(characters, 1))


@torch.no_grad()
def _silent_shares(subject: Subject, model: PreTrainedModel) -> tuple[dict[str, float], int]:
    """By layer: share of its inputs that are zero at every position; and how many layers ran."""
    loudest: dict[str, Tensor] = {}

    def see(name: str, entered: Tensor | None, output: Any) -> None:
        if entered is None or not entered.numel():
            return
        found = entered.detach().abs().flatten(0, -2).amax(0).float()
        loudest[name] = torch.maximum(loudest[name], found) if name in loudest else found

    batch = subject.batch(subject.limits.rows, subject.limits.length)
    # A block of zeros is dead as a whole, which gradient.flow names.
    zeroed = tuple(f"{name}." for name, block in blocks(model).items() if share_of_zeros(block) > limit.LAYER_IS_ZERO)
    layers = {name: layer for name, layer in matrix_layers(model).items() if not name.startswith(zeroed)}
    with watching(layers, see):
        for asked in (batch, random_tokens(subject, batch)):
            for piece in asked.split(max(1, subject.limits.rows // 4)):
                subject.ask(model, piece)
    return {name: _silent(found) for name, found in loudest.items()}, len(loudest)


def _silent(loudest: Tensor) -> float:
    """Share of the inputs that are zero; none where some are no numbers, of which gradient.non_finite speaks."""
    if not loudest.isfinite().all():
        return 0.0
    return float((loudest <= limit.SILENT * loudest.max()).double().mean())


def _worst(shares: dict[str, float]) -> dict[str, float]:
    return dict(sorted(shares.items(), key=lambda pair: -pair[1])[:SHOWN])


def _copies(layer: nn.Module) -> list[list[int]]:
    """Groups of units with the same weights and bias to `SAME_ROWS`, other than zero.

    Rows that are alike lie beside each other when all are sorted along one random direction.
    """
    rows = in_rows(layer, layer.get_parameter("weight")).detach().double().cpu()
    bias = dict(layer.named_parameters()).get("bias")
    if bias is not None:
        rows = torch.cat([rows, bias.detach().double().cpu()[:, None]], 1)
    direction = torch.randn(rows.shape[1], generator=torch.Generator().manual_seed(0), dtype=rows.dtype)
    order = (rows @ direction).argsort()
    order = order[(rows[order] != 0).any(1)]
    beside = (rows[order[1:]] - rows[order[:-1]]).norm(dim=1) <= limit.SAME_ROWS * rows[order[1:]].norm(dim=1)
    groups: list[list[int]] = []
    for place in beside.nonzero()[:, 0].tolist():
        first, second = int(order[place]), int(order[place + 1])
        if groups and groups[-1][-1] == first:
            groups[-1].append(second)
        else:
            groups.append([first, second])
    return groups


def _gradients(subject: Subject, layers: dict[str, nn.Module]) -> dict[str, Tensor]:
    """(units, inputs) gradient of each layer's weights that has one."""
    weights = {name: layer.get_parameter("weight") for name, layer in layers.items()}
    with torch.enable_grad():
        loss = subject.own_loss(subject.model, learning_batch(subject))
    found = gradients_of(loss, {name: weight for name, weight in weights.items() if weight.requires_grad})
    return {name: in_rows(layers[name], gradient) for name, gradient in found.items()}


def _share_alike(gradient: Tensor, groups: list[list[int]]) -> float:
    """Share of all units whose gradient is that of the first of their group, and not zero."""
    alike = 0
    for group in groups:
        rows = gradient[group].double()
        length = rows[0].norm()
        if length > 0:
            same = (rows - rows[0]).norm(dim=1) <= limit.SAME_GRADIENT * length
            alike += int(same.sum()) if same.sum() > 1 else 0
    return alike / len(gradient)


@check(
    "size.fresh_layer",
    f"no block's matrices are all like random numbers (largest singular value within {limit.LIKE_RANDOM:.0%}) where "
    f"those of the others are {limit.UNLIKE_RANDOM:.0%} above",
    kinds=ANY,
)
def fresh_layer(subject: Subject, rule: Rule) -> Finding | list[Finding]:
    """A block that learnt nothing among others that did: it was not in the file, or no optimizer held it."""
    above = {
        name: max((above_random(matrix[:_CUT, :_CUT]) for matrix in held), default=0.0)
        for name, block in blocks(subject.model).items()
        if (held := [p for p in matrices(block).values() if p.ndim == 2 and min(p.shape) >= _NARROW and p.any()])
    }
    learnt = [name for name, value in above.items() if value > limit.UNLIKE_RANDOM]
    fresh = [name for name, value in above.items() if value < limit.LIKE_RANDOM]
    evidence = {"blocks": len(above), "fresh": fresh[:SHOWN], "above_random": above}
    if not fresh or 2 * len(learnt) < len(above):
        return rule.passed(evidence)
    return rule.failed(
        evidence,
        f"the weights of {', '.join(fresh[:SHOWN])} are those that a block begins with, and the other blocks have "
        "learnt: a shard or a layer was missing when the model was opened, or the optimizer did not hold it",
        "open the model from all of its files and look at what loading reports as missing; see that every parameter "
        "is in a group of the optimizer",
    )


CHECKS = (loss_at_start, dead_units, symmetric_units, fresh_layer, parameters_for_data)
