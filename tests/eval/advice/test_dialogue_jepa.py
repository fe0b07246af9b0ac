"""Log patterns of a dialogue model: each speaks of its fault and is silent on a healthy run."""

from typing import Any

import pytest

from eval.advice.patterns import look
from eval.advice.run_log import RunFacts, RunLog

FACTS = RunFacts("dialogue_jepa", max_steps=2000, warmup_steps=50, hidden_size=256, table_head=False)
STEPS = range(100, 1600, 100)


def log(**changed: Any) -> RunLog:
    """A healthy run's rows; `changed` holds, by figure, a function of the step."""
    usual = {
        "loss": lambda step: 9 - step / 400,
        "reply": lambda step: 6 - step / 800,
        "eval_perplexity": lambda step: 200 - step / 10,
        "eval_latent_usage_ratio": lambda step: 1 + step / 5000,
        "eval_effective_rank": lambda step: 20 + step / 50,
        "eval_target_effective_rank": lambda step: 30 + step / 50,
        "eval_mean_pairwise_cosine": lambda step: 0.4,
    } | changed
    train = [{"step": step, **{n: f(step) for n, f in usual.items() if "eval" not in n}} for step in STEPS]
    held_out = [{"step": step, **{n: f(step) for n, f in usual.items() if "eval" in n}} for step in STEPS]
    return RunLog(sorted(train + held_out, key=lambda row: row["step"]))


def test_a_healthy_run_is_told_nothing() -> None:
    assert look(log(), FACTS) == []


@pytest.mark.parametrize(
    "changed",
    [
        {"eval_mean_pairwise_cosine": lambda step: 0.99},
        {"eval_target_effective_rank": lambda step: 60.0 if step < 500 else 6.0},
    ],
)
def test_latents_that_become_alike_are_named_with_both_ranks(changed: dict) -> None:
    (advice,) = look(log(**changed), FACTS)
    assert advice.pattern == "representation_collapsing"
    assert "effective rank of the replies' latents" in advice.evidence
    assert "of predicted ones 50.0" in advice.evidence
    assert "collapse_protection" in advice.remedy


def test_latents_that_are_alike_before_anything_is_learnt_are_no_collapse() -> None:
    young = RunLog([row for row in log(eval_mean_pairwise_cosine=lambda step: 0.99).held_out if row["step"] < 200])
    assert look(young, FACTS) == []


def test_a_decoder_that_does_not_listen_to_the_latents_is_noted() -> None:
    (advice,) = look(log(eval_latent_usage_ratio=lambda step: 1.002), FACTS)
    assert (advice.pattern, advice.level) == ("latent_not_used", "note")
    assert "1.002 times" in advice.evidence


def test_a_held_out_perplexity_that_rises_while_the_loss_falls_is_overfitting() -> None:
    (advice,) = look(log(eval_perplexity=lambda step: 100 + abs(step - 700) / 10), FACTS)
    assert advice.pattern == "overfitting"
    assert "best at step 700" in advice.evidence


def test_a_loss_that_does_not_fall_is_named_where_the_run_starts_from_nothing() -> None:
    flat = {"loss": lambda step: 9.0, "reply": lambda step: 6.0}
    assert [advice.pattern for advice in look(log(**flat), FACTS)] == ["loss_not_falling"]
