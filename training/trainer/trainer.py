"""One Trainer for all families. What a family needs beyond it is a callback.

It differs from the library's in five things: the order of the rows is a function of (seed, pass); whole accumulation
windows are masked on the device, so that the loss is averaged over all holes of a step; parts of the loss are logged
as exact means; a number that is not finite stops the run; and checkpoints are whole or do not exist.
"""

import copy
import itertools
import math
import random
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainingArguments

from eval.rules import passes_over_data
from training.common.errors import InputError, NonFiniteError
from training.common.finite import broken_moments, broken_weights, what_is_broken
from training.common.layout import LOG_FILE
from training.common.manifest import RUN_FILE
from training.data.families import StepInputs, Tokenizer
from training.data.sampling import PassSampler
from training.data.streaming import Cursor, TextStream, take_cursor
from training.optim.credit import Credit, CreditRules
from training.run.state import RUN_STATE, LogWindow, RunState
from training.run_folder.checkpoints import PREFIX, STAGING, flush, last_good, reading, refuse_lacking, rotate, staged
from training.runtime.signals import leave_signals_to_the_parent
from training.trainer.log_file import append_row
from training.trainer.shared_fate import shared_fate
from training.trainer.streams import stream_loader

if TYPE_CHECKING:
    from training.init_from.adapters import Adapters  # whose library takes a second to import, and few runs need it

Batch = dict[str, Tensor]

# Where this many steps in a row had to be skipped, no later one will be better.
MAX_SKIPPED_IN_A_ROW = 10


@dataclass(frozen=True)
class TrainingParts:
    """What a family and a run bring along.

    Attributes:
        dataset: rows by (row index, pass index), see `PassDataset`; or a `TextStream`.
        collator: rows -> padded batch, without randomness.
        masker: (batch, progress from 0 to 1) -> the model's inputs; a function of the batch's keys alone.
        step_inputs: what all batches of a step get beside their own inputs; see `training.data.families`.
        score: model -> held-out figures (JSON values).
        save_total_limit: newest checkpoints kept beside the best.
        lengths: (rows,) by which rows of like length share a batch; None to leave the order alone.
        on_non_finite: "stop" the run at a loss or gradient that is not finite, or "skip" that step.
        make_optimizer: (model) -> the optimizer; None, as what it gives, for the library's AdamW.
        credit: rules of credit assignment; the optimizer's groups must know their parts.
        adapters: how weights are saved and loaded of a model that has LoRA.
        write_card: (folder of a checkpoint, step, state of the run) -> its card is there.
        perplexity_of: the part of the loss, in nats, whose exponential is logged as `perplexity`.
        count_tokens: (masked batch) -> how many tokens the trunk reads, 0-d.
    """

    dataset: Dataset
    collator: Callable[[list[dict[str, Any]]], Batch]
    masker: Callable[[Batch, float], Batch]
    score: Callable[[PreTrainedModel], dict[str, Any]]
    save_total_limit: int
    step_inputs: StepInputs | None = None
    lengths: np.ndarray | None = None
    on_non_finite: str = "stop"
    make_optimizer: Callable[[PreTrainedModel], torch.optim.Optimizer | None] = lambda model: None
    credit: CreditRules | None = None
    adapters: "Adapters | None" = None
    write_card: Callable[[Path, int, RunState], None] | None = None
    perplexity_of: str | None = None
    count_tokens: Callable[[Batch], Tensor] = lambda inputs: inputs["attention_mask"].sum()


