"""Documents made ready once for a causal language model: framed, and packed into blocks."""

from collections.abc import Iterable
from dataclasses import asdict

import datasets
import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from training.data.collators import IGNORED
from training.data.prepared import Preparation
from training.data.staged_generator.documents import Documents, load_documents
from training.data.staged_generator.framing import build_generator_tokenizer, encode_documents
from training.data.staged_generator.packing import TokenRun, count_predictions, pack
from training.data.unknown import unknown_id


class BlockPreparation(Preparation[Documents]):
    """Blocks of `max_length` tokens with the columns `input_ids`, `position_ids` and `row_id`.

    The counts are those of the predicted tokens, so that their sum is the number of predictions in a pass; ends and
    unknown tokens are among them.
    """

    kind = "blocks"
    tokenizer_kind = "document tokenizer"
    unit = "blocks"

    def load(self, split: str) -> Documents:
        """See `load_documents`."""
        return load_documents(self.settings, split)

    def texts(self, loaded: Documents) -> Iterable[str]:
        """The documents."""
        return loaded.texts

    def build_tokenizer(self, texts: Iterable[str]) -> PreTrainedTokenizerFast:
        """See `build_generator_tokenizer`."""
        return build_generator_tokenizer(self.settings, texts, self.max_length)

    def encode(
        self, loaded: Documents, split: str, tokenizer: PreTrainedTokenizerFast
    ) -> tuple[datasets.Dataset, dict[str, int]]:
        """Blocks, and `documents`, `tokens` (begins and ends included), `unknown` of them, `blocks`, `words`,
        `line_ends` and `bytes` of the text.
        """
        run = TokenRun.of_documents(encode_documents(loaded.texts, tokenizer))
        blocks = pack(run, self.max_length)
        return blocks, {
            **asdict(loaded.size),
            "tokens": len(run.ids),
            "unknown": int((run.ids == unknown_id(tokenizer)).sum()),
            "blocks": len(blocks),
        }

    def count(self, train: datasets.Dataset, tokenizer: PreTrainedTokenizerFast) -> np.ndarray:
        """See `count_predictions`."""
        return count_predictions(train, len(tokenizer))


class CausalLabels:
    """Adds `labels` to a batch of packed blocks. Nothing in it is random.

    A token is predicted from those before it in its own document and block. The first of them has none, so its label
    is -100; and a padded place is none.
    """

    def __call__(self, batch: dict[str, torch.Tensor], progress: float = 0.0) -> dict[str, torch.Tensor]:
        """The model's inputs.

        Args:
            batch: of a `TextCollator`: `input_ids`, `attention_mask`, `position_ids` (batch, length), `row_id` and
                `pass_index` (batch,), which are dropped.
            progress: share of the steps done; nothing depends on it.

        Returns:
            The three of shape (batch, length) and `labels` of the same shape, unshifted: the label at a place is the
            token there. The labels other than -100 are as many as the predictions.
        """
        kept = {name: batch[name] for name in ("input_ids", "attention_mask", "position_ids")}
        # A padded place has position 0 too.
        return {**kept, "labels": torch.where(batch["position_ids"] > 0, batch["input_ids"], IGNORED)}
