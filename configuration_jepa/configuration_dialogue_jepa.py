"""Configuration of the dialogue model: predict the latent of the reply, then say it."""

from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict

from configuration_jepa.configuration_base import JepaConfig, require, require_choice

CONTEXT_ACCESS = ("latent", "both")
DECODER_LATENTS = ("predicted", "target", "mixed")
PROTECTIONS = ("none", "vicreg", "sigreg")
RANKING_TARGETS = ("teacher", "online")


@strict
class DialogueJepaConfig(JepaConfig):
    """Configuration of [`DialogueJepaModel`] and [`DialogueJepaForConditionalGeneration`]. Fields of the trunk: see
    `JepaConfig`; they are those of the text encoder, and the decoder has the same width and heads.

    Args:
        max_position_embeddings: longest context, in tokens, special tokens included.
        max_reply_length: longest reply, in tokens, its begin token included.
        decoder_layers: blocks of the decoder.
        scale_embeddings: whether encoder and decoder read tokens' vectors sqrt(hidden_size) times as long as they are
            in the table (Vaswani et al., 2017, arXiv:1706.03762, section 3.4), which is the output's too.
        num_latents: vectors that a context or a reply is read into.
        predictor_layers: hidden layers of the predictor from the context's latents to the reply's.
        context_access: what the decoder attends to: `latent`, the reply's latents alone; `both`, the context too.
        decoder_latent: which latents the decoder is trained on: `predicted` from the context; the `target`, which the
            teacher reads from the reply; `mixed`, a mixture that moves from the target to the prediction. In use it is
            always the predicted one.
        decoder_gradient: whether the reply's loss reaches the encoder through the predicted latents.
        decoder_config: configuration of a pretrained causal language model that takes the decoder's place, with its
            `model_type`; None for our own decoder.
        prefix_length: vectors of the soft prefix that a pretrained decoder reads for each latent.
        reply_weight: weight of the reply's cross entropy, nats per token.
        alignment_weight: weight of 2 - 2 cos between predicted and target latent.
        ranking_weight: weight of the cross entropy of the cosines among the replies of the batch (van den Oord et al.,
            2018, arXiv:1807.03748).
        ranking_target: whose latents of the replies those cosines are with: the `teacher`'s, or `online`: the student
            reads the replies too, and learns from both sides (as Radford et al., 2021, arXiv:2103.00020, do).
        bag_weight: weight of the cross entropy, nats per token, of the reply's tokens in any order, by the predicted
            latents alone (the bag-of-word loss of Zhao et al., 2017, arXiv:1703.10960, section 3.3).
        temperature: start of the learned scale 1 / temperature of those cosines.
        label_smoothing: share of a reply's token that is spread over the vocabulary.
        teacher_momentum: share of its old self that the moving average keeps at each step.
        collapse_protection: `none`; `vicreg` (Bardes et al., 2022, arXiv:2105.04906); `sigreg` (Balestriero and
            LeCun, 2025, arXiv:2511.08544).
        collapse_weight: weight of the protection.

    Example:
        >>> from configuration_jepa import DialogueJepaConfig
        >>> DialogueJepaConfig(num_latents=4).context_access
        'both'
    """

    model_type = "dialogue_jepa"
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoModel": "modeling_dialogue_jepa.DialogueJepaModel",
        "AutoModelForSeq2SeqLM": "modeling_dialogue_jepa.DialogueJepaForConditionalGeneration",
    }
    pipelines: ClassVar[dict[str, str]] = {"reply": "pipeline_reply.ReplyPipeline"}
    loss_fields: ClassVar[tuple[str, ...]] = (
        "decoder_latent",
        "decoder_gradient",
        "reply_weight",
        "alignment_weight",
        "ranking_weight",
        "ranking_target",
        "bag_weight",
        "temperature",
        "label_smoothing",
        "teacher_momentum",
        "collapse_protection",
        "collapse_weight",
    )
    # The recipe names the pretrained decoder, whose own files tell this.
    universal_fields: ClassVar[tuple[str, ...]] = ("decoder_config",)
    keys_to_ignore_at_inference: ClassVar[list[str]] = [
        "past_key_values",
        "loss_parts",
        "predicted_latents",
        "target_latents",
        "encoder_last_hidden_state",
    ]

    hidden_size: int = 256
    max_reply_length: int = 32
    decoder_layers: int = 2
    scale_embeddings: bool = True
    num_latents: int = 1
    predictor_layers: int = 1
    context_access: str = "both"
    decoder_latent: str = "predicted"
    decoder_gradient: bool = True
    decoder_config: dict[str, Any] | None = None
    prefix_length: int = 4
    reply_weight: float | int = 1.0
    alignment_weight: float | int = 0.5
    ranking_weight: float | int = 1.0
    ranking_target: str = "teacher"
    bag_weight: float | int = 0.0
    temperature: float | int = 0.05
    label_smoothing: float | int = 0.0
    teacher_momentum: float = 0.99
    collapse_protection: str = "vicreg"
    collapse_weight: float | int = 0.05
    use_cache: bool = True
    is_encoder_decoder: bool = True

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As the library's. Raises `ValueError` for the file of an earlier model, which these weights do not fit."""
        if config_dict and "scale_embeddings" not in config_dict:
            raise ValueError(
                "This dialogue checkpoint was made by an earlier version, whose model read tokens and latents in "
                "another way (its config.json has no scale_embeddings): train it again."
            )
        return super().from_dict(config_dict, **kwargs)

    @property
    def of_the_batch(self) -> tuple[str, ...]:
        """See `JepaConfig`."""
        weights = {"ranking": self.ranking_weight, "collapse": self.collapse_weight}
        if self.collapse_protection == "none":
            weights.pop("collapse")
        return tuple(name for name, weight in weights.items() if weight)

    def validate_dialogue(self) -> None:
        """Choices, sizes and weights. Raises `ValueError`."""
        require_choice(self, "context_access", CONTEXT_ACCESS)
        require_choice(self, "decoder_latent", DECODER_LATENTS)
        require_choice(self, "collapse_protection", PROTECTIONS)
        require_choice(self, "ranking_target", RANKING_TARGETS)
        for name in ("decoder_layers", "num_latents", "prefix_length"):
            require(self, name, getattr(self, name) >= 1, "at least 1")
        require(self, "max_reply_length", self.max_reply_length >= 2, "at least 2")
        require(self, "predictor_layers", self.predictor_layers >= 0, "at least 0")
        for name in ("reply_weight", "alignment_weight", "ranking_weight", "bag_weight", "collapse_weight"):
            require(self, name, getattr(self, name) >= 0, "at least 0")
        require(self, "temperature", self.temperature > 0, "above 0 (0.05 to 0.1 are usual)")
        require(self, "label_smoothing", 0 <= self.label_smoothing < 1, "at least 0 and below 1")
        require(self, "teacher_momentum", 0 <= self.teacher_momentum < 1, "at least 0 and below 1")
        for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
            require(self, name, getattr(self, name) is not None, "the id of a token")
        require(self, "is_encoder_decoder", self.is_encoder_decoder, "true")
        learnt = ("reply_weight", "alignment_weight", "ranking_weight", "bag_weight")
        if not any(getattr(self, name) for name in learnt):
            raise ValueError(f"{'=0, '.join(learnt)}=0 leave nothing to learn: set one above 0.")
        if self.decoder_config is not None and "model_type" not in self.decoder_config:
            raise ValueError("decoder_config has no model_type: give the whole configuration of a causal model.")