class JepaTrainer(Trainer):
    """Trains any family from its `TrainingParts`."""

    def __init__(
        self,
        model: PreTrainedModel,
        args: TrainingArguments,
        tokenizer: Tokenizer,
        parts: TrainingParts,
        run_state: RunState,
        callbacks: list[TrainerCallback] | None = None,
    ) -> None:
        caches = model.config.to_dict().get("use_cache")
        super().__init__(
            model=model,
            args=args,
            data_collator=parts.collator,
            train_dataset=parts.dataset,
            processing_class=tokenizer,
            callbacks=callbacks,
        )
        if caches is not None:  # the library turns it off, and checkpoints would say so of generation
            model.config.use_cache = caches
        self.parts = parts
        self.run_state = run_state
        self.window = LogWindow()
        self.credit: Credit | None = None
        self._step_loss = torch.zeros((), device=args.device)
        self._step_inputs: list[Batch] = []
        self._staging: Path | None = None

    # ---- the order of the rows, and the masks ----

    def get_train_dataloader(self) -> DataLoader:
        """As the library's; its workers end with the run, and not by a signal that the run itself acts on."""
        if self.stream is None:
            loader = super().get_train_dataloader()
        else:
            loader = self.accelerator.prepare(stream_loader(self.stream, self.parts.collator, self.args))
        loader.base_dataloader.worker_init_fn = leave_signals_to_the_parent  # of the loader that Accelerate wraps
        return loader

    @property
    def stream(self) -> TextStream | None:
        """The training rows, where they are streamed."""
        return self.parts.dataset if isinstance(self.parts.dataset, TextStream) else None

    @property
    def rows_per_step(self) -> int:
        """Rows of one optimizer step, over all processes and accumulation."""
        return self.get_total_train_batch_size(self.args)

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler:
        rows = self.args.max_steps * self.rows_per_step
        group_size = self.rows_per_step if self.parts.lengths is not None else None
        return PassSampler(len(self.parts.dataset), self.args.seed, rows, group_size, self.parts.lengths)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Batch], num_batches: int, device: torch.device
    ) -> tuple[list[Batch], Tensor | int | None]:
        """The masked batches of one optimizer step, and the number of their holes over all processes."""
        self.window.start_clock()
        if self.credit is not None:
            self.credit.begin_step()
        self._step_loss = torch.zeros((), device=device)
        progress = self.state.global_step / self.state.max_steps
        batches = list(itertools.islice(epoch_iterator, num_batches))
        if self.stream is not None:
            self.run_state.cursor = take_cursor(batches).to_dict()
        batches = [self._prepare_inputs(batch) for batch in batches]
        batches = [self.parts.masker(batch, progress) for batch in batches]
        if self.parts.step_inputs is not None and batches:
            shared = self.parts.step_inputs(batches, self.state.global_step, progress, self._over_processes)
            batches = [{**batch, **shared} for batch in batches]
        self._step_inputs = batches
        return batches, self._get_num_items_in_batch(batches, device)

    def _over_processes(self, values: Tensor) -> Tensor:
        return self.accelerator.reduce(values, reduction="sum") if self.args.world_size > 1 else values

    @contextmanager
    def trial(self) -> Iterator[None]:
        """Batches and losses may be asked for inside, and leave no trace: not in the log window, the stream's cursor,
        the library's list of loaders or the random state.
        """
        kept = (self.window, self.run_state, self._step_loss, self._step_inputs)
        loaders, gradient_state = len(self.accelerator._dataloaders), self.accelerator.gradient_state
        active, syncs = gradient_state.dataloader_references, gradient_state.sync_gradients
        self.window, self.run_state = LogWindow(), copy.deepcopy(self.run_state)
        self._step_loss = torch.zeros_like(self._step_loss)  # it is added to in place
        python, numpy = random.getstate(), np.random.get_state()
        device = self.args.device
        with torch.random.fork_rng(devices=[] if device.type == "cpu" else [device.index or 0]):
            try:
                yield
            finally:
                self.window, self.run_state, self._step_loss, self._step_inputs = kept
                del self.accelerator._dataloaders[loaders:]
                gradient_state.dataloader_references, gradient_state.sync_gradients = active, syncs
                random.setstate(python)
                np.random.set_state(numpy)

    # ---- the optimizer ----

    def create_optimizer(self, model: PreTrainedModel | None = None) -> torch.optim.Optimizer:
        """The family's own, with credit assignment where it is asked for.

        Raises:
            InputError: an engine holds the optimizer in pieces, and credit or Muon is asked for.
        """
        own = None if self.optimizer is not None else self.parts.make_optimizer(self.model if model is None else model)
        if own is None:
            return super().create_optimizer(model)
        needs_own = self.parts.credit is not None or not isinstance(own, torch.optim.AdamW)
        if self._is_sharded:
            if needs_own:
                raise InputError(
                    "credit and optimizer: FSDP and DeepSpeed keep weights and optimizer in pieces, so that parts of "
                    "the model cannot be told apart; use --credit off --optimizer adamw, or a launch without them"
                )
            return super().create_optimizer(model)
        self.optimizer = own
        if self.parts.credit is not None:
            if self.parts.credit.freezes and self.args.world_size > 1:
                raise InputError(
                    "credit: adapt freezes other parts at every choice, which several processes cannot follow; use "
                    "one process (python training/train.py), or --credit scale"
                )
            self.credit = Credit(self.parts.credit, own, self.run_state)
        return own

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
        self.window.add("tokens", torch.stack((self.parts.count_tokens(inputs), self._step_loss.new_ones(()))))
        return (loss, outputs) if return_outputs else loss

    def _clip_grad_norm(self, model: torch.nn.Module) -> Tensor | float | None:
        """As the library's; but gradients of an infinite norm are left alone, so that the broken one can be named."""
        if self._is_sharded:
            return super()._clip_grad_norm(model)
        norm = self._norm_of_gradients()
        if bool(norm.isfinite()):
            clip_grads_with_norm_(self.model.parameters(), self.args.max_grad_norm, norm)
        return norm

    def _get_grad_norm(self, model: torch.nn.Module, grad_norm: Tensor | float | None = None) -> Tensor | float | None:
        """The last look before the optimizer: nothing that is not finite may reach the weights.

        Raises:
            NonFiniteError: naming step, tensor and last whole checkpoint.
        """
        if grad_norm is not None or self._is_sharded:
            grad_norm = super()._get_grad_norm(model, grad_norm)
        else:
            grad_norm = self._norm_of_gradients()
        self.window.add("loss", torch.stack((self._step_loss, torch.ones_like(self._step_loss))))
        watched = [*(pair.sum() for pair in self.window.step.values())]
        if grad_norm is not None:
            finite_norm = torch.as_tensor(grad_norm, device=self.args.device).double()
            # With float16 the scaler meets infinite gradients on its way to a fitting scale, and skips those steps.
            watched += [] if self.args.fp16 else [finite_norm]
        if self._in_every_process(torch.stack(watched).isfinite().all()):
            self.window.take_step()
            self.run_state.skipped_in_a_row = 0
            return grad_norm if not self.args.fp16 or finite_norm.isfinite() else None
        self._stop_or_skip(model)
        return None

    @property
    def _is_sharded(self) -> bool:
        """Whether gradients are held in pieces that only the library can put a norm to."""
        return self.is_fsdp_enabled or self.is_deepspeed_enabled

    def _norm_of_gradients(self) -> Tensor:
        self.accelerator.unscale_gradients()
        return get_total_norm([p.grad for p in self.model.parameters() if p.grad is not None])

    def _in_every_process(self, here: Tensor) -> bool:
        return bool(self._over_processes((~here).float()) == 0)

    def _stop_or_skip(self, model: torch.nn.Module) -> None:
        """Raise `NonFiniteError`; or, where steps are skipped, see that this one changes nothing."""
        step, state = self.state.global_step + 1, self.run_state
        found = what_is_broken(self.model, self._step_inputs, self._step_loss, self.window.step)
        problem = f"not finite at step {step}: {' and '.join(found) or 'a figure of another process'}"
        weights = broken_weights(self.model)
        if self.parts.on_non_finite == "stop" or weights or state.skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
            remedy = "try a lower learning_rate or more warmup_steps"
            if self.parts.on_non_finite == "stop" and not weights:
                remedy += ", or go on with --on_non_finite skip"
            skipped = f" after {state.skipped_in_a_row} skipped in a row" if state.skipped_in_a_row else ""
            raise NonFiniteError(f"{problem}{skipped}; {last_good(Path(self.args.output_dir))}; {remedy}")
        state.skipped_steps += 1
        state.skipped_in_a_row += 1
        self.window.drop_step()
        self._tr_loss.zero_()  # the library's own sum, which only its closing summary shows
        if not self.args.fp16:  # there the scaler sees the gradients, and skips the step itself
            model.zero_grad()
        if self.is_world_process_zero():
            print(f"skipped: {problem}", file=sys.stderr, flush=True)
            row = {"skipped": problem, "skipped_steps": state.skipped_steps}
            append_row(Path(self.args.output_dir) / LOG_FILE, step, self.args.device.type, row)

    def floating_point_ops(self, inputs: Batch) -> int:
        """Not counted: the library's count walks over all modules at every step, and nothing here uses it."""
        return 0

    # ---- log and held-out figures ----

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """A row of training figures gets the loss parts since the last one; other rows are passed on."""
        if "loss" in logs:
            del logs["loss"]  # the library's counts skipped steps as 0
            logs.update(self._window_figures())
        super().log(logs, start_time)

    def _window_figures(self) -> dict[str, float]:
        self.window.stop_clock()
        sums = self.window.reduced(self.accelerator)
        seconds = self.window.reset()
        tokens, _ = sums.pop("tokens", (0, 0))
        figures = {name: total / count for name, (total, count) in sums.items() if count}
        if self.parts.perplexity_of in figures:  # at 700 nats the exponential is near the largest number there is
            figures["perplexity"] = math.exp(min(figures[self.parts.perplexity_of], 700.0))
        if "acc_neg" in figures:
            figures["acc_ema"] = self.run_state.update_acc_ema(figures["acc_neg"])
        figures["tokens_per_second"] = round(tokens / seconds, 1) if seconds else 0.0
        if self.run_state.skipped_steps:
            figures["skipped_steps"] = self.run_state.skipped_steps
        figures["passes"] = self._passes()
        return figures | (self.credit.take_figures() if self.credit is not None else {})

    def _passes(self) -> float:
        if self.stream is not None:
            return self.stream.passes(Cursor.from_dict(self.run_state.cursor))
        return passes_over_data(self.state.global_step, self.rows_per_step, len(self.parts.dataset))

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, Any]:
        """Held-out figures from the family's own scorer, in bounded memory; the first process's count."""
        self.window.stop_clock()
        self._refuse_broken_state()
        model = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        with full_precision(model):
            figures = [self.parts.score(model)]
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
        self._refuse_broken_state()
        self.run_state.window = self.window.reduced(self.accelerator)
        try:
            with shared_fate():
                self._write_checkpoint(model, trial)
        finally:
            self._staging = None

    def _write_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        """All processes write into the folder that the first one stages; that one hashes, renames and rotates."""
        run_dir = Path(self.args.output_dir)
        final = run_dir / f"{PREFIX}{self.state.global_step}"
        writes = self.args.should_save
        weights = sum(p.numel() * p.element_size() for p in self.model.parameters())
        # weights and AdamW's two moments
        folder = staged(final, needed_bytes=3 * weights) if writes else nullcontext(run_dir / f"{STAGING}{final.name}")
        with ExitStack() as stack:
            with shared_fate():
                if writes and (run_dir / LOG_FILE).is_file():
                    flush(run_dir / LOG_FILE)  # or a power cut leaves a checkpoint whose rows are not in the log
                self._staging = stack.enter_context(folder)
            with shared_fate():
                super()._save_checkpoint(model, trial)
                if writes:
                    self.run_state.save(self._staging / final.name)
                    shutil.copyfile(run_dir / RUN_FILE, self._staging / final.name / RUN_FILE)
                    if self.parts.write_card is not None:
                        self.parts.write_card(self._staging / final.name, self.state.global_step, self.run_state)
        if writes:
            rotate(run_dir, self.parts.save_total_limit, self.run_state.best_step, newest=self.state.global_step)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """Without the library's pickle of the arguments: nothing that is published may need one."""
        folder = Path(output_dir or self.args.output_dir)
        if self.parts.adapters is not None:
            state_dict = self.parts.adapters.merged_state(self.model)
        super()._save(output_dir, state_dict)
        if self.parts.adapters is not None:
            self.parts.adapters.save(self.model, folder)
        Path(folder, "training_args.bin").unlink(missing_ok=True)

    def _refuse_broken_state(self) -> None:
        """Nothing that is not finite is scored or saved. Raises `NonFiniteError`."""
        broken = [f"the weight {name}" for name in broken_weights(self.model)]
        if self.optimizer is not None:
            broken += broken_moments(self.model, self.optimizer)
        if broken:
            raise NonFiniteError(
                f"not finite after step {self.state.global_step}: {broken[0]} ({len(broken)} tensors in all); "
                f"nothing was saved; {last_good(Path(self.args.output_dir))}; try a lower learning_rate"
            )

    # ---- resume ----

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: PreTrainedModel | None = None) -> None:
        checkpoint = Path(resume_from_checkpoint)
        refuse_lacking(checkpoint, [*self._files_of_a_resume(), RUN_STATE])
        with reading(checkpoint):
            if self.parts.adapters is None:
                super()._load_from_checkpoint(resume_from_checkpoint, model)
            else:
                self.parts.adapters.load(self.model, checkpoint)
            self.run_state.restore(checkpoint)
        if self.stream is not None:
            self.stream.seek(Cursor.from_dict(self.run_state.cursor))
        # The saved sums are those of all processes; the others have the same names, for all reduce together.
        sums = self.run_state.window
        if not self.accelerator.is_main_process:
            sums = {name: [0.0, 0.0] for name in sums}
        self.window.restore(sums, self.args.device)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with reading(Path(checkpoint or "")):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with reading(Path(checkpoint or "")):
            super()._load_rng_state(checkpoint)

    def _files_of_a_resume(self) -> list[str]:
        several = self.args.world_size > 1
        needed = [f"rng_state_{self.args.process_index}.pth" if several else "rng_state.pth", "trainer_state.json"]
        needed += [] if self.parts.adapters is None else [self.parts.adapters.file]
        needed += [] if self.is_deepspeed_enabled else ["scheduler.pt"]  # DeepSpeed may keep its own
        return needed + ([] if self._is_sharded else ["optimizer.pt"])

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """The library warns; here a tensor that is missing or has no place ends the resume."""
        missing = set(load_result.missing_keys) - set(self.model.all_tied_weights_keys)
        wrong = sorted(missing | set(load_result.unexpected_keys))
        if wrong:
            raise InputError(f"resume: the checkpoint does not fit this version's model: {', '.join(wrong[:5])}")


@contextmanager
def full_precision(model: PreTrainedModel) -> Iterator[None]:
    """Without the autocast that Accelerate puts around `forward`: rounded scores tie, and a tie is a miss."""
    wrapped = vars(model).pop("forward", None)  # so that the class's own is found
    try:
        yield
    finally:
        if wrapped is not None:
            model.forward = wrapped
