import json

import pytest

from training.common.errors import InputError
from training.data.settings import GeneratorDataSettings
from training.data.staged_generator.documents import load_documents, size_of

ARTICLES = "".join(
    f" \n = Town {n} = \n \n It has {n} houses . \n \n = = History = = \n \n"  # a heading, and one below it
    " Old .\n = Table ; x = \n \n = Row ; y = \n 1 2 3 \n"  # which are none
    for n in range(60)
)


def settings(data, **changes):
    return GeneratorDataSettings(data=str(data), **changes)


@pytest.fixture
def articles(tmp_path):
    path = tmp_path / "articles.txt"
    path.write_text(ARTICLES, encoding="utf-8")
    return path


@pytest.mark.parametrize("documents", ["headings", "file"])
def test_a_text_file_is_taken_verbatim_blank_lines_included(articles, documents):
    assert "".join(load_documents(settings(articles, documents=documents), "all").texts) == ARTICLES


def test_line_ends_become_one_kind_and_the_last_line_gets_one(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\n\r\ntwo | ||| three\tfour")
    assert load_documents(settings(tmp_path / "a.txt", documents="file"), "all").texts == [
        "one\n\ntwo | ||| three\tfour\n"
    ]


def test_a_top_level_heading_between_blank_lines_begins_a_document_and_no_other_line_does(articles):
    texts = load_documents(settings(articles, documents="headings"), "all").texts
    assert len(texts) == 60
    assert all(text.lstrip().startswith(f"= Town {n} = ") for n, text in enumerate(texts))


def test_what_stands_before_the_first_heading_is_a_document(tmp_path):
    (tmp_path / "a.txt").write_text("a foreword\n\n = One = \n\nfirst\n", encoding="utf-8")
    texts = load_documents(settings(tmp_path / "a.txt", documents="headings"), "all").texts
    assert texts == ["a foreword\n\n", " = One = \n\nfirst\n"]


def test_rows_that_are_lines_with_their_ends_make_the_same_documents_as_the_file(articles, tmp_path):
    rows = [{"text": line} for line in ARTICLES.splitlines(keepends=True)]
    (tmp_path / "a.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    from_rows = load_documents(settings(tmp_path / "a.jsonl", documents="headings"), "all")
    assert from_rows.texts == load_documents(settings(articles, documents="headings"), "all").texts


def test_each_row_is_a_document_blank_ones_apart_and_turns_are_its_lines(tmp_path):
    rows = [["Hi .", "Hello ."], ["  "], ["One\n\ntwo"]]
    (tmp_path / "a.jsonl").write_text("".join(f"{json.dumps({'turns': row})}\n" for row in rows), encoding="utf-8")
    found = load_documents(settings(tmp_path / "a.jsonl"), "all")
    assert found.texts == ["Hi .\nHello .", "One\n\ntwo"]
    assert (found.report.kept, found.report.blank_lines, found.report.unit) == (2, 1, "documents")


@pytest.mark.parametrize("documents", ["rows", "headings"])
def test_parts_that_are_missing_are_cut_by_whole_documents_and_nothing_is_lost(articles, documents):
    parts = {split: load_documents(settings(articles, documents=documents), split) for split in ("train", "valid")}
    parts["test"] = load_documents(settings(articles, documents=documents), "test")
    everything = load_documents(settings(articles, documents=documents), "all").texts
    assert sorted(text for part in parts.values() for text in part.texts) == sorted(everything)
    assert set(parts["train"].texts).isdisjoint(parts["valid"].texts + parts["test"].texts)
    assert "documents, chosen by hash, are held out" in parts["train"].report.notes[0]


def test_the_end_of_a_single_text_is_held_out(articles):
    parts = [load_documents(settings(articles, documents="file"), split) for split in ("train", "valid", "test")]
    assert "".join(text for part in parts for text in part.texts) == ARTICLES
    assert [len(part.texts) for part in parts] == [1, 1, 1]
    assert all(part.texts[0].endswith("\n") for part in parts)
    assert len(parts[0].texts[0]) == pytest.approx(0.9 * len(ARTICLES), rel=0.05)
    assert "its end, are held out" in parts[0].report.notes[0]


@pytest.mark.parametrize("data", ["builtin:python_docs"])
def test_a_built_in_text_has_a_document_for_each_of_its_texts(data):
    whole = {split: load_documents(settings(data, documents="file"), split) for split in ("train", "valid", "test")}
    rows = {split: load_documents(settings(data, documents="rows"), split) for split in ("train", "valid", "test")}
    assert len(whole["train"].texts) > 50
    for split in whole:  # held out are the same texts, whatever a document is
        assert "".join(whole[split].texts) == "".join(f"{row}\n" for row in rows[split].texts)


def test_at_most_max_rows_documents_are_kept(articles):
    found = load_documents(settings(articles, documents="headings", max_rows=7), "all")
    assert len(found.texts) == found.report.kept == 7


def test_words_lines_and_bytes_are_counted_over_documents():
    size = size_of(["one two\n\nthrée\n", "four"])
    assert (size.documents, size.words, size.line_ends, size.bytes) == (2, 4, 4, 20)


def test_broken_lines_are_left_out_counted_and_too_many_of_them_refused(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"good\n" * 99 + b"\xff\n")
    found = load_documents(settings(tmp_path / "a.txt", documents="file"), "all")
    assert found.texts == ["good\n" * 99]
    assert found.report.bad == {"not valid UTF-8": 1}
    assert "a.txt line 100" in found.report.bad_examples[0]
    with pytest.raises(InputError, match="max_bad_share"):
        load_documents(settings(tmp_path / "a.txt", documents="file", max_bad_share=0.001), "all")


@pytest.mark.parametrize(
    ("content", "documents", "split", "message"),
    [
        ("\n \n", "rows", "all", "no usable text"),
        ("one line\n", "rows", "valid", "so few documents"),
        ("one line\n", "file", "valid", "so few documents"),
        ("one line\n", "file", "dev", "use one of train"),
    ],
)
def test_a_source_without_a_document_is_named(tmp_path, content, documents, split, message):
    (tmp_path / "a.txt").write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=message) as found:
        load_documents(settings(tmp_path / "a.txt", documents=documents), split)
    assert "\n" not in str(found.value)
