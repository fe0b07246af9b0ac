"""Leaks (X1): whether a logit moves when something changes that it must not know, with a cache as without."""

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import LogitsProcessorList

from eval.diagnose import thresholds
from eval.diagnose.checks.check import check
from eval.diagnose.checks.leak_invariance import batch_mates, documents, padding, position_ignored
from eval.diagnose.probes.exact import (
    EXACT,
    Yardstick,
    changes,
    clean,
    repeated,
    shortened,
    with_tokens,
    yardstick,
)
from eval.diagnose.report.report import Finding, Rule, said_by
from eval.diagnose.subject.sample import Batch
from eval.diagnose.subject.subject import Subject

_LENGTH = 48
_LONG = 256
_CUTS = 6
_CONFIRMED = 8
_CACHED, _CACHE_CUTS, _SINGLE = 32, 4, 4
# What a cache is called in the library, among arguments and in outputs alike.
_CACHES = ("past_key_values", "cache_params")


@check(
    "leak.future_tokens",
    f"tokens after a position move none of its logits beyond rounding, {EXACT}",
    kinds=("causal", "seq2seq"),
)
def future_tokens(subject: Subject, rule: Rule) -> Finding:
    """No logit may know a later token: not one, not all of them, not in a short row and not in a long one."""
    row = subject.batch(1, subject.fitting_length(min(_LENGTH, subject.limits.length)))
    bar = yardstick(subject, row)
    length = row.input_ids.shape[1]
    moved = _moved(subject, row)
    if moved > bar.tolerance:
        moved = _moved(subject, row, singly=True)  # a row's mates may have moved it
    evidence = {**bar.evidence(moved), **_losses(subject), "length": length}
    if moved <= bar.tolerance:
        return rule.passed(evidence)
    edges = _edges(subject, row, bar)
    distances = sorted({place - position for place, position in edges})
    reach = {"leak_begins_at_distance": min(distances), "leak_ends_at_distance": max(distances)} if distances else {}
    return rule.failed(
        {**evidence, **reach, "distances": len(distances)},
        _cause(edges, distances, length),
        "give every attention the causal mask (position i sees j <= i), with a cache and without, and compute nothing "
        "over whole rows; then train again: what was learned from a leak is of no use where there is no next token",
    )


