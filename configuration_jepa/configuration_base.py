"""What the configurations of all families share: strict fields, one `auto_map`, code that travels with the weights."""

import math
import os
from dataclasses import fields
from difflib import get_close_matches
from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from configuration_jepa.remote_code import export_remote_code, is_remote_code

# Names that are no fields and still arrive legitimately: from config.json, or from the library's own loading code.
_LIBRARY_NAMES = frozenset(
    {
        "_attn_implementation_autoset",
        "_commit_hash",
        "_name_or_path",
        "attn_implementation",
        "auto_map",
        "experts_implementation",
        "is_causal",  # continuous batching sets it for the time of a forward pass
        "model_type",
        "name_or_path",
        "num_labels",
        "output_attentions",
        "quantization_config",
        "torch_dtype",
        "use_cache",  # `Trainer` writes it into every configuration
    }
)

# Those of `transformers.activations.ACT2FN` that need no argument and have no weights.
HIDDEN_ACTS = ("gelu", "gelu_pytorch_tanh", "quick_gelu", "relu", "relu2", "silu", "mish", "tanh")


@strict
class JepaConfig(PreTrainedConfig):
    """Fields of a transformer trunk, shared by every family.

    A name that is not a field raises `ValueError`: a typo never means a default. Types and ranges are checked when the
    configuration is made, before anything is allocated.

    Args:
        vocab_size: number of rows of the token table.
        hidden_size: width of the trunk; a multiple of `2 * num_attention_heads` (rotary positions turn pairs).
        num_hidden_layers: number of blocks.
        num_attention_heads: heads per attention.
        intermediate_size: inner width of the MLP; `None` means `4 * hidden_size`.
        hidden_act: activation of the MLP: one of `HIDDEN_ACTS`.
        max_position_embeddings: longest sequence, in tokens, special tokens included.
        rope_theta: base of the rotary positions (Su et al., 2021, arXiv:2104.09864).
        norm_eps: epsilon inside the root of RMSNorm (Zhang and Sennrich, 2019, arXiv:1910.07467).
        dropout: dropout on each branch before it joins the residual stream.
        attention_dropout: dropout on attention probabilities.
        qk_norm: RMSNorm on every head's queries and keys (Henry et al., 2020, arXiv:2010.04245).
        gated_mlp: the MLP's inner layer is multiplied by an activated gate (Shazeer, 2020, arXiv:2002.05202).
        zero_init_residual: each branch's last matrix starts at zero, so that the trunk starts as the identity.
        initializer_range: standard deviation of linear layers and tables at the start.
        tie_word_embeddings: whether the output table is the input table.
        pad_token_id, unk_token_id, mask_token_id, bos_token_id, eos_token_id: ids of the special tokens.

    Raises:
        ValueError: an unknown name, or a value out of range; the message names both.
    """

    # "AutoModel..." -> "module.Class": completed by each family; configuration's own entry is added.
    auto_classes: ClassVar[dict[str, str]] = {}
    # task -> "module.Class" of a pipeline of ours: completed by the families that have one.
    pipelines: ClassVar[dict[str, str]] = {}
    # The fields that a recipe writes in its `loss` section; all others belong in `model`.
    loss_fields: ClassVar[tuple[str, ...]] = ()
    # Fields that no recipe holds: a flag of every command line decides them, or a file that the recipe names.
    universal_fields: ClassVar[tuple[str, ...]] = ()

    vocab_size: int = 8000
    hidden_size: int = 128
    num_hidden_layers: int = 2
    num_attention_heads: int = 4
    intermediate_size: int | None = None
    hidden_act: str = "gelu"
    max_position_embeddings: int = 64
    rope_theta: float | int = 10000.0
    norm_eps: float = 1e-6
    dropout: float | int = 0.0
    attention_dropout: float | int = 0.0
    qk_norm: bool = False
    gated_mlp: bool = False
    zero_init_residual: bool = False
    initializer_range: float = 0.02
    tie_word_embeddings: bool = True
    pad_token_id: int | None = 0
    unk_token_id: int | None = 1
    mask_token_id: int | None = 2
    bos_token_id: int | None = 3
    eos_token_id: int | None = 4

    def __post_init__(self, **kwargs: Any) -> None:
        kwargs.pop("custom_pipelines", None)  # what a file says of them is known
        unknown = sorted(name for name in kwargs if name not in _LIBRARY_NAMES)
        if unknown:
            raise ValueError(
                f"{type(self).__name__} has no field {_with_suggestions(unknown, own_fields(type(self)))}."
            )
        super().__post_init__(**kwargs)
        if self.intermediate_size is None:
            self.intermediate_size = 4 * self.hidden_size
        self.auto_map = full_auto_map(type(self))

    def __setattr__(self, name: str, value: Any) -> None:
        """Refuses a name that is no field, as it would be saved and the checkpoint could not be opened again."""
        known = name.startswith("_") or name in _LIBRARY_NAMES or hasattr(type(self), name)
        if not known and "_post_init_done" in vars(self):
            names = {field.name for field in fields(self)}
            # `get_text_config` takes the prefix away, in a copy.
            if not names & {name, f"encoder_{name}", f"decoder_{name}"}:
                raise ValueError(
                    f"{type(self).__name__} has no field {_with_suggestions([name], own_fields(type(self)))}: notes "
                    "of your own belong in a file beside it, settings of `generate` in model.generation_config."
                )
        super().__setattr__(name, value)

    def validate_numbers(self) -> None:
        """No number is infinite, NaN, a truth value or beyond what a tensor can have. Raises `ValueError`."""
        own = own_fields(type(self))
        for field in (field for field in fields(self) if field.name in own):
            value = getattr(self, field.name)
            if isinstance(value, float):
                require(self, field.name, math.isfinite(value), "a finite number")
            if isinstance(value, int):
                require(self, field.name, value < 2**32, "below 2 ** 32")
            # Python counts True as 1, and the type check with it.
            require(self, field.name, field.type is bool or not isinstance(value, bool), "no truth value")

    def validate_trunk(self) -> None:
        """Ranges and contradictions of the shared fields. Raises `ValueError`."""
        for name in ("vocab_size", "hidden_size", "num_attention_heads", "intermediate_size"):
            require(self, name, getattr(self, name) >= 1, "at least 1")
        require(self, "num_hidden_layers", self.num_hidden_layers >= 1, "at least 1")
        require(self, "max_position_embeddings", self.max_position_embeddings >= 2, "at least 2")
        if self.hidden_size % (2 * self.num_attention_heads):
            raise ValueError(
                f"hidden_size={self.hidden_size} is not a multiple of 2 * num_attention_heads="
                f"{self.num_attention_heads}: every head needs an even, equal share of the width. Change one of them."
            )
        require_choice(self, "hidden_act", HIDDEN_ACTS)
        for name in ("dropout", "attention_dropout"):
            require(self, name, 0 <= getattr(self, name) < 1, "at least 0 and below 1")
        for name in ("rope_theta", "norm_eps", "initializer_range"):
            require(self, name, getattr(self, name) > 0, "above 0")
        for name in ("pad_token_id", "unk_token_id", "mask_token_id", "bos_token_id", "eos_token_id"):
            value = getattr(self, name)
            require(
                self, name, value is None or 0 <= value < self.vocab_size, f"None or from 0 to {self.vocab_size - 1}"
            )

    @property
    def of_the_batch(self) -> tuple[str, ...]:
        """Parts of the loss that compare the rows of a batch: they are of each micro-batch, not of a step's rows."""
        return ()

    @property
    def special_token_ids(self) -> tuple[int, ...]:
        """Ids that are never masked, never a target and never a negative (the unknown token included), ascending."""
        ids = (self.pad_token_id, self.unk_token_id, self.mask_token_id, self.bos_token_id, self.eos_token_id)
        return tuple(sorted({token_id for token_id in ids if token_id is not None}))

    @property
    def custom_pipelines(self) -> dict[str, dict[str, Any]]:
        """What `pipeline(..., trust_remote_code=True)` builds our pipelines from, as the library wants it.

        Empty where the package is installed: there they stand in the library's registry, and need no trust. Made
        afresh each time, as the library changes in place what it is given.
        """
        return full_custom_pipelines(type(self)) if is_remote_code(type(self)) else {}

    @custom_pipelines.setter
    def custom_pipelines(self, value: dict[str, Any]) -> None:
        """Does nothing: the library writes here what is known, before it saves a pipeline."""

    def to_dict(self) -> dict[str, Any]:
        """As the library's, with the pipelines that travel along."""
        found = super().to_dict()
        found.pop("keys_to_ignore_at_inference", None)  # of a model, which sets it again
        return found | {"custom_pipelines": full} if (full := full_custom_pipelines(type(self))) else found

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], push_to_hub: bool = False, **kwargs: Any
    ) -> None:
        """Write `config.json`, and beside it the modeling code that opens the checkpoint anywhere."""
        self.auto_map = full_auto_map(type(self))
        if not is_remote_code(type(self)):
            # Before the library's own part: with `push_to_hub` it uploads what it finds in the folder.
            os.makedirs(save_directory, exist_ok=True)
            export_remote_code(type(self).auto_classes.values(), save_directory)
        super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)


