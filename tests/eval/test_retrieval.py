"""The index of replies: exact, portable, and refused where it does not belong."""

import json
import shutil
import sys

import numpy as np
import pytest
import torch
from transformers import AutoModelForSeq2SeqLM

from eval.replies import nearest
from eval.replies.index import ReplyIndex, weights_hash
from eval.replies.saying import Context, check_tokenizer, padded, read_turns, say, whole_reply
from eval.retrieval import main
from tests.eval.dialogue_models import CONTEXT, PAIRS, REPLY, tiny_dialogue, tiny_source, tiny_words
from training.common.errors import InputError, NonFiniteError
from training.data.dialogue_jepa.framing import encode_reply

REPLIES = [f"{first} {second}" for _, first in PAIRS for _, second in PAIRS]


@pytest.fixture(scope="module")
def words():
    return tiny_words()


@pytest.fixture
def model(words):
    return tiny_dialogue(words)


@pytest.fixture
def index(model, words):
    return ReplyIndex.build(model, words, REPLIES)


def one_reply(text, tokenizer):
    return torch.as_tensor(whole_reply(encode_reply(text, tokenizer, REPLY)[0], tokenizer))[None]


def brute_force(model, tokenizer, prompt):
    """Cosine of each reply, one at a time and without padding."""
    context = padded([np.array(read_turns([prompt], model, tokenizer).ids)], model)
    with torch.no_grad():
        predicted = model.model(**context).predicted_latents
        return [
            float(model.latent_cosines(predicted, model.read_replies(one_reply(text, tokenizer)))[0, 0])
            for text in REPLIES
        ]


def assert_same(found, expected):
    """The same replies in the same order; cosines up to the last digits of a float32."""
    assert [one.reply for one in found] == [one.reply for one in expected]
    assert np.allclose([one.cosine for one in found], [one.cosine for one in expected], atol=1e-5)


@pytest.mark.parametrize("prompt", ["how are you ?", "do you like the sea ?"])
def test_retrieval_equals_brute_force(model, words, index, prompt):
    true = brute_force(model, words, prompt)
    found = index.retrieve(prompt, k=len(index))
    theirs = [true[REPLIES.index(one.reply)] for one in found]
    assert len({one.reply for one in found}) == len(REPLIES)
    assert np.allclose([one.cosine for one in found], theirs, atol=1e-3)  # the index holds float16
    assert np.allclose(theirs, sorted(true, reverse=True), atol=1e-3)
    assert np.std(true) > 0.02  # else the order would say nothing


def test_chunks_do_not_change_what_is_found(index, monkeypatch):
    whole = index.retrieve("how are you ?", k=7)
    monkeypatch.setattr(nearest, "CHUNK", 5)
    assert_same(index.retrieve("how are you ?", k=7), whole)


def test_faiss_finds_what_chunks_find(index, model, words, monkeypatch):
    faiss = pytest.importorskip("faiss")
    monkeypatch.setattr(nearest, "LARGE", len(index))
    monkeypatch.setattr(nearest, "CHUNK", 5)
    large = ReplyIndex(model, words, index.latents, index.replies, index.weights)
    assert isinstance(nearest.make_search(large.latents.reshape(len(large), -1)), faiss.Index)
    assert_same(large.retrieve("how are you ?", k=7), index.retrieve("how are you ?", k=7))


def test_many_replies_are_searched_in_chunks_where_faiss_is_missing(index, monkeypatch):
    monkeypatch.setattr(nearest, "LARGE", 1)
    monkeypatch.setitem(sys.modules, "faiss", None)
    assert isinstance(nearest.make_search(index.latents.reshape(len(index), -1)), nearest.Chunks)


def test_of_equal_replies_the_earlier_comes_first(model, words):
    latents = np.ones((6, 2, 16), dtype=np.float16) / 4
    same = ReplyIndex(model, words, latents, list("abcdef"), "")
    assert [one.reply for one in same.retrieve("how are you ?", k=3)] == ["a", "b", "c"]


def test_a_reply_is_kept_once_and_an_empty_one_never(model, words):
    assert ReplyIndex.build(model, words, ["yes .", " yes . ", "", "no ."]).replies == ["yes .", "no ."]


def test_what_is_found_does_not_depend_on_the_other_contexts(index, model, words):
    contexts = [read_turns([prompt], model, words).ids for prompt, _ in PAIRS]
    together = index.retrieve_all(contexts, k=3)
    for context, found in zip(contexts, together, strict=True):
        assert_same(index.retrieve_all([context], k=3)[0], found)


