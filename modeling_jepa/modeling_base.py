"""What the models of all families share: library flags, initialisation, outputs."""

import copy
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from huggingface_hub import CommitInfo
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs, can_return_tuple

from configuration_jepa.configuration_base import JepaConfig
from modeling_jepa.latent_head import LatentHead
from modeling_jepa.layers import Attention, Block, ZeroInitEmbedding, ZeroInitLinear
from modeling_jepa.losses import part
from modeling_jepa.publishing import push_model
from modeling_jepa.teacher import MovingAverageTeacher

IGNORED = -100


class JepaPreTrainedModel(PreTrainedModel):
    """Base of all models: how weights start, what can be recorded, what the library may do with them."""

    config: JepaConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["Block"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {"hidden_states": Block, "attentions": Attention}

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Set the start of `module`'s own weights, through the library's functions: they skip what was loaded."""
        super()._init_weights(module)
        if isinstance(module, LatentHead) and module.log_scale is not None:
            init.constant_(module.log_scale, module.initial_log_scale())
        elif isinstance(module, MovingAverageTeacher):
            init.zeros_(module.num_updates)
        elif isinstance(module, ZeroInitLinear | ZeroInitEmbedding):
            init.zeros_(module.weight)

    def push_to_hub(self, repo_id: str, **kwargs: Any) -> CommitInfo:  # type: ignore[override]  # see `push_model`
        """Publish the model with its code, and with tokenizer and card from where it was loaded: see `push_model`."""
        return push_model(self, repo_id, **kwargs)


@dataclass
class ClassifierOutput(SequenceClassifierOutput):
    """Of sequences or tokens; `loss_parts` as of all our models: name -> (sum, count), float32 `(2,)`."""

    loss_parts: dict[str, torch.Tensor] | None = None


class ClassifierMixin:
    """A trunk with a linear layer of `num_labels` on top, for fine-tuning; goes before the family's base class.

    The loss is the library's, by the class's name and `config.problem_type`: of sequences cross entropy, several
    labels at once, or regression; of tokens cross entropy where the label is not -100.
    """

    has_teacher = False
    trunk: ClassVar[type[JepaPreTrainedModel]]
    trunk_arguments: ClassVar[dict[str, Any]] = {}

    def __init__(self: Any, config: JepaConfig) -> None:
        config = copy.copy(config)
        config.keys_to_ignore_at_inference = ["loss_parts", "past_key_values"]  # a Trainer wants these logits
        super().__init__(config)  # type: ignore[call-arg] # of the family's base class
        self.num_labels = config.num_labels
        self.model = self.trunk(config)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(config.hidden_size, self.num_labels)
        self.post_init()

    @can_return_tuple
    def forward(  # type: ignore[misc] # TransformersKwargs repeats position_ids
        self: Any,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> ClassifierOutput:
        """Classify.

        Args:
            input_ids, attention_mask, position_ids, inputs_embeds: as of the trunk.
            labels: `(B,)` classes or numbers, or `(B, num_labels)`, for a sequence; `(B, T)` for tokens.
            num_items_in_batch: labels of the whole accumulation window over all processes; the loss is a share of
                their mean. Without it, the mean over these.
            **kwargs: for the trunk.

        Returns:
            `logits` `(B, num_labels)`, or `(B, T, num_labels)` of tokens; `loss` 0-d where there are labels.
        """
        encoded = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            **{**self.trunk_arguments, **kwargs},
        )
        states = encoded.last_hidden_state
        mask = states.new_ones(states.shape[:2]) if attention_mask is None else attention_mask.to(states.dtype)
        logits = self.classifier(self.dropout(self._features(states, mask)))
        loss, parts = None, None
        if labels is not None:
            loss = self.loss_function(labels=labels, logits=logits, pooled_logits=logits, config=self.config)
            count = (labels != IGNORED).sum()
            parts = {"classification": torch.stack((loss.detach() * count, count)).float()}
            if labels.dtype == torch.long and self.num_labels > 1:
                parts["accuracy"] = part((logits.argmax(-1) == labels)[labels != IGNORED])
            loss = loss if num_items_in_batch is None else loss * count / num_items_in_batch
        return ClassifierOutput(
            loss=loss,
            loss_parts=parts,
            logits=logits,
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )

    def _features(self, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """What is classified, of states `(B, T, H)` and mask `(B, T)`."""
        raise NotImplementedError


@dataclass
class LatentMaskedLMOutput(ModelOutput):
    """Output of a masked model with a latent head. K holes, B batch, T sequence, V vocabulary, H width.

    Args:
        loss: 0-d, when labels are given.
        loss_parts: name -> (sum, count), float32 `(2,)`, without gradient: the weighted parts of the loss and the
            figures of the training log.
        logits: with labels `(K, V)`, holes in row-major order; without `(B, T, V)`.
        predictions: what the head scores, `(K, H)` or `(B, T, H)`, of any length.
        hidden_states, attentions: as everywhere in the library.
        row_logits: `(B, T, V)`, the logits at the holes and 0 elsewhere, which `compute_metrics` of a Trainer gets:
            with labels, outside training, and without gradient.
    """

    loss: torch.Tensor | None = None
    loss_parts: dict[str, torch.Tensor] | None = None
    logits: torch.Tensor | None = None
    predictions: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    row_logits: torch.Tensor | None = None


def at_holes(logits: torch.Tensor, holes: torch.Tensor, training: bool) -> torch.Tensor | None:
    """Logits `(K, V)` put at their holes `(...)`: `(..., V)`, 0 elsewhere. None in training, or with gradient."""
    if training or torch.is_grad_enabled():
        return None
    return logits.new_zeros(*holes.shape, logits.shape[-1]).masked_scatter(holes[..., None], logits)
