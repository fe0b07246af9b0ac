"""Scoring causal models: windows, exactness, leaks, subsets, baselines and held-out figures of packed blocks."""

import math

import datasets
import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from eval.decoding import token_scores as token_scores_module
from eval.decoding.windows import tokenize_documents, windows_of
from eval.metrics.language_modeling import count_words
from eval.metrics.ngrams import Bigram, Unigram
from eval.scorers.causal import ScoringPlan, affordable_tokens, held_out_figures, score_documents
from eval.scorers.causal_inside import edge_mass, leak_gap
from tests.eval.causal_models import CONTEXT, TEXTS, tiny_bpe, tiny_generator, tiny_gpt2, tiny_llama
from training.common.errors import InputError, NonFiniteError


@pytest.fixture(scope="module")
def bpe():
    return tiny_bpe()


@pytest.fixture
def llama(bpe):
    return tiny_llama(len(bpe))


class Seer(LlamaForCausalLM):
    """A planted leak: an edge i -> i + 1, by which each place looks at the token it is to say."""

    def forward(self, input_ids=None, **inputs):
        output = super().forward(input_ids=input_ids, **inputs)
        seen = torch.nn.functional.one_hot(input_ids[:, 1:], self.config.vocab_size)
        output.logits[:, :-1] += 5.0 * seen
        return output


def one_pass_nll(model, ids):
    with torch.no_grad():
        logits = model(input_ids=torch.as_tensor(ids[:-1])[None]).logits[0].double()
    return torch.nn.functional.cross_entropy(logits, torch.as_tensor(ids[1:]), reduction="none").numpy()


@pytest.mark.parametrize("make", [tiny_gpt2, tiny_llama])
def test_documents_within_the_context_score_as_in_one_pass(bpe, make):
    model = make(len(bpe))
    texts = [TEXTS[1], " peace \n", " the union , and we had \n"]
    documents = tokenize_documents(texts, bpe)
    assert max(document.predictions for document in documents) <= CONTEXT
    scores = score_documents(model, bpe, texts)
    expected = np.concatenate([one_pass_nll(model, document.ids) for document in documents])
    np.testing.assert_allclose(scores.answers.nll, expected, atol=1e-5)
    assert scores.metrics["perplexity"] == pytest.approx(math.exp(expected.mean()), rel=1e-6)
    assert scores.metrics["bytes"] == sum(len(text.encode()) for text in texts)
    assert scores.metrics["words"] == sum(len(text.split()) + 1 for text in texts)
    assert scores.num_examples == len(expected) == scores.metrics["tokens"]


def test_every_token_but_the_begin_is_scored_once_and_in_the_order_of_the_text(bpe, llama):
    scores = score_documents(llama, bpe, TEXTS, ScoringPlan(stride=7, batch_size=3))
    documents = tokenize_documents(TEXTS, bpe)
    assert scores.answers.targets.tolist() == [int(i) for document in documents for i in document.ids[1:]]
    assert np.isfinite(scores.answers.nll).all()
    assert all(document.ids[0] == bpe.bos_token_id and document.ids[-1] == bpe.eos_token_id for document in documents)


def test_beyond_the_context_a_token_is_said_from_what_its_window_shows(bpe, llama):
    stride = 10
    scores = score_documents(llama, bpe, TEXTS[2:], ScoringPlan(stride=stride))
    ids = tokenize_documents(TEXTS[2:], bpe)[0].ids
    expected = list(one_pass_nll(llama, ids[: CONTEXT + 1]))
    for done in range(CONTEXT, len(ids) - 1, stride):
        start = done - (CONTEXT - stride)
        expected += list(one_pass_nll(llama, ids[start : start + CONTEXT + 1])[CONTEXT - stride :])
    np.testing.assert_allclose(scores.answers.nll, expected, atol=1e-5)


@pytest.mark.parametrize("stride", [1, 5, 8])
@pytest.mark.parametrize("predictions", [0, 1, 7, 8, 9, 16, 33])
def test_windows_score_each_prediction_once_from_enough_before_it(predictions, stride):
    windows = list(windows_of(predictions, 8, stride))
    scored = [j for window in windows for j in range(window.first_scored, window.stop)]
    assert scored == list(range(predictions))
    for window in windows:
        assert len(window) <= 8
        seen = window.first_scored - window.start + 1
        assert window.start == 0 or seen >= 8 - stride + 1


def test_the_choice_of_batches_changes_no_figure(bpe, llama, monkeypatch):
    one = score_documents(llama, bpe, TEXTS, ScoringPlan(batch_size=1))
    many = score_documents(llama, bpe, TEXTS, ScoringPlan(batch_size=16))
    np.testing.assert_allclose(one.answers.nll, many.answers.nll, atol=1e-5)
    monkeypatch.setattr(token_scores_module, "LOGITS_AT_A_TIME", 1)
    np.testing.assert_allclose(score_documents(llama, bpe, TEXTS).answers.nll, many.answers.nll, atol=1e-5)


