"""Each pattern of a causal language model fires on a log planted with it, and none of them on a healthy run's."""

import math
from dataclasses import replace

import pytest

from eval.advice.patterns import PATTERNS, look
from eval.advice.run_log import RunFacts, RunLog

FACTS = RunFacts("staged_generator", 2000, warmup_steps=100, stage=2, from_nothing=False, credit_rest=0.05)
SAMPLES = ["the people ... greedy: of the united states are free (real words 1.00)"]


def healthy_rows() -> list[dict]:
    rows: list[dict] = []
    for step in range(50, 2001, 50):
        learnt = 1 - math.exp(-step / 600)
        rate = 1e-3 if step < 600 else 1e-5 + 0.99e-3 * 0.5 * (1 + math.cos(math.pi * (step - 600) / 1400))
        loss = 7.0 - 3.0 * learnt
        credit = {"credit_rate/head": 0.1, "credit_rate/layer_0.mlp": 0.6, "credit_rate/layer_0.attention": 0.3}
        row = {"step": step, "loss": loss, "cross_entropy": loss, "accuracy": 0.05 + 0.3 * learnt}
        rows.append({**row, **credit, "grad_norm": 1.0, "learning_rate": rate})
        if step % 250 == 0:
            rows.append({"step": step, "eval_perplexity": math.exp(loss + 0.2)})
    return rows


def planted(**figures: object) -> list[dict]:
    rows = healthy_rows()
    for row in rows:
        for name, value in figures.items():
            name = name.replace("__", "/")
            if name in row:
                row[name] = value(row["step"]) if callable(value) else value
    return rows


def found(rows: list[dict], facts: RunFacts = FACTS, samples: list[str] = SAMPLES) -> list[str]:
    return [advice.pattern for advice in look(RunLog(rows, samples), facts)]


@pytest.mark.parametrize("until", range(50, 2001, 50))
def test_a_healthy_run_gets_no_advice(until: int) -> None:
    assert found([row for row in healthy_rows() if row["step"] <= until]) == []


@pytest.mark.parametrize(
    ("figures", "pattern"),
    [
        ({"eval_perplexity": lambda step: 60 + abs(step - 1000) / 50}, "overfitting"),
        ({"credit_rate__head": 0.05}, "starved_part"),
        ({"loss": lambda step: 7.0 if step < 500 else 4.0 if step < 1900 else 6.5}, "explosion"),
    ],
)
def test_a_planted_fault_is_found(figures: dict, pattern: str) -> None:
    assert found(planted(**figures)) == [pattern]


def test_a_loss_that_does_not_fall_is_found_in_a_run_from_nothing_and_expected_in_one_that_grew() -> None:
    assert found(planted(loss=7.0), replace(FACTS, from_nothing=True)) == ["loss_not_falling"]
    assert found(planted(loss=7.0)) == []


def test_a_part_is_not_called_starved_after_a_few_rows() -> None:
    assert found([row for row in planted(credit_rate__head=0.05) if row["step"] <= 500]) == []


def test_overfitting_says_where_the_best_was() -> None:
    rows = planted(eval_perplexity=lambda step: 60 + abs(step - 1000) / 50)
    (advice,) = look(RunLog(rows, SAMPLES), FACTS)
    assert "best at step 1,000 (60) and is now 80" in advice.evidence


def test_a_starved_part_is_named() -> None:
    (advice,) = look(RunLog(planted(credit_rate__head=0.05), SAMPLES), FACTS)
    assert "1 of 3 parts" in advice.evidence
    assert "head (5.0%)" in advice.evidence


def test_parts_that_all_get_little_are_a_control_and_not_starved() -> None:
    equal = dict.fromkeys(("credit_rate__head", "credit_rate__layer_0.mlp", "credit_rate__layer_0.attention"), 0.05)
    assert found(planted(**equal)) == []


def test_samples_in_a_loop_are_found() -> None:
    assert found(healthy_rows(), samples=["the people ... greedy: " + "of the people " * 30]) == ["repetitive_samples"]


def test_stage_3_from_nothing_is_found_at_once() -> None:
    facts = RunFacts("staged_generator", stage=3, from_nothing=True)
    assert found([{"step": 1, "loss": 8.0}], facts) == ["stage_3_from_nothing"]


def test_every_pattern_has_a_place_here() -> None:
    assert len(PATTERNS["staged_generator"]) == 7
