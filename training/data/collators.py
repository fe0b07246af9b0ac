"""Rows into batches: pads and stacks, nothing else. What is random happens in masking.py, on the device."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
import torch


class TextRow(TypedDict):
    """One row on its way into a batch."""

    input_ids: np.ndarray
    row_id: int
    pass_index: int


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
        lengths = np.array([len(row["input_ids"]) for row in rows])
        longest = int(lengths.max())
        if self.pad_to_multiple_of is not None:
            longest = -(-longest // self.pad_to_multiple_of) * self.pad_to_multiple_of
        attention_mask = (np.arange(longest) < lengths[:, None]).astype(np.int64)
        input_ids = np.full((len(rows), longest), self.pad_token_id, dtype=np.int64)
        input_ids[attention_mask.astype(bool)] = np.concatenate([row["input_ids"] for row in rows])
        return {
            "input_ids": torch.from_numpy(input_ids),
            "attention_mask": torch.from_numpy(attention_mask),
            "row_id": torch.tensor([row["row_id"] for row in rows], dtype=torch.int64),
            "pass_index": torch.tensor([row["pass_index"] for row in rows], dtype=torch.int64),
        }
