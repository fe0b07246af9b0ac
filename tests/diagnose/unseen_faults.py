"""Faults and architectures that no check was calibrated on: whether the doctor looks at behaviour is seen here.

`python -m tests.diagnose.table --unseen` says honestly what it misses.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import EvalPrediction, PreTrainedModel, PreTrainedTokenizerFast
from transformers.modeling_outputs import ModelOutput

from tests.diagnose import broken_models as models
from tests.diagnose.cases import Case, changed_data, healthy, healthy_run, ours
from tests.diagnose.faults import SHORT, Fault, built_wrong, harmed
from tests.diagnose.tiny_training import Collator, Mistake, Rows, tokenizer_of

IGNORED = -100
ANY_DISTRIBUTION = tuple(
    f"distribution.{name}" for name in ("flat", "saturated", "unigram_only", "untrained", "worse_than_unigram")
)


def has_no_slopes(model: PreTrainedModel) -> PreTrainedModel:
    """The biases by distance are zero."""
    base = type(model.transformer)

    def build_alibi_tensor(self: nn.Module, *arguments: Any, **named: Any) -> Tensor:
        return torch.zeros_like(base.build_alibi_tensor(self, *arguments, **named))

    changed = {"build_alibi_tensor": build_alibi_tensor, "__module__": __name__}
    model.transformer.__class__ = type(f"Own{base.__name__}", (base,), changed)
    return model


def begins_one_too_late(model: PreTrainedModel) -> PreTrainedModel:
    """What a state-space layer reads is cut one place too late: it begins with the second token."""
    models.replace_part(models.layers_of(model)[0].mixer.in_proj, lambda right, hidden: right(hidden).roll(-1, 1))
    return model


def overlooks_padding(model: PreTrainedModel) -> PreTrainedModel:
    """The attention mask is not handed on."""

    def blind(right: Callable[..., ModelOutput], own: PreTrainedModel, **given: Any) -> ModelOutput:
        given["attention_mask"] = torch.ones_like(given["input_ids"])
        return right(**given)

    return models.replace_forward(model, blind)


def sums_its_loss(model: PreTrainedModel) -> PreTrainedModel:
    """The model's own loss is a sum over the tokens."""

    def summed(
        right: Callable[..., ModelOutput], own: PreTrainedModel, labels: Tensor | None = None, **given: Any
    ) -> ModelOutput:
        given.pop("num_items_in_batch", None)
        output = right(**given)
        if labels is not None:
            output.loss = nn.functional.cross_entropy(
                output.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="sum"
            )
        return output

    return models.replace_forward(model, summed)


@torch.no_grad()
def starts_all_alike(model: PreTrainedModel) -> PreTrainedModel:
    """Every unit of the inner layers begins with the same weights, and so stays like the others."""
    for layer in models.layers_of(model):
        for name, weight in layer.named_parameters():
            if "h_to_4h" in name and weight.ndim == 2:
                weight.copy_(weight[:1].expand_as(weight))
            if "4h_to_h" in name and weight.ndim == 2:
                weight.copy_(weight[:, :1].expand_as(weight))
    return model


@torch.no_grad()
def kills_half_of_its_layers(model: PreTrainedModel) -> PreTrainedModel:
    """Two of four layers are zero."""
    for place in (1, 2):
        for parameter in models.layers_of(model)[place].parameters():
            parameter.zero_()
    return model


@torch.no_grad()
def overflows(model: PreTrainedModel) -> PreTrainedModel:
    """A weight of a norm is infinite."""
    norm = [part for name, part in model.named_modules() if name.endswith("LayerNorm")][-1]
    norm.weight[5] = torch.inf
    return model


def predicts_a_constant(model: PreTrainedModel) -> PreTrainedModel:
    """The predictor says the same of every context."""
    models.replace_part(model.head.predictor, lambda right, hidden: right(0 * hidden))
    return model


def shifts_answers_once_more(right: Collator, tokenizer: PreTrainedTokenizerFast) -> Collator:
    """The decoder reads the answer up to t, and is asked for what stands at t + 2."""

    def collate(rows: Rows) -> dict[str, Tensor]:
        batch = right(rows)
        labels = batch["labels"]
        begin = torch.full_like(labels[:, :1], 2)
        read = torch.cat([begin, labels[:, :-1].masked_fill(labels[:, :-1] == IGNORED, tokenizer.pad_token_id)], 1)
        asked = torch.cat([labels[:, 1:], torch.full_like(begin, IGNORED)], 1)
        return {**batch, "labels": asked, "decoder_input_ids": read}

    return collate


def accuracy_among_the_best_five(prediction: EvalPrediction) -> dict[str, float]:
    """The true token is one of the first five, and that is called accuracy."""
    logits, labels = (torch.as_tensor(each) for each in (prediction.predictions, prediction.label_ids))
    truth, best = labels[:, 1:], logits[:, :-1].topk(5).indices
    return {"accuracy": float((best == truth[..., None]).any(-1)[truth != IGNORED].float().mean())}


