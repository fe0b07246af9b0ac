"""A causal checkpoint's figures on the documents of a source, beside guessers fitted on its training part."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from eval.loading import open_model, open_tokenizer
from eval.ngrams import Bigram, NextTokenGuesser, Unigram
from eval.scorers.causal import CausalScores, ScoringPlan, affordable_tokens, score_documents
from eval.scorers.token_scores import STAGED_GENERATOR
from training.data.documents import load_documents
from training.data.errors import InputError
from training.data.framing import encode_documents
from training.data.rows import RowReport
from training.data.settings import GeneratorDataSettings

AFFORDABLE = "auto"
MAX_FITTED_TOKENS = 5_000_000  # of a bigram: about 200 MB while it is counted

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CausalRequest:
    """How a causal checkpoint is scored: see `ScoringPlan`.

    `max_tokens` "auto" is what two cores score in some seven minutes, None everything.
    """

    checkpoint: str
    context: int | None
    stride: int | None
    batch_size: int
    max_documents: int | None
    max_tokens: int | str | None
    seed: int
    device: str | None
    progress: bool

    def plan(self, model: PreTrainedModel) -> ScoringPlan:
        """The plan for this model; raises InputError for a bound that makes no sense."""
        max_tokens = self.max_tokens
        if isinstance(max_tokens, str) and max_tokens != AFFORDABLE:
            raise InputError(f"max_tokens: got {max_tokens!r}; use a number, `all` or `{AFFORDABLE}`")
        if isinstance(max_tokens, int) and max_tokens < 1:
            raise InputError(f"max_tokens must be at least 1, was given {max_tokens}")
        plan = ScoringPlan(self.context, self.stride, self.batch_size, self.max_documents, seed=self.seed)
        bound = affordable_tokens(model, plan) if max_tokens == AFFORDABLE else max_tokens
        return replace(plan, max_tokens=bound)


def score_causal_checkpoint(
    request: CausalRequest, settings: GeneratorDataSettings, split: str, trained_on: GeneratorDataSettings | None
) -> tuple[CausalScores, RowReport, dict[str, Any]]:
    """Figures, what became of the rows, and how it was scored (`scoring` of the Score JSON).

    Args:
        settings: of the source to score on; its documents are taken verbatim.
        trained_on: of the run that made the checkpoint, where it is known.

    Raises:
        InputError: bad checkpoint, source or setting. NonFiniteError: the model scores NaN.
    """
    model = open_model(request.checkpoint, AutoModelForCausalLM, request.device).float()
    tokenizer = open_tokenizer(request.checkpoint)
    plan = request.plan(model)
    context, stride = plan.lengths(model)
    documents = load_documents(settings, split)
    guessers = fit_guessers(model, tokenizer, trained_on)
    scores = score_documents(model, tokenizer, documents.texts, plan, guessers=guessers, progress=request.progress)
    how = {"context": context, "stride": stride, "documents": settings.documents, "max_tokens": plan.max_tokens}
    return scores, documents.report, {"scoring": how}


def fit_guessers(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, trained_on: GeneratorDataSettings | None
) -> dict[str, NextTokenGuesser | None]:
    """Unigram and bigram of the training part: at most `MAX_FITTED_TOKENS` of it for the bigram.

    None for what cannot be fitted: the unigram where neither the model holds its counts nor its text can be read, the
    bigram where the text cannot be read.
    """
    vocab_size = model.config.vocab_size
    ids = list(_training_ids(tokenizer, trained_on))
    counts = np.bincount(np.concatenate([one[1:] for one in ids]), minlength=vocab_size) if ids else None
    if model.config.model_type == STAGED_GENERATOR and model.token_counts.any():
        counts = model.token_counts.cpu().numpy()
    return {
        "unigram": None if counts is None else Unigram(counts),
        "bigram": Bigram.fit(ids, vocab_size) if ids else None,
    }


def _training_ids(
    tokenizer: PreTrainedTokenizerBase, trained_on: GeneratorDataSettings | None
) -> Iterator[np.ndarray]:
    if trained_on is None:
        return
    try:
        texts = load_documents(trained_on, "train").texts
    except InputError as error:  # a checkpoint is often scored where its training text is not
        logger.warning("no bigram baseline: the training part cannot be read (%s)", error)
        return
    left = MAX_FITTED_TOKENS
    for ids in encode_documents(texts, tokenizer):
        yield ids[: left + 1]
        left -= len(ids)
        if left <= 0:
            return
