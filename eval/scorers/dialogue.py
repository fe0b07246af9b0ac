"""Held-out figures of a dialogue model: its replies' perplexity, what its latents are worth, which reply they find.

scores = score_pairs(model, tokenizer, prepared.test)
scores.metrics["hits_at_1"], scores.baselines["word_overlap"]["hits_at_1"]
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import datasets
import numpy as np
import torch
from rich.progress import Progress, TaskID
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from eval.decoding.token_scores import evaluating
from eval.metrics.dialogue import FIGURE_NAMES, DialogueReplies
from eval.metrics.ngrams import Unigram
from eval.metrics.of_arrays import figures_of
from eval.metrics.representation_spread import RepresentationSpread
from eval.metrics.word_overlap import WordOverlap
from eval.replies.saying import batches_by_length, open_dialogue, padded, say, whole_reply
from eval.scorers.candidates import CANDIDATES, derangement, draw_distractors, ranks_by_latents, ranks_by_score
from eval.scorers.holes import choose_rows
from eval.scorers.request import BATCH_SIZE, MAX_PAIRS, ScoreRequest, Scores
from modeling_jepa.modeling_dialogue_jepa import DialogueLatentOutput
from training.common.errors import InputError, NonFiniteError
from training.data.dialogue_jepa.pairs import PairPreparation
from training.data.settings import DialogueDataSettings
from training.data.sources.rows import RowReport
from training.data.unknown import unknown_id, unknown_share

GREEDY_REPLIES = 500
MAX_VECTORS = 1000  # for the effective ranks: a singular value decomposition of a second or less


@dataclass(frozen=True)
class PairAnswers:
    """One entry per pair, in the order of the rows: for paired comparisons of two models on the same pairs.

    Attributes:
        nll, swapped_nll: -ln p of the reply's tokens, summed, in nats, with its own latents and with another pair's
            (None of a single pair).
        correct, tokens: tokens of the reply that are the likeliest at their place, and all of them.
        rank: of the true reply among 20; None without so many different ones.
        predicted, target: `(pairs, S, H)` latents, float32.
    """

    row_ids: np.ndarray
    nll: np.ndarray
    swapped_nll: np.ndarray | None
    correct: np.ndarray
    tokens: np.ndarray
    rank: np.ndarray | None
    predicted: Tensor
    target: Tensor


@dataclass(frozen=True)
class DialogueScores(Scores):
    """With the greedy replies by pair."""

    replies: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Pairs:
    """The pairs to score: ids of contexts and labels of replies, and the texts where the data set holds them."""

    row_ids: np.ndarray
    contexts: list[np.ndarray]
    labels: list[np.ndarray]
    prompts: list[str] | None
    replies: list[str] | None
    dialogues: int

    def __len__(self) -> int:
        return len(self.contexts)


def score_pairs(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    dataset: datasets.Dataset,
    *,
    max_rows: int | None = MAX_PAIRS,
    batch_size: int = BATCH_SIZE,
    seed: int = 0,
    greedy_replies: int = GREEDY_REPLIES,
    progress: bool = False,
) -> DialogueScores:
    """Score a dialogue model beside its baselines.

    `perplexity` and `accuracy` are per reply token, end token included, given the context and what was said before.
    `latent_usage_ratio` is the perplexity with each pair's predicted latents replaced by those of another (a seeded
    derangement of all pairs; what else the decoder sees of the context stays) over the perplexity. `hits_at_1`,
    `hits_at_5` and `mrr` rank the true reply among 19 others of the same pairs. `distinct_1` and `distinct_2` are of
    greedy replies to a seeded choice of contexts, beside those of the true replies to them. `effective_rank` is that
    of the predicted latents, a pair one vector; `target_effective_rank` that of the teacher's.

    Memory: `batch_size` pairs' logits, and 8 x S x H bytes per pair. Uses no random state, and leaves the model in the
    mode it was given in.

    Args:
        dataset: columns `input_ids`, `labels` and `row_id`; `prompt`, `reply` and `dialogue_id` where they are known:
            without texts there is no `word_overlap`, and replies are compared by their tokens.
        max_rows: pairs to score, the same for a given seed; None for all.
        greedy_replies: contexts to answer, at most; 0 for none.

    Raises:
        InputError: no pair, or a bad setting. NonFiniteError: the model gives NaN.
    """
    pairs = read_pairs(dataset, max_rows, seed)
    with Progress(disable=not progress, transient=True) as bar:
        answers = answer_pairs(model, tokenizer, pairs, batch_size, seed, bar)
        chosen = choose_rows(pairs.row_ids, greedy_replies, seed + 1) if greedy_replies else np.zeros(0, np.int64)
        replies = _say_all(model, tokenizer, pairs, chosen, batch_size, bar)
    texts = _texts(pairs, tokenizer)
    metrics = figures(answers, replies, texts) | latent_ranks(answers)
    baselines = _baselines(model, pairs, answers, chosen, texts, seed, _unknown(tokenizer), metrics)
    how = {
        "candidates": None if answers.rank is None else CANDIDATES,
        "greedy_replies": len(replies),
        "reply_tokens": int(answers.tokens.sum()),
    }
    return DialogueScores(metrics, baselines, len(pairs), pairs.dialogues, answers, how, replies)


def read_pairs(dataset: datasets.Dataset, max_rows: int | None, seed: int = 0) -> Pairs:
    """The pairs to score, in the order of the rows. Raises InputError where there is none."""
    rows = choose_rows(np.asarray(dataset["row_id"][:]), max_rows, seed)
    if not len(rows):
        raise InputError("nothing to score: the source holds no pair of a context and a reply; give another one")
    found = dataset[rows.tolist()]
    return Pairs(
        row_ids=np.asarray(found["row_id"], dtype=np.int64),
        contexts=[np.asarray(ids, dtype=np.int64) for ids in found["input_ids"]],
        labels=[np.asarray(ids, dtype=np.int64) for ids in found["labels"]],
        prompts=found.get("prompt"),
        replies=found.get("reply"),
        dialogues=len(set(found.get("dialogue_id", found["row_id"]))),
    )


def answer_pairs(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Pairs,
    batch_size: int = BATCH_SIZE,
    seed: int = 0,
    bar: Progress | None = None,
) -> PairAnswers:
    """What the model says of each pair, without saying replies itself."""
    bar = bar or Progress(disable=True)
    wholes = [whole_reply(labels, tokenizer) for labels in pairs.labels]
    with evaluating(model):
        predicted = _latents(
            model, pairs.contexts, lambda inputs: model.model(**inputs).predicted_latents, batch_size, bar, "contexts"
        )
        target = _latents(model, wholes, lambda inputs: model.read_replies(**inputs), batch_size, bar, "replies")
        given = [predicted]
        if len(pairs) > 1:
            given.append(predicted[torch.as_tensor(derangement(len(pairs), seed))])
        nll, correct = _reply_scores(model, pairs, given, _unknown(tokenizer), batch_size, bar)
    tokens = np.array([len(labels) for labels in pairs.labels])
    distractors = draw_distractors(_texts(pairs, tokenizer), pairs.row_ids, seed)
    rank = None if distractors is None else ranks_by_latents(predicted, target, distractors)
    swapped = nll[1] if len(nll) > 1 else None
    return PairAnswers(pairs.row_ids, nll[0], swapped, correct, tokens, rank, predicted, target)


def figures(
    answers: PairAnswers, replies: dict[int, str] | None = None, true: Sequence[str] | None = None
) -> dict[str, float | None]:
    """All of `FIGURE_NAMES` through the metric object."""
    replies = replies or {}
    return _compute(
        len(answers.tokens),
        predictions=[replies.get(index, "") for index in range(len(answers.tokens))],
        references=true,
        nll=answers.nll,
        swapped_nll=answers.swapped_nll,
        correct=answers.correct,
        tokens=answers.tokens,
        rank=answers.rank,
    )


def latent_ranks(answers: PairAnswers) -> dict[str, float | None]:
    """`effective_rank` of predicted and `target_effective_rank` of target latents, of at most `MAX_VECTORS` pairs.

    A pair is one vector, (S x H) wide: latents of a pair that differ only from each other would look rich.
    """
    rows = np.unique(np.linspace(0, len(answers.predicted) - 1, MAX_VECTORS).astype(np.int64))
    if len(rows) < 2:
        return {"effective_rank": None, "target_effective_rank": None}
    ranks = {}
    for name, latents in (("effective_rank", answers.predicted), ("target_effective_rank", answers.target)):
        vectors = latents[torch.as_tensor(rows)].flatten(1).double().numpy()
        ranks[name] = figures_of(RepresentationSpread, predictions=vectors)["effective_rank"]
    return ranks


def _latents(
    model: PreTrainedModel,
    rows: list[np.ndarray],
    read: Callable[[dict[str, Tensor]], Tensor],
    batch_size: int,
    bar: Progress,
    what: str,
) -> Tensor:
    """`(rows, S, H)` float32 on the CPU."""
    latents = torch.empty(len(rows), model.config.num_latents, model.config.hidden_size)
    task = bar.add_task(f"reading {what}", total=len(rows))
    for batch in batches_by_length([len(row) for row in rows], model, batch_size):
        found = read(padded([rows[index] for index in batch], model)).float().cpu()
        if not torch.isfinite(found).all():
            raise NonFiniteError(f"the latents of {what} are NaN or infinite: use an earlier checkpoint")
        latents[torch.as_tensor(batch)] = found
        bar.advance(task, len(batch))
    return latents


def _reply_scores(
    model: PreTrainedModel, pairs: Pairs, latents: list[Tensor], unknown: int, batch_size: int, bar: Progress
) -> tuple[np.ndarray, np.ndarray]:
    """-ln p of each reply, summed over its tokens, with each of the given latents, `(latents, pairs)`; and how many
    of its tokens are the likeliest, with the first of them.
    """
    nll, correct = np.zeros((len(latents), len(pairs))), np.zeros(len(pairs), dtype=np.int64)
    task = bar.add_task("scoring replies", total=len(pairs))
    longest = max(map(len, pairs.labels))
    for batch in batches_by_length([len(ids) for ids in pairs.contexts], model, batch_size, longest):
        context = padded([pairs.contexts[index] for index in batch], model)
        said = padded([pairs.labels[index] for index in batch], model)
        # A decoder that sees nothing but latents needs no context read again.
        sees_context = model.config.context_access == "both"
        read = model.model(**context) if sees_context else DialogueLatentOutput()
        for which, of_all in enumerate(latents):
            read.predicted_latents = of_all[torch.as_tensor(batch)].to(model.device, model.dtype)
            sums, right = _teacher_forced(model, read, context["attention_mask"], said, unknown)
            nll[which, batch] = sums.cpu().numpy()
            if which == 0:
                correct[batch] = right.cpu().numpy()
        bar.advance(task, len(batch))
    return nll, correct


def _teacher_forced(
    model: PreTrainedModel, read: DialogueLatentOutput, context_mask: Tensor, said: dict[str, Tensor], unknown: int
) -> tuple[Tensor, Tensor]:
    """-ln p of the replies, summed over their tokens, float64, and how many of these are the likeliest: `(B,)`. The
    token `unknown` is never right.
    """
    labels, known = said["input_ids"], said["attention_mask"].bool()
    begun = model.prepare_decoder_input_ids_from_labels(labels)
    output = model(attention_mask=context_mask, decoder_input_ids=begun, encoder_outputs=read, use_cache=False)
    logits = output.logits.float()
    of_tokens = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
    sums = of_tokens.view_as(labels).masked_fill(~known, 0.0).double().sum(-1)
    if not torch.isfinite(sums).all():
        raise NonFiniteError(
            "the model scores NaN or infinity, or rules the true token out: its weights are broken, use an earlier "
            "checkpoint"
        )
    right = (logits.argmax(-1) == labels) & known & (labels != unknown)
    return sums, right.sum(-1)


def _say_all(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Pairs,
    chosen: np.ndarray,
    batch_size: int,
    bar: Progress,
) -> dict[int, str]:
    """The greedy replies of the chosen pairs."""
    task: TaskID = bar.add_task("saying replies", total=len(chosen))
    replies = {}
    for start in range(0, len(chosen), batch_size):
        part = chosen[start : start + batch_size].tolist()
        said = say(model, tokenizer, [pairs.contexts[index] for index in part], batch_size=batch_size)
        replies |= dict(zip(part, said, strict=True))
        bar.advance(task, len(part))
    return replies


def _unknown(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id that never counts as right; -1 where there is none."""
    found = unknown_id(tokenizer)
    return -1 if found is None else found


