"""Continuing a prompt: what is shown, what is refused, and what is left untouched."""

import pytest
import torch

from eval.decoding.decoding import Decoding
from eval.decoding.windows import prompt_ids
from eval.generate import continue_prompt, main, sample_line
from tests.eval.causal_models import CONTEXT, TEXTS, tiny_bpe, tiny_generator, tiny_gpt2, tiny_llama
from training.common.errors import InputError, NonFiniteError

PROMPT = "the state of the"


@pytest.fixture(scope="module")
def bpe():
    return tiny_bpe()


@pytest.fixture
def model(bpe):
    return tiny_generator(bpe, stage=1)


@pytest.fixture(scope="module")
def generator_checkpoint(tmp_path_factory, bpe):
    folder = tmp_path_factory.mktemp("run") / "tiny"
    source = folder.parent / "text.txt"
    source.write_text("".join(TEXTS) * 40, encoding="utf-8")
    tiny_generator(bpe, stage=1).save_pretrained(folder)
    bpe.save_pretrained(folder)
    (folder / "run.json").write_text(f'{{"recipe": {{"data": {{"data": "{source}"}}}}}}', encoding="utf-8")
    return folder


def test_greedy_takes_the_likeliest_token_each_time(bpe, model):
    greedy = continue_prompt(model, bpe, PROMPT, Decoding(num_samples=0, max_new_tokens=5))
    ids = prompt_ids(PROMPT, bpe).tolist()
    begun = len(ids)
    never = model.generation_config.suppress_tokens
    for _ in range(5):
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, -1]
        logits[never] = -torch.inf
        ids.append(int(logits.argmax()))
        if ids[-1] == bpe.eos_token_id:
            break
    assert [one.how for one in greedy] == ["greedy"]
    assert greedy[0].text == bpe.decode(ids[begun:], skip_special_tokens=True)


@pytest.mark.parametrize("make", [tiny_gpt2, tiny_llama])
def test_stock_models_are_continued_too(bpe, make):
    found = continue_prompt(make(len(bpe)), bpe, PROMPT, Decoding(num_samples=2, max_new_tokens=4))
    assert [one.how for one in found] == ["greedy", *["top-k 50, temperature 0.7"] * 2]


def test_samples_are_a_function_of_the_seed_and_top_k_1_is_greedy(bpe, model):
    def texts(**settings):
        return [one.text for one in continue_prompt(model, bpe, PROMPT, Decoding(max_new_tokens=9, **settings))]

    assert texts(temperature=3.0) == texts(temperature=3.0)
    assert texts(temperature=3.0) != texts(temperature=3.0, seed=1)
    greedy, sampled = texts(top_k=1)
    assert greedy == sampled


def test_a_sample_leaves_the_mode_and_the_random_state_as_they_were(bpe, model):
    model.train()
    state = torch.get_rng_state()
    sample_line(model, bpe, PROMPT)
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)


def test_a_line_shows_both_ways_with_the_three_figures(bpe, model):
    line = sample_line(model, bpe, PROMPT, words=frozenset({"the"}))
    assert line.startswith(PROMPT)
    assert "\n" not in line
    assert line.index("greedy:") < line.index("top-k 50, temperature 0.7:")
    for figure in ("real words", "repeated", "copied"):
        assert line.count(figure) == 2


def test_a_line_says_why_a_prompt_cannot_be_continued(bpe, model):
    assert "prompt is empty" in sample_line(model, bpe, " ")


def test_beams_stand_in_the_place_of_greedy(bpe, model):
    found = continue_prompt(model, bpe, PROMPT, Decoding(num_beams=3, num_samples=0, max_new_tokens=4))
    assert [one.how for one in found] == ["3 beams"]


def test_new_tokens_stop_at_the_length_of_a_model_that_does_not_see_to_it_itself(bpe):
    model = tiny_llama(len(bpe))
    model.generation_config.suppress_tokens = [bpe.eos_token_id]  # no end before
    given = []
    model.register_forward_hook(lambda module, inputs, output: given.append(output.logits.shape[1]))
    continue_prompt(model, bpe, PROMPT, Decoding(max_new_tokens=500, num_samples=0))
    assert len(given) - 1 == CONTEXT - len(prompt_ids(PROMPT, bpe))  # one forward pass looks for NaN


@pytest.mark.parametrize(
    ("prompt", "settings", "named"),
    [
        ("", {}, "prompt is empty"),
        (" \n", {}, "prompt is empty"),
        ("the people of the united states " * 9, {}, "the model takes 24"),
        ("<unk> <unk>", {}, "outside the vocabulary"),
        (PROMPT, {"top_k": -1}, "top_k must be 0 or more"),
        (PROMPT, {"temperature": 0.0}, "temperature must be above 0"),
        (PROMPT, {"temperature": float("nan")}, "temperature must be above 0"),
        (PROMPT, {"top_p": 0.0}, "top_p must lie above 0"),
        (PROMPT, {"top_p": 1.1}, "top_p must lie above 0"),
        (PROMPT, {"max_new_tokens": 0}, "max_new_tokens must be 1 or more"),
        (PROMPT, {"num_beams": 0}, "num_beams must be 1 or more"),
        (PROMPT, {"repetition_penalty": 0.0}, "repetition_penalty must be above 0"),
    ],
)
def test_what_cannot_be_continued_is_refused_by_name(bpe, model, prompt, settings, named):
    with pytest.raises(InputError, match=named):
        continue_prompt(model, bpe, prompt, Decoding(**settings))


def test_a_prompt_too_long_says_both_lengths(bpe, model):
    prompt = " we" * CONTEXT
    length = len(prompt_ids(prompt, bpe))
    with pytest.raises(InputError, match=f"is {length} tokens long.*takes {CONTEXT}"):
        continue_prompt(model, bpe, prompt)


def test_a_model_that_gives_nan_is_refused(bpe, model):
    model.model.norm.weight.data[0] = float("nan")
    with pytest.raises(NonFiniteError):
        continue_prompt(model, bpe, PROMPT)


def test_the_command_line_prints_greedy_and_sampled_side_by_side(generator_checkpoint, capsys):
    assert main([str(generator_checkpoint), PROMPT, "--max_new_tokens", "5", "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    heading = next(line for line in printed.splitlines() if "greedy" in line)
    assert "top-k 50, temperature 0.7" in heading  # as the checkpoint's own settings say
    real = next(line for line in printed.splitlines() if "real words" in line)
    assert any(character.isdigit() for character in real)


def test_what_the_command_line_asks_wins_over_what_travels(generator_checkpoint, capsys):
    asked = ["--top_k", "0", "--top_p", "0.9", "--temperature", "1.5", "--max_new_tokens", "4"]
    assert main([str(generator_checkpoint), PROMPT, *asked]) == 0
    assert "top-p 0.9, temperature 1.5" in capsys.readouterr().out


def test_greedy_alone_shows_one_column(generator_checkpoint, capsys):
    assert main([str(generator_checkpoint), PROMPT, "--greedy"]) == 0
    printed = capsys.readouterr().out
    assert "temperature" not in printed
    assert "new tokens fit" in printed


@pytest.mark.parametrize(
    "arguments", [["", "--top_k", "3"], [PROMPT, "--temperature", "-1"], [PROMPT, "--top_k", "-2"]]
)
def test_bad_input_ends_with_one_line_and_code_2(generator_checkpoint, arguments, capsys):
    assert main([str(generator_checkpoint), *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
