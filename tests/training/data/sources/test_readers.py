import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from training.common.errors import InputError
from training.data.settings import DataSettings
from training.data.sources.locate import load_rows
from training.data.sources.readers import open_file


@pytest.fixture
def load(tmp_path):
    """Writes bytes or text to a file of the given name and loads all of its rows."""

    def write_and_load(name, content, **settings):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        settings = {"min_words": 1, "max_bad_share": 1.0} | settings
        return load_rows(DataSettings(data=str(path), **settings), "all")

    return write_and_load


def texts(rows):
    return rows.dataset["text"][:]


def jsonl(*records):
    return "\n".join(json.dumps(record) for record in records)


def test_a_line_is_a_phrase_and_blank_lines_separate(load):
    rows = load("a.txt", "one two\n\n  \nthree four\n")
    assert texts(rows) == ["one two", "three four"]
    assert (rows.report.blank_lines, rows.report.filtered, rows.report.bad) == (2, {}, {})


@pytest.mark.parametrize("line", ["left side\tright side", "left side ||| right side"])
def test_of_a_line_with_two_sides_one_or_both_are_taken(load, line):
    assert texts(load("a.txt", line)) == ["left side"]
    assert texts(load("a.txt", line, sides="both")) == ["left side", "right side"]


def test_windows_line_ends_and_a_byte_order_mark_leave_no_trace(load):
    assert texts(load("a.txt", b"\xef\xbb\xbfone two\r\nthree\r\n")) == ["one two", "three"]


def test_emoji_and_right_to_left_text_survive(load):
    lines = ["😀 ok", "שלום עולם", "a\u2028b"]
    assert texts(load("a.txt", "\n".join(lines))) == lines


def test_the_literal_unk_becomes_the_unknown_token(load):
    assert texts(load("a.txt", "the <unk> house")) == ["the [UNK] house"]


@pytest.mark.parametrize(
    ("name", "content", "reason", "line"),
    [
        ("a.txt", b"fine\n\xff\xfe bad\n", "not valid UTF-8", 2),
        ("a.txt", b"fine\nfine\nn\0l\n", "NUL byte", 3),
        ("a.txt", b"fine\n" + b"long " * 200_001, "longer than 1,000,000 characters", 2),
        ("a.jsonl", '{"text": "fine"}\n{"text": "cut', "not valid JSON", 2),
        ("a.jsonl", '{"text": "fine"}\n\n["text"]', "not a JSON object", 3),
        ("a.jsonl", jsonl({"text": "fine"}, {"text": 3}), "column 'text' holds int, not text", 2),
        ("a.jsonl", jsonl({"text": "fine"}, {"text": None}), "column 'text' is missing or null", 2),
        ("a.jsonl", jsonl({"text": "fine"}, {"txt": "x"}), "column 'text' is missing or null", 2),
        ("a.jsonl", jsonl({"text": "fine"}, {"text": ["a", 1]}), "column 'text' holds int, not text", 2),
        ("a.jsonl", b'{"text": "fine"}\n{"text": "\\ud800"}', "not valid UTF-8", 2),
        ("a.csv", "n,text\n1,fine\n2\n", "column 'text' is missing or null", 3),
        ("a.csv", b"n,text\n1,fine\n2,caf\xe9\n", "not valid UTF-8", 3),
    ],
)
def test_a_bad_row_is_counted_and_named_with_its_line(load, name, content, reason, line):
    rows = load(name, content)
    assert texts(rows)[0] == "fine"
    assert rows.report.bad == {reason: 1}
    assert f"{name} line {line}: {reason}" in rows.report.bad_examples[0]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", "fine\n{long}\nfine too\n"),
        ("a.jsonl", '{{"text": "fine"}}\n{{"text": "{long}"}}\n{{"text": "fine too"}}\n'),
        ("a.csv", "n,text\n1,fine\n2,{long}\n3,fine too\n"),
    ],
)
def test_of_a_line_beyond_the_limit_no_more_is_held_and_the_next_is_read(tmp_path, name, content):
    (tmp_path / name).write_text(content.format(long="word " * 20_000))
    reader = open_file(tmp_path / name, DataSettings(data="memory"), longest_line=4096)
    assert max(len(text) for text, *_ in reader._lines()) < 4096
    rows = list(reader.read())
    assert [row.texts for row in rows if row.problem is None] == [("fine",), ("fine too",)]
    assert [row.problem for row in rows if row.problem is not None] == ["longer than 1,000,000 characters"]


def test_a_book_on_one_line_beyond_the_limit_is_told_how_to_cut_it(load):
    with pytest.raises(InputError, match=r"longer than 1,000,000 characters.*fold -s -w 10000"):
        load("a.txt", "word " * 200_001, max_bad_share=0.01)


def test_too_many_bad_rows_stop_with_file_line_and_remedy(load):
    with pytest.raises(InputError, match=r"1 of 2 rows .*a\.jsonl line 2: not valid JSON.*max_bad_share"):
        load("a.jsonl", '{"text": "fine"}\n{"text', max_bad_share=0.01)


def test_a_few_bad_rows_do_not_stop(load):
    rows = load("a.txt", b"fine words\n" * 200 + b"\xff\n", max_bad_share=0.01)
    assert (rows.report.kept, rows.report.num_bad) == (200, 1)


