"""Configuration of the latent text model: fill in the blank in embedding space."""

import os
from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict

from configuration_jepa.configuration_base import JepaConfig, require, require_choice
from configuration_jepa.sentence_transformers_files import write_sentence_transformers_files

HEADS = ("cosine", "softmax")
RANKINGS = ("full", "shared", "sampled")
NEGATIVE_SAMPLINGS = ("uniform", "frequency")
LOGIT_SCALES = ("fixed", "learned", "length")
TARGET_GRADIENTS = ("all", "positive", "none")
TARGET_TABLES = ("online", "ema", "contextual")
COLLAPSE_PROTECTIONS = ("none", "vicreg", "sigreg")


@strict
class TextJepaConfig(JepaConfig):
    """Configuration of [`TextJepaModel`] and [`TextJepaForMaskedLM`]. Fields of the trunk: see `JepaConfig`.

    Args:
        head: `cosine` scores unit predictions against unit rows of a table; `softmax` is the twin, plain dot products.
        predictor_layers: hidden layers of the predictor between the encoder and the head.
        ranking: cross entropy over the whole vocabulary (`full`); over candidates that all holes of a step share,
            their answers and `num_candidates` tokens drawn by frequency, corrected for the chance to be a candidate
            (`shared`); or over 1 + `num_negatives` tokens (`sampled`).
        num_candidates: see `shared`.
        full_ranking_share: share of the steps, at the end, in which `shared` ranks the whole vocabulary.
        ranking_weight: weight of the ranking part.
        num_negatives: negatives per hole, for `sampled` ranking and for the figure `acc_neg`.
        negative_sampling: `uniform`, or `frequency` (drawn by training frequency, and corrected for it).
        temperature: cosines are divided by it; with a learned scale, its start.
        logit_scale: `fixed`; `learned` (one number); `length` (times the length of the prediction: certainty).
        frequency_bias: a bias per token, started at the log frequency of the training part.
        alignment_weight: weight of 2 - 2 cos between prediction and target.
        auxiliary_weight: weight of 1 - cos between the encoder's own vector at the hole and the target.
        target_gradient: which rows of the table that it scores against the ranking part moves: `all`; `positive`, that
            of the true token alone, and not those of the sampled negatives; `none`, so that only what the encoder
            reads moves a tied table.
        target_table: where targets come from: `online`, the embedding table itself; `ema`, a moving-average copy;
            `contextual`, for the alignment part only, a moving-average encoder that reads the intact phrase.
        teacher_momentum: share of its old self that the moving average keeps at each step.
        collapse_protection: `none`; `vicreg` (Bardes et al., 2022, arXiv:2105.04906); `sigreg` (Balestriero and
            LeCun, 2025, arXiv:2511.08544).
        collapse_weight: weight of the protection.
        scale_embeddings: whether the encoder reads tokens' vectors sqrt(hidden_size) times as long as they are in the
            table (Vaswani et al., 2017, arXiv:1706.03762, section 3.4).

    Example:
        >>> from configuration_jepa import TextJepaConfig
        >>> TextJepaConfig(hidden_size=128).head
        'cosine'
    """

    model_type = "text_jepa"
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoModel": "modeling_text_jepa.TextJepaModel",
        "AutoModelForSequenceClassification": "modeling_text_jepa.TextJepaForSequenceClassification",
        "AutoModelForTokenClassification": "modeling_text_jepa.TextJepaForTokenClassification",
        "AutoModelForMaskedLM": "modeling_text_jepa.TextJepaForMaskedLM",
    }
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["loss_parts", "logits", "predictions"]
    loss_fields: ClassVar[tuple[str, ...]] = (
        "ranking",
        "num_candidates",
        "full_ranking_share",
        "ranking_weight",
        "num_negatives",
        "negative_sampling",
        "temperature",
        "logit_scale",
        "frequency_bias",
        "alignment_weight",
        "auxiliary_weight",
        "target_gradient",
        "target_table",
        "teacher_momentum",
        "collapse_protection",
        "collapse_weight",
    )

    head: str = "cosine"
    predictor_layers: int = 1
    ranking: str = "full"
    num_candidates: int = 512
    full_ranking_share: float | int = 0.2
    ranking_weight: float | int = 1.0
    num_negatives: int = 32
    negative_sampling: str = "uniform"
    temperature: float | int = 0.1
    logit_scale: str = "learned"
    frequency_bias: bool = True
    alignment_weight: float | int = 0.0
    auxiliary_weight: float | int = 0.1
    target_gradient: str = "all"
    target_table: str = "online"
    teacher_momentum: float = 0.996
    collapse_protection: str = "none"
    collapse_weight: float | int = 0.1
    scale_embeddings: bool = False

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], push_to_hub: bool = False, **kwargs: Any
    ) -> None:
        """As every configuration; and the files by which `sentence-transformers` opens the checkpoint."""
        os.makedirs(save_directory, exist_ok=True)
        write_sentence_transformers_files(save_directory, self.hidden_size, self.max_position_embeddings)
        super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)

    @property
    def of_the_batch(self) -> tuple[str, ...]:
        """See `JepaConfig`."""
        return ("collapse",) if self.collapse_protection != "none" and self.collapse_weight else ()

    def validate_choices(self) -> None:
        """Each choice is one of its list. Raises `ValueError`."""
        require_choice(self, "head", HEADS)
        require_choice(self, "ranking", RANKINGS)
        require_choice(self, "negative_sampling", NEGATIVE_SAMPLINGS)
        require_choice(self, "logit_scale", LOGIT_SCALES)
        require_choice(self, "target_gradient", TARGET_GRADIENTS)
        require_choice(self, "target_table", TARGET_TABLES)
        require_choice(self, "collapse_protection", COLLAPSE_PROTECTIONS)

    def validate_loss(self) -> None:
        """Ranges and contradictions of the loss fields. Raises `ValueError`."""
        for name in ("ranking_weight", "alignment_weight", "auxiliary_weight", "collapse_weight"):
            require(self, name, getattr(self, name) >= 0, "at least 0")
        require(self, "predictor_layers", self.predictor_layers >= 0, "at least 0")
        require(self, "temperature", self.temperature > 0, "above 0 (0.05 to 0.1 are usual)")
        require(self, "teacher_momentum", 0 <= self.teacher_momentum < 1, "at least 0 and below 1")
        candidates = self.vocab_size - len(self.special_token_ids) - 1
        require(self, "num_negatives", self.num_negatives >= 1, "at least 1")
        if self.ranking == "sampled" and self.num_negatives > candidates:
            raise ValueError(
                f"num_negatives={self.num_negatives} is more than the {max(candidates, 0)} tokens that can be "
                f"negatives in a vocabulary of {self.vocab_size}. Lower num_negatives."
            )
        require(self, "num_candidates", self.num_candidates >= 1, "at least 1")
        require(self, "full_ranking_share", 0 <= self.full_ranking_share <= 1, "from 0 to 1")
        if not self.ranking_weight and not self.alignment_weight:
            raise ValueError(
                "ranking_weight=0 and alignment_weight=0 leave nothing to learn: set one of them above 0."
            )
        if self.target_gradient == "positive" and self.ranking != "sampled":
            raise ValueError(
                "target_gradient='positive' needs ranking='sampled': over the whole vocabulary all rows are scored. "
                "Use 'all' or 'none'."
            )
        if self.head == "softmax" and self.target_table == "ema":
            raise ValueError("target_table='ema' needs head='cosine': a softmax head scores against its own table.")
        if not self.tie_word_embeddings and self.target_table == "ema":
            raise ValueError(
                "target_table='ema' needs tie_word_embeddings=True: the head's own table would never be used."
            )
