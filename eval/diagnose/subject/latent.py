"""The parts of our latent families that their checks look at."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from configuration_jepa import DialogueJepaConfig, TextJepaConfig
from eval.diagnose.subject.sample import Batch


@dataclass(frozen=True)
class Latent:
    """The parts of a model that predicts latents.

    Attributes:
        encode: (batch with labels) -> (K, H) vectors of the encoder at the holes.
        predictor: (K, H) -> (K, H).
        table: (V, H), what predictions are scored against.
        uses_cosine: whether they are scored by direction alone.
        num_negatives: of the sampled ranking.
        token_counts: (V,) of the training part, zeros where unknown.
        teacher, student: the moving average and what it follows; None without one.
        num_updates: of the teacher.
        momentum: share of its old self that the teacher keeps at each update.
    """

    encode: Callable[[Batch], Tensor]
    predictor: Callable[[Tensor], Tensor]
    table: Tensor
    uses_cosine: bool
    num_negatives: int
    token_counts: Tensor
    teacher: nn.Module | None
    student: nn.Module | None
    num_updates: int | None
    momentum: float | None


@dataclass(frozen=True)
class Average:
    """A moving average of a part of the model; `Latent` has the same fields of a text model.

    Attributes:
        teacher, student: the moving average and what it follows.
        num_updates: of the teacher.
        momentum: share of its old self that the teacher keeps at each update.
    """

    teacher: nn.Module
    student: nn.Module
    num_updates: int
    momentum: float


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
