import warnings

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast
from transformers.utils import logging

from tests.modeling_jepa.tiny_generators import STAGES, tiny_generator
from training.common.errors import InputError
from training.data.settings import GeneratorDataSettings
from training.data.staged_generator import framing
from training.data.staged_generator.framing import build_generator_tokenizer, encode_documents, frame_document

TEXTS = ["the old dog sees a cat\n", "a cat eats the big hen .\n\nIt was <unk> !\n", " = A heading = \n"] * 5


def train(backend, pre_tokenizer, decoder, special):
    backend.pre_tokenizer, backend.decoder = pre_tokenizer, decoder
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(TEXTS, trainer)
    return backend


def save_like_gpt2(folder):
    """One special token, which is begin, end and unknown."""
    backend = train(
        Tokenizer(models.BPE()),
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoders.ByteLevel(),
        ["<|endoftext|>"],
    )
    names = dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>")
    PreTrainedTokenizerFast(tokenizer_object=backend, **names).save_pretrained(folder)


def save_like_llama(folder):
    """Begin, end and unknown, no padding; spaces are marks of words, and a text is not cut into words beforehand."""
    backend = train(
        Tokenizer(models.BPE(unk_token="<unk>")),
        pre_tokenizers.Metaspace(prepend_scheme="always"),
        decoders.Metaspace(),
        ["<unk>", "<s>", "</s>"],
    )
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=backend, **names).save_pretrained(folder)


def save_without_any(folder):
    """No special token at all."""
    backend = train(
        Tokenizer(models.BPE()), pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel(), []
    )
    PreTrainedTokenizerFast(tokenizer_object=backend).save_pretrained(folder)


SAVED = {"gpt2": save_like_gpt2, "llama": save_like_llama, "nothing": save_without_any}


@pytest.fixture(params=["bpe", *SAVED])
def tokenizer(request, tmp_path):
    """Each kind, after a way through a folder, as a checkpoint holds it."""
    built = build(request.param, tmp_path)
    built.save_pretrained(tmp_path / "checkpoint")
    return AutoTokenizer.from_pretrained(tmp_path / "checkpoint")


def build(kind, folder):
    name = kind
    if kind != "bpe":
        SAVED[kind](folder / kind)
        name = str(folder / kind)
    return build_generator_tokenizer(GeneratorDataSettings(tokenizer=name, max_vocab=320), TEXTS, 16)


def test_a_document_has_a_begin_its_text_and_an_end(tokenizer):
    (ids,) = encode_documents([TEXTS[0]], tokenizer)
    assert ids.dtype == np.int32
    assert (ids[0], ids[-1]) == (tokenizer.bos_token_id, tokenizer.eos_token_id)
    inside = ids[1:-1].tolist()
    assert set(inside).isdisjoint(tokenizer.all_special_ids)
    assert tokenizer.decode(inside).strip() == TEXTS[0].strip()
    assert frame_document(inside, tokenizer).tolist() == ids.tolist()


def test_a_prompt_is_begun_and_not_ended(tokenizer):
    (ids,) = encode_documents([TEXTS[0]], tokenizer)
    assert tokenizer(TEXTS[0])["input_ids"] == ids[:-1].tolist()


def test_rows_are_padded_on_the_left_as_generate_wants_them(tokenizer):
    assert tokenizer.padding_side == "left"


def test_rows_of_a_batch_can_be_padded_on_either_side(tokenizer):
    short, long = "a cat", "the old dog sees"
    for side in ("left", "right"):
        batch = tokenizer([short, long], padding=True, padding_side=side)
        assert sum(batch["attention_mask"][0]) == len(tokenizer(short)["input_ids"])
        assert len(batch["input_ids"][0]) == len(tokenizer(long)["input_ids"])


@pytest.fixture
def said(caplog):
    """What the library and Python warn of in a test, each as if for the first time."""
    logging.warning_once.cache_clear()
    logging.enable_propagation()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield lambda: [record.getMessage() for record in caplog.records] + [str(each.message) for each in caught]
    logging.disable_propagation()


