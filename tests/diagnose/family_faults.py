"""Faults and healthy models of the dialogue and the video family, as those of `faults` and `healthy`.

Each fault is found without the run of its training, or, where it lives there, with its Trainer.
"""

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import ModelOutput

from eval.diagnose.opening import open_checkpoint
from tests.diagnose import broken_models as models
from tests.diagnose.cases import Case, ours
from tests.diagnose.faults import Fault
from tests.diagnose.healthy import UNTRAINED, Healthy
from tests.diagnose.tiny_clips import ClipLesson, clips, learn_clips, tokenizer_of, trainer_of, untrained_video

SOFTMAX = {"head": "softmax", "logit_scale": "fixed"}
GREY = {"frame_codes": "grey", "code_size": 1, "patch_size": 4, "vocab_size": 16, "frame_size": 16}
LESSONS = {
    "mixed": ClipLesson(),
    "future": ClipLesson(objective="future"),
    "joint": ClipLesson(objective="joint"),
    "softmax": ClipLesson(changes=SOFTMAX),
    "grey": ClipLesson(changes=GREY),
}

# ---- cases ----


def video(kind: str = "mixed", seed: int = 0) -> Case:
    """A trained video model; the clips are those of the built-in digits."""
    return Case(learn_clips(replace(LESSONS[kind], seed=seed)), None, None)


def harmed(change: Callable[[PreTrainedModel], PreTrainedModel]) -> Callable[[str, int], Case]:
    """Trained well, then harmed."""
    return lambda kind, seed: Case(change(video(kind).model), None, None)


def taught(**lesson: Any) -> Callable[[str, int], Case]:
    """Trained wrongly; its Trainer is handed over."""

    def make(kind: str, seed: int) -> Case:
        wrong = replace(LESSONS[kind], seed=seed, **lesson)
        model = learn_clips(wrong)
        return Case(model, None, None, trainer=trainer_of(model, wrong, Path(model.config._name_or_path)))

    return make


def talks(change: Callable[[PreTrainedModel], PreTrainedModel]) -> Callable[[str, int], Case]:
    """A trained dialogue model, then harmed; without its run."""

    def make(kind: str, seed: int) -> Case:
        case = dialogue(kind)
        return replace(case, model=change(case.model), run=None)

    return make


def dialogue(kind: str = "latent", *flags: str) -> Case:
    """A trained dialogue model with its run."""
    return ours("dialogue_jepa", "--context_access", kind, *flags)


# ---- video ----


def sees_the_future(model: PreTrainedModel) -> PreTrainedModel:
    """The mask over time is that of the objective `joint`, always."""

    def everything(right: Callable[..., ModelOutput], codes: Tensor, *given: Any, **named: Any) -> ModelOutput:
        hidden, past = (given[0] if given else named.get("hidden")), named.get("past_key_values")
        view = torch.ones(len(codes), dtype=torch.int64, device=codes.device)
        return right(codes, hidden, view, past_key_values=past)

    models.replace_part(model.model, everything)
    return model


def sees_one_frame_ahead(model: PreTrainedModel) -> PreTrainedModel:
    """What each frame reads of itself is mixed with the next frame."""

    def ahead(right: Callable[..., Tensor], *given: Any) -> Tensor:
        found = right(*given)
        return found + 0.5 * torch.cat([found[:, 1:], found[:, -1:]], 1)

    models.replace_part(model.model.embed_pixels, ahead)
    return model


def reads_what_is_hidden(model: PreTrainedModel) -> PreTrainedModel:
    """Pictures of hidden codes are not taken out."""
    base = type(model.model)

    def embed(self: Any, codes: Tensor, hidden: Tensor | None, dtype: torch.dtype) -> Tensor:
        shown = self.embed_pixels(self.codes.values[codes].to(dtype).flatten(3))
        return base._embed(self, codes, hidden, dtype) + 0.3 * shown

    model.model.__class__ = type(f"Own{base.__name__}", (base,), {"_embed": embed, "__module__": __name__})
    return model


