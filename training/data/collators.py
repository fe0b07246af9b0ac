"""Rows into batches: pads and stacks, nothing else. What is random happens in masking.py, on the device."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
import torch

IGNORED = -100


class TextRow(TypedDict):
    """One row on its way into a batch."""

    input_ids: np.ndarray
    row_id: int
    pass_index: int


class BlockRow(TextRow):
    """A packed block on its way into a batch; a place's position counts from the beginning of its document."""

    position_ids: np.ndarray


class PairRow(TextRow):
    """A context on its way into a batch, with the labels of its reply."""

    labels: np.ndarray


@dataclass(frozen=True)
class TextCollator:
    """Pads rows on the right to the longest of the batch.

    Attributes:
        pad_token_id: fills the rows.
        pad_to_multiple_of: rounds the length up, which spares compiled models new shapes; None does not.
    """

    pad_token_id: int
    pad_to_multiple_of: int | None = None

    def __call__(self, rows: Sequence[TextRow]) -> dict[str, torch.Tensor]:
        """`input_ids`, `attention_mask` (batch, length), `row_id`, `pass_index` (batch,), all int64."""
        mask = _places([len(row["input_ids"]) for row in rows], self.pad_to_multiple_of)
        return {
            "input_ids": _padded([row["input_ids"] for row in rows], mask, self.pad_token_id),
            "attention_mask": torch.from_numpy(mask.astype(np.int64)),
            **_keys(rows),
        }


@dataclass(frozen=True)
class BlockCollator:
    """Stacks packed blocks; a shorter one is padded on the right.

    Attributes:
        pad_token_id: fills the rows.
    """

    pad_token_id: int

    def __call__(self, rows: Sequence[BlockRow]) -> dict[str, torch.Tensor]:
        """`input_ids`, `attention_mask`, `position_ids` (batch, length; 0 at pads), `row_id`, `pass_index` (batch,)"""
        mask = _places([len(row["input_ids"]) for row in rows], None)
        return {
            "input_ids": _padded([row["input_ids"] for row in rows], mask, self.pad_token_id),
            "attention_mask": torch.from_numpy(mask.astype(np.int64)),
            "position_ids": _padded([row["position_ids"] for row in rows], mask, 0),
            **_keys(rows),
        }


@dataclass(frozen=True)
class PairCollator:
    """Pads contexts and replies on the right, each to the longest of the batch.

    Attributes:
        pad_token_id: fills the contexts; the labels are filled with -100.
    """

    pad_token_id: int

    def __call__(self, rows: Sequence[PairRow]) -> dict[str, torch.Tensor]:
        """`input_ids`, `attention_mask` (batch, context), `labels` (batch, reply), `row_id`, `pass_index` (batch,)."""
        labels = [row["labels"] for row in rows]
        replies = _padded(labels, _places([len(label) for label in labels], None), IGNORED)
        return {**TextCollator(self.pad_token_id)(rows), "labels": replies}


def _places(lengths: list[int], multiple: int | None) -> np.ndarray:
    """(rows, longest) bool: where a row has a value."""
    longest = max(lengths)
    if multiple is not None:
        longest = -(-longest // multiple) * multiple
    return np.arange(longest) < np.array(lengths)[:, None]


def _padded(values: list[np.ndarray], mask: np.ndarray, fill: int) -> torch.Tensor:
    padded = np.full(mask.shape, fill, dtype=np.int64)
    padded[mask] = np.concatenate(values)
    return torch.from_numpy(padded)


def _keys(rows: Sequence[TextRow]) -> dict[str, torch.Tensor]:
    """What a row's randomness is a function of, beside the seed."""
    return {
        "row_id": torch.tensor([row["row_id"] for row in rows], dtype=torch.int64),
        "pass_index": torch.tensor([row["pass_index"] for row in rows], dtype=torch.int64),
    }
