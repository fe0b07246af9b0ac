"""Which token a model really predicts, and which one its own loss asks for (X8)."""

import copy
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from eval.diagnose import thresholds
from eval.diagnose.checks.check import check
from eval.diagnose.checks.parity_reload import fits_twice
from eval.diagnose.probes.exact import NotFiniteError, clean, joined
from eval.diagnose.report.report import Finding, Rule
from eval.diagnose.subject.sample import Batch
from eval.diagnose.subject.subject import IGNORED, Subject

_ROWS = 6
_LENGTH = 32
_DRAWS = 4
_MORE = 4
# Offsets that are asked; the right one, and what stands there.
_NAMES = {0: "the hidden token itself", 1: "the next token"}
_AHEAD = (0, 1, 2, 3)
_AROUND = (-1, 0, 1)


@check("parity.offset", "of all offsets, a trained model gives the least loss to the right one")
def offset(subject: Subject, rule: Rule) -> Finding:
    """The token that the logits know best is the one that they should give: the next one, or the hole's own."""
    right = _right(subject)
    nats = _nats_by_offset(subject, subject.model, _offset_batch(subject))
    if not all(values.isfinite().all() for values in nats.values()):
        raise NotFiniteError
    if (best := _best(nats)) != right and not _clearly_better(nats[right], nats[best]):
        # Few tokens leave it open; more of them tell a young model's habit from chance.
        nats = _nats_by_offset(subject, subject.model, _offset_batch(subject, _MORE * subject.limits.rows))
        best = _best(nats)
    means = {key: float(values.mean()) for key, values in nats.items()}
    evidence: dict[str, Any] = {
        "nats_by_offset": {str(key): value for key, value in means.items()},
        "best_offset": best,
        "tokens": len(nats[right]),
    }
    rule = rule.but(f"of all offsets, a trained model gives the least loss to {right}: {_NAMES[right]}")
    if best == right or not _clearly_better(nats[right], nats[best]):
        return rule.passed(evidence)
    evidence |= _learned(subject, best, means[best])
    if not evidence["learned"]:
        # What tied tables give by themselves may hide what was learnt beside it.
        best = _best({key: values for key, values in nats.items() if key != best})
        if not evidence.get("trained", True) or best == right or not _clearly_better(nats[right], nats[best]):
            return rule.passed(evidence)
        evidence |= {"best_offset": best, "learned": True}
    return rule.failed(evidence, *_offset_reason(best, right))


@check("parity.own_loss", "the model's own loss is the cross entropy of its logits at the right offset")
def own_loss(subject: Subject, rule: Rule) -> Finding:
    """The loss that the model gives itself is the cross entropy of its logits at the right offset."""
    right = _right(subject)
    batch = subject.batch(_ROWS, _LENGTH)
    batch = subject.holes(batch, share=0.25) if subject.kind == "masked" else batch
    rows = batch.split(1)
    own = [_asked_loss(subject, row) for row in rows]
    expected = _cross_entropies(subject, rows)
    if not torch.tensor([own, *expected.values()]).isfinite().all():
        raise NotFiniteError
    evidence: dict[str, Any] = {
        "own_loss": sum(own) / len(own),
        "cross_entropy_by_offset": {str(key): sum(values) / len(values) for key, values in expected.items()},
    }
    rule = rule.but(f"the model's own loss is the cross entropy of its logits at offset {right}, up to 1e-4 of it")
    if subject.latent is not None or subject.average is not None:
        return rule.but("a latent model's loss has parts of its own").passed({**evidence, "own_parts": True})
    factors = {key: _factor(own, values) for key, values in expected.items()}
    exact = [key for key, found in factors.items() if found is not None and abs(found - 1) <= thresholds.SAME_LOSS]
    scaled = [key for key, found in factors.items() if found is not None]
    if right in exact:
        return rule.passed(evidence)
    if exact or (scaled and right not in scaled):
        at = (exact or scaled)[0]
        evidence |= {"offset_of_own_loss": at, "factor": factors[at]}
        return rule.failed(evidence, *_offset_reason(at, right, inside=True))
    counts = [_predicted_tokens(subject, row) for row in rows]
    summed = _factor(own, [mean * count for mean, count in zip(expected[right], counts, strict=True)])
    if summed is not None and max(counts) > 1 and abs(summed - 1) <= thresholds.SAME_LOSS:
        return rule.failed(
            {**evidence, "predicted_tokens": counts},
            "the loss is the sum over the predicted tokens, not their mean: longer rows and larger batches give "
            "larger losses and gradients",
            "divide by the number of predicted tokens (reduction='mean'; under a Trainer by num_items_in_batch)",
        )
    if right in scaled and not _added(own, expected[right]):
        return rule.noted(
            {**evidence, "factor": factors[right]},
            f"the loss is {factors[right]:.4g} times the mean cross entropy: a weight, or divided by another count "
            "than that of the predicted tokens",
            "learning rates and clipping are chosen for a mean in nats: divide by the number of predicted tokens, or "
            "leave it if the weight is meant",
        )
    return _unlike(rule, evidence, own, expected, right)


