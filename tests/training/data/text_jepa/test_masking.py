import dataclasses
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from training.common.errors import InputError
from training.data.settings import MaskingSettings
from training.data.text_jepa.masking import IGNORED, TextMasker, heldout_holes
from training.data.tokenization import TokenIds

PAD, UNK, MASK, BOS, EOS = range(5)
VOCABULARY = 200
TOKENS = TokenIds(vocab_size=VOCABULARY, mask_token_id=MASK, special_ids=(PAD, UNK, MASK, BOS, EOS))
KINDS = ("single", "rate", "span")


def make_batch(lengths, seed=0, unknown_share=0.1, length=None):
    """Rows of the given numbers of words between begin and end, padded; some words unknown."""
    generator = torch.Generator().manual_seed(seed)
    length = length or max(lengths) + 2
    input_ids = torch.full((len(lengths), length), PAD)
    for row, words in enumerate(lengths):
        ids = torch.randint(5, VOCABULARY, (words,), generator=generator)
        ids[torch.rand(words, generator=generator) < unknown_share] = UNK
        input_ids[row, : words + 2] = torch.cat([torch.tensor([BOS]), ids, torch.tensor([EOS])])
    rows = torch.arange(len(lengths)) * 7919 + seed
    attention_mask = (torch.arange(length) < torch.tensor(lengths)[:, None] + 2).long()
    passes = torch.zeros(len(lengths), dtype=torch.int64)
    return {"input_ids": input_ids, "attention_mask": attention_mask, "row_id": rows, "pass_index": passes}


def make_masker(kind="rate", seed=0, num_negatives=4, **changes):
    return TextMasker(MaskingSettings(masking=kind, **changes), TOKENS, seed, num_negatives)


def maskable(batch):
    return batch["input_ids"] > EOS


def holes(masked):
    return masked["labels"] != IGNORED


BATCHES = st.builds(
    make_batch,
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=12),
    seed=st.integers(0, 10_000),
    unknown_share=st.sampled_from([0.0, 0.2, 1.0]),
)


@hypothesis_settings(max_examples=40, deadline=None)
@given(batch=BATCHES, kind=st.sampled_from(KINDS), seed=st.integers(0, 2**40))
def test_no_special_or_unknown_token_is_ever_a_hole_a_replacement_or_a_negative(batch, kind, seed):
    masked = make_masker(kind, seed)(batch)
    hole = holes(masked)
    assert not (hole & ~maskable(batch)).any()
    assert torch.equal(masked["input_ids"][~hole], batch["input_ids"][~hole])
    assert torch.equal(masked["labels"][hole], batch["input_ids"][hole])
    replaced = masked["input_ids"][hole]
    assert ((replaced == MASK) | (replaced > EOS)).all()
    assert (masked["negative_ids"] > EOS).all()


@hypothesis_settings(max_examples=40, deadline=None)
@given(batch=BATCHES, kind=st.sampled_from(KINDS), seed=st.integers(0, 2**40))
def test_every_row_with_a_maskable_token_has_a_hole(batch, kind, seed):
    number = holes(make_masker(kind, seed)(batch)).sum(1)
    assert torch.equal(number > 0, maskable(batch).any(1))
    if kind == "single":
        assert number.max() <= 1


@hypothesis_settings(max_examples=40, deadline=None)
@given(batch=BATCHES, seed=st.integers(0, 2**40), rates=st.tuples(*[st.floats(0.01, 0.99)] * 2).map(sorted))
def test_a_growing_rate_only_adds_holes(batch, seed, rates):
    masker = make_masker("rate", seed, mask_rate=rates[0], mask_rate_final=rates[1])
    stages = [holes(masker(batch, progress)) for progress in (0.0, 0.3, 0.7, 1.0)]
    for before, after in pairwise(stages):
        assert not (before & ~after).any()
    assert torch.equal(stages[-1], holes(make_masker("rate", seed, mask_rate=rates[1])(batch)))


@hypothesis_settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=8),
    seed=st.integers(0, 2**40),
    max_spans=st.integers(1, 5),
    max_span_length=st.integers(1, 32),
    share=st.sampled_from([0.1, 0.25, 0.5, 0.9]),
)
def test_spans_keep_their_number_length_and_share(lengths, seed, max_spans, max_span_length, share):
    batch = make_batch(lengths, unknown_share=0.0)
    masker = make_masker("span", seed, max_spans=max_spans, max_span_length=max_span_length, max_span_share=share)
    for row, words in zip(holes(masker(batch)).tolist(), lengths, strict=True):
        runs = [len(run) for run in "".join("x" if hole else " " for hole in row).split()]
        assert 1 <= len(runs) <= max_spans
        assert max(runs) <= max_span_length
        assert sum(runs) <= max(1, int(share * words))


