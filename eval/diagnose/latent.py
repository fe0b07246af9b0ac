"""The parts of our latent families that their checks look at."""

import torch
from transformers import PreTrainedModel

from configuration_jepa import DialogueJepaConfig, TextJepaConfig
from eval.diagnose.sample import Batch
from eval.diagnose.subject import Average, Latent


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


def find_average(model: PreTrainedModel) -> Average | None:
    """The moving average of a latent text model or of a dialogue model's reader; None of any other."""
    if model.config.model_type == DialogueJepaConfig.model_type and "teacher" in dict(model.named_children()):
        taught = model.teacher
        return Average(taught.target, model.model.reader, int(taught.num_updates), taught.momentum)
    latent = find_latent(model)
    if latent is None or latent.teacher is None or latent.student is None:
        return None
    return Average(latent.teacher, latent.student, latent.num_updates or 0, latent.momentum or 0.0)


@torch.no_grad()
def _at_holes(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    encoded = model.model(batch.input_ids, attention_mask=batch.attention_mask).last_hidden_state
    return encoded if batch.labels is None else encoded[batch.labels != -100]
