"""Labelled rows made ready once for a classifier."""

import json
from dataclasses import dataclass, replace
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import torch
from transformers import PreTrainedTokenizerFast

from training.data.collators import TextCollator, TextRow
from training.data.prepared import Prepared
from training.data.sampling import PassDataset
from training.data.sources.locate import Rows, load_rows
from training.data.text_classifier.labels import LabelScheme
from training.data.text_jepa.rows import RowPreparation

LABELS = "labels_of_row"


class LabelledPreparation(RowPreparation):
    """Rows with the columns `input_ids`, `row_id` and `labels_of_row`: a number, or one for each class.

    The report of the training part has `problem_type` and `names` of the classes, see `LabelScheme`.
    """

    kind = "labelled split"

    def load(self, split: str) -> Rows:
        """See `load_rows`."""
        return load_rows(self.settings, split, with_labels=True)

    def encode(
        self, loaded: Rows, split: str, tokenizer: PreTrainedTokenizerFast
    ) -> tuple[datasets.Dataset, dict[str, int]]:
        """As of texts; the labels stay as they stand in the source, as JSON."""
        encoded, counts = super().encode(loaded, split, tokenizer)
        label_of = dict(zip(loaded.dataset["row_id"], loaded.dataset["label"], strict=True))
        labels = pa.array([label_of[row] for row in encoded["row_id"]], pa.string())
        return datasets.Dataset(encoded.with_format("arrow")[:].append_column(LABELS, labels)), counts

    def prepare(self, tokenizer: PreTrainedTokenizerFast | None = None) -> Prepared:
        """See `Preparation`. Raises InputError also for labels that cannot be learned, see `LabelScheme`."""
        prepared = super().prepare(tokenizer)
        column = self.settings.label_column
        scheme = LabelScheme.found_in(_labels(prepared.train), column, self.settings.problem_type)
        prepared.reports["train"]["labels"] = {"problem_type": scheme.problem_type, "names": list(scheme.names)}

        def make_test() -> tuple[datasets.Dataset, dict[str, Any]]:
            test, report = prepared.make_test()
            return with_numbers(test, scheme, "test"), report

        return replace(
            prepared,
            train=with_numbers(prepared.train, scheme, "train"),
            valid=with_numbers(prepared.valid, scheme, "valid"),
            make_test=make_test,
        )


def scheme_of(prepared: Prepared) -> LabelScheme:
    """What the labels of a run are."""
    said = prepared.reports["train"]["labels"]
    return LabelScheme(said["problem_type"], tuple(said["names"]))


def with_numbers(rows: datasets.Dataset, scheme: LabelScheme, split: str) -> datasets.Dataset:
    """Rows of `LabelledPreparation.encode` with their labels as the model takes them."""
    numbers = scheme.encoded(_labels(rows), split)
    table = rows.with_format("arrow")[:]
    kind = pa.int64() if numbers.dtype.kind == "i" else pa.float32()
    column = pa.array(numbers.tolist(), pa.list_(kind) if numbers.ndim == 2 else kind)
    return datasets.Dataset(table.set_column(table.column_names.index(LABELS), LABELS, column))


def _labels(rows: datasets.Dataset) -> list[Any]:
    return [json.loads(label) for label in rows[LABELS]]


class LabelledDataset(PassDataset):
    """Rows by (row index, pass index), with their labels."""

    def __init__(self, dataset: datasets.Dataset) -> None:
        super().__init__(dataset)
        self._labels = np.array(dataset[LABELS])
        self._labels = self._labels.astype(np.float32 if self._labels.dtype.kind == "f" else np.int64)

    def __getitem__(self, key: tuple[int, int]) -> TextRow:
        return {**super().__getitem__(key), "label": self._labels[key[0]]}  # type: ignore[typeddict-unknown-key]


@dataclass(frozen=True)
class LabelledCollator(TextCollator):
    """As of texts, with `labels` (batch,) or (batch, classes)."""

    def __call__(self, rows: Any) -> dict[str, torch.Tensor]:
        """See the class."""
        return {**super().__call__(rows), "labels": torch.from_numpy(np.stack([row["label"] for row in rows]))}


def without_keys(batch: dict[str, torch.Tensor], progress: float = 0.0) -> dict[str, torch.Tensor]:
    """The model's inputs: nothing is hidden."""
    return {name: batch[name] for name in ("input_ids", "attention_mask", "labels")}
