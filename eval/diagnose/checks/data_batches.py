"""What the loss counts: padding, positions that were never hidden, special tokens. Looked at in a Trainer's batches,
and without one in what the model makes of padded rows.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, pad

from eval.diagnose import thresholds as limits
from eval.diagnose.checks.check import check
from eval.diagnose.report.report import FAIL, NOTE, Finding, Rule
from eval.diagnose.subject.onlooker import Inputs, training_batches, training_loss
from eval.diagnose.subject.sample import Batch
from eval.diagnose.subject.subject import IGNORED, Subject
from training.data.unknown import UNKNOWN_NOTE, unknown_id

_COUNTED_CAUSE = "padding is counted in the loss: its labels are not -100, or the loss does not leave them out"
_COUNTED_REMEDY = (
    "set labels to -100 wherever attention_mask is 0 (also where the pad token is the end token), and average the "
    "loss over the other positions only"
)


@check(
    "data.padding_in_loss",
    f"padding has no part in the loss: it moves by less than {limits.LOSS_ROUNDING:g} of itself",
)
def padding_in_loss(subject: Subject, rule: Rule) -> list[Finding]:
    """Whether padding moves the loss: of the model itself, and of the Trainer on its own batches."""
    return [
        _padding_of_model(subject, rule),
        *([] if subject.trainer is None else [_padding_of_trainer(subject, rule)]),
    ]


@check(
    "data.visible_positions",
    f"under {limits.VISIBLE_NOTE:.0%} of the labelled positions show their token (the library leaves 10 %)",
    kinds=("masked",),
    needs="trainer",
)
def visible_positions(subject: Subject, rule: Rule) -> Finding:
    """Masked models: the share of labelled positions whose token stands in the input, for all to see."""
    assert subject.trainer is not None
    labelled = visible = 0
    for batch in training_batches(subject.trainer, limits.BATCHES_TO_LOOK_AT):
        if "labels" in batch and batch["labels"].shape == batch["input_ids"].shape:
            real = (batch["labels"] != IGNORED) & _mask(batch).bool()
            labelled += int(real.sum())
            visible += int((real & (batch["labels"] == batch["input_ids"])).sum())
    share = visible / labelled if labelled else 0.0
    evidence = {"labels": labelled, "visible": visible, "visible_share": share}
    if share < limits.VISIBLE_NOTE or labelled < limits.FEWEST_LABELS:
        return rule.passed(evidence)
    return rule.found(
        FAIL if share >= limits.VISIBLE_FAIL else NOTE,
        evidence,
        f"at {share:.0%} of the positions that the loss counts the token was never hidden: copying it is enough, and "
        "the loss looks better than the model is",
        "set labels to -100 wherever nothing was masked (DataCollatorForLanguageModeling does)",
    )


@check(
    "data.special_targets",
    f"no label is the padding or mask token, and under {UNKNOWN_NOTE:.0%} are the unknown one",
    needs="trainer",
)
def special_targets(subject: Subject, rule: Rule) -> Finding:
    """Tokens among the labels that nobody wants to hear: padding, the mask token, many unknown ones."""
    assert subject.trainer is not None
    tokenizer = subject.tokenizer
    labels = torch.cat([_targets(batch) for batch in training_batches(subject.trainer, limits.BATCHES_TO_LOOK_AT)])
    total = max(len(labels), 1)
    ids = {} if tokenizer is None else {"mask": tokenizer.mask_token_id, "unknown": unknown_id(tokenizer)}
    if tokenizer is not None and tokenizer.pad_token_id not in (tokenizer.eos_token_id, tokenizer.unk_token_id):
        ids["padding"] = tokenizer.pad_token_id
    shares = {name: int((labels == token).sum()) / total for name, token in ids.items() if token is not None}
    evidence = {"labels": len(labels), **{f"{name}_share": share for name, share in shares.items()}}
    allowed = {"mask": 0.0, "padding": 0.0, "unknown": UNKNOWN_NOTE}
    wrong = [f"{share:.0%} {name}" for name, share in shares.items() if share > allowed[name]]
    if not wrong:
        return rule.passed(evidence)
    return rule.noted(
        evidence,
        f"special tokens are among what the model learns to say: {', '.join(wrong)}",
        "set their labels to -100; for unknown tokens enlarge the vocabulary, or take byte-level BPE",
    )


# ---- the model by itself ----


def _padding_of_model(subject: Subject, rule: Rule) -> Finding:
    """The same rows with more padding: the loss must move no further than that of its own answers does."""
    room = max(3, subject.context - limits.MORE_PADDING - 1)
    rows = [row[:room] for row in subject.sentences(4, subject.limits.length // 2)]
    longest = max(map(len, rows))
    # The decoder of seq2seq reads its row one place later: without any padding it would lose the longest row's end.
    batches = [subject.padded(rows, to=longest + more) for more in (1, 1 + limits.MORE_PADDING)]
    if subject.kind == "masked":
        batches = [_same_holes(subject, batches[0], batch) for batch in batches]
    own, answers = zip(*(_losses(subject, batch) for batch in batches), strict=True)
    moved, answers_moved = abs(own[1] - own[0]), abs(answers[1] - answers[0])
    evidence = {
        "loss": own[0],
        "loss_with_more_padding": own[1],
        "cross_entropy": answers[0],
        "cross_entropy_with_more_padding": answers[1],
        "more_padding": limits.MORE_PADDING,
    }
    if not all(map(math.isfinite, (*own, *answers))) or moved <= 2 * answers_moved + limits.LOSS_ROUNDING * abs(
        own[0]
    ):
        return rule.passed({k: v if math.isfinite(v) else None for k, v in evidence.items()})
    return rule.failed(evidence, _COUNTED_CAUSE, _COUNTED_REMEDY)


@torch.no_grad()
def _losses(subject: Subject, batch: Batch) -> tuple[float, float]:
    """The model's own loss, and the cross entropy of its answers, in nats."""
    own = float(subject.own_loss(subject.model, subject.learning_inputs(batch)))
    return own, float(cross_entropy(*subject.predictions(batch)))


