"""Single changes that mend a model: each way to break one is named by what undoes it, and healthy ones by none."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from eval.diagnose.checks import repair as repairs
from eval.diagnose.examine import checks_of
from eval.diagnose.subject.subject import Subject
from tests.diagnose.tiny_subjects import MAKERS, trained

Break = Callable[[PreTrainedModel], None]


def named(subject: Subject) -> set[str]:
    (check,) = checks_of("repair", subject.kind)
    found = check(subject)
    return {one.check for one in (found if isinstance(found, list) else [found]) if one.verdict == "fail"}


def layers(model: PreTrainedModel) -> nn.ModuleList:
    return next(part for part in model.modules() if isinstance(part, nn.ModuleList))


def other_layout(model: PreTrainedModel) -> None:
    width = model.config.head_dim
    for layer in model.model.layers:
        for part in (layer.self_attn.q_proj, layer.self_attn.k_proj):
            part.weight.data = repairs._by_head(part, torch.arange(width).view(-1, 2).T.flatten())


def scores_not_divided(model: PreTrainedModel) -> None:
    for layer in model.model.layers:
        layer.self_attn.scaling = layer.self_attn.scaling * math.sqrt(model.config.head_dim)


def norms_less_one(model: PreTrainedModel) -> None:
    for name, part in model.named_modules():
        if name.endswith("norm"):
            part.weight.data -= 1


def first_two_exchanged(model: PreTrainedModel) -> None:
    stack = layers(model)
    stack[0], stack[1] = stack[1], stack[0]


def one_layer_random(model: PreTrainedModel) -> None:
    torch.manual_seed(1)
    for parameter in layers(model)[-1].parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=1.0)


def output_projections_transposed(model: PreTrainedModel) -> None:
    for layer in layers(model):
        layer.self_attn.o_proj.weight.data = layer.self_attn.o_proj.weight.data.T.clone()


def embeddings_not_scaled(model: PreTrainedModel) -> None:
    table = model.get_input_embeddings()
    table.weight.data = table.weight.data / math.sqrt(model.config.hidden_size)


BROKEN: tuple[tuple[str, Break, str], ...] = (
    ("llama", other_layout, "rotary_layout"),
    ("llama", scores_not_divided, "attention_scale"),
    ("llama", norms_less_one, "norm_offset"),
    ("llama", first_two_exchanged, "layer_order"),
    ("gpt2", first_two_exchanged, "layer_order"),
    ("gpt2", one_layer_random, "broken_layer"),
    ("llama", one_layer_random, "broken_layer"),
    ("llama", output_projections_transposed, "transposed"),
    ("llama", embeddings_not_scaled, "embedding_scale"),
)


@pytest.mark.parametrize("name", [name for name in MAKERS if name != "t5"])
def test_no_repair_helps_a_model_that_is_right(name: str) -> None:
    assert named(trained(name)) == set()


@pytest.mark.parametrize(("name", "broken", "expected"), BROKEN)
def test_the_change_that_undoes_a_fault_names_it(name: str, broken: Break, expected: str) -> None:
    subject = trained(name)
    broken(subject.model)
    assert named(subject) == {f"repair.{expected}"}


@pytest.mark.parametrize("name", ["gpt2", "llama", "bert"])
def test_every_change_is_undone(name: str) -> None:
    subject = trained(name)
    batch = subject.batch(2, 16)
    twin = subject.copy()
    before = subject.ask(twin, batch).logits
    made = list(repairs.repairs(subject, twin, 2))
    assert len(made) > 5
    for one in made:
        undo = one.change(twin)
        undo()
        assert torch.equal(subject.ask(twin, batch).logits, before), one.said
