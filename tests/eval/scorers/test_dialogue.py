"""Figures of a dialogue model: what they mean, on which pairs, and beside what."""

import json
import math
import shutil

import numpy as np
import pytest
import torch
from rich.console import Console

from eval.metrics.dialogue import distinct, perplexity, usage_ratio
from eval.metrics.word_overlap import WordOverlap
from eval.score import main, score, score_table
from eval.scorers.candidates import derangement, draw_distractors, ranks_by_latents, ranks_by_score
from eval.scorers.dialogue import score_pairs
from eval.scorers.request import ScoreRequest
from tests.eval.dialogue_models import PAIRS, tiny_checkpoint, tiny_dialogue, tiny_pairs, tiny_source, tiny_words
from training.common.errors import InputError, NonFiniteError
from training.data.dialogue_jepa.framing import encode_context, encode_reply

REQUIRED = (
    *("perplexity", "latent_usage_ratio", "hits_at_1", "hits_at_5", "mrr", "distinct_1", "distinct_2"),
    "effective_rank",
)


@pytest.fixture(scope="module")
def words():
    return tiny_words()


@pytest.fixture(scope="module")
def pairs(words):
    return tiny_pairs(words)


@pytest.fixture
def model(words):
    return tiny_dialogue(words)


# ---- perplexity and the use of latents ----


@pytest.mark.parametrize("access", ["latent", "both"])
def test_perplexity_and_accuracy_are_those_of_the_models_own_loss(words, pairs, access):
    model = tiny_dialogue(words, context_access=access)
    found = score_pairs(model, words, pairs, batch_size=4, greedy_replies=0)
    nll = correct = tokens = 0.0
    for row in pairs:  # one at a time, without padding
        parts = model(torch.tensor([row["input_ids"]]), labels=torch.tensor([row["labels"]])).loss_parts
        nll += parts["reply"][0].item()
        correct += parts["accuracy"][0].item()
        tokens += parts["reply"][1].item()
    assert found.metrics["perplexity"] == pytest.approx(math.exp(nll / tokens), rel=1e-4)
    assert found.metrics["accuracy"] == pytest.approx(correct / tokens)
    assert found.details["reply_tokens"] == tokens == sum(map(len, pairs["labels"]))


@pytest.mark.parametrize("access", ["latent", "both"])
def test_the_usage_ratio_is_1_where_the_decoder_does_not_look_at_the_latents(words, pairs, access):
    model = tiny_dialogue(words, context_access=access)
    assert score_pairs(model, words, pairs, greedy_replies=0).metrics["latent_usage_ratio"] != pytest.approx(
        1, abs=1e-6
    )
    model.decoder.latent_proj.weight.data.zero_()
    assert score_pairs(model, words, pairs, greedy_replies=0).metrics["latent_usage_ratio"] == pytest.approx(
        1, abs=1e-6
    )


def test_the_usage_ratio_takes_latents_from_another_pair_and_leaves_the_rest_of_the_context(words, pairs):
    model = tiny_dialogue(words, context_access="both")
    found = score_pairs(model, words, pairs, seed=3, greedy_replies=0)
    index, other = 4, int(derangement(len(pairs), 3)[4])
    context, labels = (torch.tensor([pairs[index][name]]) for name in ("input_ids", "labels"))
    read = model.model(context)
    read.predicted_latents = model.model(torch.tensor([pairs[other]["input_ids"]])).predicted_latents
    nll = model(encoder_outputs=read, labels=labels).loss_parts["reply"][0].item()
    assert found.answers.swapped_nll[index] == pytest.approx(nll, rel=1e-4)


def test_a_derangement_leaves_no_pair_in_its_place_and_uses_each_once():
    for count in (2, 3, 50):
        other = derangement(count, seed=1)
        assert (other != np.arange(count)).all()
        assert sorted(other) == list(range(count))
    assert derangement(50, 1).tolist() == derangement(50, 1).tolist() != derangement(50, 2).tolist()
    with pytest.raises(ValueError, match="at least 2"):
        derangement(1)


# ---- the true reply among twenty ----


def test_distractors_are_other_words_and_never_repeat(pairs):
    replies = [*pairs["reply"], "I AM a teacher no !", "i am a teacher , no", *pairs["reply"][:3]]
    drawn = draw_distractors(replies, np.arange(len(replies)))
    assert drawn.shape == (len(replies), 19)
    for own, others in enumerate(drawn):
        texts = {" ".join(replies[index].lower().replace("!", "").replace(",", "").split()) for index in others}
        assert len(texts) == 19
        assert " ".join(replies[own].lower().replace("!", "").replace(",", "").split()) not in texts


