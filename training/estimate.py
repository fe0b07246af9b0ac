"""What a run will need, before it runs: parameters, memory and time, measured on a few of its own steps."""

import math
import time
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import PreTrainedModel

from training.common.wording import duration, millions, readable_bytes
from training.data.prepared import Prepared
from training.family import Family
from training.run.run import Run
from training.run.state import RunState
from training.runtime.memory import TRIM_STEPS, give_back_memory, peak_memory
from training.settings.common import EvaluationSettings
from training.trainer.build import build_trainer
from training.trainer.trainer import JepaTrainer

# Enough to be more than noise, and no more of a slow model than needed.
_LEAST_STEPS, _MOST_STEPS, _ENOUGH_SECONDS = 4, TRIM_STEPS, 8.0
_FIRST_STEPS = 2
_PROBE_STEPS = 1 + _FIRST_STEPS + _MOST_STEPS  # the one is that of `_bytes_of_one_batch`
_SCORED_ROWS = 60
# A run meets longer batches than its first few, saves, and fragments its memory a little: measured on four runs of 100
# to 1,000 steps, its peak lies 17 to 66 % above the probe's.
_GROWTH = 1.35


@dataclass(frozen=True)
class RunEstimate:
    """Parameters (trainable and all), bytes of memory, seconds.

    Attributes:
        memory_bytes: at the peak, beside the libraries themselves (on a GPU: of its memory).
        fixed_bytes: of them weights, gradients and AdamW's moments, whatever the batch.
        batch_bytes: of them what one batch's activations and logits take, by count.
        libraries_bytes: what the process held before it read any data; 0 on a GPU.
        rows_per_step: rows of one optimizer step, over all processes and accumulation.
        tokens_per_step: what the model reads in one, as measured.
        seconds_per_step: one optimizer step.
        seconds_per_row: of scoring.
        rows_scored: (steps of a run) -> rows of all its held-out figures and its final score.
    """

    trainable: int
    parameters: int
    memory_bytes: int
    fixed_bytes: int
    batch_bytes: int
    libraries_bytes: int
    steps: int
    rows_per_step: int
    tokens_per_step: int
    seconds_per_step: float
    seconds_per_row: float
    rows_scored: Callable[[int], int]

    @property
    def seconds_scoring(self) -> float:
        """All held-out figures of the run and its final score."""
        return self.seconds_per_row * self.rows_scored(self.steps)

    @property
    def seconds(self) -> float:
        """Of the whole run."""
        return self.steps * self.seconds_per_step + self.seconds_scoring

    def at(self, steps: int) -> "RunEstimate":
        """Of the same run with so many steps."""
        return replace(self, steps=steps)

    def steps_within(self, seconds: float, most: int) -> int:
        """The most steps, up to `most`, that a run of so many seconds has time for; 0 where there is none for one."""
        return bisect_right(range(1, most + 1), seconds, key=lambda steps: self.at(steps).seconds)

    def lines(self) -> list[str]:
        """For the screen."""
        frozen = self.parameters - self.trainable
        beside = (
            f" beside the libraries' {readable_bytes(self.libraries_bytes)}" if self.libraries_bytes else " of the GPU"
        )
        return [
            f"parameters  {millions(self.trainable)} trainable"
            + (f", {millions(frozen)} in the target network" if frozen else ""),
            f"memory      about {readable_bytes(self.memory_bytes)}{beside} (weights, gradients, AdamW "
            f"{readable_bytes(self.fixed_bytes)}; activations and logits {readable_bytes(self.batch_bytes)})",
            f"time        about {duration(self.seconds)} here: {self.steps:,} steps of "
            f"{1000 * self.seconds_per_step:,.0f} ms, and {duration(self.seconds_scoring)} of scoring",
        ]


def fixed_bytes(model: PreTrainedModel) -> int:
    """Weights, gradients and AdamW's two moments, all float32."""
    trainable, parameters = count_parameters(model)
    return 4 * parameters + 3 * 4 * trainable


def count_parameters(model: PreTrainedModel) -> tuple[int, int]:
    """Trainable parameters and all of them; tied ones count once."""
    parameters = list(model.parameters())
    return sum(p.numel() for p in parameters if p.requires_grad), sum(p.numel() for p in parameters)


