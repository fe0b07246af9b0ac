"""Configuration of a bigram model."""

from typing import ClassVar

from huggingface_hub.dataclasses import strict

from configuration_jepa.configuration_base import JepaConfig, require


@strict
class BigramConfig(JepaConfig):
    """Configuration of a bigram model.

    Args:
        smoothing: share of a target that is spread over the vocabulary.
    """

    model_type = "bigram"
    auto_classes: ClassVar[dict[str, str]] = {"AutoModelForCausalLM": "modeling_bigram.BigramForCausalLM"}
    loss_fields: ClassVar[tuple[str, ...]] = ("smoothing",)

    tie_word_embeddings: bool = False
    smoothing: float = 0.0

    def validate_smoothing(self) -> None:
        """Raise `ValueError` for no share."""
        require(self, "smoothing", 0 <= self.smoothing < 1, "at least 0 and below 1")
