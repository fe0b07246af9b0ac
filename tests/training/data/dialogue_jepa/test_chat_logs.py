"""Chat logs as they are: OpenAI messages, ShareGPT conversations, ChatML, tables of two columns."""

import json

import pytest

from training.common.errors import InputError
from training.data.dialogue_jepa.dialogues import load_dialogues, pairs_of
from training.data.settings import DialogueDataSettings


def load(path, records=None, **settings):
    if records is not None:
        path.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    return load_dialogues(DialogueDataSettings(data=str(path), **settings), "all")


def messages(*turns, keys=("role", "content")):
    return [dict(zip(keys, turn, strict=True)) for turn in turns]


CHAT = (("system", "Be kind."), ("user", "Hi."), ("user", "Are you there?"), ("assistant", ""), ("tool", "{}"),
        ("assistant", "Yes."), ("user", "Good."), ("assistant", "Bye."))  # fmt: skip
SAID = ["Hi. Are you there?", "Yes.", "Good.", "Bye."]


@pytest.mark.parametrize(
    ("column", "keys", "names"),
    [
        ("messages", ("role", "content"), {}),
        ("conversations", ("from", "value"), {"user": "human", "assistant": "gpt"}),
        ("turns", ("speaker", "text"), {}),
    ],
)
def test_a_log_with_roles_becomes_turns_of_which_the_assistants_are_replies(tmp_path, column, keys, names):
    turns = messages(*((names.get(role, role), text) for role, text in CHAT), keys=keys)
    found = load(tmp_path / "a.jsonl", [{"id": "s1", column: turns}])
    assert found.turns == [SAID]
    assert [pair.reply for pair in pairs_of(found, DialogueDataSettings())] == ["Yes.", "Bye."]
    assert found.report.filtered == {
        "system turns": 1, "turns joined to the one before, of the same role": 1, "blank turns": 1, "tool turns": 1,
    }  # fmt: skip


def test_content_in_parts_and_calls_without_any_are_read(tmp_path):
    turns = [{"role": "user", "content": [{"type": "text", "text": "Look"}, {"type": "image_url"}]},
             {"role": "assistant", "content": None}, {"role": "assistant", "content": "I see."}]  # fmt: skip
    assert load(tmp_path / "a.jsonl", [{"messages": turns}]).turns == [["Look", "I see."]]


def test_chatml_is_read_from_a_column_and_from_a_text_file(tmp_path):
    said = (("system", "Be kind."), ("user", "Hi.\nYou?"), ("assistant", "Yes."))
    text = "\n".join(f"<|im_start|>{role}\n{turn}<|im_end|>" for role, turn in said)
    assert load(tmp_path / "a.jsonl", [{"text": text}]).turns == [["Hi. You?", "Yes."]]
    (tmp_path / "a.txt").write_text(f"{text}\n{text}\n\n{text.split(chr(10), 2)[2]}\n")
    assert len(load(tmp_path / "a.txt").turns) == 3


def test_prompt_and_reply_columns_are_named_or_known_by_usual_names(tmp_path):
    (tmp_path / "a.csv").write_text("id,Customer Message,Agent Reply\n1,It broke.,We are sorry.\n")
    assert load(tmp_path / "a.csv", prompt_column="Customer Message", reply_column="Agent Reply").turns == [
        ["It broke.", "We are sorry."]
    ]
    found = load(tmp_path / "a.jsonl", [{"id": "x", "instruction": "Add 1 and 1.", "output": "2"}])
    assert found.turns == [["Add 1 and 1.", "2"]]
    assert "reads the columns 'instruction' and 'output'" in found.report.notes[-2]
    assert found.report.notes[-1] == "a reply is each turn after the first"
    with pytest.raises(InputError, match=r"prompt_column: .* has no text column 'Customer'; it has id"):
        load(tmp_path / "a.csv", prompt_column="Customer", reply_column="Agent Reply")
    with pytest.raises(InputError, match="reply_column: is missing"):
        load(tmp_path / "a.csv", prompt_column="Customer Message")


def test_an_id_is_never_taken_for_a_dialogue(tmp_path):
    with pytest.raises(InputError, match=r"no column that is surely a dialogue.*--prompt_column.*id \(text: 's0'\)"):
        load(tmp_path / "a.jsonl", [{"id": "s0", "n": 1}])


@pytest.mark.parametrize("first", ["user", "assistant"])
def test_a_log_in_which_one_role_speaks_alone_or_nobody_answers_is_named(tmp_path, first):
    records = [{"messages": messages((first, "Hi."), ("user", f"Hello {number}?"))} for number in range(5)]
    with pytest.raises(InputError, match="a dialogue in which one role alone speaks"):
        load(tmp_path / "a.jsonl", records, max_bad_share=1.0)


def test_a_list_of_tags_is_no_dialogue(tmp_path):
    rows = [{"title": f"how does {n} work?", "tags": ["a", "b"], "body": f"like {n}"} for n in range(40)]
    (tmp_path / "a.json").write_text(json.dumps({"items": rows, "has_more": False}))
    with pytest.raises(InputError, match=r"no column that is surely a dialogue.*tags \(texts"):
        load_dialogues(DialogueDataSettings(data=str(tmp_path / "a.json")), "train")
