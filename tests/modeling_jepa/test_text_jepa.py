"""What is special to the latent text model."""

import math

import pytest
import torch

from modeling_jepa.losses import proposal_probabilities
from tests.families import TEXT_JEPA

VARIANTS = (
    {},
    {"head": "softmax"},
    {"logit_scale": "fixed", "frequency_bias": False},
    {"logit_scale": "length"},
    {"ranking": "sampled"},
    {"ranking": "sampled", "target_gradient": "positive"},
    {"ranking": "shared", "num_candidates": 8},
    {"target_gradient": "none"},
    {"ranking": "sampled", "negative_sampling": "frequency"},
    {"target_table": "ema"},
    {"target_table": "contextual", "alignment_weight": 1.0},
    {"collapse_protection": "vicreg"},
    {"collapse_protection": "sigreg"},
    {"predictor_layers": 0},
    {"predictor_layers": 2, "tie_word_embeddings": False},
)


def name_of(variant: dict) -> str:
    return "-".join(f"{key}={value}" for key, value in variant.items()) or "default"


def mean(part: torch.Tensor) -> float:
    return float(part[0] / part[1])


@pytest.mark.parametrize("variant", VARIANTS, ids=name_of)
def test_every_variant_learns_saves_and_opens(variant: dict, tmp_path) -> None:
    model = TEXT_JEPA.model(**variant).train()
    inputs = TEXT_JEPA.learning_inputs(model.config)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    for _ in range(20):
        output = model(**inputs)
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        model.update_teacher()
        losses.append(output.loss.item())
    assert losses[-1] < losses[0]
    model.eval().save_pretrained(tmp_path)
    opened = TEXT_JEPA.learner.from_pretrained(tmp_path)
    assert torch.equal(opened(**inputs).loss, model(**inputs).loss)


