"""X6, collapse: vectors that are the same for every token, a predictor that does nothing, a teacher that stands still.

All of it is looked at where it shows: in the vectors of real text, not in settings.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from eval.diagnose import thresholds as limit
from eval.diagnose.checks.check import check
from eval.diagnose.checks.collapse_teacher import teacher_frozen
from eval.diagnose.probes.anatomy import trainable, trained_copy
from eval.diagnose.probes.directions import PREDICTOR_RIGHT, judge_predictor
from eval.diagnose.report.report import FAIL, NOTE, Finding, Rule
from eval.diagnose.subject.sample import Batch, spread_over
from eval.diagnose.subject.subject import Subject
from eval.metrics.representation import effective_rank, mean_pairwise_cosine, uniformity

ROWS, LENGTH = 16, 32
SINGULAR_VALUES_SHOWN, LAYERS_SHOWN = 256, 8
MOST_FREQUENT = 0.08  # of the sample: a token above it is left out where tokens are told apart
ROWS_TO_TRAIN = 4
MAX_VECTORS = 1024  # uniformity compares all pairs, and a singular value decomposition grows with the square


@check(
    "collapse.representation",
    f"a typical dimension varies by more than {limit.SPREAD_COLLAPSED:g} of its size over different tokens, or "
    f"comes to it within {limit.STEPS_TO_SPREAD} steps of training; more than {limit.RANK_KEPT:g} of the "
    "directions of the embeddings are left; of a latent model, two vectors have a cosine below "
    f"{limit.COSINE_COLLAPSED:g} in the mean, and those of the same token still find each other "
    f"({limit.TOKENS_TOLD_APART:.2g} of what the embeddings do)",
)
def representation(subject: Subject, rule: Rule) -> Finding:
    """Whether the vectors of different tokens differ, and in how many directions."""
    batch = subject.batch(ROWS, LENGTH)
    sides = _layers(subject, batch)
    found = []
    for side, layers in sides.items():
        if len(layers[-1]) < limit.FEWEST_VECTORS or not all(torch.isfinite(layer).all() for layer in layers):
            subject.notes.append(f"{rule.check}: the {side}'s vectors are too few or not finite")
            continue
        tokens = (batch.source_ids if side == "encoder" else batch.input_ids).flatten()[:MAX_VECTORS].cpu()
        found.append(_judge_representation(subject, rule, side, layers, tokens))
    if not sides:
        subject.notes.append(f"{rule.check}: the model shows no hidden states")
    _keep_series(subject, sides)
    return max(found, key=lambda finding: (finding.verdict == FAIL, finding.verdict == NOTE)) if found else []


def representation_of(vectors: Tensor, inputs: Tensor) -> dict[str, Any]:
    """Figures of how much of its space a set of vectors uses.

    Args:
        vectors: (N, width) at different tokens.
        inputs: (N, any width), the embeddings at the same places.

    Returns:
        `spread_share`: median over the dimensions of standard deviation / root mean square, 0 where nothing varies.
        `effective_rank`, `effective_rank_of_inputs`: of the dimensions at unit variance (Roy & Vetterli, 2007), so
        that a few huge dimensions, which healthy models have, do not hide the others; and `rank_kept`, their ratio.
        `mean_pairwise_cosine` and `uniformity` of the vectors as they are.
    """
    spread = vectors.std(dim=0, correction=0)
    size = vectors.square().mean(dim=0).sqrt()
    rank, rank_of_inputs = effective_rank(_standard(vectors)), effective_rank(_standard(inputs))
    return {
        "spread_share": float((spread / size.clamp_min(1e-30)).median()),
        "effective_rank": rank,
        "effective_rank_of_inputs": rank_of_inputs,
        "rank_kept": rank / max(rank_of_inputs, 1.0),
        "width": vectors.shape[1],
        "vectors": len(vectors),
        "mean_pairwise_cosine": mean_pairwise_cosine(vectors),
        "uniformity": uniformity(vectors),
    }


def told_apart(vectors: Tensor, tokens: Tensor) -> float:
    """Share of the tokens that stand several times whose nearest other vector is one of the same token, 0 to 1.

    By the cosine of vectors with every dimension at mean 0 and variance 1. Very frequent tokens are left out, as they
    would be nearest by chance; 0 where no token stands twice.

    Args:
        vectors: (N, width).
        tokens: (N,) ids.
    """
    unit = normalize(_standard(vectors), dim=-1)
    cosines = (unit @ unit.T).fill_diagonal_(-2.0)
    counts = tokens.bincount()[tokens]
    counted = (counts > 1) & (counts < max(3, len(tokens) * MOST_FREQUENT))
    if not counted.any():
        return 0.0
    return float((tokens[cosines.argmax(dim=1)] == tokens)[counted].double().mean())


@check("collapse.predictor_idle", PREDICTOR_RIGHT, needs="latent")
@torch.no_grad()
def predictor_idle(subject: Subject, rule: Rule) -> Finding:
    """Whether the predictor of a latent model changes what it is given, and differently for different inputs."""
    latent = subject.latent
    assert latent is not None
    given = latent.encode(subject.batch(ROWS, LENGTH)).flatten(0, -2)[:MAX_VECTORS]
    hands_on = (
        "the predictor hands its input on: encoder and target share one space, so nothing keeps the encoder's vectors "
        "from becoming the targets (predictor_layers 0, or a predictor that is bypassed)"
    )
    return judge_predictor(rule, given, latent.predictor(given), hands_on)


def _layers(subject: Subject, batch: Batch) -> dict[str, list[Tensor]]:
    """Side -> embeddings and the output of every layer, each (vectors, width) float64, of intact text."""
    with torch.no_grad():
        output = subject.logits_with(batch, output_hidden_states=True)
    if subject.kind == "seq2seq":
        sides = {"encoder": output.get("encoder_hidden_states"), "decoder": output.get("decoder_hidden_states")}
    else:
        sides = {"model": output.get("hidden_states")}
    return {side: [_flat(layer) for layer in layers] for side, layers in sides.items() if layers is not None}


def _flat(layer: Tensor) -> Tensor:
    return layer.flatten(0, 1)[:MAX_VECTORS].double().cpu()


def _judge_representation(subject: Subject, rule: Rule, side: str, layers: list[Tensor], tokens: Tensor) -> Finding:
    figures = {"side": side, **representation_of(layers[-1], layers[0])}
    figures["tokens_told_apart"] = told_apart(layers[-1], tokens) / max(told_apart(layers[0], tokens), 1e-9)
    shown = [layers[place] for place in spread_over(len(layers), LAYERS_SHOWN)]
    figures["effective_rank_by_layer"] = [round(effective_rank(_standard(layer)), 1) for layer in shown]
    if _nearly_the_same(subject, figures):
        return _judge_the_same(subject, rule, side, figures)
    forgets = figures["tokens_told_apart"] < limit.TOKENS_TOLD_APART and figures["rank_kept"] < limit.RANK_KEPT_LATENT
    if figures["rank_kept"] < limit.RANK_KEPT or (subject.latent is not None and forgets):
        return _collapsed(rule, side, figures, _FORGOTTEN)
    return rule.passed(figures)


def _nearly_the_same(subject: Subject, figures: dict[str, Any]) -> bool:
    """Whether most of every vector is a constant; a latent model's are compared by direction, so theirs count."""
    one_way = subject.latent is not None and figures["mean_pairwise_cosine"] > limit.COSINE_COLLAPSED
    return one_way or figures["spread_share"] < limit.SPREAD_COLLAPSED


