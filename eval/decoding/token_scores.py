"""What a causal language model says about given tokens: -ln p of each and its own first guess, a batch at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from training.common.errors import NonFiniteError

STAGED_GENERATOR = "staged_generator"  # our own family, of which more is known than of stock models
LOGITS_AT_A_TIME = 2**26  # 256 MiB of float32; a model gives (rows, T, V) at once
TOKENS_AT_A_TIME = 4096  # more at once is no faster, and a routed model gathers some sixty neighbours of each


@dataclass(frozen=True)
class Rows:
    """Rows of tokens, padded on the right: arrays (rows, T) of int64; `targets[:, j]` is to be said after input j."""

    input_ids: np.ndarray
    attention_mask: np.ndarray
    targets: np.ndarray
    position_ids: np.ndarray | None = None


def rows_at_a_time(model: PreTrainedModel, length: int, batch_size: int) -> int:
    """How many rows of `length` tokens one forward pass takes, at most `batch_size`: memory is bounded."""
    by_logits = LOGITS_AT_A_TIME // (length * model.config.vocab_size)
    return max(1, min(batch_size, by_logits, TOKENS_AT_A_TIME // length))


def pad_rows(rows: list[np.ndarray], fill: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Token ids and attention mask (rows, T) of rows of unlike length, padded on the right."""
    length = max(map(len, rows))
    ids = np.full((len(rows), length), fill, dtype=np.int64)
    mask = np.zeros((len(rows), length), dtype=np.int64)
    for line, row in enumerate(rows):
        ids[line, : len(row)] = row
        mask[line, : len(row)] = 1
    return ids, mask


def token_scores(model: PreTrainedModel, rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    """-ln p(target) in nats (rows, T) float64, and the token scored highest (rows, T) int64.

    Softmax and logarithm are taken in float32 whatever the model's own precision. Of padded places nothing is meant.

    Raises:
        NonFiniteError: a NaN or plus infinity among the scores, or a true token ruled out (p = 0).
    """
    inputs = {"input_ids": rows.input_ids, "attention_mask": rows.attention_mask}
    if rows.position_ids is not None:
        inputs["position_ids"] = rows.position_ids
    tensors = {name: torch.as_tensor(value, device=model.device) for name, value in inputs.items()}
    logits = model(**tensors, use_cache=False).logits
    targets = torch.as_tensor(rows.targets, device=logits.device)
    kept = tensors["attention_mask"].to(logits.device).bool()
    pairs = [_row_scores(*row) for row in zip(logits, targets, kept, strict=True)]
    nll, guesses = (torch.stack(part).cpu().numpy() for part in zip(*pairs, strict=True))
    return nll.astype(np.float64), guesses


@contextmanager
def evaluating(model: PreTrainedModel) -> Iterator[None]:
    """Eval mode and no gradients inside, the mode it was in before afterwards."""
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(was_training)


def _row_scores(logits: Tensor, targets: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """(T,) nll and guesses of one row: a row at a time, because a float32 copy of all logits would double them."""
    logits = logits.float()
    nll = torch.logsumexp(logits, dim=-1) - logits.gather(-1, targets[:, None]).squeeze(-1)
    if not torch.isfinite(nll[kept]).all():
        raise NonFiniteError(
            "the model scores NaN or infinity, or rules the true token out: its weights are broken, use an earlier "
            "checkpoint"
        )
    return nll, logits.argmax(dim=-1)
