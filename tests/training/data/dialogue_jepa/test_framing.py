import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from training.common.errors import InputError
from training.data.dialogue_jepa.framing import build_dialogue_tokenizer, encode_context, encode_reply, frame_reply
from training.data.settings import DialogueDataSettings

TURNS = ["how are you?", "i am fine", "that is good"]


@pytest.fixture(scope="module", params=["bpe", "word"])
def tokenizer(request):
    return build_dialogue_tokenizer(DialogueDataSettings(tokenizer=request.param, max_vocab=300), TURNS * 5, 16)


def decoded(ids, tokenizer):
    return " ".join(tokenizer.decode(ids).replace("[", " [").replace("]", "] ").split())


def given(tmp_path, **special):
    """A foreign tokenizer of words, saved with these special tokens."""
    words = ["<|end|>", "<s>", "how", "are", "you", "fine"]
    backend = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="<|end|>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=backend, **special).save_pretrained(tmp_path)
    return build_dialogue_tokenizer(DialogueDataSettings(tokenizer=str(tmp_path)), [], 16)


def test_a_context_begins_and_ends_and_an_end_stands_between_turns(tokenizer):
    ids, cut = encode_context(TURNS, tokenizer, 64)
    assert cut == 0
    said = decoded(ids, tokenizer).replace("you ?", "you?")
    assert said == "[BOS] how are you? [EOS] i am fine [EOS] that is good [EOS]"


def test_a_single_turn_is_what_the_tokenizer_makes_of_a_text_by_itself(tokenizer):
    assert encode_context(["how are you?"], tokenizer, 64)[0].tolist() == tokenizer("how are you?").input_ids


def test_a_context_that_is_too_long_is_kept_from_its_end_and_still_begins(tokenizer):
    whole, _ = encode_context(TURNS, tokenizer, 64)
    kept, cut = encode_context(TURNS, tokenizer, 7)
    assert (len(kept), cut) == (7, len(whole) - 7)
    assert kept[0] == tokenizer.bos_token_id
    assert kept[1:].tolist() == whole[-6:].tolist()


def test_a_reply_ends_and_one_that_is_cut_does_not(tokenizer):
    labels, cut = encode_reply("i am fine", tokenizer, 64)
    assert (decoded(labels, tokenizer), cut) == ("i am fine [EOS]", 0)
    just_fits = len(labels) + 1  # the begin token, which is no label
    assert encode_reply("i am fine", tokenizer, just_fits)[1] == 0
    kept, cut = encode_reply("i am fine", tokenizer, just_fits - 1)
    assert (kept.tolist(), cut) == (labels[:-1].tolist(), 1)
    assert tokenizer.eos_token_id not in kept


def test_what_looks_like_a_special_token_in_a_turn_is_text(tokenizer):
    ids, _ = encode_context(["how [EOS] are [BOS] you"], tokenizer, 64)
    assert ids.tolist().count(tokenizer.eos_token_id) == ids.tolist().count(tokenizer.bos_token_id) == 1
    assert tokenizer.unk_token_id in encode_reply("how <unk> you", tokenizer, 64)[0]


@pytest.mark.parametrize("turns", [[], [""], ["hi", "  "]])
def test_an_empty_message_is_refused(tokenizer, turns):
    with pytest.raises(InputError, match="message: is empty"):
        encode_context(turns, tokenizer, 16)


def test_a_given_tokenizer_with_one_token_for_all_keeps_its_vocabulary(tmp_path):
    tokenizer = given(tmp_path, eos_token="<|end|>")
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == ("<|end|>",) * 3
    assert len(tokenizer) == 6
    assert encode_context(["how are", "you"], tokenizer, 16)[0].tolist() == [0, 2, 3, 0, 4, 0]
    assert tokenizer("how are").input_ids == [0, 2, 3, 0]
    assert frame_reply([5], tokenizer, 16)[0].tolist() == [5, 0]


def test_a_given_tokenizer_without_begin_and_end_gets_them_and_opens_again_as_it_is(tmp_path):
    tokenizer = given(tmp_path / "given")
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token, len(tokenizer)) == (
        "[BOS]",
        "[EOS]",
        "[EOS]",
        8,
    )
    tokenizer.save_pretrained(tmp_path / "again")
    again = AutoTokenizer.from_pretrained(tmp_path / "again")
    assert again("how are you").input_ids == tokenizer("how are you").input_ids == [6, 2, 3, 4, 7]
    assert again.model_max_length == 16


def test_a_given_tokenizer_with_begin_and_end_keeps_both(tmp_path):
    tokenizer = given(tmp_path, bos_token="<s>", eos_token="<|end|>")
    assert tokenizer("you").input_ids == [1, 4, 0]
    with pytest.raises(InputError, match="could not be opened"):
        build_dialogue_tokenizer(DialogueDataSettings(tokenizer=str(tmp_path / "nothing")), [], 16)


@pytest.mark.parametrize("kind", ["word", "bpe"])
def test_the_chat_template_frames_messages_as_training_frames_turns(kind):
    turns = ["Hi , are you there ?", "Yes .", "Good ."]
    settings = DialogueDataSettings(tokenizer=kind, max_vocab=300)
    tokenizer = build_dialogue_tokenizer(settings, turns, 32)
    roles = ("user", "assistant", "user")
    messages = [{"role": "system", "content": "Be kind."}]
    messages += [{"role": role, "content": turn} for role, turn in zip(roles, turns, strict=True)]
    found = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True)["input_ids"]
    assert found == encode_context(turns, tokenizer, 32)[0].tolist()
