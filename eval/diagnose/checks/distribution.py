"""X5, what the predictions are like: untrained, flat, saturated, unigram only or healthy; and calibration.

The true token of one position is compared with the tokens that are true elsewhere, under the same prediction. That
difference is zero for a model that does not use its context, however its logits are scaled; and the temperature that
gives the lowest loss tells a wrong scale from missing knowledge.
"""

from typing import Any

import torch
from torch import Tensor

from eval.diagnose import thresholds as limit
from eval.diagnose.checks.check import check
from eval.diagnose.probes.anatomy import untouched
from eval.diagnose.probes.predictions import Predictions, look_at_predictions
from eval.diagnose.report.report import Finding, Rule
from eval.diagnose.subject.subject import Subject

BINS = 10
RIGHT = (
    f"the context is worth more than {limit.INFORMED_SHARE:.0%} of ln V and {limit.INFORMED_ERRORS:.0f} standard "
    f"errors, and the best temperature lies between {limit.LOGITS_TOO_SMALL:g} and {limit.LOGITS_TOO_LARGE:g}"
)
_CALIBRATION = Rule("distribution.calibration", f"an expected calibration error below {limit.CALIBRATION_NOTE:g}")
Said = dict[str, tuple[str, str]]  # what predictions are like -> cause and remedy


@check(
    "distribution.copies",
    f"a masked model that gives shown tokens for less than {limit.SHOWN_TOKEN:g} nats knows more than frequencies "
    "where they are hidden",
    kinds=("masked",),
)
def copies(subject: Subject, rule: Rule) -> Finding | list[Finding]:
    """Whether a masked model only learnt to say what stands before its eyes."""
    hidden = look_at_predictions(subject, 0.5)
    if hidden is None or hidden.count < limit.FEWEST_POSITIONS:
        return []
    batch = subject.batch(4, subject.limits.length)
    with torch.no_grad():
        logits = subject.logits(batch)
    shown = float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.input_ids.flatten()))
    evidence = {"loss_where_shown": shown, "loss_where_hidden": hidden.loss, "unigram_loss": hidden.unigram}
    if shown > limit.SHOWN_TOKEN or hidden.loss < hidden.unigram:
        return rule.passed(evidence)
    return rule.failed(
        evidence,
        "the model says back the tokens that it is shown and knows nothing of hidden ones: in training nothing was "
        "hidden (labels = input_ids), or the mask token never stood in the input",
        "hide tokens and count the loss there alone (DataCollatorForLanguageModeling), and train again",
    )


@check("distribution.shape", RIGHT)
def shape(subject: Subject, rule: Rule) -> list[Finding]:
    """One finding named after what the predictions are like, and one of their calibration."""
    return judge_shape(subject, rule, _SAID)


def judge_shape(subject: Subject, rule: Rule, said: Said, early: tuple[str, ...] = ("unigram_only",)) -> list[Finding]:
    """The same in the words of a family.

    Args:
        said: of what is not possible there, nothing.
        early: what every model is like in its first hundreds of steps.
    """
    seen = look_at_predictions(subject)
    if seen is None:
        cause = "some logits are NaN or infinite, so nothing can be said of the predictions"
        remedy = "see gradient.non_finite, which says where they begin"
        return [rule.but("logits that are numbers").noted({"finite": False}, cause, remedy)]
    _keep_series(subject, seen)
    found = _shape(subject, seen, rule, said, early)
    # Where nothing can be said of the predictions, nothing can be of how sure they are.
    return [found] if found.check == rule.check else [found, _calibration(seen)]


