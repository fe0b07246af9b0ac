"""Packed blocks out of a corpus larger than memory, in an order that a cursor finds again; see streaming.py.

The documents of a window come in a random order, end to end, behind the tokens that the window before left over for
want of a whole block. So nothing is dropped, at the end of a pass neither, and those tokens are part of the cursor.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import datasets
import numpy as np
import pyarrow as pa
import torch

from modeling_jepa.counter_random import counter_hash
from training.data.collators import TextRow
from training.data.sampling import PassDataset
from training.data.sources.locate import belongs_to
from training.data.sources.readers import Shard
from training.data.sources.rows import RawRow, RowReport, row_ids
from training.data.staged_generator.documents import join_rows
from training.data.staged_generator.framing import encode_documents
from training.data.staged_generator.packing import TokenRun, pack
from training.data.streaming import TextStream

_BLOCKS = 0xB10C


@dataclass(frozen=True)
class PackedBlocks:
    """Arranges a window of framed documents as whole blocks, in a random order of their own; see `Arrange`.

    Two blocks of one long document would otherwise share a batch. What is carried over are the tokens of the block
    that is not full, see `TokenRun.to_ints`.
    """

    block_size: int
    seed: int

    def __call__(
        self, window: PassDataset, order: np.ndarray, pass_index: int, carried: tuple[int, ...]
    ) -> tuple[list[TextRow], tuple[int, ...]]:
        """See `Arrange`."""
        documents = (window[row, pass_index]["input_ids"] for row in order.tolist())
        run = TokenRun.of_documents(documents).after(TokenRun.from_ints(carried))
        whole, rest = run.split(len(run.ids) // self.block_size * self.block_size)
        if not len(whole.ids):
            return [], rest.to_ints()
        blocks = PassDataset(pack(whole, self.block_size))
        numbers = torch.tensor([row["row_id"] for row in blocks.__getitems__([(n, 0) for n in range(len(blocks))])])
        shuffled = torch.argsort(counter_hash(self.seed, _BLOCKS, pass_index, numbers), stable=True)
        return blocks.__getitems__([(row, pass_index) for row in shuffled.tolist()]), rest.to_ints()


class GeneratorStream(TextStream):
    """Packed blocks without an end, pass after pass, from a cursor on. A document is a row; `max_length` is that of a
    block, `arrange` a `PackedBlocks`.
    """

    unit = "documents"

    def encode(self, shard: Shard, rows: Sequence[RawRow], report: RowReport) -> PassDataset:
        """The window's training documents as framed ids."""
        ours = (row for row in rows if row.problem is not None or belongs_to(row, self.source, "train"))
        texts = [document.texts[0] for document in join_rows(ours, "rows", report, shard.where)]
        report.kept += len(texts)
        ids = pa.array(list(encode_documents(texts, self.tokenizer)), pa.list_(pa.int32()))
        return PassDataset(datasets.Dataset(pa.table({"input_ids": ids, "row_id": row_ids(texts)})))
