"""A corpus larger than memory, read as training goes on, in an order that a cursor finds again.

    shards, permuted per pass -> windows of a shard, of bounded size -> rows as ids -> arranged -> groups of rows

The order is a function of (seed, pass, shard, window) alone: not of workers, processes, or what happened before.
Every row comes with the cursor after its group; a run that resumes hands back the cursor of the last batch it trained
on, and only the window it points into is read again. What an arrangement has left over at the end of a window (the
rows of an open group; for one that packs blocks, tokens) goes to the next window by way of the cursor.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar, Protocol

import datasets
import numpy as np
import pyarrow as pa
import torch
from torch.utils.data import IterableDataset, get_worker_info
from transformers import PreTrainedTokenizerFast

from modeling_jepa.counter_random import counter_hash
from training.common.errors import InputError
from training.data.collators import TextRow
from training.data.sampling import PassDataset
from training.data.settings import SourceSettings
from training.data.sources.locate import belongs_to, locate
from training.data.sources.readers import Shard
from training.data.sources.rows import RawRow, RowReport, check_bad_share, row_ids, sift
from training.data.sources.shards import find_shards
from training.data.tokenization import encode_rows

WINDOW_CHARACTERS = 2_000_000
ROWS_BEFORE_JUDGING = 10_000
_SHARDS, _ROWS, _GROUPS = 0x5A4D, 0x5EED, 0x6209


@dataclass(frozen=True)
class Cursor:
    """A place in a stream: the beginning of a window, and how many rows of it were given.

    Attributes:
        pass_index: passes done.
        shard: shards done in this pass, in its own order of them.
        position, line: where the window begins in its shard, see `Shard.rows`.
        row: arranged rows of the window that were given.
        carried: what the window before left over for this one, see `Arrange`.
        report: rows counted before the window; those of the first pass, which sees each row once.
    """

    pass_index: int = 0
    shard: int = 0
    position: int = 0
    line: int = 0
    row: int = 0
    carried: tuple[int, ...] = ()
    report: RowReport = field(default_factory=lambda: RowReport("", "train"))

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Cursor":
        """The inverse of `to_dict`, also after a way through JSON."""
        return cls(**{**values, "carried": tuple(values["carried"]), "report": RowReport(**values["report"])})


class StreamRow(TextRow):
    """A row, and where to go on once its group is done."""

    cursor: Cursor


@dataclass(frozen=True)
class StreamCollator:
    """Batches of a stream: those of `collator`, with the cursor after them. See `take_cursor`."""

    collator: Callable[[Sequence[TextRow]], dict[str, torch.Tensor]]

    def __call__(self, rows: Sequence[StreamRow | dict[str, str]]) -> dict[str, Any]:
        """The collator's batch and `cursor`, or `fault` alone."""
        if "fault" in rows[-1]:
            return {"fault": rows[-1]["fault"]}
        return {**self.collator(rows), "cursor": rows[-1]["cursor"]}


def take_cursor(batches: Sequence[dict[str, Any]]) -> Cursor:
    """Take the cursors out of batches; returns the last one. Raises InputError for a worker's fault."""
    for batch in batches:
        if "fault" in batch:
            raise InputError(batch["fault"])
    return [batch.pop("cursor") for batch in batches][-1]


class Arrange(Protocol):
    """Decides what the model gets of a window."""

    def __call__(
        self, window: PassDataset, order: np.ndarray, pass_index: int, carried: tuple[int, ...]
    ) -> tuple[list[TextRow], tuple[int, ...]]:
        """The window's training rows in order, and what is left over for the next window.

        Args:
            window: rows of token ids.
            order: (rows,) a permutation of them, random by (seed, pass, shard, window).
            carried: what the window before left over; () at the start of the stream.
        """


@dataclass(frozen=True)
class LikeLengths:
    """Rows one by one; with `group_size`, rows of like length share a group, and the groups come at random.

    A group that a window leaves open is filled by the next one, both with their shortest rows. What is carried over is
    the number of rows in the open group.
    """

    group_size: int | None = None

    def __call__(
        self, window: PassDataset, order: np.ndarray, pass_index: int, carried: tuple[int, ...]
    ) -> tuple[list[TextRow], tuple[int, ...]]:
        """See `Arrange`."""
        if self.group_size is not None:
            order, carried = self._grouped(order, window.lengths, carried[0] if carried else 0)
        return window.__getitems__([(row, pass_index) for row in order.tolist()]), carried

    def _grouped(self, order: np.ndarray, lengths: np.ndarray, opened: int) -> tuple[np.ndarray, tuple[int, ...]]:
        size = self.group_size
        by_length = order[np.argsort(lengths[order], kind="stable")]
        first, rest = np.split(by_length, [min(-opened % size, len(order))])
        last, middle = np.split(rest, [len(rest) % size])
        groups = middle.reshape(-1, size)
        # in the order in which the permutation brings their first rows
        groups = groups[np.argsort(np.argsort(order)[groups[:, 0]], kind="stable")]
        return np.concatenate([first, groups.ravel(), last]), ((opened + len(order)) % size,)