def test_no_more_is_found_than_there_is(index):
    assert len(index.retrieve("how are you ?", k=1000)) == len(REPLIES)
    with pytest.raises(InputError, match="top_k must be at least 1"):
        index.retrieve("how are you ?", k=0)


def test_an_index_needs_replies(model, words):
    with pytest.raises(InputError, match="at least one reply"):
        ReplyIndex.build(model, words, ["", " "])


# ---- on disk ----


@pytest.fixture
def checkpoint(tmp_path, model, words, index):
    model.save_pretrained(tmp_path / "run")
    words.save_pretrained(tmp_path / "run")
    index.save(tmp_path / "run")
    return tmp_path / "run"


def test_an_index_travels_with_its_checkpoint(checkpoint, index, words, tmp_path):
    moved = shutil.copytree(checkpoint, tmp_path / "moved")
    model = AutoModelForSeq2SeqLM.from_pretrained(moved)
    assert_same(ReplyIndex.load(moved, model, words).retrieve("how are you ?"), index.retrieve("how are you ?"))


def test_saving_again_replaces_the_index_and_leaves_nothing_else(checkpoint, model, words):
    ReplyIndex.build(model, words, ["yes .", "no ."]).save(checkpoint)
    assert sorted(path.name for path in (checkpoint / "index").iterdir()) == [
        "latents.safetensors",
        "manifest.json",
        "replies.jsonl",
    ]
    assert len(ReplyIndex.load(checkpoint, model, words)) == 2
    assert not list(checkpoint.glob(".index*"))


def test_an_index_of_another_checkpoint_is_refused(checkpoint, words):
    with pytest.raises(InputError, match=r"does not belong to this checkpoint.*build it again"):
        ReplyIndex.load(checkpoint, tiny_dialogue(words, seed=1), words)


def test_an_index_of_the_same_weights_with_another_tokenizer_is_refused(checkpoint, model, words):
    words = type(words).from_pretrained(checkpoint)
    words.add_tokens(["sparkle"])
    with pytest.raises(InputError, match="hash of its tokenizer"):
        ReplyIndex.load(checkpoint, model, words)


def test_the_hash_follows_reader_predictor_and_teacher_and_nothing_else(model, words):
    before = weights_hash(model)
    ReplyIndex.build(model, words, ["yes ."])  # an untrained teacher becomes its student
    model.decoder.norm.weight.data += 1
    assert weights_hash(model) == before
    model.update_teacher()
    taught = weights_hash(model)
    assert taught != before
    model.teacher.target.queries.data += 1
    assert weights_hash(model) != taught
    model.model.predictor.load_state_dict({k: v + 1 for k, v in model.model.predictor.state_dict().items()})
    assert len({before, taught, weights_hash(model)}) == 3


def test_a_checkpoint_without_an_index_says_how_to_build_one(checkpoint, model, words):
    shutil.rmtree(checkpoint / "index")
    with pytest.raises(InputError, match=r"python -m eval\.retrieval"):
        ReplyIndex.load(checkpoint, model, words)


def test_an_index_of_a_repository_that_cannot_be_reached_is_one_clear_line(model, words):
    with pytest.raises(InputError, match=r"index of somebody/nothing cannot be fetched: [^\n]+$"):
        ReplyIndex.load("somebody/nothing", model, words)


def test_an_index_is_never_kept_apart_from_a_checkpoint(index, tmp_path):
    with pytest.raises(InputError, match="is no folder"):
        index.save(tmp_path / "somebody" / "model")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["latents.safetensors", "replies.jsonl"])
def test_a_damaged_index_is_refused(checkpoint, model, words, name):
    path = checkpoint / "index" / name
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(InputError, match=f"damaged: {name}"):
        ReplyIndex.load(checkpoint, model, words)


def test_a_model_that_gives_nan_is_refused(model, words, index):
    model.model.reader.norm.weight.data[0] = float("nan")
    with pytest.raises(NonFiniteError):
        index.retrieve("how are you ?")
    with pytest.raises(NonFiniteError):
        ReplyIndex.build(model, words, ["yes ."])


