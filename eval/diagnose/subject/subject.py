"""What is examined: a model, asked in one way whatever its kind is.

A check asks the subject for real text, predictions and losses, and never looks at a class name.
"""

import copy
import inspect
import time
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer
from transformers.modeling_outputs import ModelOutput

from eval.diagnose.subject.latent import Average, Latent, find_average, find_latent
from eval.diagnose.subject.sample import Batch, Sample, turned

if TYPE_CHECKING:
    from eval.advice.record import TrainingRecord

IGNORED = -100


class TooLargeError(Exception):
    """What a check would make does not fit into memory: it is left out, and the report says so."""


@dataclass
class Limits:
    """What a look may cost.

    Attributes:
        seconds: wall time of the whole report; checks that would begin later are left out, and named.
        rows, length: rows of text in an ordinary batch, and their tokens.
        max_logit_bytes: logits held at once.
    """

    seconds: float = 60.0
    rows: int = 16
    length: int = 64
    max_logit_bytes: int = 64 * 2**20


@dataclass
class Subject:
    """A model under examination.

    Attributes:
        name: for the report.
        model: in evaluation mode, where it stood.
        tokenizer: None where there is none; then the sample is of random ids.
        kind: `causal`, `masked` or `seq2seq`; `video` of a `VideoSubject`.
        sample: real text as tokens.
        parts: texts by part: `train`, `valid`, `test`, or `all` for data without parts; empty without text.
        data: where the text came from.
        limits: see `Limits`.
        record: what its run folder tells.
        trainer: the `Trainer` that it is trained with; never changed.
        figures: series for the plots, put here by the checks.
        notes: what was cut down.
        is_opened: whether it was opened by its name, so that a command can open it again.
        kept: what one check found that another needs too.
    """

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase | None
    kind: str
    sample: Sample
    parts: dict[str, list[str]]
    data: str
    limits: Limits = field(default_factory=Limits)
    record: "TrainingRecord | None" = None
    trainer: Trainer | None = None
    figures: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    is_opened: bool = False
    kept: dict[str, Any] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)
    started_cpu: float = field(default_factory=time.process_time)

    @property
    def parameters(self) -> int:
        """Trainable or not, tied ones once; a moving-average teacher is not counted."""
        teacher = set() if self.average is None else set(self.average.teacher.parameters())
        return sum(parameter.numel() for parameter in self.model.parameters() if parameter not in teacher)

    @property
    def vocab_size(self) -> int:
        """Rows of the input table."""
        return self.model.get_input_embeddings().weight.shape[0]

    @property
    def context(self) -> int:
        """The longest row that may be asked."""
        return self.sample.context

    @property
    def device(self) -> torch.device:
        """Where the model stands."""
        return self.model.device

    @property
    def input_table(self) -> Tensor:
        """Weights (V, width) of the input table."""
        return self.model.get_input_embeddings().weight.detach()

    @property
    def output_table(self) -> Tensor | None:
        """Weights (V, width) that give the logits; None where the model does not say."""
        module = self.model.get_output_embeddings()
        return None if module is None else module.weight.detach()

    @cached_property
    def latent(self) -> Latent | None:
        """Predictor, table and teacher of a model that predicts latents; else None."""
        return find_latent(self.model)

    @cached_property
    def average(self) -> Average | None:
        """The moving average that the model holds; None without one."""
        return find_average(self.model)

    def seconds_left(self) -> float:
        """Of the report's time: that of the wall, or of the processor where others keep it busy."""
        gone = time.monotonic() - self.started
        if self.device.type == "cpu":
            gone = min(gone, time.process_time() - self.started_cpu)
        return self.limits.seconds - gone

    def batch(self, rows: int = 4, length: int = 32) -> Batch:
        """Real text, (rows, length), every row full; the length is cut to the context."""
        return self._moved(self.sample.full(rows, min(length, self.context)))

    def sentences(self, rows: int = 8, length: int = 48) -> list[list[int]]:
        """Rows of different lengths, at least 3 and at most `length` tokens, with the tokenizer's own special ones."""
        return self.sample.sentences(rows, min(length, self.context))

    def padded(self, rows: list[list[int]], side: str = "right", to: int | None = None) -> Batch:
        """Rows padded on one side to the longest of them, or to `to` tokens."""
        return self._moved(self.sample.padded(rows, side, to))

    def holes(self, batch: Batch, share: float = 0.15, seed: int = 0) -> Batch:
        """A share of the ordinary tokens, at least one in each row, hidden by the mask token; labels there only."""
        return self._moved(self.sample.holes(batch, share, seed))

    @torch.no_grad()
    def logits(self, batch: Batch) -> Tensor:
        """(rows, length, V) float32, in evaluation mode; of seq2seq those of the decoder."""
        return self.logits_with(batch).logits.float()

    @torch.no_grad()
    def logits_with(self, batch: Batch, **extra: Any) -> ModelOutput:
        """The model's own output, no gradient; `extra` goes to forward by name."""
        return self.ask(self.model, batch, **extra)

    def ask(self, model: PreTrainedModel, batch: Batch, **extra: Any) -> ModelOutput:
        """The output of any copy of the model, with gradient where it is on."""
        return model(**self.inputs(batch), **extra, return_dict=True)

    def inputs(self, batch: Batch) -> dict[str, Tensor]:
        """Arguments of forward without labels."""
        if self.kind != "seq2seq":
            return {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
        return {
            "input_ids": batch.source_ids,
            "attention_mask": batch.source_mask,
            "decoder_input_ids": batch.input_ids,
            **({"decoder_attention_mask": batch.attention_mask} if self.accepts("decoder_attention_mask") else {}),
        }

    def accepts(self, name: str) -> bool:
        """Whether forward takes an argument of this name."""
        return name in inspect.signature(self.model.forward).parameters

    def predictions(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """(N, V) float32 logits and (N,) true tokens of every predicted position.

        Causal and seq2seq: position t gives token t + 1 of its row. Masked: the holes, which are made where the batch
        has none.
        """
        if self.kind == "masked" and batch.labels is None:
            batch = self.holes(batch)
        pieces = [self._predicted(piece) for piece in self._slices(batch)]
        return torch.cat([logits for logits, _ in pieces]), torch.cat([truth for _, truth in pieces])

    def learning_inputs(self, batch: Batch) -> dict[str, Tensor]:
        """Arguments of forward with labels, as a user gives them to get a loss.

        Causal: the labels are the ids, which the model shifts itself. Masked: the holes'. Seq2seq: the decoder's
        tokens after the first, which the model shifts itself.
        """
        if self.kind == "masked":
            batch = batch if batch.labels is not None else self.holes(batch)
            return {**self.inputs(batch), "labels": batch.labels}
        labels = batch.input_ids.masked_fill(batch.attention_mask == 0, IGNORED)
        if self.kind == "causal":
            return {**self.inputs(batch), "labels": labels}
        source = {"input_ids": batch.source_ids, "attention_mask": batch.source_mask}
        return {**source, "labels": labels[:, 1:].contiguous()}

    def own_loss(self, model: PreTrainedModel, inputs: dict[str, Tensor]) -> Tensor:
        """The loss that a model gives itself, a scalar with its gradient."""
        return model(**inputs, return_dict=True).loss

    def copy(self, dropout: bool = False) -> PreTrainedModel:
        """A float32 copy that may be trained: in evaluation mode, where no dropout is, unless it is asked for."""
        twin = copy.deepcopy(self.model).float().train(dropout)
        twin.zero_grad(set_to_none=True)
        return twin

    def answers(self, model: PreTrainedModel, batch: Batch) -> tuple[Tensor, Tensor]:
        """As `predictions`, of a copy and with gradient where it is on; a masked batch has its holes already."""
        logits = self.ask(model, batch).logits
        if self.kind == "masked":
            assert batch.labels is not None
            holes = batch.labels != IGNORED
            return logits[holes].float(), batch.labels[holes]
        known = (batch.attention_mask[:, 1:] * batch.attention_mask[:, :-1]).bool()
        return logits[:, :-1][known].float(), batch.input_ids[:, 1:][known]

    def truth(self, batch: Batch) -> Tensor:
        """(N,) the true tokens of `answers`."""
        if self.kind == "masked":
            assert batch.labels is not None
            return batch.labels[batch.labels != IGNORED]
        return batch.input_ids[:, 1:][(batch.attention_mask[:, 1:] * batch.attention_mask[:, :-1]).bool()]

    def turn(self, seed: int) -> None:
        """Begin with another text, so that another seed looks at other passages; 0 begins at the first."""
        self.sample = replace(self.sample, texts=turned(self.sample.texts, seed))

    @torch.no_grad()
    def hidden_states(self, batch: Batch) -> tuple[Tensor, ...] | None:
        """Embeddings and the output of every layer, each (rows, length, width); None where the model has none."""
        output = self.logits_with(batch, output_hidden_states=True)
        found = output.get("decoder_hidden_states") if self.kind == "seq2seq" else output.get("hidden_states")
        return None if found is None else tuple(found)

    def _predicted(self, batch: Batch) -> tuple[Tensor, Tensor]:
        logits = self.logits(batch)
        if batch.labels is not None and self.kind == "masked":
            holes = batch.labels != IGNORED
            return logits[holes], batch.labels[holes]
        known = (batch.attention_mask[:, 1:] * batch.attention_mask[:, :-1]).bool()
        return logits[:, :-1][known], batch.input_ids[:, 1:][known]

    def _slices(self, batch: Batch) -> list[Batch]:
        """Rows that together have no more logits than the limits allow."""
        per_row = 4 * batch.input_ids.shape[1] * self.vocab_size
        rows = max(1, self.limits.max_logit_bytes // per_row)
        return batch.split(rows)

    def _moved(self, batch: Batch) -> Batch:
        moved = {name: value.to(self.device) for name, value in vars(batch).items() if value is not None}
        return replace(batch, **moved)
