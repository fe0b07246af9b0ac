"""`python -m eval.score` of causal checkpoints: ours beside its baselines, stock ones, and what it refuses."""

import json
import shutil

import pytest
from rich.console import Console
from transformers import AutoConfig

from eval.loading import open_tokenizer
from eval.score import main, score, score_table
from eval.scorers.causal import fit_guessers
from eval.scorers.request import ScoreRequest
from tests.eval.causal_models import TEXTS, tiny_bpe, tiny_generator, tiny_llama
from training.common.errors import InputError
from training.data.settings import GeneratorDataSettings

FIGURES = {"perplexity", "word_perplexity", "bits_per_byte", "greedy_accuracy", "leak_gap", "edge_mass"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A source with parts of its own."""
    made = tmp_path_factory.mktemp("data")
    for name, times in (("train", 6), ("valid", 1), ("test", 1)):
        lines = [" = Peace = \n", " \n", *(f"{text}" for text in TEXTS[1:]), " \n"]
        (made / f"{name}.txt").write_text("".join(lines) * times, encoding="utf-8")
    return made


@pytest.fixture(scope="module")
def routed(tmp_path_factory, folder):
    """A stage 3 checkpoint as a run leaves it; copy it before changing it."""
    made = tmp_path_factory.mktemp("run") / "staged-3"
    tokenizer = tiny_bpe()
    tiny_generator(tokenizer, stage=3).save_pretrained(made)
    tokenizer.save_pretrained(made)
    run = {"recipe": {"data": {"data": str(folder), "documents": "headings", "max_vocab": 300}}}
    (made / "run.json").write_text(json.dumps(run), encoding="utf-8")
    return made


@pytest.fixture(scope="module")
def record(routed):
    return score(ScoreRequest(checkpoint=str(routed), device="cpu"))


def test_a_generator_is_scored_on_the_test_documents_of_its_source(record, folder):
    text = (folder / "test.txt").read_text(encoding="utf-8")
    assert (record["family"], record["split"], record["num_rows"]) == ("staged_generator", "test", 1)
    assert record["metrics"]["words"] == len(text.split()) + text.count("\n")
    assert record["metrics"]["bytes"] == len(text.encode())
    assert record["num_examples"] == record["metrics"]["tokens"]
    assert record["scoring"]["documents"] == "headings"
    assert (record["scoring"]["context"], record["scoring"]["stride"]) == (24, 12)
    assert record["rows"]["kept"] == 1


def test_the_record_holds_the_agreed_figures_beside_both_baselines_and_no_nan(record):
    assert set(record["metrics"]) >= FIGURES
    assert list(record["baselines"]) == ["unigram", "bigram"]
    for figures in record["baselines"].values():
        assert set(figures) == set(record["metrics"])
        assert figures["perplexity"] > 1
    assert record["baselines"]["bigram"]["perplexity"] < record["baselines"]["unigram"]["perplexity"]
    assert sum(record["metrics"]["edge_mass"].values()) == pytest.approx(1.0)
    assert abs(record["metrics"]["leak_gap"]) < 1e-5
    json.dumps(record, allow_nan=False)


def test_the_table_shows_the_baselines_under_the_model_and_where_attention_goes(record):
    console = Console(width=130, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(score_table(record))
    printed = console.export_text()
    lines = [line.split()[0] for line in printed.splitlines() if line.strip()]
    assert [word for word in lines if word in ("model", "unigram", "bigram")] == ["model", "unigram", "bigram"]
    assert "Attention by edge" in printed
    assert f"{record['metrics']['words']:,} words and line ends" in printed


def test_a_stock_causal_model_is_scored_with_null_baselines(tmp_path, folder):
    tokenizer = tiny_bpe()
    tiny_llama(len(tokenizer)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    record = score(ScoreRequest(checkpoint=str(tmp_path), data=str(folder), documents="headings", device="cpu"))
    assert record["family"] == "llama"
    assert record["metrics"]["edge_mass"] is None
    assert record["baselines"]["bigram"]["perplexity"] is None
    score_table(record)


def test_a_training_text_that_cannot_be_read_leaves_the_bigram_null_and_the_counts_of_the_model(routed, tmp_path):
    tokenizer = open_tokenizer(routed)
    model = tiny_generator(tokenizer)
    gone = GeneratorDataSettings(data=str(tmp_path / "gone.txt"))
    assert fit_guessers(model, tokenizer, gone) == {"unigram": None, "bigram": None}
    model.token_counts[7] = 5
    guessers = fit_guessers(model, tokenizer, gone)
    assert guessers["unigram"].best == 7
    assert guessers["bigram"] is None


def test_the_command_line_bounds_and_shapes_the_windows(routed, tmp_path):
    target = tmp_path / "s.json"
    flags = ["--context", "16", "--stride", "4", "--max_tokens", "40", "--documents", "rows", "--device", "cpu"]
    assert main([str(routed), "--json", str(target), *flags]) == 0
    written = json.loads(target.read_text())
    assert written["scoring"] == {"context": 16, "stride": 4, "documents": "rows", "max_tokens": 40}
    assert written["num_examples"] <= 40


def test_our_generator_is_scored_with_more_context_than_it_was_made_for(routed, tmp_path, capsys):
    (tmp_path / "long.txt").write_text("the people of the united states and the king of the old world saw " * 8)
    found = {}
    for context in (24, 90):
        flags = ["--data", str(tmp_path / "long.txt"), "--documents", "file", "--context", str(context)]
        target = tmp_path / f"{context}.json"
        assert main([str(routed), *flags, "--device", "cpu", "--json", str(target)]) == 0
        found[context] = json.loads(target.read_text())
        assert f"The model sees up to {context} tokens." in " ".join(capsys.readouterr().out.split())
    few, many = found[24]["metrics"], found[90]["metrics"]
    assert many["tokens"] == few["tokens"] > 90
    assert many["nll"] != few["nll"]
    assert many["leak_gap_largest"] < 1e-4
    assert AutoConfig.from_pretrained(routed).max_position_embeddings == 24


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--context", "999999999"], "context: 999,999,999 tokens need about"),
        (["--stride", "0"], "stride must lie between 1"),
        (["--max_tokens", "0"], "max_tokens must be at least 1"),
        (["--data", "nowhere.txt"], "nowhere.txt"),
    ],
)
def test_bad_input_ends_with_one_line_and_code_2(routed, flags, named, capsys):
    assert main([str(routed), *flags, "--device", "cpu"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert named in error


@pytest.mark.parametrize("flags", [["--stride", "4"], ["--documents", "rows"], ["--max_tokens", "all"]])
def test_what_is_of_causal_models_is_refused_of_a_latent_text_model(checkpoint, flags, capsys):
    assert main([str(checkpoint), *flags, "--device", "cpu"]) == 2
    assert flags[0].removeprefix("--") in capsys.readouterr().err


def test_a_setting_that_this_version_lacks_is_refused_by_name(routed, tmp_path):
    copy = shutil.copytree(routed, tmp_path / "copy")
    (copy / "run.json").write_text(json.dumps({"recipe": {"data": {"data": "builtin:sotu", "min_words": 1}}}))
    with pytest.raises(InputError, match="min_words"):
        score(ScoreRequest(checkpoint=str(copy)))
