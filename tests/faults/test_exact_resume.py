"""A run that was killed goes on to the same bits: weights, optimizer, random state and log."""

import itertools
from pathlib import Path

import pytest

from tests.faults.harness import PASS_STEPS, assert_resumes_exactly, assert_same_run, before_step, die, train

# The checkpoint at step 8 lies within a pass and between two log rows; the one at step 6 ends a pass.
WHERE = {
    "within a pass": "--save_steps 8",
    "at the end of a pass": f"--save_steps {PASS_STEPS} --group_by_length false",
}
ACCUMULATION = {1: "", 2: "--per_device_train_batch_size 4 --gradient_accumulation_steps 2"}
TEACHER = {"no teacher": "", "teacher": "--target_table contextual --alignment_weight 1"}
MATRIX = list(itertools.product(WHERE, (0, 2), ACCUMULATION, TEACHER))


@pytest.mark.parametrize(("where", "workers", "accumulation", "teacher"), MATRIX)
def test_a_killed_run_goes_on_to_the_same_bits(
    whole_run, recipe: Path, tmp_path: Path, where: str, workers: int, accumulation: int, teacher: str
) -> None:
    flags = f"{WHERE[where]} {ACCUMULATION[accumulation]} {TEACHER[teacher]}"
    step = 9 if where == "within a pass" else PASS_STEPS
    here = f"{flags} --dataloader_num_workers {workers}"
    assert train(recipe, tmp_path / "run", here, before_step(step, die)).code == -9
    ending = train(recipe, tmp_path / "run", here)
    assert ending.code == 0, ending
    assert_same_run(whole_run(flags), tmp_path / "run")


def test_a_killed_run_with_shared_candidates_goes_on_to_the_same_bits(recipe: Path, tmp_path: Path) -> None:
    assert_resumes_exactly(recipe, tmp_path, "--ranking shared --num_candidates 8")


def test_a_run_killed_at_every_third_step_goes_on_to_the_same_bits(whole_run, recipe: Path, tmp_path: Path) -> None:
    flags = "--mask_rate_final 0.6 --save_steps 2 --target_table ema"
    for step in range(3, 18, 3):
        assert train(recipe, tmp_path / "run", flags, before_step(step, die)).code == -9
    assert train(recipe, tmp_path / "run", flags).code == 0
    assert_same_run(whole_run(flags), tmp_path / "run")
