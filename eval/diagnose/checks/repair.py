"""Repairs that are tried: where one change to a copy makes the model clearly better, that change is the fault undone.

Each repair is what people get wrong when a model is converted, merged or configured. It is tried alone, on the same
text, on a few rows; the best are tried again on more. Two measures must agree, so that neither an overfitted model nor
a badly calibrated one is blamed: the loss falls, and more tokens are predicted right, both beyond chance.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from eval.diagnose import thresholds as limits
from eval.diagnose.checks.check import check
from eval.diagnose.checks.parity_reload import fits_twice
from eval.diagnose.probes.anatomy import blocks, first_tensor, matrix_layers
from eval.diagnose.probes.exact import clean
from eval.diagnose.report.report import FAIL, NOTE, Finding, Rule
from eval.diagnose.subject.sample import Batch
from eval.diagnose.subject.subject import Subject

Undo = Callable[[], None]
Change = Callable[[PreTrainedModel], Undo]
_ROWS, _MORE = 8, 4
_TRIED_AGAIN = 3
_ROTARY_BASES = (1e4, 1e5, 5e5, 1e6)
_MOST_LAYERS = 16
_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "gelu": nn.GELU,
    "gelu (tanh)": lambda: nn.GELU(approximate="tanh"),
    "silu": nn.SiLU,
    "relu": nn.ReLU,
}
_ALIKE = (("q_proj", "k_proj"), ("k_proj", "v_proj"), ("q_proj", "v_proj"), ("gate_proj", "up_proj"))


@dataclass(frozen=True)
class Repair:
    """One change.

    Attributes:
        name: of its kind: the finding is `repair.NAME`.
        said: what was changed, in words.
        change: makes it on a copy, in place, and gives what undoes it.
        asked: number of rows -> the text to ask, where that is what is changed.
    """

    name: str
    said: str
    change: Change = lambda model: lambda: None
    asked: Callable[[int], Batch] | None = None


@check(
    "repair.none_helps",
    f"no single change to a copy lowers the loss by {limits.REPAIRED:.0%} and {limits.REPAIRED_ERRORS:g} standard "
    "errors, with more tokens predicted right",
    kinds=("causal", "masked"),
    needs="tokenizer",
)
def repair(subject: Subject, rule: Rule) -> Finding | list[Finding]:
    """Try what may be wrong with a model, one change at a time, and name the change that mends it."""
    if not fits_twice(subject, rule.check):
        return []
    twin, rows = subject.copy(), _ROWS
    before = _measured(subject, twin, _asked(subject, rows))
    if not before.loss.isfinite().all():
        return []  # gradient.non_finite says where it begins
    promising, tried = [], 0
    for one in repairs(subject, twin, rows):
        if subject.seconds_left() <= 0:
            break
        after, tried = _tried(subject, twin, one, rows), tried + 1
        if after is not None and after.mean < (1 - limits.REPAIRED) * before.mean:
            promising.append((after.mean, one))
    evidence: dict[str, Any] = {"loss": before.mean, "accuracy": before.accuracy, "changes_tried": tried}
    before = _measured(subject, twin, _asked(subject, _MORE * rows)) if promising else before
    again = [one for _, one in sorted(promising, key=lambda pair: pair[0])[:_TRIED_AGAIN]]
    found = [(after, one) for one in again if (after := _tried(subject, twin, one, _MORE * rows)) is not None]
    helped = [(after, one) for after, one in found if _is_better(before, after)]
    if not helped:
        return rule.passed(evidence)
    after, best = min(helped, key=lambda pair: pair[0].mean)
    others = [one.said for _, one in helped if one is not best]
    evidence |= {"loss": before.mean, "accuracy": before.accuracy}
    evidence |= {"loss_repaired": after.mean, "accuracy_repaired": after.accuracy}
    return rule.named(f"repair.{best.name}").found(
        NOTE if subject.built_in_text else FAIL,
        {**evidence, **({"others_that_help": others} if others else {})},
        f"{best.said}: with this one change the loss falls from {before.mean:.3g} to {after.mean:.3g}, and "
        f"{after.accuracy:.1%} instead of {before.accuracy:.1%} of the tokens are predicted right",
        "compare the configuration and the conversion with the original's in this point, and open the model anew",
    )


def repairs(subject: Subject, twin: PreTrainedModel, rows: int) -> Iterator[Repair]:
    """Every change that this model has the parts for."""
    yield from _of_text(subject, rows)
    yield from _of_rotary(twin)
    yield from _of_scales(twin)
    yield from _of_norms(twin)
    yield from _of_activations(twin)
    yield from _of_matrices(twin)
    yield from _of_layers(twin)


# ---- trying ----


@dataclass(frozen=True)
class _Measured:
    """(N,) nats of each asked token, and whether it is the most likely one."""

    loss: Tensor
    right: Tensor

    @property
    def mean(self) -> float:
        return float(self.loss.mean())

    @property
    def accuracy(self) -> float:
        return float(self.right.mean())


def _asked(subject: Subject, rows: int) -> Batch:
    batch = subject.batch(rows, subject.limits.length)
    return subject.holes(batch) if subject.kind == "masked" else batch


def _tried(subject: Subject, twin: PreTrainedModel, one: Repair, rows: int) -> _Measured | None:
    undo = one.change(twin)
    try:
        return _measured(subject, twin, one.asked(rows) if one.asked else _asked(subject, rows))
    except (RuntimeError, ValueError, IndexError, TypeError):
        return None  # what this model cannot be asked is no repair
    finally:
        undo()


@torch.no_grad()
def _measured(subject: Subject, model: PreTrainedModel, batch: Batch) -> _Measured:
    losses, right = [], []
    for (piece,) in subject.pieces(batch, each=8):
        logits, truth = subject.answers(model, piece)
        losses.append(functional.cross_entropy(clean(logits), truth, reduction="none").double().cpu())
        right.append((logits.argmax(-1) == truth).double().cpu())
    return _Measured(torch.cat(losses), torch.cat(right))


def _is_better(before: _Measured, after: _Measured) -> bool:
    """By the loss and by the tokens predicted right, each beyond chance."""
    if not after.mean < (1 - limits.REPAIRED) * before.mean:
        return False
    return (
        _errors(before.loss, after.loss) > limits.REPAIRED_ERRORS
        and _errors(after.right, before.right) > limits.REPAIRED_RIGHT_ERRORS
    )


def _errors(larger: Tensor, smaller: Tensor) -> float:
    """Standard errors by which one mean lies above the other; paired where the same tokens were asked."""
    gained = float(larger.mean() - smaller.mean())
    if larger.shape == smaller.shape:
        return gained / max(float((larger - smaller).std()) / math.sqrt(len(larger)), 1e-9)
    return gained / max(math.sqrt(float(larger.var() / len(larger) + smaller.var() / len(smaller))), 1e-9)


# ---- the text ----


def _of_text(subject: Subject, rows: int) -> Iterator[Repair]:
    """A start token put in front; the text in small letters."""
    tokenizer = subject.tokenizer
    assert tokenizer is not None
    first = subject.batch(rows, subject.limits.length).input_ids[:, 0]
    for name in ("bos", "eos", "cls") if subject.kind == "causal" else ():
        token = getattr(tokenizer, f"{name}_token_id")
        if token is not None and token < subject.vocab_size and not bool((first == token).any()):
            said = f"the text begins without {getattr(tokenizer, f'{name}_token')}, as it never did in training"
            yield Repair("start_token", said, asked=lambda rows, token=token: _started(_asked(subject, rows), token))
    texts = [text.lower() for text in subject.sample.texts]
    if texts != list(subject.sample.texts):
        small = replace(subject, sample=replace(subject.sample, texts=texts))
        said = "the model knows small letters only, and its tokenizer keeps capitals"
        yield Repair("letter_case", said, asked=lambda rows: _asked(small, rows))


def _started(batch: Batch, token: int) -> Batch:
    """The rows after a token, in the same shape."""
    return replace(
        batch, input_ids=torch.cat([torch.full_like(batch.input_ids[:, :1], token), batch.input_ids[:, :-1]], 1)
    )


def _of_rotary(model: PreTrainedModel) -> Iterator[Repair]:
    """The base of rotary positions, their scale, and which halves of a head turn together."""
    turning = [part for part in model.modules() if isinstance(getattr(part, "inv_freq", None), Tensor)]
    base = _rotary_base(model)
    if base is None:
        return
    for new in (each for each in _ROTARY_BASES if abs(math.log(each / base)) > 0.1):
        said = f"the base of the rotary positions is {base:g}, and {new:g} is right"
        if turning:
            power = math.log(new) / math.log(base)
            yield Repair("rotary_base", said, lambda _, p=power: _set(turning, "inv_freq", lambda old: old**p))
        else:
            yield Repair("rotary_base", said, lambda twin, b=new: _set([twin.config], "rope_theta", lambda _: b))
    for factor in (2.0, 4.0, 8.0, 0.5, 0.25, 0.125) if turning else ():
        said = f"the angles of the rotary positions are {1 / factor:g} times what they should be (rope scaling)"
        yield Repair("rotary_scaling", said, lambda _, f=factor: _set(turning, "inv_freq", lambda old: old * f))
    heads = getattr(model.config, "head_dim", None) or model.config.hidden_size // model.config.num_attention_heads
    turned = [part for name, part in matrix_layers(model).items() if name.endswith(("q_proj", "k_proj"))]
    for said, order in (("interleaved", _halves(heads)), ("in halves", _pairs(heads))) if turned else ():
        said = f"the rows of q_proj and k_proj are {said}, and the model turns them the other way"
        yield Repair("rotary_layout", said, lambda _, o=order: _set_data(turned, lambda part: _by_head(part, o)))


def _of_scales(model: PreTrainedModel) -> Iterator[Repair]:
    """The scale of attention scores, and of the embeddings."""
    scaled = {
        name: [part for part in model.modules() if isinstance(vars(part).get(name), float)]
        for name in ("scaling", "scale", "softmax_scale", "inv_norm_factor")
    }
    width = model.config.hidden_size
    heads = getattr(model.config, "num_attention_heads", None)
    root = math.sqrt(getattr(model.config, "head_dim", None) or width / heads) if heads else 1.0
    for name, parts in scaled.items():
        for factor in (root, 1 / root) if parts and heads else ():
            said = f"attention scores are {1 / factor:.3g} times what they should be"
            yield Repair("attention_scale", said, lambda _, n=name, p=parts, f=factor: _set(p, n, lambda old: old * f))
    table = model.get_input_embeddings()
    for factor in (math.sqrt(width), 1 / math.sqrt(width)):
        said = f"the embeddings are {1 / factor:.3g} times as long as they should be"
        yield Repair("embedding_scale", said, lambda _, f=factor: _hook(table, lambda given, out: out * f))


def _of_norms(model: PreTrainedModel) -> Iterator[Repair]:
    """RMS norms that multiply by 1 + weight, or by weight alone."""
    norms = [part for name, part in model.named_modules() if _is_rms_norm(name, part)]
    for said, step in (("weight", 1.0), ("1 + weight", -1.0)) if norms else ():
        said = f"the norms multiply by {said}, and their weights were saved for the other way"
        yield Repair("norm_offset", said, lambda _, s=step: _set_data(norms, lambda part: part.weight + s))


def _of_activations(model: PreTrainedModel) -> Iterator[Repair]:
    """Another activation function."""
    owners = {
        name: [part for part in model.modules() if isinstance(dict(part.named_children()).get(name), nn.Module)]
        for name in ("act_fn", "act", "activation_fn", "activation", "intermediate_act_fn")
    }
    for name, parts in owners.items():
        for said, make in _ACTIVATIONS.items() if parts else ():
            said = f"the activation is {type(getattr(parts[0], name)).__name__}, and {said} is right"
            yield Repair("activation", said, lambda _, n=name, p=parts, m=make: _set(p, n, lambda _: m()))


def _of_matrices(model: PreTrainedModel) -> Iterator[Repair]:
    """Matrices of one name in all layers transposed, or in each other's place; the output table tied or not."""
    by_name: dict[str, list[nn.Module]] = {}
    for name, part in matrix_layers(model).items():
        if any(piece.isdecimal() for piece in name.split(".")):
            by_name.setdefault(name.rpartition(".")[2], []).append(part)
    for name, parts in by_name.items():
        if all(part.weight.shape[0] == part.weight.shape[1] for part in parts):
            said = f"the matrices {name} are transposed"
            yield Repair("transposed", said, lambda _, p=parts: _set_data(p, _transposed))
    for first, second in _ALIKE:
        pairs = list(zip(by_name.get(first, []), by_name.get(second, []), strict=False))
        if pairs and all(one.weight.shape == other.weight.shape for one, other in pairs):
            said = f"{first} and {second} stand in each other's place"
            yield Repair("swapped_matrices", said, lambda _, p=pairs: _swap(p))
    table, output = model.get_input_embeddings(), model.get_output_embeddings()
    if output is not None and output.weight is not table.weight and output.weight.shape == table.weight.shape:
        said = "the output table is not the input table, and should be (tie_word_embeddings)"
        yield Repair("tied_tables", said, lambda _: _set_data([output], lambda part: table.weight))


