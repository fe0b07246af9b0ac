"""The parts of our latent families that their checks look at."""

import torch
from transformers import PreTrainedModel

from configuration_jepa import TextJepaConfig
from eval.diagnose.sample import Batch
from eval.diagnose.subject import Latent


def find_latent(model: PreTrainedModel) -> Latent | None:
    """Predictor, table and teacher of a latent text model; None of any other.

    A copy that came by the remote road is a class of its own with the same parts, so the family's name decides.
    """
    if model.config.model_type != TextJepaConfig.model_type or "head" not in dict(model.named_children()):
        return None
    config, teacher = model.config, model.teacher
    student = None if teacher is None else (model.model.embed_tokens if config.target_table == "ema" else model.model)
    return Latent(
        encode=lambda batch: _at_holes(model, batch),
        predictor=model.head.predictor,
        table=model.table_directions(),
        uses_cosine=config.head == "cosine",
        num_negatives=config.num_negatives,
        token_counts=model.token_counts,
        teacher=None if teacher is None else teacher.target,
        student=student,
        num_updates=None if teacher is None else int(teacher.num_updates),
        momentum=None if teacher is None else teacher.momentum,
    )


@torch.no_grad()
def _at_holes(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    encoded = model.model(batch.input_ids, attention_mask=batch.attention_mask).last_hidden_state
    return encoded if batch.labels is None else encoded[batch.labels != -100]
