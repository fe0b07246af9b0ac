"""A cell of the dialogue comparison: train an arm, score it at its end, keep what each test pair and dialogue gave.

Unlike a run of `training/train.py` it writes no checkpoints and chooses no best one: what is compared is the model
after a number of steps.
"""

import hashlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from transformers import PreTrainedModel

from eval.benchmarks.anchors.dialogue import ANCHORS
from eval.benchmarks.bare_trainer import bare_trainer
from eval.benchmarks.comparison import run_of_cell
from eval.benchmarks.exam import Examiner
from eval.scorers.dialogue import (
    GREEDY_REPLIES,
    DialogueScores,
    PairAnswers,
    answer_pairs,
    figures,
    latent_ranks,
    read_pairs,
    score_pairs,
)
from training.data.prepared import Prepared
from training.families import load_family
from training.trainer.build import build_config, build_model, prepare_data
from training.trainer.trainer import full_precision


@dataclass(frozen=True)
class Exam:
    """What is scored when.

    Attributes:
        marks: one step, the length of the run, after which `split` is scored; 0 of a model that is not trained.
        split: `test`; or `valid` where something is chosen by the result: then nothing but the curve is measured.
        max_rows: pairs of it, a seeded subset; None for all.
        eval_steps, eval_rows: how often, and on how many pairs, the curve on `valid` is measured.
        greedy_replies: contexts that are answered, for the variety of the replies.
    """

    marks: tuple[int, ...]
    split: str = "test"
    max_rows: int | None = None
    eval_steps: int = 600
    eval_rows: int = 300
    greedy_replies: int = GREEDY_REPLIES


def train_and_mark(settings: dict[str, Any], seed: int, folder: Path) -> dict[str, Any]:
    """Train and score one arm.

    `settings`: `recipe`, `overrides` (key -> value), `model` (of `ANCHORS`), `exam` (fields of `Exam`); with a mark of
    0 also `run_steps`, the length of the run that is not done.

    Returns:
        `metrics` (the last point of the curve on valid, or the test figures), `baselines`, `examples` (per pair, see
        `tables.difference`), `dialogues` (`nll`, `swapped_nll` and `tokens` of each dialogue's replies), `asked` (hash
        of what was asked), `curve` (valid; CPU seconds of training), `training_cpu_seconds`, `num_parameters`,
        `training_peak_memory_bytes`. Figures that mean nothing for an arm are None.
    """
    exam = Exam(**{**settings["exam"], "marks": tuple(settings["exam"]["marks"])})
    run = run_of_cell(settings, seed, folder / "run")
    family = load_family(run.family).with_model(ANCHORS[settings["model"]].model_class)
    prepared = prepare_data(run, family)
    model = build_model(run, family, build_config(run, family, prepared.tokenizer), prepared)
    known = ANCHORS[settings["model"]].figures
    watch = Examiner(
        exam.marks, exam.eval_steps, partial(_score, exam, prepared, known), partial(_look, exam, prepared, known)
    )
    if exam.marks[-1]:
        bare_trainer(run, family, prepared, model, watch).train()
    else:
        watch.look_at_start(model)
    return {
        **_results(exam, prepared, watch, known),
        "num_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad) if exam.marks[-1] else 0,
    }


def _score(exam: Exam, prepared: Prepared, known: tuple[str, ...], model: PreTrainedModel) -> DialogueScores | None:
    """All figures on the test part; nothing in a run that only chooses."""
    if exam.split != "test":
        return None
    greedy = exam.greedy_replies if "distinct_2" in known else 0
    with full_precision(model):
        return score_pairs(model, prepared.tokenizer, prepared.test, max_rows=exam.max_rows, greedy_replies=greedy)


def _look(exam: Exam, prepared: Prepared, known: tuple[str, ...], model: PreTrainedModel) -> dict[str, Any]:
    """A point of the curve on valid."""
    with full_precision(model):
        answers = answer_pairs(model, prepared.tokenizer, read_pairs(prepared.valid, exam.eval_rows))
    return _meaningful({**figures(answers), **latent_ranks(answers)}, known)


def _results(exam: Exam, prepared: Prepared, watch: Examiner, known: tuple[str, ...]) -> dict[str, Any]:
    """What was examined."""
    result = {
        "metrics": {name: watch.curve[-1][name] for name in known},
        "split": exam.split,
        "curve": watch.curve,
        "training_cpu_seconds": watch.cpu_seconds,
        "training_peak_memory_bytes": watch.peak_memory_bytes,
    }
    scores = watch.scores[exam.marks[-1]]
    if scores is None:
        return result
    dialogues = dialogue_numbers(prepared.test, scores.answers.row_ids)
    return {
        **result,
        "metrics": _meaningful(scores.metrics, known),
        "baselines": scores.baselines,
        "num_examples": scores.num_examples,
        "num_dialogues": scores.num_rows,
        "examples": _per_pair(scores.answers, dialogues, known),
        "dialogues": _per_dialogue(scores.answers, dialogues, known),
        "asked": asked_hash(prepared.test, exam.max_rows),
    }


def dialogue_numbers(dataset: datasets.Dataset, row_ids: np.ndarray) -> np.ndarray:
    """The number of each pair's dialogue, from 0, `(pairs,)`."""
    places = {row: place for place, row in enumerate(dataset["row_id"])}
    dialogues = np.asarray(dataset["dialogue_id"])[[places[row] for row in row_ids.tolist()]]
    return np.unique(dialogues, return_inverse=True)[1]


def asked_hash(dataset: datasets.Dataset, max_rows: int | None) -> str:
    """Two arms can be paired where this is the same: contexts and replies of all pairs, as token ids."""
    pairs = read_pairs(dataset, max_rows)
    digest = hashlib.sha256(pairs.row_ids.tobytes())
    for ids in (*pairs.contexts, *pairs.labels):
        digest.update(ids.tobytes() + b"\0")
    return digest.hexdigest()


def _per_pair(answers: PairAnswers, dialogues: np.ndarray, known: tuple[str, ...]) -> dict[str, list]:
    """`ids`, `clusters` (dialogues), hits (0 or 1) and `mrr` (1 / rank); without ranks where an arm has none."""
    found: dict[str, list] = {"ids": answers.row_ids.tolist(), "clusters": dialogues.tolist()}
    if answers.rank is None or "mrr" not in known:
        return found
    hits = {f"hits_at_{k}": (answers.rank <= k).astype(np.int64).tolist() for k in (1, 5)}
    return {**found, **hits, "mrr": (1.0 / answers.rank).tolist()}


def _per_dialogue(answers: PairAnswers, dialogues: np.ndarray, known: tuple[str, ...]) -> dict[str, list]:
    """Sums over the replies of each dialogue: tokens, and nats as far as the arm says replies."""
    given = {"tokens": answers.tokens}
    if "perplexity" in known:
        given["nll"] = answers.nll
    if "latent_usage_ratio" in known and answers.swapped_nll is not None:
        given["swapped_nll"] = answers.swapped_nll
    return {name: np.bincount(dialogues, weights=values).tolist() for name, values in given.items()}


def _meaningful(metrics: dict[str, float | None], known: tuple[str, ...]) -> dict[str, float | None]:
    return {name: value if name in known else None for name, value in metrics.items()}
