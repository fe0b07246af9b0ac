"""Other people's files, as they are: what is read of each, and what is asked for."""

import bz2
import gzip
import json

import datasets
import pyarrow as pa
import pytest

from training.common.errors import InputError
from training.data.settings import DataSettings, GeneratorDataSettings
from training.data.sources.locate import load_rows
from training.data.staged_generator.documents import load_documents


def rows_of(path, **settings):
    return load_rows(DataSettings(data=str(path), min_words=1, **settings), "all")


def texts(path, **settings):
    return rows_of(path, **settings).dataset["text"][:]


def zst(content):
    return pa.compress(content, codec="zstd", asbytes=True)


@pytest.mark.parametrize(
    ("name", "pack"),
    [("a.txt.gz", gzip.compress), ("a.txt.bz2", bz2.compress), ("a.txt.zst", zst), ("a.md", bytes)],
)
def test_text_is_read_from_compressed_files(tmp_path, name, pack):
    (tmp_path / name).write_bytes(pack(b"one two\nthree four\n"))
    assert texts(tmp_path / name) == ["one two", "three four"]


@pytest.mark.parametrize("name", ["a.csv.gz", "a.jsonl.gz", "a.json.gz"])
def test_tables_are_read_from_compressed_files(tmp_path, name):
    content = {"a.csv.gz": "text,n\none two,1\n", "a.jsonl.gz": '{"text": "one two"}\n'}
    (tmp_path / name).write_bytes(gzip.compress(content.get(name, '[{"text": "one two"}]').encode()))
    assert texts(tmp_path / name) == ["one two"]


@pytest.mark.parametrize(
    "content",
    ['[{"text": "a b"}, {"text": "c d"}]', '{"version": 1, "data": [{"text": "a b"}, {"text": "c d"}]}',
     '{"text": "a b"}\n{"text": "c d"}\n'],
)  # fmt: skip
def test_a_json_file_is_an_array_an_object_with_one_or_lines(tmp_path, content):
    (tmp_path / "a.json").write_text(content)
    assert texts(tmp_path / "a.json") == ["a b", "c d"]


def test_the_separator_of_a_csv_is_sniffed_and_said(tmp_path):
    (tmp_path / "a.csv").write_text('id;text;n\n1;"a; b, c";2\n2;d e;3\n')
    found = rows_of(tmp_path / "a.csv")
    assert found.dataset["text"][:] == ["a; b, c", "d e"]
    assert "separated by ';'" in found.report.notes[-1]


def test_columns_within_objects_are_named_by_their_path(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"id": "x1", "doc": {"title": "t", "body": "a b"}, "tags": ["u"]}))
    with pytest.raises(InputError, match=r"choose with --text_column among: .*doc.body \(text: 'a b'\)"):
        texts(path)
    assert texts(path, text_column="doc.body") == ["a b"]


def test_an_id_is_never_taken_for_the_text(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"id": "x1", "n": 3}\n')
    with pytest.raises(InputError, match="has no text column"):
        texts(path)
    path.write_text('{"ticket_id": "x1", "body": "a b"}\n')
    found = rows_of(path)
    assert found.dataset["text"][:] == ["a b"]
    assert "reads the column 'body' of ticket_id, body" in found.report.notes[-1]


def test_a_folder_that_datasets_saved_is_read_with_its_splits(tmp_path):
    parts = {name: datasets.Dataset.from_dict({"text": [f"{name} row"]}) for name in ("train", "validation", "test")}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "saved")
    for split, said in (("train", "train row"), ("valid", "validation row"), ("test", "test row")):
        assert load_rows(DataSettings(data=str(tmp_path / "saved")), split).dataset["text"][:] == [said]


@pytest.mark.parametrize("make", [pa.ipc.new_file, pa.ipc.new_stream])
def test_arrow_files_and_streams_are_read(tmp_path, make):
    table = pa.table({"doc": [{"body": "a b"}, {"body": "c d"}]})
    with make(tmp_path / "a.arrow", table.schema) as writer:
        writer.write_table(table)
    assert texts(tmp_path / "a.arrow") == ["a b", "c d"]


@pytest.fixture
def notes(tmp_path):
    folder = tmp_path / "notes"
    (folder / "deep").mkdir(parents=True)
    for number in range(4):
        lines = [f"note {number} line {line} says something" for line in range(40)]
        (folder / "deep" / f"n{number}.md").write_text("\n".join(lines) + "\n")
    return folder


