"""`python -m eval.score`: the score file, the table, the choice of rows, and its exit codes."""

import json
import shutil
from pathlib import Path

import pytest
from rich.console import Console
from safetensors.torch import load_file, save_file

from eval.score import main, score, score_table
from eval.scorers.checkpoint import choose_split, data_settings
from eval.scorers.request import ScoreRequest
from training.common.errors import InputError
from training.common.records import write_json

KEYS = {"schema_version", "family", "checkpoint", "data", "split", "num_examples", "num_rows", "seed", "versions"}


@pytest.fixture(scope="module")
def other_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "phrases.txt"
    path.write_text("the people of the union\n\npeace and freedom\nthe united states of america\n", encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def record(checkpoint, other_file):
    return score(ScoreRequest(checkpoint=str(checkpoint), data=other_file, device="cpu"))


def test_the_score_record_holds_the_agreed_keys_and_is_json_without_nan(record):
    assert {*KEYS, "metrics", "baselines", "rows"} == set(record)
    assert record["family"] == "text_jepa"
    assert set(record["baselines"]["unigram"]) == set(record["metrics"])
    json.dumps(record, allow_nan=False)


def test_another_single_file_is_scored_whole(record):
    assert record["split"] == "all"
    assert record["num_rows"] == 3
    assert record["rows"]["blank_lines"] == 1


def test_the_file_of_the_training_run_is_scored_on_its_test_part_only(checkpoint):
    request = ScoreRequest(checkpoint=str(checkpoint))
    settings = data_settings(request)
    assert choose_split(request, settings) == "test"
    again = ScoreRequest(checkpoint=str(checkpoint), data=str(checkpoint.parent / "." / "trained_on.txt"))
    assert choose_split(again, data_settings(again)) == "test"
    whole = score(ScoreRequest(checkpoint=str(checkpoint), split="all", device="cpu"))
    held_out = score(ScoreRequest(checkpoint=str(checkpoint), device="cpu"))
    assert 0 < held_out["num_rows"] < whole["num_rows"] == 30


def test_settings_of_the_run_are_kept_when_only_the_source_changes(checkpoint, tmp_path, other_file):
    folder = shutil.copytree(checkpoint, tmp_path / "copy")
    data = {"data": "hub:somebody/set", "split": "extra", "text_column": "body", "min_words": 3, "lowercase": False}
    (folder / "run.json").write_text(json.dumps({"recipe": {"data": data}}))
    settings = data_settings(ScoreRequest(checkpoint=str(folder), data=other_file))
    assert (settings.min_words, settings.lowercase) == (3, False)
    assert (settings.data, settings.split, settings.text_column) == (other_file, None, None)


def test_what_bounds_the_rows_of_the_run_does_not_bound_another_source(checkpoint, tmp_path, other_file):
    folder = shutil.copytree(checkpoint, tmp_path / "copy")
    data = {"data": str(checkpoint.parent / "trained_on.txt"), "max_rows": 1, "max_bad_share": 1.0}
    (folder / "run.json").write_text(json.dumps({"recipe": {"data": data}}))
    own = data_settings(ScoreRequest(checkpoint=str(folder)))
    assert (own.max_rows, own.max_bad_share) == (1, 1.0)
    assert score(ScoreRequest(checkpoint=str(folder), data=other_file, device="cpu"))["num_rows"] == 3
    assert data_settings(ScoreRequest(checkpoint=str(folder), data=other_file)).max_bad_share == 0.01


def test_a_file_is_used_whole_and_known_again_however_it_is_written(checkpoint, other_file, monkeypatch):
    def split_of(data):
        request = ScoreRequest(checkpoint=str(checkpoint), data=data)
        return choose_split(request, data_settings(request))

    monkeypatch.setenv("HOME", str(Path(other_file).parent))
    assert split_of("~/phrases.txt") == "all"
    monkeypatch.setenv("HOME", str(checkpoint.parent))
    assert split_of("~/trained_on.txt") == "test"


@pytest.mark.parametrize(("flag", "count"), [("all", 3), ("2", 2)])
def test_max_rows_is_a_number_or_all(checkpoint, other_file, tmp_path, flag, count):
    command = [str(checkpoint), "--data", other_file, "--max_rows", flag, "--json", str(tmp_path / "s.json")]
    assert main([*command, "--device", "cpu"]) == 0
    assert json.loads((tmp_path / "s.json").read_text())["num_rows"] == count


def test_a_setting_that_this_version_lacks_is_refused_by_name(checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint, tmp_path / "copy")
    (folder / "run.json").write_text(json.dumps({"recipe": {"data": {"data": "builtin:sotu", "sparkle": 1}}}))
    with pytest.raises(InputError, match="sparkle"):
        data_settings(ScoreRequest(checkpoint=str(folder)))


def test_the_table_shows_the_unigram_baseline_under_the_model_overall_and_in_each_decile(record):
    console = Console(width=130, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(score_table(record))
    lines = console.export_text().splitlines()
    assert sum(" model " in line for line in lines) == sum(" unigram " in line for line in lines) == 11
    assert any("Most predicted" in line for line in lines)


def test_the_command_line_writes_the_file_and_prints_the_table(checkpoint, other_file, tmp_path, capsys):
    target = tmp_path / "deep" / "scores.json"
    assert main([str(checkpoint), "--data", other_file, "--json", str(target), "--device", "cpu"]) == 0
    assert json.loads(target.read_text())["data"] == other_file
    printed = capsys.readouterr().out
    assert "unigram" in printed
    assert "3 rows" in printed


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["{tmp}/nowhere/at-all"], "no checkpoint"),
        (["{tmp}"], "no config.json"),
        (["{checkpoint}", "--data", "{tmp}/missing.txt"], "missing.txt"),
        (["{checkpoint}", "--max_rows", "0"], "max_rows"),
        (["{checkpoint}", "--json", "{tmp}"], "cannot be written"),
        (["{checkpoint}", "--device", "abacus"], "abacus"),
        (["{checkpoint}", "--digits", "{tmp}"], "is no video model"),
        (["{checkpoint}", "--plot", "{tmp}/frames.png"], "is no video model"),
    ],
)
def test_bad_input_ends_with_one_line_that_names_it_and_code_2(arguments, named, checkpoint, tmp_path, capsys):
    filled = [argument.format(tmp=tmp_path, checkpoint=checkpoint) for argument in arguments]
    assert main(filled) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert named in error


def test_a_model_that_gives_nan_ends_with_code_3(checkpoint, tmp_path, other_file, capsys):
    folder = shutil.copytree(checkpoint, tmp_path / "copy")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"][0] = float("nan")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert main([str(folder), "--data", other_file, "--device", "cpu"]) == 3
    assert "NaN" in capsys.readouterr().err


def test_a_record_with_nan_is_never_written(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json({"value": float("nan")}, tmp_path / "x.json")
    assert list(tmp_path.iterdir()) == []