def test_an_honest_model_has_no_leak_gap(bpe):
    for make in (tiny_gpt2, tiny_llama):
        metrics = score_documents(make(len(bpe)), bpe, TEXTS).metrics
        assert abs(metrics["leak_gap"]) < 1e-5
        assert metrics["leak_gap_largest"] < 1e-4


def test_a_planted_edge_to_the_next_token_is_a_large_leak_gap(bpe):
    seer = tiny_llama(len(bpe), Seer)
    scores = score_documents(seer, bpe, TEXTS)
    assert scores.metrics["leak_gap"] > 1.0
    honest = score_documents(tiny_llama(len(bpe)), bpe, TEXTS)
    assert scores.metrics["perplexity"] < honest.metrics["perplexity"]


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_our_generator_has_no_leak_gap_at_any_stage(bpe, stage):
    metrics = score_documents(tiny_generator(bpe, stage), bpe, TEXTS).metrics
    assert abs(metrics["leak_gap"]) < 1e-5
    assert metrics["leak_gap_largest"] < 1e-4
    assert (metrics["edge_mass"] is None) == (stage < 3)


def test_edge_mass_shares_the_attention_of_a_routed_model_among_the_kinds(bpe):
    model = tiny_generator(bpe, stage=3)
    documents = [document.ids for document in tokenize_documents(TEXTS, bpe)]
    mass = edge_mass(model, documents, CONTEXT)
    assert set(mass) == {"near", "successors"}
    assert sum(mass.values()) == pytest.approx(1.0, abs=1e-6)
    assert all(0 < share < 1 for share in mass.values())
    # One token has no far edges.
    assert edge_mass(model, [documents[0][:1]], CONTEXT) == {"near": 1.0, "successors": 0.0}


def test_the_leak_gap_of_texts_too_short_to_have_one_is_null(llama):
    assert leak_gap(llama, [np.array([3])], CONTEXT)["leak_gap"] is None
    assert leak_gap(llama, [], CONTEXT)["leak_gap"] is None
    assert abs(leak_gap(llama, [np.array([3, 4])], CONTEXT)["leak_gap"]) < 1e-5


def test_a_seeded_subset_is_the_same_again_and_keeps_its_own_words_and_bytes(bpe, llama):
    texts = [f" number {n} of the union \n" for n in range(9)]
    first = score_documents(llama, bpe, texts, ScoringPlan(max_documents=4, seed=1))
    assert first.num_rows == 4
    places = sorted(set(first.answers.documents.tolist()))
    assert first.metrics["bytes"] == sum(len(texts[place].encode()) for place in places)
    again = score_documents(llama, bpe, texts, ScoringPlan(max_documents=4, seed=1))
    assert again.metrics == first.metrics
    other = score_documents(llama, bpe, texts, ScoringPlan(max_documents=4, seed=2))
    assert sorted(set(other.answers.documents.tolist())) != places


@pytest.mark.parametrize("max_tokens", [5, 30, 80])
def test_a_document_beyond_the_bound_is_cut_at_white_space_with_the_words_of_what_is_left(bpe, llama, max_tokens):
    document = tokenize_documents(TEXTS[2:], bpe, max_tokens=max_tokens)[0]
    text = bpe.decode(document.ids[1:])
    assert max_tokens - 12 <= document.predictions <= max_tokens
    assert TEXTS[2].startswith(text)
    assert TEXTS[2][len(text)].isspace() or text[-1].isspace()
    assert document.words == count_words(text, ended=False)
    assert document.num_bytes == len(text.encode())


def test_a_larger_model_affords_fewer_tokens(bpe):
    model, plan = tiny_llama(len(bpe)), ScoringPlan()
    whole = affordable_tokens(model, plan)
    assert affordable_tokens(model, ScoringPlan(stride=CONTEXT)) == pytest.approx(2 * whole, abs=1)
    torch.manual_seed(0)
    larger = LlamaForCausalLM(LlamaConfig(**{**model.config.to_dict(), "num_hidden_layers": 8}))
    assert affordable_tokens(larger, plan) < whole


@pytest.mark.parametrize(
    ("plan", "named"),
    [
        (ScoringPlan(context=CONTEXT + 1), "the model takes 24"),
        (ScoringPlan(context=0), "context must be at least 1"),
        (ScoringPlan(stride=0), "stride must lie between 1"),
        (ScoringPlan(stride=CONTEXT + 1), "stride must lie between 1"),
    ],
)
def test_a_context_or_stride_that_makes_no_sense_is_refused_by_name(bpe, llama, plan, named):
    with pytest.raises(InputError, match=named):
        score_documents(llama, bpe, TEXTS, plan)