def _of_layers(model: PreTrainedModel) -> Iterator[Repair]:
    """Layers in another order, and each left out."""
    held = [part for part in model.modules() if isinstance(part, nn.ModuleList) and len(part) > 1]
    inside = {id(part) for part in blocks(model).values()}
    stacks = [part for part in held if all(id(layer) in inside for layer in part)]
    for stack in stacks:
        number = len(stack)
        if number > _MOST_LAYERS:
            orders = [(list(range(number))[::-1], "stand in reverse order")]
        else:
            orders = [(list(range(number))[::-1], "stand in reverse order")] if number > 2 else []
            orders += [(_exchanged(number, at), f"{at} and {at + 1} are exchanged") for at in range(number - 1)]
        by_text = sorted(range(number), key=str)
        if by_text != list(range(number)):
            orders.append(([by_text.index(at) for at in range(number)], "were sorted as text (1, 10, 11, 2)"))
        for order, said in orders:
            yield Repair("layer_order", f"layers {said}", lambda _, s=stack, o=order: _reorder(s, o))
        for at in range(number) if number <= _MOST_LAYERS else ():
            said = f"layer {at} does harm: its weights belong to another model, or are broken"
            yield Repair("broken_layer", said, lambda _, part=stack[at]: _hook(part, _skipped))


