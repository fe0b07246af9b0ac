"""The field's own classes beside the staged generator, trained by our trainer: `GPT2LMHeadModel`, `LlamaForCausalLM`.

Data, order, schedule and clipping are the other arms'; so are what surrounds a network and is no part of its design:
packed documents do not see each other, the loss is made in the same chunks, and on a CPU attention is never in
bfloat16 (see `modeling_jepa.layers`). The networks and their initialisation are the library's.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import (
    AttentionInterface,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from configuration_jepa import StagedGeneratorConfig
from modeling_jepa.chunked_cross_entropy import chunked_cross_entropy
from modeling_jepa.modeling_staged_generator import StagedGeneratorForCausalLM, StagedGeneratorOutput
from training.common.errors import InputError

ATTENTION = "sdpa_in_full_precision_on_cpu"
TOLERANCE = 0.02  # of the number of parameters
_WIDTH_STEPS = 64  # widths that are tried


def full_precision_sdpa(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The library's sdpa, without a CPU's autocast: as our own layers attend."""
    if query.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    with torch.autocast("cpu", enabled=False):
        return sdpa_attention_forward(module, query.float(), key.float(), value.float(), attention_mask, **kwargs)


AttentionInterface.register(ATTENTION, full_precision_sdpa)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)


class PackedBlocks(PreTrainedModel):
    """A causal model of the library that learns from packed blocks, with its loss in parts, as our models do."""

    accepts_loss_kwargs = True  # the trainer hands over `num_items_in_batch`

    def forward(
        self,
        input_ids: torch.LongTensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        labels: torch.LongTensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs: Any,
    ) -> Any:
        """Arguments as of `StagedGeneratorForCausalLM.forward`; without labels the library's own answer."""
        given = {"attention_mask": _mask(attention_mask, position_ids, kwargs), "position_ids": position_ids}
        if labels is None:
            return super().forward(input_ids=input_ids, **given, **kwargs)
        states = self.base_model(input_ids, **given, use_cache=False).last_hidden_state
        return _learnt_from(states, self.lm_head.weight, labels, num_items_in_batch)


class Gpt2Anchor(PackedBlocks, GPT2LMHeadModel):
    """GPT-2."""


