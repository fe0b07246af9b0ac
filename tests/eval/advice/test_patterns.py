"""Each pattern fires on a log planted with it, and none of them on a healthy run's."""

import math

import pytest

from eval.advice.course import repetition
from eval.advice.patterns import PATTERNS, look
from eval.advice.run_log import Advice, RunFacts, RunLog

FACTS = RunFacts(
    max_steps=2000, warmup_steps=100, learning_rate=1e-3, holes_per_row=6.0, rows_read=9000, rows_kept=8000
)


def healthy_rows(last: int = 2000) -> list[dict]:
    """As the quickstart went: everything improves, first quickly, then slowly."""
    rows: list[dict] = []
    for step in range(50, last + 1, 50):
        learnt = 1 - math.exp(-step / 600)
        rate = 1e-3 if step < 600 else 1e-5 + 0.99e-3 * 0.5 * (1 + math.cos(math.pi * (step - 600) / 1400))
        rows.append(
            {
                "step": step,
                "loss": 6.4 - 2.3 * learnt,
                "grad_norm": 1.5 + 0.1 * (step % 3),
                "learning_rate": rate,
                "ranking": 6.3 - 2.2 * learnt,
                "auxiliary": 0.95 - 0.4 * learnt,
                "alignment": 2.0 - 0.4 * learnt,
                "accuracy": 0.05 + 0.28 * learnt,
                "acc_neg": 0.58 + 0.2 * learnt + 0.005 * (-1) ** (step // 50),
                "cos_mean": 0.01 + 0.2 * learnt,
            }
        )
        if step % 250 == 0:
            rows.append(
                {
                    "step": step,
                    "eval_top1": 0.04 + 0.27 * learnt,
                    "eval_mrr": 0.1 + 0.3 * learnt,
                    "eval_median_rank": 70 - 65 * learnt,
                    "eval_unigram_top1": 0.064,
                    "eval_cosine_spread": 0.1,
                    "eval_effective_rank": 46.0 + learnt,
                    "eval_mean_pairwise_cosine": 0.3,
                    "eval_top_token_share": 0.16,
                }
            )
    return rows


def planted(last: int = 2000, **figures: object) -> RunLog:
    """The healthy log with some figures replaced: by a value, or by a function of the step."""
    rows = healthy_rows(last)
    for row in rows:
        for name, value in figures.items():
            if name in row:
                row[name] = value(row["step"]) if callable(value) else value
    return RunLog(rows)


def prototype_log() -> RunLog:
    """The first prototype's own figures up to step 500: saturated negatives, a rank that stands still."""
    log = planted(500, acc_neg=0.61, eval_top1=0.051, eval_median_rank=59.0)
    for row, mrr in zip(log.held_out, (0.1221, 0.1236), strict=True):
        row["eval_mrr"] = mrr
    return log


def changed(**facts: object) -> RunFacts:
    return RunFacts(**{**vars(FACTS), **facts})


SAMPLES_THAT_REPEAT = ["the people of the people of the people of the people of the people of the people of"]

# name -> (log, facts, a figure that the evidence must show)
CASES = {
    "acc_neg_at_chance": (planted(acc_neg=0.031), FACTS, "0.031"),
    "cosine_not_rising": (planted(cos_mean=0.02), FACTS, "0.020"),
    "cosines_in_narrow_range": (planted(eval_cosine_spread=0.02), FACTS, "0.020"),
    "loss_falls_accuracy_flat": (planted(accuracy=0.1, loss=lambda s: 6 - s / 1000), FACTS, "0.100"),
    "good_acc_neg_poor_full_rank": (prototype_log(), FACTS, "median rank 59"),
    "flat_after_decay": (planted(loss=lambda s: max(6 - s / 1000, 4.7)), FACTS, "rate was halved"),
    "one_part_dominating": (
        planted(alignment=1.9, ranking=0.9),
        changed(weights={"ranking": 1.0, "alignment": 4.0}),
        "89% of the weighted loss is alignment",
    ),
    "loss_not_falling": (planted(loss=6.4), FACTS, "6.4"),
    "noisy_acc_neg": (
        planted(acc_neg=lambda s: 0.6 + 0.15 * (-1) ** (s // 50)),
        changed(rows_per_step=2, holes_per_row=1.0, logging_steps=5),
        "about 10 blanks",
    ),
    "underfitting": (planted(600, accuracy=0.12), FACTS, "0.120"),
    "overfitting": (
        planted(accuracy=lambda s: 0.2 + s / 3000, eval_top1=0.25, eval_mrr=lambda s: 0.4 - s / 10000),
        FACTS,
        "best at step 250",
    ),
    "far_fewer_sequences": (planted(), changed(rows_read=10_000, rows_kept=1200), "1,200 sequences"),
    "repetitive_samples": (planted(eval_top_token_share=0.6), FACTS, "60%"),
    "stage_3_from_nothing": (planted(50), changed(stage=3, from_nothing=True), "stage 3"),
    "explosion": (planted(loss=lambda s: 5.0 if s < 1900 else 40.0), FACTS, "40"),
    "representation_collapsing": (
        planted(eval_effective_rank=1.4, eval_mean_pairwise_cosine=0.99),
        FACTS,
        "effective rank 1.4 of 128",
    ),
}


def named(log: RunLog, facts: RunFacts = FACTS) -> dict[str, Advice]:
    return {advice.pattern: advice for advice in look(log, facts)}


def test_every_pattern_has_a_planted_log() -> None:
    assert set(CASES) == {pattern.__name__ for pattern in PATTERNS["text_jepa"]}


@pytest.mark.parametrize("name", CASES)
def test_a_pattern_fires_on_its_planted_log_with_evidence_and_remedy(name: str) -> None:
    log, facts, figure = CASES[name]
    advice = named(log, facts)[name]
    assert figure in advice.evidence
    assert advice.remedy
    assert advice.badness > 0


@pytest.mark.parametrize("last", range(0, 2001, 50))
def test_a_healthy_run_gets_no_advice_at_any_step(last: int) -> None:
    assert named(RunLog(healthy_rows(last))) == {}


@pytest.mark.parametrize("name", ["loss", "grad_norm"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), None])
def test_a_number_that_is_not_finite_is_an_explosion(name: str, value: float | None) -> None:
    rows = healthy_rows(500)
    [row for row in rows if "loss" in row][-1][name] = value
    assert named(RunLog(rows))["explosion"].badness == math.inf


def test_a_gradient_far_above_its_median_is_an_explosion() -> None:
    rows = healthy_rows(500)
    [row for row in rows if "loss" in row][-1]["grad_norm"] = 400.0
    assert "400" in named(RunLog(rows))["explosion"].evidence


def test_samples_that_repeat_themselves_are_named() -> None:
    log = RunLog(healthy_rows(), SAMPLES_THAT_REPEAT)
    assert "the words in the samples" in named(log)["repetitive_samples"].evidence
    assert repetition(["the people of the united states: states, people"]) == 0


def test_a_run_that_lost_most_of_its_directions_is_collapsing() -> None:
    log = planted(eval_effective_rank=lambda step: 60.0 if step < 1000 else 12.0)
    assert "highest so far 60.0" in named(log)["representation_collapsing"].evidence


def test_a_softmax_head_gets_no_advice_about_cosines() -> None:
    log = planted(cos_mean=0.02, eval_cosine_spread=0.02)
    assert named(log, changed(table_head=False)) == {}


def test_stage_3_that_starts_from_a_checkpoint_is_silent() -> None:
    assert named(planted(), changed(stage=3, from_nothing=False)) == {}


def test_the_remedy_for_a_stuck_loss_depends_on_the_rate() -> None:
    assert "3e-4" in named(planted(loss=6.4), changed(learning_rate=2e-3))["loss_not_falling"].remedy
    assert "learning_rate 1e-3" in named(planted(loss=6.4), changed(learning_rate=3e-4))["loss_not_falling"].remedy
