import json
import logging

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from training.common.errors import InputError
from training.data.dialogue_jepa.dialogues import BETWEEN_TURNS, load_dialogues, normalised, pairs_of, tidy_turn
from training.data.settings import DialogueDataSettings
from training.data.sources.shortcuts import SHORTCUTS, Shortcut

PAIRS = [(f"how are you , number {n} ?", f"number {n} is fine .") for n in range(300)]


def settings(data, **changes):
    return DialogueDataSettings(data=str(data), **changes)


def write_turns(path, dialogues):
    path.write_text("".join(f"{json.dumps({'turns': turns})}\n" for turns in dialogues), encoding="utf-8")
    return path


def as_lines(rows, separator):
    return "".join(f"{prompt}{separator}{reply}\n" for prompt, reply in rows).encode()


def as_jsonl(rows):
    return "".join(f"{json.dumps({'id': 7, 'prompt': p, 'reply': r, 'text': 'other'})}\n" for p, r in rows).encode()


def as_parquet(rows):
    sink = pa.BufferOutputStream()
    table = pa.table({"reply": [r for _, r in rows], "prompt": [p for p, _ in rows], "topic": ["x"] * len(rows)})
    pq.write_table(table, sink)
    return sink.getvalue().to_pybytes()


def as_table(rows, delimiter):
    return "".join(f'"{a}"{delimiter}"{b}"{delimiter}x\n' for a, b in [("reply", "prompt"), *[r[::-1] for r in rows]])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", as_lines(PAIRS, "\t")),
        ("a.txt", as_lines(PAIRS, " ||| ")),
        ("a.txt", b"\xef\xbb\xbf" + as_lines(PAIRS, "\t").replace(b"\n", b"\r\n\r\n")),
        ("a.tsv", as_lines(PAIRS, "\t")),
        ("a.tsv", as_table(PAIRS, "\t").encode()),
        ("a.csv", as_table(PAIRS, ",").encode()),
        ("a.jsonl", as_jsonl(PAIRS)),
        ("a.parquet", as_parquet(PAIRS)),
    ],
)
def test_prompts_and_replies_come_from_lines_and_from_columns(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    found = load_dialogues(settings(tmp_path / name, join_punctuation=False), "all")
    assert [tuple(turns) for turns in found.turns] == PAIRS
    assert (found.report.kept, found.report.read, found.report.unit) == (300, 300, "dialogues")


def test_every_turn_after_the_first_is_a_reply_to_the_turns_before_it(tmp_path):
    path = write_turns(tmp_path / "a.jsonl", [list("abcd"), ["e", "f"]])
    found = pairs_of(load_dialogues(settings(path, context_turns=2), "all"), settings(path, context_turns=2))
    assert [("".join(pair.context), pair.reply) for pair in found] == [
        ("a", "b"),
        ("ab", "c"),
        ("bc", "d"),
        ("e", "f"),
    ]


def test_pairs_know_their_dialogue_and_have_numbers_that_do_not_depend_on_their_place(tmp_path):
    dialogues = [list("abc"), list("abc"), list("xyz")]
    first, second = (write_turns(tmp_path / f"{n}.jsonl", rows) for n, rows in enumerate((dialogues, dialogues[::-1])))
    here, there = (list(pairs_of(load_dialogues(settings(path), "all"), settings(path))) for path in (first, second))
    assert len({pair.row_id for pair in here}) == 6
    assert len({pair.dialogue_id for pair in here}) == 3
    assert {pair.row_id for pair in here} == {pair.row_id for pair in there}


def test_a_part_that_is_missing_is_cut_by_whole_dialogues_and_those_that_begin_alike_stay_together(tmp_path):
    twins = [[f"hello {n}", f"I am {n} .", "good"][: 2 + twin] for n in range(200) for twin in (0, 1)]
    path = write_turns(tmp_path / "a.jsonl", twins)
    parts = [load_dialogues(settings(path), split) for split in ("train", "valid", "test")]
    assert sorted(turns for part in parts for turns in part.turns) == sorted(
        [tidy_turn(t, True) for t in d] for d in twins
    )
    openings = [{turns[0] for turns in part.turns} for part in parts]
    assert min(map(len, openings)) > 2
    assert not openings[0] & openings[1] | openings[0] & openings[2] | openings[1] & openings[2]
    assert "dialogues, whole, chosen by hash, are held out" in parts[0].report.notes[0]


def test_a_dialogue_with_one_turn_is_counted_and_named(tmp_path):
    path = write_turns(tmp_path / "a.jsonl", [["a", "b"]] * 100 + [["alone", " "]] + [["c", " ", "d"]])
    found = load_dialogues(settings(path), "all")
    assert found.report.bad == {"a dialogue with one turn, which nobody answers": 1}
    assert "a.jsonl line 101: a dialogue with one turn" in found.report.bad_examples[0]
    assert found.report.filtered == {"blank turns": 1}
    assert found.turns[-1] == ["c", "d"]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("no separator here", "no TAB or ||| between prompt and reply"),
        ("one\ttwo\tthree", "more than one separator between prompt and reply"),
        ("prompt\t ", "empty reply"),
        ("\treply", "empty prompt"),
        ("a\0b\tc", "NUL byte"),
    ],
)
def test_a_line_that_is_no_pair_is_counted_and_named_with_its_number(tmp_path, line, problem):
    (tmp_path / "a.txt").write_bytes(as_lines(PAIRS[:150], "\t") + f"{line}\n".encode() + as_lines(PAIRS[150:], "\t"))
    found = load_dialogues(settings(tmp_path / "a.txt"), "all")
    assert found.report.bad == {problem: 1}
    assert f"a.txt line 151: {problem}" in found.report.bad_examples[0]
    with pytest.raises(InputError, match=r"1 of 301 rows .* line 151"):
        load_dialogues(settings(tmp_path / "a.txt", max_bad_share=0), "all")


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ({"prompt": "a"}, "column 'reply' is missing or null"),
        ({"prompt": 3, "reply": "b"}, "column 'prompt' holds int, not text"),
        ({"prompt": ["a"], "reply": "b"}, "column 'prompt' holds a list, not text"),
        ({"prompt": "", "reply": "b"}, "empty prompt"),
    ],
)
def test_a_record_that_is_no_pair_is_counted_and_named_with_its_line(tmp_path, value, problem):
    (tmp_path / "a.jsonl").write_bytes(as_jsonl(PAIRS) + json.dumps(value).encode())
    found = load_dialogues(settings(tmp_path / "a.jsonl"), "all")
    assert found.report.bad == {problem: 1}
    assert f"a.jsonl line 301: {problem}" in found.report.bad_examples[0]