def mixes_clips(model: PreTrainedModel) -> PreTrainedModel:
    """The last norm centres over the clips of the batch as well."""
    models.replace_part(model.model.norm, lambda right, hidden: right(hidden) - 0.5 * right(hidden).mean(0, True))
    return model


@torch.no_grad()
def shuffles_its_codes(model: PreTrainedModel) -> PreTrainedModel:
    """The pictures of the codes are in another order than in training, and nothing beside the weights tells."""
    values = model.model.codes.values
    values.copy_(values[torch.randperm(len(values), generator=torch.Generator().manual_seed(1))])
    model.config._name_or_path = ""
    return model


def shuffles_and_forgets(model: PreTrainedModel) -> PreTrainedModel:
    """The same, and the counts of its training are lost."""
    model.token_counts.zero_()
    return shuffles_its_codes(model)


@torch.no_grad()
def takes_other_codes(model: PreTrainedModel) -> PreTrainedModel:
    """The codes were learnt again after training, and the file beside the weights is the old one."""
    model.set_frame_codes(tokenizer_of(model.config, seed=5).values)
    return model


@torch.no_grad()
def makes_codes_alike(model: PreTrainedModel) -> PreTrainedModel:
    """All pictures but a few were overwritten by one."""
    model.model.codes.values[3:] = model.model.codes.values[3].clone()
    model.config._name_or_path = ""
    return model


@torch.no_grad()
def head_says_one_thing(model: PreTrainedModel) -> PreTrainedModel:
    """The head's input layer lets one direction through, and adds the same to all places."""
    constant = torch.randn(model.head.width, generator=torch.Generator().manual_seed(1))
    models.replace_part(model.head.predictor, lambda right, hidden: 1e-3 * right(hidden) + constant)
    return model


@torch.no_grad()
def rows_fall_together(model: PreTrainedModel) -> PreTrainedModel:
    """The rows of all codes have drifted far along one direction."""
    table = model.head.decoder.weight
    table += 50 * torch.randn(table.shape[1], generator=torch.Generator().manual_seed(1))
    return model


@torch.no_grad()
def forgets_frames(model: PreTrainedModel) -> PreTrainedModel:
    """Frame numbers reach neither embeddings nor rotations."""
    nn.init.zeros_(model.model.embed_frames.weight)
    model.model._positions = functools.partial(_all_first, model.model)
    return model


def _all_first(trunk: nn.Module, frame_ids: Tensor, dtype: torch.dtype) -> Any:
    return type(trunk)._positions(trunk, torch.zeros_like(frame_ids), dtype)


def counts_from_zero(model: PreTrainedModel) -> PreTrainedModel:
    """With a cache, frames are counted anew in every piece."""
    base = type(model.model)

    def positions(self: Any, frame_ids: Tensor, dtype: torch.dtype) -> Any:
        return base._positions(self, frame_ids - frame_ids[0], dtype)

    model.model.__class__ = type(f"Own{base.__name__}", (base,), {"_positions": positions, "__module__": __name__})
    return model


def drops_always(model: PreTrainedModel) -> PreTrainedModel:
    """Dropout by the function, without `training=self.training`."""
    models.replace_part(model.model.norm, lambda right, hidden: nn.functional.dropout(right(hidden), 0.1))
    return model


def counts_all_places(model: PreTrainedModel) -> PreTrainedModel:
    """The model's own loss is half of the right one."""
    base = type(model)

    def forward(self: Any, *given: Any, **named: Any) -> ModelOutput:
        output = base.forward(self, *given, **named)
        if output.loss is not None:
            output.loss = output.loss / 2
        return output

    model.__class__ = type(f"Own{base.__name__}", (base,), {"forward": forward, "__module__": __name__})
    return model


@torch.no_grad()
def zeroes_a_layer(model: PreTrainedModel) -> PreTrainedModel:
    """Every weight of the second layer is zero."""
    for parameter in model.model.layers[1].parameters():
        parameter.zero_()
    return model