# ---- offset ----


def _right(subject: Subject) -> int:
    return 0 if subject.kind == "masked" else 1


def _best(nats: dict[int, Tensor]) -> int:
    """The offset with the least loss."""
    return min(nats, key=lambda key: float(nats[key].mean()))


def _offset_batch(subject: Subject, rows: int | None = None) -> Batch:
    """Of a masked model the same rows with other holes, several times: few at once leave neighbours seen."""
    batch = subject.batch(rows or subject.limits.rows, subject.limits.length)
    if subject.kind != "masked":
        return batch
    drawn = [subject.holes(batch, share=0.1, seed=seed) for seed in range(_DRAWS)]
    return joined(drawn)


@torch.no_grad()
def _nats_by_offset(subject: Subject, model: PreTrainedModel, batch: Batch) -> dict[int, Tensor]:
    """Nats of the token at each offset from a position, at the same positions for all offsets: `(N,)` each."""
    offsets = _AROUND if subject.kind == "masked" else _AHEAD
    found: dict[int, list[Tensor]] = {key: [] for key in offsets}
    for (piece,) in subject.pieces(batch):
        logits = clean(subject.ask(model, piece).logits)
        rows, places = _positions(subject, piece, offsets)
        truth = (
            piece.input_ids
            if piece.labels is None
            else torch.where(piece.labels == IGNORED, piece.input_ids, piece.labels)
        )
        chosen = logits[rows, places]
        for key in offsets:
            found[key].append(functional.cross_entropy(chosen, truth[rows, places + key], reduction="none").cpu())
    return {key: torch.cat(values) for key, values in found.items()}