def estimate_run(
    run: Run,
    family: Family,
    prepared: Prepared,
    model: PreTrainedModel,
    libraries: int,
    clock: Callable[[], float] = time.perf_counter,
) -> RunEstimate:
    """Run a few steps and score a few rows without changing the weights, and multiply.

    Args:
        libraries: `held_bytes()` from before the data was read.
        clock: gives seconds.
    """
    # However short the run is, the probe needs its batches.
    long_enough = run.with_settings(training={"max_steps": max(run.training.max_steps, _PROBE_STEPS)})
    with TemporaryDirectory() as scratch:  # the library makes its output folder at once
        trainer = build_trainer(replace(long_enough, output_dir=Path(scratch)), family, prepared, model, RunState())
    trainer.state.max_steps = run.training.max_steps
    trainer.create_optimizer()
    batches = iter(trainer.get_train_dataloader())
    on_gpu = trainer.args.device.type == "cuda"
    kept, tokens = _bytes_of_one_batch(trainer, batches, family)
    give_back_memory()
    with peak_memory(on_gpu) as peak:
        # In this order, as in a run: what scoring imports and holds is there when the steps are made.
        per_row = _seconds_per_row(family, prepared, model, clock)
        per_step = _seconds_per_step(trainer, batches, clock)
    trainable, parameters = count_parameters(model)
    return RunEstimate(
        trainable=trainable,
        parameters=parameters,
        memory_bytes=round(_GROWTH * (peak() - (0 if on_gpu else libraries))),
        fixed_bytes=fixed_bytes(model),
        batch_bytes=kept,
        libraries_bytes=0 if on_gpu else libraries,
        steps=run.training.max_steps,
        rows_per_step=trainer.rows_per_step,
        tokens_per_step=tokens * trainer.rows_per_step // run.training.per_device_train_batch_size,
        seconds_per_step=per_step,
        seconds_per_row=per_row,
        rows_scored=partial(_rows_scored, run.evaluation, len(prepared.valid)),
    )


def _seconds_per_step(trainer: JepaTrainer, batches: Any, clock: Callable[[], float]) -> float:
    """Mean over a few steps; the first ones, which allocate, are not counted."""
    for _ in range(_FIRST_STEPS):
        _one_step(trainer, batches)
    # The processes' clocks differ, and all must make the same number of steps.
    most = _MOST_STEPS if trainer.args.world_size == 1 else _LEAST_STEPS
    steps, started = 0, clock()
    while steps < _LEAST_STEPS or (steps < most and clock() - started < _ENOUGH_SECONDS):
        _one_step(trainer, batches)
        steps += 1
    return (clock() - started) / steps


def _seconds_per_row(family: Family, prepared: Prepared, model: PreTrainedModel, clock: Callable[[], float]) -> float:
    """Of the second scoring; the first one imports what it needs."""
    rows = min(_SCORED_ROWS, len(prepared.valid))
    family.score_held_out(model, prepared, rows)
    started = clock()
    family.score_held_out(model, prepared, rows)
    return (clock() - started) / max(1, rows)


def _rows_scored(settings: EvaluationSettings, valid_rows: int, steps: int) -> int:
    """Held-out rows over a run of so many steps, the final score included."""
    at = {step for step in settings.milestones if step <= steps and (step % settings.eval_steps or not step)} | {steps}
    times = len(at) + steps // settings.eval_steps - (steps % settings.eval_steps == 0)
    final = (settings.score_rows or valid_rows) if settings.final_score else 0
    return times * min(settings.eval_rows, valid_rows) + min(final, valid_rows)


def _one_step(trainer: JepaTrainer, batches: Any) -> None:
    """Forward, backward and an optimizer step of rate 0."""
    accumulation = trainer.args.gradient_accumulation_steps
    inputs, holes = trainer.get_batch_samples(batches, accumulation, trainer.args.device)
    trainer.current_gradient_accumulation_steps = len(inputs)
    for batch in inputs:
        trainer.training_step(trainer.model, batch, holes)
    torch.nn.utils.clip_grad_norm_(trainer.model.parameters(), math.inf)
    for group in trainer.optimizer.param_groups:
        group["lr"] = 0.0
    trainer.optimizer.step()
    trainer.model.zero_grad()
    if trainer.args.device.type == "cuda":
        torch.cuda.synchronize()


def _bytes_of_one_batch(trainer: JepaTrainer, batches: Any, family: Family) -> tuple[int, int]:
    """Bytes that one forward pass keeps for its backward pass, and as much again for the largest of them at work; and
    the tokens of the batch.
    """
    sizes: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    inputs, holes = trainer.get_batch_samples(batches, 1, trainer.args.device)
    tokens = int(family.count_tokens(inputs[0]))
    weights = {p.untyped_storage().data_ptr() for p in trainer.model.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = trainer.compute_loss(trainer.model.train(), inputs[0], num_items_in_batch=holes)
    kept = [size for pointer, size in sizes.items() if pointer not in weights]
    loss.backward()
    trainer.model.zero_grad()
    return sum(kept) + 2 * max(kept, default=0), tokens
