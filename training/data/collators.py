"""Rows into batches: pads and stacks, nothing else. What is random happens in masking.py, on the device."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NotRequired, TypedDict

import numpy as np
import torch

IGNORED = -100


class TextRow(TypedDict):
    """One row on its way into a batch: a text, a packed block, or a context with the labels of its reply."""

    input_ids: np.ndarray
    row_id: int
    pass_index: int
    position_ids: NotRequired[np.ndarray]  # of a block: a place's, from the beginning of its document
    labels: NotRequired[np.ndarray]  # of a reply


@dataclass(frozen=True)
class TextCollator:
    """Pads rows on the right, each of their columns to its longest of the batch.

    Attributes:
        pad_token_id: fills the ids; positions are filled with 0, labels with -100.
        pad_to_multiple_of: rounds the length of ids up, which spares compiled models new shapes; None does not.
    """

    pad_token_id: int
    pad_to_multiple_of: int | None = None

    def __call__(self, rows: Sequence[TextRow]) -> dict[str, torch.Tensor]:
        """Padded columns.

        Returns:
            `input_ids`, `attention_mask` and, where the rows have them, `position_ids` (batch, length), `labels`
            (batch, longest reply), `row_id`, `pass_index` (batch,), all int64. A row's randomness is a function of the
            last two, beside the seed.
        """
        ids, mask = _padded([row["input_ids"] for row in rows], self.pad_token_id, self.pad_to_multiple_of)
        batch = {"input_ids": ids, "attention_mask": torch.from_numpy(mask.astype(np.int64))}
        for name, fill in (("position_ids", 0), ("labels", IGNORED)):
            if name in rows[0]:
                batch[name], _ = _padded([row[name] for row in rows], fill)
        for name in ("row_id", "pass_index"):
            batch[name] = torch.tensor([row[name] for row in rows], dtype=torch.int64)
        return batch


def _padded(values: list[np.ndarray], fill: int, multiple: int | None = None) -> tuple[torch.Tensor, np.ndarray]:
    """(rows, longest) int64, and of the same shape where a row has a value."""
    lengths = np.array([len(row) for row in values])
    longest = -(-lengths.max() // (multiple or 1)) * (multiple or 1)
    mask = np.arange(longest) < lengths[:, None]
    padded = np.full(mask.shape, fill, dtype=np.int64)
    padded[mask] = np.concatenate(values)
    return torch.from_numpy(padded), mask
