import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from eval.diagnose.checks.distribution import calibration_error, copies, name_of, shape
from eval.diagnose.checks.parity import unused_ids
from eval.diagnose.opening import make_subject
from eval.diagnose.probes.predictions import look_at_predictions
from eval.diagnose.report.report import as_list
from eval.diagnose.subject.subject import Subject
from tests.diagnose.tiny_subjects import MAKERS, record, trained, untrained


def checks(subject: Subject) -> list[str]:
    return [finding.check for finding in shape(subject) if finding.verdict == "fail"]


@torch.no_grad()
def own_table(subject: Subject) -> torch.Tensor:
    head = subject.model.get_output_embeddings()
    head.weight = nn.Parameter(head.weight.detach().clone())
    return head.weight.data


@pytest.mark.parametrize("name", MAKERS)
def test_an_untrained_model_is_called_untrained(name):
    assert checks(untrained(name)) == ["distribution.untrained"]


@pytest.mark.parametrize("name", ["gpt2", "llama", "t5", "generator-3"])
def test_a_trained_model_is_healthy(name):
    found = shape(trained(name))
    assert [finding.verdict for finding in found if finding.check != "distribution.calibration"] == ["pass"]
    assert found[0].check == "distribution.healthy"


@pytest.mark.parametrize(("factor", "name"), [(200.0, "saturated"), (0.003, "flat")])
def test_logits_of_a_wrong_scale_are_named(factor, name):
    subject = trained("gpt2")
    own_table(subject).mul_(factor)
    assert checks(subject) == [f"distribution.{name}"]


def test_output_weights_that_exploded_at_random_are_named():
    subject = trained("llama")
    table = own_table(subject)
    table += 10 * torch.randn(table.shape, generator=torch.Generator().manual_seed(1))
    assert checks(subject) == ["distribution.flat"]
    assert "exploded" in shape(subject)[0].cause


def test_one_token_that_outshouts_all_others_is_named():
    subject = trained("bert", steps=20)
    subject.model.get_output_embeddings().bias.data[17] = 60.0
    assert checks(subject) == ["distribution.saturated"]


def test_a_model_that_knows_frequencies_only_is_named_and_a_young_one_excused():
    subject = trained("bert", steps=20)
    tokens = subject.batch(32, 32).input_ids
    counts = torch.bincount(tokens.flatten(), minlength=subject.vocab_size).float() + 0.1
    head = subject.model.get_output_embeddings()
    own_table(subject).zero_()
    head.bias.data.copy_((counts / counts.sum()).log())
    assert checks(subject) == ["distribution.unigram_only"]

    subject.record = record(steps=100)
    assert shape(subject)[0].verdict == "note"


def test_without_a_tokenizer_a_trained_model_is_not_blamed_for_random_ids():
    model = trained("gpt2").model
    bare = make_subject(model, None, name="bare")
    assert name_of(look_at_predictions(bare), is_untouched=False) != "healthy"
    (found,) = shape(bare)
    assert (found.check, found.verdict) == ("distribution.shape", "note")
    assert "--tokenizer" in found.remedy


def test_logits_that_are_no_numbers_are_left_to_the_group_that_finds_them():
    subject = trained("gpt2", steps=2)
    own_table(subject)[3, 3] = math.nan
    (found,) = shape(subject)
    assert found.verdict == "note"
    assert "gradient.non_finite" in found.remedy


def test_a_token_that_is_ruled_out_changes_nothing():
    subject = trained("gpt2")
    before = look_at_predictions(subject)
    right = subject.predictions

    def without_padding(batch):
        logits, truth = right(batch)
        logits[:, 0] = -math.inf
        return logits, truth

    subject.predictions = without_padding
    after = look_at_predictions(subject)
    assert after.best_temperature == before.best_temperature
    assert after.context == pytest.approx(before.context, rel=1e-6)


def test_the_context_is_worth_exactly_nothing_where_predictions_do_not_hang_on_it():
    subject = trained("gpt2", steps=2)
    everywhere = torch.randn(subject.vocab_size)
    right = subject.predictions
    subject.predictions = lambda batch: (everywhere.expand(len(right(batch)[1]), -1).clone(), right(batch)[1])
    seen = look_at_predictions(subject)
    assert seen.context == pytest.approx(0, abs=1e-6)
    assert seen.variation == pytest.approx(0, abs=1e-6)


def test_few_positions_are_not_judged():
    seen = look_at_predictions(trained("gpt2", steps=2))
    assert name_of(replace(seen, right=seen.right[:10]), is_untouched=False) == "too_few"


def test_calibration_error_is_the_gap_between_confidence_and_accuracy():
    confidence = torch.tensor([0.95] * 10 + [0.25] * 10)
    right = torch.tensor([True] * 5 + [False] * 5 + [False] * 10)
    error, series = calibration_error(confidence, right)
    assert error == pytest.approx((0.45 + 0.25) / 2)
    assert series["accuracy"] == pytest.approx([0.0, 0.5])
    assert series["counts"] == [10, 10]


def test_series_for_the_plots_are_kept():
    subject = untrained("gpt2")
    shape(subject)
    assert subject.figures["loss_vs_lnv"]["ln_v"] == pytest.approx(math.log(subject.vocab_size))
    for name in ("entropy_histogram", "top1_mass_histogram"):
        series = subject.figures[name]
        assert len(series["edges"]) == len(series["counts"]) + 1
        assert sum(series["counts"]) == look_at_predictions(subject).count


def test_a_model_that_is_worse_than_guessing_by_frequency_fails_and_on_the_built_in_sample_gets_a_note():
    subject = trained("llama")
    layers = subject.model.model.layers
    for layer in layers:
        layer.mlp.down_proj.weight.data *= -1.0
    seen = look_at_predictions(subject)
    while seen.loss < seen.unigram:  # turned until it is worse than a guess, and still reads its context
        subject.model.lm_head.weight.data *= 1.3
        seen = look_at_predictions(subject)
    assert name_of(seen, is_untouched=False) == "worse_than_guessing"
    assert checks(subject) == ["distribution.worse_than_guessing"]
    subject.built_in_text = True
    assert (shape(subject)[0].check, shape(subject)[0].verdict) == ("distribution.worse_than_guessing", "note")
    assert "--data" in shape(subject)[0].remedy


def test_a_masked_model_that_only_copies_is_named():
    subject = untrained("bert")
    batch = subject.batch(16, 32)
    optimizer = torch.optim.AdamW(subject.model.parameters(), lr=5e-3)
    for _ in range(150):
        loss = subject.own_loss(subject.model, {**subject.inputs(batch), "labels": batch.input_ids})
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (copies(subject).check, copies(subject).verdict) == ("distribution.copies", "fail")
    assert copies(trained("bert")).verdict == "pass"


def test_ids_without_a_token_that_are_predicted_are_named():
    subject = trained("gpt2")
    assert as_list(unused_ids(subject)) == []
    subject.model.resize_token_embeddings(80, mean_resizing=False)
    own_table(subject)[60:] *= 100
    assert unused_ids(subject).verdict == "fail"