def trains_on_disguised_validation(parts: dict[str, list[str]]) -> dict[str, list[str]]:
    """The validation rows stand in training in capitals and without their marks."""
    disguised = ["".join(c for c in text.upper() if c.isalnum() or c.isspace()) for text in parts["valid"]]
    return {**parts, "train": [*parts["train"], *disguised]}


def _shifted_answers(architecture: str, seed: int) -> Case:
    mistake = Mistake(collator=shifts_answers_once_more)
    case = healthy_run(architecture, mistake, seed=seed, steps=1000, arguments={"label_names": ["labels"]})
    return replace(case, run=None, trainer=None)


def _smoothed(architecture: str, seed: int) -> Case:
    return healthy_run(architecture, seed=seed, steps=SHORT, arguments={"label_smoothing_factor": 0.9})


def _head_of_another(architecture: str, seed: int) -> Case:
    case, other = healthy(architecture), healthy(architecture, seed=seed, steps=SHORT)
    case.model.set_output_embeddings(other.model.get_output_embeddings())
    return case


def _tokenizer_of_another(architecture: str, seed: int) -> Case:
    return replace(healthy(architecture), tokenizer=tokenizer_of("roberta"))


def _huge_rate(architecture: str, seed: int) -> Case:
    case = healthy_run(architecture, seed=seed, steps=150, learning_rate=3.0)
    return replace(case, trainer=None)


def _claimed(architecture: str, seed: int) -> Case:
    case = healthy_run(architecture, Mistake(metrics=accuracy_among_the_best_five), seed=seed, steps=SHORT)
    return replace(case, trainer=None)


def _disguised(architecture: str, seed: int) -> Case:
    return replace(healthy(architecture), data=changed_data(trains_on_disguised_validation))


def _few_directions(how: str, seed: int) -> Case:
    """Alignment alone at a high rate: vectors still differ, but in a few directions only."""
    flags = (
        "--ranking_weight",
        "0",
        "--alignment_weight",
        "1",
        "--auxiliary_weight",
        "0",
        "--teacher_momentum",
        "0.9",
    )
    case = ours("text_jepa", "--target_table", "contextual", *flags, "--learning_rate", "1e-2", seed=seed)
    return replace(case, run=None)


def _constant_predictor(how: str, seed: int) -> Case:
    case = ours("text_jepa")
    return replace(case, model=predicts_a_constant(case.model), run=None)


UNSEEN = (
    Fault(
        "sees the token three ahead",
        ("leak.future_tokens",),
        ("llama", "neox"),
        built_wrong(models.sees_three_ahead),
        31,
    ),
    Fault("ALiBi without slopes", ("leak.position_ignored",), ("bloom",), built_wrong(has_no_slopes), 32),
    Fault(
        "a state-space layer that looks ahead",
        ("leak.future_tokens",),
        ("mamba",),
        built_wrong(begins_one_too_late, steps=60),
        33,
    ),
    Fault(
        "BERT as a decoder, without is_decoder",
        ("leak.future_tokens",),
        ("bert_decoder",),
        lambda architecture, seed: healthy(architecture, seed=seed),
        34,
    ),
    Fault("answers shifted by two", ("parity.offset",), ("bart", "t5"), _shifted_answers, 35),
    Fault(
        "label smoothing of 0.9",
        ("distribution.calibration", "distribution.flat", "parity.own_loss"),
        ("llama",),
        _smoothed,
        36,
    ),
    Fault("head of another checkpoint", ANY_DISTRIBUTION, ("llama", "neox"), _head_of_another, 37),
    Fault(
        "half of the layers dead",
        ("gradient.flow",),
        ("gpt2", "roberta"),
        harmed(kills_half_of_its_layers, changes={"num_hidden_layers": 4}),
        38,
    ),
    Fault(
        "tokenizer of another model",
        ("parity.tokenizer_size", *ANY_DISTRIBUTION),
        ("neox", "bart"),
        _tokenizer_of_another,
        39,
    ),
    Fault("validation rows in disguise in training", ("data.overlap",), ("opt",), _disguised, 40),
    Fault("attention mask overlooked", ("leak.padding",), ("roberta", "neox"), built_wrong(overlooks_padding), 41),
    Fault("the loss is a sum", ("parity.own_loss",), ("opt", "bloom"), built_wrong(sums_its_loss), 42),
    Fault("units that began alike", ("size.symmetric_units",), ("neox",), built_wrong(starts_all_alike), 43),
    Fault("an infinite weight in a norm", ("gradient.non_finite",), ("roberta",), harmed(overflows), 44),
    Fault(
        "learning rate of 3, known from the log alone",
        ("training.learning_rate", "gradient.update_ratio", "training.loss_not_falling", "training.diverged"),
        ("bloom", "roberta"),
        _huge_rate,
        45,
    ),
    Fault("top-5 accuracy passed for accuracy", ("sampling.claimed_accuracy",), ("neox",), _claimed, 46),
    Fault("an encoder of a few directions", ("collapse.representation",), ("text_jepa",), _few_directions, 48),
    Fault("predictor that is constant", ("collapse.predictor_idle",), ("cosine",), _constant_predictor, 47),
)
