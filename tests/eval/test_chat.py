"""Talking with a dialogue model: modes, turns, commands, and what is refused."""

import io
import json
import shutil
import sys

import pytest

from configuration_jepa import TextJepaConfig
from eval.chat import Conversation, converse, main, read_messages
from eval.decoding.decoding import Decoding
from eval.replies.index import ReplyIndex
from eval.replies.saying import read_turns, say
from modeling_jepa import TextJepaForMaskedLM
from tests.eval.dialogue_models import CONTEXT, PAIRS, tiny_checkpoint, tiny_dialogue, tiny_source, tiny_words
from training.common.errors import InputError, NonFiniteError
from training.data.settings import DialogueDataSettings

REPLIES = [reply for _, reply in PAIRS]
DATA = DialogueDataSettings(context_turns=3, join_punctuation=False)
MESSAGE = "how are you ?"


@pytest.fixture(scope="module")
def words():
    return tiny_words()


@pytest.fixture(scope="module")
def model(words):
    return tiny_dialogue(words)


@pytest.fixture(scope="module")
def index(model, words):
    return ReplyIndex.build(model, words, REPLIES)


@pytest.fixture
def conversation(model, words, index):
    return Conversation(model, words, lambda: index, DATA)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, words):
    folder = tmp_path_factory.mktemp("dialogue")
    made = tiny_checkpoint(folder / "run", words, tiny_source(folder / "talks"))
    ReplyIndex.build(tiny_dialogue(words), words, REPLIES).save(made)
    return made


