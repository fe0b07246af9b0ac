"""Phrases made ready once for a text model."""

from collections.abc import Iterable

import datasets
import numpy as np
from transformers import PreTrainedTokenizerFast

from training.common.errors import InputError
from training.data.prepared import Preparation
from training.data.sources.locate import Rows, load_rows
from training.data.tokenization import TokenIds, build_tokenizer, count_tokens, encode_rows


class RowPreparation(Preparation[Rows]):
    """Rows with the columns `input_ids` and `row_id`. In the counts special tokens, the unknown one too, are 0."""

    kind = "split"
    tokenizer_kind = "tokenizer"

    def load(self, split: str) -> Rows:
        """See `load_rows`."""
        return load_rows(self.settings, split)

    def texts(self, loaded: Rows) -> Iterable[str]:
        """The rows."""
        return loaded.dataset["text"]

    def build_tokenizer(self, texts: Iterable[str]) -> PreTrainedTokenizerFast:
        """See `tokenization.build_tokenizer`."""
        return build_tokenizer(self.settings, texts, self.max_length)

    def encode(
        self, loaded: Rows, split: str, tokenizer: PreTrainedTokenizerFast
    ) -> tuple[datasets.Dataset, dict[str, int]]:
        """See `encode_rows`. Raises InputError where no row has a known word."""
        encoded = encode_rows(loaded.dataset, tokenizer, self.max_length, self.settings.long_rows)
        if not len(encoded.dataset):
            raise InputError(
                f"data: none of the {encoded.report['rows']:,} rows of {self.settings.data} [{split}] has a word that "
                "the tokenizer knows; give another source, a larger max_vocab or another tokenizer"
            )
        return encoded.dataset, encoded.report

    def count(self, train: datasets.Dataset, tokenizer: PreTrainedTokenizerFast) -> np.ndarray:
        """See `count_tokens`."""
        ids = TokenIds.from_tokenizer(tokenizer)
        return count_tokens(train, ids.vocab_size, ids.special_ids)
