"""A bigram model: a table of tokens, and a layer that says what follows each."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.utils import ModelOutput, can_return_tuple

from modeling_jepa.modeling_base import JepaPreTrainedModel
from tests.fifth_family.configuration_bigram import BigramConfig


@dataclass
class BigramOutput(ModelOutput):
    """`logits` are `(B, T, V)`; `loss_parts` holds (sum, count) of each part."""

    loss: torch.Tensor | None = None
    loss_parts: dict[str, torch.Tensor] | None = None
    logits: torch.Tensor | None = None


class BigramForCausalLM(JepaPreTrainedModel):
    """The logits at a place are a function of its token alone."""

    config: BigramConfig
    has_teacher = False
    token_counts: torch.Tensor

    def __init__(self, config: BigramConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.register_buffer("token_counts", torch.zeros(config.vocab_size, dtype=torch.int64))
        self.post_init()

    def set_token_counts(self, counts: torch.Tensor) -> None:
        """Keep the training part's token counts `(V,)`."""
        self.token_counts.copy_(counts)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs: Any,
    ) -> BigramOutput:
        """`labels` are the input ids, -100 where nothing is to be predicted."""
        logits = self.lm_head(self.embed_tokens(input_ids))
        if labels is None:
            return BigramOutput(logits=logits)
        predicted, targets = logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten()
        count = (targets != -100).sum()
        plain = nn.functional.cross_entropy(predicted, targets, reduction="sum")
        loss = nn.functional.cross_entropy(predicted, targets, reduction="sum", label_smoothing=self.config.smoothing)
        items = count if num_items_in_batch is None else num_items_in_batch
        parts = {"cross_entropy": torch.stack((plain.detach(), count))}
        return BigramOutput(loss=loss / items, loss_parts=parts, logits=logits)