def _same_holes(subject: Subject, short: Batch, batch: Batch) -> Batch:
    """The holes of `short` in a batch that is longer by its padding."""
    holed = subject.holes(short)
    assert holed.labels is not None
    more = batch.input_ids.shape[1] - short.input_ids.shape[1]
    labels = pad(holed.labels, (0, more), value=IGNORED)
    ids = torch.cat([holed.input_ids, batch.input_ids[:, short.input_ids.shape[1] :]], 1)
    return Batch(ids, batch.attention_mask, labels=labels)


# ---- a Trainer's batches ----


def _padding_of_trainer(subject: Subject, rule: Rule) -> Finding:
    """Whether labels at padding are counted, and whether what stands there moves the Trainer's loss."""
    trainer = subject.trainer
    assert trainer is not None
    counted = padded = 0
    worst: dict[str, float | None] = {}
    moved_most = 0.0
    for batch in training_batches(trainer, limits.BATCHES_TO_LOOK_AT):
        padding = _padding(subject, batch)
        padded += int(padding.sum())
        if not bool(padding.any()):
            continue
        counted += int((batch["labels"][padding] != IGNORED).sum()) if "labels" in batch else 0
        before, changed = _loss_without(subject, batch, padding)
        if math.isfinite(before) and math.isfinite(changed) and abs(changed - before) > moved_most * abs(before):
            moved_most = abs(changed - before) / max(abs(before), 1e-9)
            worst = {"loss": before, "loss_without_padding": changed}
    evidence = {"padded_positions": padded, "labels_at_padding": counted, "loss_moves_by": moved_most, **worst}
    if moved_most <= limits.LOSS_ROUNDING:
        return rule.but(f"{rule.threshold}, on the Trainer's own batches").passed(evidence)
    return rule.failed(evidence, _COUNTED_CAUSE, _COUNTED_REMEDY)


