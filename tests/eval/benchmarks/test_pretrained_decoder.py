"""The comparison of a pretrained decoder with itself without latents, at the size of a test."""

import json
import math
import re

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from configuration_jepa import DialogueJepaConfig
from eval.benchmarks import pretrained_decoder, readme_tables, small_llama
from eval.benchmarks.anchors.dialogue import ANCHOR_FIELDS, ANCHORS
from eval.benchmarks.cells import run_one

WORDS = [f"word{number}" for number in range(40)]
TINY = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_latents": 2,
    "prefix_length": 2,
    "max_position_embeddings": 24,
    "max_reply_length": 10,
    "per_device_train_batch_size": 8,
    "warmup_steps": 1,
}
LLAMA = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    """A tiny causal language model with a tokenizer of words."""
    folder = tmp_path_factory.mktemp("decoder")
    vocabulary = {word: place for place, word in enumerate(["<unk>", "<s>", "</s>", *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    PreTrainedTokenizerFast(tokenizer_object=words, **special).save_pretrained(folder)
    torch.manual_seed(3)
    config = LlamaConfig(vocab_size=len(vocabulary), max_position_embeddings=64, initializer_range=0.5, **LLAMA)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def flags(talks, decoder, folder, *more):
    place = ["--out", str(folder / "cells"), "--json", str(folder / "pretrained_decoder.json")]
    short = ["--steps", "3", "--eval_steps", "2", "--eval_rows", "20", "--greedy_replies", "4"]
    sizes = [f"{key}={value}" for key, value in TINY.items()]
    return ["--data", str(talks), "--decoder", str(decoder), *place, *short, *more, "--set", *sizes]


def test_all_arms_are_scored_on_the_same_pairs_and_stand_in_the_tables(
    talks, decoder, tmp_path, cells_in_this_process, monkeypatch
):
    assert pretrained_decoder.main(flags(talks, decoder, tmp_path, "--seeds", "2")) in (0, 1)
    assert cells_in_this_process == ["latent/0", "no_latent/0", "latent/1", "no_latent/1", "as_it_came/0"]
    cells_in_this_process.clear()
    assert pretrained_decoder.main(flags(talks, decoder, tmp_path, "--seeds", "2")) in (0, 1)
    assert cells_in_this_process == []

    record = json.loads((tmp_path / "pretrained_decoder.json").read_text(encoding="utf-8"))
    arms = record["arms"]
    assert [arms[name]["seeds"] for name in ("latent", "no_latent", "as_it_came")] == [[0, 1], [0, 1], [0]]
    assert (record["num_examples"], record["num_dialogues"]) == (30, 10)
    assert arms["latent"]["usage"]["ratio"] > 0
    for name in ("no_latent", "as_it_came"):
        assert arms[name]["usage"] == {}
        assert arms[name]["figures"]["hits_at_1"]["mean"] is None
        assert record["perplexity_ratios"][name]["latent"]["ratio"] > 0
    assert arms["as_it_came"]["num_parameters"] == 0
    assert [point["step"] for point in arms["as_it_came"]["curve"]] == [0]
    assert len(record["required"]) == 3
    for place in (talks, decoder):
        assert str(place.parent) not in record["command"]

    table = (tmp_path / "pretrained_decoder.md").read_text(encoding="utf-8")
    assert re.search(r"^\| as_it_came \| 1 \|", table, flags=re.MULTILINE)
    monkeypatch.setattr(readme_tables, "RESULTS", tmp_path)
    page = readme_tables.filled("<!-- results:pretrained_decoder -->\n<!-- /results:pretrained_decoder -->\n")
    assert "| the model as it came | 1 |" in page
    assert page.count("\n| ") == 2 + 3 + 1


def test_a_model_as_it_came_has_the_perplexity_that_the_library_gives_it(
    talks, decoder, tmp_path, cells_in_this_process
):
    options = pretrained_decoder.COMPARISON.parser().parse_args(flags(talks, decoder, tmp_path))
    cell = pretrained_decoder.COMPARISON.plan(options, {})[-1]
    assert cell.arm.name == "as_it_came"
    found = run_one(cell.arm, 0, cell.key)["metrics"]["perplexity"]
    assert found == pytest.approx(_perplexity(talks, decoder), rel=1e-4)


def _perplexity(talks, decoder) -> float:
    """Of all test replies after the begin token, each with its end token, by the model itself."""
    model = AutoModelForCausalLM.from_pretrained(decoder).eval()
    nll = tokens = 0
    for line in (talks / "test.jsonl").read_text(encoding="utf-8").splitlines():
        for reply in json.loads(line)["turns"][1:]:
            ids = torch.tensor([[1, *(3 + WORDS.index(word) for word in reply.split()), 2]])
            with torch.no_grad():
                logits = model(ids).logits[0, :-1]
            nll += torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum").item()
            tokens += ids.shape[1] - 1
    return math.exp(nll / tokens)


def make(name):
    torch.manual_seed(0)
    size = {"vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_latents": 2}
    given = {"model_type": "llama", "vocab_size": 60, **LLAMA}
    config = DialogueJepaConfig(**size, decoder_config=given, initializer_range=0.3, **ANCHOR_FIELDS[name])
    return ANCHORS[name].model_class(config)


@pytest.mark.parametrize("name", ["no_latent", "language_model"])
def test_what_learns_beside_a_pretrained_decoder_is_what_says_replies(name):
    model = make(name).train()
    inputs = {"input_ids": torch.randint(5, 60, (4, 6)), "labels": torch.randint(5, 60, (4, 5))}
    model(**inputs).loss.backward()
    learns = {key for key, parameter in model.named_parameters() if parameter.requires_grad}
    moved = {key for key, parameter in model.named_parameters() if parameter.grad is not None and parameter.grad.any()}
    assert learns == moved
    assert any(key.startswith("decoder.language_model.") for key in learns)


@pytest.mark.parametrize("name", ["no_latent", "language_model"])
def test_neither_twin_tells_contexts_apart(name):
    model = make(name).eval()
    labels = torch.randint(5, 60, (1, 5))
    with torch.no_grad():
        first, second = (model(torch.tensor([ids]), labels=labels).logits for ids in ([7, 8, 9], [20, 30, 40]))
    assert torch.equal(first, second)


def test_what_is_required_is_a_ratio_and_two_lower_perplexities():
    record = {"arms": {"latent": {"usage": {"ratio": 1.1}}}, "perplexity_ratios": {}}
    record["perplexity_ratios"] = {"no_latent": {"latent": {"ratio": 0.99}}, "as_it_came": {"latent": {"ratio": 0.5}}}
    assert list(pretrained_decoder.COMPARISON.required(record).values()) == [True, True, True]
    record["arms"]["latent"]["usage"]["ratio"] = 1.09
    record["perplexity_ratios"]["no_latent"]["latent"]["ratio"] = 1.0
    assert list(pretrained_decoder.COMPARISON.required(record).values()) == [False, False, True]
    assert pretrained_decoder.COMPARISON.required({"arms": {}, "perplexity_ratios": {}}) == {}


def test_a_decoder_that_is_not_there_is_one_line_and_exit_code_2(talks, tmp_path, capsys, cells_in_this_process):
    assert pretrained_decoder.main(flags(talks, "nowhere/model", tmp_path)) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: pretrained_decoder: ")
    assert "\n" not in error


def test_the_small_llama_is_a_plain_checkpoint_that_may_say_replies(talks, tmp_path, capsys):
    place = ["--data", str(talks), "--output_dir", str(tmp_path / "llama")]
    assert small_llama.main([*place, "--steps", "2", "--hidden_size", "32", "--layers", "1"]) == 0
    assert "a pretrained Llama and its tokenizer" in capsys.readouterr().out
    model, tokenizer = (one.from_pretrained(tmp_path / "llama") for one in (AutoModelForCausalLM, AutoTokenizer))
    assert model.config.vocab_size == len(tokenizer)
    assert not list((tmp_path / "llama").glob("*.bin"))
    options = pretrained_decoder.COMPARISON.parser().parse_args(flags(talks, tmp_path / "llama", tmp_path))
    cell = pretrained_decoder.COMPARISON.plan(options, {})[0]
    assert math.isfinite(run_one(cell.arm, 0, cell.key)["metrics"]["perplexity"])


@pytest.mark.parametrize("wrong", [["--data", "nowhere"], ["--hidden_size", "40"], ["--layers", "0"]])
def test_what_no_llama_can_be_made_of_is_one_line_that_names_it(talks, tmp_path, capsys, wrong):
    given = ["--data", str(talks), "--output_dir", str(tmp_path / "llama"), *wrong]
    assert small_llama.main(given) == 2
    error = capsys.readouterr().err
    assert re.fullmatch(rf"error: {wrong[0][2:]}: .*\n", error)
    assert not (tmp_path / "llama").exists()


def test_windows_begin_with_turns_and_lose_none_of_a_dialogue(decoder):
    tokenizer = AutoTokenizer.from_pretrained(decoder)
    turns = [" ".join(WORDS[:30]), " ".join(WORDS[5:40]), *([" ".join(WORDS)] * 3), "word1"]
    windows = list(small_llama.windows_of([turns, ["word2", "word3"]], tokenizer))
    assert max(map(len, windows)) <= small_llama.WINDOW
    assert all(window[0] == tokenizer.bos_token_id for window in windows)
    assert all(window[-1] == tokenizer.eos_token_id for window in windows)
    said = [tokenizer.decode(ids, skip_special_tokens=True) for ids in windows]
    assert " ".join(said) == " ".join([*turns, "word2", "word3"])
    assert windows[-1] == tokenizer.convert_tokens_to_ids(["<s>", "word2", "</s>", "<s>", "word3", "</s>"])