@pytest.mark.parametrize("words", [6, 9, 14])
def test_spans_never_touch_however_crowded(words):
    masker = make_masker("span", max_spans=2, max_span_length=words // 2, max_span_share=0.95)
    for row in holes(masker(make_batch([words] * 2000, unknown_share=0.0))).tolist():
        assert max(len(run) for run in "".join("x" if hole else " " for hole in row).split()) <= words // 2


def test_spans_of_several_lengths_and_numbers_occur():
    found = holes(make_masker("span")(make_batch([40] * 300, unknown_share=0.0))).tolist()
    runs = [[len(run) for run in "".join("x" if hole else " " for hole in row).split()] for row in found]
    assert {len(row) for row in runs} == {1, 2, 3}
    assert {length for row in runs for length in row} == set(range(1, 11))


@pytest.mark.parametrize("rate", [0.05, 0.3, 0.8])
def test_the_share_of_holes_is_the_mask_rate(rate):
    batch = make_batch([40] * 800, unknown_share=0.2)
    share = holes(make_masker("rate", mask_rate=rate)(batch)).sum() / maskable(batch).sum()
    assert abs(float(share) - rate) < 0.015


def test_eighty_percent_become_the_mask_token_ten_a_random_one_ten_stay():
    batch = make_batch([40] * 800)
    masked = make_masker("rate", mask_rate=0.5)(batch)
    hole = holes(masked)
    before, after = batch["input_ids"][hole], masked["input_ids"][hole]
    shares = [(after == MASK), (after != MASK) & (after != before), (after == before)]
    for share, expected in zip(shares, (0.8, 0.1, 0.1), strict=True):
        assert abs(float(share.float().mean()) - expected) < 0.015


@pytest.mark.parametrize("kind", KINDS)
def test_holes_are_spread_evenly_over_the_positions(kind):
    batch = make_batch([20] * 4000, unknown_share=0.0)
    frequency = holes(make_masker(kind)(batch))[:, 1:21].float().mean(0)
    middle = frequency if kind != "span" else frequency[2:-2]
    assert middle.std() / middle.mean() < 0.35


@pytest.mark.parametrize("kind", KINDS)
def test_masks_are_the_same_for_any_batch_size_accumulation_and_padding(kind):
    lengths = [5, 40, 12, 7, 30, 9, 22, 3]
    batch = make_batch(lengths)
    masker = make_masker(kind, seed=3)
    whole = masker(batch, 0.5)
    order = torch.tensor([4, 0, 7, 2, 6, 1, 3, 5])
    for size in (1, 3, 8):
        rows, negatives = {}, {}
        for chosen in order.split(size):
            small = {name: tensor[chosen] for name, tensor in batch.items()}
            width = int(small["attention_mask"].sum(1).max())
            small["input_ids"] = small["input_ids"][:, :width]
            small["attention_mask"] = small["attention_mask"][:, :width]
            masked = masker(small, 0.5)
            parts = masked["negative_ids"].split(holes(masked).sum(1).tolist())
            for place, row in enumerate(chosen.tolist()):
                words = lengths[row] + 2
                rows[row] = (masked["input_ids"][place, :words], masked["labels"][place, :words])
                negatives[row] = parts[place]
        for row, words in enumerate(lengths):
            assert torch.equal(rows[row][0], whole["input_ids"][row, : words + 2])
            assert torch.equal(rows[row][1], whole["labels"][row, : words + 2])
        assert torch.equal(torch.cat([negatives[row] for row in range(len(lengths))]), whole["negative_ids"])


@pytest.mark.parametrize("kind", KINDS)
def test_seed_pass_and_row_each_change_the_mask_and_global_random_state_does_not(kind):
    batch = make_batch([30] * 20)
    base = holes(make_masker(kind)(batch))
    torch.manual_seed(123)
    assert torch.equal(base, holes(make_masker(kind)(batch)))
    assert not torch.equal(base, holes(make_masker(kind, seed=1)(batch)))
    assert not torch.equal(base, holes(make_masker(kind)(batch | {"pass_index": batch["pass_index"] + 1})))
    assert not torch.equal(base, holes(make_masker(kind)(batch | {"row_id": batch["row_id"] + 1})))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("kind", KINDS)
def test_a_gpu_masks_as_the_cpu_does(kind):
    batch = make_batch([30] * 64)
    here, there = make_masker(kind)(batch), make_masker(kind)({n: t.cuda() for n, t in batch.items()})
    assert all(torch.equal(here[name], there[name].cpu()) for name in here)


def test_the_masked_batch_holds_what_the_model_takes():
    batch = make_batch([5, 6])
    assert set(make_masker()(batch)) == {"input_ids", "attention_mask", "labels", "negative_ids"}
    assert set(make_masker(num_negatives=0)(batch)) == {"input_ids", "attention_mask", "labels"}


@pytest.mark.parametrize("sampling", ["uniform", "frequency"])
def test_negatives_are_never_the_right_token(sampling):
    counts = np.zeros(VOCABULARY, dtype=np.int64)
    counts[[7, 8, 9]] = (1000, 10, 1)
    masker = TextMasker(MaskingSettings(), TOKENS, 0, 32, sampling, counts)
    batch = make_batch([40] * 50)
    batch["input_ids"][batch["input_ids"] > 100] = 7
    masked = masker(batch)
    targets = masked["labels"][holes(masked)]
    assert masked["negative_ids"].shape == (len(targets), 32)
    assert not (masked["negative_ids"] == targets[:, None]).any()


def test_uniform_negatives_cover_all_other_tokens_alike():
    batch = make_batch([40] * 400)
    batch["input_ids"][batch["input_ids"] > EOS] = 50
    drawn = torch.bincount(make_masker(num_negatives=32)(batch)["negative_ids"].flatten(), minlength=VOCABULARY)
    others = torch.cat([drawn[5:50], drawn[51:]]).double()
    assert drawn[50] == 0
    assert others.std() / others.mean() < 0.1


def test_frequency_negatives_follow_the_counts_to_the_power_three_quarters():
    counts = np.zeros(VOCABULARY, dtype=np.int64)
    counts[[10, 20, 30, 40]] = (10_000, 160, 16, 1)
    batch = make_batch([40] * 400)
    batch["input_ids"][batch["input_ids"] > EOS] = 10
    masked = TextMasker(MaskingSettings(), TOKENS, 0, 32, "frequency", counts)(batch)
    drawn = torch.bincount(masked["negative_ids"].flatten(), minlength=VOCABULARY).double()
    weights = (torch.as_tensor(counts).double() + 1.0) ** 0.75
    weights[:5] = 0.0
    weights[10] = 0.0
    assert drawn[10] == 0
    torch.testing.assert_close(drawn / drawn.sum(), weights / weights.sum(), atol=0.01, rtol=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_negatives": VOCABULARY - 5}, "num_negatives"),
        ({"num_negatives": -1}, "num_negatives"),
        ({"negative_sampling": "zipf"}, "negative_sampling"),
        ({"negative_sampling": "frequency"}, "token counts"),
    ],
)
def test_impossible_negatives_are_an_error(arguments, message):
    with pytest.raises(InputError, match=message):
        TextMasker(MaskingSettings(), TOKENS, 0, **arguments)


