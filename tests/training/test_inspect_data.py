"""`python -m training.inspect_data`: what it says of a source, and its exit codes."""

import json

import pytest

from training.inspect_data import main


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("JEPA_CACHE", str(tmp_path / "cache"))


def inspected(capsys, *flags):
    assert main([str(flag) for flag in flags]) == 0
    return capsys.readouterr().out


def test_rows_lengths_unknown_share_repeats_overlap_and_examples_are_said(tmp_path, capsys):
    lines = [f"row {number} of this file says one thing" for number in range(300)]
    (tmp_path / "a.csv").write_text(
        "\n".join(["id;body", *(f"{n};{line}" for n, line in enumerate([*lines, *lines]))])
    )
    said = inspected(capsys, "--data", tmp_path / "a.csv", "--text_column", "body", "--max_vocab", "400")
    assert "reads the column 'body' of id, body (separated by ';', which was sniffed)" in said
    assert "rows of 8.0 words" in said
    assert "tokens unknown to the tokenizer: 0.0% of train" in said
    assert "of its tokens stand in rows of the training part too" in said
    repeated = next(line for line in said.splitlines() if line.startswith("repeats"))
    counted = repeated.split()
    assert int(counted[1]) * 2 == int(counted[3])
    assert said.count("example  ") == 5


def test_a_chat_log_is_read_as_dialogues(tmp_path, capsys):
    said = [("user", "Say {}."), ("assistant", "It is {}."), ("user", "Again?"), ("assistant", "{}, I said.")]
    records = [
        {"messages": [{"role": role, "content": text.format(number)} for role, text in said]} for number in range(200)
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, records)))
    flags = ("--data", tmp_path / "a.jsonl", "--family", "dialogue_jepa", "--max_vocab", "300", "--tokenizer", "bpe")
    said = inspected(capsys, *flags)
    assert "reads dialogues" not in said
    assert "turns of" in said
    assert "replies stand in the training part too" in said


def test_bad_input_is_one_line_and_exit_code_2(tmp_path, capsys):
    assert main(["--data", str(tmp_path / "no.txt")]) == 2
    assert "does not exist" in capsys.readouterr().err
    assert main(["--data", "x.csv", "--family", "text_jepa", "--prompt_column", "a"]) == 2
    assert "text_jepa has no such setting" in capsys.readouterr().err
