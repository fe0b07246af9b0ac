"""Held-out figures of a dialogue model while it is trained: the same pairs each time, in bounded memory."""

import math
from collections.abc import Iterator
from typing import Any

import datasets
import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from eval.replies import batches_by_length
from eval.representation import effective_rank, mean_pairwise_cosine
from eval.scorers.holes import choose_rows
from eval.scorers.token_scores import evaluating
from training.data.collators import PairCollator

CANDIDATES = 20
BATCH_SIZE = 32
MAX_VECTORS = 500  # for figures of the latents: a singular value decomposition in a fraction of a second


def held_out_figures(
    model: PreTrainedModel, dataset: datasets.Dataset, max_rows: int | None, seed: int = 0
) -> dict[str, Any]:
    """Figures of pairs that were not trained on; uses no random state and keeps the model's mode.

    Args:
        dataset: columns `input_ids`, `labels` and `row_id`.
        max_rows: pairs to score, the same for a given seed; None for all.

    Returns:
        `perplexity` and greedy `accuracy` per reply token, the end token included; `latent_usage_ratio`, the
        perplexity with each pair's latents taken from another pair, over the true one; `hits_at_1` and `mrr` of the
        true reply among 20; `effective_rank`, `target_effective_rank` and `mean_pairwise_cosine` of predicted and
        target latents; `unigram_perplexity` of the model's training counts.
    """
    rows = dataset[choose_rows(np.asarray(dataset["row_id"]), max_rows, seed).tolist()]
    pairs = [
        (np.asarray(ids), np.asarray(labels)) for ids, labels in zip(rows["input_ids"], rows["labels"], strict=True)
    ]
    with evaluating(model):
        sums, predicted, target = _read(model, pairs)
    nll, correct, swapped, count = sums.tolist()
    return {
        "perplexity": _exp(nll / count),
        "hits_at_1": None,
        "mrr": None,
        **_retrieval(model, predicted, target, [labels for _, labels in pairs], seed),
        "latent_usage_ratio": _exp((swapped - nll) / count) if len(pairs) > 1 else None,
        "accuracy": correct / count,
        "effective_rank": effective_rank(_vectors(predicted)),
        "target_effective_rank": effective_rank(_vectors(target)),
        "mean_pairwise_cosine": mean_pairwise_cosine(_vectors(predicted)) if len(_vectors(predicted)) > 1 else None,
        "unigram_perplexity": _unigram_perplexity(model.token_counts, [labels for _, labels in pairs]),
    }


def _read(model: PreTrainedModel, pairs: list[tuple[np.ndarray, np.ndarray]]) -> tuple[Tensor, Tensor, Tensor]:
    """Sums (nll, correct, nll with swapped latents, tokens) over all pairs, and both kinds of latents, (N, S, H)."""
    sums = torch.zeros(4, dtype=torch.float64)
    predicted, target = [torch.zeros(0)] * len(pairs), [torch.zeros(0)] * len(pairs)
    for batch, inputs in _batches(model, pairs):
        output = model(**inputs)
        parts = output.loss_parts
        sums[:2] += torch.stack((parts["reply"][0], parts["accuracy"][0])).double().cpu()
        sums[3] += parts["reply"][1].double().cpu()
        for place, index in enumerate(batch):
            predicted[index], target[index] = output.predicted_latents[place].cpu(), output.target_latents[place].cpu()
    others = torch.stack(predicted).roll(len(pairs) // 2, dims=0)  # far away: neighbours are of one dialogue
    for batch, inputs in _batches(model, pairs):
        sums[2] += _nll_with(model, inputs, others[torch.as_tensor(batch)]).double().cpu()
    return sums, torch.stack(predicted), torch.stack(target)


def _nll_with(model: PreTrainedModel, inputs: dict[str, Tensor], latents: Tensor) -> Tensor:
    """Sum over the reply's tokens, in nats, with these latents `(B, S, H)` in place of the predicted ones."""
    read = model.model(inputs["input_ids"], inputs["attention_mask"])
    read.predicted_latents = latents.to(read.predicted_latents)
    return model(**inputs, encoder_outputs=read).loss_parts["reply"][0]


def _batches(
    model: PreTrainedModel, pairs: list[tuple[np.ndarray, np.ndarray]]
) -> Iterator[tuple[np.ndarray, dict[str, Tensor]]]:
    """Indices, and what the model takes, of pairs of similar length."""
    collate = PairCollator(model.config.pad_token_id)
    lengths = [len(ids) for ids, _ in pairs]
    for batch in batches_by_length(lengths, model, BATCH_SIZE, max(len(labels) for _, labels in pairs)):
        rows = [{"input_ids": pairs[i][0], "labels": pairs[i][1], "row_id": 0, "pass_index": 0} for i in batch]
        stacked = collate(rows)
        yield batch, {name: stacked[name].to(model.device) for name in ("input_ids", "attention_mask", "labels")}


def _retrieval(
    model: PreTrainedModel, predicted: Tensor, target: Tensor, labels: list[np.ndarray], seed: int
) -> dict[str, float]:
    """`hits_at_1` and `mrr` of each true reply among 19 others of other words, drawn by the seed; a tie is a miss."""
    texts = [tuple(reply.tolist()) for reply in labels]
    if len(set(texts)) < CANDIDATES:
        return {}
    generator = np.random.default_rng(seed)
    ranks = []
    for index, text in enumerate(texts):
        others = [int(i) for i in generator.permutation(len(texts)) if texts[i] != text]
        chosen = torch.tensor([index, *others[: CANDIDATES - 1]])
        cosines = model.latent_cosines(predicted[index : index + 1], target[chosen])[0]
        ranks.append(1 + int((cosines[1:] >= cosines[0]).sum()))
    found = np.array(ranks)
    return {"hits_at_1": float((found == 1).mean()), "mrr": float((1 / found).mean())}


def _vectors(latents: Tensor) -> Tensor:
    """`(N, S, H)` -> `(N, S * H)`: a pair is one vector, or latents that differ only from each other look rich."""
    return latents[:MAX_VECTORS].flatten(1).float()


def _unigram_perplexity(counts: Tensor, labels: list[np.ndarray]) -> float | None:
    """With one added to each count; None for a model that was never told them."""
    if not counts.any():
        return None
    logs = (counts.double().cpu() + 1).log() - (counts.double().cpu() + 1).sum().log()
    return _exp(-float(logs[torch.as_tensor(np.concatenate(labels)).long()].mean()))


def _exp(nats: float) -> float:
    return math.exp(min(nats, 700.0))
