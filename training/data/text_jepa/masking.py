"""Holes, replacements and negatives: functions of (seed, pass, row_id, position), and of nothing else.

So they are the same on CPU and GPU, for any batch size, accumulation, number of processes or workers, and after any
resume. Everything is computed on the batch's device, a batch at a time.
"""

from collections.abc import Sequence

import numpy as np
import torch

from modeling_jepa.counter_random import counter_integers, counter_uniform
from modeling_jepa.losses import proposal_probabilities
from training.common.errors import InputError
from training.data.collators import IGNORED
from training.data.settings import MaskingSettings
from training.data.tokenization import TokenIds

_HOLE, _FATE, _REPLACEMENT, _NEGATIVE, _HELD_OUT = range(1, 6)
_HELD_OUT_SEED = 0


class TextMasker:
    """Turns intact batches into masked ones.

    Args:
        settings: kind and shares of the holes.
        tokens: the vocabulary's size, mask token and special tokens; no special token (the unknown one is one) is ever
            a hole, a replacement or a negative.
        seed: of the run.
        num_negatives: wrong tokens drawn for each hole; 0 for none.
        negative_sampling: "uniform", or "frequency" for the shares of `proposal_probabilities`.
        token_counts: training-part counts, shape (vocabulary,); only for "frequency".

    Raises:
        InputError: settings out of range, or more negatives than other tokens.
    """

    def __init__(
        self,
        settings: MaskingSettings,
        tokens: TokenIds,
        seed: int,
        num_negatives: int = 32,
        negative_sampling: str = "uniform",
        token_counts: np.ndarray | None = None,
    ) -> None:
        settings.validate()
        is_special = torch.zeros(tokens.vocab_size, dtype=torch.bool)
        is_special[list(tokens.special_ids)] = True
        self.settings = settings
        self.seed = seed
        self.num_negatives = num_negatives
        self.mask_token_id = tokens.mask_token_id
        self._is_special = is_special
        self._ordinary = torch.nonzero(~is_special).flatten()
        self._rank = torch.cumsum(~is_special, 0) - 1
        if num_negatives < 0 or num_negatives > len(self._ordinary) - 1:
            raise InputError(
                f"num_negatives: got {num_negatives}; use 0 to {len(self._ordinary) - 1}, the number of tokens "
                "beside the right one and the special ones"
            )
        self._cumulative = self._frequencies(negative_sampling, token_counts)

    def __call__(self, batch: dict[str, torch.Tensor], progress: float = 0.0) -> dict[str, torch.Tensor]:
        """Mask one batch.

        Args:
            batch: `input_ids`, `attention_mask` (batch, length), `row_id`, `pass_index` (batch,).
            progress: share of the training steps done, from 0 to 1; a growing mask rate follows it.

        Returns:
            `input_ids` with holes, `attention_mask`, `labels` (the true tokens at the holes, -100 elsewhere) and, with
            negatives, `negative_ids` (holes, negatives) in row-major order of the holes.
        """
        input_ids = batch["input_ids"]
        self._move_to(input_ids.device)
        keys = (batch["pass_index"][:, None], batch["row_id"][:, None], _positions(input_ids))
        maskable = batch["attention_mask"].bool() & ~self._is_special[input_ids]
        holes = self._holes(maskable, keys, progress)
        masked = {
            "input_ids": torch.where(holes, self._replaced(input_ids, keys), input_ids),
            "attention_mask": batch["attention_mask"],
            "labels": torch.where(holes, input_ids, IGNORED),
        }
        if self.num_negatives:
            masked["negative_ids"] = self._negatives(input_ids, holes, keys)
        return masked

    def mask_rate(self, progress: float) -> float:
        """The share of tokens that become holes at this share of the steps, in a straight line between both rates."""
        start = self.settings.mask_rate
        end = start if self.settings.mask_rate_final is None else self.settings.mask_rate_final
        return start + (end - start) * min(max(progress, 0.0), 1.0)

    def _holes(self, maskable: torch.Tensor, keys: tuple[torch.Tensor, ...], progress: float) -> torch.Tensor:
        """(batch, length) bool; at least one in every row that has a maskable token."""
        order = counter_uniform(self.seed, _HOLE, *keys).masked_fill(~maskable, 2.0)
        first = torch.zeros_like(maskable).scatter_(1, order.argmin(1, keepdim=True), True) & maskable
        if self.settings.masking == "single":
            return first
        if self.settings.masking == "rate":
            return (order < self.mask_rate(progress)) | first
        spans = span_holes(maskable, self.settings, self.seed, keys[0], keys[1]) & maskable
        return torch.where(spans.any(1, keepdim=True), spans, first)

    def _replaced(self, input_ids: torch.Tensor, keys: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """What would stand at each position were it a hole: the mask token, a random token, or the token itself."""
        fate = counter_uniform(self.seed, _FATE, *keys)
        mask_share = self.settings.mask_token_share
        drawn = self._ordinary[counter_integers(self.seed, _REPLACEMENT, *keys, high=len(self._ordinary))]
        others = torch.where(fate < mask_share + self.settings.random_token_share, drawn, input_ids)
        return torch.where(fate < mask_share, self.mask_token_id, others)

    def _negatives(self, input_ids: torch.Tensor, holes: torch.Tensor, keys: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """(holes, negatives) int64: ordinary tokens other than the right one, with replacement."""
        rows, positions = torch.nonzero(holes, as_tuple=True)
        numbers = torch.arange(self.num_negatives, device=input_ids.device)
        own = (keys[0][rows], keys[1][rows], positions[:, None], numbers)
        target = self._rank[input_ids[rows, positions]][:, None]
        if self._cumulative is None:
            drawn = counter_integers(self.seed, _NEGATIVE, *own, high=len(self._ordinary) - 1)
            return self._ordinary[drawn + (drawn >= target)]
        # Draw from the distribution without the target: shrink the draw by its share, then step over it.
        below = self._cumulative[target]
        share = self._cumulative[target + 1] - below
        point = counter_uniform(self.seed, _NEGATIVE, *own) * (1 - share)
        point = torch.where(point >= below, point + share, point)
        drawn = torch.searchsorted(self._cumulative, point, right=True) - 1
        drawn = drawn.clamp_(0, len(self._ordinary) - 1)
        return self._ordinary[torch.where(drawn == target, (drawn + 1) % len(self._ordinary), drawn)]

    def _frequencies(self, negative_sampling: str, token_counts: np.ndarray | None) -> torch.Tensor | None:
        """Cumulative shares of the ordinary tokens, float64, with a leading 0; None for uniform shares."""
        if negative_sampling == "uniform":
            return None
        if negative_sampling != "frequency":
            raise InputError(f"negative_sampling: got {negative_sampling!r}; use uniform or frequency")
        if token_counts is None or len(token_counts) != len(self._is_special):
            raise InputError("negative_sampling: frequency needs the training part's token counts, one for each token")
        # The loss corrects for the very same shares.
        weights = proposal_probabilities(torch.as_tensor(token_counts))[self._ordinary].double()
        cumulative = torch.cat([torch.zeros(1, dtype=torch.float64), torch.cumsum(weights, 0)])
        return cumulative / cumulative[-1]

    def _move_to(self, device: torch.device) -> None:
        if self._is_special.device != device:
            self._is_special = self._is_special.to(device)
            self._ordinary, self._rank = self._ordinary.to(device), self._rank.to(device)
            self._cumulative = None if self._cumulative is None else self._cumulative.to(device)


def heldout_holes(
    input_ids: Sequence[int] | torch.Tensor, row_id: int, maskable: Sequence[bool] | torch.Tensor, max_holes: int = 4
) -> list[int]:
    """The positions at which a row is scored, in order: a function of the row alone, the same for every model and run.

    Each is made a hole by itself, always with the mask token (none random, none kept).

    Args:
        input_ids: (length,) the row's ids.
        row_id: of the row.
        maskable: (length,) True where a token may be asked for: neither special nor unknown.
        max_holes: at most this many.
    """
    order = counter_uniform(_HELD_OUT_SEED, _HELD_OUT, row_id, torch.arange(len(input_ids)))
    usable = torch.as_tensor(maskable, dtype=torch.bool)
    number = min(max_holes, int(usable.sum()))
    return sorted(torch.argsort(order.masked_fill(~usable, 2.0), stable=True)[:number].tolist())


def _positions(input_ids: torch.Tensor) -> torch.Tensor:
    return torch.arange(input_ids.shape[1], device=input_ids.device)


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
