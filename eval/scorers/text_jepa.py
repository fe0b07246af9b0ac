"""Held-out fill-in-the-blank figures of a masked language model, ours or a stock one, over its whole vocabulary.

scores = score_rows(model, tokenizer, encoded.dataset, token_counts=model.token_counts)
scores.metrics["top1"], scores.baselines["unigram"]["top1"]
"""

from dataclasses import dataclass

import datasets
import numpy as np
import torch
from rich.progress import Progress
from torch import Tensor
from transformers import AutoModelForMaskedLM, PreTrainedModel, PreTrainedTokenizerBase

from eval.decoding.token_scores import evaluating
from eval.loading import open_model, open_tokenizer
from eval.metrics.baselines import unigram_ranks
from eval.metrics.fill_blank_ranking import FillBlankRanking
from eval.metrics.of_arrays import figures_of
from eval.metrics.representation import REPRESENTATION_NAMES
from eval.metrics.representation_spread import RepresentationSpread
from eval.scorers.holes import (
    HoleBatch,
    Holes,
    HoleScores,
    Scorer,
    choose_rows,
    collect_holes,
    hole_batches,
    make_scorer,
)
from eval.scorers.request import BATCH_SIZE, MAX_ROWS, ScoreRequest, Scores
from training.common.errors import InputError, NonFiniteError
from training.data.settings import DataSettings
from training.data.sources.locate import load_rows
from training.data.sources.rows import RowReport
from training.data.tokenization import encode_rows
from training.data.unknown import check_unknown, unknown_share

MAX_HOLES = 4
MAX_VECTORS = 1000  # for figures of the representation: a singular value decomposition of a tenth of a second


@dataclass(frozen=True)
class BlankAnswers:
    """One entry per blank, in the order of the rows: for paired comparisons of two models on the same blanks."""

    row_ids: np.ndarray
    positions: np.ndarray
    targets: np.ndarray
    predictions: np.ndarray
    ranks: np.ndarray
    cosines: np.ndarray | None


@dataclass(frozen=True)
class Answers:
    """What one pass over the blanks gives: encoder vectors have shape (vectors, width)."""

    blanks: BlankAnswers
    vectors: np.ndarray
    spreads: np.ndarray | None


def score_rows(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    dataset: datasets.Dataset,
    token_counts: Tensor | np.ndarray | None = None,
    *,
    max_holes: int = MAX_HOLES,
    max_rows: int | None = MAX_ROWS,
    batch_size: int = BATCH_SIZE,
    seed: int = 0,
    progress: bool = False,
    scorer: Scorer | None = None,
) -> Scores:
    """Score a model on blanks made one at a time, always with the mask token, up to `max_holes` a row by row_id.

    rank = 1 + #{v != target : score(v) >= score(target)}: a tie counts against the model. Holds `batch_size` x V
    scores at a time. Uses no random state and leaves the model in the mode (train or eval) it was given in.

    Args:
        model: a latent text model, or any masked LM whose forward gives logits (batch, sequence, V).
        tokenizer: the model's own.
        dataset: columns input_ids (list of int) and row_id (int), rows not longer than the model.
        token_counts: (V,) counts in the training part, for deciles and the unigram baseline (null without them).
        max_holes: blanks per row at most.
        max_rows: rows to score, the same for a given seed; None for all.
        batch_size: blanks per forward pass.
        seed: decides which rows, if not all.
        progress: show a progress bar on stderr.
        scorer: how the model is asked; by default by its kind.

    Raises:
        InputError: no row holds a token that can be blanked, or counts of another vocabulary.
        NonFiniteError: the model scores a token as NaN or plus infinity.
    """
    counts = _known_counts(token_counts, model.config.vocab_size)
    rows = choose_rows(np.asarray(dataset["row_id"][:]), max_rows, seed)
    holes = collect_holes(dataset, rows, tokenizer, max_holes)
    if len(holes) == 0:
        raise InputError(
            f"nothing to score: none of {len(rows)} rows holds a token that is in the vocabulary; "
            f"check that the data's language and the tokenizer belong together"
        )
    scorer = scorer or make_scorer(model)
    given = _answer_all(model, scorer, tokenizer, dataset, holes, batch_size, progress)
    answers = given.blanks
    metrics = _figures(answers, answers.predictions, answers.ranks, answers.cosines, counts, tokenizer, given.spreads)
    metrics |= _representation(given.vectors)
    unigram = _unigram(answers, metrics, counts, tokenizer)
    return Scores(metrics, {"unigram": unigram}, len(holes), len(rows), answers)


def pessimistic_ranks(logits: Tensor, targets: Tensor) -> Tensor:
    """(blanks,) ranks 1..V of the true tokens: 1 + the number of other entries scored at least as high.

    A model that gives every token the same score gets rank V everywhere, never 1.

    Args:
        logits: (blanks, V).
        targets: (blanks,) token ids.
    """
    true = logits.gather(1, targets[:, None])
    return (logits >= true).sum(dim=1)


def shown_token(tokenizer: PreTrainedTokenizerBase, token_id: int) -> str:
    """A token as text: byte-level pieces decoded, special tokens by their name."""
    return tokenizer.decode([token_id]).strip() or tokenizer.convert_ids_to_tokens(token_id)


