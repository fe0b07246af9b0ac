"""The true reply among others: which others, and the rank that a model or a guesser gives it."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from modeling_jepa.counter_random import counter_uniform
from training.data.dialogue_jepa.dialogues import normalised

CANDIDATES = 20
_PAIRS_AT_ONCE = 512


def draw_distractors(replies: Sequence[str], row_ids: np.ndarray, seed: int = 0) -> np.ndarray | None:
    """Pairs whose replies stand beside each pair's own: `(pairs, 19)` indices, or None without 20 different replies.

    All of different words (case and punctuation apart), drawn evenly and without repetition by (seed, row_id), so
    that they are the same in any order of the same pairs.
    """
    firsts: dict[str, int] = {}
    for index, text in enumerate(replies):
        firsts.setdefault(_words(text), index)
    if len(firsts) < CANDIDATES:
        return None
    # In an order that is the texts' own, so that the order of the pairs does not matter.
    keys = sorted(firsts)
    place = {key: number for number, key in enumerate(keys)}
    pool = np.array([firsts[key] for key in keys])
    drawn = np.empty((len(replies), CANDIDATES - 1), dtype=np.int64)
    for index, (text, row_id) in enumerate(zip(replies, row_ids, strict=True)):
        generator = np.random.default_rng([seed, int(row_id) % 2**63])
        others = generator.choice(len(pool) - 1, CANDIDATES - 1, replace=False)
        drawn[index] = pool[others + (others >= place[_words(text)])]
    return drawn


def ranks_by_latents(predicted: Tensor, targets: Tensor, distractors: np.ndarray) -> np.ndarray:
    """Ranks 1..20 of the true replies by the cosine, mean over the latents; ties count against the model.

    Args:
        predicted, targets: `(pairs, S, H)`, of the same pairs.
        distractors: `(pairs, 19)`, see `draw_distractors`.
    """
    ranks = np.empty(len(predicted), dtype=np.int64)
    given, true = (
        torch.nn.functional.normalize(latents.float(), dim=-1).flatten(1) for latents in (predicted, targets)
    )
    for start in range(0, len(ranks), _PAIRS_AT_ONCE):
        rows = slice(start, start + _PAIRS_AT_ONCE)
        own = (given[rows] * true[rows]).sum(-1)
        others = torch.einsum("pd,pcd->pc", given[rows], true[torch.as_tensor(distractors[rows])])
        ranks[rows] = 1 + (others >= own[:, None]).sum(-1).numpy()
    return ranks


def ranks_by_score(
    score: Callable[[int, Sequence[int]], np.ndarray], distractors: np.ndarray, row_ids: np.ndarray, seed: int = 0
) -> np.ndarray:
    """Ranks 1..20 by a guesser's scores; among equals a place is drawn, as a guesser without a word to go by would.

    Args:
        score: (pair, indices of pairs) -> their replies' scores as answers to that pair's context.
    """
    chance = counter_uniform(seed, torch.as_tensor(np.asarray(row_ids, dtype=np.int64))).numpy()
    ranks = np.empty(len(distractors), dtype=np.int64)
    for pair, others in enumerate(distractors):
        own, *theirs = score(pair, [pair, *others])
        equal = np.equal(theirs, own).sum()
        ranks[pair] = 1 + np.greater(theirs, own).sum() + int(chance[pair] * (equal + 1))
    return ranks


def derangement(count: int, seed: int = 0) -> np.ndarray:
    """(count,) for each pair another one, each once: the next one in a drawn circle of all.

    Raises:
        ValueError: fewer than two.
    """
    if count < 2:
        raise ValueError(f"a derangement needs at least 2 pairs, was given {count}")
    circle = np.random.default_rng(seed).permutation(count)
    other = np.empty(count, dtype=np.int64)
    other[circle] = np.roll(circle, -1)
    return other


def _words(text: str) -> str:
    """What two replies must differ in; marks alone are compared as they are."""
    return normalised(text) or text