def test_nothing_to_score_is_an_error(bpe, llama):
    with pytest.raises(InputError, match="nothing to score"):
        score_documents(llama, bpe, [])


def test_a_model_that_gives_nan_is_refused(bpe, llama):
    llama.model.norm.weight.data[0] = float("nan")
    with pytest.raises(NonFiniteError):
        score_documents(llama, bpe, TEXTS)


def test_scoring_leaves_the_mode_and_the_random_state_alone_and_knows_no_dropout(bpe):
    model = tiny_gpt2(len(bpe))
    expected = score_documents(model, bpe, TEXTS).metrics
    assert model.config.resid_pdrop > 0
    model.train()
    state = torch.get_rng_state()
    assert score_documents(model, bpe, TEXTS).metrics == expected
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)


def test_baselines_stand_under_the_same_keys_and_an_unknown_one_is_null(bpe, llama):
    documents = [document.ids for document in tokenize_documents(TEXTS, bpe)]
    counts = np.bincount(np.concatenate([ids[1:] for ids in documents]), minlength=len(bpe))
    guessers = {"unigram": Unigram(counts), "bigram": Bigram.fit(documents, len(bpe)), "trigram": None}
    scores = score_documents(llama, bpe, TEXTS, guessers=guessers)
    for figures in scores.baselines.values():
        assert set(figures) == set(scores.metrics)
    assert set(scores.baselines["trigram"].values()) == {None}
    unigram, bigram = scores.baselines["unigram"], scores.baselines["bigram"]
    assert 1 < bigram["perplexity"] < unigram["perplexity"] < len(bpe)
    assert bigram["greedy_accuracy"] > unigram["greedy_accuracy"]
    assert unigram["words"] == scores.metrics["words"]


def test_an_unknown_token_of_the_data_is_counted(tokenizer):
    scores = score_documents(tiny_llama(len(tokenizer)), tokenizer, ["the zebra of the <unk> states"])
    assert scores.metrics["unknown_share"] == pytest.approx(2 / 7)  # six words and the end


@pytest.fixture
def blocks(bpe):
    """Two packed blocks of two documents each, the second going on in the second block."""
    texts = [" the people \n", " peace and freedom \n"]
    first, second = (document.ids for document in tokenize_documents(texts, bpe))
    tokens = np.concatenate([first, second])
    cut = len(first) + 3
    positions = np.concatenate([np.arange(len(first)), np.arange(3), np.arange(len(tokens) - cut)])
    rows = [(tokens[:cut], positions[:cut]), (tokens[cut:], positions[cut:])]
    return datasets.Dataset.from_dict(
        {
            "input_ids": [ids.tolist() for ids, _ in rows],
            "position_ids": [places.tolist() for _, places in rows],
            "row_id": [4, 5],
        }
    )


def test_held_out_figures_count_what_is_predicted_inside_documents(bpe, blocks):
    model = tiny_llama(len(bpe))
    figures = held_out_figures(model, bpe, blocks, None)
    tokens = sum(len(row) for row in blocks["input_ids"])
    assert figures["tokens"] == tokens - 3  # two documents begin, and one goes on in the other block
    shown = bpe.decode([i for row in blocks["input_ids"] for i in row], skip_special_tokens=True)
    assert 0 <= len(shown.encode()) - figures["bytes"] < 8  # but for the token that begins the second block
    assert figures["unigram_accuracy"] is None
    assert figures["perplexity"] == pytest.approx(math.exp(figures["nll"] / figures["tokens"]))
    assert held_out_figures(model, bpe, blocks, None, batch_size=1)["nll"] == pytest.approx(figures["nll"], rel=1e-6)
    assert held_out_figures(model, bpe, blocks, 1)["tokens"] < figures["tokens"]


def test_held_out_figures_of_our_generator_never_look_across_documents_and_stand_beside_its_counts(bpe, blocks):
    model = tiny_generator(bpe)
    counts = torch.zeros(len(bpe), dtype=torch.long)
    counts[bpe.eos_token_id] = 3
    model.set_token_counts(counts)
    figures = held_out_figures(model, bpe, blocks, None)
    assert figures["unigram_accuracy"] == pytest.approx(2 / figures["tokens"])
    (first, second), places = blocks["input_ids"], blocks["position_ids"]
    ends = [place for place, position in enumerate(places[0]) if position == 0][1:]
    pieces = [first[: ends[0]], first[ends[0] :], second]
    assert figures["nll"] == pytest.approx(sum(one_pass_nll(model, piece).sum() for piece in pieces), rel=1e-5)


def test_held_out_figures_use_no_random_state(bpe, blocks):
    model = tiny_llama(len(bpe)).train()
    state = torch.get_rng_state()
    held_out_figures(model, bpe, blocks, None)
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