@pytest.mark.parametrize("stage", STAGES)
def test_a_batch_of_prompts_is_continued_without_a_warning_and_as_each_alone(tokenizer, stage, said, tmp_path):
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "unk", "mask", "bos", "eos")}
    tiny_generator(stage, vocab_size=len(tokenizer), **ids).save_pretrained(tmp_path / "checkpoint")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint")
    before, length = said(), {"max_new_tokens": 8, "min_new_tokens": 8}
    batch = tokenizer(["a cat", "the old dog sees a hen", "the old dog"], padding=True, return_tensors="pt")
    assert len(batch["attention_mask"].sum(1).unique()) == 3
    together = model.generate(**batch, **length, do_sample=False)
    model.generate(**batch, **length)  # as the checkpoint says: sampled
    assert said() == before
    for row, mask in enumerate(batch["attention_mask"].bool()):
        alone = model.generate(batch["input_ids"][row : row + 1, mask], **length, do_sample=False)
        assert torch.equal(together[row, -alone.shape[1] :], alone[0])


@pytest.mark.parametrize(("kind", "added"), [("gpt2", 0), ("llama", 0), ("nothing", 2)])
def test_a_given_vocabulary_grows_only_where_nothing_can_end_a_document(kind, added, tmp_path):
    built = build(kind, tmp_path)
    assert len(built) == len(AutoTokenizer.from_pretrained(tmp_path / kind)) + added
    assert built.pad_token_id == built.eos_token_id
    assert built.mask_token is None


@pytest.mark.parametrize(("kind", "is_known"), [("bpe", False), ("gpt2", True), ("llama", False)])
def test_a_literal_unknown_word_is_the_unknown_token_where_that_is_a_token_of_its_own(kind, is_known, tmp_path):
    built = build(kind, tmp_path)
    (ids,) = encode_documents(["the <unk> cat"], built)
    inside = ids[1:-1].tolist()
    if is_known:
        assert built.decode(inside) == "the <unk> cat"
        assert set(inside).isdisjoint(built.all_special_ids)
    else:
        assert inside.count(built.unk_token_id) == 1


def test_what_looks_like_a_special_token_is_text_and_its_neighbours_stay_as_they_are(tokenizer):
    control = tokenizer.eos_token
    plain, odd, after = encode_documents([TEXTS[0], f"the {control} cat", TEXTS[0]], tokenizer)
    assert plain.tolist() == after.tolist()
    assert control in tokenizer.decode(odd[1:-1])
    assert set(odd[1:-1].tolist()).isdisjoint({tokenizer.bos_token_id, tokenizer.eos_token_id})


def test_long_texts_are_encoded_in_pieces_to_the_very_same_ids(tokenizer, monkeypatch):
    texts = ["".join(TEXTS), "short", "  two  spaces \n \n and\nmore . <unk> ! " * 9, "nospace" * 30]
    whole = [ids.tolist() for ids in encode_documents(texts, tokenizer)]
    monkeypatch.setattr(framing, "_CHARACTERS_AT_ONCE", 40)
    assert len(framing._pieces(texts[0])) > 5
    assert [ids.tolist() for ids in encode_documents(texts, tokenizer)] == whole


def test_case_and_spaces_are_kept_unless_asked_otherwise():
    texts = ["The Old  Dog\n\n  sees"]
    for lowercase, expected in ((False, "The Old  Dog\n\n  sees"), (True, "the old  dog\n\n  sees")):
        settings = GeneratorDataSettings(max_vocab=300, lowercase=lowercase)
        built = build_generator_tokenizer(settings, texts, 16)
        assert built.decode(built(texts[0])["input_ids"], skip_special_tokens=True) == expected


def test_a_tokenizer_that_cannot_be_had_is_named(tmp_path):
    with pytest.raises(InputError, match="could not be opened"):
        build_generator_tokenizer(GeneratorDataSettings(tokenizer=str(tmp_path)), [], 16)
    with pytest.raises(InputError, match="max_vocab"):
        build_generator_tokenizer(GeneratorDataSettings(max_vocab=100), TEXTS, 16)
    bare = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()))
    with pytest.raises(InputError, match="neither a begin nor an end"):
        frame_document([1], bare)
