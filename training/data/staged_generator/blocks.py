"""Documents made ready once for a causal language model: framed, packed into blocks, and cached by content."""

import json
from collections.abc import Callable
from dataclasses import asdict
from functools import cached_property
from pathlib import Path

import datasets
import numpy as np
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from training.data.cache import cached, digest, save_quietly
from training.data.collators import BlockRow
from training.data.prepared import (
    DATA_FOLDER,
    REPORT_FILE,
    EncodedSplit,
    Prepared,
    once,
    relevant,
    say_what_was_prepared,
    tokenizer_hash,
)
from training.data.sampling import PassDataset
from training.data.settings import GeneratorDataSettings
from training.data.sources.locate import locate
from training.data.staged_generator.documents import Documents, load_documents
from training.data.staged_generator.framing import build_generator_tokenizer, encode_documents, own_unknown_token
from training.data.staged_generator.packing import TokenRun, count_predictions, pack


class PreparedBlocks(Prepared):
    """All that a training run takes from documents.

    As `Prepared`; the columns are `input_ids`, `position_ids` and `row_id`, one row a block. `counts` are those of the
    predicted tokens, so that their sum is the number of predictions in a pass; ends and unknown tokens are among them.
    """

    @cached_property
    def test(self) -> datasets.Dataset:
        """The held-out part for the final score."""
        encoded = prepare_blocks_of(self.settings, "test", self.tokenizer, self.max_length)
        self.reports["test"] = encoded.report
        return encoded.dataset


class BlockDataset(PassDataset):
    """Blocks by (row index, pass index).

    Args:
        dataset: columns `input_ids`, `position_ids` and `row_id`.
    """

    def __init__(self, dataset: datasets.Dataset) -> None:
        super().__init__(dataset.select_columns(["input_ids", "row_id"]))
        positions = dataset.with_format("arrow")[:].column("position_ids").combine_chunks()
        self._positions: np.ndarray = positions.flatten().to_numpy()

    def __getitem__(self, key: tuple[int, int]) -> BlockRow:
        """The row, with the positions of its tokens."""
        end = self._ends[key[0]]
        row = super().__getitem__(key)
        return {**row, "position_ids": self._positions[end - len(row["input_ids"]) : end]}


def prepare_blocks(
    settings: GeneratorDataSettings, max_length: int, tokenizer: PreTrainedTokenizerFast | None = None
) -> PreparedBlocks:
    """Train and valid as blocks, with a tokenizer built from the training part unless one is given.

    Args:
        max_length: tokens of a block: the model's length.

    Raises:
        InputError: see `load_documents` and `build_generator_tokenizer`.
    """
    settings.validate()
    documents = once(lambda: load_documents(settings, "train"))
    if tokenizer is None:
        tokenizer = _cached_tokenizer(settings, max_length, documents)
    train = prepare_blocks_of(settings, "train", tokenizer, max_length, documents)
    valid = prepare_blocks_of(settings, "valid", tokenizer, max_length)
    say_what_was_prepared(settings, train, valid, unit="blocks")
    return PreparedBlocks(
        settings=settings,
        max_length=max_length,
        tokenizer=tokenizer,
        train=train.dataset,
        valid=valid.dataset,
        counts=count_predictions(train.dataset, len(tokenizer)),
        data_hash=digest(train.report["key"], valid.report["key"]),
        reports={"train": train.report, "valid": valid.report},
    )


def prepare_blocks_of(
    settings: GeneratorDataSettings,
    split: str,
    tokenizer: PreTrainedTokenizerFast,
    max_length: int,
    documents: Callable[[], Documents] | None = None,
) -> EncodedSplit:
    """One split as blocks: train, valid, test or all.

    Its report holds `rows` (the RowReport as a dict, which counts documents), `key`, and in `tokens`: `documents`,
    `tokens` (begins and ends included), `unknown` of them, `blocks`, `words`, `line_ends` and `bytes` of the text.

    Args:
        documents: gives the split's documents where the caller may have them at hand already.
    """
    settings.validate()
    fingerprint = locate(settings).fingerprint(split)
    key = digest("blocks", split, fingerprint, relevant(settings), tokenizer_hash(tokenizer), max_length)

    def make(folder: Path) -> None:
        loaded = documents() if documents is not None else load_documents(settings, split)
        run = TokenRun.of_documents(encode_documents(loaded.texts, tokenizer))
        blocks = pack(run, max_length)
        save_quietly(blocks, folder / DATA_FOLDER)
        has_unknown = own_unknown_token(tokenizer) is not None
        counts = {
            **asdict(loaded.size),
            "tokens": len(run.ids),
            "unknown": int((run.ids == tokenizer.unk_token_id).sum()) if has_unknown else 0,
            "blocks": len(blocks),
        }
        report = {"key": key, "rows": loaded.report.to_dict(), "tokens": counts}
        (folder / REPORT_FILE).write_text(json.dumps(report, indent=1), encoding="utf-8")

    folder, is_new = cached(key, make)
    report = json.loads((folder / REPORT_FILE).read_text(encoding="utf-8"))
    return EncodedSplit(datasets.load_from_disk(str(folder / DATA_FOLDER)), report, folder, is_new)


def _cached_tokenizer(
    settings: GeneratorDataSettings, max_length: int, documents: Callable[[], Documents]
) -> PreTrainedTokenizerFast:
    if settings.tokenizer != "bpe":
        return build_generator_tokenizer(settings, [], max_length)
    key = digest("document tokenizer", locate(settings).fingerprint("train"), relevant(settings), max_length)

    def make(folder: Path) -> None:
        build_generator_tokenizer(settings, documents().texts, max_length).save_pretrained(folder)

    return AutoTokenizer.from_pretrained(cached(key, make)[0])


IGNORED = -100


class CausalLabels:
    """Adds `labels` to a batch of packed blocks. Nothing in it is random.

    A token is predicted from those before it in its own document and block. The first of them has none, so its label
    is -100; and a padded place is none.
    """

    def __call__(self, batch: dict[str, torch.Tensor], progress: float = 0.0) -> dict[str, torch.Tensor]:
        """The model's inputs.

        Args:
            batch: of a `BlockCollator`: `input_ids`, `attention_mask`, `position_ids` (batch, length), `row_id` and
                `pass_index` (batch,), which are dropped.
            progress: share of the steps done; nothing depends on it.

        Returns:
            The three of shape (batch, length) and `labels` of the same shape, unshifted: the label at a place is the
            token there. The labels other than -100 are as many as the predictions.
        """
        kept = {name: batch[name] for name in ("input_ids", "attention_mask", "position_ids")}
        # A padded place has position 0 too.
        return {**kept, "labels": torch.where(batch["position_ids"] > 0, batch["input_ids"], IGNORED)}
