"""Held-out figures of a classifier of texts, beside a guesser that knows how often each label stands in those rows.

scores = score_labelled(model, tokenizer, rows, references, max_rows=None)
scores.metrics["accuracy"], scores.baselines["most_frequent"]["accuracy"]
"""

from typing import Any

import datasets
import numpy as np
from transformers import AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase

from eval.decoding.token_scores import evaluating
from eval.loading import open_model, open_tokenizer
from eval.metrics.classification import Classification
from eval.metrics.of_arrays import figures_of
from eval.scorers.holes import choose_rows
from eval.scorers.request import BATCH_SIZE, ScoreRequest, Scores
from training.common.errors import InputError, NonFiniteError
from training.data.settings import LabelledDataSettings
from training.data.sources.rows import RowReport
from training.data.text_classifier.labels import NUMBER, SEVERAL, LabelScheme
from training.data.text_classifier.rows import LABELS, LabelledPreparation, with_numbers
from training.data.unknown import check_unknown, unknown_share


def score_labelled(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: datasets.Dataset,
    *,
    max_rows: int | None = None,
    batch_size: int = BATCH_SIZE,
    seed: int = 0,
) -> Scores:
    """Score a model on labelled rows. Uses no random state and leaves the model in the mode it was given in.

    Args:
        rows: as `with_numbers` gives them: `input_ids`, `row_id` and the labels as numbers.
        max_rows: rows to score, the same for a given seed; None for all.

    Raises:
        NonFiniteError: the model gives NaN.
    """
    chosen = choose_rows(np.asarray(rows["row_id"][:]), max_rows, seed)
    picked = rows.select(chosen)
    logits = _logits(model, tokenizer, picked["input_ids"][:], batch_size)
    kind, labels = model.config.problem_type, np.asarray(picked[LABELS][:])
    if kind == NUMBER:
        true, guess = labels[:, None], np.full((len(labels), 1), labels.mean())
    else:
        true = labels if kind == SEVERAL else np.eye(logits.shape[1])[labels]
        shares = true.mean(0).clip(1e-9, 1 - 1e-9)
        guess = np.broadcast_to(np.log(shares / (1 - shares) if kind == SEVERAL else shares), true.shape)
    metrics, guessed = (
        figures_of(Classification, predictions=found, references=true, problem_type=kind) for found in (logits, guess)
    )
    return Scores(metrics, {"most_frequent": guessed}, len(labels), len(labels))


def _logits(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: list[list[int]], batch_size: int
) -> np.ndarray:
    """`(rows, classes)`, float64; rows of like length share a batch."""
    order = np.argsort([len(row) for row in rows], kind="stable")
    found = np.zeros((len(rows), model.config.num_labels))
    with evaluating(model):
        for start in range(0, len(order), batch_size):
            places = order[start : start + batch_size]
            given = {"input_ids": [rows[place] for place in places]}
            batch = tokenizer.pad(given, return_tensors="pt").to(model.device)
            logits = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
            found[places] = logits.double().cpu().numpy()
    if not np.isfinite(found).all():
        raise NonFiniteError(
            "the model's logits are NaN or infinite: its weights are broken, use an earlier checkpoint"
        )
    return found


def score_request(request: ScoreRequest, settings: LabelledDataSettings, split: str) -> tuple[Scores, RowReport]:
    """A classifier's figures on the labelled rows of a source, and what became of those rows."""
    model = open_model(request.checkpoint, AutoModelForSequenceClassification, request.device)
    tokenizer = open_tokenizer(request.checkpoint)
    preparation = LabelledPreparation(settings, model.config.max_position_embeddings)
    loaded = preparation.load(split)
    encoded, counts = preparation.encode(loaded, split, tokenizer)
    unknown = unknown_share(counts)
    check_unknown(unknown, f"{settings.data} [{split}]", settings.allow_unknown)
    scheme = scheme_in(model.config, settings.label_column)
    scores = score_labelled(
        model,
        tokenizer,
        with_numbers(encoded, scheme, split),
        max_rows=request.rows(None),
        batch_size=request.batch_size,
        seed=request.seed,
    )
    for figures in (scores.metrics, *scores.baselines.values()):
        figures |= {"unknown_share": unknown}
    return scores, loaded.report


def scheme_in(config: Any, column: str) -> LabelScheme:
    """What a checkpoint's labels are. Raises InputError where it does not say."""
    if config.problem_type is None:
        raise InputError(f"{config._name_or_path} does not say what its labels are: problem_type is missing")
    names = tuple(str(config.id2label[place]) for place in range(config.num_labels))
    return LabelScheme(config.problem_type, (column,) if config.problem_type == NUMBER else names)