def _loss_without(subject: Subject, batch: Inputs, padding: Tensor) -> tuple[float, float]:
    """The Trainer's loss of a batch, and the same where padding cannot be counted.

    Labels at padding are taken out. Where there are none, other tokens are put under the mask instead, which a loss
    that makes labels of its own would count; unless the model's answers at real positions move with them, which is a
    leak of the padding and another finding.
    """
    assert subject.trainer is not None
    before = training_loss(subject.trainer, subject.model, batch)
    labels = batch.get("labels")
    if labels is not None and bool((labels[padding] != IGNORED).any()):
        changed = _without_labels(batch, padding)
    elif subject.kind != "seq2seq":
        changed = {**batch, "input_ids": torch.where(padding, _other_tokens(subject, batch), batch["input_ids"])}
        if _answers_move(subject, batch, changed, padding):
            return before, before
    else:
        return before, before
    return before, training_loss(subject.trainer, subject.model, changed)


def _without_labels(batch: Inputs, padding: Tensor) -> Inputs:
    """Labels at padding taken out, and what stands beside each label (such as its negatives) with them."""
    labels = batch["labels"]
    counted = labels != IGNORED
    kept = ~padding[counted]
    beside = {
        name: value[kept]
        for name, value in batch.items()
        if isinstance(value, Tensor) and value.ndim and len(value) == len(kept) and value.shape[:2] != labels.shape
    }
    return {**batch, **beside, "labels": labels.masked_fill(padding, IGNORED)}


def _other_tokens(subject: Subject, batch: Inputs) -> Tensor:
    """Real tokens of other rows in place of every token."""
    return batch["input_ids"].roll(1, 0).flip(1).clamp(max=subject.vocab_size - 1)


@torch.no_grad()
def _answers_move(subject: Subject, batch: Inputs, changed: Inputs, padding: Tensor) -> bool:
    """Whether the logits at real positions depend on what stands at padding."""
    known = {name for name in ("input_ids", "attention_mask", "position_ids") if name in batch}
    first, second = (
        subject.model(**{name: inputs[name] for name in known}, return_dict=True).logits[~padding].float()
        for inputs in (batch, changed)
    )
    return float((first - second).abs().max()) > limits.LOSS_ROUNDING * float(first.std())


def _padding(subject: Subject, batch: Inputs) -> Tensor:
    """(rows, length) bool, of the positions that labels stand for: padded ones.

    A decoder's labels have no mask: there it is the run of padding tokens at the end of a row, or the positions that
    its own mask leaves out.
    """
    labels = batch.get("labels")
    if labels is not None and (subject.kind == "seq2seq" or labels.shape != batch["input_ids"].shape):
        pad_id = subject.model.config.pad_token_id
        if pad_id is None or pad_id == subject.model.config.eos_token_id:
            return torch.zeros_like(labels, dtype=torch.bool)
        return (labels == pad_id).flip(1).long().cumprod(1).flip(1).bool()
    tokenizer = subject.tokenizer
    if "attention_mask" in batch or tokenizer is None or tokenizer.pad_token_id is None:
        return _mask(batch) == 0
    is_pad = batch["input_ids"] == tokenizer.pad_token_id
    at_end = is_pad.flip(1).long().cumprod(1).flip(1).bool()
    if tokenizer.pad_token_id == tokenizer.eos_token_id:  # the first of them is the end, which is to be learnt
        at_end &= at_end.roll(1, 1)
    return at_end | is_pad.long().cumprod(1).bool()


def _mask(batch: Inputs) -> Tensor:
    mask: Any = batch.get("attention_mask")
    ids: Tensor = batch["input_ids"]
    return mask if isinstance(mask, Tensor) and mask.shape == ids.shape else torch.ones_like(ids)


def _targets(batch: Inputs) -> Tensor:
    """(labels,) those that the loss counts and that are no padding."""
    labels = batch.get("labels")
    if labels is None:
        return torch.zeros(0, dtype=torch.long)
    if labels.shape == batch["input_ids"].shape:
        labels = labels.masked_fill(_mask(batch) == 0, IGNORED)
    return labels[labels != IGNORED].flatten().cpu()
