"""When two passes of a model say the same: the error bar that every test of sameness is held against.

The bar comes from the model itself: how far its logits reach, whether a pass repeats, and how much it rounds when only
the shape of the batch is another one.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from eval.diagnose import thresholds
from eval.diagnose.report.report import Finding, Rule
from eval.diagnose.subject.sample import Batch
from eval.diagnose.subject.subject import Subject

EXACT = "1e-4 of the logits' spread"
# Logits beyond this are masks ("never this token"), not opinions.
_MASKED_LOGIT = 1e30


class NotFiniteError(Exception):
    """Logits are NaN or infinite, so that nothing can be compared: `@check` says so."""


@dataclass(frozen=True)
class Yardstick:
    """What a change of a logit is measured by.

    Attributes:
        spread: standard deviation of the logits over the vocabulary, mean over positions.
        repeat: largest change between two passes over the same batch: 0 for a model without chance.
        rounding: largest change of a row when copies of itself stand beside it.
        digit: what the dtype cannot tell apart at the largest logit.
        believed_digits: see `Subject.believed_digits`.
    """

    spread: float
    repeat: float
    rounding: float
    digit: float
    believed_digits: float = thresholds.SURE_ROUNDING

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

    @property
    def between_shapes(self) -> float:
        """The same for passes of different shapes, whose sums run in another order."""
        return max(self.tolerance, self.believed_digits * self.digit)

    def evidence(self, change: float) -> dict[str, Any]:
        """A change beside what it is held against."""
        return {"largest_change": change, "tolerance": self.tolerance, "logit_spread": self.spread}


def yardstick(subject: Subject, batch: Batch) -> Yardstick:
    """Of the first row of a batch; raises NotFiniteError where logits are NaN or infinite."""
    row = batch.take([0])
    first, second = clean(subject.logits(row)), clean(subject.logits(row))
    if not (first.isfinite().all() and second.isfinite().all()):
        raise NotFiniteError
    beside = clean(subject.logits(batch.take([0, 0, 0])))
    return Yardstick(
        spread=float(first.std(-1).mean()),
        repeat=float((first - second).abs().max()),
        rounding=float((beside - first).abs().max()),
        digit=float(first.abs().max()) * torch.finfo(subject.model.dtype).eps,
        believed_digits=subject.believed_digits,
    )


def changes(subject: Subject, first: Batch, second: Batch, singly: bool = False) -> Tensor:
    """Largest change of a logit at each position, (rows, length), on the CPU; as many rows at once as limits allow.

    Both batches are asked in the same pieces, so that nothing but their content differs.

    Args:
        singly: every row in a pass of its own, where no other row can matter.
    """
    asked = zip(first.split(1), second.split(1), strict=True) if singly else subject.pieces(first, second)
    found = [(clean(subject.logits(one)) - clean(subject.logits(other))).abs().amax(-1).cpu() for one, other in asked]
    return torch.cat(found)


def clean(logits: Tensor) -> Tensor:
    """Logits with those of forbidden tokens set to 0; NaN stays."""
    return logits.masked_fill(logits.abs() > _MASKED_LOGIT, 0.0).float()


def with_tokens(batch: Batch, ids: Tensor) -> Batch:
    """The batch with other tokens where its logits are."""
    return replace(batch, input_ids=ids)


def repeated(batch: Batch, rows: int) -> Batch:
    """The first row, so many times."""
    return batch.take([0] * rows)


def joined(parts: list[Batch]) -> Batch:
    """The rows of several batches, one after the other."""
    columns = {name for name, value in vars(parts[0]).items() if value is not None}
    return replace(parts[0], **{name: torch.cat([vars(part)[name] for part in parts]) for name in columns})


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
    cause = "the logits hold NaN or infinity, so nothing can be compared"
    remedy = "see gradient.non_finite, which locates the first of them; then run this check again"
    return [Rule(check, "logits are finite").noted({"finite_logits": False}, cause, remedy)]
