"""The learning rate over a run."""

import itertools
import math
from dataclasses import replace

import pytest

from tests.training.optim.rates import learning_rates
from training.optim.schedule import extension_note, phases, rate_at
from training.settings.common import TrainingSettings

SETTINGS = TrainingSettings(
    max_steps=1000, warmup_steps=100, constant_share=0.25, learning_rate=3e-4, final_learning_rate=1e-5
)


def test_a_quarter_of_what_warm_up_leaves_is_constant() -> None:
    assert phases(SETTINGS) == (100, 225, 675)


def test_the_rate_warms_up_stays_and_falls_on_a_cosine_to_its_floor() -> None:
    rates = learning_rates(SETTINGS)
    assert len(rates) == 1000
    assert rates[0] == pytest.approx(1e-5)
    assert rates[50] == pytest.approx((3e-4 + 1e-5) / 2)
    assert rates[100:326] == [pytest.approx(3e-4)] * 226
    middle = 325 + 675 / 3
    assert rates[round(middle)] == pytest.approx(1e-5 + (3e-4 - 1e-5) * 0.5 * (1 + math.cos(math.pi / 3)))
    assert rates[-1] == pytest.approx(1e-5, rel=1e-3)
    assert all(later <= earlier for earlier, later in itertools.pairwise(rates[100:]))


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_constant_share_of_nothing_and_of_everything_works(share: float) -> None:
    settings = TrainingSettings(max_steps=20, warmup_steps=0, constant_share=share, learning_rate=1e-3)
    rates = learning_rates(settings)
    assert rates[0] == pytest.approx(1e-3)
    assert (rates[-1] == pytest.approx(1e-3)) is (share == 1.0)


@pytest.mark.parametrize(("max_steps", "warmup"), [(2, 0), (100, 5), (2000, 100), (200_000, 1000)])
def test_warm_up_is_a_twentieth_of_the_run_unless_it_is_given(max_steps: int, warmup: int) -> None:
    assert phases(TrainingSettings(max_steps=max_steps)).warmup == warmup
    assert phases(TrainingSettings(max_steps=max_steps, warmup_steps=1)).warmup == 1


@pytest.mark.parametrize("changes", [{}, {"warmup_steps": 0}, {"constant_share": 0.0}], ids=str)
def test_the_rate_of_a_step_is_that_of_the_schedule(changes: dict) -> None:
    settings = replace(SETTINGS, **changes)
    assert [rate_at(settings, step) for step in range(1000)] == pytest.approx(learning_rates(settings), rel=1e-6)


def test_a_run_that_gets_longer_says_what_becomes_of_its_rate() -> None:
    assert extension_note(SETTINGS, 1000, 1000) is None
    said = extension_note(replace(SETTINGS, max_steps=2000), 1000, 1000)
    assert said is not None
    assert said.startswith("max_steps is 2,000 and was 1,000: the learning rate of step 1,000 is 0.0002")
    assert "and was 1e-05" in said