def _judge_the_same(subject: Subject, rule: Rule, side: str, figures: dict[str, Any]) -> Finding:
    """Every model is nearly constant for a while when it learns how frequent tokens are: training tells the two apart.

    The loss of a healthy one asks its vectors to differ, and some steps on a copy spread them out. Where a constant
    satisfies the loss, where nothing flows back, or where the weights are thrown far away, they stay together.
    """
    if side != "encoder":
        later = _spread_after_training(subject)
        figures |= {"spread_after_training": later, "steps_of_training": limit.STEPS_TO_SPREAD}
        if later is not None and later > limit.SPREAD_REGAINED:
            return rule.noted(
                figures,
                "nearly all of every vector is the same for every token, and some steps of training spread them out: "
                "a young model that knows how frequent tokens are, or one that a large step threw back to it",
                "train on; if the loss does not fall below that of guessing by frequency, lower the learning rate",
            )
    return _collapsed(rule, side, figures, _THE_SAME)


def _spread_after_training(subject: Subject) -> float | None:
    """The largest `spread_share` that a copy reaches at some usual rate; None where nothing may be trained."""
    if not trainable(subject):
        return None
    batch, lesson = subject.batch(ROWS, LENGTH), subject.batch(ROWS_TO_TRAIN, LENGTH)
    inputs = subject.learning_inputs(subject.holes(lesson, limit.HOLES_SHARE) if subject.kind == "masked" else lesson)
    reached = 0.0
    for rate in limit.RATES_TO_SPREAD:
        model, _ = trained_copy(subject, inputs, limit.STEPS_TO_SPREAD, rate)
        layers = list(_layers(replace(subject, model=model), batch).values())[-1]
        if torch.isfinite(layers[-1]).all():
            reached = max(reached, representation_of(layers[-1], layers[0])["spread_share"])
        if reached > limit.SPREAD_REGAINED:
            break
    return reached


def _collapsed(rule: Rule, side: str, figures: dict[str, Any], cause: str) -> Finding:
    if side == "encoder":  # of seq2seq: what its decoder does without shrinks, and the task may not need it
        cause += ", or the decoder learnt to do without its source"
    return rule.found(NOTE if side == "encoder" else FAIL, figures, cause, _REMEDY)


def _keep_series(subject: Subject, sides: dict[str, list[Tensor]]) -> None:
    """Singular values of the last vectors, largest first, each as a share of the largest."""
    for side, layers in sides.items():
        if torch.isfinite(layers[-1]).all():
            values = torch.linalg.svdvals(layers[-1])
            shares = (values / values[0].clamp_min(1e-30))[:SINGULAR_VALUES_SHOWN]
            name = "last layer" if side == "model" else f"last layer of the {side}"
            subject.figures.setdefault("singular_values", {})[name] = shares.tolist()


def _standard(vectors: Tensor) -> Tensor:
    """Each dimension at mean 0 and variance 1; one that does not vary beyond rounding at 0."""
    spread = vectors.std(dim=0, correction=0)
    noise = 1e-6 * vectors.square().mean().sqrt()
    return torch.where(spread > noise, (vectors - vectors.mean(dim=0)) / spread.clamp_min(1e-300), 0.0)


_THE_SAME = (
    "the vectors of different tokens are nearly the same: the encoder has collapsed (a target that a constant "
    "satisfies, a learning rate far too high, or a last norm that lets nothing through)"
)
_FORGOTTEN = (
    "the vectors have lost most of what their tokens were: the loss does not ask the encoder to tell them apart "
    "(alignment alone, no ranking, no protection against collapse), or the rate was far too high"
)
_REMEDY = (
    "start again with a lower learning rate; of a latent model also raise ranking_weight, set collapse_protection to "
    "vicreg or sigreg, or take the online or ema table as target"
)

CHECKS = (representation, predictor_idle, teacher_frozen)