def _moved(subject: Subject, row: Batch, singly: bool = False) -> float:
    """Over every place of a short row, and over a few of one as long as the model takes, or 256: some roads open only
    there.
    """
    wanted = min(_LONG, 4 * subject.limits.length)
    long = subject.batch(1, subject.fitting_length(wanted, rows=2))
    length = long.input_ids.shape[1]
    few = sorted({length // 4, length // 2, 3 * length // 4, length - 2})
    places = row.input_ids.shape[1] - 1
    everywhere = list(range(0, places, max(1, places // _CONFIRMED) if singly else 1))
    return max(_moved_by_later(subject, row, everywhere, singly), _moved_by_later(subject, long, few, singly))


def _moved_by_later(subject: Subject, row: Batch, cuts: list[int], singly: bool) -> float:
    """Largest change of a logit at or before t when all tokens after t are others, over the cuts t."""
    same = repeated(row, len(cuts))
    later = _places(row)[None] > torch.tensor(cuts)[:, None]
    other = torch.where(later.to(row.input_ids.device), subject.other_tokens(same.input_ids), same.input_ids)
    return float(changes(subject, same, with_tokens(same, other), singly).masked_fill(later, 0.0).max())


def _edges(subject: Subject, row: Batch, bar: Yardstick) -> list[tuple[int, int]]:
    """(place, position before it that its token moves), for some places, where anything moves first: in the output of
    the first layer that leaks, since the layers after it spread what leaked; else in the logits.
    """
    length = row.input_ids.shape[1]
    places = sorted({length // 4, length // 2, length - 3, length - 2, length - 1})
    same = repeated(row, len(places))
    changed = torch.eye(length, dtype=torch.bool)[places].to(row.input_ids.device)
    other = with_tokens(same, torch.where(changed, subject.other_tokens(same.input_ids, seed=1), same.input_ids))
    before = _places(row)[None] < torch.tensor(places)[:, None]

    def edges(moved: Tensor) -> list[tuple[int, int]]:
        return [(places[at], position) for at, position in (moved & before).nonzero().tolist()]

    states = zip(*[subject.hidden_states(batch) or () for batch in (same, other)], strict=True)
    for first, second in list(states)[1:]:
        tolerance = thresholds.SAME_LOGITS * float(first.float().std())
        found = edges(((first - second).abs().amax(-1) > tolerance).cpu())
        if found:
            return found
    return edges(changes(subject, same, other, singly=True) > bar.tolerance)


def _losses(subject: Subject) -> dict[str, float]:
    """Nats per token, predicted within the row and from a row that ends before it, at the same places."""
    batch = subject.batch(4, subject.fitting_length(min(_LENGTH, subject.limits.length), rows=8))
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


def _cause(edges: list[tuple[int, int]], distances: list[int], length: int) -> str:
    """What the pattern of the edges tells."""
    places, positions = {place for place, _ in edges}, {position for _, position in edges}
    if not edges:
        return "something is computed over the whole row (a mean, a norm, who attends to whom), later tokens included"
    if distances == [1]:
        return "every position also sees the very next token, its own answer: a causal mask that is off by one"
    if places == {length - 1} and len(positions) > 1:
        return "every position also sees the last token of the row: a summary of the row, or a mask for its end"
    if positions == {0}:
        return "the first position sees the end of the row: an index of -1, or a roll, that wraps around"
    if len(distances) == 1:
        return f"every position also sees the token {distances[0]} places ahead: an edge, a shift or a convolution"
    if distances == list(range(1, len(distances) + 1)) and len(distances) <= length // 2:
        return (
            f"positions see 1 to {len(distances)} tokens ahead, their own answer among them: a causal mask that is "
            "off by a few, or a convolution that is not padded on the left alone"
        )
    if len(distances) > length // 2:
        return (
            "every position sees the whole row, its own answer included: there is no causal mask, or a mean or norm "
            "is taken over the row"
        )
    return f"positions see tokens {min(distances)} to {max(distances)} places ahead: an edge of the attention leads on"


# ---- the cache ----


@check(
    "leak.cache",
    "with a cache, tokens after a position move none of its logits, and the logits are those without a cache: both up "
    f"to rounding, {EXACT}",
    kinds=("causal", "seq2seq"),
)
def cache(subject: Subject, rule: Rule) -> Finding:
    """With a cache as without: in one pass, in two pieces, and token by token."""
    row = subject.batch(1, subject.fitting_length(_CACHED, rows=2 * _CACHE_CUTS))
    kind = next((name for name in _CACHES if subject.accepts(name)), None)
    if kind is None or not subject.accepts("use_cache"):
        return rule.passed({"cache": "forward takes none"})
    bar = yardstick(subject, row)
    length = row.input_ids.shape[1]
    rows, others, later = _rows(subject, row, length // 2)
    if float(changes(subject, rows, others, singly=True).masked_fill(later.cpu(), 0.0).max()) > bar.tolerance:
        return rule.noted(
            {"leaks_without_cache": True},
            "the model sees the future without a cache already, so what the cache adds cannot be judged",
            "see leak.future_tokens, mend that first, and run this again",
        )
    singly = [length - _SINGLE] + [1] * _SINGLE
    plain = torch.cat([clean(subject.logits(one)) for one in rows.split(1)])
    at_once = _in_pieces(subject, kind, rows, [length])
    leak_at_once = _later_moves(at_once, _in_pieces(subject, kind, others, [length]), later)
    evidence: dict[str, Any] = {
        "tolerance": bar.tolerance,
        "logit_spread": bar.spread,
        "future_moves_in_first_piece": leak_at_once,
        "cached_against_uncached_at_once": _largest(at_once - plain),
        "token_by_token_against_uncached": _largest(_in_pieces(subject, kind, row, singly) - plain[:1]),
    }
    evidence |= _two_pieces(subject, kind, rows, others, later, plain)
    if max(evidence["cached_against_uncached_at_once"], evidence["token_by_token_against_uncached"]) > bar.tolerance:
        evidence |= _by_generate(subject, row)
    return _judged(rule, evidence, bar.tolerance)


def _judged(rule: Rule, evidence: dict[str, Any], tolerance: float) -> Finding:
    leaks = max(evidence["future_moves_in_first_piece"], evidence.get("future_moves_in_second_piece", 0.0))
    if leaks > tolerance:
        return rule.failed(
            {**evidence, "largest_change": leaks},
            "the mask that is made when there is a cache lets positions see tokens after them",
            "make the mask from the place in the whole row: query number q of a piece stands at q + (cached tokens) "
            "and sees the places up to that",
        )
    differs = max(evidence["cached_against_uncached_at_once"], evidence["token_by_token_against_uncached"])
    if differs > tolerance >= evidence.get("generate_against_uncached", math.inf):
        return rule.noted(
            {**evidence, "largest_change": differs},
            "forward alone says something else with a cache, and generate(), which hands it the cache and the "
            "positions, says the same",
            "nothing where only generate() is used; a loop of your own takes its inputs from "
            "prepare_inputs_for_generation",
        )
    if differs > tolerance:
        return rule.failed(
            {**evidence, "largest_change": differs},
            "the model says something else with a cache, and generate() uses one: positions are counted anew in every "
            "piece, or a layer does not keep, or does not find, what came before",
            "count positions on from the cache's length and keep what every layer needs; until then "
            "generate(use_cache=False)",
        )
    in_pieces = evidence.get("two_pieces_against_uncached")
    if in_pieces is None or in_pieces > tolerance:
        return rule.noted(
            evidence,
            "the cache goes on token by token only: several tokens at once after it are answered otherwise or refused",
            "nothing where only generate() is used; assisted generation and shared prefixes need it mended",
        )
    return rule.passed(evidence)


def _rows(subject: Subject, row: Batch, first: int) -> tuple[Batch, Batch, Tensor]:
    """The row several times; the same with other tokens after a cut, one cut a row; and where those are."""
    length = row.input_ids.shape[1]
    cuts = sorted(set(torch.linspace(first, max(first, length - 2), _CACHE_CUTS).int().tolist()))
    rows = repeated(row, len(cuts))
    later = (torch.arange(length)[None] > torch.tensor(cuts)[:, None]).to(row.input_ids.device)
    ids = torch.where(later, subject.other_tokens(rows.input_ids), rows.input_ids)
    return rows, with_tokens(rows, ids), later


def _two_pieces(
    subject: Subject, kind: str, rows: Batch, others: Batch, later: Tensor, plain: Tensor
) -> dict[str, Any]:
    """What changes where the second half comes in one piece after a cache; nothing but the error if it is refused."""
    length = rows.input_ids.shape[1]
    lengths = [length // 2, length - length // 2]
    try:
        told, moved = (_in_pieces(subject, kind, batch, lengths) for batch in (rows, others))
    except (RuntimeError, ValueError, IndexError, TypeError, AssertionError) as error:
        return {"two_pieces": f"refused: {said_by(error, 120)}"}
    return {
        "future_moves_in_second_piece": _later_moves(told, moved, later),
        "two_pieces_against_uncached": _largest(told - plain),
    }


def _by_generate(subject: Subject, row: Batch) -> dict[str, float]:
    """The last tokens as generate() asks for them, each given to it whatever it chose; nothing where it cannot."""
    if not subject.generates:
        return {}
    start = row.input_ids.shape[1] - _SINGLE

    def given(said: Tensor, scores: Tensor) -> Tensor:
        place = said.shape[1]
        return torch.full_like(scores, -math.inf).scatter(1, row.input_ids[:, place : place + 1], 0.0)

    try:
        said = subject.model.generate(
            **subject.inputs(shortened(row, start)),
            max_new_tokens=_SINGLE,
            do_sample=False,
            num_beams=1,
            use_cache=True,
            logits_processor=LogitsProcessorList([given]),
            return_dict_in_generate=True,
            output_logits=True,
        )
    except (RuntimeError, ValueError, IndexError, TypeError, AttributeError):
        return {}
    told = clean(torch.stack(said.logits, 1).float())
    plain = clean(subject.logits(row))[:, start - 1 :][:, : told.shape[1]]
    return {"generate_against_uncached": _largest(told - plain)}


def _in_pieces(subject: Subject, kind: str, batch: Batch, lengths: list[int]) -> Tensor:
    """(rows, length, V): logits of pieces of these lengths, each after the cache of those before. Every row in passes
    of its own, so that none moves another.
    """
    return torch.cat([_row_in_pieces(subject, kind, row, lengths) for row in batch.split(1)])


def _row_in_pieces(subject: Subject, kind: str, batch: Batch, lengths: list[int]) -> Tensor:
    made, start, kept = [], 0, None
    for length in lengths:
        upto = shortened(batch, start + length)
        # Attention asks for the mask of all tokens so far, a recurrent state for that of the new ones.
        mask = upto.attention_mask if kind == _CACHES[0] else upto.attention_mask[:, start:]
        piece = replace(upto, input_ids=upto.input_ids[:, start:], attention_mask=mask)
        extra = {} if kept is None else {kind: kept}
        output = subject.logits_with(piece, use_cache=True, **extra)
        kept = output.get(kind)
        made.append(clean(output.logits.float()))
        start += length
    return torch.cat(made, dim=1)


def _later_moves(first: Tensor, second: Tensor, later: Tensor) -> float:
    return float((first - second).abs().amax(-1).masked_fill(later, 0.0).max())


def _largest(difference: Tensor) -> float:
    return float(difference.abs().max())


CHECKS = (future_tokens, cache, batch_mates, documents, padding, position_ignored)