@pytest.mark.parametrize(
    ("name", "content", "first"),
    [
        ("a.txt", "a line\nand another\n\nand a third\n", "a.txt line 1: no TAB or |||"),
        ("a.jsonl", '{"text": "a line"}\n{"text": "and another"}\n', "a.jsonl line 1: a dialogue with one turn"),
    ],
)
def test_a_source_of_other_rows_is_refused_naming_the_first_and_what_to_give(tmp_path, name, content, first):
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError) as caught:
        load_dialogues(settings(tmp_path / name), "all")
    assert first in str(caught.value)
    assert "`prompt TAB reply`" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_built_in_addresses_are_no_dialogues_and_the_message_says_so():
    with pytest.raises(InputError, match=r"a dialogue with one turn.*builtin:chatterbot"):
        load_dialogues(settings("builtin:python_docs"), "train")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"context_turns": 0}, "context_turns"),
        ({"min_reply_words": 0}, "min_reply_words"),
        ({"pre_tokenizer": "none"}, "pre_tokenizer"),
        ({"streaming": True}, "streaming: replies are not streamed"),
        ({"max_rows": 0}, "max_rows"),
        ({"text_column": "no_such"}, "no column 'no_such'"),
    ],
)
def test_an_impossible_setting_is_named(tmp_path, changes, message):
    path = write_turns(tmp_path / "a.jsonl", [["a", "b"]])
    with pytest.raises(InputError, match=message) as caught:
        load_dialogues(settings(path, **changes), "all")
    assert "\n" not in str(caught.value)


