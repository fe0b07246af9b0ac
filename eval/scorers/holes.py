"""Held-out blanks of prepared rows, and one model call that scores a batch of them.

A blank is one position of one row, replaced by the mask token while everything else stays as it is.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import datasets
import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from modeling_jepa.counter_random import counter_hash
from training.common.errors import InputError
from training.data.text_jepa.masking import heldout_holes

ROWS_AT_A_TIME = 1000
DENSE_LOGITS_AT_A_TIME = 2**25  # 128 MiB of float32 for models that always give (batch, sequence, vocabulary)


@dataclass(frozen=True)
class Holes:
    """Held-out blanks of a data set, one entry each: all arrays have shape (blanks,) and type int64."""

    rows: np.ndarray  # index of the row in the data set
    row_ids: np.ndarray
    positions: np.ndarray
    targets: np.ndarray  # true token ids
    lengths: np.ndarray  # tokens in the row

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class HoleBatch:
    """Rows with one blank each: input_ids and attention_mask (blanks, T), positions and targets (blanks,)."""

    indices: np.ndarray  # where these blanks stand in `Holes`
    input_ids: Tensor
    attention_mask: Tensor
    positions: Tensor
    targets: Tensor


@dataclass(frozen=True)
class HoleScores:
    """What a model says at blanks.

    Attributes:
        logits: (blanks, V) float32.
        vectors: (blanks, width), the encoder's output there.
        cosines: (blanks,) cosine of the prediction with the true token's direction, or None.
        cosine_spread: (blanks,) standard deviation of its cosines with all tokens, or None.
    """

    logits: Tensor
    vectors: Tensor
    cosines: Tensor | None = None
    cosine_spread: Tensor | None = None


Scorer = Callable[[HoleBatch], HoleScores]


def choose_rows(row_ids: np.ndarray, max_rows: int | None, seed: int) -> np.ndarray:
    """Indices of the rows to score, ascending: all, or the `max_rows` with the smallest hash of (seed, row_id)."""
    if max_rows is not None and max_rows < 1:
        raise InputError(f"max_rows must be at least 1 (or left out for all rows), was given {max_rows}")
    if max_rows is None or len(row_ids) <= max_rows:
        return np.arange(len(row_ids))
    hashes = counter_hash(seed, torch.as_tensor(np.array(row_ids, dtype=np.int64))).numpy()
    return np.sort(np.argsort(hashes, kind="stable")[:max_rows])


def collect_holes(
    dataset: datasets.Dataset, rows: np.ndarray, tokenizer: PreTrainedTokenizerBase, max_holes: int
) -> Holes:
    """The held-out blanks of the chosen rows: up to `max_holes` a row by its row_id, never special or unknown."""
    special = np.array(sorted(tokenizer.all_special_ids), dtype=np.int64)
    found: list[tuple[int, int, int, int, int]] = []
    for start in range(0, len(rows), ROWS_AT_A_TIME):
        chunk = rows[start : start + ROWS_AT_A_TIME]
        block = dataset[chunk.tolist()]
        for row, row_id, ids in zip(chunk.tolist(), block["row_id"], block["input_ids"], strict=True):
            tokens = np.asarray(ids, dtype=np.int64)
            maskable = ~np.isin(tokens, special)
            for position in heldout_holes(tokens, int(row_id), maskable, max_holes):
                found.append((row, int(row_id), int(position), int(tokens[position]), len(tokens)))
    columns = np.array(found, dtype=np.int64).reshape(-1, 5)
    return Holes(*columns.T)


def hole_batches(
    dataset: datasets.Dataset, holes: Holes, tokenizer: PreTrainedTokenizerBase, batch_size: int, device: torch.device
) -> Iterator[HoleBatch]:
    """Every blank once, in batches of rows of similar length (so that little is spent on padding)."""
    order = np.argsort(holes.lengths, kind="stable")
    for start in range(0, len(order), batch_size):
        indices = order[start : start + batch_size]
        rows = dataset[holes.rows[indices].tolist()]["input_ids"]
        length = int(holes.lengths[indices].max())
        input_ids = torch.full((len(indices), length), tokenizer.pad_token_id, dtype=torch.long)
        attention_mask = torch.zeros(len(indices), length, dtype=torch.long)
        for line, row in enumerate(rows):
            input_ids[line, : len(row)] = torch.as_tensor(row)
            attention_mask[line, : len(row)] = 1
        positions = torch.as_tensor(holes.positions[indices])
        input_ids[torch.arange(len(indices)), positions] = tokenizer.mask_token_id
        yield HoleBatch(
            indices,
            input_ids.to(device),
            attention_mask.to(device),
            positions.to(device),
            torch.as_tensor(holes.targets[indices]).to(device),
        )


def make_scorer(model: PreTrainedModel) -> Scorer:
    """How to ask this model: our latent text model through its sparse head, any other masked LM through its logits."""
    if model.config.model_type == "text_jepa":
        return _latent_scorer(model)
    return _dense_scorer(model)


def _latent_scorer(model: PreTrainedModel) -> Scorer:
    """Sparse logits at the blanks, and the cosines of the prediction with the tokens' directions."""
    directions = model.table_directions().float()

    def scorer(batch: HoleBatch) -> HoleScores:
        labels = torch.full_like(batch.input_ids, -100)
        lines = torch.arange(len(batch.positions), device=labels.device)
        labels[lines, batch.positions] = batch.targets
        output = model(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            labels=labels,
            with_row_logits=False,
            output_hidden_states=True,
        )
        predictions = torch.nn.functional.normalize(output.predictions.float(), dim=-1)
        cosines = predictions @ directions.T
        return HoleScores(
            output.logits.float(),
            output.hidden_states[-1][lines, batch.positions],
            cosines[lines, batch.targets],
            cosines.std(dim=-1),
        )

    return scorer


def _dense_scorer(model: PreTrainedModel) -> Scorer:
    """Logits of a stock masked LM, (blanks, T, V) for a few blanks at a time, read at the blanks."""

    def scorer(batch: HoleBatch) -> HoleScores:
        per_blank = batch.input_ids.shape[1] * model.config.vocab_size
        step = max(1, DENSE_LOGITS_AT_A_TIME // per_blank)
        logits, vectors = [], []
        for start in range(0, len(batch.positions), step):
            part = slice(start, start + step)
            output = model(
                input_ids=batch.input_ids[part], attention_mask=batch.attention_mask[part], output_hidden_states=True
            )
            lines = torch.arange(len(output.logits), device=output.logits.device)
            logits.append(output.logits[lines, batch.positions[part]].float())
            vectors.append(output.hidden_states[-1][lines, batch.positions[part]])
        return HoleScores(torch.cat(logits), torch.cat(vectors))

    return scorer
