"""Configuration of the staged generator: a causal language model that grows by stages."""

from typing import ClassVar

from huggingface_hub.dataclasses import strict

from configuration_jepa.configuration_base import JepaConfig, require, require_choice

SEMANTIC_BLOCKS = ("simple", "full")
LAST_STAGE = 3
MAX_ROUTING_CANDIDATES = 1024


@strict
class StagedGeneratorConfig(JepaConfig):
    """Configuration of [`StagedGeneratorModel`] and [`StagedGeneratorForCausalLM`]. Fields of the trunk: see
    `JepaConfig`.

    Stage 0 is a causal transformer on a factorised token embedding that is seen as semantic blocks; stage 1 adds a
    time embedding per token; stage 2 changes how it is trained (credit assignment), not the model; stage 3 attends
    along a sparse graph. `use_cache` is the library's switch for key-value caches in generation.

    Args:
        stage: 0 to 3; each holds all parameters of the one before.
        embedding_size: width of the token table, which a matrix maps to `hidden_size` (Lan et al., 2020,
            arXiv:1909.11942).
        num_semantic_blocks: equal parts that a token's embedding is seen as.
        semantic_blocks: `simple`, the parts only name places of the vector; `full`, they attend to each other.
        time_dim: width of the time embedding of each token; even (stage 1 and later).
        routing_window: nearest earlier tokens that every token attends to (stage 3).
        routing_top_k: most similar earlier tokens before the window that a token attends to (stage 3).
        routing_candidates: nearest tokens before the window among which those are sought; at most 1,024 (stage 3).
        routing_blocks: semantic blocks whose cosine decides what is similar; null for all (stage 3).
        routing_shortcuts: whether tokens at Fibonacci distances beyond the window are attended to (stage 3).
        block_decorrelation_weight: weight of the mean squared cosine between the blocks of a token.
        z_loss_weight: weight of the squared log-normaliser of the output (de Brebisson and Vincent, 2016,
            arXiv:1604.08859), which keeps logits from drifting.
        label_smoothing: share of a target that is spread over the vocabulary.

    Example:
        >>> from configuration_jepa import StagedGeneratorConfig
        >>> StagedGeneratorConfig(stage=3).routing_window
        32
    """

    model_type = "staged_generator"
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoModel": "modeling_staged_generator.StagedGeneratorModel",
        "AutoModelForCausalLM": "modeling_staged_generator.StagedGeneratorForCausalLM",
    }
    loss_fields: ClassVar[tuple[str, ...]] = ("block_decorrelation_weight", "z_loss_weight", "label_smoothing")
    universal_fields: ClassVar[tuple[str, ...]] = ("stage",)
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values", "loss_parts"]

    vocab_size: int = 50257
    hidden_size: int = 1024
    num_hidden_layers: int = 6
    num_attention_heads: int = 8
    hidden_act: str = "relu2"
    max_position_embeddings: int = 1024
    qk_norm: bool = True
    zero_init_residual: bool = True
    stage: int = 0
    embedding_size: int = 512
    num_semantic_blocks: int = 16
    semantic_blocks: str = "simple"
    time_dim: int = 128
    routing_window: int = 32
    routing_top_k: int = 16
    routing_candidates: int = MAX_ROUTING_CANDIDATES
    routing_blocks: list[int] | None = None
    routing_shortcuts: bool = True
    block_decorrelation_weight: float | int = 0.0
    z_loss_weight: float | int = 0.0
    label_smoothing: float | int = 0.0
    use_cache: bool = True

    def validate_stage(self) -> None:
        """Stage, blocks and time. Raises `ValueError`."""
        require(self, "stage", 0 <= self.stage <= LAST_STAGE, f"from 0 to {LAST_STAGE}")
        require_choice(self, "semantic_blocks", SEMANTIC_BLOCKS)
        require(self, "embedding_size", self.embedding_size >= 1, "at least 1")
        require(self, "num_semantic_blocks", self.num_semantic_blocks >= 1, "at least 1")
        if self.embedding_size % self.num_semantic_blocks:
            raise ValueError(
                f"embedding_size={self.embedding_size} is not a multiple of num_semantic_blocks="
                f"{self.num_semantic_blocks}: all blocks have one width. Change one of them."
            )
        require(self, "time_dim", self.time_dim >= 2 and self.time_dim % 2 == 0, "even and at least 2")

    def validate_routing(self) -> None:
        """What a token attends to at stage 3. Raises `ValueError`."""
        lowest = 1 if self.stage == LAST_STAGE else 0
        for name in ("routing_window", "routing_top_k"):
            require(self, name, getattr(self, name) >= lowest, f"at least {lowest} at stage {self.stage}")
        require(
            self,
            "routing_candidates",
            self.routing_top_k <= self.routing_candidates <= MAX_ROUTING_CANDIDATES,
            f"from routing_top_k={self.routing_top_k} to {MAX_ROUTING_CANDIDATES}",
        )
        if self.routing_blocks is not None:
            chosen, blocks = self.routing_blocks, range(self.num_semantic_blocks)
            allowed = f"null, or different numbers from 0 to {self.num_semantic_blocks - 1}"
            sound = bool(chosen) and len(set(chosen)) == len(chosen) and set(chosen) <= set(blocks)
            require(self, "routing_blocks", sound, allowed)
        if self.stage == LAST_STAGE and self.attention_dropout:
            raise ValueError(
                f"attention_dropout={self.attention_dropout} is not possible at stage {LAST_STAGE}: a sparse graph "
                "has none. Use dropout."
            )

    def validate_loss(self) -> None:
        """Ranges of the loss fields. Raises `ValueError`."""
        for name in ("block_decorrelation_weight", "z_loss_weight"):
            require(self, name, getattr(self, name) >= 0, "at least 0")
        require(self, "label_smoothing", 0 <= self.label_smoothing < 1, "at least 0 and below 1")