def own_fields(config_class: type[JepaConfig]) -> set[str]:
    """Names of the fields that `config_class` declares itself or has from `JepaConfig` (the library's left out)."""
    inherited = {field.name for field in fields(PreTrainedConfig)}
    return {field.name for field in fields(config_class)} - inherited


def full_auto_map(config_class: type[JepaConfig]) -> dict[str, str]:
    """A fresh, complete `auto_map`: the library changes the one it is given in place."""
    module = config_class.__module__.rsplit(".", 1)[-1]
    return {"AutoConfig": f"{module}.{config_class.__name__}", **config_class.auto_classes}


def full_custom_pipelines(config_class: type[JepaConfig]) -> dict[str, dict[str, Any]]:
    """Task -> class and Auto class of its model, as they stand in `config.json`. The class that learns opens them."""
    auto_class = list(config_class.auto_classes)[-1]
    return {task: {"impl": name, "pt": [auto_class], "tf": []} for task, name in config_class.pipelines.items()}


def require(config: JepaConfig, name: str, holds: bool, allowed: str) -> None:
    """Raise `ValueError` naming field, value and what is allowed, unless `holds`."""
    if not holds:
        raise ValueError(f"{name}={getattr(config, name)!r} is not possible: it must be {allowed}.")


def require_choice(config: JepaConfig, name: str, choices: tuple[str, ...]) -> None:
    """Raise `ValueError` unless field `name` is one of `choices`."""
    require(config, name, getattr(config, name) in choices, "one of " + ", ".join(choices))


def _with_suggestions(names: list[str], known: set[str]) -> str:
    """`'hiden_size' (did you mean 'hidden_size'?), ...`."""
    told = []
    for name in names:
        close = get_close_matches(name, sorted(known), n=1)
        told.append(f"{name!r} (did you mean {close[0]!r}?)" if close else repr(name))
    return ", ".join(told)