def test_the_index_is_plain_text_and_safetensors(checkpoint):
    lines = (checkpoint / "index" / "replies.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(lines[0]) == {"reply": REPLIES[0]}


# ---- the command ----


@pytest.fixture
def source(tmp_path):
    return tiny_source(tmp_path / "talks")


def test_the_command_builds_an_index_of_the_runs_training_replies(checkpoint, source, model, words, capsys):
    shutil.rmtree(checkpoint / "index")
    run = {"recipe": {"data": {"data": str(source), "join_punctuation": False}}}
    (checkpoint / "run.json").write_text(json.dumps(run), encoding="utf-8")
    assert main([str(checkpoint), "--device", "cpu"]) == 0
    # Every turn after the first is a reply: the second prompt of each dialogue too.
    assert set(ReplyIndex.load(checkpoint, model, words).replies) == {text for pair in PAIRS[:4] for text in pair}
    assert "8 different replies" in capsys.readouterr().out


def test_another_single_file_gives_all_its_replies(checkpoint, tmp_path, model, words):
    path = tmp_path / "answers.txt"
    path.write_text("".join(f"{prompt}\t{reply}\n" for prompt, reply in PAIRS), encoding="utf-8")
    assert main([str(checkpoint), "--data", str(path), "--device", "cpu"]) == 0
    assert len(ReplyIndex.load(checkpoint, model, words)) == len(PAIRS)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["{checkpoint}"], "does not say what it was trained on"),
        (["{checkpoint}", "--data", "nowhere.txt"], "nowhere.txt"),
        (["{tmp}/nothing/there"], "no checkpoint"),
        (["{checkpoint}", "--device", "abacus"], "abacus"),
    ],
)
def test_bad_input_ends_with_one_line_and_code_2(checkpoint, tmp_path, arguments, named, capsys):
    assert main([argument.format(checkpoint=checkpoint, tmp=tmp_path) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert named in error


# ---- contexts and replies ----


def test_turns_become_one_context_with_an_end_token_behind_each(model, words):
    ids = read_turns(["how are you ?", "i am fine ."], model, words).ids
    tokens = words.convert_ids_to_tokens(ids)
    assert tokens == "[BOS] how are you ? [EOS] i am fine . [EOS]".split()


def test_a_long_context_is_kept_from_its_end_and_said(model, words):
    context = read_turns(["where do you live ?"] * 6, model, words)
    whole = words.convert_tokens_to_ids("where do you live ? [EOS]".split()) * 6
    assert context.ids == [words.bos_token_id, *whole[-(CONTEXT - 1) :]]
    assert context.left_out == len(whole) - (CONTEXT - 1)
    assert f"{len(whole) + 1} tokens long, the model reads {CONTEXT}" in context.note
    assert Context([1, 2]).note is None


@pytest.mark.parametrize("turns", [[], [""], ["how are you ?", " \n"]])
def test_an_empty_message_is_refused(model, words, turns):
    with pytest.raises(InputError, match="message is empty"):
        read_turns(turns, model, words)


def test_a_message_that_the_model_knows_nothing_of_is_refused(model, words):
    with pytest.raises(InputError, match="outside the vocabulary"):
        read_turns(["xyzzy plugh"], model, words)


def test_what_looks_like_a_special_token_is_text(model, words):
    ids = read_turns(["how are [EOS] you ?"], model, words).ids
    assert ids.count(words.eos_token_id) == 1


def test_a_long_reply_is_read_without_its_end(model, words):
    long = ReplyIndex.build(model, words, [f"{'yes ' * 40}no"])
    cut = model.read_replies(torch.tensor([words.convert_tokens_to_ids(["[BOS]", *["yes"] * (REPLY - 1)])]))
    assert np.allclose(long.latents[0], torch.nn.functional.normalize(cut[0], dim=-1), atol=1e-3)


def test_replies_are_said_alike_alone_and_in_a_batch(model, words):
    contexts = [read_turns([prompt], model, words).ids for prompt, _ in PAIRS]
    together = say(model, words, contexts)
    assert together == [say(model, words, [context])[0] for context in contexts]
    assert len(set(together)) > 1


def test_saying_leaves_mode_and_random_state_alone(model, words):
    model.train()
    state = torch.get_rng_state()
    say(model, words, [read_turns(["how are you ?"], model, words).ids], do_sample=True)
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)


def test_a_tokenizer_of_another_model_is_refused(model, words, tmp_path):
    words.save_pretrained(tmp_path)
    other = type(words).from_pretrained(tmp_path)
    other.add_tokens(["sparkle"])
    with pytest.raises(InputError, match=f"{len(other)} tokens, the encoder knows {len(words)}"):
        check_tokenizer(model, other)
    other = type(words).from_pretrained(tmp_path, eos_token="[MASK]")
    with pytest.raises(InputError, match="eos_token_id"):
        check_tokenizer(model, other)
