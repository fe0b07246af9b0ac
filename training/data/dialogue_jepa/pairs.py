"""Dialogues made ready once for a dialogue model: contexts and replies as token ids, cached by content."""

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from training.common.errors import InputError
from training.data.cache import cached, digest, save_quietly
from training.data.collators import PairRow
from training.data.dialogue_jepa.dialogues import BETWEEN_TURNS, Dialogues, Pair, load_dialogues, normalised, pairs_of
from training.data.dialogue_jepa.framing import build_dialogue_tokenizer, encode_turns, frame_context, frame_reply
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
from training.data.settings import TRAINED_TOKENIZERS, DialogueDataSettings
from training.data.sources.locate import locate

logger = logging.getLogger(__name__)


@dataclass
class PreparedPairs(Prepared):
    """All that a training run takes from dialogues.

    As `Prepared`; one row a pair, see `prepare_pairs_of` for the columns. `counts` are those of the replies' tokens,
    so that their sum is the number of predictions in a pass; ends and unknown tokens are among them. The reports of
    valid and test have a part `seen_in_training`, see `count_seen`.

    Attributes:
        max_reply_length: tokens of the longest reply, its begin token included.
    """

    max_reply_length: int = field(kw_only=True)

    @cached_property
    def test(self) -> datasets.Dataset:
        """The held-out part for the final score."""
        encoded = prepare_pairs_of(self.settings, "test", self.tokenizer, self.max_length, self.max_reply_length)
        self.reports["test"] = encoded.report | {"seen_in_training": count_seen(self.train, encoded.dataset)}
        say_what_was_seen("test", self.reports["test"]["seen_in_training"])
        return encoded.dataset


class PairDataset(PassDataset):
    """Pairs by (row index, pass index).

    Args:
        dataset: columns `input_ids`, `labels` and `row_id`.
    """

    def __init__(self, dataset: datasets.Dataset) -> None:
        super().__init__(dataset.select_columns(["input_ids", "row_id"]))
        column = dataset.with_format("arrow")[:].column("labels").combine_chunks()
        self._labels: np.ndarray = column.flatten().to_numpy()
        self._label_ends: np.ndarray = np.cumsum(column.value_lengths().to_numpy(), dtype=np.int64)

    @property
    def lengths(self) -> np.ndarray:
        """(rows,) tokens per pair: context and reply."""
        return super().lengths + np.diff(self._label_ends, prepend=0)

    def __getitem__(self, key: tuple[int, int]) -> PairRow:
        """The context, with the labels of its reply."""
        row = super().__getitem__(key)
        start = self._label_ends[key[0] - 1] if key[0] else 0
        return {**row, "labels": self._labels[start : self._label_ends[key[0]]]}


def prepare_pairs(
    settings: DialogueDataSettings,
    max_length: int,
    tokenizer: PreTrainedTokenizerFast | None,
    max_reply_length: int,
) -> PreparedPairs:
    """Train and valid as pairs, with a tokenizer built from the training part unless one is given.

    Args:
        max_length: tokens of the longest context, begin and end included.
        max_reply_length: tokens of the longest reply, its begin token included.

    Raises:
        InputError: see `load_dialogues` and `build_dialogue_tokenizer`; lengths that leave no room.
    """
    settings.validate()
    dialogues = once(lambda: load_dialogues(settings, "train"))
    if tokenizer is None:
        tokenizer = _cached_tokenizer(settings, max_length, dialogues)
    lengths = (max_length, max_reply_length)
    train = prepare_pairs_of(settings, "train", tokenizer, *lengths, dialogues=dialogues)
    valid = prepare_pairs_of(settings, "valid", tokenizer, *lengths)
    say_what_was_prepared(settings, train, valid, unit="pairs")
    seen = count_seen(train.dataset, valid.dataset)
    say_what_was_seen("valid", seen)
    return PreparedPairs(
        settings=settings,
        max_length=max_length,
        tokenizer=tokenizer,
        train=train.dataset,
        valid=valid.dataset,
        counts=count_labels(train.dataset, len(tokenizer)),
        data_hash=digest(train.report["key"], valid.report["key"]),
        reports={"train": train.report, "valid": valid.report | {"seen_in_training": seen}},
        max_reply_length=max_reply_length,
    )


