"""Scoring of held-out blanks: honest about ties and NaN, the same however it is batched, for ours and for BERT."""

import json

import datasets
import numpy as np
import pytest
import torch

from eval.metrics.baselines import unigram_ranks
from eval.metrics.representation import representation_figures
from eval.scorers import holes as holes_module
from eval.scorers.holes import choose_rows, collect_holes, hole_batches
from eval.scorers.text_jepa import pessimistic_ranks, score_rows
from training.common.errors import InputError, NonFiniteError


def test_a_rank_counts_every_other_entry_that_scores_at_least_as_high():
    logits = torch.tensor([[3.0, 1.0, 2.0, 2.0], [0.0, 0.0, 0.0, 0.0], [1.0, 5.0, 2.0, 3.0]])
    assert pessimistic_ranks(logits, torch.tensor([2, 1, 1])).tolist() == [3, 4, 1]


def test_a_model_that_scores_all_tokens_alike_gets_the_worst_rank_everywhere(bert, tokenizer, rows):
    bert.cls.predictions.decoder.weight.data.zero_()
    bert.cls.predictions.decoder.bias.data.zero_()
    figures = score_rows(bert, tokenizer, rows).metrics
    assert figures["mean_rank"] == len(tokenizer)
    assert figures["top10"] == 0.0


def test_nan_scores_are_an_error_that_names_the_row(model, tokenizer, rows):
    model.head.decoder.bias.data[7] = float("nan")
    with pytest.raises(NonFiniteError, match=r"NaN or infinity at row \d+, position \d+"):
        score_rows(model, tokenizer, rows)


def test_figures_do_not_depend_on_the_batch_size(model, tokenizer, rows):
    one, many = (score_rows(model, tokenizer, rows, model.token_counts, batch_size=size) for size in (1, 50))
    assert one.answers.ranks.tolist() == many.answers.ranks.tolist()
    np.testing.assert_allclose(one.answers.cosines, many.answers.cosines, atol=1e-5)
    assert one.num_examples == many.num_examples == len(one.answers.ranks)


def test_figures_are_the_same_when_scored_again(model, tokenizer, rows):
    first, second = (score_rows(model, tokenizer, rows, model.token_counts) for _ in range(2))
    assert first.metrics == second.metrics
    assert first.baselines == second.baselines


def test_dropout_is_off_while_scoring_a_model_that_is_being_trained(model, tokenizer, rows):
    resting = score_rows(model, tokenizer, rows).answers
    training = score_rows(model.train(), tokenizer, rows).answers
    assert training.cosines.tolist() == resting.cosines.tolist()


def test_scoring_leaves_mode_and_random_state_alone(model, tokenizer, rows):
    model.train()
    state = torch.random.get_rng_state()
    score_rows(model, tokenizer, rows)
    assert model.training
    assert torch.equal(state, torch.random.get_rng_state())


def test_ranks_are_those_of_dense_logits_at_each_blank(model, tokenizer, rows):
    answers = score_rows(model, tokenizer, rows).answers
    by_id = dict(zip(rows["row_id"], rows["input_ids"], strict=True))
    for i in (0, 7, len(answers.ranks) - 1):
        ids = torch.tensor([by_id[answers.row_ids[i]]])
        assert ids[0, answers.positions[i]] == answers.targets[i]
        ids[0, answers.positions[i]] = tokenizer.mask_token_id
        with torch.inference_mode():
            logits = model(input_ids=ids).logits[0, answers.positions[i]]
        assert answers.ranks[i] == (logits >= logits[answers.targets[i]]).sum()
        assert answers.predictions[i] == logits.argmax()


def test_each_row_gives_up_to_four_blanks_never_on_special_or_unknown_tokens(tokenizer):
    unknown, known = tokenizer.unk_token_id, tokenizer.convert_tokens_to_ids("peace")
    ids = [tokenizer.bos_token_id, known, unknown, known, known, known, known, tokenizer.eos_token_id]
    data = datasets.Dataset.from_dict({"input_ids": [ids, ids[:4]], "row_id": [1, 2]})
    holes = collect_holes(data, np.array([0, 1]), tokenizer, 4)
    assert (holes.rows == 0).sum() == 4
    assert (holes.rows == 1).sum() == 2
    assert set(holes.targets) == {known}
    assert len(set(zip(holes.rows, holes.positions, strict=True))) == len(holes)


def test_a_blank_is_one_mask_token_and_the_rest_of_the_row_is_intact(tokenizer, rows):
    holes = collect_holes(rows, np.arange(3), tokenizer, 4)
    seen = []
    for batch in hole_batches(rows, holes, tokenizer, 5, torch.device("cpu")):
        for line, index in enumerate(batch.indices):
            length = holes.lengths[index]
            ids = batch.input_ids[line, :length].clone()
            assert (ids == tokenizer.mask_token_id).sum() == 1
            ids[batch.positions[line]] = batch.targets[line]
            assert ids.tolist() == rows[int(holes.rows[index])]["input_ids"]
            assert batch.attention_mask[line].sum() == length
            seen.append(index)
    assert sorted(seen) == list(range(len(holes)))


