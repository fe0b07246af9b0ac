import math

import pytest
import torch
from torch import nn

from eval.diagnose.checks import gradient
from eval.diagnose.subject.subject import Subject
from tests.diagnose.tiny_subjects import MAKERS, record, trained, untrained


def fails(subject: Subject) -> list[str]:
    found = [gradient.non_finite(subject), *gradient.flow(subject), gradient.update_ratio(subject)]
    return [finding.check for finding in found if finding.verdict != "pass"]


@pytest.mark.parametrize("name", MAKERS)
def test_an_untrained_model_has_nothing_wrong(name):
    assert fails(untrained(name)) == []


@pytest.mark.parametrize("name", ["gpt2", "opt", "bert", "t5", "text_jepa", "generator-3"])
def test_a_trained_model_has_nothing_wrong_and_keeps_its_weights(name):
    subject = trained(name, steps=12)
    before = {key: value.clone() for key, value in subject.model.state_dict().items()}
    assert fails(subject) == []
    assert all(torch.equal(value, before[key]) for key, value in subject.model.state_dict().items())
    assert all(parameter.grad is None for parameter in subject.model.parameters())


BRANCHES = {
    "gpt2": "transformer.h.0.mlp",
    "llama": "model.layers.1.self_attn.v_proj",
    "bert": "bert.encoder.layer.0.intermediate",
    "generator-0": "model.layers.0.mlp",
}


@pytest.mark.parametrize(("name", "branch"), BRANCHES.items())
def test_a_detached_branch_is_named(name, branch):
    subject = trained(name, steps=12)
    subject.model.get_submodule(branch).register_forward_hook(lambda module, inputs, output: output.detach())
    (found,) = gradient.flow(subject)
    assert found.verdict == "fail"
    named = [parameter for names in found.evidence["detached"].values() for parameter in names]
    assert all(parameter.startswith(branch) for parameter in named)
    assert named


def test_a_branch_that_does_not_hand_the_gradient_on_is_named_by_the_slope():
    subject = trained("gpt2", steps=12)
    subject.model.transformer.h[1].mlp.register_forward_pre_hook(lambda module, inputs: (inputs[0].detach(),))
    (found,) = gradient.flow(subject)
    assert found.verdict == "fail"
    assert "transformer.h.0" in found.evidence["true_slope_over_gradient"]


LAYERS = {
    "gpt2": "transformer.h.1",
    "llama": "model.layers.0",
    "bert": "bert.encoder.layer.1",
    "t5": "decoder.block.1",
    "generator-0": "model.layers.1",
}


@pytest.mark.parametrize(("name", "layer"), LAYERS.items())
@torch.no_grad()
def test_a_zeroed_layer_is_named(name, layer):
    with torch.enable_grad():
        subject = trained(name, steps=12)
    for parameter in subject.model.get_submodule(layer).parameters():
        parameter.zero_()
    found = gradient.flow(subject)[0]
    assert found.verdict == "fail"
    assert list(found.evidence["idle"]) == [layer]


@torch.no_grad()
def test_a_layer_whose_branches_add_nothing_is_named():
    with torch.enable_grad():
        subject = trained("llama", steps=12)
    layer = subject.model.model.layers[1]
    layer.self_attn.o_proj.weight.zero_()
    layer.mlp.down_proj.weight.zero_()
    found = gradient.flow(subject)[0]
    assert found.evidence["idle"] == {"model.layers.1": "its output is its input"}


def test_a_matrix_that_the_loss_does_not_use_is_noted():
    subject = trained("gpt2", steps=2)
    subject.model.register_module("spare", nn.Linear(4, 4))
    (found,) = gradient.flow(subject)
    assert found.verdict == "note"
    assert found.evidence["unused"] == ["spare.weight"]


def test_a_frozen_model_is_noted():
    subject = trained("gpt2", steps=2)
    subject.model.requires_grad_(False)
    assert [finding.verdict for finding in gradient.flow(subject)] == ["note"]
    assert gradient.non_finite(subject).verdict == "pass"


@torch.no_grad()
def test_gradients_that_vanish_over_the_layers_are_named():
    with torch.enable_grad():
        subject = trained("bert", steps=2)
    subject.model.bert.encoder.layer[1].attention.output.LayerNorm.weight *= 1e-5
    subject.model.bert.encoder.layer[1].output.LayerNorm.weight *= 1e-5
    assert any("vanishes" in finding.cause for finding in gradient.flow(subject))


@torch.no_grad()
def test_the_first_number_that_is_none_is_located():
    with torch.enable_grad():
        subject = trained("gpt2", steps=2)
    subject.model.transformer.h[1].mlp.c_proj.weight[3, 5] = math.nan
    found = gradient.non_finite(subject)
    assert found.verdict == "fail"
    assert found.evidence["parameters"] == {"transformer.h.1.mlp.c_proj.weight": 1}
    assert found.evidence["first_module"] == "transformer.h.1.mlp.c_proj"


def test_an_overflow_with_sound_weights_is_located_in_its_module():
    subject = trained("llama", steps=2)
    subject.model.model.layers[1].mlp.act_fn.register_forward_hook(lambda module, inputs, output: output / 0)
    found = gradient.non_finite(subject)
    assert found.evidence["parameters"] == {}
    assert found.evidence["first_module"] == "model.layers.1.mlp.act_fn"


def test_a_gradient_that_is_none_behind_a_finite_loss_is_named():
    subject = trained("llama", steps=2)
    # sqrt of exactly 0 has an infinite slope, times 0.
    subject.model.model.norm.register_forward_hook(lambda module, inputs, output: output + (output * 0).sqrt())
    found = gradient.non_finite(subject)
    assert found.evidence["loss_is_finite"]
    assert found.evidence["gradients"] > 0
    assert found.verdict == "fail"


def _with_rate(subject: Subject, rate: float | None) -> Subject:
    subject.record = record(steps=1, learning_rate=rate)
    return subject


@pytest.mark.parametrize(
    ("rate", "verdict"),
    [(None, "pass"), (0.0, "fail"), (1e-10, "note"), (1e-4, "pass"), (3e-3, "pass"), (0.3, "fail"), (3.0, "fail")],
)
@pytest.mark.parametrize("name", ["gpt2", "bert"])
def test_the_rate_of_the_training_is_judged_by_its_step(name, rate, verdict):
    subject = _with_rate(trained(name, steps=12), rate)
    assert gradient.update_ratio(subject).verdict == verdict
    assert subject.figures["update_ratios"]


def test_a_rate_that_blew_the_weights_up_is_still_too_large():
    subject = trained("gpt2", steps=40, rate=0.3)
    assert gradient.update_ratio(_with_rate(subject, 0.3)).verdict == "fail"
