"""Which row comes when: a permutation per pass over the data, each a function of (seed, pass) alone.

A resumed run asks for the same order without any saved state. Passes follow each other without a seam: a batch may
hold the last rows of one and the first of the next, and nothing is dropped.
"""

from collections.abc import Iterator, Sequence

import datasets
import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from modeling_jepa.counter_random import counter_hash
from training.data.collators import TextRow

_STREAM = 0x5EED


class PassSampler(Sampler[tuple[int, int]]):
    """Yields (row index, pass index).

    Args:
        num_rows: rows of the data set.
        seed: of the run.
        num_samples: how many to yield in all; steps x global batch, over as many passes as that takes.
    """

    def __init__(self, num_rows: int, seed: int, num_samples: int) -> None:
        if num_rows < 1 or num_samples < 0:
            raise ValueError(
                f"num_rows: got {num_rows}, num_samples: got {num_samples}; use 1 row and 0 samples or more"
            )
        self.num_rows = num_rows
        self.seed = seed
        self.num_samples = num_samples

    def __len__(self) -> int:
        return self.num_samples

    def __iter__(self) -> Iterator[tuple[int, int]]:
        for start in range(0, self.num_samples, self.num_rows):
            pass_index = start // self.num_rows
            order = permutation(self.num_rows, self.seed, pass_index)[: self.num_samples - start]
            yield from ((row, pass_index) for row in order.tolist())


def permutation(num_rows: int, seed: int, pass_index: int) -> torch.Tensor:
    """The order of the rows in one pass, int64 (num_rows,)."""
    return torch.argsort(counter_hash(seed, _STREAM, pass_index, torch.arange(num_rows)), stable=True)


class PassDataset(Dataset[TextRow]):
    """Rows by (row index, pass index), out of flat arrays: quick, and shared with workers without a copy.

    Args:
        dataset: columns `input_ids` and `row_id`.
    """

    def __init__(self, dataset: datasets.Dataset) -> None:
        table = dataset.with_format("arrow")[:]
        column = table.column("input_ids").combine_chunks()
        self._ids: np.ndarray = column.flatten().to_numpy()
        self._ends: np.ndarray = np.cumsum(column.value_lengths().to_numpy(), dtype=np.int64)
        self._row_ids: np.ndarray = table.column("row_id").to_numpy()

    def __len__(self) -> int:
        return len(self._row_ids)

    def __getitem__(self, key: tuple[int, int]) -> TextRow:
        row, pass_index = key
        start = self._ends[row - 1] if row else 0
        return {
            "input_ids": self._ids[start : self._ends[row]],
            "row_id": int(self._row_ids[row]),
            "pass_index": pass_index,
        }

    def __getitems__(self, keys: Sequence[tuple[int, int]]) -> list[TextRow]:
        """A batch at once; the data loader looks for this method."""
        return [self[key] for key in keys]
