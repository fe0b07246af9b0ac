"""The data of a bigram model: phrases, every token of which but the first is predicted."""

from collections.abc import Callable
from typing import Any

from training.data.families import Batch, TextData
from training.data.settings import NoMaskingSettings


class BigramData(TextData):
    """Phrases as the text model reads them."""

    masking_settings = NoMaskingSettings

    def make_masker(
        self, settings: Any, tokenizer: Any, *, seed: int, config: Any, token_counts: Any = None
    ) -> Callable[[Batch, float], Batch]:
        """Labels instead of masks."""
        return add_labels


def add_labels(batch: Batch, progress: float = 0.0) -> Batch:
    """The model's inputs: `labels` are the tokens, -100 where there is nothing before them to predict from."""
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    labels[:, 0] = -100
    return {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"], "labels": labels}
