"""Configuration of the staged generator: a causal language model that grows by stages."""

from dataclasses import field
from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict

from configuration_jepa.configuration_base import JepaConfig, require, require_choice

SEMANTIC_BLOCKS = ("simple", "full")
DECAY_SOURCES = ("hidden", "token")
EDGES = ("successors", "places", "pairs", "blocks", "fibonacci")
LAST_STAGE = 3
# Fields of the first form, whose stage 1 was an embedding of the position and whose stage 3 attended to 1,024 places.
_FIRST_FORM = ("routing_top_k", "routing_candidates", "routing_shortcuts")


@strict
class StagedGeneratorConfig(JepaConfig):
    """Configuration of [`StagedGeneratorModel`] and [`StagedGeneratorForCausalLM`]. Fields of the trunk: see
    `JepaConfig`.

    Stage 0 is a causal transformer on a factorised token embedding that is seen as semantic blocks; stage 1 adds
    attention that forgets and a short convolution; stage 2 changes how it is trained (credit assignment), not the
    model; stage 3 adds far edges of a graph. `use_cache` is the library's switch for key-value caches in generation.

    Args:
        stage: 0 to 3; each holds all parameters of the one before.
        embedding_size: width of the token table, which a matrix maps to `hidden_size` (Lan et al., 2020,
            arXiv:1909.11942).
        num_semantic_blocks: equal parts that a token's embedding is seen as.
        semantic_blocks: `simple`, the parts only name places of the vector; `full`, they attend to each other.
        decay_source: what decides how fast a head forgets a token (stage 1 and later): `hidden`, the layer's hidden
            state; `token`, a vector of `time_dim` per token.
        time_dim: width of that vector.
        routing_edges: kinds of far edges (stage 3), each with a softmax and gates of its own: `successors`, the
            places after the latest earlier occurrences of the same token; `places`, those occurrences themselves;
            `pairs`, successors of the same two tokens; `blocks`, successors of tokens with the same code of semantic
            blocks; `fibonacci`, tokens at Fibonacci distances.
        routing_occurrences: how many occurrences (stage 3).
        routing_window: nearest earlier tokens that are attended to in the usual way; 0 for all of them (stage 3).
        routing_blocks: semantic blocks that the code of `blocks` is made of; null for all (stage 3).
        routing_code_bits: length of that code: signs of so many entries of the token's embedding (stage 3).
        block_decorrelation_weight: weight of the mean squared cosine between the blocks of a token.
        z_loss_weight: weight of the squared log-normaliser of the output (de Brebisson and Vincent, 2016,
            arXiv:1604.08859), which keeps logits from drifting.
        label_smoothing: share of a target that is spread over the vocabulary.

    Example:
        >>> from configuration_jepa import StagedGeneratorConfig
        >>> StagedGeneratorConfig(stage=3).routing_edges
        ['successors']
    """

    model_type = "staged_generator"
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoModel": "modeling_staged_generator.StagedGeneratorModel",
        "AutoModelForSequenceClassification": ("modeling_staged_generator.StagedGeneratorForSequenceClassification"),
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
    decay_source: str = "hidden"
    time_dim: int = 32
    routing_edges: list[str] = field(default_factory=lambda: ["successors"])
    routing_occurrences: int = 8
    routing_window: int = 0
    routing_blocks: list[int] | None = None
    routing_code_bits: int = 10
    block_decorrelation_weight: float | int = 0.0
    z_loss_weight: float | int = 0.0
    label_smoothing: float | int = 0.0
    use_cache: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        first_form = [kwargs.pop(name) for name in _FIRST_FORM if name in kwargs]
        if first_form and self.stage >= 1:
            raise ValueError(
                f"stage={self.stage}: this checkpoint is of the first form of stages 1 to 3, which this version does "
                "not have. Start from its stage 0 (--init_from), or train stage 1 anew; or open it with the code "
                "beside its weights (trust_remote_code=True)."
            )
        super().__post_init__(**kwargs)

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
        require_choice(self, "decay_source", DECAY_SOURCES)
        require(self, "time_dim", self.time_dim >= 1, "at least 1")

    def validate_routing(self) -> None:
        """Far edges. Raises `ValueError`."""
        edges = self.routing_edges
        sound = bool(edges) and len(set(edges)) == len(edges) and set(edges) <= set(EDGES)
        require(self, "routing_edges", sound, "one or more, each once, of " + ", ".join(EDGES))
        require(self, "routing_occurrences", self.routing_occurrences >= 1, "at least 1")
        require(self, "routing_window", self.routing_window >= 0, "at least 0 (0: all earlier tokens)")
        require(self, "routing_code_bits", 1 <= self.routing_code_bits <= 30, "from 1 to 30")
        if self.routing_blocks is not None:
            chosen, blocks = self.routing_blocks, range(self.num_semantic_blocks)
            allowed = f"null, or different numbers from 0 to {self.num_semantic_blocks - 1}"
            sound = bool(chosen) and len(set(chosen)) == len(chosen) and set(chosen) <= set(blocks)
            require(self, "routing_blocks", sound, allowed)

    def validate_loss(self) -> None:
        """Ranges of the loss fields. Raises `ValueError`."""
        for name in ("block_decorrelation_weight", "z_loss_weight"):
            require(self, name, getattr(self, name) >= 0, "at least 0")
        require(self, "label_smoothing", 0 <= self.label_smoothing < 1, "at least 0 and below 1")
