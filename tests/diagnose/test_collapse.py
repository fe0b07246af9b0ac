"""Collapse is found in vectors, predictors and teachers, and not where models are young or healthy."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from eval.advice.record import TrainingRecord
from eval.diagnose.checks.collapse import predictor_idle, representation, told_apart
from eval.diagnose.checks.collapse_teacher import above_random, teacher_frozen
from eval.diagnose.subject.subject import Subject
from modeling_jepa import TextJepaForMaskedLM
from tests.diagnose.small_subjects import causal_subject, latent_subject


def is_nearly_constant(subject: Subject) -> bool:
    """Whether 99 % of the square of a typical dimension is the same for every token."""
    last = subject.hidden_states(subject.batch(16, 32))[-1].flatten(0, 1)
    return float((last.std(0, correction=0) / last.square().mean(0).sqrt()).median()) < 0.1


def train(subject: Subject, steps: int, rate: float, until: Callable[[Subject], bool] = lambda subject: False) -> None:
    """Some steps of AdamW on its own text, its teacher following."""
    model = subject.model
    if subject.latent is not None and model.teacher is not None:
        model.update_teacher()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate)
    batch = subject.batch(16, 32)
    for step in range(steps):
        asked = subject.holes(batch, 0.3, seed=step) if subject.kind == "masked" else batch
        loss = subject.own_loss(model, subject.learning_inputs(asked))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if subject.latent is not None:
            model.update_teacher()
        if until(subject):
            break


def test_vectors_of_untrained_models_are_not_collapsed() -> None:
    for subject in (causal_subject(), latent_subject()):
        assert representation(subject).verdict == "pass"
        assert subject.figures["singular_values"]["last layer"][0] == 1.0


def test_a_last_norm_that_lets_nothing_through_is_a_collapse() -> None:
    subject = causal_subject()
    norm = subject.model.transformer.ln_f
    with torch.no_grad():
        norm.weight *= 1e-3
        norm.bias += torch.randn(32)
    found = representation(subject)
    assert (found.verdict, found.check) == ("fail", "collapse.representation")
    assert found.evidence["spread_share"] < 0.1


@pytest.mark.parametrize(("seed", "width"), [(1, 64), (0, 128)])
def test_a_young_model_that_knows_frequencies_only_is_no_collapse_yet(seed: int, width: int) -> None:
    """Its vectors are nearly constant, with no log that would say so, and training spreads them out."""
    subject = causal_subject(seed, width, reads_sentences=True)
    train(subject, steps=40, rate=2e-2, until=is_nearly_constant)
    assert is_nearly_constant(subject)
    found = representation(subject)
    assert (found.verdict, found.evidence["spread_after_training"] > 0.5) == ("note", True)


def test_an_encoder_whose_loss_a_constant_satisfies_has_collapsed() -> None:
    """By its own training: alignment alone, with a teacher that follows at once."""
    alone = {"ranking_weight": 0.0, "alignment_weight": 1.0, "auxiliary_weight": 0.0, "teacher_momentum": 0.5}
    subject = latent_subject(seed=0, hidden_size=32, target_table="contextual", **alone)
    train(subject, steps=100, rate=2e-3)
    assert representation(subject).verdict == "fail"


def test_vectors_that_nothing_trains_are_judged_as_they_are() -> None:
    subject = causal_subject()
    with torch.no_grad():
        subject.model.transformer.ln_f.weight *= 1e-3
        subject.model.transformer.ln_f.bias += 1.0
    subject.model.requires_grad_(False)
    found = representation(subject)
    assert (found.verdict, found.evidence["spread_after_training"]) == ("fail", None)


def test_a_few_huge_constant_dimensions_are_no_collapse() -> None:
    subject = causal_subject()
    with torch.no_grad():
        subject.model.transformer.ln_f.bias[:3] += 100.0
    found = representation(subject)
    assert found.verdict == "pass"
    assert found.evidence["mean_pairwise_cosine"] > 0.99
    assert found.evidence["spread_share"] > 0.95


def test_a_latent_encoder_that_forgets_its_tokens_has_collapsed() -> None:
    few = torch.randn(6, 32)

    def forget(model: TextJepaForMaskedLM) -> None:
        def six_random_directions(module: nn.Module, given: object, hidden: torch.Tensor) -> torch.Tensor:
            return torch.randn(*hidden.shape[:-1], 6) @ few

        model.model.layers[-1].register_forward_hook(six_random_directions)

    found = representation(latent_subject(forget))
    assert found.verdict == "fail"
    assert found.evidence["tokens_told_apart"] < 0.6


def test_tokens_are_told_apart_by_their_nearest_neighbour() -> None:
    tokens = torch.arange(100) % 25
    vectors = nn.functional.one_hot(tokens, 25).double() + 0.01 * torch.randn(100, 25, dtype=torch.float64)
    assert told_apart(vectors, tokens) == 1.0
    assert told_apart(torch.randn(100, 25, dtype=torch.float64), tokens) < 0.2
    assert told_apart(vectors, torch.arange(100)) == 0.0  # none stands twice


@pytest.mark.parametrize(
    ("predictor", "figure"),
    [(lambda hidden: hidden, "cosine_with_input"), (lambda hidden: 0 * hidden + 1, "variation_kept")],
)
def test_a_predictor_that_hands_on_or_is_constant_is_idle(predictor: object, figure: str) -> None:
    subject = latent_subject()
    subject.latent = replace(subject.latent, predictor=predictor)
    found = predictor_idle(subject)
    assert found.verdict == "fail"
    assert found.evidence[figure] in (pytest.approx(1.0), pytest.approx(0.0))


def test_a_fresh_predictor_works_and_one_without_layers_is_idle() -> None:
    assert predictor_idle(latent_subject()).verdict == "pass"
    assert predictor_idle(latent_subject(predictor_layers=0)).verdict == "fail"


def learn(model: TextJepaForMaskedLM, updates: int = 600, follows: bool = True) -> None:
    """As after training: a direction common to all rows is learnt, by the teacher too where it follows."""
    student = model.model.embed_tokens.weight
    if model.teacher is not None:
        model.teacher.update(model.model.embed_tokens)
    student += 0.3 * student.std() * torch.randn(len(student), 1) * torch.randn(1, student.shape[1])
    student += student.std() * torch.randn(1, student.shape[1])
    for vector in (parameter for parameter in model.parameters() if parameter.ndim == 1):
        vector += 0.01 * torch.randn_like(vector)
    if model.teacher is not None:
        model.teacher.num_updates.fill_(updates)
        if follows:
            model.teacher.target.weight.lerp_(student, 0.9)


def frozen(change: object, **fields: object) -> str:
    found = teacher_frozen(latent_subject(change, target_table="ema", alignment_weight=0.5, **fields))
    return found.verdict


def test_a_teacher_that_follows_is_right_and_so_is_one_before_training() -> None:
    assert frozen(learn) == "pass"
    assert frozen(None) == "pass"
    assert teacher_frozen(latent_subject(learn)) == []  # without one


def test_a_teacher_that_stood_still_in_the_last_steps_is_named() -> None:
    def learn_on(model: TextJepaForMaskedLM) -> None:
        learn(model)
        model.teacher.steps_without_update = 30

    found = teacher_frozen(latent_subject(learn_on, target_table="ema", alignment_weight=0.5))
    assert found.verdict == "fail"
    assert "30 steps since the teacher's last update" in found.cause
    assert "TeacherCallback" in found.remedy


def test_a_young_teacher_may_be_near_its_start() -> None:
    assert frozen(lambda model: learn(model, updates=40, follows=False)) == "pass"


@pytest.mark.parametrize("updates", [0, 1])
def test_a_teacher_that_nobody_updates_is_frozen(updates: int) -> None:
    assert frozen(lambda model: learn(model, updates, follows=False)) == "fail"


def test_a_teacher_that_counts_updates_but_keeps_random_weights_is_frozen() -> None:
    assert frozen(lambda model: learn(model, follows=False)) == "fail"


def test_a_momentum_next_to_one_freezes_the_teacher() -> None:
    assert frozen(learn, teacher_momentum=0.9999999) == "fail"


def test_checkpoints_show_a_teacher_that_stands_still(tmp_path: Path) -> None:
    def saved(follows: bool) -> Subject:
        subject = latent_subject(learn, target_table="ema", alignment_weight=0.5)
        folders = [tmp_path / f"{follows}" / f"checkpoint-{step}" for step in (200, 400)]
        for folder in folders:
            subject.model.save_pretrained(folder)
            with torch.no_grad():
                subject.model.model.embed_tokens.weight += 0.01
                if follows:
                    subject.model.update_teacher()
        subject.record = TrainingRecord(tmp_path, [], None, {}, folders, ours=True)
        return subject

    moved, stood = teacher_frozen(saved(True)), teacher_frozen(saved(False))
    assert (moved.verdict, stood.verdict) == ("pass", "fail")
    assert stood.evidence["moved_between_checkpoints"] == 0.0 < moved.evidence["moved_between_checkpoints"]


def test_random_numbers_are_at_the_edge_of_random_numbers() -> None:
    weight = torch.randn(400, 80)
    assert abs(above_random(weight)) < 0.05
    assert above_random(weight + torch.ones(80)) > 1.0
