"""Batch-mates, padding and order (X1): what must not move a logit, and what must."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from eval.diagnose import thresholds
from eval.diagnose.checks.check import ANY, check
from eval.diagnose.probes.exact import (
    EXACT,
    NotFiniteError,
    Yardstick,
    changes,
    clean,
    joined,
    repeated,
    with_tokens,
    yardstick,
)
from eval.diagnose.report.report import Finding, Rule
from eval.diagnose.subject.sample import Batch
from eval.diagnose.subject.subject import Subject

_MATES = 4
_LENGTH = 32
_PADDED_ROWS = 6
_EXTRA = 5
_ORDERS = 4


@check("leak.batch_mates", f"other rows move no logit of a row beyond rounding, {EXACT}", kinds=ANY)
def batch_mates(subject: Subject, rule: Rule) -> Finding:
    """Every row says the same whoever stands before or after it."""
    batch = subject.batch(_MATES, subject.fitting_length(_LENGTH, rows=2 * _MATES))
    batch = batch if len(batch.input_ids) > 1 else repeated(batch, 2)
    bar = yardstick(subject, batch)
    alone = torch.cat([clean(subject.logits(row)) for row in batch.split(1)])
    by_presence = float((clean(subject.logits(batch)) - alone).abs().max())
    by_content = _moved_by_mates(subject, batch)
    evidence = {**bar.evidence(max(by_content, by_presence)), "others": by_content, "alone": by_presence}
    if by_content <= bar.tolerance and by_presence <= bar.between_shapes:
        return rule.passed(evidence)
    return rule.failed(
        evidence,
        "something is computed over the batch: a norm or mean over rows, a reshape that mixes them, or one row's mask "
        "used for all",
        "compute everything within a row; a norm over the batch has no place in a language model, as a prompt stands "
        "alone",
    )


@check(
    "leak.documents",
    f"in a row of several documents none moves a logit of another beyond rounding, {EXACT}",
    kinds=("causal",),
    needs="documents",
)
def documents(subject: Subject, rule: Rule) -> Finding:
    """Each document of a row says what it says alone, whatever stands before or after it."""
    row = subject.batch(1, subject.fitting_length(2 * _LENGTH, rows=4))
    bar, half = yardstick(subject, row), row.input_ids.shape[1] // 2
    positions = torch.arange(half, device=row.input_ids.device).repeat(2)[None]
    # The same tokens on both sides of the border, so that every far edge has a place to lead to.
    ids = row.input_ids[:, :half].repeat(1, 2)
    both = replace(row, input_ids=ids, attention_mask=torch.ones_like(ids))
    alone = replace(both, input_ids=ids[:, :half], attention_mask=both.attention_mask[:, :half])
    said = clean(subject.logits_with(both, position_ids=positions).logits)
    single = clean(subject.logits_with(alone, position_ids=positions[:, :half]).logits)
    moved = {
        "first": float((said[:, :half] - single).abs().max()),
        "second": float((said[:, half:] - single).abs().max()),
    }
    evidence = {**bar.evidence(max(moved.values())), "moved": moved, "length": half}
    if max(moved.values()) <= bar.between_shapes:
        return rule.passed(evidence)
    return rule.failed(
        evidence,
        "documents of one row see each other: a mask, a convolution, a state or far edges cross the border between "
        "them",
        "compare document numbers (a position of 0 begins one) wherever a position reads another; then train again",
    )


@check("leak.padding", f"padding moves no logit at a token beyond rounding, {EXACT}")
def padding(subject: Subject, rule: Rule) -> Finding:
    """Rows of different lengths say in a batch what each says alone, padded on either side."""
    rows = subject.sentences(_PADDED_ROWS, subject.fitting_length(_LENGTH, rows=2 * _PADDED_ROWS) - _EXTRA)
    alone = [clean(subject.logits(_padded(subject, [row], number, "right", None))) for number, row in enumerate(rows)]
    bar = yardstick(subject, _padded(subject, rows[:1], 0, "right", None))
    if not all(logits.isfinite().all() for logits in alone):
        raise NotFiniteError
    length = max(map(len, rows)) + _EXTRA
    right, left = (_padded(subject, rows, 0, side, length) for side in ("right", "left"))
    evidence: dict[str, Any] = {
        "tolerance": bar.tolerance,
        "logit_spread": bar.spread,
        "right": _against_alone(subject, right, alone),
        "left": _against_alone(subject, left, alone),
    }
    if evidence["left"] > bar.tolerance and subject.accepts("position_ids"):
        positions = (left.attention_mask.cumsum(-1) - 1).clamp_min(0)
        evidence["left_with_position_ids"] = _against_alone(subject, left, alone, position_ids=positions)
    if min(evidence["left"], evidence.get("left_with_position_ids", evidence["left"])) > bar.tolerance:
        evidence["left_content"] = _moved_by_padding(subject, left)
        evidence["moved_by_mask"] = _moved_by_mask(subject, left)
    if _mates_move(subject, evidence, rows, alone, length, bar):
        return rule.but("padding moves no logit at a token").noted(
            evidence,
            "other rows of the batch move a row, so what padding does in a batch cannot be seen; in a row alone it "
            "does nothing",
            "see leak.batch_mates, mend that first, and run this again",
        )
    return _padding_judged(subject, rule, evidence, bar)


@check(
    "leak.position_ignored",
    f"another order of the tokens moves what is computed by more than {thresholds.ORDER_MATTERS:.0e} of its spread",
)
def position_ignored(subject: Subject, rule: Rule) -> Finding:
    """The order of the tokens counts."""
    batch = subject.batch(_ORDERS, subject.fitting_length(24, rows=2 * _ORDERS))
    bar = yardstick(subject, batch)
    limit = thresholds.ORDER_MATTERS
    if bar.repeat > bar.exact:
        return rule.but("another order of the tokens moves what is computed").noted(
            {"random_in_evaluation": True},
            "the model says something else in every pass, so what order does cannot be seen",
            "see parity.random_in_evaluation, mend that first, and run this again",
        )
    evidence: dict[str, Any] = {"limit": limit}
    order_moves = _order_moves_hole if subject.kind == "masked" else _order_moves_last
    evidence["moved_by_order"] = order_moves(subject, batch)
    if evidence["moved_by_order"] is None:
        return rule.but("other earlier tokens move what is said at the last one").noted(
            evidence,
            "nothing that came before reaches the output: attention that begins at zero and was not trained yet, or "
            "was cut off",
            "nothing before training; after it, see gradient.flow for a layer that does nothing or gets no gradient",
        )
    if evidence["moved_by_order"] <= limit and subject.kind != "masked":
        evidence |= _positions_given(subject, batch, bar)
    if subject.kind == "seq2seq":
        evidence |= _order_moves_answer(subject, batch, bar)
    counts = max(evidence["moved_by_order"], evidence.get("moved_by_position_ids", 0.0)) > limit
    blind = [] if counts else ["the decoder" if subject.kind == "seq2seq" else "the model"]
    reads = evidence.get("moved_by_other_source", 0.0) > thresholds.READS
    if reads and evidence["moved_by_order_of_source"] <= limit:
        blind.append("the encoder")
    if not blind:
        return rule.passed(evidence)
    return rule.failed(
        evidence,
        f"{' and '.join(blind)} cannot tell the order of tokens: positions are not added, all the same, or not given "
        "to the attention",
        "check that position embeddings (or rotary angles, or biases) differ between positions and reach every layer; "
        "then train again",
    )


# ---- batch-mates ----


def _moved_by_mates(subject: Subject, batch: Batch) -> float:
    """Largest change of a logit of any row when all others are changed."""
    changed = subject.changed(batch)
    found = []
    for row in range(len(batch.input_ids)):
        others = joined([(batch if at == row else changed).take([at]) for at in range(len(batch.input_ids))])
        found.append(changes(subject, batch, others)[row].max())
    return float(torch.stack(found).max())


# ---- padding ----


def _padded(subject: Subject, rows: Sequence[list[int]], number: int, side: str, to: int | None) -> Batch:
    """Rows padded to a length; of seq2seq the sources are, and every decoder says the same full rows.

    Args:
        number: of the first row, by which its decoder's tokens are chosen.
    """
    made = subject.padded(list(rows), side, to)
    if subject.kind != "seq2seq":
        return made
    said = subject.batch(_PADDED_ROWS, 12)
    place = [number + at for at in range(len(rows))]
    source = subject.padded(list(rows[-1:]) if len(rows) == 1 else [*rows[1:], rows[0]], side, to)
    return replace(said.take(place), source_ids=source.source_ids, source_mask=source.source_mask)


def _against_alone(subject: Subject, batch: Batch, alone: list[Tensor], **extra: Tensor) -> float:
    """Largest change of a logit at a token between the padded rows and each row alone."""
    logits = clean(subject.logits_with(batch, **extra).logits)
    found = [
        (logits[row][batch.attention_mask[row].bool()] - one[0]).abs().max().nan_to_num(nan=float("inf"))
        for row, one in enumerate(alone)
    ]
    return min(float(torch.stack(found).max()), torch.finfo(torch.float32).max)


def _moved_by_padding(subject: Subject, batch: Batch) -> float:
    """Largest change of a logit at a token when what stands in the padding is changed."""
    if batch.source_ids is None:
        ids = torch.where(batch.attention_mask.bool(), batch.input_ids, subject.other_tokens(batch.input_ids))
        other = with_tokens(batch, ids)
    else:
        ids = torch.where(batch.source_mask.bool(), batch.source_ids, subject.other_tokens(batch.source_ids))
        other = replace(batch, source_ids=ids)
    return float(changes(subject, batch, other).masked_fill(batch.attention_mask.cpu() == 0, 0.0).max())


def _mates_move(
    subject: Subject, evidence: dict[str, Any], rows: list[list[int]], alone: list[Tensor], length: int, bar: Yardstick
) -> bool:
    """Whether it is the other rows, and not the padding, that move a padded row: alone it is right, padded or not."""
    if evidence["right"] <= bar.tolerance:
        return False
    batch = subject.batch(_MATES, subject.fitting_length(_LENGTH, rows=2 * _MATES))
    if _moved_by_mates(subject, batch) <= bar.tolerance:
        return False
    singly = [_padded(subject, [row], number, "right", length) for number, row in enumerate(rows)]
    return all(
        _against_alone(subject, one, [logits]) <= bar.tolerance for one, logits in zip(singly, alone, strict=True)
    )


def _moved_by_mask(subject: Subject, batch: Batch) -> float:
    """Largest change of a logit at a token when the mask says that padding is text too."""
    field = "attention_mask" if batch.source_mask is None else "source_mask"
    unmasked = replace(batch, **{field: torch.ones_like(getattr(batch, field))})
    return float(changes(subject, batch, unmasked).masked_fill(batch.attention_mask.cpu() == 0, 0.0).max())


def _padding_cause(evidence: dict[str, Any], bar: Yardstick) -> str:
    if evidence.get("moved_by_mask", math.inf) <= bar.tolerance:
        return "forward takes attention_mask and does nothing with it, so padding is read as text"
    return (
        "padding gets past the attention mask: an attention that it does not reach, or a convolution, pooling, mean "
        "or norm that counts padding in"
    )


def _padding_judged(subject: Subject, rule: Rule, evidence: dict[str, Any], bar: Yardstick) -> Finding:
    left = min(evidence["left"], evidence.get("left_with_position_ids", evidence["left"]))
    seen = evidence.get("left_content", 0.0) > bar.tolerance
    right = evidence["right"] > bar.tolerance
    if (right or seen) and subject.accepts("attention_mask"):
        return rule.failed(
            evidence,
            _padding_cause(evidence, bar),
            "hand attention_mask on to every attention (a custom attention needs its mask registered with the "
            "library), and keep padding out of every convolution, pooling, mean and recurrent state; until then, one "
            "row at a time or rows of one length",
        )
    if right:
        return rule.noted(
            evidence,
            "the model takes no attention_mask, so padding is read as text",
            "give it rows of one length, padded as in its training, or one row at a time",
        )
    if left <= bar.tolerance:
        return rule.passed(evidence)
    return rule.noted(
        evidence,
        "the model takes padding on the right only: on the left it moves the places that positions are counted from"
        if not seen
        else "the model takes no attention_mask, so padding on the left is read as text",
        "pad on the right (tokenizer.padding_side = 'right'), or one row at a time",
    )


# ---- order ----


def _orders(length: int, count: int, device: torch.device) -> Tensor:
    """`count` orders of all places but the last, none of them the first one."""
    generator = torch.Generator().manual_seed(0)
    made = [torch.cat([torch.randperm(length - 1, generator=generator), torch.tensor([length - 1])])]
    made += [torch.cat([made[-1][:-1].roll(1), made[-1][-1:]]) for _ in range(count - 1)]
    return torch.stack(made).to(device)


def _order_moves_hole(subject: Subject, batch: Batch) -> float | None:
    """Share of the spread by which the logits at a hole at the end move when all other tokens change places; None
    where other tokens do not move them either.
    """
    ids = batch.input_ids.clone()
    ids[:, -1] = subject.sample.mask_id
    mixed = ids.gather(1, _orders(ids.shape[1], len(ids), ids.device))
    other = subject.other_tokens(ids)
    other[:, -1] = ids[:, -1]
    first, second, third = (clean(subject.logits(with_tokens(batch, each)))[:, -1] for each in (ids, mixed, other))
    return _share(first, second) if _share(first, third) > thresholds.READS else None


def _order_moves_last(subject: Subject, batch: Batch) -> float | None:
    """The same for what a layer says at the last token, namely the first layer that reads the past at all: those after
    it also see the order by who saw whom. None where no layer reads it.

    Where the model shows no layers: of the logits.
    """
    ids = batch.input_ids
    other = subject.other_tokens(ids)
    other[:, -1] = ids[:, -1]
    mixed = ids.gather(1, _orders(ids.shape[1], len(ids), ids.device))
    plain, replaced, shuffled = (_last_of_layers(subject, with_tokens(batch, each)) for each in (ids, other, mixed))
    for first, second, third in zip(plain, replaced, shuffled, strict=True):
        if _share(first, second) > thresholds.READS:
            return _share(first, third)
    return None


def _last_of_layers(subject: Subject, batch: Batch) -> list[Tensor]:
    """What every layer says at the last token, `(rows, width)` each, and the logits there."""
    states = subject.hidden_states(batch) or ()
    return [state[:, -1].float() for state in states] + [clean(subject.logits(batch))[:, -1]]


def _positions_given(subject: Subject, batch: Batch, bar: Yardstick) -> dict[str, float]:
    """How far position_ids with gaps move a logit, where the model takes them."""
    if not subject.accepts("position_ids"):
        return {}
    length = batch.input_ids.shape[1]
    plain = torch.arange(length // 2, device=batch.input_ids.device)[None].expand(len(batch.input_ids), -1)
    half = replace(
        batch, input_ids=batch.input_ids[:, : length // 2], attention_mask=batch.attention_mask[:, : length // 2]
    )
    moved = clean(subject.logits_with(half, position_ids=2 * plain).logits) - clean(
        subject.logits_with(half, position_ids=plain).logits
    )
    return {"moved_by_position_ids": float(moved.abs().max()) / max(bar.spread, 1e-30)}


def _order_moves_answer(subject: Subject, batch: Batch, bar: Yardstick) -> dict[str, float]:
    """Shares of the spread by which the decoder moves when the source's tokens are others, or change places."""
    assert batch.source_ids is not None
    order = _orders(batch.source_ids.shape[1], len(batch.source_ids), batch.source_ids.device)
    sources = {
        "moved_by_other_source": subject.other_tokens(batch.source_ids),
        "moved_by_order_of_source": batch.source_ids.gather(1, order),
    }
    spread = max(bar.spread, 1e-30)
    return {
        name: float(changes(subject, batch, replace(batch, source_ids=ids)).max()) / spread
        for name, ids in sources.items()
    }


def _share(first: Tensor, second: Tensor) -> float:
    return float((first - second).abs().max()) / max(float(first.std()), 1e-30)