@torch.no_grad()
def holds_a_nan(model: PreTrainedModel) -> PreTrainedModel:
    """One number of one matrix."""
    next(p for p in model.model.parameters() if p.ndim == 2)[0, 0] = torch.nan
    return model


def detaches_a_branch(model: PreTrainedModel) -> PreTrainedModel:
    """One layer's branch gives its result without its history."""
    models.replace_part(model.model.layers[0].mlp, lambda right, hidden: right(hidden).detach())
    return model


# ---- dialogue ----


@torch.no_grad()
def ignores_latents(model: PreTrainedModel) -> PreTrainedModel:
    """What carries the latents into the decoder is zero."""
    nn.init.zeros_(model.decoder.latent_proj.weight)
    return model


def hears_one_latent(model: PreTrainedModel) -> PreTrainedModel:
    """The decoder is given the mean of all latents, in place of each."""
    models.replace_part(model.decoder.latent_proj, lambda right, latents: right(torch.ones_like(latents)))
    return model


@torch.no_grad()
def collapses(model: PreTrainedModel) -> PreTrainedModel:
    """Reader and teacher say nearly the same of every text."""
    for reader in (model.model.reader, model.teacher.target):
        constant = torch.randn(model.config.hidden_size, generator=torch.Generator().manual_seed(1))
        models.replace_part(reader.norm, lambda right, gathered, one=constant: 0.02 * right(gathered) + one)
    return model


@torch.no_grad()
def teaches_itself(model: PreTrainedModel) -> PreTrainedModel:
    """The teacher is the student, and no average of it."""
    for mine, theirs in zip(model.teacher.target.parameters(), model.model.reader.parameters(), strict=True):
        mine.copy_(theirs)
    return model


def predicts_nothing(model: PreTrainedModel) -> PreTrainedModel:
    """The predictor hands its input on."""
    models.replace_part(model.model.predictor, lambda right, hidden: hidden)
    return model


def _without_teacher(kind: str, seed: int) -> Case:
    """The teacher was left out of the file."""
    case = dialogue(kind)
    with TemporaryDirectory() as folder:
        case.model.save_pretrained(folder)
        weights = {n: t for n, t in load_file(f"{folder}/model.safetensors").items() if not n.startswith("teacher.")}
        save_file(weights, f"{folder}/model.safetensors", {"format": "pt"})
        model, _, found = open_checkpoint(folder)
        return Case(model, case.tokenizer, "builtin:chatterbot", found=tuple(found))


def _never_updated(kind: str, seed: int) -> Case:
    return ours("dialogue_jepa", "--context_access", kind, seed=seed, stop_teacher=True)


def _rate_times_100(kind: str, seed: int) -> Case:
    wrong = replace(LESSONS[kind], seed=seed, learning_rate=0.4)
    model = learn_clips(wrong)
    return Case(model, None, None, trainer=trainer_of(model, wrong, Path(model.config._name_or_path)))