def test_distractors_are_a_function_of_seed_and_row_and_reach_every_reply(pairs):
    replies, row_ids = pairs["reply"][:], np.asarray(pairs["row_id"])
    drawn = draw_distractors(replies, row_ids, seed=1)
    assert (drawn == draw_distractors(replies, row_ids, seed=1)).all()
    assert (drawn != draw_distractors(replies, row_ids, seed=2)).any()
    assert set(drawn.ravel()) == set(range(len(replies)))
    turned = draw_distractors(replies[::-1], row_ids[::-1], seed=1)
    last = len(replies) - 1
    assert [replies[i] for i in drawn[0]] == [replies[last - i] for i in turned[last]]


def test_fewer_than_twenty_different_replies_give_no_ranks(model, words, pairs):
    few = pairs.select(range(12))
    assert draw_distractors(few["reply"][:], np.asarray(few["row_id"])) is None
    found = score_pairs(model, words, few, greedy_replies=2)
    assert found.metrics["hits_at_1"] is None
    assert found.metrics["perplexity"] > 1
    assert found.baselines["random"]["mrr"] is None
    assert found.details["candidates"] is None


def test_a_model_that_predicts_the_true_latent_ranks_first_and_its_opposite_last():
    torch.manual_seed(0)
    target = torch.randn(30, 2, 8)
    others = np.array([[(own + step) % 30 for step in range(1, 20)] for own in range(30)])
    assert (ranks_by_latents(3 * target, target, others) == 1).all()
    assert (ranks_by_latents(-target, target, others) == 20).all()


def test_ties_count_against_the_model():
    same = torch.ones(30, 1, 4)
    others = np.array([[(own + step) % 30 for step in range(1, 20)] for own in range(30)])
    assert (ranks_by_latents(same, same, others) == 20).all()


def test_ranks_agree_with_the_models_own_cosines(model, words, pairs):
    found = score_pairs(model, words, pairs, greedy_replies=0)
    others = draw_distractors(pairs["reply"][:], np.asarray(pairs["row_id"]))
    for index in (0, 11, 29):
        candidates = [index, *others[index]]
        predicted = model.model(torch.tensor([pairs[index]["input_ids"]])).predicted_latents
        targets = torch.cat(
            [model.read_replies(torch.tensor([[words.bos_token_id, *pairs[int(i)]["labels"]]])) for i in candidates]
        )
        cosines = model.latent_cosines(predicted, targets)[0]
        assert found.answers.rank[index] == 1 + int((cosines[1:] >= cosines[0]).sum())


def test_a_guesser_without_a_word_to_go_by_is_as_good_as_chance():
    others = np.array([[(own + step) % 3000 for step in range(1, 20)] for own in range(3000)])
    ranks = ranks_by_score(lambda pair, of: np.zeros(len(of)), others, np.arange(3000))
    assert np.mean(ranks == 1) == pytest.approx(1 / 20, abs=0.02)
    assert sorted(set(ranks)) == list(range(1, 21))


def test_word_overlap_is_bm25():
    overlap = WordOverlap(["a b", "a a c c", "d"])
    idf = math.log(1 + (3 - 2 + 0.5) / (2 + 0.5))
    rare = math.log(1 + (3 - 1 + 0.5) / (1 + 0.5))
    mean = (2 + 4 + 1) / 3

    def term(count, length):
        return count * 2.5 / (count + 1.5 * (0.25 + 0.75 * length / mean))

    scores = overlap.scores("A ... c x", [0, 1, 2])
    assert scores == pytest.approx([idf * term(1, 2), idf * term(2, 4) + rare * term(2, 4), 0])
    assert overlap.scores("a a", [0])[0] == pytest.approx(2 * idf * term(1, 2))


def test_word_overlap_finds_replies_that_repeat_the_context(words):
    dataset = tiny_pairs(words)
    echoes = dataset.remove_columns("prompt").add_column("prompt", dataset["reply"][:])
    found = score_pairs(tiny_dialogue(words), words, echoes, greedy_replies=0).baselines
    assert found["word_overlap"]["hits_at_1"] > 0.6
    assert found["random"]["hits_at_1"] == pytest.approx(0.05)
    assert found["random"]["hits_at_5"] == pytest.approx(0.25)
    assert found["random"]["mrr"] == pytest.approx(np.mean(1 / np.arange(1, 21)))


