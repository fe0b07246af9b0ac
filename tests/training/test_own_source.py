"""A source that is not the recipe's: its own phrases, and what its card says beside the figures."""

import json
from types import SimpleNamespace

import pytest

from training.data.dialogue_jepa.pairs import PairPreparation
from training.data.settings import DataSettings, DialogueDataSettings
from training.data.text_jepa.rows import RowPreparation
from training.families import load_family
from training.finish import data_notes
from training.run.arguments import parse_arguments

RECIPE = "training/recipes/text_jepa/quickstart.yaml"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("JEPA_CACHE", str(tmp_path / "cache"))


def test_a_recipes_phrases_are_left_behind_with_its_source(repository, monkeypatch):
    monkeypatch.chdir(repository)
    own = parse_arguments([RECIPE])
    other = parse_arguments([RECIPE, "--data", "mine.txt"])
    asked = parse_arguments([RECIPE, "--data", "mine.txt", "--sample_phrases", "a _ b"])
    assert [run.own_source for run in (own, other, asked)] == [False, True, False]
    assert [len(run.evaluation.sample_phrases) for run in (own, other, asked)] == [3, 0, 1]


def test_phrases_are_held_out_rows_with_one_blank_each(tmp_path):
    lines = [f"the {word} of number {number} was here" for number in range(60) for word in ("cat", "dog")]
    (tmp_path / "a.txt").write_text("\n".join(lines))
    ready = RowPreparation(DataSettings(data=str(tmp_path / "a.txt")), 16).prepare()
    phrases = load_family("text_jepa").own_phrases(ready)
    held_out = {ready.tokenizer.decode(ids, skip_special_tokens=True) for ids in ready.valid["input_ids"]}
    assert phrases
    assert all(phrase.split().count("_") == 1 for phrase in phrases)
    for phrase in phrases:
        before, after = phrase.split(" _ ")
        assert any(row.startswith(before) and row.endswith(after) for row in held_out)


def test_prompts_of_dialogues_are_held_out_ones(tmp_path):
    (tmp_path / "a.txt").write_text("\n".join(f"say {number}\tit is {number}" for number in range(300)))
    settings = DialogueDataSettings(data=str(tmp_path / "a.txt"), max_vocab=300)
    ready = PairPreparation(settings, 16, 16).prepare()
    phrases = load_family("dialogue_jepa").own_phrases(ready)
    assert len(phrases) == 3
    assert set(phrases) <= set(ready.valid["prompt"])
    assert not set(phrases) & set(ready.train["prompt"])


def test_the_card_says_what_is_unknown_and_what_was_seen_beside_the_figures(repository):
    reports = {"test": {"overlap": {"near_share": 0.99, "exact_share": 0.5}}}
    score = {"metrics": {"unknown_share": 0.85, "top1_of_all": 0.15}}
    unknown, overlap = data_notes(score, SimpleNamespace(reports=reports))
    assert unknown == (
        "85.0% of the tokens are unknown to the tokenizer (no blank stands there; as wrong, top-1 is 0.150)."
    )
    assert overlap.startswith("99.0% of the tokens stand in rows of the training part too")
    assert overlap.endswith("learnt by heart.")
    assert data_notes(None, SimpleNamespace(reports=reports)) == []
    assert "{{ data_notes }}" in (repository / "model_cards" / "template.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("streaming", ["false", "true"])
def test_what_was_guessed_stands_in_run_json_of_files_and_of_streams(tmp_path, train_tiny, streaming):
    rows = [{"n": n, "body": f"the {word} of number {n} was here"} for n in range(120) for word in ("cat", "dog")]
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "train-0.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = tmp_path / "logs" if streaming == "true" else tmp_path / "logs" / "train-0.jsonl"
    flags = ["--data", str(source), "--streaming", streaming, "--max_steps", "4", "--final_score", "false"]
    assert train_tiny(tmp_path / "run", *flags) == 0
    read = json.loads((tmp_path / "run" / "run.json").read_text())["data_read"]
    assert read[-1] == "train-0.jsonl: reads the column 'body' of n, body"
    assert not any(str(tmp_path) in line for line in read)
