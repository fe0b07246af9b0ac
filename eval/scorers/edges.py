"""Where a model that attends along a graph looks: the share of its attention on each kind of edge."""

from collections.abc import Sequence

import numpy as np
import torch
from transformers import PreTrainedModel

from eval.metrics.attention_by_edge import AttentionByEdge
from eval.scorers.token_scores import STAGED_GENERATOR, evaluating

_ROUTED_STAGE = 3
_MAX_TEXTS = 8


def edge_mass(model: PreTrainedModel, ids: Sequence[np.ndarray], context: int) -> dict[str, float] | None:
    """Mean share of attention per kind of edge (self, window, similar, shortcut), summing to 1.

    Over all layers, heads and tokens of up to eight texts, each cut to the context. None for a model without routing.
    """
    if not is_routed(model):
        return None
    kinds = list(model.attention_kinds())
    mass = np.zeros(len(kinds))
    with evaluating(model):
        for text in sorted(ids, key=len, reverse=True)[
            :_MAX_TEXTS
        ]:  # one at a time: attentions of all layers are held
            mass += _columns(model, text[:context])
    return AttentionByEdge(keep_in_memory=True).compute(predictions=mass, references=kinds)["edge_mass"]


def is_routed(model: PreTrainedModel) -> bool:
    """Whether each token attends to a few others along a graph."""
    return model.config.model_type == STAGED_GENERATOR and model.config.stage == _ROUTED_STAGE


def _columns(model: PreTrainedModel, ids: np.ndarray) -> np.ndarray:
    """(K,) attention summed over layers, heads and tokens of one text."""
    input_ids = torch.as_tensor(ids, device=model.device)[None]
    output = model(
        input_ids=input_ids,
        attention_mask=torch.ones_like(input_ids),
        output_attentions=True,
        use_cache=False,
        logits_to_keep=1,
    )
    return sum(layer.double().sum(dim=(0, 1, 2)).cpu().numpy() for layer in output.attentions)
