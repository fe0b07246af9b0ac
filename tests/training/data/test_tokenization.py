import subprocess
import sys
import unicodedata

import datasets
import pytest
from transformers import AutoTokenizer, BertConfig, BertForMaskedLM, pipeline

from training.common.errors import InputError
from training.data.settings import DataSettings
from training.data.tokenization import TokenIds, build_tokenizer, count_tokens, encode_rows

TEXTS = ["The people of the United States don't agree.", "The people came, and the people left!"] * 20
SENTENCE = "the people of the [MASK] states"


@pytest.fixture(scope="module")
def word():
    return build_tokenizer(DataSettings(), TEXTS, max_length=8)


@pytest.fixture(scope="module")
def bpe():
    return build_tokenizer(DataSettings(tokenizer="bpe", max_vocab=300), TEXTS, max_length=16)


def rows(*texts):
    return datasets.Dataset.from_dict({"text": list(texts), "row_id": list(range(100, 100 + len(texts)))})


def tokens(tokenizer, text):
    return tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"])


def test_words_without_spaces_between_them_are_no_vocabulary_of_words():
    with pytest.raises(InputError, match=r"93% of the text is in a script without spaces.*--tokenizer bpe"):
        build_tokenizer(DataSettings(tokenizer="word"), ["猫は学校で手紙を食べました。"] * 20)


def test_special_tokens_come_first_and_wrap_every_text(word):
    assert word.convert_ids_to_tokens(range(5)) == ["[PAD]", "[UNK]", "[MASK]", "[BOS]", "[EOS]"]
    assert tokens(word, "The people!") == ["[BOS]", "the", "people", "!", "[EOS]"]
    assert word.model_input_names == ["input_ids", "attention_mask"]
    assert word.model_max_length == 8


def test_punctuation_is_split_off_but_not_inside_words(word):
    assert tokens(word, "don't agree.") == ["[BOS]", "don't", "agree", ".", "[EOS]"]


def test_the_mask_token_is_one_token_in_both_vocabularies(word, bpe):
    assert tokens(word, SENTENCE) == ["[BOS]", "the", "people", "of", "the", "[MASK]", "states", "[EOS]"]
    assert tokens(bpe, SENTENCE).count("[MASK]") == 1
    assert "Ġ" not in tokens(bpe, SENTENCE)


def test_a_tokenized_corpus_is_split_at_spaces_only():
    tokenizer = build_tokenizer(DataSettings(pre_tokenizer="whitespace"), ["a two @-@ part 3.5 [UNK] thing ."])
    assert tokens(tokenizer, "two @-@ part [UNK] 3.5") == ["[BOS]", "two", "@-@", "part", "[UNK]", "3.5", "[EOS]"]


def test_max_vocab_bounds_the_vocabulary_and_keeps_the_most_frequent(word):
    small = build_tokenizer(DataSettings(max_vocab=8), TEXTS)
    assert len(small) == 8
    assert {"the", "people"} <= set(small.get_vocab())
    with pytest.raises(InputError, match="max_vocab"):
        build_tokenizer(DataSettings(tokenizer="bpe", max_vocab=100), TEXTS)


def test_byte_level_bpe_knows_every_text(bpe):
    assert bpe.unk_token_id not in bpe("zürich 😀 \x01")["input_ids"]


@pytest.mark.parametrize("text", ["the zürich 😀", "The people", " the people ", "a\nb\tc  d", ", and", ""])
def test_byte_level_bpe_decodes_to_what_it_encoded(bpe, text):
    assert bpe.decode(bpe(text)["input_ids"], skip_special_tokens=True) == unicodedata.normalize("NFC", text).lower()


