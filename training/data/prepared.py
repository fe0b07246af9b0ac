"""Rows made ready once, and cached by content: that of the source's bytes, the settings and the tokenizer."""

import json
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import datasets
import numpy as np
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from training.common.errors import InputError
from training.data.cache import cached, digest, save_quietly
from training.data.settings import TRAINED_TOKENIZERS, DataSettings, SourceSettings
from training.data.sources.locate import Rows, load_rows, locate
from training.data.sources.rows import RowReport
from training.data.tokenization import TokenIds, build_tokenizer, count_tokens, encode_rows

DATA_FOLDER = "rows"
REPORT_FILE = "report.json"

Loaded = TypeVar("Loaded")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EncodedSplit:
    """One split as token ids.

    Attributes:
        dataset: columns `input_ids` and `row_id`.
        report: `rows` (the RowReport as a dict), `tokens` (the counts of `encode_rows`), `key` (the content's hash).
        folder: where it lies in the cache.
        is_new: it was made now, not before.
    """

    dataset: datasets.Dataset
    report: dict[str, Any]
    folder: Path
    is_new: bool


@dataclass
class Prepared:
    """All that a training run takes from the data.

    Attributes:
        tokenizer: built from the training part, or the one given.
        train, valid: columns `input_ids` and `row_id`; `test` is made when it is first asked for. With
            `settings.streaming`, a sample of them; what is trained on comes from `open_stream` (streaming.py).
        counts: training-part token counts, shape (vocabulary,), int64; special tokens, the unknown one too, count 0.
        data_hash: identifies source, settings, tokenizer and length.
        reports: of `train` and `valid`; `test` joins them when it is made.
    """

    settings: DataSettings
    max_length: int
    tokenizer: PreTrainedTokenizerFast
    train: datasets.Dataset
    valid: datasets.Dataset
    counts: np.ndarray
    data_hash: str
    reports: dict[str, dict[str, Any]] = field(default_factory=dict)

    @cached_property
    def test(self) -> datasets.Dataset:
        """The held-out part for the final score."""
        encoded = prepare_split(self.settings, "test", self.tokenizer, self.max_length)
        self.reports["test"] = encoded.report
        return encoded.dataset


def prepare(settings: DataSettings, max_length: int, tokenizer: PreTrainedTokenizerFast | None = None) -> Prepared:
    """Train and valid as token ids, with a tokenizer built from the training part unless one is given.

    Raises:
        InputError: see `load_rows`, `build_tokenizer` and `encode_rows`.
    """
    settings.validate()
    rows = once(lambda: load_rows(settings, "train"))
    if tokenizer is None:
        tokenizer = _cached_tokenizer(settings, max_length, rows)
    train = prepare_split(settings, "train", tokenizer, max_length, rows)
    valid = prepare_split(settings, "valid", tokenizer, max_length)
    say_what_was_prepared(settings, train, valid)
    ids = TokenIds.from_tokenizer(tokenizer)
    return Prepared(
        settings=settings,
        max_length=max_length,
        tokenizer=tokenizer,
        train=train.dataset,
        valid=valid.dataset,
        counts=count_tokens(train.dataset, ids.vocab_size, ids.special_ids),
        data_hash=digest(train.report["key"], valid.report["key"]),
        reports={"train": train.report, "valid": valid.report},
    )


def prepare_split(
    settings: DataSettings,
    split: str,
    tokenizer: PreTrainedTokenizerFast,
    max_length: int,
    rows: Callable[[], Rows] | None = None,
) -> EncodedSplit:
    """One split as token ids: train, valid, test or all.

    Args:
        rows: gives the split's rows where the caller may have them at hand already.
    """
    settings.validate()
    fingerprint = locate(settings).fingerprint(split)
    key = digest("split", split, fingerprint, relevant(settings), tokenizer_hash(tokenizer), max_length)

    def make(folder: Path) -> None:
        loaded = rows() if rows is not None else load_rows(settings, split)
        encoded = encode_rows(loaded.dataset, tokenizer, max_length, settings.long_rows)
        if not len(encoded.dataset):
            raise InputError(
                f"data: none of the {encoded.report['rows']:,} rows of {settings.data} [{split}] has a word that the "
                "tokenizer knows; give another source, a larger max_vocab or another tokenizer"
            )
        save_quietly(encoded.dataset, folder / DATA_FOLDER)
        report = {"key": key, "rows": loaded.report.to_dict(), "tokens": encoded.report}
        (folder / REPORT_FILE).write_text(json.dumps(report, indent=1), encoding="utf-8")

    folder, is_new = cached(key, make)
    report = json.loads((folder / REPORT_FILE).read_text(encoding="utf-8"))
    return EncodedSplit(datasets.load_from_disk(str(folder / DATA_FOLDER)), report, folder, is_new)


def tokenizer_hash(tokenizer: PreTrainedTokenizerFast) -> str:
    """Changes with the vocabulary, the rules and the special tokens; not with where it was loaded from."""
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    pipeline = json.loads(tokenizer.backend_tokenizer.to_str())
    pipeline.pop("truncation", None)  # set by the last call, no part of the vocabulary
    pipeline.pop("padding", None)
    return digest(pipeline, special)


def _cached_tokenizer(settings: DataSettings, max_length: int, rows: Callable[[], Rows]) -> PreTrainedTokenizerFast:
    if settings.tokenizer not in TRAINED_TOKENIZERS:
        return build_tokenizer(settings, [], max_length)
    key = digest("tokenizer", locate(settings).fingerprint("train"), relevant(settings), max_length)

    def make(folder: Path) -> None:
        build_tokenizer(settings, rows().dataset["text"], max_length).save_pretrained(folder)

    return AutoTokenizer.from_pretrained(cached(key, make)[0])


def say_what_was_prepared(
    settings: SourceSettings, train: EncodedSplit, valid: EncodedSplit, unit: str = "rows"
) -> None:
    """What the user should know of the rows: one line where they were prepared before."""
    if not train.is_new and not valid.is_new:
        count = len(train.dataset)
        logger.info(
            "%s: %s training %s, prepared before, taken from %s", settings.data, f"{count:,}", unit, train.folder
        )
        for split in (train, valid):
            if split.report["rows"]["bad"]:
                logger.info("%s", RowReport(**split.report["rows"]).summary())
        return
    for split in (train, valid):
        logger.info("%s", RowReport(**split.report["rows"]).summary())
        logger.info(
            "as token ids: %s", ", ".join(f"{name} {count:,}" for name, count in split.report["tokens"].items())
        )
    for note in train.report["rows"]["notes"]:
        logger.info("%s", note)


def relevant(settings: SourceSettings) -> dict[str, Any]:
    """The settings without the source's name: its content is hashed instead, so a moved file stays prepared."""
    without = {"data", "stream_window"} | (set() if settings.streaming else {"streaming", "stream_sample"})
    return {name: value for name, value in asdict(settings).items() if name not in without}


def once(load: Callable[[], Loaded]) -> Callable[[], Loaded]:
    """Loads when first asked, and gives the same ever after."""
    loaded: list[Loaded] = []

    def rows() -> Loaded:
        if not loaded:
            loaded.append(load())
        return loaded[0]

    return rows
