"""Leaks (X1): whether a logit moves when something changes that it must not know."""

import torch
from torch import Tensor
from torch.nn import functional

from eval.diagnose.checks.check import Check
from eval.diagnose.checks.leak_cache import cache
from eval.diagnose.checks.leak_invariance import batch_mates, padding, position_ignored
from eval.diagnose.probes.exact import (
    Yardstick,
    changes,
    fitting_length,
    not_finite,
    other_tokens,
    repeated,
    shortened,
    with_tokens,
    yardstick,
)
from eval.diagnose.report.report import FAIL, Finding, passed
from eval.diagnose.subject.sample import Batch
from eval.diagnose.subject.subject import Subject

_LENGTH = 48
_LONG = 256
_CUTS = 6
_CONFIRMED = 8


def future_tokens(subject: Subject) -> Finding | list[Finding]:
    """No logit may know a later token: not one, not all of them, not in a short row and not in a long one."""
    name = "leak.future_tokens"
    row = subject.batch(1, fitting_length(subject, min(_LENGTH, subject.limits.length)))
    bar = yardstick(subject, row)
    if bar is None:
        return not_finite(subject, name)
    length = row.input_ids.shape[1]
    moved = _moved(subject, row)
    if moved > bar.tolerance:
        moved = _moved(subject, row, singly=True)  # a row's mates may have moved it
    evidence = {**bar.evidence(moved), **_losses(subject), "length": length}
    threshold = "tokens after a position move none of its logits beyond rounding, 1e-4 of the logits' spread"
    if moved <= bar.tolerance:
        return passed(name, evidence, threshold)
    distances = _distances(subject, row, bar)
    reach = {"leak_begins_at_distance": min(distances), "leak_ends_at_distance": max(distances)} if distances else {}
    return Finding(
        name,
        FAIL,
        {**evidence, **reach, "distances": len(distances)},
        threshold,
        _cause(distances, length),
        "give every attention the causal mask (position i sees j <= i), with a cache and without, and compute nothing "
        "over whole rows; then train again: what was learned from a leak is of no use where there is no next token",
    )


def _moved(subject: Subject, row: Batch, singly: bool = False) -> float:
    """Over every place of a short row, and over a few of one as long as the model takes, or 256: some roads open only
    there.
    """
    wanted = min(_LONG, 4 * subject.limits.length)
    long = subject.batch(1, fitting_length(subject, wanted, rows=2))
    length = long.input_ids.shape[1]
    few = sorted({length // 4, length // 2, 3 * length // 4, length - 2})
    places = row.input_ids.shape[1] - 1
    everywhere = list(range(0, places, max(1, places // _CONFIRMED) if singly else 1))
    return max(_moved_by_later(subject, row, everywhere, singly), _moved_by_later(subject, long, few, singly))


def _moved_by_later(subject: Subject, row: Batch, cuts: list[int], singly: bool) -> float:
    """Largest change of a logit at or before t when all tokens after t are others, over the cuts t."""
    same = repeated(row, len(cuts))
    later = _places(row)[None] > torch.tensor(cuts)[:, None]
    other = torch.where(later.to(row.input_ids.device), other_tokens(subject, same.input_ids), same.input_ids)
    return float(changes(subject, same, with_tokens(same, other), singly).masked_fill(later, 0.0).max())


def _distances(subject: Subject, row: Batch, bar: Yardstick) -> list[int]:
    """How far ahead single tokens are seen: every distance at which one of a few moves a logit."""
    length = row.input_ids.shape[1]
    places = sorted({length // 2, length - 3, length - 2, length - 1})
    same = repeated(row, len(places))
    changed = torch.eye(length, dtype=torch.bool)[places].to(row.input_ids.device)
    other = torch.where(changed, other_tokens(subject, same.input_ids, seed=1), same.input_ids)
    moved = changes(subject, same, with_tokens(same, other), singly=True) > bar.tolerance
    distance = torch.tensor(places)[:, None] - _places(row)[None]
    return sorted(set(distance[moved & (distance > 0)].tolist()))


def _losses(subject: Subject) -> dict[str, float]:
    """Nats per token, predicted within the row and from a row that ends before it, at the same places."""
    batch = subject.batch(4, fitting_length(subject, min(_LENGTH, subject.limits.length), rows=8))
    length = batch.input_ids.shape[1]
    cuts = sorted(set(torch.linspace(1, length - 1, _CUTS).int().tolist()))
    within = subject.logits(batch)
    forced = [_nats(within[:, cut - 1], batch, cut) for cut in cuts]
    alone = [_nats(subject.logits(shortened(batch, cut))[:, -1], batch, cut) for cut in cuts]
    return {
        "teacher_forced_nats": float(torch.stack(forced).mean()),
        "prefix_only_nats": float(torch.stack(alone).mean()),
    }


def _nats(logits: Tensor, batch: Batch, place: int) -> Tensor:
    return functional.cross_entropy(logits, batch.input_ids[:, place])


def _places(row: Batch) -> Tensor:
    return torch.arange(row.input_ids.shape[1])


def _cause(distances: list[int], length: int) -> str:
    if not distances:
        return "something is computed over the whole row (a mean, a norm, who attends to whom), later tokens included"
    if distances == [1]:
        return "every position also sees the very next token, its own answer: a causal mask that is off by one"
    if len(distances) > length // 2:
        return "there is no causal mask: every position sees the whole row, its own answer included"
    if distances == list(range(1, len(distances) + 1)):
        return (
            f"positions see 1 to {len(distances)} tokens ahead, their own answer among them: a causal mask that is "
            "off by one or a few, once in every layer"
        )
    return f"positions see tokens {min(distances)} to {max(distances)} places ahead: an edge of the attention leads on"


CHECKS: tuple[Check, ...] = (
    Check("future_tokens", future_tokens, kinds=("causal", "seq2seq")),
    Check("cache", cache, kinds=("causal", "seq2seq")),
    Check("batch_mates", batch_mates),
    Check("padding", padding),
    Check("position_ignored", position_ignored),
)
