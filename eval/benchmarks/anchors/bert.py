"""The field's own class as a row of a comparison: `BertForMaskedLM`, of the recipe's size, trained by our trainer.

Data, masks, order, optimizer, schedule and clipping are the other arms'; the network, its initialisation and its head
are the library's.
"""

from typing import Any

import torch
from transformers import BertConfig, BertForMaskedLM, PreTrainedModel

from configuration_jepa import TextJepaConfig
from eval.scorers.holes import HoleBatch, HoleScores, Scorer
from modeling_jepa.losses import above_negatives, part, ranking_loss
from modeling_jepa.modeling_base import LatentMaskedLMOutput


class BertAnchor(BertForMaskedLM):
    """BERT that answers as our masked models do with labels: its head runs at the holes only, and parts are given."""

    accepts_loss_kwargs = True  # the trainer hands over `num_items_in_batch`

    def forward(
        self,
        input_ids: torch.LongTensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        negative_ids: torch.LongTensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        output_hidden_states: bool = False,
    ) -> Any:
        """Arguments as of `TextJepaForMaskedLM.forward`; without labels the library's own answer."""
        if labels is None:
            return super().forward(
                input_ids=input_ids, attention_mask=attention_mask, output_hidden_states=output_hidden_states
            )
        holes = labels != -100
        states = self.bert(input_ids, attention_mask=attention_mask).last_hidden_state
        logits = self.cls(states[holes])
        parts = {"ranking": ranking_loss(logits, labels[holes])}
        count = parts["ranking"][1] if num_items_in_batch is None else num_items_in_batch
        loss = parts["ranking"][0] / count
        with torch.no_grad():
            parts["accuracy"] = part(logits.argmax(-1) == labels[holes])
            if negative_ids is not None:
                true = logits.gather(1, labels[holes][:, None])[:, 0]
                parts["acc_neg"] = above_negatives(true, logits.gather(1, negative_ids))
        loss_parts = {name: pair.detach() for name, pair in parts.items()}
        return LatentMaskedLMOutput(loss=loss, loss_parts=loss_parts, logits=logits, hidden_states=(states,))


def bert_config(config: TextJepaConfig) -> BertConfig:
    """BERT of the same width, depth, heads, vocabulary and dropout."""
    return BertConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        intermediate_size=config.intermediate_size or 4 * config.hidden_size,
        max_position_embeddings=config.max_position_embeddings,
        hidden_dropout_prob=config.dropout,
        attention_probs_dropout_prob=config.attention_dropout,
        pad_token_id=config.pad_token_id,
    )


def sparse_scorer(model: PreTrainedModel) -> Scorer:
    """Asks for the scores at the blanks only, as our own models are asked: the same numbers in a tenth of the time."""

    def scorer(batch: HoleBatch) -> HoleScores:
        labels = torch.full_like(batch.input_ids, -100)
        lines = torch.arange(len(batch.positions), device=labels.device)
        labels[lines, batch.positions] = batch.targets
        output = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=labels)
        return HoleScores(output.logits.float(), output.hidden_states[-1][lines, batch.positions])

    return scorer
