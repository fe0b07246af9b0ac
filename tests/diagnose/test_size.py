import pytest
import torch

from eval.diagnose.checks import size
from eval.diagnose.subject.subject import Subject
from tests.diagnose.conversion_faults import last_layer_of_another
from tests.diagnose.tiny_subjects import MAKERS, texts, trained, untrained


@pytest.mark.parametrize("name", MAKERS)
def test_an_untrained_model_has_nothing_wrong(name):
    subject = untrained(name)
    found = [check.run(subject) for check in size.CHECKS]
    assert [finding.check for finding in found if finding.verdict == "fail"] == []


@pytest.mark.parametrize("name", ["gpt2", "opt", "bert", "text_jepa", "generator-3"])
def test_a_trained_model_has_nothing_wrong(name):
    subject = trained(name, steps=20)
    assert {check.run(subject).verdict for check in size.CHECKS} == {"pass"}


@torch.no_grad()
def test_logits_that_start_too_large_are_noted():
    subject = untrained("llama")
    subject.model.get_output_embeddings().weight *= 40
    found = size.loss_at_start(subject)
    assert found.verdict == "note"
    assert found.evidence["loss"] > found.evidence["ln_v"] + 1


def _kill(subject: Subject, name: str, share: float) -> Subject:
    bias = subject.model.get_parameter(name)
    with torch.no_grad():
        bias[: int(len(bias) * share)] -= 60
    return subject


@pytest.mark.parametrize(
    ("name", "bias"),
    [("opt", "model.decoder.layers.1.fc1.bias"), ("gpt2", "transformer.h.0.mlp.c_fc.bias")],
)
@pytest.mark.parametrize(("share", "verdict"), [(1.0, "fail"), (0.8, "fail"), (0.3, "note"), (0.0, "pass")])
def test_units_that_never_speak_are_found_by_their_share(name, bias, share, verdict):
    found = size.dead_units(_kill(trained(name, steps=5), bias, share))
    assert found.verdict == verdict
    assert found.evidence["largest_dead_share"] == pytest.approx(share, abs=0.02)


def test_what_starts_at_zero_and_can_learn_is_not_dead():
    subject = untrained("llama")
    with torch.no_grad():
        subject.model.model.layers[0].mlp.up_proj.weight.zero_()
    silent, _ = size._silent_shares(subject, subject.model)
    assert max(silent.values()) == 1.0  # what enters the matrix behind it is zero, and its gradient is not
    assert size.dead_units(subject).verdict == "pass"


@torch.no_grad()
def test_units_that_are_copies_and_stay_so_are_found():
    subject = trained("llama", steps=5)
    mlp = subject.model.model.layers[0].mlp
    for layer in (mlp.gate_proj, mlp.up_proj):
        layer.weight.copy_(layer.weight[:1].expand_as(layer.weight))
    mlp.down_proj.weight.copy_(mlp.down_proj.weight[:, :1].expand_as(mlp.down_proj.weight))
    found = size.symmetric_units(subject)
    assert found.verdict == "fail"
    assert found.evidence["largest_share"] == 1.0


@torch.no_grad()
def test_copies_that_are_read_differently_are_none():
    subject = trained("llama", steps=5)
    value = subject.model.model.layers[0].self_attn.v_proj.weight
    half = len(value) // 2
    value[half:] = value[:half]  # as of keys and values that heads share
    found = size.symmetric_units(subject)
    assert found.verdict == "pass"
    assert found.evidence["layers_with_equal_rows"] == 1


def test_parameters_are_judged_only_against_training_text():
    subject = trained("gpt2", steps=1)
    assert size.parameters_for_data(subject).verdict == "pass"
    subject.parts = {"train": texts()}
    found = size.parameters_for_data(subject)
    assert found.verdict == "note"
    assert found.evidence["training_tokens"] == 48 * 40


def test_tokens_of_long_text_are_counted_in_a_part(monkeypatch):
    subject = untrained("gpt2")
    monkeypatch.setattr(size, "COUNTED_CHARACTERS", 2000)
    assert size._count_tokens(subject, texts()) == pytest.approx(48 * 40, rel=0.05)
    assert subject.notes


@pytest.mark.parametrize("name", ["gpt2", "llama", "bert"])
def test_a_block_that_learnt_nothing_among_others_that_did_is_named(name):
    subject = trained(name, steps=300)
    assert size.fresh_layer(subject).verdict == "pass"
    last_layer_of_another(subject.model)
    found = size.fresh_layer(subject)
    assert found.verdict == "fail"
    assert len(found.evidence["fresh"]) == 1
