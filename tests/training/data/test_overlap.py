import logging

import pytest

from training.data.settings import DataSettings, GeneratorDataSettings
from training.data.sources.locate import load_rows
from training.data.staged_generator.blocks import BlockPreparation
from training.data.text_jepa.rows import RowPreparation

OWN = [f"the {word} of number {number} was here and then it went to the sea" for number in range(90) for word in "abc"]


def prepare(folder, train, valid, kind="text"):
    (folder / "train.txt").write_text("\n".join(train))
    (folder / "valid.txt").write_text("\n".join(valid))
    (folder / "test.txt").write_text("one more line")
    if kind == "text":
        return RowPreparation(DataSettings(data=str(folder), allow_unknown=True), 32).prepare()
    settings = GeneratorDataSettings(data=str(folder), documents="rows", max_vocab=400)
    return BlockPreparation(settings, 32).prepare()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("JEPA_CACHE", str(tmp_path / "cache"))


def test_rows_that_stand_in_the_training_part_are_counted_and_said(tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="training.data"):
        ready = prepare(tmp_path, OWN[:200], OWN[190:210])
    assert ready.reports["valid"]["overlap"]["exact_share"] == pytest.approx(0.5)
    assert any(line.startswith("warning: valid: ") and "learnt by heart" in line for line in caplog.messages)


def test_rows_that_differ_by_one_word_are_found_by_their_runs_of_words(tmp_path):
    ready = prepare(tmp_path, OWN[:200], [f"{line} again" for line in OWN[:20]])
    found = ready.reports["valid"]["overlap"]
    assert found["exact_share"] == 0
    assert found["near_share"] == 1


def test_other_rows_are_not_found(tmp_path, caplog):
    other = [f"nobody knew why all of these {number} ships had to sail so very far away" for number in range(20)]
    with caplog.at_level(logging.INFO, logger="training.data"):
        ready = prepare(tmp_path, OWN, other)
    assert ready.reports["valid"]["overlap"]["near_share"] == 0
    assert "valid: 0.0% of its tokens stand in rows of the training part too" in caplog.messages


def test_packed_documents_are_compared_too(tmp_path):
    assert prepare(tmp_path, OWN, OWN[:60], "generator").reports["valid"]["overlap"]["near_share"] > 0.9


def test_of_a_row_that_is_split_into_sentences_all_lie_on_one_side(tmp_path):
    rows = [f"Row {number} begins here. Row {number} goes on now. Row {number} ends here." for number in range(400)]
    (tmp_path / "a.txt").write_text("\n".join(rows))
    settings = DataSettings(data=str(tmp_path / "a.txt"), split_sentences=True)
    sides = [{text.split()[1] for text in load_rows(settings, split).dataset["text"]} for split in ("train", "valid")]
    assert sides[1]
    assert not sides[0] & sides[1]