def _answer_all(
    model: PreTrainedModel,
    scorer: Scorer,
    tokenizer: PreTrainedTokenizerBase,
    dataset: datasets.Dataset,
    holes: Holes,
    batch_size: int,
    progress: bool,
) -> Answers:
    """Rank, first guess and cosine of every blank; the encoder's vectors at up to `MAX_VECTORS`, evenly chosen."""
    ranks = np.zeros(len(holes), dtype=np.int64)
    predictions = np.zeros(len(holes), dtype=np.int64)
    cosines = np.full(len(holes), np.nan)
    spreads = np.full(len(holes), np.nan)
    line_of = np.full(len(holes), -1)
    chosen = np.unique(np.linspace(0, len(holes) - 1, min(len(holes), MAX_VECTORS)).astype(np.int64))
    line_of[chosen] = np.arange(len(chosen))
    vectors = np.zeros((len(chosen), model.config.hidden_size))
    with evaluating(model), Progress(disable=not progress, transient=True) as bar:
        task = bar.add_task("scoring", total=len(holes))
        for batch in hole_batches(dataset, holes, tokenizer, batch_size, model.device):
            scores = scorer(batch)
            _check_finite(scores, batch, holes)
            ranks[batch.indices] = pessimistic_ranks(scores.logits, batch.targets).cpu().numpy()
            predictions[batch.indices] = scores.logits.argmax(dim=-1).cpu().numpy()
            kept = line_of[batch.indices] >= 0
            vectors[line_of[batch.indices[kept]]] = scores.vectors.cpu().double().numpy()[kept]
            if scores.cosines is not None:
                cosines[batch.indices] = scores.cosines.cpu().double().numpy()
                spreads[batch.indices] = scores.cosine_spread.cpu().double().numpy()
            bar.advance(task, len(batch.indices))
    known = None if np.isnan(cosines).all() else cosines
    blanks = BlankAnswers(holes.row_ids, holes.positions, holes.targets, predictions, ranks, known)
    return Answers(blanks, vectors, None if known is None else spreads)


def _check_finite(scores: HoleScores, batch: HoleBatch, holes: Holes) -> None:
    """Refuse NaN and plus infinity, naming the row; minus infinity is a token the model rules out."""
    broken = torch.isnan(scores.logits).any(dim=-1) | torch.isposinf(scores.logits).any(dim=-1)
    if scores.cosines is not None:
        broken |= ~torch.isfinite(scores.cosines)
    if broken.any():
        first = batch.indices[int(broken.nonzero()[0])]
        raise NonFiniteError(
            f"the model scores NaN or infinity at row {holes.row_ids[first]}, position {holes.positions[first]} "
            f"({int(broken.sum())} of {len(broken)} blanks of the batch): "
            "its weights are broken, use an earlier checkpoint"
        )


def _figures(
    answers: BlankAnswers,
    predictions: np.ndarray,
    ranks: np.ndarray,
    cosines: np.ndarray | None,
    counts: np.ndarray | None,
    tokenizer: PreTrainedTokenizerBase,
    spreads: np.ndarray | None = None,
) -> dict:
    """All metrics through the metric object, with `most_predicted` as tokens."""
    figures = figures_of(
        FillBlankRanking,
        predictions=predictions,
        references=answers.targets,
        ranks=ranks,
        cosines=[None] * len(ranks) if cosines is None else cosines,
        token_counts=counts,
        spreads=spreads,
    )
    figures["most_predicted"] = [[shown_token(tokenizer, token), share] for token, share in figures["most_predicted"]]
    return figures


def _representation(vectors: np.ndarray) -> dict:
    """How much of its space the encoder uses at the blanks; None where fewer than two vectors say nothing."""
    if len(vectors) < 2:
        return dict.fromkeys(REPRESENTATION_NAMES)
    return figures_of(RepresentationSpread, predictions=vectors)


def _unigram(
    answers: BlankAnswers, metrics: dict, counts: np.ndarray | None, tokenizer: PreTrainedTokenizerBase
) -> dict:
    """The unigram baseline on the same blanks; every figure None when training counts are unknown."""
    if counts is None:
        return dict.fromkeys(metrics)
    guessed = unigram_ranks(answers.targets, counts, never=tuple(tokenizer.all_special_ids))
    return dict.fromkeys(metrics) | _figures(answers, guessed.predictions, guessed.ranks, None, counts, tokenizer)


def _known_counts(token_counts: Tensor | np.ndarray | None, vocab_size: int) -> np.ndarray | None:
    """Counts as an array (V,), or None where they are unknown (not given, or all zero as in a model never told)."""
    if token_counts is None:
        return None
    if isinstance(token_counts, Tensor):
        token_counts = token_counts.detach().cpu().double().numpy()
    counts = np.asarray(token_counts, dtype=np.float64)
    if counts.shape != (vocab_size,):
        raise InputError(
            f"token_counts must have one count for each of the model's {vocab_size} tokens, has shape {counts.shape}"
        )
    return counts if counts.any() else None


def score_request(request: ScoreRequest, settings: DataSettings, split: str) -> tuple[Scores, RowReport]:
    """A latent text model's figures on the rows of a source, and what became of those rows.

    No blank stands on an unknown token: `unknown_share` of the text says of how many tokens the figures do not speak,
    and `top1_of_all` is the top-1 accuracy where each of them counts as wrong.
    """
    model = open_model(request.checkpoint, AutoModelForMaskedLM, request.device)
    tokenizer = open_tokenizer(request.checkpoint)
    rows = load_rows(settings, split)
    encoded = encode_rows(rows.dataset, tokenizer, model.config.max_position_embeddings, settings.long_rows)
    unknown = unknown_share(encoded.report)
    check_unknown(unknown, f"{settings.data} [{split}]", settings.allow_unknown)
    scores = score_rows(
        model,
        tokenizer,
        encoded.dataset,
        model.token_counts,
        max_rows=request.rows(MAX_ROWS),
        batch_size=request.batch_size,
        seed=request.seed,
        progress=request.progress,
    )
    for figures in (scores.metrics, *scores.baselines.values()):
        of_all = None if figures["top1"] is None else figures["top1"] * (1 - unknown)
        figures |= {"unknown_share": unknown, "top1_of_all": of_all}
    return scores, rows.report
