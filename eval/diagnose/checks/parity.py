"""Parity (X8): the same model asked in two ways says the same."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from eval.diagnose import thresholds
from eval.diagnose.checks.check import ANY, check
from eval.diagnose.checks.parity_offset import offset, own_loss
from eval.diagnose.checks.parity_reload import fits_twice, reload
from eval.diagnose.probes.anatomy import untouched
from eval.diagnose.probes.exact import (
    EXACT,
    NotFiniteError,
    Yardstick,
    changes,
    clean,
    repeated,
    shortened,
    with_tokens,
    yardstick,
)
from eval.diagnose.report.report import FAIL, NOTE, PASS, Finding, Rule
from eval.diagnose.subject.sample import Batch
from eval.diagnose.subject.subject import Subject

_ROWS = 4
_LENGTH = 32


@check(
    "parity.train_eval",
    "training mode with dropout off gives the logits of evaluation mode, up to 1e-4 of their spread",
    kinds=ANY,
)
def train_eval(subject: Subject, rule: Rule) -> list[Finding]:
    """Two passes in evaluation mode are equal, and training mode without dropout equals them."""
    batch = subject.batch(_ROWS, subject.fitting_length(_LENGTH, rows=4 * _ROWS))
    bar = yardstick(subject, batch)
    steady = _repeats(subject, batch, bar)
    if steady.verdict != PASS or not fits_twice(subject, "parity.train_eval"):
        return [steady]
    return [steady, _training_mode(subject, rule, batch)]


@check(
    "parity.length",
    f"what follows a prefix moves none of its logits beyond rounding, {EXACT}",
    kinds=("causal", "seq2seq"),
)
def length(subject: Subject, rule: Rule) -> Finding:
    """The first half of a row says the same alone as before the other half."""
    row = subject.batch(1, subject.fitting_length(2 * _LENGTH))
    bar = yardstick(subject, row)
    half = row.input_ids.shape[1] // 2
    whole = clean(subject.logits(row))[:, :half]
    change = float((clean(subject.logits(shortened(row, half))) - whole).abs().max())
    evidence = {**bar.evidence(change), "lengths": [half, row.input_ids.shape[1]]}
    if change <= bar.tolerance:
        return rule.passed(evidence)
    if _content_moves(subject, row, half) > bar.tolerance:
        return rule.noted(
            evidence,
            "the prefix sees what follows it, so its length cannot be judged apart from that",
            "see leak.future_tokens, mend that first, and run this again",
        )
    return rule.failed(
        evidence,
        "logits depend on how long the row is, whatever stands in it: positions counted from the end, a scale or a "
        "norm by the row's length",
        "count positions from the start of the row and scale by what a position has seen, not by the row's length",
    )


@check("parity.kind", "a model that fills masks reads the tokens on both sides of a hole", kinds=("masked",))
def kind(subject: Subject, rule: Rule) -> Finding:
    """What the class is for, and what the model does, agree."""
    row = subject.batch(1, subject.fitting_length(_LENGTH))
    place = row.input_ids.shape[1] // 2
    row.input_ids[:, place] = subject.sample.mask_id
    bar = yardstick(subject, row)
    places = torch.arange(row.input_ids.shape[1], device=row.input_ids.device)
    other = subject.other_tokens(row.input_ids)
    moved = {
        name: float(changes(subject, row, with_tokens(row, torch.where(side, other, row.input_ids)))[0, place])
        for name, side in (("earlier_tokens", places < place), ("later_tokens", places > place))
    }
    evidence = {"moved_by": moved, "tolerance": bar.tolerance, "class": type(subject.model).__name__}
    if bar.repeat > bar.exact:  # it says something else in every pass, see parity.random_in_evaluation
        return rule.passed(evidence)
    if moved["later_tokens"] > bar.tolerance or moved["earlier_tokens"] <= thresholds.READS * bar.spread:
        return rule.passed(evidence)
    return rule.failed(
        evidence,
        f"{type(subject.model).__name__} fills masks, and nothing after a hole reaches it: its attention is causal "
        "(is_decoder=True, or a causal mask of its own), as of a model that continues text",
        "set is_decoder=False and train on, or open it with the class of a causal model",
    )


@check(
    "parity.dtype",
    f"the loss in bfloat16 differs by at most {thresholds.BFLOAT16_LOSS:.0%} from that in float32",
    kinds=ANY,
)
def dtype(subject: Subject, rule: Rule) -> Finding | list[Finding]:
    """In bfloat16 the loss is nearly the same."""
    if not fits_twice(subject, rule.check):
        return []
    batch = subject.batch(_ROWS, subject.fitting_length(_LENGTH, rows=4 * _ROWS))
    batch = subject.holes(batch) if subject.kind == "masked" else batch
    twin = subject.copy()
    with torch.no_grad():
        full = clean(subject.ask(twin, batch).logits)
        if not full.isfinite().all():
            raise NotFiniteError
        half = clean(subject.ask(twin.to(torch.bfloat16), batch).logits)
    finite = bool(half.isfinite().all())
    evidence: dict[str, Any] = {"finite_in_bfloat16": finite}
    if finite:
        losses = [float(_loss(subject, logits, batch)) for logits in (full, half)]
        agreement = (full.argmax(-1) == half.argmax(-1)).float().mean()
        evidence |= {"float32_nats": losses[0], "bfloat16_nats": losses[1], "same_best_token": float(agreement)}
        if abs(losses[1] - losses[0]) <= thresholds.BFLOAT16_LOSS * max(losses[0], thresholds.MEMORISED_LOSS):
            return rule.passed(evidence)
    return rule.noted(
        evidence,
        "some values are too large or too finely graded for bfloat16: exploded weights, or a sum that needs float32",
        "train and serve in float32, or compute the norm, softmax and loss that lose the digits in float32",
    )


@check("parity.tokenizer_size", "every token id is below the number of rows of the table", needs="tokenizer")
def tokenizer_size(subject: Subject, rule: Rule) -> Finding:
    """Every id that the tokenizer or the config can give has a row in the table."""
    assert subject.tokenizer is not None
    ids = set(subject.tokenizer.get_vocab().values())
    rows = subject.vocab_size
    output = subject.output_table
    smallest = rows if output is None else min(rows, output.shape[0])
    beyond = sorted(identity for identity in ids if identity >= smallest)
    special = _special_ids(subject)
    lost = {label: identity for label, identity in special.items() if not 0 <= identity < smallest}
    evidence: dict[str, Any] = {
        "largest_token_id": max(ids),
        "tokens": len(ids),
        "table_rows": rows,
        "output_rows": None if output is None else output.shape[0],
        "tokens_without_a_row": len(beyond),
        **({"special_ids_without_a_row": lost} if lost else {}),
    }
    # A masked model never asks for the ids that begin and end a text: they may be left at their defaults.
    if not beyond and (not lost or subject.kind == "masked"):
        return rule.passed(evidence)
    if not beyond:
        return rule.noted(
            evidence,
            f"the configuration names ids that are in no table: {', '.join(lost)}",
            "set them to the tokenizer's, as generate() ends and pads with them",
        )
    shown = [str(subject.tokenizer.convert_ids_to_tokens(identity)) for identity in beyond[:5]]
    return rule.failed(
        {**evidence, "such_as": shown},
        "tokens were added to the tokenizer after the model was built, or the tokenizer belongs to another model",
        f"model.resize_token_embeddings({max(ids) + 1}) and train on, or open the model with its own tokenizer",
    )


@check(
    "parity.unused_ids",
    f"ids without a token get less than {thresholds.UNUSED_MASS_NOTE:.0%} of what is predicted",
    needs="tokenizer",
)
def unused_ids(subject: Subject, rule: Rule) -> Finding | list[Finding]:
    """Whether rows of the table that no token has are predicted: new rows of a table that was made larger."""
    assert subject.tokenizer is not None
    known = torch.tensor(sorted(set(subject.tokenizer.get_vocab().values())), device=subject.device)
    logits, _ = subject.predictions(subject.batch(_ROWS, _LENGTH))
    unused = torch.ones(logits.shape[-1], dtype=torch.bool, device=logits.device)
    unused[known[known < len(unused)]] = False
    if not unused.any():
        return []
    if not clean(logits).isfinite().all():
        raise NotFiniteError
    mass = float(logits.softmax(-1)[:, unused].sum(-1).mean())
    evidence = {"ids_without_a_token": int(unused.sum()), "mass": mass, "of_all_ids": len(unused)}
    if mass < thresholds.UNUSED_MASS_NOTE or untouched(subject) is not False:
        return rule.passed(evidence)
    return rule.found(
        FAIL if mass > thresholds.UNUSED_MASS_FAIL else NOTE,
        evidence,
        f"{mass:.0%} of what is predicted falls on ids that no token has: rows that were added to the table and not "
        "trained, or the tokenizer is smaller than that of the training",
        "set the new rows to the mean of the old ones and their biases to the lowest (mean_resizing=True), or cut the "
        "table to the tokenizer with resize_token_embeddings(len(tokenizer))",
    )


# ---- training and evaluation mode ----


def _repeats(subject: Subject, batch: Batch, bar: Yardstick) -> Finding:
    """Two passes over the same rows, and one more after other rows."""
    rule = Rule(
        "parity.random_in_evaluation",
        "in evaluation mode the same rows give the same logits, up to 1e-4 of their spread",
    )
    first, second = clean(subject.logits(batch)), clean(subject.logits(batch))
    subject.logits(subject.changed(batch))
    third = clean(subject.logits(batch))
    again, after = float((first - second).abs().max()), float((first - third).abs().max())
    limit = bar.exact
    evidence = {"again": again, "after_other_rows": after, "limit": limit, "logit_spread": bar.spread}
    if max(again, after) <= limit:
        return rule.passed(evidence)
    if again <= limit:
        cause = "the model keeps something of the rows before: a buffer or cache that a forward pass changes"
        remedy = "keep nothing between passes: a cache is handed out and handed back, and statistics stand still"
    else:
        cause = "chance in evaluation mode: dropout that does not ask whether the model is training, or noise"
        remedy = "use nn.Dropout, or dropout(..., training=self.training), and draw nothing in evaluation mode"
    return rule.failed(evidence, cause, remedy)


@torch.no_grad()
def _training_mode(subject: Subject, rule: Rule, batch: Batch) -> Finding:
    twin = subject.copy()
    calm = clean(subject.ask(twin, batch).logits)
    _without_dropout(twin).train()
    busy, again = (clean(subject.ask(twin, batch).logits) for _ in range(2))
    spread = float(calm.std(-1).mean())
    digit = float(calm.abs().max()) * torch.finfo(torch.float32).eps
    limit = max(thresholds.SAME_LOGITS * spread, thresholds.SURE_ROUNDING * digit)
    change, chance = float((busy - calm).abs().max()), float((busy - again).abs().max())
    evidence: dict[str, Any] = {
        "largest_change": change,
        "tolerance": limit,
        "logit_spread": spread,
        "nats_in_evaluation": float(_loss(subject, calm, batch)),
        "nats_in_training": float(_loss(subject, busy, batch)),
    }
    if change <= limit:
        return rule.passed(evidence)
    if chance > limit:
        subject.notes.append(f"{rule.check}: training mode has chance beside dropout, so it was not compared")
        return rule.passed({**evidence, "chance_in_training": chance})
    return rule.failed(
        evidence,
        "the model takes another road in training than in evaluation (another mask, a batch norm, a branch that asks "
        "self.training), so what was trained is not what is used",
        "compute the same in both modes, dropout aside; replace a norm over the batch by one within the token",
    )


def _without_dropout(model: PreTrainedModel) -> PreTrainedModel:
    """The model with every rate of dropout set to 0, wherever it is kept."""
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
        _silence(vars(module))
    _silence(vars(model.config))
    return model


def _silence(values: dict[str, Any]) -> None:
    """Rates by their name: the library keeps them as floats in modules and configs, and reads them in forward."""
    for key, value in values.items():
        if "drop" in key and isinstance(value, float):
            values[key] = 0.0


def _loss(subject: Subject, logits: Tensor, batch: Batch) -> Tensor:
    """Nats per predicted token; of a masked batch without holes those of the tokens themselves."""
    places, truth = subject.places(batch)
    return functional.cross_entropy(logits[places], truth)


def _content_moves(subject: Subject, row: Batch, half: int) -> float:
    """Largest change of the first half's logits by what stands in the second, at the same length."""
    ids = torch.cat([row.input_ids[:, :half], subject.other_tokens(row.input_ids[:, half:])], 1)
    return float(changes(subject, row, with_tokens(repeated(row, 1), ids))[:, :half].max())


def _special_ids(subject: Subject) -> dict[str, int]:
    """Ids that the configuration names, such as pad_token_id, where they are single."""
    said: Mapping[str, Any] = subject.model.config.to_dict()
    return {key: value for key, value in said.items() if key.endswith("_token_id") and isinstance(value, int)}


CHECKS = (kind, train_eval, length, reload, dtype, tokenizer_size, unused_ids, offset, own_loss)