def test_rows_left_out_by_filters_are_no_bad_rows(load):
    content = " = Title = \none\none two three\n" + "word " * 9
    rows = load("a.txt", content, drop_headings=True, min_words=2, max_words=5, max_bad_share=0.0)
    assert texts(rows) == ["one two three"]
    assert rows.report.filtered == {"headings": 1, "fewer than 2 words": 1, "more than 5 words": 1}


def test_lists_are_flattened_and_their_only_column_is_found(load):
    rows = load("a.jsonl", jsonl({"id": 1, "turns": ["hi there", ["you", "two"]]}, {"id": 2, "turns": ["bye"]}))
    assert texts(rows) == ["hi there", "you", "two", "bye"]


def test_of_several_text_columns_one_must_be_named(load):
    content = jsonl({"title": "a b", "body": "c d", "id": 7})
    with pytest.raises(
        InputError, match=r"2 text columns.*--text_column.*title \(text: 'a b'\), body \(text: 'c d'\), id \(int\)"
    ):
        load("a.jsonl", content)
    assert texts(load("a.jsonl", content, text_column="body")) == ["c d"]
    with pytest.raises(InputError, match="no column 'boddy'"):
        load("a.jsonl", content, text_column="boddy")
    with pytest.raises(InputError, match=r"'id' of .* holds no text"):
        load("a.jsonl", content, text_column="id")


def test_csv_knows_quotes_and_keeps_what_looks_like_a_number_or_null(load):
    rows = load("a.csv", 'id,text\n1,"a, b\nc"\n2,NA\n3,1.50\n')
    assert texts(rows) == ["a, b\nc", "NA", "1.50"]


def test_a_csv_with_several_columns_asks_which(load):
    with pytest.raises(InputError, match=r"--text_column among: title \('a'\), body \('b'\)"):
        load("a.csv", "title,body\na,b\n")
    assert texts(load("a.csv", "title,body\na,b\n", text_column="body")) == ["b"]


def test_tsv_is_lines_with_two_sides_or_a_table_when_a_column_is_named(load):
    assert texts(load("a.tsv", "q\ta\nhi\tyou\n")) == ["q", "hi"]
    assert texts(load("a.tsv", "q\ta\nhi\tyou\n", text_column="a")) == ["you"]


@pytest.mark.parametrize("header", ["label\ttext", "sentence\tlabel", "Id\tReview\tStars"])
def test_a_tsv_that_begins_with_column_names_asks_which(load, header):
    content = f"{header}\n" + "1\tgood film\t5\n"
    with pytest.raises(InputError, match=f"--text_column among: {header.replace(chr(9), ', ')} "):
        load("a.tsv", content)
    with pytest.raises(InputError, match="no column 'nope'"):
        load("a.tsv", content, text_column="nope")


def test_a_tsv_gives_the_column_that_was_asked_for(load):
    assert texts(load("a.tsv", "label\ttext\n1\tgood film\n", text_column="text")) == ["good film"]


def test_of_a_text_file_no_column_can_be_asked_for(load):
    with pytest.raises(InputError, match=r"text_column: 'nope' was asked for, but .*a\.txt is a text file"):
        load("a.txt", "one two\n", text_column="nope")
    with pytest.raises(InputError, match="text_column: 'nope' was asked for, but builtin:sotu has no columns"):
        load_rows(DataSettings(data="builtin:sotu", text_column="nope"), "all")


@pytest.mark.parametrize(
    ("first", "kept", "said"),
    [
        ("the old man", ["the old man", "saw it"], "no column names: its first line is read as a phrase"),
        ("review_text", ["saw it"], "one column, named 'review_text' by its first line"),
        ("Review Text", ["saw it"], "one column, named 'Review Text' by its first line"),
    ],
)
def test_a_csv_of_one_column_loses_no_phrase_to_its_name_unsaid(load, first, kept, said):
    rows = load("a.csv", f"{first}\nsaw it\n")
    assert texts(rows) == kept
    assert said in rows.report.notes[-1]


def test_a_csv_column_of_a_usual_name_needs_no_words(load):
    assert load("a.csv", "text\nsaw it\n").report.notes == []


def test_parquet_gives_text_and_lists_and_names_its_columns(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"n": [1, 2], "dialog": [["a b", "c"], None]}), path)
    rows = load_rows(DataSettings(data=str(path), min_words=1, max_bad_share=1.0), "all")
    assert texts(rows) == ["a b", "c"]
    assert rows.report.bad_examples == [f"{path} line 2: column 'dialog' is missing or null"]
    with pytest.raises(InputError, match=r"'n' of .* holds no text"):
        load_rows(DataSettings(data=str(path), text_column="n"), "all")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", "empty"),
        ("a.txt", b"\n\n", "no usable row"),
        ("a.parquet", b"PAR1 cut off", "no whole parquet file"),
        ("a.pdf", b"x", "not a file of a known kind"),
        ("a.jsonl", b'{"n": 1}', "no text column"),
        ("a.jsonl", b"text", "not valid JSON"),
    ],
)
def test_an_unusable_file_is_an_error_of_one_line_that_names_it(load, name, content, message):
    with pytest.raises(InputError, match=message) as caught:
        load(name, content, max_bad_share=0.01)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_random_bytes_never_raise_anything_else(load):
    for number in range(50):
        content = bytes((number * 37 + step * step * 11) % 256 for step in range(200))
        for name in ("a.txt", "a.jsonl", "a.csv", "a.tsv"):
            try:
                load(name, content, text_column="text" if name == "a.tsv" else None)
            except InputError:
                continue