# ---- variety ----


def test_distinct_counts_different_ngrams_over_all_words_of_all_texts():
    assert distinct(["I am . I am .", "You are"], 1) == pytest.approx(5 / 8)
    assert distinct(["a b a b", "a b"], 2) == pytest.approx(2 / 4)
    assert distinct(["a", ""], 2) is None


def test_greedy_replies_are_said_to_a_seeded_choice_of_contexts(model, words, pairs):
    found = score_pairs(model, words, pairs, greedy_replies=8, batch_size=3)
    assert len(found.replies) == found.details["greedy_replies"] == 8
    assert found.metrics["distinct_1"] == distinct(list(found.replies.values()), 1)
    true = [pairs[index]["reply"] for index in found.replies]
    assert found.baselines["true_replies"]["distinct_2"] == distinct(true, 2)
    assert score_pairs(model, words, pairs, greedy_replies=0).metrics["distinct_1"] is None


# ---- the whole ----


def test_every_figure_stands_beside_its_baseline_under_the_same_keys(model, words, pairs):
    model.set_token_counts(torch.arange(len(words)))
    found = score_pairs(model, words, pairs, greedy_replies=4)
    assert set(REQUIRED) <= set(found.metrics)
    assert all(found.metrics[name] is not None for name in REQUIRED)
    for figures in found.baselines.values():
        assert set(figures) == set(found.metrics)
    for name in ("perplexity", "accuracy", "hits_at_1", "hits_at_5", "mrr", "distinct_1", "distinct_2"):
        assert any(figures[name] is not None for figures in found.baselines.values()), name
    assert found.num_examples == 30
    assert found.num_rows == 15


def test_the_unigram_guess_is_that_of_the_training_replies(model, words, pairs):
    counts = torch.arange(len(words))
    model.set_token_counts(counts)
    found = score_pairs(model, words, pairs, greedy_replies=0).baselines["unigram"]
    chances = (counts + 1).double() / (counts + 1).sum()
    nll = [-chances[labels].log().mean().item() * len(labels) for labels in pairs["labels"]]
    assert found["perplexity"] == pytest.approx(math.exp(sum(nll) / sum(map(len, pairs["labels"]))))
    assert score_pairs(tiny_dialogue(words), words, pairs, greedy_replies=0).baselines["unigram"]["perplexity"] is None


def test_batch_size_changes_nothing_and_a_subset_is_a_function_of_the_seed(model, words, pairs):
    whole = score_pairs(model, words, pairs, greedy_replies=4)
    small = score_pairs(model, words, pairs, greedy_replies=4, batch_size=1)
    assert small.metrics == pytest.approx(whole.metrics, rel=1e-4)
    first, again = (score_pairs(model, words, pairs, max_rows=24, greedy_replies=0) for _ in range(2))
    assert first.metrics == again.metrics
    assert first.num_examples == 24
    other = score_pairs(model, words, pairs, max_rows=24, greedy_replies=0, seed=5)
    assert set(other.answers.row_ids) != set(first.answers.row_ids)


def test_scoring_leaves_mode_and_random_state_alone(model, words, pairs):
    model.train()
    state = torch.get_rng_state()
    score_pairs(model, words, pairs, max_rows=4, greedy_replies=2)
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)


def test_pairs_without_texts_are_scored_by_their_tokens(model, words, pairs):
    bare = pairs.remove_columns(["prompt", "reply", "dialogue_id"])
    found = score_pairs(model, words, bare, greedy_replies=0)
    assert found.metrics["perplexity"] == score_pairs(model, words, pairs, greedy_replies=0).metrics["perplexity"]
    assert found.baselines["word_overlap"]["mrr"] is None


def test_one_pair_has_a_perplexity_and_nothing_to_compare(model, words, pairs):
    found = score_pairs(model, words, pairs.select([0]), greedy_replies=1)
    assert found.metrics["perplexity"] > 1
    assert found.metrics["latent_usage_ratio"] is None
    assert found.metrics["effective_rank"] is None


def test_no_pair_is_refused(model, words, pairs):
    with pytest.raises(InputError, match="nothing to score"):
        score_pairs(model, words, pairs.select([]))


@pytest.mark.parametrize("part", ["model.reader.norm.weight", "decoder.norm.weight"])
def test_a_model_that_gives_nan_is_refused(model, words, pairs, part):
    model.get_parameter(part).data[0] = float("nan")
    with pytest.raises(NonFiniteError):
        score_pairs(model, words, pairs)


