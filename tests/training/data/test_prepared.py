import logging

import pytest

from training.data import cache, prepared
from training.data.prepared import tokenizer_hash
from training.data.settings import DataSettings
from training.data.text_jepa import rows
from training.data.text_jepa.rows import RowPreparation

LINES = [f"the {word} of number {number} was here" for number in range(60) for word in ("cat", "dog", "bird")]


@pytest.fixture
def source(tmp_path, monkeypatch):
    monkeypatch.setenv("JEPA_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "a.txt"
    path.write_text("\n".join(LINES))
    return path


def settings(path, **changes):
    return DataSettings(data=str(path), **changes)


def prepare(settings, length, tokenizer=None):
    return RowPreparation(settings, length).prepare(tokenizer)


def test_train_valid_and_test_are_encoded_with_a_vocabulary_of_the_training_part(source):
    ready = prepare(settings(source), 16)
    assert ready.train.column_names == ["input_ids", "row_id"]
    assert len(ready.train) + len(ready.valid) + len(ready.test) == len(LINES)
    words = {word for text in ready.train["input_ids"] for word in text}
    assert set(range(5, len(ready.tokenizer))) <= words
    assert ready.counts.shape == (len(ready.tokenizer),)
    assert ready.counts[:5].sum() == 0
    assert set(ready.reports) == {"train", "valid", "test"}


def test_a_second_time_nothing_is_made_and_a_line_says_so(source, monkeypatch, caplog):
    first = prepare(settings(source), 16)
    monkeypatch.setattr(rows, "load_rows", lambda *_: pytest.fail("rows were read again"))
    with caplog.at_level(logging.INFO, logger="training.data"):
        second = prepare(settings(source), 16)
    before, unknown, held_out, overlap = caplog.messages
    assert "are held out" in held_out
    assert "prepared before" in before
    assert unknown == "tokens unknown to the tokenizer: 0.0% of train, 0.0% of valid"
    assert overlap.startswith("valid: ")
    assert second.data_hash == first.data_hash
    assert second.train[:] == first.train[:]


def test_a_moved_file_stays_prepared_and_a_changed_one_does_not(source, tmp_path):
    first = prepare(settings(source), 16)
    moved = source.rename(tmp_path / "b.txt")
    assert prepare(settings(moved), 16).data_hash == first.data_hash
    moved.write_text("\n".join([*LINES, "the cat was here"]))
    changed = prepare(settings(moved), 16, first.tokenizer)
    assert changed.data_hash != first.data_hash
    assert len(changed.train) + len(changed.valid) + len(changed.test) == len(LINES) + 1


def test_other_settings_or_lengths_are_other_data(source):
    hashes = {
        prepare(settings(source), 16).data_hash,
        prepare(settings(source), 24).data_hash,
        prepare(settings(source, lowercase=False), 16).data_hash,
    }
    assert len(hashes) == 3


def test_a_run_killed_while_preparing_leaves_nothing_that_counts(source, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(prepared, "save_quietly", stop)
        with pytest.raises(KeyboardInterrupt):
            prepare(settings(source), 16)
    folders = {path.name for path in (cache.cache_folder() / "prepared").iterdir()}
    assert len(folders) == 1  # the vocabulary, which was whole
    assert not any(name.startswith(".") for name in folders)
    assert len(prepare(settings(source), 16).train) > 0


def test_a_given_tokenizer_is_used_as_it_is(source):
    tokenizer = prepare(settings(source), 16).tokenizer
    before = tokenizer_hash(tokenizer)
    other = prepare(settings(source, lowercase=False), 16, tokenizer)
    assert tokenizer_hash(other.tokenizer) == before


def test_encoding_leaves_the_tokenizers_hash_alone(source):
    tokenizer = prepare(settings(source), 16).tokenizer
    before = tokenizer_hash(tokenizer)
    tokenizer(["a long text of many words"], truncation=True, max_length=4, padding=True)
    assert tokenizer_hash(tokenizer) == before


def test_the_whole_of_a_single_file_can_be_prepared_for_scoring(source):
    tokenizer = prepare(settings(source), 16).tokenizer
    assert len(RowPreparation(settings(source), 16).split("all", tokenizer).dataset) == len(LINES)
