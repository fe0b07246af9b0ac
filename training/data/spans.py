"""Runs of holes: a few spans of a phrase, drawn for a whole batch at once."""

import torch

from modeling_jepa.counter_random import counter_integers
from training.data.settings import MaskingSettings

_NUMBER, _LENGTH, _START = range(101, 104)


def span_holes(
    maskable: torch.Tensor,
    settings: MaskingSettings,
    seed: int,
    pass_index: torch.Tensor,
    row_id: torch.Tensor,
) -> torch.Tensor:
    """Spans of each row: at most `max_spans`, each of `max_span_length` tokens, in all `max_span_share` of the phrase.

    The phrase reaches from the first to the last maskable token. It is cut into as many equal segments as there are
    spans, and each segment holds one span and at least one free position, so spans neither overlap nor touch.

    Args:
        maskable: (batch, length) bool. Positions in a span that are not maskable are the caller's to leave out.
        pass_index, row_id: (batch, 1) int64.

    Returns:
        (batch, length) bool. A phrase too short for its share still gets one span of one token.
    """
    positions = torch.arange(maskable.shape[1], device=maskable.device)
    first = torch.where(maskable, positions, maskable.shape[1]).amin(1, keepdim=True)
    last = torch.where(maskable, positions, -1).amax(1, keepdim=True)
    length = (last - first + 1).clamp(min=0)
    budget = (maskable.sum(1, keepdim=True) * settings.max_span_share).floor().long().clamp(min=1)

    most = torch.minimum(budget, length // 2).clamp(1, settings.max_spans)
    number = 1 + counter_integers(seed, _NUMBER, pass_index, row_id, high=2**31) % most
    segment = torch.arange(settings.max_spans, device=maskable.device)
    starts = first + segment * length // number
    room = first + (segment + 1) * length // number - starts
    longest = torch.minimum(budget // number, room - 1).clamp(1, settings.max_span_length)
    drawn_length = 1 + counter_integers(seed, _LENGTH, pass_index, row_id, segment, high=2**31) % longest
    shift = counter_integers(seed, _START, pass_index, row_id, segment, high=2**31) % (room - drawn_length).clamp(
        min=1
    )

    begin = (starts + shift)[:, :, None]
    inside = (positions >= begin) & (positions < begin + drawn_length[:, :, None])
    inside &= (segment < number)[:, :, None] & (positions <= last)[:, None, :]
    return inside.any(1)
