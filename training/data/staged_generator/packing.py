"""Documents end to end in blocks of one length; the last block may be shorter, and nothing is dropped or repeated.

A place's position counts from the beginning of its document, or of its block where the document began in an earlier
one: what lies before cannot be seen. So positions alone say where a document begins, and which places belong together.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import datasets
import numpy as np
import pyarrow as pa


@dataclass(frozen=True)
class TokenRun:
    """Tokens in sequence, and which of them begin a document.

    Attributes:
        ids: (tokens,) int32.
        begins: (tokens,) bool.
    """

    ids: np.ndarray
    begins: np.ndarray

    @classmethod
    def of_documents(cls, documents: Iterable[np.ndarray]) -> "TokenRun":
        """Framed documents, end to end."""
        runs = [np.asarray(ids, dtype=np.int32) for ids in documents]
        if not runs:
            return cls(np.zeros(0, np.int32), np.zeros(0, bool))
        lengths = np.array([len(ids) for ids in runs])
        begins = np.zeros(lengths.sum(), dtype=bool)
        begins[np.cumsum(lengths) - lengths] = True
        return cls(np.concatenate(runs), begins)

    def after(self, earlier: "TokenRun") -> "TokenRun":
        """This run, behind an earlier one."""
        return TokenRun(np.concatenate([earlier.ids, self.ids]), np.concatenate([earlier.begins, self.begins]))

    def split(self, place: int) -> tuple["TokenRun", "TokenRun"]:
        """What lies before a place, and the rest."""
        return TokenRun(self.ids[:place], self.begins[:place]), TokenRun(self.ids[place:], self.begins[place:])

    def positions(self, block_size: int) -> np.ndarray:
        """(tokens,) int32: of each token in its document, or in its block where the document began before it."""
        places = np.arange(len(self.ids), dtype=np.int64)
        of_document = places - np.maximum.accumulate(np.where(self.begins, places, 0))
        return np.minimum(of_document, places % block_size).astype(np.int32)

    def to_ints(self) -> tuple[int, ...]:
        """As plain numbers, where a token that begins a document is the complement of its id."""
        return tuple(np.where(self.begins, ~self.ids, self.ids).tolist())

    @classmethod
    def from_ints(cls, values: tuple[int, ...]) -> "TokenRun":
        """The inverse of `to_ints`."""
        signed = np.array(values, dtype=np.int32)
        return cls(np.where(signed < 0, ~signed, signed), signed < 0)


def pack(run: TokenRun, block_size: int) -> datasets.Dataset:
    """The blocks of a run.

    Returns:
        Columns `input_ids` and `position_ids` (lists of int32, `block_size` long; the last one may be shorter) and
        `row_id` (int64, by content).
    """
    ends = np.append(np.arange(0, len(run.ids), block_size), len(run.ids)).astype(np.int32)
    blocks = [run.ids[begin:end] for begin, end in pairwise(ends)]
    table = pa.table(
        {
            "input_ids": pa.ListArray.from_arrays(ends, run.ids),
            "position_ids": pa.ListArray.from_arrays(ends, run.positions(block_size)),
            "row_id": pa.array(_block_ids(blocks), pa.int64()),
        }
    )
    return datasets.Dataset(table)


def count_predictions(blocks: datasets.Dataset, vocab_size: int) -> np.ndarray:
    """How often each token is predicted in one pass over the blocks, (vocab_size,) int64: the labels other than -100.

    The sum is the number of predictions.
    """
    counts = np.zeros(vocab_size, dtype=np.int64)
    for batch in blocks.with_format("arrow").iter(10_000):
        ids = batch["input_ids"].combine_chunks().flatten().to_numpy()
        positions = batch["position_ids"].combine_chunks().flatten().to_numpy()
        counts += np.bincount(ids[positions > 0], minlength=vocab_size)
    return counts


def _block_ids(blocks: list[np.ndarray]) -> list[int]:
    """A number for each block that depends on its tokens and on how often they came before."""
    seen: dict[bytes, int] = {}
    numbers = []
    for block in blocks:
        content = hashlib.blake2b(block.tobytes(), digest_size=16).digest()
        times = seen[content] = seen.get(content, -1) + 1
        digest = hashlib.blake2b(content + times.to_bytes(8, "little"), digest_size=8).digest()
        numbers.append(int.from_bytes(digest, "little") >> 1)
    return numbers