def test_as_many_negatives_as_there_are_other_tokens_are_allowed():
    assert make_masker(num_negatives=VOCABULARY - 6)(make_batch([5]))["negative_ids"].shape[1] == VOCABULARY - 6


def test_impossible_settings_are_an_error():
    with pytest.raises(InputError, match="mask_rate"):
        TextMasker(dataclasses.replace(MaskingSettings(), mask_rate=1.0), TOKENS, 0)


def test_held_out_holes_are_a_function_of_the_row_and_never_special():
    batch = make_batch([30, 3, 1], unknown_share=0.3, seed=1)
    usable = maskable(batch)
    for row in range(3):
        found = heldout_holes(batch["input_ids"][row], int(batch["row_id"][row]), usable[row])
        again = heldout_holes(batch["input_ids"][row].tolist(), int(batch["row_id"][row]), usable[row].tolist())
        assert found == again == sorted(set(found))
        assert len(found) == min(4, int(usable[row].sum()))
        assert all(usable[row][position] for position in found)
    assert heldout_holes([BOS, UNK, EOS], 5, [False] * 3) == []


def test_held_out_holes_differ_between_rows_and_grow_with_their_number():
    usable = [False, *[True] * 20, False]
    few, more = heldout_holes(range(22), 1, usable, 2), heldout_holes(range(22), 1, usable, 6)
    assert set(few) < set(more)
    assert more != heldout_holes(range(22), 2, usable, 6)
