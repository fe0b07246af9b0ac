import numpy as np
import pytest
import torch

from training.data.collators import TextCollator
from training.data.sampling import PassDataset
from training.data.staged_generator.blocks import CausalLabels
from training.data.staged_generator.packing import TokenRun, count_predictions, pack

BEGIN, END, PAD = 1, 2, 0
SIZES = [2, 3, 7, 16, 1000]


def documents(seed, count=40, longest=30):
    """Framed documents of 0 to `longest` tokens."""
    random = np.random.default_rng(seed)
    lengths = random.integers(0, longest + 1, count)
    return [np.array([BEGIN, *random.integers(3, 50, length), END], dtype=np.int32) for length in lengths]


def batches(blocks, size=3):
    rows = PassDataset(blocks).__getitems__([(n, 0) for n in range(len(blocks))])
    collate = TextCollator(PAD)
    return [CausalLabels()(collate(rows[n : n + size])) for n in range(0, len(rows), size)]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("size", SIZES)
def test_every_token_stands_in_the_blocks_once_and_in_order(seed, size):
    made = documents(seed)
    blocks = pack(TokenRun.of_documents(made), size)
    assert [token for block in blocks["input_ids"] for token in block] == np.concatenate(made).tolist()
    lengths = [len(block) for block in blocks["input_ids"]]
    assert lengths[:-1] == [size] * (len(lengths) - 1)
    assert 0 < lengths[-1] <= size
    assert [len(block) for block in blocks["position_ids"]] == lengths


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("size", SIZES)
def test_a_position_counts_from_the_beginning_of_its_document_or_of_its_block(seed, size):
    blocks = pack(TokenRun.of_documents(documents(seed)), size)
    for ids, positions in zip(blocks["input_ids"], blocks["position_ids"], strict=True):
        expected = []
        for token in ids:
            expected.append(0 if token == BEGIN or not expected else expected[-1] + 1)
        assert positions == expected


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("size", SIZES)
def test_what_is_predicted_is_every_token_that_has_one_before_it_in_document_and_block(seed, size):
    made = documents(seed)
    blocks = pack(TokenRun.of_documents(made), size)
    predicted = [row["labels"][row["labels"] != -100] for row in batches(blocks)]
    whole = [(token, place == 0) for ids in made for place, token in enumerate(ids.tolist())]
    expected = [token for place, (token, begins) in enumerate(whole) if not begins and place % size]
    assert torch.cat(predicted).tolist() == expected
    counts = count_predictions(blocks, 50)
    assert counts.sum() == len(expected)
    assert counts.tolist() == np.bincount(expected, minlength=50).tolist()
    assert counts[BEGIN] == 0
    assert size == 2 or counts[END] > 0


def test_a_literal_begin_inside_a_document_begins_nothing():
    run = TokenRun.of_documents([np.array([BEGIN, 5, BEGIN, 6, END])])
    assert pack(run, 8)["position_ids"][0] == [0, 1, 2, 3, 4]


def test_padding_has_position_0_and_is_neither_seen_nor_predicted():
    run = TokenRun.of_documents([np.array([BEGIN, 5, 6, END]), np.array([BEGIN, 7, END])])
    (batch,) = batches(pack(run, 4))
    assert batch["input_ids"].tolist() == [[BEGIN, 5, 6, END], [BEGIN, 7, END, PAD]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3], [0, 1, 2, 0]]
    assert batch["labels"].tolist() == [[-100, 5, 6, END], [-100, 7, END, -100]]
    assert set(batch) == {"input_ids", "attention_mask", "position_ids", "labels"}


@pytest.mark.parametrize("seed", range(3))
def test_a_run_survives_the_way_through_plain_numbers_and_can_be_cut_anywhere(seed):
    run = TokenRun.of_documents(documents(seed, count=4))
    for place in range(len(run.ids) + 1):
        first, rest = run.split(place)
        again = TokenRun.from_ints(rest.to_ints()).after(TokenRun.from_ints(first.to_ints()))
        assert np.array_equal(again.ids, run.ids)
        assert np.array_equal(again.begins, run.begins)
        assert again.ids.dtype == np.int32


def test_a_blocks_number_depends_on_its_tokens_and_tells_equal_ones_apart():
    ids = pack(TokenRun.of_documents([np.array([7, 7, 7, 7, 8, 8])]), 2)["row_id"][:]
    assert len(set(ids)) == 3
    assert all(number >= 0 for number in ids)
    assert pack(TokenRun.of_documents([np.array([8, 8, 7, 7])]), 2)["row_id"][:] == [ids[2], ids[0]]


def test_no_documents_are_no_blocks():
    assert len(pack(TokenRun.of_documents([]), 4)) == 0