class TextStream(IterableDataset[StreamRow]):
    """Rows without an end, pass after pass, from a cursor on.

    In a data loader with workers each of them reads all windows and gives its own groups of `turn` rows, so that the
    batches are those of no worker. A worker reads ahead while the model trains; a second one brings nothing.

    Args:
        settings: with `streaming`.
        turn: rows that are taken at once: a batch, times the processes.
        arrange: what becomes of a window's rows.

    Raises:
        InputError: no such shards; while reading, a shard that cannot be read, too many bad rows, or a pass without a
            row. In a worker it is a row with the key `fault`, which `StreamCollator` hands on as a batch.
    """

    unit: ClassVar[str] = "rows"

    def __init__(
        self,
        settings: SourceSettings,
        tokenizer: PreTrainedTokenizerFast,
        max_length: int,
        seed: int,
        turn: int,
        arrange: Arrange,
    ) -> None:
        self.settings = settings
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.seed = seed
        self.turn = turn
        self.arrange = arrange
        self.source = locate(settings)
        self.shards: list[Shard] = find_shards(settings)["train"]
        self.cursor = Cursor(report=RowReport(self.source.name, "train", unit=self.unit))

    def seek(self, cursor: Cursor) -> None:
        """Begin there the next time the stream is read."""
        self.cursor = cursor

    def passes(self, cursor: Cursor) -> float:
        """Passes over the corpus before the window of a cursor; its shards count alike."""
        within = self.shards[self._shard_order(cursor.pass_index)[cursor.shard]].share_before(cursor.position)
        return cursor.pass_index + (cursor.shard + within) / len(self.shards)

    def _shard_order(self, pass_index: int) -> list[int]:
        keys = counter_hash(self.seed, _SHARDS, pass_index, torch.arange(len(self.shards)))
        return torch.argsort(keys, stable=True).tolist()

    def __iter__(self) -> Iterator[StreamRow | dict[str, str]]:
        worker = get_worker_info()
        if worker is None:
            for group in self._groups(self.cursor):
                yield from group
            return
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # or it warns in every forked worker
        try:
            for number, group in enumerate(self._groups(self.cursor)):
                if number % worker.num_workers == worker.id:
                    yield from group
        except InputError as error:  # raised here, it would arrive with the traceback of the worker in it
            while True:
                yield {"fault": str(error)}

    def _groups(self, cursor: Cursor) -> Iterator[list[StreamRow]]:
        """`turn` rows at a time, each with the cursor after the last of them."""
        group: list[TextRow] = []
        given = cursor.row
        for start, rows in self._windows(replace(cursor, row=0)):
            for number, row in enumerate(rows[given:], start=given + 1):
                group.append(row)
                if len(group) == self.turn:
                    after = replace(start, row=number)
                    yield [{**row, "cursor": after} for row in group]
                    group = []
            given = 0

    def _windows(self, cursor: Cursor) -> Iterator[tuple[Cursor, list[TextRow]]]:
        """(where a window begins, its arranged rows), pass after pass."""
        while True:
            order = self._shard_order(cursor.pass_index)
            any_rows = (cursor.shard, cursor.position) != (0, 0)
            while cursor.shard < len(self.shards):
                for start, rows, after in self._shard_windows(order[cursor.shard], cursor):
                    yield start, rows
                    cursor, any_rows = after, any_rows or bool(rows)
                cursor = replace(cursor, shard=cursor.shard + 1, position=0, line=0)
            check_bad_share(cursor.report, self.settings, self.source.name)
            if not any_rows:
                raise InputError(f"data: no row to train on in the stream; {cursor.report.summary()}")
            cursor = replace(cursor, pass_index=cursor.pass_index + 1, shard=0)

    def _shard_windows(self, number: int, cursor: Cursor) -> Iterator[tuple[Cursor, list[TextRow], Cursor]]:
        """(where a window begins, its rows, where the next one begins) to the end of one shard."""
        shard = self.shards[number]
        raw = shard.rows(cursor.position, cursor.line)
        while window := self._take(raw):
            report = deepcopy(cursor.report)
            encoded = self.encode(shard, [row for row, _ in window], report)
            keys = counter_hash(
                self.seed, _ROWS, cursor.pass_index, number, cursor.position, torch.arange(len(encoded))
            )
            order = torch.argsort(keys, stable=True).numpy()
            rows, carried = self.arrange(encoded, order, cursor.pass_index, cursor.carried)
            if cursor.pass_index > 0:
                report = cursor.report
            elif report.read >= ROWS_BEFORE_JUDGING:
                check_bad_share(report, self.settings, self.source.name)
            last, position = window[-1]
            after = replace(cursor, position=position, line=last.place, carried=carried, report=report)
            yield cursor, rows, after
            cursor = after

    def _take(self, raw: Iterator[tuple[RawRow, int]]) -> list[tuple[RawRow, int]]:
        """The next window: so many rows, fewer where they are long."""
        window: list[tuple[RawRow, int]] = []
        characters = 0
        for item in raw:
            window.append(item)
            characters += sum(map(len, item[0].texts))
            if len(window) >= self.settings.stream_window or characters >= WINDOW_CHARACTERS:
                break
        return window

    def encode(self, shard: Shard, rows: Sequence[RawRow], report: RowReport) -> PassDataset:
        """The window's training rows as ids. Their numbers are a function of text, shard and place in it."""
        ours = (row for row in rows if row.problem is not None or belongs_to(row, self.source, "train"))
        found = [(row.place, phrase) for row, phrase in sift(ours, self.settings, report, shard.where)]
        texts = pa.array([phrase for _, phrase in found], pa.string())
        # by `row_ids`, the same phrase twice in one row gets two numbers
        table = pa.table(
            {"text": texts, "row_id": row_ids([f"{text}\0{shard.name}\0{place}" for place, text in found])}
        )
        encoded = encode_rows(datasets.Dataset(table), self.tokenizer, self.max_length, self.settings.long_rows)
        return PassDataset(encoded.dataset)
