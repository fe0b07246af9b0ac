"""The log of a run is read for what went wrong in it; a healthy one passes every check."""

import math
from pathlib import Path

import pytest

from eval.advice.record import TrainingRecord, read_record
from eval.diagnose.checks.training import CHECKS
from eval.diagnose.report.report import Finding, as_list
from eval.diagnose.subject.subject import Subject
from tests.diagnose.small_subjects import causal_subject

LN_V = math.log(150)


@pytest.fixture(scope="module")
def subject() -> Subject:
    """A model over 150 tokens that are all as frequent, so guessing by frequency costs nearly ln 150 = 5.01 nats."""
    return causal_subject()


def healthy(steps: int = 200, rate: float = 1e-3, **figures: object) -> list[dict]:
    """Rows of the plain Trainer, every 10 steps; `figures` are values, or functions of the step, instead."""
    rows = []
    for step in range(10, steps + 1, 10):
        row = {"step": step, "loss": 1 + 4 * math.exp(-step / 80), "learning_rate": rate * (1 - step / (steps + 10))}
        row |= {"grad_norm": 0.5, "epoch": step / 50}
        rows.append(row | {name: value(step) if callable(value) else value for name, value in figures.items()})
    return [*rows, {"step": steps, "eval_loss": 1.4, "epoch": steps / 50}]


def findings(subject: Subject, rows: list[dict]) -> dict[str, Finding]:
    rates = [row["learning_rate"] for row in rows if "learning_rate" in row]
    subject.record = TrainingRecord(Path("run"), rows, max(rates, default=None), {}, [], ours=False)
    return {
        found.check: found for check in CHECKS if check.needs != "trainer" for found in as_list(check.run(subject))
    }


def bad(subject: Subject, rows: list[dict]) -> dict[str, str]:
    return {name: found.verdict for name, found in findings(subject, rows).items() if found.verdict != "pass"}


def test_a_healthy_run_passes_and_leaves_its_curve(subject: Subject) -> None:
    found = findings(subject, healthy())
    assert {one.verdict for one in found.values()} == {"pass"}
    assert set(found) == {f"training.{name}" for name in ("non_finite", "learning_rate", "loss", "course", "too_good")}
    assert subject.figures["loss_curve"]["held_out"] == [[200, 1.4]]


def test_a_run_that_starts_well_and_stays_is_no_fault(subject: Subject) -> None:
    assert bad(subject, healthy(loss=2.0)) == {}  # a pretrained model


@pytest.mark.parametrize("figure", ["loss", "grad_norm"])
@pytest.mark.parametrize("value", [math.nan, math.inf, None])
def test_a_number_that_is_none_is_named_with_its_step(subject: Subject, figure: str, value: float | None) -> None:
    rows = healthy()
    rows[7][figure] = value
    found = findings(subject, rows)["training.non_finite"]
    assert (found.verdict, found.evidence["step"], found.evidence["figure"]) == ("fail", 80, figure)


def test_the_zero_that_the_trainer_writes_for_nan_is_found(subject: Subject) -> None:
    rows = healthy()
    rows[7]["loss"] = 0.0
    assert bad(subject, rows)["training.non_finite"] == "fail"
    assert "training.non_finite" not in bad(subject, healthy(loss=lambda step: 0.0 if step > 100 else 4.0 / step))


def test_a_rate_of_zero_is_named(subject: Subject) -> None:
    assert bad(subject, healthy(learning_rate=0.0, loss=LN_V)) == {"training.learning_rate": "fail"}


def test_a_large_rate_is_named_only_where_nothing_was_learnt(subject: Subject) -> None:
    assert bad(subject, healthy(rate=0.1, loss=lambda step: LN_V + 30 / step)) == {"training.learning_rate": "fail"}
    assert bad(subject, healthy(rate=0.1)) == {}


def test_a_loss_that_stays_where_it_began_is_named(subject: Subject) -> None:
    assert bad(subject, healthy(loss=LN_V)) == {"training.loss_not_falling": "fail"}
    assert bad(subject, healthy(steps=50, loss=LN_V)) == {}  # too soon to say


@pytest.mark.parametrize("course", [lambda step: 4.0 if step < 150 else 7.0])
def test_a_loss_that_left_its_lowest_has_diverged(subject: Subject, course: object) -> None:
    assert bad(subject, healthy(loss=course))["training.diverged"] == "fail"


def test_a_loss_near_nothing_may_double(subject: Subject) -> None:
    assert bad(subject, healthy(loss=lambda step: 5.0 if step < 50 else 0.01 + 0.01 * (step > 150), epoch=9.0)) == {}


def test_unseen_text_that_costs_nothing_is_noted(subject: Subject) -> None:
    rows = healthy()
    rows[-1]["eval_loss"] = 0.01
    assert bad(subject, rows) == {"training.too_good": "note"}
    assert bad(subject, healthy(loss=lambda step: 5 / step**2, epoch=0.5)) == {"training.too_good": "note"}
    assert bad(subject, healthy(loss=lambda step: 5 / step**2, epoch=7.0)) == {}  # learnt by heart


def test_our_own_run_is_shown_to_the_patterns_of_training(subject: Subject, finished_run: Path) -> None:
    subject.record = read_record(finished_run)
    found = [one for check in CHECKS if check.needs != "trainer" for one in as_list(check.run(subject))]
    assert not [one.check for one in found if one.verdict == "fail"]
    assert any(one.check == "training.advice" for one in found)


def held_out(rows: list[dict], *values: float) -> list[dict]:
    return [*rows, *({"step": 40 * number + 40, "eval_loss": value} for number, value in enumerate(values))]


def jumped(step: int) -> float:
    return 1 + 4 * math.exp(-(step if step < 120 else step - 110) / 80)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (held_out(healthy(loss=lambda step: 4 * math.exp(-step / 40)), 3.0, 2.0, 9.95), "training.overfitting"),
        (held_out(healthy(loss=lambda step: 4 * math.exp(-step / 40), epoch=70.0), 3.0, 9.0), "training.same_rows"),
        (healthy(learning_rate=lambda step: 1e-6 * step), "training.still_warming_up"),
        (healthy(rate=3e-6, loss=lambda step: 5.0 - step / 1000), "training.rate_too_small"),
        (healthy(loss=lambda step: 4 * (3 + math.exp(-step / 80))), "training.loss_scale"),
        (healthy(loss=jumped), "training.jump"),
    ],
)
def test_a_course_that_went_wrong_is_named(subject: Subject, rows: list[dict], expected: str) -> None:
    assert bad(subject, rows)[expected] == "fail"


@pytest.mark.parametrize(
    "rows",
    [
        held_out(healthy(), 2.0, 1.5, 1.52),
        healthy(learning_rate=1e-3),
        healthy(learning_rate=lambda step: min(1e-3, 1e-5 * step)),
        healthy(rate=3e-6, loss=2.0),
        healthy(loss=lambda step: 1 + 4 * math.exp(-step / 80) + 0.8 * (step == 100)),
    ],
)
def test_its_healthy_counterpart_is_not(subject: Subject, rows: list[dict]) -> None:
    assert bad(subject, rows) == {}