def name_of(seen: Predictions, is_untouched: bool | None) -> str:
    """healthy, worse_than_guessing, untrained, saturated, unigram_only, flat or too_few.

    Args:
        is_untouched: whether the weights are those that a model begins with; None where they do not tell.
    """
    wrong_token = seen.top_mass - seen.accuracy > limit.SATURATED_ABOVE_ACCURACY
    on_one_token = seen.most_predicted > limit.SATURATED_SHARE and seen.top_mass > limit.SATURATED_MASS and wrong_token
    if seen.count < limit.FEWEST_POSITIONS:
        return "too_few"
    if _is_informed(seen) and not on_one_token:
        if seen.best_temperature > limit.LOGITS_TOO_LARGE:
            return "saturated"
        if seen.best_temperature < limit.LOGITS_TOO_SMALL:
            return "flat"
        return "worse_than_guessing" if seen.loss > seen.unigram else "healthy"
    if is_untouched or (is_untouched is None and seen.loss > seen.ln_v):
        return "untrained"
    if on_one_token:
        return "saturated"
    known = (seen.ln_v - seen.loss) / max(seen.ln_v - seen.unigram, 1e-9)
    return "unigram_only" if known > limit.UNIGRAM_SHARE else "flat"


def _calibration(seen: Predictions) -> Finding:
    """Whether what is predicted with mass p comes true in a share p of the cases (Guo et al., ICML 2017, eq. 3)."""
    error, _ = calibration_error(seen.top_masses, seen.right)
    evidence = {"calibration_error": error, "confidence": seen.top_mass, "accuracy": seen.accuracy}
    if error < limit.CALIBRATION_NOTE or seen.count < limit.FEWEST_POSITIONS:
        return _CALIBRATION.passed(evidence)
    sure = "surer" if seen.top_mass > seen.accuracy else "less sure"
    return _CALIBRATION.noted(
        {**evidence, "best_temperature": seen.best_temperature},
        f"the model is {sure} than it is right: other text than it was trained on, learnt by heart, or a wrong scale",
        f"generate with a temperature near {seen.best_temperature:g}; train on more text, or add dropout",
    )


def calibration_error(confidence: Tensor, right: Tensor) -> tuple[float, dict[str, list[float]]]:
    """Expected calibration error over equal bins of confidence, 0 to 1, and what stands in each bin with an entry.

    Args:
        confidence: (N,) mass of the first choice.
        right: (N,) whether it is the true token.
    """
    place = (confidence * BINS).long().clamp_max(BINS - 1)
    counts = torch.bincount(place, minlength=BINS).double()
    kept = counts > 0
    confidences = torch.bincount(place, confidence.double(), minlength=BINS)[kept] / counts[kept]
    accuracies = torch.bincount(place, right.double(), minlength=BINS)[kept] / counts[kept]
    error = float((counts[kept] / counts.sum() * (confidences - accuracies).abs()).sum())
    named = {"confidence": confidences, "accuracy": accuracies, "counts": counts[kept]}
    return error, {name: values.tolist() for name, values in named.items()}


def _shape(subject: Subject, seen: Predictions, rule: Rule, said: Said, early: tuple[str, ...]) -> Finding:
    name, evidence = name_of(seen, untouched(subject)), _evidence_of(seen)
    named = rule.named(f"distribution.{name}")
    if name == "healthy":
        return named.passed(evidence)
    if name == "too_few":
        return rule.noted(evidence, *said[name])
    steps = None if subject.record is None else subject.record.steps
    if name in early and steps is not None and steps < limit.YOUNG_STEPS:
        return named.noted({**evidence, "steps": steps}, *said["young"])
    strange = name == "worse_than_guessing" or not _is_informed(seen)
    if subject.kind == "seq2seq" and strange and name != "untrained":
        return named.noted(evidence, *said["another_task"])
    if "random_ids" in said and subject.tokenizer is None and name in ("flat", "unigram_only"):
        return rule.noted(evidence, *said["random_ids"])
    exploded = name == "flat" and seen.entropy < limit.FLAT_ENTROPY * seen.ln_v and "exploded" in said
    if subject.built_in_text and (exploded or name == "worse_than_guessing"):
        return named.noted(evidence, *said["foreign"])
    return named.failed(evidence, *said["exploded" if exploded else name])


def _is_informed(seen: Predictions) -> bool:
    """Whether the context tells; where the loss is above ln V, a better scale must also bring it well below."""
    gained = (seen.ln_v - seen.best_loss) / max(seen.ln_v - seen.unigram, 1e-9)
    if seen.loss > seen.ln_v and gained < limit.UNIGRAM_SHARE:
        return False
    return seen.context > max(limit.INFORMED_SHARE * seen.ln_v, limit.INFORMED_ERRORS * seen.context_error)


