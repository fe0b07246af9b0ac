"""NaN and infinity: the run stops within the step, or skips it, says what and where, and never saves them."""

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.faults.harness import log_rows, train
from training.run_folder.checkpoints import check_whole, list_checkpoints

BAD_STEP = 14  # checkpoint-6, -9 (held-out figures) and -12 are there by then
BROKEN = "model.layers.0.mlp.down_proj.weight"
EVERY = "--logging_steps 1 --save_total_limit 5"


def _in_step(number: int, act: Callable[[Any, list[dict]], list[dict]]) -> Callable[[], None]:
    """A fault: the inputs of step `number` are what `act(trainer, inputs)` makes of them."""

    def hurt() -> None:
        from training.trainer.trainer import JepaTrainer

        begin = JepaTrainer.get_batch_samples

        def wrapped(self: JepaTrainer, *args: object) -> object:
            batches, holes = begin(self, *args)
            if self.state.global_step == number - 1:
                batches[:] = act(self, batches)
            return batches, holes

        JepaTrainer.get_batch_samples = wrapped

    return hurt


def _loss(trainer: Any, batches: list[dict]) -> list[dict]:
    forward = trainer.model.forward

    def broken(*args: object, **kwargs: object) -> object:
        trainer.model.forward = forward
        output = forward(*args, **kwargs)
        output.loss = output["loss"] = output.loss * float("inf")
        return output

    trainer.model.forward = broken
    return batches


def _gradient(trainer: Any, batches: list[dict]) -> list[dict]:
    def break_once(gradient: torch.Tensor) -> torch.Tensor:
        handle.remove()
        return gradient * float("nan")

    handle = dict(trainer.model.named_parameters())[BROKEN].register_hook(break_once)
    return batches


def _weight(trainer: Any, batches: list[dict]) -> list[dict]:
    with torch.no_grad():
        dict(trainer.model.named_parameters())[BROKEN][0, 0] = float("nan")
    return batches


def _input(trainer: Any, batches: list[dict]) -> list[dict]:
    for batch in batches:
        embeddings = trainer.model.get_input_embeddings()(batch.pop("input_ids")).detach()
        embeddings[0, 0, 0] = float("nan")
        batch["inputs_embeds"] = embeddings
    return batches


SOURCES = {
    "loss": (_loss, "the loss is inf"),
    "gradient": (_gradient, f"the gradient of {BROKEN}"),
    "weight": (_weight, f"the weight {BROKEN}"),
    "input": (_input, "the input inputs_embeds"),
}
PRECISIONS = {"fp32": "", "bf16": "--bf16"}
CASES = list(itertools.product(SOURCES, PRECISIONS))


def assert_finite_on_disk(folder: Path) -> None:
    """No tensor and no number of any file in the run folder is NaN or infinite."""
    for path in folder.rglob("*.safetensors"):
        assert all(tensor.isfinite().all() for tensor in load_file(path).values()), path
    for path in folder.rglob("optimizer.pt"):
        moments = torch.load(path, weights_only=True)["state"].values()
        assert all(tensor.isfinite().all() for state in moments for tensor in state.values()), path
    for path in (*folder.rglob("*.json"), *folder.rglob("*.jsonl")):
        assert not any(word in path.read_text() for word in ("NaN", "Infinity")), path


@pytest.mark.parametrize(("source", "precision"), CASES)
def test_the_run_stops_within_the_step_naming_step_tensor_and_the_last_good_checkpoint(
    recipe: Path, tmp_path: Path, source: str, precision: str
) -> None:
    act, named = SOURCES[source]
    ending = train(recipe, tmp_path / "run", f"{EVERY} {PRECISIONS[precision]}", _in_step(BAD_STEP, act))
    assert ending.code == 3, ending
    assert ending.last_line.startswith(f"error: not finite at step {BAD_STEP}: {named}")
    assert f"the last whole checkpoint is {tmp_path / 'run' / 'checkpoint-12'}" in ending.last_line
    assert log_rows(tmp_path / "run")[-1]["step"] == BAD_STEP - 1
    assert check_whole(list_checkpoints(tmp_path / "run")[-1]) is None
    assert_finite_on_disk(tmp_path / "run")


