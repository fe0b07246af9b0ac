"""Rows as they come: each is used, left out by a filter, or counted by reason and named with its line; never lost."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from training.common.errors import InputError
from training.data.prepared import Prepared
from training.data.settings import DataSettings
from training.data.sources.locate import load_rows
from training.data.text_jepa.rows import RowPreparation
from training.train import main

RECIPE = [str(Path(__file__).parents[2] / "training/recipes/text_jepa/quickstart.yaml"), "--device", "cpu"]
SOUND = [f"the old dog number {index} sees the red cat" for index in range(200)]
KINDS = ("txt", "jsonl", "csv", "parquet")
Prepare = Callable[..., Prepared]


class Case(NamedTuple):
    """A row, what it is called, and what must come of it: `kept`, `left out: REASON`, `blank` or `bad: REASON`."""

    name: str
    value: Any
    outcome: str


ANY_KIND = [
    Case("one character", "x", "left out: fewer than 2 words"),
    Case("one word of a megabyte", "x" * 1_000_000, "left out: fewer than 2 words"),
    Case("more than a megabyte", "word " * 200_001, "bad: longer than 1,000,000 characters"),
    Case("NUL", "the old\0 dog", "bad: NUL byte"),
    Case("emoji", "the 😀 dog 👩‍👩‍👧 sees 🇩🇪", "kept"),
    Case("right to left", "הכלב הישן רואה الكلب القديم", "kept"),
    Case("combining marks", "Z\u0351\u0343\u0329a\u0321lgo\u0335 sees a\u0308 dog", "kept"),
    Case("other separators", "the old\u2028dog\x0bsees\x85a\x0ccat", "kept"),
    Case("a control character", "the \x1b[31m old \x07 dog", "kept"),
    Case("quotes", "the \"old\" dog, 'the' cat", "kept"),
]
STRUCTURED = [
    Case("empty", "", "left out: empty"),
    Case("whitespace", " \t \u00a0\u3000 ", "left out: empty"),
]
TYPED = [
    Case("null", None, "bad: column 'text' is missing or null"),
    Case("number", 3.5, "bad: column 'text' holds float, not text"),
    Case("true", True, "bad: column 'text' holds bool, not text"),
    Case("object", {"a": "b"}, "bad: column 'text' holds dict, not text"),
    Case("list of texts", ["the old dog", "sees the cat"], "kept"),
    Case("list with a null", ["the old dog", None], "bad: column 'text' holds NoneType, not text"),
    Case("empty list", [], "left out: empty"),
    Case("half a surrogate", "the \ud800 dog", "bad: not valid UTF-8"),
]
CASES = (
    [("txt", case) for case in ANY_KIND]
    + [(kind, case) for kind in ("jsonl", "csv", "parquet") for case in [*ANY_KIND, *STRUCTURED]]
    + [("txt", Case("empty", "", "blank")), ("txt", Case("whitespace", " \t \u00a0\u3000 ", "blank"))]
    + [("jsonl", case) for case in TYPED]
    + [("parquet", TYPED[0])]
)
RAW = [
    ("invalid UTF-8", "txt", b"caf\xe9 and tea", "bad: not valid UTF-8"),
    ("invalid UTF-8", "jsonl", b'{"text": "caf\xe9 and tea"}', "bad: not valid UTF-8"),
    ("invalid UTF-8", "csv", b"caf\xe9 and tea", "bad: not valid UTF-8"),
    ("half an emoji", "txt", "the 😀".encode()[:-1], "bad: not valid UTF-8"),
    ("cut short", "jsonl", b'{"text": "the old d', "bad: not valid JSON"),
    ("another column", "jsonl", b'{"txt": "the old dog"}', "bad: column 'text' is missing or null"),
    ("no object", "jsonl", b'["the old dog"]', "bad: not a JSON object"),
    ("a bare word", "jsonl", b"null", "bad: not a JSON object"),
    ("not a number", "jsonl", b'{"text": NaN}', "bad: column 'text' holds float, not text"),
    ("nested a hundred thousand deep", "jsonl", b"[" * 100_000, "bad: not valid JSON"),
    ("a number of 5,000 digits", "jsonl", b'{"text": ' + b"9" * 5000 + b"}", "bad: not valid JSON"),
    ("an open quote", "csv", b'"the old dog', "bad: not valid CSV"),
    ("a stray quote", "csv", b'"the" old dog', "bad: not valid CSV"),
]


def file_of(kind: str, values: list[Any]) -> bytes:
    """Values as a file, one a line (a row in parquet); csv begins with its header."""
    if kind == "parquet":
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table({"text": pa.array(values, pa.string())}), sink)
        return sink.getvalue().to_pybytes()
    lines = {
        "txt": lambda: values,
        "jsonl": lambda: [json.dumps({"text": value}) for value in values],
        "csv": lambda: ["text", *(f'"{value.replace(chr(34), chr(34) * 2)}"' for value in values)],
    }[kind]()
    return ("\n".join(lines) + "\n").encode()


@pytest.fixture
def prepared(tmp_path: Path) -> Prepare:
    """`prepared("txt", content, max_bad_share=...)`: that training part beside sound valid and test parts."""

    def make(kind: str, content: bytes, **settings: Any) -> Prepared:
        (tmp_path / f"train.{kind}").write_bytes(content)
        for part in ("valid", "test"):
            (tmp_path / f"{part}.{kind}").write_bytes(file_of(kind, SOUND[:20]))
        values = {"max_bad_share": 0.01, "max_vocab": 400, **settings}
        return RowPreparation(DataSettings(data=str(tmp_path), **values), 32).prepare()

    return make


def check(made: Prepared, outcome: str, line: int) -> None:
    """The one row among the sound ones came to its outcome, and nothing else was lost."""
    report = made.reports["train"]["rows"]
    fate, _, reason = outcome.partition(": ")
    assert report["bad"] == ({reason: 1} if fate == "bad" else {})
    assert report["filtered"] == ({reason: 1} if fate == "left out" else {})
    assert report["blank_lines"] == (fate == "blank")
    assert report["kept"] >= len(SOUND) + (fate == "kept")
    if fate == "bad":
        assert f" line {line}: {reason}" in report["bad_examples"][0]
        assert "train." in report["bad_examples"][0]


@pytest.mark.parametrize(("kind", "case"), [pytest.param(k, c, id=f"{c.name}-{k}") for k, c in CASES])
def test_a_row_is_used_left_out_or_named_with_its_line(prepared: Prepare, kind: str, case: Case) -> None:
    made = prepared(kind, file_of(kind, [*SOUND, case.value]))
    check(made, case.outcome, line=len(SOUND) + 1 + (kind == "csv"))


@pytest.mark.parametrize(("kind", "line", "outcome"), [pytest.param(*c[1:], id=f"{c[0]}-{c[1]}") for c in RAW])
def test_a_line_that_cannot_be_read_is_named(prepared: Prepare, kind: str, line: bytes, outcome: str) -> None:
    made = prepared(kind, file_of(kind, SOUND) + line + b"\n")
    check(made, outcome, line=len(SOUND) + 1 + (kind == "csv"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_megabyte_in_one_row_becomes_windows(prepared: Prepare, kind: str) -> None:
    made = prepared(kind, file_of(kind, [*SOUND, "word " * 199_999]))
    assert made.reports["train"]["tokens"]["long_rows"] == 1
    assert made.reports["train"]["tokens"]["windows"] > 8000
    assert max(map(len, made.train[:]["input_ids"])) == 32


@pytest.mark.parametrize("kind", ["txt", "jsonl", "csv"])
def test_a_byte_order_mark_and_windows_line_ends_leave_no_trace(prepared: Prepare, kind: str) -> None:
    plain = prepared(kind, file_of(kind, SOUND)).train[:]
    marked = prepared(kind, b"\xef\xbb\xbf" + file_of(kind, SOUND).replace(b"\n", b"\r\n")).train[:]
    assert marked == plain


def test_rows_of_only_unknown_words_are_left_out_and_counted(prepared: Prepare) -> None:
    made = prepared("txt", file_of("txt", SOUND * 2 + ["qux quux corge"]), max_vocab=12)
    assert made.reports["train"]["tokens"]["nothing_to_predict"] == 1
    assert len(made.train) == 2 * len(SOUND)


def test_a_part_of_only_unknown_words_is_refused(prepared: Prepare, tmp_path: Path) -> None:
    made = prepared("txt", file_of("txt", SOUND))
    (tmp_path / "test.txt").write_text("qux quux\ncorge grault\n")
    with pytest.raises(InputError, match=r"none of the 2 rows of .* \[test\] has a word that the tokenizer knows"):
        _ = made.test


def test_duplicates_are_kept_each_with_an_id_of_its_own(prepared: Prepare) -> None:
    made = prepared("txt", file_of("txt", SOUND + ["the same old dog"] * 50))
    assert len(made.train) == len(set(made.train["row_id"])) == len(SOUND) + 50


def test_duplicates_of_one_file_are_never_on_two_sides_of_its_split(tmp_path: Path) -> None:
    path = tmp_path / "all.txt"
    path.write_bytes(file_of("txt", SOUND * 3))
    sides = [load_rows(DataSettings(data=str(path)), split).dataset["text"][:] for split in ("train", "valid", "test")]
    assert sum(map(len, sides)) == 3 * len(SOUND)
    train, valid, test = map(set, sides)
    assert valid
    assert test
    assert train.isdisjoint(valid)
    assert (train | valid).isdisjoint(test)


@pytest.mark.parametrize("count", [2, 3])
def test_one_percent_of_bad_rows_is_the_limit(prepared: Prepare, count: int) -> None:
    content = file_of("txt", SOUND[:198]) + b"\xff\n" * count
    if count == 2:
        assert prepared("txt", content).reports["train"]["rows"]["bad"] == {"not valid UTF-8": 2}
    else:
        with pytest.raises(InputError, match=r"3 of 201 rows of .*train\.txt line 199: not valid UTF-8"):
            prepared("txt", content)


def test_max_bad_share_allows_more_and_they_are_still_counted(
    prepared: Prepare, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="training")
    content = file_of("txt", SOUND) + b"\xff\n" * 50
    for said in ("first time", "from the cache"):
        caplog.clear()
        made = prepared("txt", content, max_bad_share=0.5)
        assert made.reports["train"]["rows"]["bad"] == {"not valid UTF-8": 50}, said
        assert "50 unusable (not valid UTF-8)" in caplog.text, said
        assert "train.txt line 201" in caplog.text, said


def test_what_filters_leave_out_never_stops_a_run(prepared: Prepare) -> None:
    content = file_of("txt", ["x", " = Heading = ", "far too many words " * 20] * 300 + SOUND)
    settings = {"max_bad_share": 0.0, "drop_headings": True, "max_words": 20}
    report = prepared("txt", content, **settings).reports["train"]["rows"]
    assert report["filtered"] == {"fewer than 2 words": 300, "headings": 300, "more than 20 words": 300}
    assert (report["kept"], report["bad"]) == (200, {})


def test_a_quote_that_is_never_closed_loses_no_line_unsaid(prepared: Prepare) -> None:
    content = b"text\n" + b"the old dog\n" * 100 + b'"the old cat\n' + b"the old hen\n" * 99
    with pytest.raises(InputError, match=r"100 of 200 rows of .*train\.csv line 102: not valid CSV"):
        prepared("csv", content)


WHOLE_FILES = [
    ("0 bytes", "txt", b"", [], "is empty (0 bytes)"),
    ("0 bytes", "jsonl", b"", [], "is empty (0 bytes)"),
    ("0 bytes", "csv", b"", [], "is empty (0 bytes)"),
    ("0 bytes", "parquet", b"", [], "is empty (0 bytes)"),
    ("blank lines only", "txt", b"\n \n\t\n", [], "no usable row in"),
    ("a header only", "csv", b"text\n", [], "no usable row in"),
    ("a byte-order mark only", "txt", b"\xef\xbb\xbf", [], "no usable row in"),
    ("a byte-order mark only", "csv", b"\xef\xbb\xbf", [], "has no text column"),
    ("a byte-order mark only", "jsonl", b"\xef\xbb\xbf", [], "no usable row in"),
    ("UTF-16", "txt", "\n".join(SOUND).encode("utf-16"), [], "is UTF-16; convert it: iconv -f UTF-16 -t UTF-8"),
    ("truncated", "jsonl", file_of("jsonl", SOUND[:50])[:-20], [], "train.jsonl line 50: not valid JSON"),
    ("truncated", "parquet", file_of("parquet", SOUND)[:-20], [], "train.parquet is no whole parquet file"),
    ("noise", "parquet", bytes(range(256)) * 9, [], "train.parquet is no whole parquet file"),
    ("mixed types", "jsonl", b'{"text": "a b"}\n{"text": 5}\n{"text": null}\n', [], "line 2: column 'text' holds int"),
    ("no text", "jsonl", b'{"n": 1}\n{"n": 2}\n', [], "has no text column; choose with --text_column among: n (int)"),
    ("wrong column", "jsonl", file_of("jsonl", SOUND), ["--text_column", "txt"], "has no column 'txt'; it has text"),
    ("wrong column", "csv", file_of("csv", SOUND), ["--text_column", "txt"], "has no column 'txt'; it has text"),
    ("wrong column", "parquet", file_of("parquet", SOUND), ["--text_column", "txt"], "has no column 'txt'; it has"),
    ("two columns", "csv", b"a,b\n1,2\n", [], "has 2 columns; choose with --text_column among: a ('1'), b ('2')"),
    ("an open quote in the names", "csv", b'"text\na b\n', [], "line 1: not valid CSV"),
    ("only filtered rows", "txt", b"one\ntwo\n", [], "2 left out: fewer than 5 words"),
]


@pytest.mark.parametrize(
    ("kind", "content", "flags", "said"), [pytest.param(*case[1:], id=f"{case[0]}-{case[1]}") for case in WHOLE_FILES]
)
def test_a_file_that_cannot_be_used_ends_with_2_and_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, content: bytes, flags: list[str], said: str
) -> None:
    (tmp_path / f"train.{kind}").write_bytes(content)
    assert main([*RECIPE, "--data", str(tmp_path), "--output_dir", str(tmp_path / "run"), *flags]) == 2
    ended(capsys, said, f"train.{kind}")


@pytest.mark.parametrize("rows", [5, 40])
def test_a_file_too_small_to_be_cut_says_so_before_the_first_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], rows: int
) -> None:
    (tmp_path / "a.txt").write_bytes(file_of("txt", SOUND[:5] * (rows // 5)))
    assert main([*RECIPE, "--data", str(tmp_path / "a.txt"), "--output_dir", str(tmp_path / "run")]) == 2
    ended(capsys, "so few different rows that its hash puts none into valid", "a.txt")


def test_a_test_part_that_cannot_be_used_is_found_before_the_first_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for part, content in (("train", SOUND), ("valid", SOUND[:20]), ("test", ["", ""])):
        (tmp_path / f"{part}.txt").write_bytes(file_of("txt", content))
    assert main([*RECIPE, "--data", str(tmp_path), "--output_dir", str(tmp_path / "run")]) == 2
    ended(capsys, "no usable row in", "test.txt")


def ended(capsys: pytest.CaptureFixture[str], said: str, name: str) -> None:
    """One line on stderr, which names the file."""
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    assert said in line
    assert name in line
