"""One Trainer for all families. What a family needs beyond it is a callback.

It differs from the library's in five things: the order of the rows is a function of (seed, pass); whole accumulation
windows are masked on the device, so that the loss is averaged over all holes of a step; parts of the loss are logged
as exact means; a number that is not finite stops the run; and checkpoints are whole or do not exist.
"""

import itertools
import shutil
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainerCallback, TrainingArguments

from eval.errors import NonFiniteError
from eval.loading import RUN_FILE
from training.checkpoints import PREFIX, STAGING, list_checkpoints, rotate, staged
from training.data.errors import InputError
from training.data.sampling import PassSampler
from training.data.streaming import Cursor, TextStream, take_cursor
from training.run_state import LogWindow, RunState
from training.streams import stream_loader

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class TrainingParts:
    """What a family and a run bring along.

    Attributes:
        dataset: rows by (row index, pass index), see `PassDataset`; or a `TextStream`.
        collator: rows -> padded batch, without randomness.
        masker: (batch, progress from 0 to 1) -> the model's inputs; a function of the batch's keys alone.
        score: model -> held-out figures (JSON values).
        save_total_limit: newest checkpoints kept beside the best.
        lengths: (rows,) by which rows of like length share a batch; None to leave the order alone.
    """

    dataset: Dataset
    collator: Callable[[list[dict[str, Any]]], Batch]
    masker: Callable[[Batch, float], Batch]
    score: Callable[[PreTrainedModel], dict[str, Any]]
    save_total_limit: int
    lengths: np.ndarray | None = None