class LlamaAnchor(PackedBlocks, LlamaForCausalLM):
    """Llama, whose class has no dropout but that of attention: what our recipe drops is dropped at the same places,
    so that no arm is better regularised than the other.

    Args:
        dropout: on the embeddings and on each branch before it joins the residual stream.
    """

    def __init__(self, config: LlamaConfig, dropout: float = 0.0) -> None:
        super().__init__(config)
        self.dropout = dropout
        if dropout:
            branches = [part for layer in self.model.layers for part in (layer.self_attn.o_proj, layer.mlp.down_proj)]
            for module in (self.model.embed_tokens, *branches):
                module.register_forward_hook(self._drop)

    def _drop(self, module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        return nn.functional.dropout(output, self.dropout, self.training)


@dataclass(frozen=True)
class Anchor:
    """How one class is made to the size of ours.

    Attributes:
        build: (our configuration, width, inner width of the MLP) -> the model.
        usual_ratio: of inner width to width, in the class's own models.
        documents: how it handles the boundaries of documents, in words.
    """

    build: Callable[[StagedGeneratorConfig, int, int], PreTrainedModel]
    usual_ratio: float
    documents: str


def _gpt2(ours: StagedGeneratorConfig, width: int, inner: int) -> Gpt2Anchor:
    config = GPT2Config(
        vocab_size=ours.vocab_size,
        n_positions=ours.max_position_embeddings,
        n_embd=width,
        n_layer=ours.num_hidden_layers,
        n_head=ours.num_attention_heads,
        n_inner=inner,
        resid_pdrop=ours.dropout,
        embd_pdrop=ours.dropout,
        attn_pdrop=ours.attention_dropout,
        tie_word_embeddings=True,
        **_tokens(ours),
    )
    return Gpt2Anchor(_with_attention(config))


def _llama(ours: StagedGeneratorConfig, width: int, inner: int) -> LlamaAnchor:
    config = LlamaConfig(
        vocab_size=ours.vocab_size,
        max_position_embeddings=ours.max_position_embeddings,
        hidden_size=width,
        num_hidden_layers=ours.num_hidden_layers,
        num_attention_heads=ours.num_attention_heads,
        intermediate_size=inner,
        attention_dropout=ours.attention_dropout,
        tie_word_embeddings=True,
        **_tokens(ours),
    )
    return LlamaAnchor(_with_attention(config), dropout=ours.dropout)


ANCHORS = {
    "gpt2": Anchor(
        _gpt2,
        usual_ratio=4.0,
        documents="a 4D mask of same document and not later; learned positions restart with each document",
    ),
    "llama": Anchor(
        _llama,
        usual_ratio=8 / 3,
        documents="a 4D mask of same document and not later; rotary positions restart with each document",
    ),
}
OUR_DOCUMENTS = "position_ids alone, from which the same mask is made; rotary positions restart with each document"


def build_anchor(name: str, ours: StagedGeneratorConfig) -> PreTrainedModel:
    """The class of that name, of the depth, heads, vocabulary and length of ours and as many parameters."""
    return ANCHORS[name].build(ours, *matching_size(name, ours))


def matching_size(name: str, ours: StagedGeneratorConfig) -> tuple[int, int]:
    """Width and inner width with which an anchor has as many parameters as ours, within `TOLERANCE`.

    Of all widths that allow it, the one whose ratio of inner width to width is nearest to the class's usual one.

    Raises:
        InputError: there is none.
    """
    target = count_parameters(lambda: StagedGeneratorForCausalLM(ours))
    anchor, step = ANCHORS[name], 2 * ours.num_attention_heads
    found = []
    for width in range(step, step * (_WIDTH_STEPS + 1), step):
        # The number of parameters is a straight line in the inner width.
        one, two = (count_parameters(partial(anchor.build, ours, width, inner)) for inner in (1, 2))
        if one > (1 + TOLERANCE) * target:
            break
        inner = max(1, round(1 + (target - one) / (two - one)))
        if abs(one + (inner - 1) * (two - one) - target) <= TOLERANCE * target:
            found.append((abs(inner / width / anchor.usual_ratio - 1), width, inner))
    if not found:
        raise InputError(
            f"{name}: no width gives {target:,} parameters within {TOLERANCE:.0%} at {ours.num_hidden_layers} layers "
            f"and {ours.num_attention_heads} heads; change the recipe's size"
        )
    return min(found)[1:]


def count_parameters(build: Callable[[], PreTrainedModel]) -> int:
    """Of a model that takes no memory; tied tables count once."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build().parameters())


def document_mask(position_ids: torch.Tensor) -> torch.Tensor:
    """Whom each token attends to, `(B, T)` -> `(B, 1, T, T)` bool: tokens of its document that are not later."""
    documents = (position_ids == 0).cumsum(-1)
    same = documents[:, :, None] == documents[:, None, :]
    return same.tril()[:, None]


def _mask(
    attention_mask: torch.Tensor | None, position_ids: torch.Tensor | None, kwargs: dict[str, Any]
) -> torch.Tensor | None:
    """The mask of packed blocks; in generation, which has a cache, and without positions, what was given."""
    if position_ids is None or kwargs.get("past_key_values") is not None:
        return attention_mask
    return document_mask(position_ids)  # padding comes last and begins a document at every place: nobody sees it


def _learnt_from(
    states: torch.Tensor, table: torch.Tensor, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None
) -> StagedGeneratorOutput:
    targets = labels[:, 1:]
    predicted = targets != -100
    found = chunked_cross_entropy(states[:, :-1][predicted], table, targets[predicted])
    count = predicted.sum()
    parts = {
        "cross_entropy": torch.stack((found.cross_entropy, count)),
        "accuracy": torch.stack((found.correct, count)),
    }
    loss = found.loss / (count.clamp_min(1) if num_items_in_batch is None else num_items_in_batch)
    return StagedGeneratorOutput(loss=loss, loss_parts=parts)


def _tokens(ours: StagedGeneratorConfig) -> dict[str, int | None]:
    return {name: getattr(ours, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}


def _with_attention(config: PreTrainedConfig) -> PreTrainedConfig:
    config._attn_implementation = ATTENTION
    return config