@pytest.mark.parametrize("name", ["word", "bpe"])
def test_a_saved_tokenizer_opens_in_a_process_that_lacks_this_package(name, request, tmp_path):
    tokenizer = request.getfixturevalue(name)
    tokenizer.save_pretrained(tmp_path)
    code = (
        "from transformers import AutoTokenizer; import sys; "
        f"t = AutoTokenizer.from_pretrained(r'{tmp_path}'); "
        f"print(t('{SENTENCE}')['input_ids'], t.model_max_length, t.mask_token, t.model_input_names, "
        "any(m.split('.')[0] == 'training' for m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    ids = tokenizer(SENTENCE)["input_ids"]
    length = tokenizer.model_max_length
    assert done.stdout.strip() == f"{ids} {length} [MASK] ['input_ids', 'attention_mask'] False"


def test_the_fill_mask_pipeline_takes_the_tokenizer(word):
    config = BertConfig(
        vocab_size=len(word), hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8
    )
    answers = pipeline("fill-mask", model=BertForMaskedLM(config), tokenizer=word, device="cpu")(SENTENCE)
    assert len(answers) == 5


def test_a_given_tokenizer_gets_the_special_tokens_it_lacks(bpe, tmp_path):
    given = AutoTokenizer.from_pretrained(_saved_without_specials(bpe, tmp_path))
    assert given.mask_token is None
    tokenizer = build_tokenizer(DataSettings(tokenizer=str(tmp_path)), [], max_length=16)
    assert (tokenizer.mask_token, tokenizer.pad_token) == ("[MASK]", "[PAD]")
    assert tokenizer.model_max_length == 16
    with pytest.raises(InputError, match="could not be opened"):
        build_tokenizer(DataSettings(tokenizer=str(tmp_path / "nothing")), [])


def _saved_without_specials(tokenizer, folder):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {character: number for number, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    plain = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    PreTrainedTokenizerFast(tokenizer_object=plain).save_pretrained(folder)
    return folder


def test_long_rows_become_windows_that_overlap_and_each_begins_and_ends(word):
    long = " ".join(["the people of the united states came and left"] * 3)
    encoded = encode_rows(rows("the people", long), word, 8)
    windows = encoded.dataset["input_ids"][1:]
    assert all(ids[0] == word.bos_token_id and ids[-1] == word.eos_token_id and len(ids) <= 8 for ids in windows)
    joined = windows[0][1:-1] + [token for ids in windows[1:] for token in ids[2:-1]]
    assert joined == word(long, add_special_tokens=False)["input_ids"]
    assert encoded.report["long_rows"] == 1
    assert encoded.report["windows"] == len(windows) - 1


def test_the_first_window_keeps_the_rows_id_and_the_others_have_their_own(word):
    dataset = encode_rows(rows("the people " * 20, "the people " * 20), word, 8).dataset
    ids = dataset["row_id"][:]
    assert {100, 101} <= set(ids)
    assert len(set(ids)) == len(ids)


def test_cut_rows_are_counted(word):
    encoded = encode_rows(rows("the people", "the people of the united states came and left"), word, 8, "cut")
    assert len(encoded.dataset) == 2
    assert encoded.report["tokens_cut"] == 3
    assert encoded.report["windows"] == 0


def test_rows_with_only_unknown_words_are_left_out_and_counted(word):
    encoded = encode_rows(rows("zzz yyy", "the zzz", "[MASK] [PAD]"), word, 8)
    assert encoded.dataset["row_id"][:] == [101]
    assert encoded.report["nothing_to_predict"] == 2


def test_no_rows_at_all_encode_to_an_empty_data_set(word):
    assert len(encode_rows(rows(), word, 8).dataset) == 0


def test_a_length_without_room_for_text_is_an_error(word):
    with pytest.raises(InputError, match="max_position_embeddings"):
        encode_rows(rows("a"), word, 3)


def test_token_counts_leave_special_tokens_out(word):
    encoded = encode_rows(rows("the people", "the zzz"), word, 8)
    ids = TokenIds.from_tokenizer(word)
    counts = count_tokens(encoded.dataset, ids.vocab_size, ids.special_ids)
    assert counts[word.convert_tokens_to_ids("the")] == 2
    assert counts.sum() == 3
    assert set(ids.special_ids) == {0, 1, 2, 3, 4}