def test_the_blanks_of_a_row_depend_on_its_id_and_not_on_the_rows_around_it(tokenizer, rows):
    all_holes = collect_holes(rows, np.arange(len(rows)), tokenizer, 4)
    alone = collect_holes(rows, np.array([9]), tokenizer, 4)
    assert all_holes.positions[all_holes.rows == 9].tolist() == alone.positions.tolist()


def test_a_subset_is_decided_by_seed_and_row_ids_and_not_by_their_order():
    ids = np.arange(1000, 1200)
    chosen = {ids[i] for i in choose_rows(ids, 20, seed=3)}
    shuffled = ids[::-1]
    assert len(chosen) == 20
    assert chosen == {shuffled[i] for i in choose_rows(shuffled, 20, seed=3)}
    assert chosen != {ids[i] for i in choose_rows(ids, 20, seed=4)}


def test_never_more_scores_are_held_than_a_batch_times_the_vocabulary(model, tokenizer, rows, monkeypatch):
    shapes = []
    forward = type(model).forward

    def spy(self, *args, **kwargs):
        output = forward(self, *args, **kwargs)
        shapes.append(tuple(output.logits.shape))
        assert output.row_logits is None
        return output

    monkeypatch.setattr(type(model), "forward", spy)
    score_rows(model, tokenizer, rows, batch_size=8)
    assert max(shape[0] for shape in shapes) == 8
    assert {shape[1:] for shape in shapes} == {(len(tokenizer),)}


def test_a_bert_is_scored_like_ours_with_null_cosines_and_little_at_a_time(bert, tokenizer, rows, monkeypatch):
    whole = score_rows(bert, tokenizer, rows)
    monkeypatch.setattr(holes_module, "DENSE_LOGITS_AT_A_TIME", 3 * 16 * len(tokenizer))
    pieces = score_rows(bert, tokenizer, rows)
    assert whole.answers.ranks.tolist() == pieces.answers.ranks.tolist()
    assert whole.metrics["cosine"] is None
    assert whole.answers.cosines is None


def test_without_training_counts_the_baseline_and_the_deciles_are_null(bert, tokenizer, rows):
    scores = score_rows(bert, tokenizer, rows, torch.zeros(len(tokenizer)))
    assert scores.metrics["by_decile"] is None
    assert set(scores.baselines["unigram"]) == set(scores.metrics)
    assert set(scores.baselines["unigram"].values()) == {None}


def test_counts_of_another_vocabulary_are_refused(model, tokenizer, rows):
    with pytest.raises(InputError, match="one count for each of the model's"):
        score_rows(model, tokenizer, rows, torch.ones(5))


def test_rows_with_nothing_to_blank_are_refused(model, tokenizer):
    ids = [tokenizer.bos_token_id, tokenizer.unk_token_id, tokenizer.eos_token_id]
    data = datasets.Dataset.from_dict({"input_ids": [ids], "row_id": [1]})
    with pytest.raises(InputError, match="nothing to score"):
        score_rows(model, tokenizer, data)


def test_figures_are_valid_json_with_shares_between_0_and_1(model, tokenizer, rows):
    scores = score_rows(model, tokenizer, rows, model.token_counts)
    json.dumps([scores.metrics, scores.baselines], allow_nan=False)
    for figures in (scores.metrics, scores.baselines["unigram"]):
        assert all(0 <= figures[name] <= 1 for name in ("top1", "top5", "top10", "mrr"))
        assert 0 < figures["most_predicted"][0][1] <= 1


def test_the_unigram_guesser_orders_by_count_with_ties_against_it():
    guessed = unigram_ranks(np.array([2, 3, 4, 0]), np.array([50, 0, 9, 4, 4]), never=(0, 1))
    assert guessed.ranks.tolist() == [1, 3, 3, 5]
    assert guessed.predictions.tolist() == [2, 2, 2, 2]


def test_figures_of_the_representation_are_those_of_the_encoder_at_the_blanks(model, tokenizer, rows):
    metrics = score_rows(model, tokenizer, rows).metrics
    holes = collect_holes(rows, np.arange(len(rows)), tokenizer, 4)
    vectors = []
    for row, position in zip(holes.rows, holes.positions, strict=True):
        ids = torch.tensor([rows[int(row)]["input_ids"]])
        ids[0, position] = tokenizer.mask_token_id
        with torch.inference_mode():
            vectors.append(model.model(ids).last_hidden_state[0, position])
    for name, value in representation_figures(torch.stack(vectors)).items():
        assert metrics[name] == pytest.approx(value, rel=1e-3, abs=1e-5), name


def test_a_stock_model_has_figures_of_its_representation_and_no_cosines(bert, tokenizer, rows):
    metrics = score_rows(bert, tokenizer, rows).metrics
    assert 1 <= metrics["effective_rank"] <= 16
    assert metrics["cosine_spread"] is None


def test_one_blank_has_no_figures_of_a_representation(model, tokenizer, rows):
    metrics = score_rows(model, tokenizer, rows.select([0]), max_holes=1).metrics
    assert metrics["effective_rank"] is None
    assert metrics["top1"] is not None
