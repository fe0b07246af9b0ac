import datasets
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from training.data.collators import TextCollator
from training.data.sampling import PassDataset, PassSampler

ROWS = [[3, *range(5, 5 + number % 7 + 1), 4] for number in range(23)]


@pytest.fixture(scope="module")
def dataset():
    features = datasets.Features(
        {"input_ids": datasets.List(datasets.Value("int32")), "row_id": datasets.Value("int64")}
    )
    return datasets.Dataset.from_dict({"input_ids": ROWS, "row_id": [n + 2**62 for n in range(23)]}, features)


def test_every_pass_holds_every_row_once_in_another_order():
    drawn = list(PassSampler(23, seed=0, num_samples=69))
    passes = [[row for row, number in drawn if number == index] for index in range(3)]
    assert all(sorted(rows) == list(range(23)) for rows in passes)
    assert passes[0] != passes[1] != passes[2]


def test_the_order_depends_on_the_seed_and_on_nothing_else():
    drawn = list(PassSampler(23, seed=0, num_samples=69))
    torch.rand(7)
    assert list(PassSampler(23, seed=0, num_samples=69)) == drawn
    assert list(PassSampler(23, seed=0, num_samples=40)) == drawn[:40]
    assert list(PassSampler(23, seed=1, num_samples=69)) != drawn


def test_its_length_is_what_it_yields_even_in_the_middle_of_a_pass():
    for count in (0, 1, 22, 23, 24, 50):
        sampler = PassSampler(23, seed=0, num_samples=count)
        assert len(list(sampler)) == len(sampler) == count


def grouped(num_samples: int, group_size: int = 4, seed: int = 0, num_rows: int = 500):
    lengths = np.arange(num_rows) % 37
    return list(PassSampler(num_rows, seed, num_samples, group_size, lengths)), lengths


def test_grouping_by_length_leaves_no_row_out_and_repeats_none():
    drawn, _ = grouped(128 * 12)  # whole windows of 32 groups of 4
    plain = list(PassSampler(500, seed=0, num_samples=128 * 12))
    assert sorted(drawn[:128]) == sorted(plain[:128])
    assert sorted(drawn) == sorted(plain)


def test_grouped_batches_hold_rows_of_like_length():
    drawn, lengths = grouped(1024)
    plain = list(PassSampler(500, seed=0, num_samples=1024))

    def padding(order):
        batches = np.array([lengths[row] for row, _ in order]).reshape(-1, 4)
        return 1 - batches.sum() / (batches.max(1) * 4).sum()

    assert padding(drawn) < 0.1 < padding(plain)


def test_grouped_order_is_a_function_of_the_position():
    drawn, lengths = grouped(600)
    assert grouped(333)[0] == drawn[:333]
    assert grouped(600, seed=1)[0] != drawn
    means = [np.mean([lengths[row] for row, _ in drawn[start : start + 4]]) for start in range(0, 128, 4)]
    assert means != sorted(means)


def test_groups_without_lengths_are_an_error():
    with pytest.raises(ValueError, match="group_size"):
        PassSampler(10, seed=0, num_samples=5, group_size=2)


def test_no_rows_are_an_error():
    with pytest.raises(ValueError, match="num_rows"):
        PassSampler(0, seed=0, num_samples=1)


def test_rows_carry_their_id_and_pass(dataset):
    row = PassDataset(dataset)[(7, 2)]
    assert row["input_ids"].tolist() == ROWS[7]
    assert (row["row_id"], row["pass_index"]) == (7 + 2**62, 2)


def test_lengths_are_those_of_the_rows(dataset):
    assert PassDataset(dataset).lengths.tolist() == [len(row) for row in ROWS]


def test_a_selected_data_set_is_read_in_its_own_order(dataset):
    rows = PassDataset(dataset.select([5, 1, 22]))
    assert [row["input_ids"].tolist() for row in rows.__getitems__([(0, 0), (1, 0), (2, 0)])] == [
        ROWS[5],
        ROWS[1],
        ROWS[22],
    ]
    assert len(rows) == 3


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_straddle_passes_and_are_the_same_for_any_number_of_workers(dataset, num_workers):
    loader = DataLoader(
        PassDataset(dataset),
        batch_size=10,
        sampler=PassSampler(23, seed=0, num_samples=50),
        collate_fn=TextCollator(pad_token_id=0),
        num_workers=num_workers,
    )
    batches = list(loader)
    drawn = list(PassSampler(23, seed=0, num_samples=50))
    assert [len(batch["row_id"]) for batch in batches] == [10] * 5
    assert torch.cat([batch["row_id"] for batch in batches]).tolist() == [row + 2**62 for row, _ in drawn]
    assert torch.cat([batch["pass_index"] for batch in batches]).tolist() == [number for _, number in drawn]


def test_the_collator_pads_on_the_right_and_masks_the_padding():
    rows = [
        {"input_ids": np.array(ids, dtype=np.int32), "row_id": n, "pass_index": 0}
        for n, ids in enumerate([[3, 0, 4], [3, 4]])
    ]
    batch = TextCollator(pad_token_id=0)(rows)
    assert batch["input_ids"].tolist() == [[3, 0, 4], [3, 4, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}
    assert TextCollator(0, pad_to_multiple_of=8)(rows)["input_ids"].shape == (2, 8)