# ---- changing and undoing ----


def _set(owners: Sequence[Any], name: str, new: Callable[[Any], Any]) -> Undo:
    """Give an attribute of several objects another value."""
    kept = [getattr(owner, name) for owner in owners]
    for owner, old in zip(owners, kept, strict=True):
        setattr(owner, name, new(old))

    def undo() -> None:
        for owner, old in zip(owners, kept, strict=True):
            setattr(owner, name, old)

    return undo


@torch.no_grad()
def _set_data(parts: Sequence[nn.Module], new: Callable[[Any], Tensor]) -> Undo:
    """Give the weights of several modules other values."""
    kept = [part.weight.data for part in parts]
    for part, value in zip(parts, [new(part).detach() for part in parts], strict=True):
        part.weight.data = value

    def undo() -> None:
        for part, old in zip(parts, kept, strict=True):
            part.weight.data = old

    return undo


def _transposed(part: Any) -> Tensor:
    return part.weight.T.clone()


def _swap(pairs: Sequence[tuple[nn.Module, nn.Module]]) -> Undo:
    parts = [part for pair in pairs for part in pair]
    other = {id(one): second.weight.data for one, second in pairs} | {
        id(second): one.weight.data for one, second in pairs
    }
    return _set_data(parts, lambda part: other[id(part)])


