"""Which row comes when: a permutation per pass over the data, each a function of (seed, pass) alone.

A resumed run asks for the same order without any saved state. Passes follow each other without a seam: a batch may
hold the last rows of one and the first of the next, and nothing is dropped. By choice, rows of like length are put
into one batch, within windows of the permutation: less padding, and nearly as random.
"""

import itertools
from collections.abc import Iterator, Sequence

import datasets
import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from modeling_jepa.counter_random import counter_hash
from training.data.collators import TextRow

_STREAM, _GROUPS = 0x5EED, 0x6209
WINDOW_GROUPS = 32


class PassSampler(Sampler[tuple[int, int]]):
    """Yields (row index, pass index).

    Args:
        num_rows: rows of the data set.
        seed: of the run.
        num_samples: how many to yield in all; steps x global batch, over as many passes as that takes.
        group_size: rows of a global batch; with it, windows of `WINDOW_GROUPS` such groups are sorted by length, and
            the groups of a window shuffled. Without it, the permutations are taken as they are.
        lengths: (rows,) tokens per row; needed with `group_size`.

    Raises:
        ValueError: no rows, a negative number of samples, or groups without as many lengths as rows.
    """

    def __init__(
        self,
        num_rows: int,
        seed: int,
        num_samples: int,
        group_size: int | None = None,
        lengths: np.ndarray | None = None,
    ) -> None:
        if num_rows < 1 or num_samples < 0:
            raise ValueError(
                f"num_rows: got {num_rows}, num_samples: got {num_samples}; use 1 row and 0 samples or more"
            )
        if group_size is not None and (group_size < 1 or lengths is None or len(lengths) != num_rows):
            raise ValueError(f"group_size: got {group_size}; it needs groups of 1 or more and one length per row")
        self.num_rows = num_rows
        self.seed = seed
        self.num_samples = num_samples
        self.group_size = group_size
        self.lengths = lengths

    def __len__(self) -> int:
        return self.num_samples

    def __iter__(self) -> Iterator[tuple[int, int]]:
        samples = self._permuted() if self.group_size is None else self._grouped(self.group_size)
        return itertools.islice(samples, self.num_samples)

    def _permuted(self) -> Iterator[tuple[int, int]]:
        """Pass after pass, without an end."""
        for pass_index in itertools.count():
            yield from ((row, pass_index) for row in permutation(self.num_rows, self.seed, pass_index).tolist())

    def _grouped(self, group_size: int) -> Iterator[tuple[int, int]]:
        """The same stream, window by window, each window's groups of like length in a random order."""
        stream = self._permuted()
        for window_index in itertools.count():
            window = np.array(list(itertools.islice(stream, WINDOW_GROUPS * group_size)))
            by_length = window[np.argsort(self.lengths[window[:, 0]], kind="stable")]
            groups = counter_hash(self.seed, _GROUPS, window_index, torch.arange(WINDOW_GROUPS)).argsort()
            for group in groups.tolist():
                rows = by_length[group * group_size : (group + 1) * group_size]
                yield from ((row, pass_index) for row, pass_index in rows.tolist())


def permutation(num_rows: int, seed: int, pass_index: int) -> torch.Tensor:
    """The order of the rows in one pass, int64 (num_rows,)."""
    return torch.argsort(counter_hash(seed, _STREAM, pass_index, torch.arange(num_rows)), stable=True)


class PassDataset(Dataset[TextRow]):
    """Rows by (row index, pass index), out of flat arrays: quick, and shared with workers without a copy.

    Args:
        dataset: columns `input_ids`, `row_id` and, of blocks, `position_ids`, of pairs, `labels`.
    """

    def __init__(self, dataset: datasets.Dataset) -> None:
        names = [name for name in ("input_ids", "position_ids", "labels") if name in dataset.column_names]
        table = dataset.select_columns([*names, "row_id"]).with_format("arrow")[:]
        columns = {name: table.column(name).combine_chunks() for name in names}
        self._values: dict[str, np.ndarray] = {name: column.flatten().to_numpy() for name, column in columns.items()}
        self._ends: dict[str, np.ndarray] = {
            name: np.cumsum(column.value_lengths().to_numpy(), dtype=np.int64) for name, column in columns.items()
        }
        self._row_ids: np.ndarray = table.column("row_id").to_numpy()

    @property
    def lengths(self) -> np.ndarray:
        """(rows,) tokens per row; of a pair those of context and reply."""
        return sum(np.diff(ends, prepend=0) for name, ends in self._ends.items() if name != "position_ids")

    def __len__(self) -> int:
        return len(self._row_ids)

    def __getitem__(self, key: tuple[int, int]) -> TextRow:
        row, pass_index = key
        found = {}
        for name, ends in self._ends.items():
            found[name] = self._values[name][ends[row - 1] if row else 0 : ends[row]]
        return {**found, "row_id": int(self._row_ids[row]), "pass_index": pass_index}

    def __getitems__(self, keys: Sequence[tuple[int, int]]) -> list[TextRow]:
        """A batch at once; the data loader looks for this method."""
        return [self[key] for key in keys]