_ALL, _ONE = ("mixed", "softmax"), ("mixed",)
_LATENT = ("latent",)
FAMILY_FAULTS = (
    Fault("video: future frames seen", ("leak.future_frames",), ("mixed", "grey"), harmed(sees_the_future), 1),
    Fault("video: one frame ahead seen", ("leak.future_frames",), _ALL, harmed(sees_one_frame_ahead), 2),
    Fault("video: hidden codes are read", ("leak.hidden_codes",), _ALL, harmed(reads_what_is_hidden), 3),
    Fault("video: a batch-mate leak", ("leak.batch_mates",), _ALL, harmed(mixes_clips), 4),
    Fault("video: frames counted anew after the cache", ("leak.cache",), _ALL, harmed(counts_from_zero), 5),
    Fault("video: order of frames ignored", ("leak.position_ignored",), _ALL, harmed(forgets_frames), 6),
    Fault("video: codes shuffled after training", ("parity.code_table",), _ALL, harmed(shuffles_its_codes), 7),
    Fault("video: codes shuffled, counts lost", ("parity.code_table",), _ALL, harmed(shuffles_and_forgets), 8),
    Fault("video: codes learnt anew after training", ("parity.code_table",), _ALL, harmed(takes_other_codes), 9),
    Fault("video: pictures of codes overwritten", ("parity.code_table",), _ONE, harmed(makes_codes_alike), 10),
    Fault("video: loss counted on visible places", ("data.visible_positions",), _ONE, taught(labels="everywhere"), 11),
    Fault(
        "video: labels of the frame before",
        ("parity.offset", "distribution.copies_last"),
        ("future",),
        taught(labels="before"),
        12,
    ),
    Fault("video: the last frame copied", ("distribution.copies_last",), ("future",), taught(still=True), 13),
    Fault("video: head collapsed", ("collapse.predictions",), _ALL, harmed(head_says_one_thing), 14),
    Fault("video: rows of the codes collapsed", ("collapse.predictions",), _ALL, harmed(rows_fall_together), 15),
    Fault("video: loss halved in forward", ("parity.own_loss",), _ALL, harmed(counts_all_places), 16),
    Fault("video: learning rate x 100", ("gradient.update_ratio",), _ONE, _rate_times_100, 17),
    Fault("video: one layer zeroed", ("gradient.flow",), _ALL, harmed(zeroes_a_layer), 18),
    Fault("video: one branch detached", ("gradient.flow",), _ALL, harmed(detaches_a_branch), 19),
    Fault("video: NaN in one parameter", ("gradient.non_finite",), _ONE, harmed(holds_a_nan), 20),
    Fault("video: dropout left on", ("parity.random_in_evaluation",), _ONE, harmed(drops_always), 21),
    Fault("dialogue: latents cut off", ("collapse.latent_ignored",), _LATENT, talks(ignores_latents), 22),
    Fault("dialogue: one latent for all", ("collapse.latent_ignored",), _LATENT, talks(hears_one_latent), 23),
    Fault("dialogue: latents collapsed", ("collapse.latents",), _LATENT, talks(collapses), 24),
    Fault("dialogue: teacher not saved", ("parity.missing_tensors",), _LATENT, _without_teacher, 25),
    Fault("dialogue: teacher is the student", ("collapse.teacher_frozen",), _LATENT, talks(teaches_itself), 26),
    Fault("dialogue: teacher never updated", ("collapse.teacher_frozen",), _LATENT, _never_updated, 27),
    Fault("dialogue: predictor is the identity", ("collapse.predictor_idle",), _LATENT, talks(predicts_nothing), 28),
)


def _young_video() -> Case:
    return Case(learn_clips(ClipLesson(steps=60)), None, None)


def _with_trainer() -> Case:
    case = video()
    return replace(case, trainer=trainer_of(case.model, LESSONS["mixed"], Path(case.model.config._name_or_path)))


def _given_frames() -> Case:
    case = video()
    return replace(case, data=clips("valid", 12, case.model.config))


def _untrained_dialogue() -> Case:
    case = dialogue()
    torch.manual_seed(0)
    return replace(case, model=type(case.model)(case.model.config).eval(), run=None, data="builtin:chatterbot")


FAMILY_HEALTHY = (
    *(Healthy(f"video_jepa, {kind}", lambda kind=kind: video(kind)) for kind in LESSONS),
    Healthy("video_jepa, 60 steps", _young_video),
    Healthy("video_jepa, with its Trainer", _with_trainer),
    Healthy("video_jepa, clips handed over", _given_frames),
    Healthy("video_jepa, with its run", lambda: ours("video_jepa")),
    Healthy("video_jepa, untrained", lambda: Case(untrained_video(ClipLesson()), None, None), UNTRAINED),
    Healthy("dialogue_jepa, latent alone", lambda: dialogue("latent")),
    Healthy("dialogue_jepa, latent and context", lambda: dialogue("both")),
    Healthy("dialogue_jepa, untrained", _untrained_dialogue, UNTRAINED),
)