def test_figures_that_are_too_large_for_a_number_are_none():
    assert perplexity(1e9, 1) is None
    assert perplexity(1.0, 0) is None
    assert usage_ratio(10.0, 12.0, 2.0) == pytest.approx(math.e)


# ---- a checkpoint and a source ----


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, words):
    folder = tmp_path_factory.mktemp("dialogue")
    return tiny_checkpoint(folder / "run", words, tiny_source(folder / "talks"))


@pytest.fixture(scope="module")
def record(checkpoint):
    return score(ScoreRequest(checkpoint=str(checkpoint), split="train", device="cpu"))


def test_the_score_record_has_the_agreed_keys_and_is_json_without_nan(record):
    assert record["family"] == "dialogue_jepa"
    assert set(REQUIRED) <= set(record["metrics"])
    assert set(record["baselines"]) == {"unigram", "word_overlap", "random", "true_replies"}
    assert (record["num_examples"], record["num_rows"]) == (12, 4)  # four dialogues of four turns
    assert record["scoring"]["contexts_cut"] == 0
    json.dumps(record, allow_nan=False)


def test_the_table_shows_each_baseline_under_the_model(record):
    console = Console(width=110, record=True, file=open("/dev/null", "w"))  # noqa: SIM115  (that of a pipe)
    console.print(score_table(record))
    shown = " ".join(console.export_text().split())  # a long title is folded
    assert "…" not in shown
    for name in (
        "model",
        "unigram",
        "word overlap",
        "random",
        "true replies",
        "latent use",
        "distinct-2",
        "12 pairs",
        "No hits and MRR",
    ):
        assert name in shown


def test_the_command_scores_the_test_part_of_the_run(checkpoint, tmp_path, capsys):
    assert main([str(checkpoint), "--json", str(tmp_path / "s.json"), "--device", "cpu"]) == 0
    assert json.loads((tmp_path / "s.json").read_text())["split"] == "test"
    printed = capsys.readouterr().out
    assert "perplexity" in printed
    assert "1 dialogues" in printed


def test_another_single_file_is_scored_whole_and_bounded_by_max_rows(checkpoint, tmp_path):
    path = tmp_path / "pairs.txt"
    path.write_text("".join(f"{prompt} ||| {reply}\n" for prompt, reply in PAIRS), encoding="utf-8")
    request = ScoreRequest(checkpoint=str(checkpoint), data=str(path), device="cpu")
    assert score(request)["num_examples"] == len(PAIRS)
    bounded = ScoreRequest(checkpoint=str(checkpoint), data=str(path), device="cpu", max_rows=3)
    assert score(bounded)["num_examples"] == 3


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--data", "{tmp}/missing.txt"], "missing.txt"),
        (["--context", "8"], "no causal model"),
        (["--documents", "file"], "documents"),
        (["--max_rows", "0"], "max_rows"),
        (["--data", "{tmp}/plain.txt"], "plain.txt line 1"),
    ],
)
def test_bad_input_ends_with_one_line_that_names_it_and_code_2(checkpoint, tmp_path, arguments, named, capsys):
    (tmp_path / "plain.txt").write_text("no separator here\nnor here\n", encoding="utf-8")
    assert main([str(checkpoint), *(argument.format(tmp=tmp_path) for argument in arguments)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert named in error


def test_a_tokenizer_that_is_not_the_models_is_refused(checkpoint, tmp_path, words, capsys):
    folder = shutil.copytree(checkpoint, tmp_path / "copy")
    other = type(words).from_pretrained(folder)
    other.add_tokens(["sparkle"])
    other.save_pretrained(folder)
    assert main([str(folder), "--device", "cpu"]) == 2
    assert "do not belong together" in capsys.readouterr().err


def test_contexts_and_replies_that_are_cut_are_counted(checkpoint, tmp_path):
    path = tmp_path / "long.txt"
    path.write_text(f"{'how are you ? ' * 9}\t{'yes ' * 30}\nhow are you ?\tyes .\n", encoding="utf-8")
    found = score(ScoreRequest(checkpoint=str(checkpoint), data=str(path), device="cpu"))["scoring"]
    assert (found["contexts_cut"], found["replies_cut"]) == (1, 1)


def test_the_helpers_of_these_tests_make_what_the_data_layer_makes(words, pairs):
    assert pairs[0]["input_ids"] == encode_context([pairs[0]["prompt"]], words, 24)[0].tolist()
    assert pairs[0]["labels"] == encode_reply(pairs[0]["reply"], words, 20)[0].tolist()
