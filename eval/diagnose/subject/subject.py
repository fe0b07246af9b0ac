"""What is examined: a model, asked in one way whatever its kind is.

A check asks the subject for real text, predictions and losses, and never looks at a class name.
"""

import copy
import inspect
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer
from transformers.modeling_outputs import ModelOutput

from eval.diagnose import thresholds
from eval.diagnose.subject.families import Average, Latent, Traits, traits_of
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
        kind: `causal`, `masked` or `seq2seq`; of a family that reads no text, its own.
        sample: real text as tokens.
        parts: texts by part: `train`, `valid`, `test`, or `all` for data without parts; empty without text.
        data: where the text came from.
        limits: see `Limits`.
        record: what its run folder tells.
        trainer: the `Trainer` that it is trained with; never changed.
        figures: series for the plots, put here by the checks.
        notes: what was cut down.
        is_opened: whether it was opened by its name, so that a command can open it again.
        built_in_text: whether nobody said what text it knows, so that the built-in sample may be foreign to it.
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
    built_in_text: bool = False
    kept: dict[str, Any] = field(default_factory=dict)
    update_steps: int = thresholds.UPDATE_STEPS  # on one batch, after which its loss is below the start
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
    def output_table(self) -> Tensor | None:
        """Weights (V, width) that give the logits; None where the model does not say."""
        module = self.model.get_output_embeddings()
        return None if module is None else module.weight.detach()

    @property
    def traits(self) -> Traits:
        """What is special to its family."""
        return traits_of(self.model.config.model_type)

    @property
    def foretells(self) -> bool:
        """Whether its loss asks what follows, so that it falls from nothing."""
        return True

    @property
    def believed_digits(self) -> float:
        """Last digits of the largest logit by which passes of another shape are believed to differ."""
        return thresholds.SURE_ROUNDING

    @cached_property
    def latent(self) -> Latent | None:
        """Predictor, table and teacher of a model that predicts latents; else None."""
        return self.traits.latent(self.model)

    @cached_property
    def average(self) -> Average | None:
        """The moving average that the model holds; None without one."""
        return self.traits.average(self.model)

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
        return model(**self.inputs(batch), **{**self._no_cache(), **extra}, return_dict=True)

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
        """`answers` of the model itself, slice by slice; of a masked batch without holes, with some made."""
        if self.kind == "masked" and batch.labels is None:
            batch = self.holes(batch)
        with torch.no_grad():
            pieces = [self.answers(self.model, piece) for (piece,) in self.pieces(batch)]
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
        return model(**inputs, **self._no_cache(), return_dict=True).loss

    def copy(self, dropout: bool = False) -> PreTrainedModel:
        """A float32 copy that may be trained: in evaluation mode, where no dropout is, unless it is asked for."""
        twin = copy.deepcopy(self.model).float().train(dropout)
        twin.zero_grad(set_to_none=True)
        return twin

    def places(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """(rows, length) bool, the logits that answer for a token, and (N,) those tokens.

        Causal and seq2seq: position t gives token t + 1 of its row. Masked: the holes, or every token.
        """
        if self.kind == "masked":
            labels = batch.input_ids if batch.labels is None else batch.labels
            return labels != IGNORED, labels[labels != IGNORED]
        known = (batch.attention_mask[:, 1:] * batch.attention_mask[:, :-1]).bool()
        return pad(known, (0, 1)), batch.input_ids[:, 1:][known]

    def answers(self, model: PreTrainedModel, batch: Batch) -> tuple[Tensor, Tensor]:
        """(N, V) float32 logits and (N,) true tokens of `places`, of any copy, with gradient where it is on."""
        places, truth = self.places(batch)
        return self.ask(model, batch).logits[places].float(), truth

    def changed(self, batch: Batch) -> Batch:
        """The same batch with another token of the sample at every place, on both sides."""
        source = None if batch.source_ids is None else self.other_tokens(batch.source_ids, seed=1)
        return replace(batch, input_ids=self.other_tokens(batch.input_ids), source_ids=source)

    def other_tokens(self, ids: Tensor, seed: int = 0) -> Tensor:
        """A token of the sample at every place, another than the one there; never a special one."""
        special = [] if self.tokenizer is None else self.tokenizer.all_special_ids
        seen = self.batch(self.limits.rows, self.limits.length).input_ids.unique().cpu()
        pool = seen[~torch.isin(seen, torch.tensor(special, dtype=seen.dtype))]
        if len(pool) < 2:
            pool = torch.arange(self.vocab_size)
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randint(len(pool), ids.shape, generator=generator)
        drawn = torch.where(pool[drawn] == ids.cpu(), (drawn + 1) % len(pool), drawn)
        return pool[drawn].to(ids.device)

    def fitting_length(self, wanted: int, rows: int = 3) -> int:
        """A length of which so many rows have logits within the limits, at least 8 where the context allows it."""
        fits = self.limits.max_logit_bytes // (4 * self.vocab_size * rows)
        return min(wanted, self.context, max(8, fits))

    @property
    def generates(self) -> bool:
        """Whether it goes on by `generate`."""
        return self.kind in ("causal", "seq2seq") and self.model.can_generate()

    def greedy(self) -> Tensor:
        """What it says where nothing is left to chance: continuations, or the most likely tokens of real text."""
        if self.generates:
            return self.continued(sample=False)
        batch = self.batch(thresholds.PROMPTS, thresholds.PROMPT_LENGTH)
        return self.logits(self.holes(batch) if self.kind == "masked" else batch).argmax(-1)

    @torch.no_grad()
    def continued(self, sample: bool) -> Tensor:
        """(prompts, new tokens) after the beginnings of real rows; an end token does not end it."""
        new = max(1, min(thresholds.NEW_TOKENS, self.context // 2))
        batch = self.batch(thresholds.PROMPTS, max(1, min(thresholds.PROMPT_LENGTH, self.context - new)))
        if not self.generates:
            return self._by_hand(batch.input_ids, new, sample)
        chosen = (
            {"do_sample": True, "top_k": 50, "temperature": 1.0} if sample else {"do_sample": False, "num_beams": 1}
        )
        two_sides = self.kind == "seq2seq"
        ids, mask = (batch.source_ids, batch.source_mask) if two_sides else (batch.input_ids, batch.attention_mask)
        said = self.model.generate(ids, attention_mask=mask, max_new_tokens=new, min_new_tokens=new, **chosen)
        return said[:, 1:] if two_sides else said[:, ids.shape[1] :]

    def _by_hand(self, ids: Tensor, new: int, sample: bool) -> Tensor:
        """For models without `generate`: the whole row again for every token."""
        said = ids
        for _ in range(new):
            logits = self.model(input_ids=said, attention_mask=torch.ones_like(said), return_dict=True).logits[:, -1]
            best = logits.float().topk(min(50, logits.shape[-1])) if sample else logits.float().topk(1)
            drawn = torch.multinomial(best.values.softmax(-1), 1)
            said = torch.cat([said, best.indices.gather(1, drawn)], 1)
        return said[:, ids.shape[1] :]

    def turn(self, seed: int) -> None:
        """Begin with another text, so that another seed looks at other passages; 0 begins at the first."""
        self.sample = replace(self.sample, texts=turned(self.sample.texts, seed))

    @torch.no_grad()
    def hidden_states(self, batch: Batch) -> tuple[Tensor, ...] | None:
        """Embeddings and the output of every layer, each (rows, length, width); None where the model has none."""
        output = self.logits_with(batch, output_hidden_states=True)
        found = output.get("decoder_hidden_states") if self.kind == "seq2seq" else output.get("hidden_states")
        return None if found is None else tuple(found)

    def pieces(self, *batches: Batch, each: int = 4) -> Iterator[tuple[Batch, ...]]:
        """The same rows of several batches, so few that the logits of all stay within the limits.

        Args:
            each: bytes for a logit.
        """
        per_row = each * self.vocab_size * sum(batch.input_ids.shape[1] for batch in batches)
        rows = max(1, self.limits.max_logit_bytes // per_row)
        return zip(*(batch.split(rows) for batch in batches), strict=True)

    def _no_cache(self) -> dict[str, bool]:
        """Learning keeps none: some recurrent models write theirs in place, which no gradient gets through."""
        return {"use_cache": False} if torch.is_grad_enabled() and self.accepts("use_cache") else {}

    def _moved(self, batch: Batch) -> Batch:
        moved = {name: value.to(self.device) for name, value in vars(batch).items() if value is not None}
        return replace(batch, **moved)
