"""Whether a causal model sees what it is asked to predict."""

from collections.abc import Sequence

import numpy as np
import torch
from transformers import PreTrainedModel

from eval.decoding.token_scores import STAGED_GENERATOR, Rows, evaluating, rows_at_a_time, token_scores
from eval.metrics.attention_by_edge import AttentionByEdge
from eval.metrics.leak_gap import LeakGap
from eval.metrics.of_arrays import figures_of
from modeling_jepa.counter_random import counter_hash

NUM_TEXTS = 8
NUM_LENGTHS = 8


def leak_gap(
    model: PreTrainedModel,
    ids: Sequence[np.ndarray],
    context: int,
    num_texts: int = NUM_TEXTS,
    num_lengths: int = NUM_LENGTHS,
    seed: int = 0,
) -> dict[str, float | None]:
    """Teacher-forced against prefix-only: the same tokens, said with and without the rest of the text in the input.

    Teacher-forced, as in training and scoring, the model is given a whole text and -ln p of each token is read at the
    place before it. Prefix-only it is given the tokens before that one and nothing else, as in generation: texts of
    one length at a time, without padding. A causal model cannot tell the two apart.

    Args:
        ids: texts as token ids.
        context: tokens that the model sees at most.
        num_texts, num_lengths: prefixes of this many texts, of this many lengths each; chosen by `seed`.

    Returns:
        In nats per token over the sampled prefixes, None where no text has two predictions: `leak_gap`, the mean of
        (prefix-only nll - teacher-forced nll), about 0 for a causal model and large for one that leaks; and
        `leak_gap_largest`, the largest absolute difference at one token.
    """
    texts = _choose_texts(ids, context, num_texts, seed)
    if texts.shape[1] < 2:
        return {"leak_gap": None, "leak_gap_largest": None}
    lengths = _choose(texts.shape[1] - 1, num_lengths, seed) + 1
    with evaluating(model):
        forced = _nll(model, texts[:, :-1], texts[:, 1:])
        alone = [_nll(model, texts[:, :length], texts[:, 1 : length + 1])[:, -1] for length in lengths]
    seen_less, seen_all = np.stack(alone, axis=1).ravel(), forced[:, lengths - 1].ravel()
    return figures_of(LeakGap, predictions=seen_less, references=seen_all)


def _choose_texts(ids: Sequence[np.ndarray], context: int, number: int, seed: int) -> np.ndarray:
    """(texts, T) beginnings of one length: of texts that fill the context where there are enough of them."""
    by_length = sorted(range(len(ids)), key=lambda place: -min(len(ids[place]), context + 1))
    full = sum(len(row) > context for row in ids)
    pool = by_length[: max(full, min(number, len(by_length)))]
    chosen = [ids[pool[place]] for place in _choose(len(pool), number, seed)]
    length = min(context + 1, *(len(row) for row in chosen)) if chosen else 0
    return np.array([row[:length] for row in chosen], dtype=np.int64).reshape(len(chosen), length)


def _choose(size: int, number: int, seed: int) -> np.ndarray:
    """`number` of 0 .. size - 1, ascending, by a hash."""
    hashes = counter_hash(seed, torch.arange(size)).numpy()
    return np.sort(np.argsort(hashes, kind="stable")[:number])


def _nll(model: PreTrainedModel, inputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """(rows, T) -ln p of the targets."""
    step = rows_at_a_time(model, inputs.shape[1], len(inputs))
    parts = [slice(start, start + step) for start in range(0, len(inputs), step)]
    mask = np.ones_like(inputs)
    return np.concatenate([token_scores(model, Rows(inputs[p], mask[p], targets[p]))[0] for p in parts])


_ROUTED_STAGE = 3


_MAX_TEXTS = 8


def edge_mass(model: PreTrainedModel, ids: Sequence[np.ndarray], context: int) -> dict[str, float] | None:
    """Mean share of attention per kind of edge, summing to 1: `near`, the usual attention, and each kind of far edge.

    A far edge counts as much as its head's gate lets through; what goes to nobody does not count.

    Over all layers, heads and tokens of up to eight texts, each cut to the context. None for a model without routing.
    """
    if not is_routed(model):
        return None
    kinds = list(model.attention_kinds())
    mass = np.zeros(len(kinds))
    with evaluating(model):
        for text in sorted(ids, key=len, reverse=True)[
            :_MAX_TEXTS
        ]:  # one at a time: attentions of all layers are held
            mass += _columns(model, text[:context])
    return figures_of(AttentionByEdge, predictions=mass, references=kinds)["edge_mass"]


def is_routed(model: PreTrainedModel) -> bool:
    """Whether each token attends to a few others along a graph."""
    return model.config.model_type == STAGED_GENERATOR and model.config.stage == _ROUTED_STAGE


def _columns(model: PreTrainedModel, ids: np.ndarray) -> np.ndarray:
    """(K,) attention summed over layers, heads and tokens of one text."""
    input_ids = torch.as_tensor(ids, device=model.device)[None]
    output = model(
        input_ids=input_ids,
        attention_mask=torch.ones_like(input_ids),
        output_attentions=True,
        use_cache=False,
        logits_to_keep=1,
    )
    return sum(layer.double().sum(dim=(0, 1, 2)).cpu().numpy() for layer in output.attentions)
