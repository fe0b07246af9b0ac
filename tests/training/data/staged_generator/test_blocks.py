import pytest

from training.data import cache
from training.data.sampling import PassDataset
from training.data.settings import GeneratorDataSettings
from training.data.staged_generator import blocks as blocks_module
from training.data.staged_generator.blocks import BlockPreparation

LINES = [f"the {word} of number {number} was here" for number in range(60) for word in ("cat", "dog", "bird")]


@pytest.fixture
def source(tmp_path, monkeypatch):
    monkeypatch.setenv("JEPA_CACHE", str(tmp_path / "cache"))
    (tmp_path / "rows.txt").write_text("\n".join(LINES), encoding="utf-8")
    return tmp_path / "rows.txt"


def settings(source, **changes):
    return GeneratorDataSettings(data=str(source), **{"max_vocab": 300, "documents": "rows", **changes})


def prepare_blocks(settings, length, tokenizer=None):
    return BlockPreparation(settings, length).prepare(tokenizer)


def test_every_token_of_the_training_part_is_in_the_blocks_and_counted(source):
    prepared = prepare_blocks(settings(source), 32)
    report = prepared.reports["train"]
    ids = [token for block in prepared.train["input_ids"] for token in block]
    assert report["tokens"]["tokens"] == len(ids)
    assert report["tokens"]["blocks"] == len(prepared.train) == -(-len(ids) // 32)
    documents = report["rows"]["kept"]
    assert report["tokens"]["documents"] == documents == ids.count(prepared.tokenizer.bos_token_id)
    assert report["tokens"]["line_ends"] == documents
    text = prepared.tokenizer.decode(ids)
    assert text.count(" was here[EOS]") == documents
    starts = sum(position == 0 for block in prepared.train["position_ids"] for position in block)
    assert prepared.counts.sum() == len(ids) - starts
    assert len(prepared.counts) == len(prepared.tokenizer) == 300


def test_the_held_out_parts_are_made_of_other_documents_and_the_test_part_when_asked(source):
    prepared = prepare_blocks(settings(source), 32)
    assert set(prepared.reports) == {"train", "valid"}
    decoded = [
        set(prepared.tokenizer.decode([t for block in part["input_ids"] for t in block]).split("[EOS]"))
        for part in (prepared.train, prepared.valid, prepared.test)
    ]
    assert set(prepared.reports) == {"train", "valid", "test"}
    assert [(a & b) - {""} for a, b in zip(decoded, decoded[1:] + decoded[:1], strict=True)] == [set()] * 3


def test_a_second_time_nothing_is_made_and_a_moved_file_stays_prepared(source, monkeypatch, caplog):
    first = prepare_blocks(settings(source), 32)
    moved = source.rename(source.with_name("moved.txt"))
    monkeypatch.setattr(blocks_module, "load_documents", lambda *_: pytest.fail("documents were read again"))
    with caplog.at_level("INFO"):
        again = prepare_blocks(settings(moved), 32)
    assert again.data_hash == first.data_hash
    assert again.train["input_ids"][:] == first.train["input_ids"][:]
    assert f"{len(first.train)} training blocks, prepared before" in caplog.text


@pytest.mark.parametrize("changes", [{"documents": "file"}, {"max_rows": 50}, {"max_vocab": 280}, {"lowercase": True}])
def test_another_setting_makes_other_blocks(source, changes):
    assert prepare_blocks(settings(source, **changes), 32).data_hash != prepare_blocks(settings(source), 32).data_hash


def test_another_text_length_or_tokenizer_makes_other_blocks(source):
    first = prepare_blocks(settings(source), 32)
    hashes = {first.data_hash, prepare_blocks(settings(source), 16, first.tokenizer).data_hash}
    source.write_text("\n".join(LINES[1:]), encoding="utf-8")
    hashes.add(prepare_blocks(settings(source), 32, first.tokenizer).data_hash)
    hashes.add(prepare_blocks(settings(source), 32).data_hash)
    assert len(hashes) == 4


def test_a_given_tokenizer_is_used_as_it_is_and_nothing_is_trained(source, monkeypatch):
    tokenizer = prepare_blocks(settings(source), 32).tokenizer
    folders = set((cache.cache_folder() / "prepared").iterdir())
    prepared = prepare_blocks(settings(source, max_vocab=5000), 32, tokenizer)
    assert prepared.tokenizer is tokenizer
    assert len(set((cache.cache_folder() / "prepared").iterdir()) - folders) == 2


def test_unknown_words_of_the_text_are_counted(source):
    source.write_text("\n".join(line.replace("cat", "<unk>") for line in LINES), encoding="utf-8")
    prepared = prepare_blocks(settings(source), 32)
    report = BlockPreparation(settings(source), 32).split("all", prepared.tokenizer).report["tokens"]
    assert report["unknown"] == sum("cat" in line for line in LINES)
    assert prepared.counts[prepared.tokenizer.unk_token_id] > 0  # it is predicted like any token


def test_rows_come_by_number_with_their_positions(source):
    prepared = prepare_blocks(settings(source), 32)
    rows = PassDataset(prepared.train)
    for number in (0, 1, len(rows) - 1):
        row = rows[number, 7]
        assert row["input_ids"].tolist() == prepared.train[number]["input_ids"]
        assert row["position_ids"].tolist() == prepared.train[number]["position_ids"]
        assert (row["row_id"], row["pass_index"]) == (prepared.train[number]["row_id"], 7)
