"""The families under test: tiny configurations, inputs and classes for the checks that all of them share."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from configuration_jepa import DialogueJepaConfig, JepaConfig, StagedGeneratorConfig, TextJepaConfig
from modeling_jepa import (
    DialogueJepaForConditionalGeneration,
    DialogueJepaModel,
    StagedGeneratorForCausalLM,
    StagedGeneratorForSequenceClassification,
    StagedGeneratorModel,
    TextJepaForMaskedLM,
    TextJepaForSequenceClassification,
    TextJepaForTokenClassification,
    TextJepaModel,
)
from training.data.settings import DataSettings
from training.data.tokenization import SPECIAL_TOKENS, build_tokenizer

Inputs = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Family:
    """One family: `classes` maps an Auto class to ours, the one that learns last, and `heads` those of classifiers;
    `inputs(config, rows, seed)` has no
    labels, `learning_inputs` has them; `main_part` is the part of the loss that predicts; `tasks` are its stock
    pipelines; `attended(length)` is the last axis of its attentions; `memorising` switches off what keeps the loss up.

    `answered` is the mask of the places that answers stand at; `records` are the names of recorded states and
    attentions, each with the mask of its places; `splitting` switches off what compares the rows of a batch, whose
    parts are `of_the_batch`.
    """

    name: str
    config_class: type[JepaConfig]
    small: Mapping[str, object]
    classes: Mapping[str, type[PreTrainedModel]]
    inputs: Callable[..., Inputs]
    learning_inputs: Callable[..., Inputs]
    main_part: str
    tasks: tuple[str, ...]
    attended: Callable[[int], int] = int
    heads: Mapping[str, type[PreTrainedModel]] = field(default_factory=dict)
    memorising: Mapping[str, object] = field(default_factory=dict)
    answered: str = "attention_mask"
    records: tuple[tuple[str, str, str], ...] = (("hidden_states", "attentions", "attention_mask"),)
    splitting: Mapping[str, object] = field(default_factory=dict)
    of_the_batch: frozenset[str] = frozenset()

    @property
    def learner(self) -> type[PreTrainedModel]:
        """The class that has a loss."""
        return list(self.classes.values())[-1]

    def config(self, **changes: object) -> JepaConfig:
        """The tiny configuration, with changes."""
        return self.config_class(**{**self.small, **changes})

    def model(self, seed: int = 0, **changes: object) -> PreTrainedModel:
        """A tiny model that can learn, in evaluation mode."""
        torch.manual_seed(seed)
        return self.learner(self.config(**changes)).eval()


def text_inputs(config: JepaConfig, rows: int = 4, length: int = 10, seed: int = 0) -> Inputs:
    """Rows of different lengths, padded on the right."""
    generator = torch.Generator().manual_seed(seed)
    input_ids = torch.randint(5, config.vocab_size, (rows, length), generator=generator)
    lengths = torch.arange(rows) % 3 + length - 2
    attention_mask = (torch.arange(length)[None] < lengths[:, None]).long()
    return {
        "input_ids": torch.where(attention_mask.bool(), input_ids, config.pad_token_id),
        "attention_mask": attention_mask,
    }


def text_learning_inputs(config: JepaConfig, rows: int = 4, length: int = 10, seed: int = 0) -> Inputs:
    """The same with two holes a row, and negatives."""
    inputs = text_inputs(config, rows, length, seed)
    holes = torch.zeros_like(inputs["input_ids"], dtype=torch.bool)
    holes[:, [2, 5]] = True
    labels = torch.where(holes, inputs["input_ids"], -100)
    generator = torch.Generator().manual_seed(seed + 1)
    negatives = torch.randint(5, config.vocab_size - 1, (2 * rows, config.num_negatives), generator=generator)
    negatives += negatives >= labels[holes][:, None]
    inputs["input_ids"] = torch.where(holes, config.mask_token_id, inputs["input_ids"])
    return {**inputs, "labels": labels, "negative_ids": negatives}


TEXT_JEPA = Family(
    name="text_jepa",
    config_class=TextJepaConfig,
    small={
        "vocab_size": 97,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 16,
        "num_negatives": 8,
    },
    classes={"AutoModel": TextJepaModel, "AutoModelForMaskedLM": TextJepaForMaskedLM},
    heads={
        "AutoModelForSequenceClassification": TextJepaForSequenceClassification,
        "AutoModelForTokenClassification": TextJepaForTokenClassification,
    },
    inputs=text_inputs,
    learning_inputs=text_learning_inputs,
    main_part="ranking",
    tasks=("fill-mask", "feature-extraction"),
    memorising={"auxiliary_weight": 0.0},
)


def causal_learning_inputs(config: JepaConfig, rows: int = 4, length: int = 10, seed: int = 0) -> Inputs:
    """The rows of `text_inputs`, in which every token but the first is predicted."""
    inputs = text_inputs(config, rows, length, seed)
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    labels[:, 0] = -100
    return {**inputs, "labels": labels}


STAGED_GENERATOR = Family(
    name="staged_generator",
    config_class=StagedGeneratorConfig,
    small={
        "vocab_size": 97,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 16,
        "embedding_size": 24,
        "num_semantic_blocks": 4,
        "semantic_blocks": "full",
        "time_dim": 8,
        "stage": 1,
        "zero_init_residual": False,
    },
    classes={"AutoModel": StagedGeneratorModel, "AutoModelForCausalLM": StagedGeneratorForCausalLM},
    heads={"AutoModelForSequenceClassification": StagedGeneratorForSequenceClassification},
    inputs=text_inputs,
    learning_inputs=causal_learning_inputs,
    main_part="cross_entropy",
    tasks=("text-generation", "feature-extraction"),
)
# The usual attention, and two kinds of far edges.
ROUTED_GENERATOR = replace(
    STAGED_GENERATOR,
    name="staged_generator-3",
    small={**STAGED_GENERATOR.small, "stage": 3, "routing_edges": ["successors", "fibonacci"]},
    attended=lambda length: 1 + 2,
)


def reply_inputs(config: JepaConfig, rows: int = 4, length: int = 10, seed: int = 0) -> Inputs:
    """Contexts of different lengths, and what was said so far of their replies, shorter by three; both padded."""
    said = text_inputs(config, rows, length - 3, seed + 1)
    said["input_ids"][:, 0] = config.bos_token_id
    order = torch.arange(rows).flip(0)  # so that the longest context has not the longest reply
    return {**text_inputs(config, rows, length, seed), **{f"decoder_{name}": said[name][order] for name in said}}


def reply_learning_inputs(config: JepaConfig, rows: int = 4, length: int = 10, seed: int = 0) -> Inputs:
    """The contexts of `reply_inputs`, and the replies that follow from what was said."""
    inputs = reply_inputs(config, rows, length, seed)
    said, mask = inputs.pop("decoder_input_ids"), inputs.pop("decoder_attention_mask")
    return {**inputs, "labels": said.masked_fill(mask == 0, -100)[:, 1:]}


DIALOGUE_JEPA = Family(
    name="dialogue_jepa",
    config_class=DialogueJepaConfig,
    small={
        "vocab_size": 97,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 16,
        "max_reply_length": 16,
        "decoder_layers": 2,
        "num_latents": 2,
        "bag_weight": 0.3,
    },
    classes={"AutoModel": DialogueJepaModel, "AutoModelForSeq2SeqLM": DialogueJepaForConditionalGeneration},
    inputs=reply_inputs,
    learning_inputs=reply_learning_inputs,
    main_part="reply",
    tasks=("feature-extraction",),
    memorising={"collapse_protection": "none"},
    answered="decoder_attention_mask",
    records=(
        ("encoder_hidden_states", "encoder_attentions", "attention_mask"),
        ("decoder_hidden_states", "decoder_attentions", "decoder_attention_mask"),
    ),
    splitting={"alignment_weight": 0.0, "ranking_weight": 0.0, "bag_weight": 0.0, "collapse_protection": "none"},
    of_the_batch=frozenset({"ranking", "batch_accuracy"}),
)

FAMILIES = (TEXT_JEPA, STAGED_GENERATOR, ROUTED_GENERATOR, DIALOGUE_JEPA)


def row_of(inputs: Inputs, row: int) -> Inputs:
    """One row alone, without its padding."""
    lengths = {name: int(mask[row].sum()) for name, mask in inputs.items() if name.endswith("attention_mask")}
    mask_of = {name: f"{'decoder_' * name.startswith('decoder_')}attention_mask" for name in inputs}
    return {name: tensor[row : row + 1, : lengths[mask_of[name]]] for name, tensor in inputs.items()}


def tiny_tokenizer(config: JepaConfig) -> PreTrainedTokenizerFast:
    """A word-level tokenizer that fills the tiny vocabulary: `w0`, `w1`, ... after the special tokens."""
    words = [f"w{index}" for index in range(config.vocab_size - len(SPECIAL_TOKENS))]
    settings = DataSettings(data="memory", tokenizer="word", max_vocab=config.vocab_size)
    return build_tokenizer(settings, [" ".join(words)])
