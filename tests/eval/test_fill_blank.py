"""Asking for a missing word: candidates, ranks, and every way to ask wrongly."""

import pytest
import torch
from tokenizers.pre_tokenizers import ByteLevel

from eval.fill_blank import fill_blank, main
from modeling_jepa import TextJepaForMaskedLM
from training.common.errors import InputError
from training.data.settings import DataSettings
from training.data.tokenization import build_tokenizer


def test_candidates_come_best_first_with_true_cosines(model, tokenizer):
    result = fill_blank(model, tokenizer, "the people of the _ states", top_k=5)
    ids = tokenizer("the people of the [MASK] states", return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        output = model(input_ids=ids)
    logits, prediction = output.logits[0, 5], output.predictions[0, 5]
    best = int(logits.argmax())
    cosine = torch.nn.functional.cosine_similarity(prediction, model.model.embed_tokens.weight[best].detach(), dim=0)
    assert len(result.guesses) == 5
    assert [guess.score for guess in result.guesses] == sorted((g.score for g in result.guesses), reverse=True)
    assert result.guesses[0].token == tokenizer.convert_ids_to_tokens(best)
    assert result.guesses[0].cosine == pytest.approx(float(cosine), abs=1e-5)


def test_the_rank_of_an_answer_is_its_place_among_all_tokens(model, tokenizer):
    everything = fill_blank(model, tokenizer, "the people of the _ states", "united", top_k=len(tokenizer))
    place = [guess.token for guess in everything.guesses].index("united") + 1
    assert everything.answer_rank == place
    assert everything.vocab_size == len(tokenizer)
    assert everything.answer.token == "united"


def test_capital_letters_and_a_longer_line_mean_the_same_blank(model, tokenizer):
    plain = fill_blank(model, tokenizer, "the people of the _ states", "united")
    shouted = fill_blank(model, tokenizer, "The people of the ____ States", "United")
    assert plain.guesses == shouted.guesses
    assert plain.answer_rank == shouted.answer_rank


def test_asking_leaves_the_model_as_it_was(model, tokenizer):
    model.train()
    fill_blank(model, tokenizer, "peace and _")
    assert model.training


def test_a_bert_answers_too_without_cosines(bert, tokenizer):
    result = fill_blank(bert, tokenizer, "peace and _", "freedom")
    assert result.guesses[0].cosine is None
    assert 1 <= result.answer_rank <= len(tokenizer)


@pytest.mark.parametrize(
    ("phrase", "answer", "named"),
    [
        ("the people of the states", None, "exactly one blank"),
        ("the _ of the _ states", None, "holds 2"),
        ("the [MASK] of the _ states", None, "holds 2"),
        ("", None, "phrase is empty"),
        ("   ", None, "phrase is empty"),
        ("_", None, "nothing but a blank"),
        ("the zebra of the _ states", None, "'zebra'"),
        ("the people of the _ states", "zebra", "'zebra' is outside the vocabulary"),
        ("the people of the _ states", "united states", "is 2 tokens"),
        ("the people of the _ states", "  ", "answer is empty"),
        ("peace " * 20 + "_", None, "the model takes 16"),
        ("snake_case of the states", None, "holds none"),
    ],
)
def test_asking_wrongly_is_an_error_that_names_what_is_wrong(model, tokenizer, phrase, answer, named):
    with pytest.raises(InputError, match=named) as refused:
        fill_blank(model, tokenizer, phrase, answer)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("top_k", [0, 10_000])
def test_a_top_k_out_of_range_is_refused(model, tokenizer, top_k):
    with pytest.raises(InputError, match="top_k must lie between"):
        fill_blank(model, tokenizer, "peace and _", top_k=top_k)


def test_byte_level_answers_are_read_with_the_space_before_the_blank(config):
    tokenizer = build_tokenizer(DataSettings(tokenizer="bpe", max_vocab=300), ["the united states"] * 50, 16)
    tokenizer.backend_tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    config = type(config)(**{**config.to_dict(), "vocab_size": len(tokenizer)})
    result = fill_blank(TextJepaForMaskedLM(config), tokenizer, "the _ states", "united")
    assert result.answer.token == "united"


def test_the_command_line_prints_candidates_and_rank(checkpoint, capsys):
    assert main([str(checkpoint), "the people of the _ states", "--answer", "united", "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert "united: rank " in printed
    assert " of 4" in printed or " of 3" in printed


def test_the_command_line_ends_with_one_line_and_code_2_on_bad_input(checkpoint, capsys):
    assert main([str(checkpoint), "no blank here"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: phrase must hold exactly one blank")
    assert error.count("\n") == 1


def test_a_blank_stands_within_a_text_without_spaces_and_guesses_are_text(config):
    text = "先生は今日水を待っています。"
    tokenizer = build_tokenizer(DataSettings(tokenizer="bpe", max_vocab=300), [text] * 20)
    made = TextJepaForMaskedLM(
        type(config)(**{**config.to_dict(), "vocab_size": len(tokenizer), "max_position_embeddings": 64})
    )
    result = fill_blank(made, tokenizer, "先生は今日_待っています。")
    assert len(result.guesses) == 5
    assert not any("\u0120" in guess.token or "\u00e3" in guess.token for guess in result.guesses)
    with pytest.raises(InputError, match="exactly one blank"):
        fill_blank(made, tokenizer, "snake_case")