@pytest.mark.parametrize("variant", VARIANTS, ids=name_of)
def test_logits_at_holes_are_the_dense_ones(variant: dict) -> None:
    model = TEXT_JEPA.model(**variant)
    inputs = TEXT_JEPA.learning_inputs(model.config)
    sparse = model(**inputs).logits
    dense = model(inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
    assert dense.shape == (4, 10, 97)
    torch.testing.assert_close(sparse, dense[inputs["labels"] != -100], atol=1e-5, rtol=0)


def test_nothing_dense_is_made_while_training() -> None:
    """No tensor of batch x length x vocabulary: the largest one is holes x vocabulary."""
    model = TEXT_JEPA.model().train()
    sizes = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
        model(**TEXT_JEPA.learning_inputs(model.config, rows=8))
    assert max(sizes) <= max(16 * 97, 97 * 32, 8 * 10 * 128)
    assert max(sizes) < 8 * 10 * 97 or 8 * 10 * 97 not in sizes


def test_sampled_ranking_gives_logits_without_a_gradient_while_training() -> None:
    model = TEXT_JEPA.model(ranking="sampled").train()
    inputs = TEXT_JEPA.learning_inputs(model.config)
    output = model(**inputs)
    assert not output.logits.requires_grad
    torch.testing.assert_close(output.logits, model.eval()(**inputs).logits)


def test_cosine_logits_are_cosines_times_the_scale() -> None:
    model = TEXT_JEPA.model(logit_scale="fixed", temperature=0.05, frequency_bias=False)
    output = model(**TEXT_JEPA.learning_inputs(model.config))
    cosines = torch.nn.functional.normalize(output.predictions, dim=-1) @ model.table_directions().T
    torch.testing.assert_close(output.logits, cosines / 0.05, atol=1e-4, rtol=0)


def test_learned_scale_starts_at_one_over_the_temperature() -> None:
    assert TEXT_JEPA.model(temperature=0.05).head.log_scale.exp().item() == pytest.approx(20.0)


def test_length_scale_follows_the_length_of_the_prediction() -> None:
    head = TEXT_JEPA.model(logit_scale="length", frequency_bias=False).head
    predictions = torch.randn(3, 32)
    table = torch.randn(97, 32)
    torch.testing.assert_close(head.logits(2 * predictions, table), 2 * head.logits(predictions, table))


def test_loss_is_the_weighted_sum_of_its_parts() -> None:
    weights = {"ranking_weight": 0.5, "alignment_weight": 2.0, "auxiliary_weight": 0.3, "collapse_weight": 0.7}
    model = TEXT_JEPA.model(collapse_protection="vicreg", **weights)
    output = model(**TEXT_JEPA.learning_inputs(model.config))
    expected = sum(weight * mean(output.loss_parts[name.removesuffix("_weight")]) for name, weight in weights.items())
    assert output.loss.item() == pytest.approx(expected, rel=1e-5)


def test_full_ranking_is_the_cross_entropy_of_the_logits() -> None:
    model = TEXT_JEPA.model()
    inputs = TEXT_JEPA.learning_inputs(model.config)
    output = model(**inputs)
    targets = inputs["labels"][inputs["labels"] != -100]
    expected = torch.nn.functional.cross_entropy(output.logits, targets)
    assert mean(output.loss_parts["ranking"]) == pytest.approx(expected.item(), rel=1e-5)


def test_sampled_ranking_sees_only_the_given_negatives() -> None:
    model = TEXT_JEPA.model(ranking="sampled")
    inputs = TEXT_JEPA.learning_inputs(model.config)
    output = model(**inputs)
    targets = inputs["labels"][inputs["labels"] != -100]
    candidates = torch.cat((targets[:, None], inputs["negative_ids"]), dim=1)
    expected = -output.logits.gather(1, candidates).log_softmax(-1)[:, 0]
    assert mean(output.loss_parts["ranking"]) == pytest.approx(expected.mean().item(), rel=1e-5)
    output = model.train()(**inputs)
    assert mean(output.loss_parts["ranking"]) == pytest.approx(expected.mean().item(), rel=1e-5)


def test_sampled_ranking_without_negatives_takes_the_whole_vocabulary() -> None:
    inputs = TEXT_JEPA.learning_inputs(TEXT_JEPA.config())
    del inputs["negative_ids"]
    sampled, full = (TEXT_JEPA.model(ranking=ranking)(**inputs).loss for ranking in ("sampled", "full"))
    assert torch.equal(sampled, full)


@pytest.mark.parametrize("head", ["cosine", "softmax"])
def test_shared_ranking_among_all_words_is_full_ranking(head: str) -> None:
    model = TEXT_JEPA.model(ranking="shared", num_candidates=8, head=head).train()
    inputs = TEXT_JEPA.learning_inputs(model.config)
    given = {"candidate_ids": torch.arange(model.config.vocab_size), "candidate_log_chances": None}
    losses, gradients = [], []
    for candidates in ({}, given):
        model.zero_grad()
        output = model(**inputs, **candidates)
        output.loss.backward()
        losses.append(output.loss.detach())
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert output.logits is None
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(*gradients)
    same = {"rtol": 1e-5, "atol": 1e-6}
    torch.testing.assert_close(output.loss_parts["acc_neg"], model(**inputs).loss_parts["acc_neg"], **same)


def test_shared_ranking_expects_the_gradient_of_full_ranking() -> None:
    model = TEXT_JEPA.model(ranking="shared", num_candidates=8, alignment_weight=0.0, auxiliary_weight=0.0)
    inputs = TEXT_JEPA.learning_inputs(model.config)
    size = model.config.vocab_size
    answers = inputs["labels"][inputs["labels"] != -100].unique()
    chance = torch.linspace(0.2, 0.9, size)

    def gradient(**candidates: torch.Tensor) -> torch.Tensor:
        model.zero_grad()
        model(**inputs, **candidates).loss.backward()
        return model.head.decoder.weight.grad.flatten().clone()

    torch.manual_seed(0)
    total = torch.zeros(model.head.decoder.weight.numel())
    for _ in range(300):
        chosen = torch.rand(size) < chance
        chosen[answers] = True
        ids = chosen.nonzero().flatten()
        total += gradient(candidate_ids=ids, candidate_log_chances=chance[ids].log())
    assert torch.cosine_similarity(total, gradient(), dim=0) > 0.95


@pytest.mark.parametrize("ranking", ["full", "sampled"])
def test_targets_get_a_gradient_only_where_they_should(ranking: str) -> None:
    moved = {}
    for wanted in ("all", "positive", "none") if ranking == "sampled" else ("all", "none"):
        model = TEXT_JEPA.model(target_gradient=wanted, ranking=ranking, tie_word_embeddings=False)
        inputs = TEXT_JEPA.learning_inputs(model.config)
        model(**inputs).loss.backward()
        gradient = model.head.decoder.weight.grad
        moved[wanted] = set() if gradient is None else set(gradient.any(1).nonzero().flatten().tolist())
        assert model.model.embed_tokens.weight.grad.any()
    positives = set(inputs["labels"][inputs["labels"] != -100].tolist())
    assert moved["none"] == set()
    assert moved["all"] > positives
    assert moved.get("positive", positives) == positives


def test_acc_neg_of_an_untrained_model_is_near_chance() -> None:
    model = TEXT_JEPA.model(vocab_size=1000)
    output = model(**TEXT_JEPA.learning_inputs(model.config, rows=400))
    assert mean(output.loss_parts["acc_neg"]) == pytest.approx(1 / 9, abs=0.04)


def test_a_model_with_one_answer_for_all_has_no_acc_neg() -> None:
    model = TEXT_JEPA.model(frequency_bias=False)
    with torch.no_grad():
        model.get_input_embeddings().weight.fill_(0.1)
    assert mean(model(**TEXT_JEPA.learning_inputs(model.config)).loss_parts["acc_neg"]) == 0.0


def test_no_hole_gives_a_loss_of_zero_with_a_gradient() -> None:
    model = TEXT_JEPA.model()
    inputs = TEXT_JEPA.inputs(model.config)
    output = model(**inputs, labels=torch.full_like(inputs["input_ids"], -100))
    output.loss.backward()
    assert output.loss.item() == 0.0
    assert output.logits.shape == (0, 97)


def test_bias_starts_at_the_log_frequency() -> None:
    model = TEXT_JEPA.model()
    counts = torch.arange(97)
    model.set_token_counts(counts)
    expected = (counts + 1) / (counts + 1).sum()
    torch.testing.assert_close(model.head.decoder.bias.exp(), expected)
    assert torch.equal(model.token_counts, counts)


def test_counts_are_exact_in_a_model_loaded_in_bfloat16(tmp_path) -> None:
    model = TEXT_JEPA.model()
    model.set_token_counts(torch.arange(3000, 3097))
    model.save_pretrained(tmp_path)
    opened = TEXT_JEPA.learner.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert opened.head.decoder.weight.dtype == torch.bfloat16
    assert torch.equal(opened.token_counts, torch.arange(3000, 3097))


@pytest.mark.parametrize("variant", VARIANTS, ids=name_of)
def test_every_trainable_parameter_of_every_variant_gets_a_gradient(variant: dict) -> None:
    model = TEXT_JEPA.model(**variant).train()
    model(**TEXT_JEPA.learning_inputs(model.config)).loss.backward()
    without = [n for n, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert without == []


def test_counts_of_another_vocabulary_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"counts has shape \(5,\); it must be \(97,\)"):
        TEXT_JEPA.model().set_token_counts(torch.zeros(5))


def test_proposal_grows_with_the_three_quarter_power_of_frequency() -> None:
    probabilities = proposal_probabilities(torch.tensor([0.0, 15.0, 255.0]))
    torch.testing.assert_close(probabilities, torch.tensor([1.0, 8.0, 64.0]) / 73.0)


def test_frequency_negatives_are_corrected_for_their_proposal() -> None:
    model = TEXT_JEPA.model(ranking="sampled", negative_sampling="frequency", head="softmax", frequency_bias=False)
    with torch.no_grad():
        model.get_input_embeddings().weight.zero_()
    model.set_token_counts(torch.arange(97))
    inputs = TEXT_JEPA.learning_inputs(model.config)
    targets = inputs["labels"][inputs["labels"] != -100]
    candidates = torch.cat((targets[:, None], inputs["negative_ids"]), dim=1)
    odds = 1 / proposal_probabilities(model.token_counts)[candidates]
    expected = -(odds[:, 0] / odds.sum(1)).log().mean()
    assert mean(model(**inputs).loss_parts["ranking"]) == pytest.approx(expected.item(), rel=1e-5)


def test_contextual_target_without_input_ids_is_refused_by_name() -> None:
    model = TEXT_JEPA.model(target_table="contextual")
    inputs = TEXT_JEPA.learning_inputs(model.config)
    embeds = model.get_input_embeddings()(inputs.pop("input_ids"))
    with pytest.raises(ValueError, match=r"contextual.* needs input_ids"):
        model(inputs_embeds=embeds, **inputs)


def test_inputs_and_embeddings_together_are_refused() -> None:
    model = TEXT_JEPA.model()
    with pytest.raises(ValueError, match="exactly one of input_ids and inputs_embeds"):
        model()


def test_untrained_loss_is_that_of_a_guess() -> None:
    """At the start the fixed scale spreads the logits a little over ln V."""
    model = TEXT_JEPA.model(head="softmax", auxiliary_weight=0.0, vocab_size=1000)
    loss = model(**TEXT_JEPA.learning_inputs(model.config, rows=100)).loss.item()
    assert loss == pytest.approx(math.log(1000), abs=0.1)


@pytest.mark.parametrize("flags", [{}, {"mean_resizing": False}, {"pad_to_multiple_of": 64}], ids=str)
def test_a_new_token_is_as_unlikely_as_one_never_seen(flags: dict, tmp_path) -> None:
    model = TEXT_JEPA.model()
    counts = torch.arange(97) * 10
    model.set_token_counts(counts)
    model.resize_token_embeddings(101, **flags)
    unseen = torch.log(1.0 / (counts + 1.0).sum())
    assert len(model.head.bias) == model.config.vocab_size > 97
    torch.testing.assert_close(model.head.bias[97:], unseen.expand(model.config.vocab_size - 97))
    model.save_pretrained(tmp_path)
    assert torch.equal(TEXT_JEPA.learner.from_pretrained(tmp_path).head.decoder.bias, model.head.bias)
    model.resize_token_embeddings(50)
    torch.testing.assert_close(model.head.bias, torch.log((counts[:50] + 1.0) / (counts + 1.0).sum()))


@pytest.mark.filterwarnings("ignore:The following device_map keys")
@pytest.mark.parametrize("apart", ["head", "teacher"])
def test_a_part_that_is_kept_apart_from_its_table_changes_no_answer(apart: str, tmp_path) -> None:
    """The head's table is the token table, which the file has once; the teacher's is read and not called."""
    model = TEXT_JEPA.model(target_table="ema")
    model.set_token_counts(torch.arange(97))
    model.update_teacher()
    model.save_pretrained(tmp_path)
    places = {**dict.fromkeys(("model", "head", "teacher", "token_counts"), "cpu"), apart: "disk"}
    opened = TEXT_JEPA.learner.from_pretrained(tmp_path, device_map=places, offload_folder=tmp_path / "disk")
    inputs = TEXT_JEPA.inputs(model.config)
    for _ in range(2):  # nothing stays behind
        torch.testing.assert_close(opened(**inputs).logits, model(**inputs).logits, atol=1e-6, rtol=0)
        assert (
            getattr(opened, apart).get_parameter({"head": "decoder.bias", "teacher": "target.weight"}[apart]).is_meta
        )
    learning = TEXT_JEPA.learning_inputs(model.config)
    torch.testing.assert_close(opened(**learning).loss, model(**learning).loss)
