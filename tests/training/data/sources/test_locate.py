import pydoc_data.topics

import pytest

from training.common.errors import InputError
from training.data.settings import DataSettings
from training.data.sources.builtin import builtin_fingerprint
from training.data.sources.locate import describe_source, load_rows, scoring_split

LINES = [f"row number {number} here" for number in range(400)]


@pytest.fixture(scope="module")
def single_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("single") / "all.txt"
    path.write_text("\n".join(LINES + LINES[:100]))
    return path


def texts(settings, split):
    return load_rows(settings, split).dataset["text"][:]


def test_a_single_file_is_split_into_disjoint_parts_that_make_up_the_whole(single_file):
    settings = DataSettings(data=str(single_file))
    parts = {split: texts(settings, split) for split in ("train", "valid", "test")}
    assert sorted(parts["train"] + parts["valid"] + parts["test"]) == sorted(texts(settings, "all"))
    assert not set(parts["train"]) & (set(parts["valid"]) | set(parts["test"]))
    assert not set(parts["valid"]) & set(parts["test"])
    assert 5 <= len(parts["valid"]) <= 60


def test_a_row_keeps_its_side_and_its_id_when_the_file_is_shuffled(single_file, tmp_path):
    other = tmp_path / "shuffled.txt"
    other.write_text("\n".join(reversed(LINES)))
    ours = load_rows(DataSettings(data=str(other)), "test").dataset
    theirs = load_rows(DataSettings(data=str(single_file)), "test").dataset
    assert set(ours["text"]) == set(theirs["text"])
    assert dict(zip(ours["text"], ours["row_id"], strict=True)).items() <= set(
        zip(theirs["text"], theirs["row_id"], strict=True)
    )


def test_row_ids_differ_even_for_duplicates(single_file):
    ids = load_rows(DataSettings(data=str(single_file)), "all").dataset["row_id"][:]
    assert len(set(ids)) == len(ids) == 500


def test_a_single_file_is_scored_whole_and_a_folder_by_its_part(single_file, tmp_path):
    (tmp_path / "train.txt").write_text("a b\n")
    assert scoring_split(DataSettings(data=str(single_file)), "test") == "all"
    assert scoring_split(DataSettings(data=str(tmp_path)), "test") == "test"


def test_a_folder_without_valid_holds_out_part_of_train_and_says_so(tmp_path):
    (tmp_path / "train.txt").write_text("\n".join(LINES))
    (tmp_path / "test.jsonl").write_text('{"text": "a test row"}\n')
    settings = DataSettings(data=str(tmp_path))
    train, valid = load_rows(settings, "train"), load_rows(settings, "valid")
    assert sorted(train.dataset["text"][:] + valid.dataset["text"][:]) == sorted(LINES)
    assert "no valid part" in train.report.notes[0]
    assert texts(settings, "test") == ["a test row"]
    assert len(texts(settings, "all")) == 401


def test_a_folder_with_all_parts_is_taken_as_it_is(tmp_path):
    for split in ("train", "valid", "test"):
        (tmp_path / f"{split}.txt").write_text(f"{split} row\n" * 3)
    settings = DataSettings(data=str(tmp_path))
    assert [texts(settings, split) for split in ("train", "valid", "test")] == [
        [f"{split} row"] * 3 for split in ("train", "valid", "test")
    ]
    assert load_rows(settings, "train").report.notes == []


def test_a_dialogue_stays_on_one_side(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(f'{{"turns": ["turn {n} a", "turn {n} b"]}}\n' for n in range(300)))
    settings = DataSettings(data=str(path))
    sides = [{text[:-2] for text in texts(settings, split)} for split in ("train", "valid", "test")]
    assert sum(len(side) for side in sides) == 300


def test_max_rows_takes_a_seeded_subset_from_everywhere(single_file):
    kept = load_rows(DataSettings(data=str(single_file), max_rows=50), "all")
    assert kept.report.filtered == {"beyond max_rows": 450}
    assert kept.dataset["text"][:] == texts(DataSettings(data=str(single_file), max_rows=50), "all")
    places = [LINES.index(text) for text in kept.dataset["text"]]
    assert min(places) < 100 < 300 < max(places)


def test_sentences_are_rows_and_headings_are_no_sentences(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text(" = St. Mary . = \nHe came home. She left again.\n")
    settings = DataSettings(data=str(path), split_sentences=True, drop_headings=True)
    assert texts(settings, "all") == ["He came home.", "She left again."]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data": "no/such/file.txt"}, "does not exist"),
        ({"data": "builtin:shakespeare"}, "builtin:sotu"),
        ({"data": "builtin:sotu", "split": "train"}, "without named splits"),
        ({"data": "."}, "no train"),
        ({"data": "hub:"}, "hub:ID"),
        ({"data": "hub:no_such_shortcut"}, "imdb"),
    ],
)
def test_a_source_that_cannot_be_found_is_named_with_the_remedy(settings, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        load_rows(DataSettings(**settings), "train")


def test_two_files_for_one_part_are_an_error(tmp_path):
    (tmp_path / "train.txt").write_text("a b\n")
    (tmp_path / "train.csv").write_text("text\na b\n")
    with pytest.raises(InputError, match="several train files"):
        load_rows(DataSettings(data=str(tmp_path)), "train")


def test_a_changed_word_of_the_same_length_is_another_text(monkeypatch):
    before = builtin_fingerprint("python_docs")
    topics = dict(pydoc_data.topics.topics)
    name = next(iter(topics))
    monkeypatch.setattr(pydoc_data.topics, "topics", {**topics, name: topics[name].swapcase()})
    assert builtin_fingerprint("python_docs") != before


@pytest.mark.parametrize("name", ["sotu", "python_docs"])
def test_a_built_in_text_holds_out_whole_documents(name):
    from training.data.sources.builtin import read_builtin
    from training.data.sources.rows import side_of

    sides = {}
    for row in read_builtin(name):
        if row.texts:
            sides.setdefault(row.group, set()).add(side_of(row, ("valid", "test"), 0.05))
    assert all(len(side) == 1 for side in sides.values())
    assert {side for group in sides.values() for side in group} == {"train", "valid", "test"}


def test_the_addresses_hold_about_two_million_words():
    rows = load_rows(DataSettings(data="builtin:sotu", split_sentences=True), "train")
    assert sum(len(text.split()) for text in rows.dataset["text"]) > 1_500_000
    assert not any("[" in text.replace("[UNK]", "") for text in rows.dataset["text"][:5000])


@pytest.mark.parametrize("data", ["builtin:sotu", "builtin:python_docs", "hub:imdb", "hub:wikitext2_raw"])
def test_a_known_source_has_name_licence_and_language(data):
    info = describe_source(DataSettings(data=data))
    assert all((info.name, info.licence))
    assert info.language == "en"


def test_an_unknown_source_claims_no_licence():
    assert describe_source(DataSettings(data="hub:owner/name")).licence is None
    assert describe_source(DataSettings(data="some/file.txt")).licence is None