class JepaTrainer(Trainer):
    """Trains any family from its `TrainingParts`."""

    def __init__(
        self,
        model: PreTrainedModel,
        args: TrainingArguments,
        tokenizer: PreTrainedTokenizerBase,
        parts: TrainingParts,
        run_state: RunState,
        callbacks: list[TrainerCallback] | None = None,
    ) -> None:
        super().__init__(
            model=model,
            args=args,
            data_collator=parts.collator,
            train_dataset=parts.dataset,
            processing_class=tokenizer,
            callbacks=callbacks,
        )
        self.parts = parts
        self.run_state = run_state
        self.window = LogWindow()
        self._step_loss = torch.zeros((), device=args.device)
        self._staging: Path | None = None

    # ---- the order of the rows, and the masks ----

    @property
    def stream(self) -> TextStream | None:
        """The training rows, where they are streamed."""
        return self.parts.dataset if isinstance(self.parts.dataset, TextStream) else None

    @property
    def rows_per_step(self) -> int:
        """Rows of one optimizer step, over all processes and accumulation."""
        return self.get_total_train_batch_size(self.args)

    def get_train_dataloader(self) -> DataLoader:
        """As the library's; of a stream, batches with the cursor after them."""
        if self.stream is None:
            return super().get_train_dataloader()
        return self.accelerator.prepare(stream_loader(self.stream, self.parts.collator, self.args))

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler:
        rows = self.args.max_steps * self.rows_per_step
        group_size = self.rows_per_step if self.parts.lengths is not None else None
        return PassSampler(len(self.parts.dataset), self.args.seed, rows, group_size, self.parts.lengths)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Batch], num_batches: int, device: torch.device
    ) -> tuple[list[Batch], Tensor | int | None]:
        """The masked batches of one optimizer step, and the number of their holes over all processes."""
        self.window.start_clock()
        self._step_loss = torch.zeros((), device=device)
        progress = self.state.global_step / self.state.max_steps
        batches = list(itertools.islice(epoch_iterator, num_batches))
        if self.stream is not None:
            self.run_state.cursor = take_cursor(batches).to_dict()
        batches = [self._prepare_inputs(batch) for batch in batches]
        batches = [self.parts.masker(batch, progress) for batch in batches]
        return batches, self._get_num_items_in_batch(batches, device)

    # ---- the loss and its parts ----

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor | tuple[Tensor, Any]:
        """As the library's; the parts are added to the log window without waiting for the device."""
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        self._step_loss += loss.detach()
        for name, pair in outputs["loss_parts"].items():
            self.window.add(name, pair)
        self.window.add("tokens", torch.stack((inputs["attention_mask"].sum(), self._step_loss.new_ones(()))))
        return (loss, outputs) if return_outputs else loss

    def _get_grad_norm(self, model: torch.nn.Module, grad_norm: Tensor | float | None = None) -> Tensor | float:
        """The last look before the optimizer: nothing that is not finite may reach the weights."""
        grad_norm = super()._get_grad_norm(model, grad_norm)
        self.window.add("loss", torch.stack((self._step_loss, torch.ones_like(self._step_loss))))
        # With float16 the scaler meets infinite gradients on its way to a fitting scale, and skips those steps.
        figures = self._step_loss if self.args.fp16 else self._step_loss + grad_norm
        if not bool(torch.isfinite(torch.as_tensor(figures))):
            raise NonFiniteError(self._what_is_not_finite(model))
        return grad_norm

    def _what_is_not_finite(self, model: torch.nn.Module) -> str:
        gradients = [
            name for name, p in model.named_parameters() if p.grad is not None and not bool(p.grad.isfinite().all())
        ]
        found = [f"the loss is {self._step_loss.item():g}"] if not self._step_loss.isfinite() else []
        found += [f"the gradient of {gradients[0]} ({len(gradients)} tensors in all)"] if gradients else []
        saved = list_checkpoints(Path(self.args.output_dir))
        last = f"the last whole checkpoint is {saved[-1]}" if saved else "no checkpoint was saved yet"
        return (
            f"not finite at step {self.state.global_step + 1}: {' and '.join(found)}; {last}; "
            "try a lower learning_rate or more warmup_steps"
        )

    def floating_point_ops(self, inputs: Batch) -> int:
        """Not counted: the library's count walks over all modules at every step, and nothing here uses it."""
        return 0

    # ---- log and held-out figures ----

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """A row of training figures gets the loss parts since the last one; other rows are passed on."""
        if "loss" in logs:
            logs.update(self._window_figures())
        super().log(logs, start_time)

    def _window_figures(self) -> dict[str, float]:
        self.window.stop_clock()
        sums = self.window.reduced(self.accelerator)
        seconds = self.window.reset()
        tokens, _ = sums.pop("tokens")
        figures = {name: total / count for name, (total, count) in sums.items() if count}
        if "acc_neg" in figures:
            figures["acc_ema"] = self.run_state.update_acc_ema(figures["acc_neg"])
        figures["tokens_per_second"] = round(tokens / seconds, 1) if seconds else 0.0
        figures["passes"] = self._passes()
        return figures

    def _passes(self) -> float:
        if self.stream is not None:
            return self.stream.passes(Cursor.from_dict(self.run_state.cursor))
        return self.state.global_step * self.rows_per_step / len(self.parts.dataset)

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, Any]:
        """Held-out figures from the family's own scorer, in bounded memory; the first process's count."""
        self.window.stop_clock()
        figures = [self.parts.score(self.accelerator.unwrap_model(self.model, keep_torch_compile=False))]
        if self.args.world_size > 1:
            broadcast_object_list(figures)
        numbers = {f"{metric_key_prefix}_{k}": v for k, v in figures[0].items() if isinstance(v, int | float)}
        self.log(dict(numbers))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, figures[0])
        return numbers

    # ---- checkpoints ----

    def _get_output_dir(self, trial: Any = None) -> str:
        """Where the library writes: the staged folder during a save."""
        return str(self._staging or self.args.output_dir)

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any = None) -> None:
        """Everything a resume needs, in a staged folder; only when it is whole, older ones are removed."""
        self.window.stop_clock()
        self._refuse_broken_weights()
        self.run_state.window = self.window.reduced(self.accelerator)
        run_dir = Path(self.args.output_dir)
        final = run_dir / f"{PREFIX}{self.state.global_step}"
        writes = self.args.should_save
        weights = sum(p.numel() * p.element_size() for p in self.model.parameters())
        # weights and AdamW's two moments
        folder = staged(final, needed_bytes=3 * weights) if writes else nullcontext(run_dir / f"{STAGING}{final.name}")
        try:
            with folder as self._staging:
                self.accelerator.wait_for_everyone()
                super()._save_checkpoint(model, trial)
                if writes:
                    self.run_state.save(self._staging / final.name)
                    shutil.copyfile(run_dir / RUN_FILE, self._staging / final.name / RUN_FILE)
                self.accelerator.wait_for_everyone()
        finally:
            self._staging = None
        if writes:
            rotate(run_dir, self.parts.save_total_limit, self.run_state.best_step)
        self.accelerator.wait_for_everyone()

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """Without the library's pickle of the arguments: nothing that is published may need one."""
        super()._save(output_dir, state_dict)
        Path(output_dir or self.args.output_dir, "training_args.bin").unlink(missing_ok=True)

    def _refuse_broken_weights(self) -> None:
        for name, tensor in self.model.state_dict().items():
            if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
                raise NonFiniteError(
                    f"not finite after step {self.state.global_step}: {name}; nothing was saved; "
                    "try a lower learning_rate"
                )

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: PreTrainedModel | None = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        self.run_state.restore(Path(resume_from_checkpoint))
        if self.stream is not None:
            self.stream.seek(Cursor.from_dict(self.run_state.cursor))
        if self.accelerator.is_main_process:  # the saved sums are those of all processes
            self.window.restore(self.run_state.window, self.args.device)

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """The library warns; here a tensor that is missing or has no place ends the resume."""
        missing = set(load_result.missing_keys) - set(self.model.all_tied_weights_keys)
        wrong = sorted(missing | set(load_result.unexpected_keys))
        if wrong:
            raise InputError(f"resume: the checkpoint does not fit this version's model: {', '.join(wrong[:5])}")
