"""Dialogues made ready once for a dialogue model: contexts and replies as token ids."""

import logging
from collections.abc import Iterable

import datasets
import numpy as np
import pyarrow as pa
import torch
from transformers import PreTrainedTokenizerFast

from training.common.errors import InputError
from training.data.dialogue_jepa.dialogues import BETWEEN_TURNS, Dialogues, load_dialogues, normalised, pairs_of
from training.data.dialogue_jepa.framing import build_dialogue_tokenizer, encode_turns, frame_context, frame_reply
from training.data.prepared import Preparation
from training.data.settings import DialogueDataSettings
from training.data.unknown import unknown_id

logger = logging.getLogger(__name__)


class PairPreparation(Preparation[Dialogues]):
    """Pairs with the columns `input_ids` of the context, `labels` of the reply (int32), `row_id`, `dialogue_id`
    (int64), and the texts `prompt` (a line for each turn of the context) and `reply`.

    The counts are those of the replies' tokens, so that their sum is the number of predictions in a pass; ends and
    unknown tokens are among them. The reports of valid and test have a part `seen_in_training`, see `count_seen`.

    Args:
        settings: of the dialogues.
        max_length: tokens of the longest context, begin and end included.
        max_reply_length: tokens of the longest reply, its begin token included.

    Raises:
        InputError: settings out of range; lengths that leave no room.
    """

    kind = "pairs"
    tokenizer_kind = "dialogue tokenizer"
    unit = "pairs"

    def __init__(self, settings: DialogueDataSettings, max_length: int, max_reply_length: int) -> None:
        super().__init__(settings, max_length)
        _check_lengths(max_length, max_reply_length)
        self.max_reply_length = max_reply_length
        self.lengths = [max_length, max_reply_length]

    def load(self, split: str) -> Dialogues:
        """See `load_dialogues`."""
        return load_dialogues(self.settings, split)

    def texts(self, loaded: Dialogues) -> Iterable[str]:
        """The turns."""
        return (turn for turns in loaded.turns for turn in turns)

    def build_tokenizer(self, texts: Iterable[str]) -> PreTrainedTokenizerFast:
        """See `build_dialogue_tokenizer`."""
        return build_dialogue_tokenizer(self.settings, texts, self.max_length)

    def encode(
        self, loaded: Dialogues, split: str, tokenizer: PreTrainedTokenizerFast
    ) -> tuple[datasets.Dataset, dict[str, int]]:
        """Pairs, and `pairs`, `tokens` of all different turns and `unknown` of them, `reply_tokens` (ends included),
        `contexts_cut`, `context_tokens_cut`, `replies_cut`, `reply_tokens_cut`, `different_replies`.
        """
        pairs = list(pairs_of(loaded, self.settings))
        if not pairs:
            raise InputError(
                f"min_reply_words: got {self.settings.min_reply_words}, and no reply of {self.settings.data} "
                f"[{split}] has so many words; use a smaller one"
            )
        texts = list(dict.fromkeys(turn for pair in pairs for turn in (*pair.context, pair.reply)))
        ids = dict(zip(texts, encode_turns(texts, tokenizer), strict=True))
        contexts = [frame_context([ids[turn] for turn in pair.context], tokenizer, self.max_length) for pair in pairs]
        replies = [frame_reply(ids[pair.reply], tokenizer, self.max_reply_length) for pair in pairs]
        labels, unknown = np.concatenate([reply for reply, _ in replies]), unknown_id(tokenizer)
        counts = {
            "pairs": len(pairs),
            "reply_tokens": len(labels),
            "tokens": sum(map(len, ids.values())),
            "unknown": sum(int((turn == unknown).sum()) for turn in ids.values()),
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
        return datasets.Dataset(pa.table(columns)), counts

    def count(self, train: datasets.Dataset, tokenizer: PreTrainedTokenizerFast) -> np.ndarray:
        """How often each token is to be predicted."""
        flat = train.with_format("arrow")[:].column("labels").combine_chunks().flatten().to_numpy()
        return np.bincount(flat, minlength=len(tokenizer)).astype(np.int64)

    def compared(self, split: str, train: datasets.Dataset, held_out: datasets.Dataset) -> dict[str, dict[str, int]]:
        """How much of a held-out part stands in the training part too; a line for the screen says so."""
        seen = count_seen(train, held_out)
        share = 100 * seen["replies"] / seen["pairs"]
        logger.info(
            f"{split}: {seen['replies']:,} of its {seen['pairs']:,} replies stand in the training part too "
            f"({share:.0f} %), {seen['whole_pairs']:,} of them as answers to the same turn"
        )
        return {"seen_in_training": seen}


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


def _endings(dataset: datasets.Dataset) -> list[tuple[str, str]]:
    """(last turn before the reply, reply) of each pair, normalised."""
    texts = dataset.with_format("arrow")[:]
    columns = (texts.column(name).to_pylist() for name in ("prompt", "reply"))
    return [
        (normalised(prompt.rpartition(BETWEEN_TURNS)[2]), normalised(reply))
        for prompt, reply in zip(*columns, strict=True)
    ]


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
            batch: of a `TextCollator`: `input_ids`, `attention_mask` (batch, context), `labels` (batch, reply);
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