def test_too_short_replies_are_left_out_and_counted_and_stay_in_the_context_of_others(tmp_path):
    path = write_turns(tmp_path / "a.jsonl", [["how are you", "fine", "that is good"]])
    found = load_dialogues(settings(path), "all")
    (pair,) = pairs_of(found, settings(path, min_reply_words=2))
    assert (pair.context, pair.reply) == (["how are you", "fine"], "that is good")
    assert found.report.filtered == {"replies of fewer than 2 words": 1}


def test_at_most_max_rows_dialogues_are_kept(tmp_path):
    path = write_turns(tmp_path / "a.jsonl", [[f"hello {n}", "bye"] for n in range(50)])
    found = load_dialogues(settings(path, max_rows=7), "all")
    assert len(found.turns) == found.report.kept == 7
    assert found.report.filtered == {"beyond max_rows": 43}


@pytest.mark.parametrize(
    ("text", "tidied"),
    [
        ("Say , Jim , how are you ?", "Say, Jim, how are you?"),
        ("I don ’ t know , it ' s late .", "I don’t know, it's late."),
        ("wait ... what ?", "wait ... what?"),
        ("at 3 : 30 , 20 % off", "at 3: 30, 20% off"),
        (" two\u2028lines\n and\ttabs ", "two lines and tabs"),
    ],
)
def test_spaces_that_nobody_types_are_taken_out_of_a_turn(text, tidied):
    assert tidy_turn(text, join_punctuation=True) == tidied
    assert tidy_turn(text, join_punctuation=False) == " ".join(text.split())
    assert BETWEEN_TURNS not in tidied


def test_texts_that_differ_in_case_and_punctuation_alone_are_near_duplicates():
    assert normalised("Yes , I DO !") == normalised("yes i do") != normalised("yes i did")


def test_the_built_in_dialogues_hold_out_every_dialogue_that_begins_alike(caplog):
    with caplog.at_level(logging.INFO):
        parts = [load_dialogues(settings("builtin:chatterbot"), split) for split in ("train", "valid", "test")]
    openings = [{turns[0].lower() for turns in part.turns} for part in parts]
    assert not openings[0] & openings[1] | openings[0] & openings[2] | openings[1] & openings[2]
    assert min(len(part.turns) for part in parts) > 40
    assert all(len(turns) > 1 for part in parts for turns in part.turns)
    assert sum(part.report.kept for part in parts) + 1 == parts[0].report.read


def test_the_hub_gives_pairs_dialogues_and_joined_lines_of_films(tmp_path, monkeypatch):
    (tmp_path / "pairs").mkdir()
    (tmp_path / "pairs" / "train.parquet").write_bytes(as_parquet(PAIRS))
    assert load_dialogues(settings(f"hub:{tmp_path / 'pairs'}", join_punctuation=False), "all").turns[0] == [*PAIRS[0]]
    lines = {"lineID": [f"L{n}" for n in range(9, 0, -1)], "characterID": [f"u{n % 2}" for n in range(9, 0, -1)]}
    table = {**lines, "movieID": ["m0"] * 9, "utterance": [f"line {n}" for n in range(9, 0, -1)]}
    (tmp_path / "film").mkdir()
    pq.write_table(pa.table(table), tmp_path / "film" / "train.parquet")
    known = SHORTCUTS["cornell_movie"]
    changed = {**known.__dict__, "hub_id": str(tmp_path / "film"), "splits": {"train": "train"}}
    monkeypatch.setitem(SHORTCUTS, "cornell_movie", Shortcut(**changed))
    assert load_dialogues(settings("hub:cornell_movie"), "all").turns == [[f"line {n}" for n in range(1, 10)]]