@pytest.fixture
def text_checkpoint(tmp_path, words):
    config = TextJepaConfig(vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    TextJepaForMaskedLM(config).save_pretrained(tmp_path / "text")
    return tmp_path / "text"


def heard(monkeypatch):
    """The turns that the model read at each answer."""
    read = []

    def spy(given, *rest):
        read.append(list(given))
        return read_turns(given, *rest)

    monkeypatch.setattr("eval.chat.read_turns", spy)
    return read


# ---- answers ----


def test_greedy_says_the_likeliest_reply(conversation, model, words):
    assert (
        conversation.answer(MESSAGE, "greedy").reply == say(model, words, [read_turns([MESSAGE], model, words).ids])[0]
    )


def test_a_sampled_reply_is_a_function_of_the_seed_and_each_turn_has_its_own(model, words, index):
    def replies(seed):
        decoding = Decoding(temperature=3.0, seed=seed)
        alike = DialogueDataSettings(context_turns=1, join_punctuation=False)
        talk = Conversation(model, words, lambda: index, alike, decoding)
        return [talk.answer(MESSAGE, "generate").reply for _ in range(3)]

    assert replies(0) == replies(0) != replies(9)
    assert len(set(replies(0))) > 1


def test_retrieval_answers_with_the_nearest_reply_and_shows_the_next(conversation, index):
    found = index.retrieve(MESSAGE, k=5)
    answer = conversation.answer(MESSAGE, "retrieve")
    assert answer.reply == found[0].reply
    assert answer.lines == [f"{one.cosine:6.3f}  {one.reply}" for one in found]


def test_both_sides_become_turns_and_only_the_last_are_read(conversation, monkeypatch):
    read = heard(monkeypatch)
    first = conversation.answer(MESSAGE, "retrieve").reply
    second = conversation.answer("do you like music ?", "retrieve").reply
    conversation.answer("yes .", "retrieve")
    assert read == [
        [MESSAGE],
        [MESSAGE, first, "do you like music ?"],
        ["do you like music ?", second, "yes ."],
    ]


def test_a_reply_of_nothing_is_shown_and_is_no_turn(model, words, index, monkeypatch):
    monkeypatch.setattr("eval.chat.say", lambda *given, **settings: [""])
    talk = Conversation(model, words, lambda: index, DATA)
    assert talk.answer(MESSAGE, "greedy").lines == ["(the model says nothing)"]
    assert talk.turns == [MESSAGE]


def test_messages_are_written_as_the_model_learnt_them(model, words, index, monkeypatch):
    read = heard(monkeypatch)
    Conversation(model, words, lambda: index, DialogueDataSettings()).answer("  how  are\nyou ? ", "greedy")
    Conversation(model, words, lambda: index, DATA).answer("  how  are\nyou ? ", "greedy")
    assert read == [["how are you?"], ["how are you ?"]]


def test_a_context_too_long_is_kept_from_its_end_and_said(conversation):
    answer = conversation.answer("where do you live ? " * 10, "greedy")
    assert f"the model reads {CONTEXT}" in answer.note
    assert conversation.answer(MESSAGE, "greedy").note is not None  # the long turn is still among the last
    assert (
        Conversation(conversation.model, conversation.tokenizer, lambda: None).answer(MESSAGE, "greedy").note is None
    )


def test_what_is_refused_leaves_the_conversation_as_it_was(conversation):
    conversation.answer(MESSAGE, "greedy")
    before = list(conversation.turns)
    for message in ("", " \n "):
        with pytest.raises(InputError, match="message is empty"):
            conversation.answer(message)
    with pytest.raises(InputError, match="mode: got 'shout'"):
        conversation.answer(MESSAGE, "shout")
    assert conversation.turns == before


def test_the_index_is_opened_when_it_is_first_needed(model, words, index):
    opened = []
    talk = Conversation(model, words, lambda: opened.append(1) or index, DATA)
    talk.answer(MESSAGE, "greedy")
    assert opened == []
    talk.answer(MESSAGE, "retrieve")
    talk.answer(MESSAGE, "retrieve")
    assert opened == [1]


# ---- commands ----


def test_commands_change_the_mode_and_end(conversation):
    lines = list(converse(conversation, "greedy", [MESSAGE, "/retrieve", MESSAGE, "/quit", MESSAGE]))
    assert lines[1] == "mode: retrieve"
    assert [line.split("  ")[-1] in REPLIES for line in lines[-5:]] == [True] * 5
    assert conversation.turns.count(MESSAGE) == 2


def test_an_unknown_command_and_an_empty_message_are_said_and_the_talk_goes_on(conversation):
    lines = list(converse(conversation, "greedy", ["/sing loudly", "", MESSAGE]))
    assert lines[0] == "error: unknown command '/sing'; use /generate, /greedy, /retrieve or /quit"
    assert lines[1].startswith("error: message is empty")
    assert len(lines) == 3


def test_a_missing_index_is_said_and_the_talk_goes_on(checkpoint, tmp_path, model, words):
    folder = shutil.copytree(checkpoint, tmp_path / "copy", ignore=shutil.ignore_patterns("index"))
    talk = Conversation(model, words, lambda: ReplyIndex.load(folder, model, words), DATA)
    lines = list(converse(talk, "retrieve", [MESSAGE, "/greedy", MESSAGE]))
    assert "python -m eval.retrieval" in lines[0]
    assert lines[1] == "mode: greedy"
    assert len(lines) == 3


def test_nan_ends_the_talk(words, index):
    broken = tiny_dialogue(words, seed=1)
    broken.decoder.norm.weight.data[0] = float("nan")
    with pytest.raises(NonFiniteError):
        list(converse(Conversation(broken, words, lambda: index, DATA), "greedy", [MESSAGE]))


# ---- the command line ----


def test_one_message_is_answered_with_the_nearest_replies(checkpoint, capsys):
    assert main([str(checkpoint), "--message", MESSAGE, "--mode", "retrieve", "--top_k", "3", "--device", "cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert all(line.split("  ")[-1] in REPLIES for line in lines)


def test_a_conversation_is_read_line_by_line(checkpoint, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{MESSAGE}\n/retrieve\n{MESSAGE}\n"))
    assert main([str(checkpoint), "--mode", "greedy", "--device", "cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "mode: greedy; /generate, /greedy, /retrieve change it, /quit ends"
    assert "mode: retrieve" in lines


def test_sampling_follows_the_command_line(checkpoint, capsys):
    def printed(*more):
        assert main([str(checkpoint), "--message", MESSAGE, "--device", "cpu", *more]) == 0
        return capsys.readouterr().out

    assert printed("--top_k", "1") == printed("--mode", "greedy")
    wild = ("--top_k", "0", "--temperature", "3")
    assert printed(*wild) == printed(*wild) != printed(*wild, "--seed", "1")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["{checkpoint}", "--message", ""], "message is empty"),
        (["{checkpoint}", "--message", MESSAGE, "--mode", "retrieve", "--top_k", "0"], "top_k"),
        (["{checkpoint}", "--message", MESSAGE, "--temperature", "0"], "temperature"),
        (["{other}", "--message", MESSAGE, "--mode", "retrieve"], "does not belong to this checkpoint"),
        (["{text}", "--message", MESSAGE], "'text_jepa' model"),
        (["{tmp}/nothing/there"], "no checkpoint"),
    ],
)
def test_bad_input_ends_with_one_line_and_code_2(checkpoint, request, tmp_path, words, arguments, named, capsys):
    places = {"checkpoint": checkpoint, "tmp": tmp_path}
    if "{other}" in arguments:
        places["other"] = shutil.copytree(checkpoint, tmp_path / "other")
        tiny_dialogue(words, seed=1).save_pretrained(places["other"])
    if "{text}" in arguments:
        places["text"] = request.getfixturevalue("text_checkpoint")
    capsys.readouterr()
    assert main([argument.format(**places) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert named in error


def test_messages_are_read_as_the_turns_that_people_say(tmp_path, checkpoint, capsys):
    chat = [
        ("system", "be kind ."),
        ("user", "hello ."),
        ("user", "you there ?"),
        ("assistant", "yes ."),
        ("user", MESSAGE),
    ]
    path = tmp_path / "chat.json"
    path.write_text(json.dumps({"messages": [{"role": role, "content": text} for role, text in chat]}))
    assert read_messages(path) == ["hello . you there ?", "yes .", MESSAGE]
    assert main([str(checkpoint), "--messages", str(path), "--mode", "greedy", "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    path.write_text(json.dumps([{"role": "user", "content": MESSAGE}]))
    assert main([str(checkpoint), "--messages", str(path), "--mode", "greedy", "--device", "cpu"]) == 0
    assert said
    path.write_text("[]")
    assert main([str(checkpoint), "--messages", str(path)]) == 2
    assert "holds no turn" in capsys.readouterr().err
