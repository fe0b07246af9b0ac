"""The cache (X1): a row that is told in pieces must say what it says at once, and see no more."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from eval.diagnose.probes.exact import (
    changes,
    clean,
    fitting_length,
    not_finite,
    other_tokens,
    repeated,
    shortened,
    with_tokens,
    yardstick,
)
from eval.diagnose.report.report import FAIL, NOTE, Finding, passed
from eval.diagnose.subject.sample import Batch
from eval.diagnose.subject.subject import Subject

NAME = "leak.cache"
_LENGTH = 32
_CUTS = 4
_SINGLE = 4
# What a cache is called in the library, among arguments and in outputs alike.
_CACHES = ("past_key_values", "cache_params")
_THRESHOLD = (
    "with a cache, tokens after a position move none of its logits, and the logits are those without a cache: both up "
    "to rounding, 1e-4 of the logits' spread"
)


def cache(subject: Subject) -> Finding | list[Finding]:
    """With a cache as without: in one pass, in two pieces, and token by token."""
    row = subject.batch(1, fitting_length(subject, _LENGTH, rows=2 * _CUTS))
    kind = next((name for name in _CACHES if subject.accepts(name)), None)
    if kind is None or not subject.accepts("use_cache"):
        return passed(NAME, {"cache": "forward takes none"}, _THRESHOLD)
    bar = yardstick(subject, row)
    if bar is None:
        return not_finite(subject, NAME)
    length = row.input_ids.shape[1]
    rows, others, later = _rows(subject, row, length // 2)
    if float(changes(subject, rows, others, singly=True).masked_fill(later.cpu(), 0.0).max()) > bar.tolerance:
        return _leaks_anyway()
    plain = _in_pieces(subject, None, rows, [length])
    at_once = _in_pieces(subject, kind, rows, [length])
    leak_at_once = _moved(at_once, _in_pieces(subject, kind, others, [length]), later)
    evidence: dict[str, Any] = {
        "tolerance": bar.tolerance,
        "logit_spread": bar.spread,
        "future_moves_in_first_piece": leak_at_once,
        "cached_against_uncached_at_once": _largest(at_once - plain),
        **_token_by_token(subject, kind, row),
    }
    evidence |= _two_pieces(subject, kind, rows, others, later, plain)
    return _judged(evidence, bar.tolerance)


def _leaks_anyway() -> Finding:
    return Finding(
        NAME,
        NOTE,
        {"leaks_without_cache": True},
        _THRESHOLD,
        "the model sees the future without a cache already, so what the cache adds cannot be judged",
        "see leak.future_tokens, mend that first, and run this again",
    )


def _judged(evidence: dict[str, Any], tolerance: float) -> Finding:
    leaks = max(evidence["future_moves_in_first_piece"], evidence.get("future_moves_in_second_piece", 0.0))
    if leaks > tolerance:
        return Finding(
            NAME,
            FAIL,
            {**evidence, "largest_change": leaks},
            _THRESHOLD,
            "the mask that is made when there is a cache lets positions see tokens after them",
            "make the mask from the place in the whole row: query number q of a piece stands at q + (cached tokens) "
            "and sees the places up to that",
        )
    differs = max(evidence["cached_against_uncached_at_once"], evidence["token_by_token_against_uncached"])
    if differs > tolerance:
        return Finding(
            NAME,
            FAIL,
            {**evidence, "largest_change": differs},
            _THRESHOLD,
            "the model says something else with a cache, and generate() uses one: positions are counted anew in every "
            "piece, or a layer does not keep, or does not find, what came before",
            "count positions on from the cache's length and keep what every layer needs; until then "
            "generate(use_cache=False)",
        )
    in_pieces = evidence.get("two_pieces_against_uncached")
    if in_pieces is None or in_pieces > tolerance:
        return Finding(
            NAME,
            NOTE,
            evidence,
            _THRESHOLD,
            "the cache goes on token by token only: several tokens at once after it are answered otherwise or refused",
            "nothing where only generate() is used; assisted generation and shared prefixes need it mended",
        )
    return passed(NAME, evidence, _THRESHOLD)


def _rows(subject: Subject, row: Batch, first: int) -> tuple[Batch, Batch, Tensor]:
    """The row several times; the same with other tokens after a cut, one cut a row; and where those are."""
    length = row.input_ids.shape[1]
    cuts = sorted(set(torch.linspace(first, max(first, length - 2), _CUTS).int().tolist()))
    rows = repeated(row, len(cuts))
    later = (torch.arange(length)[None] > torch.tensor(cuts)[:, None]).to(row.input_ids.device)
    ids = torch.where(later, other_tokens(subject, rows.input_ids), rows.input_ids)
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
        return {"two_pieces": f"refused: {type(error).__name__}: {' '.join(str(error).split())[:120]}"}
    return {
        "future_moves_in_second_piece": _moved(told, moved, later),
        "two_pieces_against_uncached": _largest(told - plain),
    }


def _token_by_token(subject: Subject, kind: str, row: Batch) -> dict[str, float]:
    """The last tokens, each in a pass of its own after the cache."""
    length = row.input_ids.shape[1]
    told = _in_pieces(subject, kind, row, [length - _SINGLE] + [1] * _SINGLE)
    return {"token_by_token_against_uncached": _largest(told - _in_pieces(subject, None, row, [length]))}


def _in_pieces(subject: Subject, kind: str | None, batch: Batch, lengths: list[int]) -> Tensor:
    """(rows, length, V): logits of pieces of these lengths, each after the cache of those before; without a `kind` of
    cache, of the rows at once. Every row in passes of its own, so that none moves another.
    """
    if kind is None:
        return torch.cat([clean(subject.logits(row)) for row in batch.split(1)])
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


def _moved(first: Tensor, second: Tensor, later: Tensor) -> float:
    return float((first - second).abs().amax(-1).masked_fill(later, 0.0).max())


def _largest(difference: Tensor) -> float:
    return float(difference.abs().max())
