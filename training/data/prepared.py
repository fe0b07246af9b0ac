"""Rows made ready once, and cached by content.

Every item (a tokenizer, an encoded split) is a folder under `$JEPA_CACHE`, or `~/.cache/jepa-lm`, whose name is the
hash of what it was made from: the source's bytes, the settings, the tokenizer, this format's version. A folder is
written under another name first and renamed when it is whole, so a killed run or a second one at the same time does no
harm.
"""

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from training.data.errors import InputError
from training.data.rows import RowReport
from training.data.settings import DataSettings
from training.data.sources import Rows, load_rows, locate
from training.data.tokenization import TokenIds, build_tokenizer, count_tokens, encode_rows

FORMAT_VERSION = 1
_DATA = "rows"
_REPORT = "report.json"

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
    rows = _once(lambda: load_rows(settings, "train"))
    if tokenizer is None:
        tokenizer = _cached_tokenizer(settings, max_length, rows)
    train = prepare_split(settings, "train", tokenizer, max_length, rows)
    valid = prepare_split(settings, "valid", tokenizer, max_length)
    _say(settings, train, valid)
    ids = TokenIds.from_tokenizer(tokenizer)
    return Prepared(
        settings=settings,
        max_length=max_length,
        tokenizer=tokenizer,
        train=train.dataset,
        valid=valid.dataset,
        counts=count_tokens(train.dataset, ids.vocab_size, ids.special_ids),
        data_hash=_digest(train.report["key"], valid.report["key"]),
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
    key = _digest("split", split, fingerprint, _relevant(settings), tokenizer_hash(tokenizer), max_length)

    def make(folder: Path) -> None:
        loaded = rows() if rows is not None else load_rows(settings, split)
        encoded = encode_rows(loaded.dataset, tokenizer, max_length, settings.long_rows)
        if not len(encoded.dataset):
            raise InputError(
                f"data: none of the {encoded.report['rows']:,} rows of {settings.data} [{split}] has a word that the "
                "tokenizer knows; give another source, a larger max_vocab or another tokenizer"
            )
        _save_quietly(encoded.dataset, folder / _DATA)
        report = {"key": key, "rows": loaded.report.to_dict(), "tokens": encoded.report}
        (folder / _REPORT).write_text(json.dumps(report, indent=1), encoding="utf-8")

    folder, is_new = _cached(key, make)
    report = json.loads((folder / _REPORT).read_text(encoding="utf-8"))
    return EncodedSplit(datasets.load_from_disk(str(folder / _DATA)), report, folder, is_new)


def tokenizer_hash(tokenizer: PreTrainedTokenizerFast) -> str:
    """Changes with the vocabulary, the rules and the special tokens; not with where it was loaded from."""
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    pipeline = json.loads(tokenizer.backend_tokenizer.to_str())
    pipeline.pop("truncation", None)  # set by the last call, no part of the vocabulary
    pipeline.pop("padding", None)
    return _digest(pipeline, special)


def cache_folder() -> Path:
    """`$JEPA_CACHE`, or `~/.cache/jepa-lm`."""
    return Path(os.environ.get("JEPA_CACHE", "~/.cache/jepa-lm")).expanduser()


def _cached_tokenizer(settings: DataSettings, max_length: int, rows: Callable[[], Rows]) -> PreTrainedTokenizerFast:
    if settings.tokenizer not in ("word", "bpe"):
        return build_tokenizer(settings, [], max_length)
    key = _digest("tokenizer", locate(settings).fingerprint("train"), _relevant(settings), max_length)

    def make(folder: Path) -> None:
        build_tokenizer(settings, rows().dataset["text"], max_length).save_pretrained(folder)

    return AutoTokenizer.from_pretrained(_cached(key, make)[0])


def _cached(key: str, make: Callable[[Path], None]) -> tuple[Path, bool]:
    """The folder of this key, made by `make` when it is not there, and whether it was."""
    folder = cache_folder() / "prepared" / key
    if folder.is_dir():
        return folder, False
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=".staging-", dir=folder.parent))
    except OSError as error:
        raise InputError(
            f"{folder.parent} cannot be written ({error.strerror}): prepared data is kept there; "
            "set JEPA_CACHE to a folder that can"
        ) from None
    try:
        make(staging)
        os.rename(staging, folder)
    except OSError:
        if not folder.is_dir():  # else another run was quicker, and its folder holds the same
            raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return folder, True


def _say(settings: DataSettings, train: EncodedSplit, valid: EncodedSplit) -> None:
    """What the user should know of the rows: one line where they were prepared before."""
    if not train.is_new and not valid.is_new:
        count = len(train.dataset)
        logger.info("%s: %s training rows, prepared before, taken from %s", settings.data, f"{count:,}", train.folder)
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


def _save_quietly(dataset: datasets.Dataset, folder: Path) -> None:
    """Without the library's progress bar, which has no argument that turns it off."""
    was_shown = datasets.are_progress_bars_disabled() is False
    datasets.disable_progress_bars()
    try:
        dataset.save_to_disk(folder)
    finally:
        if was_shown:
            datasets.enable_progress_bars()


def _relevant(settings: DataSettings) -> dict[str, Any]:
    """The settings without the source's name: its content is hashed instead, so a moved file stays prepared."""
    without = {"data", "stream_window"} | (set() if settings.streaming else {"streaming", "stream_sample"})
    return {name: value for name, value in asdict(settings).items() if name not in without}


def _digest(*parts: Any) -> str:
    text = json.dumps([FORMAT_VERSION, *parts], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _once(load: Callable[[], Rows]) -> Callable[[], Rows]:
    loaded: list[Rows] = []

    def rows() -> Rows:
        if not loaded:
            loaded.append(load())
        return loaded[0]

    return rows
