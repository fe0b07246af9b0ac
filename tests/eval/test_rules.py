"""Rules of thumb: the ladder of sizes, steps against the data, chance levels."""

import pytest

from eval.rules import (
    Range,
    chance_above_negatives,
    expected_acc_neg,
    judge_generator_size,
    judge_steps,
    judge_text_size,
    judge_video_size,
    passes_over_data,
    readable,
    rows_per_example,
    text_size_range,
    token_size_range,
    video_size_range,
)


@pytest.mark.parametrize(
    ("examples", "low", "high"),
    [
        (24_000, 500_000, 1_500_000),
        (30_000, 500_000, 1_500_000),
        (30_001, 1_000_000, 4_000_000),
        (250_000, 1_000_000, 4_000_000),
        (320_000, 4_000_000, 30_000_000),
        (1_000_000, 4_000_000, 30_000_000),
        (4_000_000, 4_000_000, 30_000_000),
        (80_000_000, 4_000_000, 80_000_000),
    ],
)
def test_the_ladder_of_parameters_against_effective_examples(examples, low, high):
    assert text_size_range(examples) == Range(low, high)


@pytest.mark.parametrize(
    ("parameters", "examples", "level", "name"),
    [
        (1_000_000, 24_000, "ok", "size"),
        (2_000_000, 24_000, "warning", "too_large"),
        (17_000_000, 24_000, "loud", "too_large"),
        (900_000, 320_000, "note", "too_small"),
    ],
)
def test_a_size_is_judged_by_its_place_on_the_ladder(parameters, examples, level, name):
    verdict = judge_text_size(parameters, examples)
    assert (verdict.level, verdict.name) == (level, name)
    assert readable(parameters) in verdict.message


def test_tokens_have_a_ladder_of_their_own_that_rises_with_the_data():
    amounts = (100_000, 2_000_000, 50_000_000, 10_000_000_000)
    ranges = [token_size_range(tokens) for tokens in amounts]
    assert [r.low for r in ranges] == sorted(r.low for r in ranges)
    assert [r.high for r in ranges] == sorted(r.high for r in ranges)
    assert ranges[-1].high == 10_000_000_000


def test_a_generator_is_told_when_it_or_its_text_is_too_small_to_learn_language():
    assert [v.name for v in judge_generator_size(200_000, 50_000_000)] == ["too_small_for_language", "too_small"]
    assert judge_generator_size(1_000_000, 20_000)[0].name == "too_little_for_language"
    assert [v.name for v in judge_generator_size(20_000_000, 50_000_000)] == ["size"]
    assert [(v.level, v.name) for v in judge_generator_size(100_000_000, 2_000_000)] == [("loud", "too_large")]


@pytest.mark.parametrize(
    ("per_example", "level", "name"),
    [
        (0.5, "note", "few_steps"),
        (4.9, "note", "few_steps"),
        (5, "ok", "steps"),
        (10, "ok", "steps"),
        (10.1, "warning", "many_steps"),
        (100, "warning", "many_steps"),
        (101, "loud", "far_too_many_steps"),
    ],
)
def test_five_to_ten_rows_per_example_are_right_over_ten_warns_over_a_hundred_warns_loudly(per_example, level, name):
    verdict = judge_steps(per_example)
    assert (verdict.level, verdict.name) == (level, name)
    assert f"{per_example:g} rows per effective example (5 to 10 are right)" in verdict.message


def test_passes_are_counted_in_rows_and_steps_are_judged_by_examples():
    assert passes_over_data(1000, 32, 3_000) == pytest.approx(32 / 3)
    assert passes_over_data(0, 32, 3_000) == 0
    assert rows_per_example(1000, 32, 24_000) == pytest.approx(4 / 3)


@pytest.mark.parametrize(("rank", "expected"), [(10, 0.93), (50, 0.67), (100, 0.45)])
def test_a_good_share_above_32_negatives_hides_a_poor_rank(rank, expected):
    assert expected_acc_neg(rank, 4000, 32) == pytest.approx(expected, abs=0.006)
    assert chance_above_negatives(32) == pytest.approx(1 / 33)


@pytest.mark.parametrize(
    ("count", "text"),
    [(950, "950"), (1200, "1.20k"), (990_000, "0.99M"), (100_000, "0.10M"), (12_340_000, "12.3M"), (2e9, "2.00B")],
)
def test_a_small_model_never_reads_as_0M(count, text):
    assert readable(count) == text


def test_nothing_to_learn_from_is_refused():
    with pytest.raises(ValueError, match="examples must be above 0"):
        text_size_range(0)
    with pytest.raises(ValueError, match="batch must be above 0"):
        rows_per_example(10, 0, 10)


def test_video_tokens_have_a_ladder_and_a_verdict():
    assert judge_video_size(1_900_000, 19_000_000).level == "ok"
    assert judge_video_size(11_000_000, 500_000).level == "loud"
    assert video_size_range(500_000).high < video_size_range(200_000_000).high


def test_several_holes_show_the_data_sooner_but_excuse_no_excess():
    assert judge_steps(2.0).name == "few_steps"
    assert judge_steps(2.0, holes_per_row=2.5).message == (
        "2 rows per effective example (2 to 10 are right with 2.5 holes a row)"
    )
    assert judge_steps(11.0, holes_per_row=3.0).name == "many_steps"