@pytest.mark.parametrize(("source", "precision"), [case for case in CASES if case[0] != "weight"])
def test_with_skip_the_step_is_left_out_counted_and_said(
    recipe: Path, tmp_path: Path, source: str, precision: str
) -> None:
    act, named = SOURCES[source]
    flags = f"{EVERY} {PRECISIONS[precision]} --on_non_finite skip --save_steps 1 --save_total_limit 18"
    ending = train(recipe, tmp_path / "run", flags, _in_step(BAD_STEP, act))
    assert ending.code == 0, ending
    assert f"skipped: not finite at step {BAD_STEP}: {named}" in ending.err
    rows = log_rows(tmp_path / "run")
    said = [row for row in rows if "skipped" in row]
    assert [(row["step"], row["skipped_steps"]) for row in said] == [(BAD_STEP, 1)]
    assert [row["step"] for row in rows if "loss" in row] == [step for step in range(1, 19) if step != BAD_STEP]
    assert rows[-1].get("skipped_steps", 1) == 1
    before, after = (load_file(tmp_path / "run" / f"checkpoint-{n}" / "model.safetensors") for n in (13, 14))
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert_finite_on_disk(tmp_path / "run")


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_broken_weight_stops_the_run_even_where_steps_are_skipped(
    recipe: Path, tmp_path: Path, precision: str
) -> None:
    flags = f"{EVERY} {PRECISIONS[precision]} --on_non_finite skip"
    ending = train(recipe, tmp_path / "run", flags, _in_step(BAD_STEP, _weight))
    assert ending.code == 3, ending
    assert f"step {BAD_STEP}: the weight {BROKEN}" in ending.last_line
    assert_finite_on_disk(tmp_path / "run")


def test_a_run_that_only_skips_stops(recipe: Path, tmp_path: Path) -> None:
    flags = f"{EVERY} --on_non_finite skip --max_grad_norm 0"
    ending = train(recipe, tmp_path / "run", flags, _always_from(3))
    assert ending.code == 3, ending
    assert "not finite at step 13: the loss is inf" in ending.last_line
    assert "after 10 skipped in a row" in ending.last_line


def _always_from(number: int) -> Callable[[], None]:
    def hurt() -> None:
        for step in range(number, 19):
            _in_step(step, _loss)()

    return hurt


def test_a_stopped_run_goes_on_with_skip_from_its_last_checkpoint(recipe: Path, tmp_path: Path) -> None:
    assert train(recipe, tmp_path / "run", EVERY, _in_step(BAD_STEP, _gradient)).code == 3
    ending = train(recipe, tmp_path / "run", f"{EVERY} --on_non_finite skip", _in_step(BAD_STEP, _gradient))
    assert ending.code == 0, ending
    state = json.loads((list_checkpoints(tmp_path / "run")[-1] / "run_state.json").read_text())
    assert state["skipped_steps"] == 1


@pytest.mark.parametrize("broken", ["weight", "optimizer"])
def test_what_breaks_in_the_last_step_is_neither_scored_nor_saved(recipe: Path, tmp_path: Path, broken: str) -> None:
    def hurt() -> None:
        from training.trainer.callbacks import TeacherUpdate

        def poison(self: object, args: object, state: Any, control: object, model: Any, **kwargs: Any) -> None:
            parameter = dict(model.named_parameters())[BROKEN]
            if state.global_step == 18:
                moments = kwargs["optimizer"].state[parameter]["exp_avg_sq"]
                with torch.no_grad():
                    (parameter if broken == "weight" else moments)[0, 0] = math.inf

        TeacherUpdate.on_step_end = poison

    ending = train(recipe, tmp_path / "run", EVERY, hurt)
    assert ending.code == 3, ending
    assert "not finite after step 18: " in ending.last_line
    assert BROKEN in ending.last_line
    assert list_checkpoints(tmp_path / "run")[-1].name == "checkpoint-12"
    assert_finite_on_disk(tmp_path / "run")