def _hook(part: nn.Module, new: Callable[[Any, Any], Any]) -> Undo:
    """Replace what a module gives by `new(what it was given, what it gives)`."""
    return part.register_forward_hook(
        lambda module, args, kwargs, out: new((args, kwargs), out), with_kwargs=True
    ).remove


def _skipped(given: Any, out: Any) -> Any:
    """The layer's input in the place of its output."""
    states = first_tensor(given)
    return (states, *out[1:]) if isinstance(out, tuple) else states


def _reorder(stack: nn.ModuleList, order: Sequence[int]) -> Undo:
    def put(layers: Sequence[nn.Module]) -> None:
        for place, layer in enumerate(layers):
            stack[place] = layer

    kept = list(stack)
    put([kept[place] for place in order])
    return lambda: put(kept)


def _exchanged(number: int, at: int) -> list[int]:
    order = list(range(number))
    order[at], order[at + 1] = at + 1, at
    return order


def _rotary_base(model: PreTrainedModel) -> float | None:
    said = model.config.to_dict()
    rope = said.get("rope_parameters") or {}
    found = said.get("rope_theta") or rope.get("rope_theta")
    return float(found) if isinstance(found, int | float) and found > 1 else None


def _halves(width: int) -> Tensor:
    """Order of a head's rows that brings pairs (0, 1), (2, 3), ... into halves."""
    return torch.arange(width).view(-1, 2).T.flatten()


def _pairs(width: int) -> Tensor:
    """The opposite order."""
    return torch.arange(width).view(2, -1).T.flatten()


def _by_head(part: Any, order: Tensor) -> Tensor:
    rows, width = part.weight.shape
    return part.weight.view(rows // len(order), len(order), width)[:, order].reshape(rows, width)


def _is_rms_norm(name: str, part: nn.Module) -> bool:
    own = dict(part.named_parameters(recurse=False))
    return "norm" in name.rpartition(".")[2].lower() and list(own) == ["weight"] and own["weight"].ndim == 1


CHECKS = (repair,)