def prepare_pairs_of(
    settings: DialogueDataSettings,
    split: str,
    tokenizer: PreTrainedTokenizerFast,
    max_length: int,
    max_reply_length: int,
    dialogues: Callable[[], Dialogues] | None = None,
) -> EncodedSplit:
    """One split as pairs: train, valid, test or all.

    Its columns: `input_ids` of the context, `labels` of the reply (int32), `row_id`, `dialogue_id` (int64), and the
    texts `prompt` (a line for each turn of the context) and `reply`. Its report holds `rows` (the RowReport as a dict,
    which counts dialogues), `key`, and in `tokens`: `pairs`, `reply_tokens` (ends included), `unknown` of them,
    `contexts_cut`, `context_tokens_cut`, `replies_cut`, `reply_tokens_cut`, `different_replies`.

    Args:
        dialogues: gives the split's dialogues where the caller may have them at hand already.
    """
    settings.validate()
    _check_lengths(max_length, max_reply_length)
    fingerprint = locate(settings).fingerprint(split)
    lengths = [max_length, max_reply_length]
    key = digest("pairs", split, fingerprint, relevant(settings), tokenizer_hash(tokenizer), lengths)

    def make(folder: Path) -> None:
        loaded = dialogues() if dialogues is not None else load_dialogues(settings, split)
        pairs = list(pairs_of(loaded, settings))
        if not pairs:
            raise InputError(
                f"min_reply_words: got {settings.min_reply_words}, and no reply of {settings.data} [{split}] has so "
                "many words; use a smaller one"
            )
        table, counts = _encode(pairs, tokenizer, max_length, max_reply_length)
        save_quietly(datasets.Dataset(table), folder / DATA_FOLDER)
        report = {"key": key, "rows": loaded.report.to_dict(), "tokens": counts}
        (folder / REPORT_FILE).write_text(json.dumps(report, indent=1), encoding="utf-8")

    folder, is_new = cached(key, make)
    report = json.loads((folder / REPORT_FILE).read_text(encoding="utf-8"))
    return EncodedSplit(datasets.load_from_disk(str(folder / DATA_FOLDER)), report, folder, is_new)


def count_labels(dataset: datasets.Dataset, vocab_size: int) -> np.ndarray:
    """How often each token is to be predicted, shape (vocab_size,), int64."""
    flat = dataset.with_format("arrow")[:].column("labels").combine_chunks().flatten().to_numpy()
    return np.bincount(flat, minlength=vocab_size).astype(np.int64)


def count_seen(train: datasets.Dataset, held_out: datasets.Dataset) -> dict[str, int]:
    """How much of a held-out part stands in the training part too, word for word but for case and punctuation.

    Returns:
        `pairs`: of the held-out part; `replies`: those whose reply is one of the training part's; `whole_pairs`: those
        whose last turn and reply stand there together.
    """
    known, known_pairs = set(), set()
    for ending, reply in _endings(train):
        known.add(reply)
        known_pairs.add((ending, reply))
    found = list(_endings(held_out))
    return {
        "pairs": len(found),
        "replies": sum(reply in known for _, reply in found),
        "whole_pairs": sum(pair in known_pairs for pair in found),
    }


def say_what_was_seen(split: str, seen: dict[str, int]) -> None:
    """A line for the screen."""
    logger.info(
        "%s: %s of its %s replies stand in the training part too (%.0f %%), %s of them as answers to the same turn",
        split,
        f"{seen['replies']:,}",
        f"{seen['pairs']:,}",
        100 * seen["replies"] / seen["pairs"],
        f"{seen['whole_pairs']:,}",
    )


def _endings(dataset: datasets.Dataset) -> list[tuple[str, str]]:
    """(last turn before the reply, reply) of each pair, normalised."""
    texts = dataset.with_format("arrow")[:]
    columns = (texts.column(name).to_pylist() for name in ("prompt", "reply"))
    return [
        (normalised(prompt.rpartition(BETWEEN_TURNS)[2]), normalised(reply))
        for prompt, reply in zip(*columns, strict=True)
    ]


