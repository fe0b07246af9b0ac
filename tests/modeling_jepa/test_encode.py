"""Sentence vectors: by `encode`, and by `sentence-transformers` from the same folder."""

import pytest
import torch
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoModelForMaskedLM

from tests.families import TEXT_JEPA, tiny_tokenizer

TEXTS = ["w1 w2 w3", "w4", "w5 w6 w7 w8 w9 w10"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder")
    TEXT_JEPA.model().save_pretrained(folder)
    tiny_tokenizer(TEXT_JEPA.config()).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(checkpoint):
    return AutoModel.from_pretrained(checkpoint)


def test_mean_is_that_of_all_tokens(model) -> None:
    tokenizer = tiny_tokenizer(model.config)
    for text, vector in zip(TEXTS, model.encode(TEXTS), strict=True):
        states = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        torch.testing.assert_close(vector, states.mean(0), atol=1e-5, rtol=0)


def test_first_is_the_vector_at_the_first_token(model) -> None:
    tokenizer = tiny_tokenizer(model.config)
    states = model(**tokenizer(TEXTS[0], return_tensors="pt")).last_hidden_state[0]
    torch.testing.assert_close(model.encode(TEXTS, pooling="first")[0], states[0], atol=1e-5, rtol=0)


def test_hole_is_the_vector_at_the_mask(model) -> None:
    tokenizer = tiny_tokenizer(model.config)
    states = model(**tokenizer("w1 [MASK] w3", return_tensors="pt")).last_hidden_state[0]
    vectors = model.encode(["w1 [MASK] w3", "[MASK]"], pooling="hole")
    torch.testing.assert_close(vectors[0], states[2], atol=1e-5, rtol=0)


def test_batch_mates_and_batch_size_change_no_vector(model) -> None:
    together = model.encode(TEXTS)
    torch.testing.assert_close(model.encode(TEXTS, batch_size=1), together, atol=1e-5, rtol=0)
    torch.testing.assert_close(model.encode(TEXTS[1]), together[1], atol=1e-5, rtol=0)


def test_both_models_give_the_same_vectors(model, checkpoint) -> None:
    assert torch.equal(AutoModelForMaskedLM.from_pretrained(checkpoint).encode(TEXTS), model.encode(TEXTS))


def test_training_mode_is_left_as_it_was() -> None:
    model = TEXT_JEPA.model(dropout=0.5).train()
    tokenizer = tiny_tokenizer(model.config)
    assert torch.equal(model.encode(TEXTS, tokenizer), model.encode(TEXTS, tokenizer))
    assert model.training


def test_a_vector_is_cut_to_its_first_entries(model, checkpoint) -> None:
    whole = model.encode(TEXTS)
    assert torch.equal(model.encode(TEXTS, truncate_dim=5), whole[:, :5])
    assert torch.equal(model.encode(TEXTS[0], truncate_dim=5), model.encode(TEXTS[0])[:5])
    stranger = SentenceTransformer(str(checkpoint), device="cpu", truncate_dim=5)
    torch.testing.assert_close(stranger.encode(TEXTS, convert_to_tensor=True), whole[:, :5], atol=1e-5, rtol=0)


def test_no_text_gives_no_vector(model) -> None:
    assert model.encode([]).shape == (0, 32)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"texts": ["w1"], "pooling": "last"}, r"pooling='last' .* mean, first, hole"),
        ({"texts": ["w1 w2"], "pooling": "hole"}, r"exactly one \[MASK\] .* 'w1 w2' has 0"),
        ({"texts": ["w1"], "truncate_dim": 33}, r"truncate_dim=33 is not possible: it must be from 1 to 32"),
        ({"texts": ["w1", "w2 " * 20]}, r"22 tokens, more than max_position_embeddings=16"),
    ],
)
def test_a_text_that_cannot_be_encoded_is_named(model, arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model.encode(**arguments)


def test_a_long_text_is_cut_on_request(model) -> None:
    assert model.encode("w2 " * 20, truncate=True).shape == (32,)


def test_sentence_transformers_opens_the_folder_and_agrees(model, checkpoint) -> None:
    opened = SentenceTransformer(str(checkpoint), trust_remote_code=True, device="cpu")
    assert opened.max_seq_length == 16
    vectors = torch.as_tensor(opened.encode(TEXTS))
    torch.testing.assert_close(vectors, model.encode(TEXTS), atol=1e-5, rtol=0)
