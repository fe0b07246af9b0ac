"""What the doctor asks of a family of this package: a row for each that is more than logits over text."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedModel

from configuration_jepa import DialogueJepaConfig, StagedGeneratorConfig, TextJepaConfig, VideoJepaConfig
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
    """

    encode: Callable[[Batch], Tensor]
    predictor: Callable[[Tensor], Tensor]
    table: Tensor
    uses_cosine: bool
    num_negatives: int
    token_counts: Tensor


@dataclass(frozen=True)
class Average:
    """A moving average of a part of the model.

    Attributes:
        teacher, student: the moving average and what it follows.
        num_updates: of the teacher.
        momentum: share of its old self that the teacher keeps at each update.
    """

    teacher: nn.Module
    student: nn.Module
    num_updates: int
    momentum: float


def _text_latent(model: PreTrainedModel) -> Latent | None:
    """Predictor and table of a latent text model; None of its encoder alone."""
    if "head" not in dict(model.named_children()):
        return None
    return Latent(
        encode=lambda batch: _at_holes(model, batch),
        predictor=model.head.predictor,
        table=model.table_directions(),
        uses_cosine=model.config.head == "cosine",
        num_negatives=model.config.num_negatives,
        token_counts=model.token_counts,
    )


def _text_average(model: PreTrainedModel) -> Average | None:
    """The moving average of a latent text model: of its table, or of its encoder."""
    if dict(model.named_children()).get("teacher") is None:
        return None
    student = model.model.embed_tokens if model.config.target_table == "ema" else model.model
    return Average(model.teacher.target, student, int(model.teacher.num_updates), model.teacher.momentum)


def _dialogue_average(model: PreTrainedModel) -> Average | None:
    """The moving average of a dialogue model's reader."""
    if "teacher" not in dict(model.named_children()):
        return None
    return Average(model.teacher.target, model.model.reader, int(model.teacher.num_updates), model.teacher.momentum)


@torch.no_grad()
def _at_holes(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    encoded = model.model(batch.input_ids, attention_mask=batch.attention_mask).last_hidden_state
    return encoded if batch.labels is None else encoded[batch.labels != -100]


def _none(model: PreTrainedModel) -> None:
    return None


@dataclass(frozen=True)
class Traits:
    """What is special to a family; the defaults are those of every stock language model.

    Attributes:
        latent, average: find the model's `Latent` and `Average`.
        dialogues: whether its text is dialogues, which repeat by nature, and its claims are about replies.
        kind: of its models; empty where their class tells.
        auto_class: that opens a family without text, else None.
        subject: `module:function` that makes the subject of a family without text, see `make_video_subject`.
        checks: module with checks of its own, beside those of every model of its kind.
        documents: whether a position of 0 begins a document, which nothing else of the row is seen from.
    """

    latent: Callable[[PreTrainedModel], Latent | None] = _none
    average: Callable[[PreTrainedModel], Average | None] = _none
    dialogues: bool = False
    kind: str = ""
    auto_class: Any = None
    subject: str = ""
    checks: str = ""
    documents: bool = False


_FAMILIES = {
    TextJepaConfig.model_type: Traits(latent=_text_latent, average=_text_average),
    StagedGeneratorConfig.model_type: Traits(documents=True),
    DialogueJepaConfig.model_type: Traits(
        kind="seq2seq", average=_dialogue_average, dialogues=True, checks="eval.diagnose.checks.dialogue"
    ),
    VideoJepaConfig.model_type: Traits(
        kind="video",
        auto_class=AutoModel,
        subject="eval.diagnose.video.opening:make_video_subject",
        checks="eval.diagnose.video.checks",
    ),
}


def traits_of(model_type: str) -> Traits:
    """By the family's name: a copy that came by the remote road is a class of its own with the same parts."""
    return _FAMILIES.get(model_type, Traits())


def own_checks(kind: str) -> list[str]:
    """Modules with checks that families of a kind have of their own."""
    return [traits.checks for traits in _FAMILIES.values() if traits.checks and traits.kind == kind]
