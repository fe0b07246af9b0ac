"""When two passes of a model say the same: the error bar that every test of sameness is held against.

The bar comes from the model itself: how far its logits reach, whether a pass repeats, and how much it rounds when only
the shape of the batch is another one.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from eval.diagnose import thresholds
from eval.diagnose.report.report import NOTE, Finding
from eval.diagnose.subject.sample import Batch
from eval.diagnose.subject.subject import Subject

# Logits beyond this are masks ("never this token"), not opinions.
_MASKED_LOGIT = 1e30
_BYTES = 4


@dataclass(frozen=True)
class Yardstick:
    """What a change of a logit is measured by.

    Attributes:
        spread: standard deviation of the logits over the vocabulary, mean over positions.
        repeat: largest change between two passes over the same batch: 0 for a model without chance.
        rounding: largest change of a row when copies of itself stand beside it.
        digit: what the dtype cannot tell apart at the largest logit.
    """

    spread: float
    repeat: float
    rounding: float
    digit: float

    @property
    def tolerance(self) -> float:
        """The largest change that is none.

        What a row's copies do to it may be a fault: it is believed to be rounding up to a few digits only.
        """
        rounding = min(thresholds.ABOVE_NOISE * self.rounding, thresholds.BELIEVED_ROUNDING * self.digit)
        return max(self.exact, thresholds.ABOVE_NOISE * self.repeat, rounding)

    @property
    def exact(self) -> float:
        """The same without chance, and for passes of the same shape."""
        return max(thresholds.SAME_LOGITS * self.spread, thresholds.SURE_ROUNDING * self.digit)

    def evidence(self, change: float) -> dict[str, Any]:
        """A change beside what it is held against."""
        return {"largest_change": change, "tolerance": self.tolerance, "logit_spread": self.spread}


def yardstick(subject: Subject, batch: Batch) -> Yardstick | None:
    """Of the first row of a batch; None where logits are not finite."""
    row = batch.take([0])
    first, second = clean(subject.logits(row)), clean(subject.logits(row))
    if not (first.isfinite().all() and second.isfinite().all()):
        return None
    beside = clean(subject.logits(batch.take([0, 0, 0])))
    return Yardstick(
        spread=float(first.std(-1).mean()),
        repeat=float((first - second).abs().max()),
        rounding=float((beside - first).abs().max()),
        digit=float(first.abs().max()) * torch.finfo(subject.model.dtype).eps,
    )


def changes(subject: Subject, first: Batch, second: Batch, singly: bool = False) -> Tensor:
    """Largest change of a logit at each position, (rows, length), on the CPU; as many rows at once as limits allow.

    Both batches are asked in the same pieces, so that nothing but their content differs.

    Args:
        singly: every row in a pass of its own, where no other row can matter.
    """
    asked = zip(first.split(1), second.split(1), strict=True) if singly else pieces(subject, first, second)
    found = [(clean(subject.logits(one)) - clean(subject.logits(other))).abs().amax(-1).cpu() for one, other in asked]
    return torch.cat(found)


def pieces(subject: Subject, *batches: Batch) -> Iterator[tuple[Batch, ...]]:
    """The same rows of several batches, so few that the logits of all stay within the limits."""
    per_row = _BYTES * subject.vocab_size * sum(batch.input_ids.shape[1] for batch in batches)
    rows = max(1, subject.limits.max_logit_bytes // per_row)
    return zip(*(batch.split(rows) for batch in batches), strict=True)


def fitting_length(subject: Subject, wanted: int, rows: int = 3) -> int:
    """A length of which so many rows have logits within the limits, at least 8 where the context allows it."""
    fits = subject.limits.max_logit_bytes // (_BYTES * subject.vocab_size * rows)
    return min(wanted, subject.context, max(8, fits))


def clean(logits: Tensor) -> Tensor:
    """Logits with those of forbidden tokens set to 0; NaN stays."""
    return logits.masked_fill(logits.abs() > _MASKED_LOGIT, 0.0).float()


def other_tokens(subject: Subject, ids: Tensor, seed: int = 0) -> Tensor:
    """A token of the sample at every place, another than the one there; never a special one."""
    special = [] if subject.tokenizer is None else subject.tokenizer.all_special_ids
    seen = subject.batch(subject.limits.rows, subject.limits.length).input_ids.unique().cpu()
    pool = seen[~torch.isin(seen, torch.tensor(special, dtype=seen.dtype))]
    if len(pool) < 2:
        pool = torch.arange(subject.vocab_size)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(len(pool), ids.shape, generator=generator)
    drawn = torch.where(pool[drawn] == ids.cpu(), (drawn + 1) % len(pool), drawn)
    return pool[drawn].to(ids.device)


def with_tokens(batch: Batch, ids: Tensor) -> Batch:
    """The batch with other tokens where its logits are."""
    return replace(batch, input_ids=ids)


def repeated(batch: Batch, rows: int) -> Batch:
    """The first row, so many times."""
    return batch.take([0] * rows)


def shortened(batch: Batch, length: int) -> Batch:
    """The first positions of every row; the encoder's side of seq2seq stays whole."""
    return replace(
        batch,
        input_ids=batch.input_ids[:, :length],
        attention_mask=batch.attention_mask[:, :length],
        labels=None if batch.labels is None else batch.labels[:, :length],
    )


def not_finite(subject: Subject, check: str) -> list[Finding]:
    """Nothing can be compared where logits are NaN or infinite: said once for a group of checks."""
    group = check.split(".")[0]
    said = f"{group}: what compares logits was left out, as they are not finite"
    if said in subject.notes:
        return []
    subject.notes.append(said)
    return [
        Finding(
            check,
            NOTE,
            {"finite_logits": False},
            "logits are finite",
            "the logits hold NaN or infinity, so nothing can be compared",
            "see gradient.non_finite, which locates the first of them; then run this check again",
        )
    ]
