"""Candidates that all holes of an optimizer step are ranked among: their answers, and tokens drawn by frequency.

They are a function of the step's rows, the seed and the step's number: the same for any cut into batches, any number
of processes, and after any resume.
"""

from collections.abc import Callable

import numpy as np
import torch

from modeling_jepa.counter_random import counter_uniform
from modeling_jepa.losses import proposal_probabilities
from training.common.errors import InputError
from training.data.collators import IGNORED
from training.data.tokenization import TokenIds

_CANDIDATE = 6  # beside the keys of the masks


class SharedCandidates:
    """Finds the candidates of a step.

    Args:
        tokens: the vocabulary; special tokens are never candidates.
        token_counts: (vocabulary,) of the training part.
        number: tokens drawn by the shares of `proposal_probabilities`, with replacement.
        until: share of the steps after which there are none, and the whole vocabulary is ranked.
        seed: of the run.

    Raises:
        InputError: no counts.
    """

    def __init__(
        self, tokens: TokenIds, token_counts: np.ndarray | None, number: int, until: float, seed: int
    ) -> None:
        if token_counts is None or len(token_counts) != tokens.vocab_size:
            raise InputError("ranking: shared needs the training part's token counts, one for each token")
        counts = torch.as_tensor(token_counts)
        ordinary = torch.ones(tokens.vocab_size, dtype=torch.bool)
        ordinary[list(tokens.special_ids)] = False
        self.number, self.until, self.seed = number, until, seed
        self._drawn = _shares(proposal_probabilities(counts), ordinary)
        self._answers = _shares(counts, ordinary)
        self._cumulative = self._drawn.cumsum(0)

    def __call__(
        self,
        batches: list[dict[str, torch.Tensor]],
        step: int,
        progress: float,
        over_processes: Callable[[torch.Tensor], torch.Tensor],
    ) -> dict[str, torch.Tensor]:
        """`candidate_ids` (C,), ascending, and `candidate_log_chances` (C,), float32; nothing in the last steps.

        Args:
            batches: masked, those of one step in this process.
            step: number of steps done.
            progress: share of the steps done.
            over_processes: the sum of a tensor over all processes.

        Raises:
            InputError: a step with a single hole.
        """
        if progress >= self.until:
            return {}
        device = batches[0]["labels"].device
        answers = torch.cat([batch["labels"].flatten() for batch in batches])
        found = torch.bincount(answers[answers != IGNORED], minlength=len(self._drawn))
        found = over_processes(found).cpu()
        holes = int(found.sum())
        if holes < 2:
            raise InputError(
                "ranking: shared needs more than one hole in a step, for they are ranked among each other's answers; "
                "use a larger per_device_train_batch_size, masking: rate, or ranking: full"
            )
        points = counter_uniform(self.seed, _CANDIDATE, step, torch.arange(self.number))
        drawn = torch.searchsorted(self._cumulative, points * self._cumulative[-1], right=True)
        found[drawn.clamp_max(len(found) - 1)] += 1
        candidates = found.nonzero().flatten()
        # Neither drawn nor the answer of one of the holes: the chance of not being a candidate.
        absent = self.number * torch.log1p(-self._drawn[candidates])
        absent = absent + holes * torch.log1p(-self._answers[candidates])
        log_chances = torch.log(-torch.expm1(absent)).float()
        return {"candidate_ids": candidates.to(device), "candidate_log_chances": log_chances.to(device)}


def _shares(weights: torch.Tensor, ordinary: torch.Tensor) -> torch.Tensor:
    """Shares of the ordinary tokens, float64 (V,); special ones have none."""
    weights = weights.double() * ordinary
    return weights / weights.sum().clamp_min(1e-12)
