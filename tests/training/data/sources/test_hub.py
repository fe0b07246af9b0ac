import logging
import os
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from training.common.errors import InputError
from training.data.settings import DataSettings
from training.data.sources import hub
from training.data.sources.locate import load_rows
from training.data.sources.shortcuts import SHORTCUTS, Shortcut, persona_chat_turns


@pytest.fixture
def repository_folder(tmp_path):
    """A data set repository as `load_dataset` finds it: a folder of parquet files, by path instead of by id."""
    for split, count in (("train", 200), ("validation", 3)):
        table = pa.table({"dialog": [[f"hello {n}", f"bye {n}"] for n in range(count)], "n": list(range(count))})
        pq.write_table(table, tmp_path / f"{split}.parquet")
    return tmp_path


def test_a_repository_gives_its_splits_and_what_it_lacks_is_cut_from_train(repository_folder):
    settings = DataSettings(data=f"hub:{repository_folder}")
    valid, train, test = (load_rows(settings, split) for split in ("valid", "train", "test"))
    assert valid.dataset["text"][:2] == ["hello 0", "bye 0"]
    assert train.report.kept + test.report.kept == 400
    assert test.report.kept > 0
    assert not set(train.dataset["text"]) & set(test.dataset["text"])


def test_a_named_split_is_cut_into_parts(repository_folder):
    settings = DataSettings(data=f"hub:{repository_folder}::train")
    parts = [load_rows(settings, split).report.kept for split in ("train", "valid", "test")]
    assert sum(parts) == 400
    assert min(parts) > 0


def test_a_missing_split_or_column_is_named(repository_folder):
    with pytest.raises(InputError, match="could not be loaded"):
        load_rows(DataSettings(data=f"hub:{repository_folder}", split="no_such"), "train")
    with pytest.raises(InputError, match=r"no column 'text'; it has dialog \(texts\), n \(int64\)"):
        load_rows(DataSettings(data=f"hub:{repository_folder}", text_column="text"), "train")


def test_a_data_set_out_of_reach_is_an_error_of_one_line():
    with pytest.raises(InputError, match="hub:stanfordnlp/imdb:plain_text could not be loaded") as caught:
        load_rows(DataSettings(data="hub:imdb"), "train")
    assert "\n" not in str(caught.value)


def test_without_a_network_one_line_names_the_way_out_at_once(tmp_path):
    """In a process of its own: whether the libraries are offline is settled when they are imported."""
    program = (
        "from training.data.settings import DataSettings; from training.data.sources.locate import load_rows\n"
        "load_rows(DataSettings(data='hub:imdb'), 'train')"
    )
    nowhere = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **nowhere}, capture_output=True, text=True, check=False
    )
    assert done.stdout == ""
    assert "Retrying" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert "InputError: data: hub:stanfordnlp/imdb could not be loaded: http://127.0.0.1:9 cannot be reached" in last
    assert "HF_HUB_OFFLINE=1" in last


def test_words_of_the_libraries_do_not_come_before_the_one_line(caplog):
    levels = [logging.getLogger(name).level for name in ("huggingface_hub", "datasets")]
    with pytest.raises(InputError, match="HF_HUB_OFFLINE=1 is set"):
        load_rows(DataSettings(data="hub:imdb"), "train")
    assert caplog.records == []
    assert levels == [logging.getLogger(name).level for name in ("huggingface_hub", "datasets")]


def test_the_usual_sets_have_shortcuts_with_licence_and_verification():
    assert {
        "imdb",
        "ag_news",
        "yelp_polarity",
        "dailydialog",
        "wikitext2_raw",
        "tinystories",
        "cornell_movie",
        "persona_chat",
    } == set(SHORTCUTS)
    for shortcut in SHORTCUTS.values():
        assert "/" in shortcut.hub_id
        assert "train" in shortcut.splits
        assert all((shortcut.licence, shortcut.column, shortcut.checked))


def test_a_shortcut_fills_in_config_column_and_group(repository_folder, monkeypatch):
    table = pa.table({"film": [str(n % 40) for n in range(400)], "line": [f"line {n} of it" for n in range(400)]})
    pq.write_table(table, repository_folder / "train.parquet")
    (repository_folder / "validation.parquet").unlink()
    entry = Shortcut("t", str(repository_folder), None, "line", {"train": "train"}, "MIT", "en", "here", None, "film")
    monkeypatch.setitem(hub.SHORTCUTS, "films", entry)
    settings = DataSettings(data="hub:films")
    films = [
        {int(text.split()[1]) % 40 for text in load_rows(settings, split).dataset["text"]}
        for split in ("train", "valid", "test")
    ]
    assert sum(len(side) for side in films) == 40


def test_persona_chat_dialogues_come_from_the_last_history_and_its_true_reply():
    utterances = [
        {"history": ["hi ."], "candidates": ["wrong", "hello ."]},
        {"history": ["hi .", "hello .", "bye ."], "candidates": ["wrong", "see you ."]},
    ]
    assert persona_chat_turns(utterances) == ["hi .", "hello .", "bye .", "see you ."]
