"""X7, ranking of latent models: what acc_neg against a few random tokens hides, and whether the table is crowded.

acc_neg asks whether the true token is above 32 random ones. With a vocabulary of thousands that is mostly so for a
model that knows only which words are frequent; the rank in the whole vocabulary tells.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from eval.diagnose import thresholds as limit
from eval.diagnose.checks.check import check
from eval.diagnose.report.report import FAIL, NOTE, Finding, Rule
from eval.diagnose.subject.families import Latent
from eval.diagnose.subject.sample import spread_over
from eval.diagnose.subject.subject import Subject
from eval.metrics.ranks import frequency_deciles, ranking_figures
from eval.metrics.representation import effective_rank
from eval.rules import chance_above_negatives, expected_acc_neg
from eval.scorers.text_jepa import pessimistic_ranks

ROUNDS = 4  # of holes in the same rows, at other places
HOLES_SHARE = 0.15
FEWEST_HOLES = 40
MAX_TOKENS = 2000  # of the text whose neighbours in the table are looked for: memory is MAX_TOKENS x V / 8
ROWS_AT_A_TIME = 256
MAX_TABLE_ROWS = 2000
BINS = 12


@check(
    "ranking.full_rank",
    f"top-1 above the share of the most frequent token, or a median rank below {limit.POOR_MEDIAN_RANK:g}, where "
    f"acc_neg is above {limit.GOOD_ACC_NEG:g}",
    kinds=("masked",),
    needs="latent",
)
def full_rank(subject: Subject, rule: Rule) -> Finding | list[Finding]:
    """Whether the true token is well placed among all tokens, and not only among a few random ones."""
    latent = subject.latent
    assert latent is not None
    ranks, truth = _ranks(subject)
    if len(ranks) < FEWEST_HOLES:
        subject.notes.append(f"ranking.full_rank: only {len(ranks)} holes in the sample")
        return []
    subject.figures["rank_histogram"] = _histogram(ranks, subject.vocab_size)
    figures = _figures(subject, latent, ranks, truth)
    guess, error = figures["most_frequent_share"], figures["top1_error"]
    is_guess = figures["top1"] <= guess + limit.ABOVE_UNIGRAM_ERRORS * error
    if figures["acc_neg"] < limit.GOOD_ACC_NEG or not is_guess or figures["median_rank"] <= limit.POOR_MEDIAN_RANK:
        return rule.passed(figures)
    return rule.noted(
        figures,
        f"acc_neg of {figures['acc_neg']:.2f} looks good, but the true token is no better placed than by guessing the "
        "most frequent ones: random negatives are mostly rare tokens, and beating them takes no context",
        "judge by the rank in the whole vocabulary; train with ranking: full, or negative_sampling: frequency, with "
        "frequency_bias and 30 % holes",
    )


@check(
    "ranking.crowding",
    f"a neighbour nearer than a cosine of {limit.TWIN_COSINE:g} for fewer than {limit.TWINS_NOTE:.0%} of the "
    "tokens of the text",
    needs="latent",
)
def crowding(subject: Subject, rule: Rule) -> Finding | list[Finding]:
    """Whether the rows of different tokens in the table are far enough apart to be told from each other."""
    latent = subject.latent
    assert latent is not None
    tokens = _tokens_of(subject)
    if len(tokens) < FEWEST_HOLES:
        subject.notes.append(f"ranking.crowding: only {len(tokens)} different tokens in the sample")
        return []
    table = normalize(latent.table.float(), dim=-1)
    nearest = _nearest(table, tokens)
    spread = table[spread_over(len(table), MAX_TABLE_ROWS)]
    values = torch.linalg.svdvals(spread.double().cpu())
    subject.figures.setdefault("singular_values", {})["table"] = (values[:256] / values[0].clamp_min(1e-30)).tolist()
    figures = {
        "share_with_a_twin": float((nearest > limit.TWIN_COSINE).double().mean()),
        "median_nearest_cosine": float(nearest.median()),
        "effective_rank": effective_rank(spread),
        "width": table.shape[1],
        "tokens": len(tokens),
    }
    if figures["share_with_a_twin"] < limit.TWINS_NOTE:
        return rule.passed(figures)
    return rule.found(
        FAIL if figures["share_with_a_twin"] > limit.TWINS_FAIL else NOTE,
        figures,
        "many tokens have nearly the same row, so that no prediction can tell them apart: the table has collapsed, or "
        "is too narrow for its vocabulary",
        "rank against the whole vocabulary (ranking: full), widen the table (hidden_size) or shrink max_vocab; with "
        "alignment alone set collapse_protection",
    )


def _ranks(subject: Subject) -> tuple[np.ndarray, np.ndarray]:
    """(holes,) ranks of the true tokens, ties against the model, and the tokens."""
    rows = subject.batch(subject.limits.rows, subject.limits.length)
    pieces: list[tuple[Tensor, Tensor]] = []
    for seed in range(ROUNDS):
        holes = subject.holes(rows, HOLES_SHARE, seed)
        for (piece,) in subject.pieces(holes):
            logits, truth = subject.predictions(piece)
            pieces.append((pessimistic_ranks(logits, truth).cpu(), truth.cpu()))
    ranks, truth = (torch.cat(column).numpy() for column in zip(*pieces, strict=True))
    return ranks, truth


def _figures(subject: Subject, latent: Latent, ranks: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    vocabulary, negatives = subject.vocab_size, latent.num_negatives
    above = np.array([expected_acc_neg(int(rank), vocabulary, negatives) for rank in ranks])
    counts = latent.token_counts.cpu().numpy()
    counts = counts if counts.any() else np.bincount(truth, minlength=vocabulary)
    known = ranking_figures(ranks, None)
    top1 = known["top1"] or 0.0
    return {
        "acc_neg": float(above.mean()),
        "num_negatives": negatives,
        "chance_acc_neg": chance_above_negatives(negatives),
        "acc_neg_of_median_rank": expected_acc_neg(float(np.median(ranks)), vocabulary, negatives),
        "top1": top1,
        "top1_error": float(np.sqrt(max(top1 * (1 - top1), 1 / len(ranks)) / len(ranks))),
        "most_frequent_share": float((truth == counts.argmax()).mean()),
        "mrr": known["mrr"],
        "median_rank": known["median_rank"],
        "vocabulary": vocabulary,
        "holes": len(ranks),
        "median_rank_by_frequency": _by_decile(ranks, truth, counts, lambda part: float(np.median(ranks[part]))),
        "acc_neg_by_frequency": _by_decile(ranks, truth, counts, lambda part: round(float(above[part].mean()), 3)),
    }


def _by_decile(ranks: np.ndarray, truth: np.ndarray, counts: np.ndarray, figure: Any) -> list[float]:
    """A figure of each frequency decile of the holes, the most frequent tokens first."""
    return [figure(part) for part in frequency_deciles(truth, counts) if len(part)]


def _histogram(ranks: np.ndarray, vocabulary: int) -> dict[str, list[float]]:
    """Counts of ranks in bins of equal ratio from 1 to V."""
    edges = np.unique(np.round(np.geomspace(1, vocabulary + 1, BINS + 1)))
    counts, _ = np.histogram(ranks, bins=edges)
    return {"edges": edges.tolist(), "counts": counts.tolist()}


def _tokens_of(subject: Subject) -> Tensor:
    """Different ordinary tokens of the text, at most `MAX_TOKENS`."""
    rows = subject.batch(4 * subject.limits.rows, subject.limits.length)
    special = [] if subject.tokenizer is None else subject.tokenizer.all_special_ids
    tokens = rows.input_ids.unique()
    ordinary = tokens[~torch.isin(tokens, torch.tensor(special, dtype=tokens.dtype, device=tokens.device))]
    return ordinary[spread_over(len(ordinary), MAX_TOKENS)]


def _nearest(table: Tensor, tokens: Tensor) -> Tensor:
    """(tokens,) cosine of each token's row with the nearest row of another token."""
    found = []
    for some in tokens.split(ROWS_AT_A_TIME):
        cosines = table[some] @ table.T
        cosines[torch.arange(len(some), device=some.device), some] = -1.0
        found.append(cosines.max(dim=1).values)
    return torch.cat(found)


CHECKS = (full_rank, crowding)