def _positions(subject: Subject, batch: Batch, offsets: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Rows and places that have a token at every offset; of a masked batch the holes whose neighbours are seen."""
    length = batch.input_ids.shape[1]
    first, last = max(0, -offsets[0]), length - offsets[-1]
    usable = torch.zeros_like(batch.input_ids, dtype=torch.bool)
    usable[:, first:last] = True
    if batch.labels is not None:
        holes = batch.labels != IGNORED
        beside = functional.pad(holes, (1, 1))
        usable &= holes & ~beside[:, :-2] & ~beside[:, 2:]
    rows, places = usable.nonzero(as_tuple=True)
    return rows, places


def _clearly_better(right: Tensor, other: Tensor) -> bool:
    """Whether another offset is better by more than chance and more than a trifle."""
    gain = right - other
    error = float(gain.std()) / max(len(gain), 1) ** 0.5
    least = max(thresholds.OFFSET_STANDARD_ERRORS * error, thresholds.OFFSET_GAIN * float(right.mean()))
    return len(gain) > 1 and float(gain.mean()) > least


def _learned(subject: Subject, best: int, nats: float) -> dict[str, Any]:
    """Whether this offset was learned: a fresh model with tied tables already gives the token itself a high logit."""
    untrained = {"learned": False, "trained": False}
    if not _was_trained(subject.model):
        return untrained
    if not fits_twice(subject, "parity.offset"):
        return {"learned": True}
    fresh = type(subject.model)(copy.deepcopy(subject.model.config)).to(subject.device).eval()
    if not _was_trained(subject.model, fresh):
        return untrained
    if best != 0 or subject.kind == "masked":
        return {"learned": True}
    before = float(_nats_by_offset(subject, fresh, _offset_batch(subject))[best].mean())
    return {"learned": nats < thresholds.COPIES_BETTER_THAN_FRESH * before, "fresh_model_nats": before}


def _was_trained(model: PreTrainedModel, fresh: PreTrainedModel | None = None) -> bool:
    """Whether a scale or bias has units that differ: they begin alike, and training moves each its own way.

    Args:
        fresh: tells those that begin apart, as the decays of recurrent models; they count for nothing.
    """
    apart = set() if fresh is None else {name for name, vector in _vectors(fresh) if not _alike(vector)}
    vectors = [vector for name, vector in _vectors(model) if name not in apart]
    return not vectors or not all(map(_alike, vectors))


def _vectors(model: PreTrainedModel) -> list[tuple[str, Tensor]]:
    """Parameters of one dimension, by name."""
    return [(name, parameter.detach()) for name, parameter in model.named_parameters() if parameter.ndim == 1]


def _alike(vector: Tensor) -> bool:
    """Whether all units are the same number."""
    return bool((vector == vector[:1]).all())


# ---- own loss ----


@torch.no_grad()
def _asked_loss(subject: Subject, row: Batch) -> float:
    torch.manual_seed(0)  # a model that drops out even now drops the same in both passes
    return float(subject.own_loss(subject.model, subject.learning_inputs(row)))


@torch.no_grad()
def _cross_entropies(subject: Subject, rows: list[Batch]) -> dict[int, list[float]]:
    """Mean nats of each row at every offset at which a loss might ask."""
    found: dict[int, list[float]] = {key: [] for key in (-1, *_AHEAD)}
    for row in rows:
        torch.manual_seed(0)
        logits = clean(subject.logits(row))[0]
        for key, values in found.items():
            values.append(float(_row_loss(subject, row, logits, key)))
    return found


def _row_loss(subject: Subject, row: Batch, logits: Tensor, key: int) -> Tensor:
    """Nats of a row when the logits at t are asked for the label at t + key, wherever there is one."""
    # The first token of a seq2seq decoder is no label, and the last logits have none: labels begin one place later.
    labels = row.input_ids[0] if row.labels is None else row.labels[0]
    if subject.kind == "seq2seq":
        labels = labels.clone()
        labels[0] = IGNORED
        logits = logits[:-1]
    length = len(labels)
    asked = [place for place in range(len(logits)) if 0 <= place + key < length]
    targets = torch.stack([labels[place + key] for place in asked])
    return functional.cross_entropy(logits[asked], targets, ignore_index=IGNORED)


def _factor(own: list[float], expected: list[float]) -> float | None:
    """What the cross entropy is multiplied by in all rows alike; None where it is not one factor."""
    ratios = [mine / max(theirs, 1e-12) for mine, theirs in zip(own, expected, strict=True)]
    mean = sum(ratios) / len(ratios)
    alike = max(abs(ratio - mean) for ratio in ratios) <= thresholds.SAME_LOSS * abs(mean)
    return mean if alike and mean else None


def _added(own: list[float], expected: list[float]) -> bool:
    """Whether something is added to the cross entropy, the same in all rows, rather than multiplied with it."""
    mine, theirs = (torch.tensor(values, dtype=torch.float64) for values in (own, expected))
    return bool((mine - theirs).std() < (mine / theirs).std() * theirs.mean())


def _predicted_tokens(subject: Subject, row: Batch) -> int:
    """Labels of a row that have logits to be predicted from: the first one of a causal model has none."""
    labels = subject.learning_inputs(row)["labels"]
    return int((labels[:, 1:] if subject.kind == "causal" else labels).ne(IGNORED).sum())


def _unlike(
    rule: Rule, evidence: dict[str, Any], own: list[float], expected: dict[int, list[float]], right: int
) -> Finding:
    """The loss is no cross entropy alone: it follows the right one, another one, or none."""
    follows = {key: _correlation(own, values) for key, values in expected.items()}
    best = max(follows, key=lambda key: follows[key])
    evidence = {**evidence, "correlation_by_offset": {str(key): value for key, value in follows.items()}}
    if follows[right] >= thresholds.FOLLOWS_LOSS:
        return rule.passed({**evidence, "other_parts": True})
    if follows[best] >= thresholds.FOLLOWS_LOSS:
        return rule.failed({**evidence, "offset_of_own_loss": best}, *_offset_reason(best, right, True))
    return rule.noted(
        evidence,
        "the model's own loss is not the cross entropy of its logits at any offset: another objective, or labels that "
        "are changed inside forward",
        "if plain cross entropy is meant, compare model(**inputs, labels=labels).loss with the cross entropy of "
        "model(**inputs).logits[:, :-1] and labels[:, 1:]",
    )


def _correlation(first: list[float], second: list[float]) -> float:
    pair = torch.tensor([first, second], dtype=torch.float64)
    return float(torch.corrcoef(pair)[0, 1].nan_to_num(nan=0.0))


# ---- words ----


def _offset_reason(found: int, right: int, inside: bool = False) -> tuple[str, str]:
    """Cause and remedy of a wrong offset; `inside` the model's own loss."""
    where = "the model's own loss" if inside else "the training"
    asks = "asks for" if inside else "taught it to give"
    if right == 0:
        return (
            f"{where} {asks} another token than the hidden one ({found:+d}): labels are shifted in a masked model",
            "labels stand where the holes are: do not shift them",
        )
    if found == 0:
        return (
            f"{where} {asks} the token that the model has just read: labels are not shifted, so copying is enough",
            "predict labels[:, 1:] from logits[:, :-1], once: either in the data or in forward",
        )
    if found > right:
        return (
            f"{where} {asks} the token {found} places on: labels are shifted {found} times, in the data and again in "
            "the loss",
            "hand labels = input_ids to a model of this library, which shifts them itself; shift in one place only",
        )
    return (
        f"{where} {asks} a token before the one that was read ({found:+d}): labels are shifted the wrong way",
        "predict labels[:, 1:] from logits[:, :-1], once: either in the data or in forward",
    )