def _texts(pairs: Pairs, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The true replies as texts."""
    if pairs.replies is not None:
        return pairs.replies
    return tokenizer.batch_decode(pairs.labels, skip_special_tokens=True)


def _baselines(
    model: PreTrainedModel,
    pairs: Pairs,
    answers: PairAnswers,
    chosen: np.ndarray,
    texts: list[str],
    seed: int,
    unknown: int,
    metrics: dict[str, float | None],
) -> dict[str, dict[str, float | None]]:
    """Every figure that each guesser has, under the model's keys.

    `unigram` says tokens by their counts in the training replies, `word_overlap` ranks by BM25, `random` is the mean
    of all ranks, `true_replies` are those of the data to the same contexts.
    """
    guesses: dict[str, dict[str, float | None]] = {"unigram": {}, "word_overlap": {}, "random": {}}
    counts = model.token_counts.cpu().numpy()
    if counts.any():
        unigram = Unigram(counts)
        nll = np.array([unigram.nll[labels].sum() for labels in pairs.labels])
        correct = np.array([((labels == unigram.best) & (labels != unknown)).sum() for labels in pairs.labels])
        guesses["unigram"] = _compute(len(pairs), nll=nll, correct=correct, tokens=answers.tokens)
    distractors = draw_distractors(texts, pairs.row_ids, seed)
    if distractors is not None:
        guesses["random"] = _compute(CANDIDATES, rank=np.arange(1, CANDIDATES + 1))
    if distractors is not None and pairs.prompts is not None:
        prompts, overlap = pairs.prompts, WordOverlap(texts)
        rank = ranks_by_score(lambda pair, of: overlap.scores(prompts[pair], of), distractors, pairs.row_ids, seed)
        guesses["word_overlap"] = _compute(len(pairs), rank=rank)
    guesses["true_replies"] = _compute(len(chosen), predictions=[texts[index] for index in chosen])
    return {name: dict.fromkeys(metrics) | found for name, found in guesses.items()}


def _compute(count: int, **columns: Any) -> dict[str, float | None]:
    """The metric object's figures of `count` entries; a column that is not given, or None, is unknown."""
    if not count:
        return dict.fromkeys(FIGURE_NAMES)
    return figures_of(DialogueReplies, **{name: values for name, values in columns.items() if values is not None})


def score_request(
    request: ScoreRequest, settings: DialogueDataSettings, split: str
) -> tuple[DialogueScores, RowReport]:
    """A dialogue model's figures on the pairs of a source's dialogues."""
    model, tokenizer = open_dialogue(request.checkpoint, request.device)
    lengths = (model.config.max_position_embeddings, model.config.max_reply_length)
    encoded = PairPreparation(settings, *lengths).split(split, tokenizer)
    scores = score_pairs(
        model,
        tokenizer,
        encoded.dataset,
        max_rows=request.rows(MAX_PAIRS),
        batch_size=request.batch_size,
        seed=request.seed,
        progress=request.progress,
    )
    for of_one in (scores.metrics, *scores.baselines.values()):
        of_one["unknown_share"] = unknown_share(encoded.report["tokens"])
    cut = {name: encoded.report["tokens"][name] for name in ("contexts_cut", "replies_cut")}
    return replace(scores, details=scores.details | cut), RowReport(**encoded.report["rows"])