def test_each_file_of_a_folder_is_a_document_whose_end_is_held_out(notes):
    train, valid = (load_documents(GeneratorDataSettings(data=str(notes)), split) for split in ("train", "valid"))
    assert len(train.texts) == len(valid.texts) == 4
    assert [text.split()[1] for text in train.texts] == ["0", "1", "2", "3"]
    assert not {line for text in train.texts for line in text.splitlines()} & set(valid.texts[0].splitlines())


def test_a_pattern_names_files_of_any_kind_of_text(tmp_path):
    for number in range(3):
        (tmp_path / f"m{number}.py").write_text(f"value = {number}\n")
    found = load_documents(GeneratorDataSettings(data=str(tmp_path / "*.py")), "all")
    assert found.texts == [f"value = {number}\n" for number in range(3)]


def test_a_row_of_a_table_is_a_document_and_one_document_is_warned_of(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(f"{json.dumps({'text': f'row {number}'})}\n" for number in range(100)))
    assert len(load_documents(GeneratorDataSettings(data=str(path)), "all").texts) == 100
    joined = load_documents(GeneratorDataSettings(data=str(path), documents="file"), "train")
    assert "warning: the training part is one single document" in joined.report.notes


def test_a_book_on_one_line_is_cut_into_pieces_on_both_sides(tmp_path):
    (tmp_path / "a.txt").write_text(" ".join(f"Sentence number {number} stands here." for number in range(4000)))
    for split in ("train", "valid", "test"):
        assert len(load_rows(DataSettings(data=str(tmp_path / "a.txt")), split).dataset)
        assert load_documents(GeneratorDataSettings(data=str(tmp_path / "a.txt")), split).texts


def test_of_many_files_whole_ones_are_held_out_and_at_least_one_for_each_part(tmp_path):
    for number in range(25):
        (tmp_path / f"n{number}.txt").write_text(f"note {number} has one line\n")
    for load in (
        lambda split: load_documents(GeneratorDataSettings(data=str(tmp_path)), split).texts,
        lambda split: load_rows(DataSettings(data=str(tmp_path)), split).dataset["text"][:],
    ):
        found = [{text.split()[1] for text in load(split)} for split in ("train", "valid", "test")]
        assert [len(side) for side in found] == [23, 1, 1]
        assert len(set.union(*found)) == 25


def test_words_of_japanese_are_counted_by_characters_and_need_no_spaces(tmp_path):
    (tmp_path / "ja.txt").write_text("猫は学校で手紙を食べました。\n" * 3)
    assert len(load_rows(DataSettings(data=str(tmp_path / "ja.txt"), min_words=5), "all").dataset) == 3


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.pdf": b"x", "b.pdf": b"x"}, r"nothing else that can be read \(2 .pdf\)"),
        ({"a.txt": b"a b", "b.csv": b"text\na b"}, "files of several kinds"),
    ],
)
def test_a_folder_of_nothing_or_of_several_kinds_is_named(tmp_path, files, message):
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        texts(tmp_path)


@pytest.mark.parametrize(
    ("content", "remedy"),
    [("one two\n".encode("utf-16"), "iconv -f UTF-16"), ("zwölf böse\n".encode("latin-1") * 9, "iconv -f LATIN1")],
)
def test_text_of_another_encoding_is_named_with_the_way_to_convert_it(tmp_path, content, remedy):
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(InputError, match=remedy):
        texts(tmp_path / "a.txt")


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.csv.gz"])
def test_a_file_that_is_no_gzip_is_one_line(tmp_path, name):
    (tmp_path / name).write_bytes(b"no gzip at all")
    with pytest.raises(InputError, match=r"after line 0: Not a gzipped file"):
        rows_of(tmp_path / name)


def test_column_names_in_a_windows_encoding_are_told_how_to_convert_them(tmp_path):
    (tmp_path / "a.csv").write_bytes("Nr;Straße;Anfrage\n1;Weg;Können Sie\n".encode("cp1252"))
    for flags in ({}, {"text_column": "Anfrage"}):
        with pytest.raises(
            InputError, match=r"a.csv line 1, which names the columns, is not valid UTF-8; .* -f CP1252"
        ):
            rows_of(tmp_path / "a.csv", **flags)


def test_the_messages_of_an_exported_channel_are_rows(tmp_path):
    messages = [{"id": str(n), "content": f"message {n}", "author": {"id": "7", "name": "ann"}} for n in range(5)]
    (tmp_path / "a.json").write_text(json.dumps({"guild": {"id": "1", "name": "g"}, "messages": messages}))
    assert texts(tmp_path / "a.json", text_column="content") == [f"message {n}" for n in range(5)]