def _encode(
    pairs: list[Pair], tokenizer: PreTrainedTokenizerFast, max_length: int, max_reply_length: int
) -> tuple[pa.Table, dict[str, int]]:
    """The columns of `prepare_pairs_of`, and its counts."""
    texts = list(dict.fromkeys(turn for pair in pairs for turn in (*pair.context, pair.reply)))
    ids = dict(zip(texts, encode_turns(texts, tokenizer), strict=True))
    contexts = [frame_context([ids[turn] for turn in pair.context], tokenizer, max_length) for pair in pairs]
    replies = [frame_reply(ids[pair.reply], tokenizer, max_reply_length) for pair in pairs]
    labels = np.concatenate([reply for reply, _ in replies])
    counts = {
        "pairs": len(pairs),
        "reply_tokens": len(labels),
        "unknown": 0 if tokenizer.unk_token_id is None else int((labels == tokenizer.unk_token_id).sum()),
        "contexts_cut": sum(cut > 0 for _, cut in contexts),
        "context_tokens_cut": sum(cut for _, cut in contexts),
        "replies_cut": sum(cut > 0 for _, cut in replies),
        "reply_tokens_cut": sum(cut for _, cut in replies),
        "different_replies": len({normalised(pair.reply) for pair in pairs}),
    }
    columns = {
        "input_ids": _lists([context for context, _ in contexts]),
        "labels": _lists([reply for reply, _ in replies]),
        "row_id": pa.array([pair.row_id for pair in pairs], pa.int64()),
        "dialogue_id": pa.array([pair.dialogue_id for pair in pairs], pa.int64()),
        "prompt": pa.array([BETWEEN_TURNS.join(pair.context) for pair in pairs], pa.string()),
        "reply": pa.array([pair.reply for pair in pairs], pa.string()),
    }
    return pa.table(columns), counts


def _lists(values: list[np.ndarray]) -> pa.ListArray:
    ends = np.cumsum([0, *map(len, values)]).astype(np.int32)
    return pa.ListArray.from_arrays(ends, np.concatenate(values).astype(np.int32))


def _check_lengths(max_length: int, max_reply_length: int) -> None:
    if max_length < 3:
        raise InputError(f"max_position_embeddings: {max_length} leaves no room for a context; use 3 or more")
    if max_reply_length < 2:
        raise InputError(f"max_reply_length: {max_reply_length} leaves no room for a reply; use 2 or more")
    if max_reply_length > max_length:
        raise InputError(
            f"max_reply_length: got {max_reply_length}, but the teacher reads replies with the encoder, which takes "
            f"max_position_embeddings={max_length}; lower the one or raise the other"
        )


def _cached_tokenizer(
    settings: DialogueDataSettings, max_length: int, dialogues: Callable[[], Dialogues]
) -> PreTrainedTokenizerFast:
    if settings.tokenizer not in TRAINED_TOKENIZERS:
        return build_dialogue_tokenizer(settings, [], max_length)
    key = digest("dialogue tokenizer", locate(settings).fingerprint("train"), relevant(settings), max_length)

    def make(folder: Path) -> None:
        turns = (turn for of_dialogue in dialogues().turns for turn in of_dialogue)
        build_dialogue_tokenizer(settings, turns, max_length).save_pretrained(folder)

    return AutoTokenizer.from_pretrained(cached(key, make)[0])


class DialogueMasker:
    """Takes a batch of pairs to the model's inputs. Nothing in it is random.

    Args:
        decoder_latent: of the model's configuration. With `mixed`, the share of the teacher's latents in what the
            decoder sees falls in a straight line from 1 at the first step to 0 at the last.
    """

    def __init__(self, decoder_latent: str) -> None:
        self._is_mixed = decoder_latent == "mixed"

    def __call__(self, batch: dict[str, torch.Tensor], progress: float = 0.0) -> dict[str, torch.Tensor]:
        """The model's inputs.

        Args:
            batch: of a `PairCollator`: `input_ids`, `attention_mask` (batch, context), `labels` (batch, reply);
                `row_id` and `pass_index` (batch,), which are dropped.
            progress: share of the steps done.

        Returns:
            The three, and with `mixed` latents `target_share`, 0-d float32. The labels other than -100 are as many as
            the predictions.
        """
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "labels")}
        if self._is_mixed:
            inputs["target_share"] = torch.tensor(1.0 - progress, device=batch["labels"].device)
        return inputs
