"""Rows made ready once, and cached by content: that of the source's bytes, the settings and the tokenizer."""

import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import datasets
import numpy as np
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from training.data.cache import cached, digest, save_quietly
from training.data.settings import TRAINED_TOKENIZERS, SourceSettings
from training.data.sources.locate import locate
from training.data.sources.rows import RowReport
from training.data.text_overlap import Words, standing_in
from training.data.unknown import check_unknown, unknown_share

DATA_FOLDER = "rows"
# A held-out row stands in the training part with the same tokens, or with most of its n-grams; short ones say nothing.
TOKENS_COMPARED, SHORTEST_ROW, NGRAM, NEAR_SHARE, OVERLAP_NOTE = 4_000_000, 8, 8, 0.7, 0.01
REPORT_FILE = "report.json"

Loaded = TypeVar("Loaded")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EncodedSplit:
    """One split as token ids.

    Attributes:
        dataset: columns `input_ids` and `row_id`, and those of the family.
        report: `rows` (the RowReport as a dict), `tokens` (counts of the encoding), `key` (the content's hash).
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
        settings: the `data` section that it was made by.
        max_length: tokens (of clips: frames) of the longest row.
        tokenizer: built from the training part, or the one given.
        train, valid: see the family's `Preparation`; `test` is made when it is first asked for. With
            `settings.streaming`, a sample of them; what is trained on comes from `open_stream` (streaming.py).
        counts: training-part token counts, shape (vocabulary,), int64.
        data_hash: identifies source, settings, tokenizer and length.
        make_test: the test part and its report.
        reports: of `train` and `valid`; `test` joins them when it is made.
    """

    settings: Any
    max_length: int
    tokenizer: PreTrainedTokenizerFast
    train: datasets.Dataset
    valid: datasets.Dataset
    counts: np.ndarray
    data_hash: str
    make_test: Callable[[], tuple[datasets.Dataset, dict[str, Any]]]
    reports: dict[str, dict[str, Any]] = field(default_factory=dict)

    def figures_of(self, split: str) -> dict[str, float]:
        """What stands beside a split's figures: `unknown_share` of its text, where it is made of tokens."""
        counts = self.reports[split]["tokens"]
        return {"unknown_share": unknown_share(counts)} if "unknown" in counts else {}

    @cached_property
    def test(self) -> datasets.Dataset:
        """The held-out part for the final score."""
        dataset, self.reports["test"] = self.make_test()
        return dataset