def _evidence_of(seen: Predictions) -> dict[str, Any]:
    """The figures of a finding."""
    return {
        "loss": seen.loss,
        "ln_v": seen.ln_v,
        "unigram_loss": seen.unigram,
        "context_worth": seen.context,
        "context_error": seen.context_error,
        "best_temperature": seen.best_temperature,
        "loss_at_best_temperature": seen.best_loss,
        "entropy": seen.entropy,
        "top1_mass": seen.top_mass,
        "argmax_accuracy": seen.accuracy,
        "most_frequent_prediction": seen.most_predicted,
        "logit_spread": seen.spread,
        "kl_to_unigram": seen.kl_to_unigram,
        "kl_to_own_mean": seen.variation,
        "positions": seen.count,
    }


def _keep_series(subject: Subject, seen: Predictions) -> None:
    """What the plots show."""
    subject.figures["loss_vs_lnv"] = {"loss": seen.loss, "ln_v": seen.ln_v, "unigram": seen.unigram}
    _, subject.figures["calibration"] = calibration_error(seen.top_masses, seen.right)
    subject.figures["entropy_histogram"] = _histogram(seen.entropies, seen.ln_v)
    subject.figures["top1_mass_histogram"] = _histogram(seen.top_masses, 1.0)


def _histogram(values: Tensor, highest: float) -> dict[str, list[float]]:
    counts = torch.histc(values.double(), 2 * BINS, 0.0, highest)
    edges = torch.linspace(0.0, highest, 2 * BINS + 1)
    return {"edges": edges.tolist(), "counts": counts.tolist()}


_SAID: Said = {
    "untrained": (
        "untrained: the weights are those that a model begins with, and the predictions know nothing of the text",
        "train it; if it was trained, the wrong folder was saved or opened, or the learning rate was 0",
    ),
    "flat": (
        "the predictions are nearly even over the vocabulary: the model was hardly trained, or its output weights, "
        "or the scale of its logits, shrank to nothing",
        "look at the loss of the run and at the norm of the output weights; open an earlier checkpoint",
    ),
    "exploded": (
        "the logits are far from even and yet say nothing of the text, not even how frequent tokens are: weights "
        "exploded, were overwritten or zeroed (see gradient.flow), the model learnt to predict something else (see "
        "parity.offset), the tokenizer is another one than in its training, or the text is in no language that it "
        "knows",
        "compare the tokenizer with that of the training; else open an earlier checkpoint, and train with a lower "
        "learning rate, a warm-up and gradient clipping",
    ),
    "saturated": (
        "nearly all the mass lies on a token that is mostly wrong: output weights or a bias exploded, or the logits "
        "are scaled up more than tenfold",
        "look at the largest output weights and biases and at the scale of the logits; lower the learning rate",
    ),
    "unigram_only": (
        "the model knows how frequent tokens are and nothing else: what it reads does not reach its prediction, or it "
        "was not trained for long",
        "train on if the loss is still falling; else look at gradient.flow and collapse.representation",
    ),
    "worse_than_guessing": (
        "the model reads its context and is still worse than a guess by how frequent tokens are: something in it or "
        "before it is not as it was in training (weights, configuration, tokenizer, precision)",
        "see the group repair, which tries single changes; compare config.json and the tokenizer with those of the "
        "training, and open an earlier checkpoint",
    ),
    "foreign": (
        "the built-in sample means little to the model: it was trained on text of another kind, or it is broken",
        "give text of its own kind with --data; what is a note here is a fail there",
    ),
    "young": (
        "the model knows how frequent tokens are and nothing else, as every model does in its first hundreds of steps",
        "train on",
    ),
    "another_task": (
        "what it reads and writes in its own task is not known here, and text that follows text is nothing to it: it "
        "may answer, translate or sum up and be healthy, or it may have learnt nothing",
        "look at its loss on pairs of its own task, against that of answers without their questions",
    ),
    "random_ids": (
        "there is no tokenizer, so it was asked about random ids, of which a healthy model knows nothing either",
        "give the tokenizer of its training with --tokenizer",
    ),
    "too_few": ("too few positions to tell", "give more text with --data"),
}

CHECKS = (copies, shape)
