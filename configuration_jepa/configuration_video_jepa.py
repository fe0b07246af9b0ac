"""Configuration of the video model: frames as discrete codes, the hidden ones of which are predicted."""

from typing import ClassVar

from huggingface_hub.dataclasses import strict

from configuration_jepa.configuration_base import JepaConfig, require, require_choice

FRAME_CODES = ("patch", "grey")
VIDEO_HEADS = ("cosine", "softmax")
VIDEO_LOGIT_SCALES = ("fixed", "learned", "length")


@strict
class VideoJepaConfig(JepaConfig):
    """Configuration of [`VideoJepaForFramePrediction`]. Fields of the trunk: see `JepaConfig`.

    A frame is cut into squares of `code_size` pixels, each of which is one code; a square of `patch_size` pixels, with
    the codes in it, is one token of the transformer.

    Args:
        vocab_size: number of codes.
        max_position_embeddings: longest clip, in frames.
        frame_size: height and width of a frame, in pixels.
        patch_size: side of the square that one transformer token covers, in pixels; it divides `frame_size`.
        code_size: side of the square that one code covers, in pixels; it divides `patch_size`. 1 for `grey`.
        frame_codes: `patch`, codes learned from small squares by a finite-scalar quantiser (Mentzer et al., 2023,
            arXiv:2309.15505); `grey`, `vocab_size` equal steps of brightness per pixel.
        latent_size: width in which a code is predicted; None for the trunk's.
        head: `cosine` or `softmax`, over the table of codes.
        logit_scale: of the cosines: `fixed`, `learned`, or by the prediction's `length`.
        temperature: start of the scale 1 / temperature.
        frequency_bias: whether each code has a bias, which starts at its frequency in the training part.
        predictor_layers: hidden layers between trunk and table.
        label_smoothing: share of the true code that is spread over all codes.

    Example:
        >>> from configuration_jepa import VideoJepaConfig
        >>> config = VideoJepaConfig()
        >>> config.tokens_per_frame, config.codes_per_token
        (64, 4)
    """

    model_type = "video_jepa"
    auto_classes: ClassVar[dict[str, str]] = {"AutoModel": "modeling_video_jepa.VideoJepaForFramePrediction"}
    pipelines: ClassVar[dict[str, str]] = {"frame-prediction": "pipeline_frame_prediction.FramePredictionPipeline"}
    loss_fields: ClassVar[tuple[str, ...]] = (
        "head",
        "logit_scale",
        "temperature",
        "frequency_bias",
        "predictor_layers",
        "label_smoothing",
    )
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["loss_parts", "logits", "last_hidden_state"]

    vocab_size: int = 256
    hidden_size: int = 192
    num_hidden_layers: int = 4
    max_position_embeddings: int = 20
    dropout: float | int = 0.1
    frame_size: int = 64
    patch_size: int = 8
    code_size: int = 4
    frame_codes: str = "patch"
    latent_size: int | None = 64
    head: str = "cosine"
    logit_scale: str = "length"
    temperature: float | int = 0.1
    frequency_bias: bool = True
    predictor_layers: int = 0
    label_smoothing: float | int = 0.0
    tie_word_embeddings: bool = False
    pad_token_id: int | None = None
    unk_token_id: int | None = None
    mask_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | None = None

    @property
    def tokens_per_frame(self) -> int:
        """Transformer tokens of one frame."""
        return (self.frame_size // self.patch_size) ** 2

    @property
    def codes_per_token(self) -> int:
        """Codes in the square of one transformer token."""
        return (self.patch_size // self.code_size) ** 2

    def validate_choices(self) -> None:
        """Each choice is one of its list. Raises `ValueError`."""
        require_choice(self, "frame_codes", FRAME_CODES)
        require_choice(self, "head", VIDEO_HEADS)
        require_choice(self, "logit_scale", VIDEO_LOGIT_SCALES)

    def validate_frames(self) -> None:
        """Squares fit into frames, and codes into squares. Raises `ValueError`."""
        for name in ("frame_size", "patch_size", "code_size"):
            require(self, name, getattr(self, name) >= 1, "at least 1")
        for small, large in (("patch_size", "frame_size"), ("code_size", "patch_size")):
            divides = getattr(self, small) >= 1 and getattr(self, large) % getattr(self, small) == 0
            require(self, small, divides, f"a divisor of {large}={getattr(self, large)}")
        if self.frame_codes == "grey":
            require(self, "code_size", self.code_size == 1, "1 with frame_codes='grey', which codes single pixels")
        require(self, "vocab_size", self.vocab_size >= 2, "at least 2 codes")
        # Heads below 1 are named by the trunk's own check.
        quarter = self.hidden_size % (4 * max(self.num_attention_heads, 1)) == 0
        heads = f"a multiple of 4 * num_attention_heads={4 * self.num_attention_heads}: rows and columns turn pairs"
        require(self, "hidden_size", quarter, heads)

    def validate_prediction(self) -> None:
        """Ranges of the head and the loss. Raises `ValueError`."""
        require(self, "latent_size", self.latent_size is None or self.latent_size >= 1, "None or at least 1")
        require(self, "temperature", self.temperature > 0, "above 0 (0.05 to 0.1 are usual)")
        require(self, "predictor_layers", self.predictor_layers >= 0, "at least 0")
        require(self, "label_smoothing", 0 <= self.label_smoothing < 1, "at least 0 and below 1")
