"""`hub:ID` and every named shortcut through the real client: small made files in the layout of the real ones."""

import json
import os
import subprocess
import sys

import pytest

from tests.hub.data_sets import put_data_sets
from tests.hub.server import running
from training.data.sources.shortcuts import SHORTCUTS

pytestmark = pytest.mark.xdist_group("hub-data")

OWN = ("hub:user/own", "hub:user/own:tidy:dev", "hub:user/none", "hub:user/own:untidy")
TALKING = ("hub:dailydialog", "hub:cornell_movie", "hub:persona_chat")
STREAMED = ("hub:tinystories", "hub:wikitext2_raw", "hub:persona_chat")


@pytest.fixture(scope="module")
def loaded(tmp_path_factory, repository) -> dict:
    """What one process with an empty cache got: way and source -> split -> rows."""
    folder = tmp_path_factory.mktemp("hub-data")
    asked = ["--rows", *(f"hub:{name}" for name in SHORTCUTS), *OWN, "--dialogues", *TALKING, "--stream", *STREAMED]
    asked += ["--notes", "hub:user/own"]
    with running(folder / "hub") as hub:
        put_data_sets(hub.store)
        environment = {**os.environ, **hub.environment(folder / "cache", token=None)}
        environment |= {"JEPA_CACHE": str(folder / "prepared"), "PYTHONPATH": str(repository)}
        command = [sys.executable, "-m", "tests.hub.data_sets", *asked]
        done = subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("imdb", ("film number 0 is here .", "film", "play")),
        ("ag_news", ("news number 0 is here .", "news", "paper")),
        ("yelp_polarity", ("meal number 0 is here .", "meal", "cook")),
        ("wikitext2_raw", ("word number 0 is here .", "page", "leaf")),
        ("tinystories", ("owl number 0 is here .", "owl", "cat")),
    ],
)
def test_a_shortcut_gives_the_texts_of_its_splits(loaded, name, first):
    rows = loaded[f"--rows hub:{name}"]
    assert first[0] in [*rows["train"], *rows["valid"]]
    assert [{text.split()[0] for text in rows[split]} for split in ("valid", "test")] == [{word} for word in first[1:]]


@pytest.mark.parametrize(("name", "turns"), [("dailydialog", 3), ("persona_chat", 4)])
def test_the_turns_of_dialogues_are_rows_of_their_own(loaded, name, turns):
    rows = loaded[f"--rows hub:{name}"]
    assert len(rows["test"]) == turns * {"dailydialog": 6, "persona_chat": 7}[name]


def test_a_film_lies_on_one_side_of_a_split(loaded):
    rows = loaded["--rows hub:cornell_movie"]
    films = {split: {text.split()[-1] for text in texts} for split, texts in rows.items()}
    assert sum(map(len, films.values())) == 200
    assert sum(map(len, rows.values())) == 800


@pytest.mark.parametrize(
    ("name", "dialogue"),
    [
        ("dailydialog", ["How are you, 0?", "I’m fine.", "Good, 0."]),
        ("cornell_movie", [f"line {line} of film 7" for line in range(4)]),
        ("persona_chat", ["hi, i am 0.", "hello 0.", "well.", "bye 0."]),
    ],
)
def test_a_shortcut_gives_whole_dialogues(loaded, name, dialogue):
    there = [turns for split in loaded[f"--dialogues hub:{name}"].values() for turns in split]
    assert dialogue in there


def test_any_repository_gives_its_splits_by_id_configuration_and_split(loaded):
    whole, named = loaded["--rows hub:user/own"], loaded["--rows hub:user/own:tidy:dev"]
    assert len(whole["valid"]) == 100
    assert len(whole["train"]) + len(whole["test"]) == 200
    assert sum(map(len, named.values())) == 100


def test_what_is_not_on_the_hub_is_one_line(loaded):
    for source in ("hub:user/none", "hub:user/own:untidy"):
        line = loaded[f"--rows {source}"]
        assert line.startswith(f"data: {source} could not be loaded")
        assert "\n" not in line


@pytest.mark.parametrize("name", ["tinystories", "wikitext2_raw", "persona_chat"])
def test_a_stream_gives_the_rows_that_a_download_gives_and_goes_on_from_any_of_them(loaded, name):
    stream, rows = loaded[f"--stream hub:{name}"], loaded[f"--rows hub:{name}"]
    assert set(rows["train"]) <= {text.strip() for text in stream["train"]}
    held_out = "valid" if name == "wikitext2_raw" else "test"
    assert [text.strip() for text in stream[held_out]] == rows[held_out]
    assert stream["train"][-len(stream["from the tenth on"]) :] == stream["from the tenth on"]
    assert 0 < len(stream["from the tenth on"]) < len(stream["train"])


def test_every_shortcut_has_a_data_set_here(loaded):
    assert {f"--rows hub:{name}" for name in SHORTCUTS} <= set(loaded)
    failed = {source: came for source, came in loaded.items() if isinstance(came, str)}
    assert set(failed) == {"--rows hub:user/none", "--rows hub:user/own:untidy"}, failed


def test_the_column_that_is_guessed_is_said_of_a_download_and_of_a_stream(loaded):
    assert loaded["--notes hub:user/own"] == [
        "train: reads the column 'words' of words, n",
        "train shard 0: reads the column 'words' of words, n",
    ]