class Preparation(ABC, Generic[Loaded]):
    """How the data of a family are made ready. A subclass says how a split is loaded and encoded, and what a tokenizer
    is trained on; this class does it once, and keeps it by content.

    Attributes:
        kind, tokenizer_kind: part of the keys in the cache.
        unit: what a row is called.
        lengths: what the rows are cut to, as a part of their key.

    Args:
        settings: of the family.
        max_length: tokens of the longest row, special tokens included: the model's length.

    Raises:
        InputError: settings out of range.
    """

    kind: ClassVar[str]
    tokenizer_kind: ClassVar[str]
    unit: ClassVar[str] = "rows"

    def __init__(self, settings: Any, max_length: int) -> None:
        settings.validate()
        self.settings = settings
        self.max_length = max_length
        self.lengths: int | list[int] = max_length

    @abstractmethod
    def load(self, split: str) -> Loaded:
        """One split of the source, with its `report`. Raises InputError where it cannot be had."""

    @abstractmethod
    def texts(self, loaded: Loaded) -> Iterable[str]:
        """What a tokenizer is trained on."""

    @abstractmethod
    def build_tokenizer(self, texts: Iterable[str]) -> PreTrainedTokenizerFast:
        """The tokenizer that the settings ask for. Raises InputError where there is none."""

    @abstractmethod
    def encode(
        self, loaded: Loaded, split: str, tokenizer: PreTrainedTokenizerFast
    ) -> tuple[datasets.Dataset, dict[str, int]]:
        """The rows of a split, and the counts of their report. Raises InputError where none is left."""

    @abstractmethod
    def count(self, train: datasets.Dataset, tokenizer: PreTrainedTokenizerFast) -> np.ndarray:
        """Training-part token counts, shape (vocabulary,), int64."""

    def compared(self, split: str, train: datasets.Dataset, held_out: datasets.Dataset) -> dict[str, Any]:
        """What a held-out part's report says of it beside the training part; a line for the screen says so."""
        known = Words.of_ids(train, TOKENS_COMPARED)
        found = standing_in(Words.of_ids(held_out, TOKENS_COMPARED), known, SHORTEST_ROW, NGRAM, NEAR_SHARE)
        part = "training part" if len(known.ends) == len(train) else f"first {len(known.ends):,} training {self.unit}"
        line = f"{split}: {found.near:.1%} of its tokens stand in {self.unit} of the {part} too"
        if found.near >= OVERLAP_NOTE:
            said = f"{found.exact:.1%} word for word; the rest share {NEAR_SHARE:.0%} of their runs of {NGRAM} tokens"
            line = f"warning: {line} ({said}): figures of {split} tell in part what was learnt by heart"
        logger.info("%s", line)
        return {"overlap": {"exact_share": found.exact, "near_share": found.near, "rows_compared": len(known.ends)}}

    def prepare(self, tokenizer: PreTrainedTokenizerFast | None = None) -> Prepared:
        """Train and valid as token ids, with a tokenizer built from the training part unless one is given.

        Raises:
            InputError: see `load`, `build_tokenizer` and `encode`.
        """
        loaded = cache(lambda: self.load("train"))
        if tokenizer is None:
            tokenizer = self._cached_tokenizer(loaded)
        train, valid = self.split("train", tokenizer, loaded), self.split("valid", tokenizer)
        self._say_what_was_prepared(train, valid)

        def held_out(split: str, encoded: EncodedSplit) -> tuple[datasets.Dataset, dict[str, Any]]:
            return encoded.dataset, encoded.report | self.compared(split, train.dataset, encoded.dataset)

        return Prepared(
            settings=self.settings,
            max_length=self.max_length,
            tokenizer=tokenizer,
            train=train.dataset,
            valid=valid.dataset,
            counts=self.count(train.dataset, tokenizer),
            data_hash=digest(train.report["key"], valid.report["key"]),
            make_test=lambda: held_out("test", self.split("test", tokenizer)),
            reports={"train": train.report, "valid": held_out("valid", valid)[1]},
        )

    def split(
        self, split: str, tokenizer: PreTrainedTokenizerFast, loaded: Callable[[], Loaded] | None = None
    ) -> EncodedSplit:
        """One split as token ids: train, valid, test or all.

        Args:
            loaded: gives the split where the caller may have it at hand already.
        """
        fingerprint = locate(self.settings).fingerprint(split)
        key = digest(self.kind, split, fingerprint, relevant(self.settings), tokenizer_hash(tokenizer), self.lengths)

        def make(folder: Path) -> None:
            found = loaded() if loaded is not None else self.load(split)
            dataset, counts = self.encode(found, split, tokenizer)
            save_quietly(dataset, folder / DATA_FOLDER)
            report = {"key": key, "rows": found.report.to_dict(), "tokens": counts}
            (folder / REPORT_FILE).write_text(json.dumps(report, indent=1), encoding="utf-8")

        folder, is_new = cached(key, make)
        report = json.loads((folder / REPORT_FILE).read_text(encoding="utf-8"))
        check_unknown(unknown_share(report["tokens"]), f"{self.settings.data} [{split}]", self.settings.allow_unknown)
        return EncodedSplit(datasets.load_from_disk(str(folder / DATA_FOLDER)), report, folder, is_new)

    def _cached_tokenizer(self, loaded: Callable[[], Loaded]) -> PreTrainedTokenizerFast:
        if self.settings.tokenizer not in TRAINED_TOKENIZERS:
            return self.build_tokenizer([])
        fingerprint = locate(self.settings).fingerprint("train")
        key = digest(self.tokenizer_kind, fingerprint, relevant(self.settings), self.max_length)

        def make(folder: Path) -> None:
            self.build_tokenizer(self.texts(loaded())).save_pretrained(folder)

        return AutoTokenizer.from_pretrained(cached(key, make)[0])

    def _say_what_was_prepared(self, train: EncodedSplit, valid: EncodedSplit) -> None:
        """What the user should know of the rows; their counts are one line where they were prepared before."""
        shares = (
            f"{unknown_share(part.report['tokens']):.1%} of {part.report['rows']['split']}" for part in (train, valid)
        )
        unknown = f"tokens unknown to the tokenizer: {', '.join(shares)}"
        if not train.is_new and not valid.is_new:
            rows = f"{len(train.dataset):,} training {self.unit}"
            logger.info("%s: %s, prepared before, taken from %s", self.settings.data, rows, train.folder)
            logger.info("%s", unknown)
            for split in (train, valid):
                if split.report["rows"]["bad"]:
                    logger.info("%s", RowReport(**split.report["rows"]).summary())
        else:
            for split in (train, valid):
                logger.info("%s", RowReport(**split.report["rows"]).summary())
                counts = (f"{name} {count:,}" for name, count in split.report["tokens"].items())
                logger.info("as token ids: %s", ", ".join(counts))
            logger.info("%s", unknown)
        for note in train.report["rows"]["notes"]:
            logger.info("%s", note)


def tokenizer_hash(tokenizer: PreTrainedTokenizerFast) -> str:
    """Changes with the vocabulary, the rules and the special tokens; not with where it was loaded from."""
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    pipeline = json.loads(tokenizer.backend_tokenizer.to_str())
    pipeline.pop("truncation", None)  # set by the last call, no part of the vocabulary
    pipeline.pop("padding", None)
    return digest(pipeline, special)


def relevant(settings: SourceSettings) -> dict[str, Any]:
    """The settings without the source's name: its content is hashed instead, so a moved file stays prepared."""
    without = {"data", "stream_window", "allow_unknown"} | (
        set() if settings.streaming else {"streaming", "stream_sample"}
    )
    return {name: value for name, value in asdict(settings).items() if name not in without}
