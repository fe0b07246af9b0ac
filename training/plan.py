"""What a run will need, before it runs: parameters, memory and time, measured on a few of its own steps."""

import gc
import time
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from training.callbacks import duration
from training.cards import millions
from training.trainer import JepaTrainer

_MEASURED_STEPS = 5
_MIB = 2**20


@dataclass(frozen=True)
class RunEstimate:
    """Parameters (trainable and all), bytes of memory, seconds per optimizer step and of the whole run."""

    trainable: int
    parameters: int
    memory_bytes: int
    seconds_per_step: float
    seconds: float
    passes: float

    def lines(self) -> list[str]:
        """For the screen."""
        frozen = self.parameters - self.trainable
        trained_in = f"{duration(self.seconds)} of training here ({1000 * self.seconds_per_step:.0f} ms per step)"
        mebibytes = f"{self.memory_bytes / _MIB:,.0f} MiB"
        return [
            f"parameters  {millions(self.trainable)} trainable"
            + (f", {millions(frozen)} in the target network" if frozen else ""),
            f"memory      about {mebibytes} beside the libraries (weights, gradients, AdamW, one batch)",
            f"time        about {trained_in}",
            f"passes      {self.passes:.1f} over the training rows",
        ]


def count_parameters(model: PreTrainedModel) -> tuple[int, int]:
    """Trainable parameters and all of them; tied ones count once."""
    parameters = list(model.parameters())
    return sum(p.numel() for p in parameters if p.requires_grad), sum(p.numel() for p in parameters)


def estimate_run(trainer: JepaTrainer) -> RunEstimate:
    """Run a few steps of `trainer` without changing its weights, and multiply.

    Memory: weights, gradients and AdamW's two moments by count; what a forward and backward pass keeps by the tensors
    that autograd saves (on a GPU: by the allocator's peak).
    """
    steps = trainer.args.max_steps
    trainable, parameters = count_parameters(trainer.model)
    trainer.state.max_steps = steps
    trainer.create_optimizer()
    batches = iter(trainer.get_train_dataloader())
    kept = _bytes_of_one_batch(trainer, batches)
    started = 0.0
    for step in range(_MEASURED_STEPS + 1):
        if step == 1:  # the first one allocates
            started = time.perf_counter()
        _one_step(trainer, batches)
    seconds = (time.perf_counter() - started) / _MEASURED_STEPS
    # weights, gradients and two moments of what is trained
    memory = 4 * parameters + 3 * 4 * trainable + kept
    passes = steps * trainer.rows_per_step / len(trainer.parts.dataset)
    gc.collect()
    return RunEstimate(trainable, parameters, memory, seconds, seconds * steps, passes)


def _one_step(trainer: JepaTrainer, batches: object) -> None:
    """Forward, backward and an optimizer step of rate 0."""
    accumulation = trainer.args.gradient_accumulation_steps
    inputs, holes = trainer.get_batch_samples(batches, accumulation, trainer.args.device)
    trainer.current_gradient_accumulation_steps = len(inputs)
    for batch in inputs:
        trainer.training_step(trainer.model, batch, holes)
    for group in trainer.optimizer.param_groups:
        group["lr"] = 0.0
    trainer.optimizer.step()
    trainer.model.zero_grad()
    if trainer.args.device.type == "cuda":
        torch.cuda.synchronize()


def _bytes_of_one_batch(trainer: JepaTrainer, batches: object) -> int:
    """Bytes that one forward pass keeps for its backward pass, and as much again for the largest of them at work."""
    sizes: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    inputs, holes = trainer.get_batch_samples(batches, 1, trainer.args.device)
    weights = {p.untyped_storage().data_ptr() for p in trainer.model.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = trainer.compute_loss(trainer.model.train(), inputs[0], num_items_in_batch=holes)
    kept = [size for pointer, size in sizes.items() if pointer not in weights]
    loss.backward()
    trainer.model.zero_grad()
    return sum(kept) + 2 * max(kept, default=0)
