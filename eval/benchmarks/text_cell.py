"""A cell of the text comparisons: train an arm, score it on the way, keep the rank of every test blank.

Unlike a run of `training/train.py` it writes no checkpoints and chooses no best one: what is compared is the model
after a number of steps.
"""

import hashlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel, set_seed

from eval.benchmarks.anchors.bert import BertAnchor, bert_config, sparse_scorer
from eval.benchmarks.bare_trainer import bare_trainer
from eval.benchmarks.exam import Examiner
from eval.benchmarks.text_arms import parse_run
from eval.scorers.text_jepa import BlankAnswers, Scores, score_rows
from training.data.prepared import Prepared
from training.families import load_family
from training.family import Family
from training.run.run import Run
from training.trainer.build import build_config, build_model, prepare_data
from training.trainer.trainer import full_precision


@dataclass(frozen=True)
class Exam:
    """What is scored when.

    Attributes:
        marks: steps at which `split` is scored and every rank kept; the last is the length of the run.
        split: `test`, or `valid` where something is chosen by the result.
        max_rows: rows of it, a seeded subset; None for all.
        eval_steps, eval_rows: how often, and on how many rows, the curve on `valid` is measured.
    """

    marks: tuple[int, ...]
    split: str = "test"
    max_rows: int | None = None
    eval_steps: int = 1000
    eval_rows: int = 500


def train_and_mark(settings: dict[str, Any], seed: int, folder: Path) -> dict[str, Any]:
    """Train and score one arm.

    `settings`: `recipe`, `overrides` (key -> value), `model` (`recipe` or `bert`), `exam` (fields of `Exam`), and
    by choice `keep`: a folder, to which `-seedN` is added, for the final weights and the tokenizer.

    Returns:
        `metrics` and `baselines` at the last mark, `marks` (step -> metrics), `ranks` (step -> rank of each blank),
        `clusters` (row of each blank), `blanks` (hash of what was asked), `curve` (valid; CPU seconds of training),
        `training_row`, `num_parameters`, `training_peak_memory_bytes`.
    """
    exam = Exam(**{**settings["exam"], "marks": tuple(settings["exam"]["marks"])})
    run = parse_run(settings["recipe"], settings["overrides"], seed, exam.marks[-1], folder / "run")
    family = load_family(run.family)
    prepared = prepare_data(run, family)
    model = _build(run, family, prepared, is_bert=settings["model"] == "bert")
    score, look = partial(_score, prepared, exam.split, exam.max_rows), partial(_look, exam, prepared)
    watch = Examiner(exam.marks, exam.eval_steps, score, look)
    trainer = bare_trainer(run, family, prepared, model, watch, build_config(run, family, prepared.tokenizer))
    trainer.train()
    if "keep" in settings:
        _keep(model, prepared, Path(f"{settings['keep']}-seed{seed}"))
    return {
        **_results(exam, watch),
        "training_row": next((row for row in reversed(trainer.state.log_history) if "loss" in row), None),
        "num_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
    }


def _results(exam: Exam, watch: Examiner) -> dict[str, Any]:
    """The examined part of the cell."""
    last = watch.scores[exam.marks[-1]]
    answers = last.answers
    return {
        "metrics": last.metrics,
        "baselines": last.baselines,
        "num_examples": last.num_examples,
        "split": exam.split,
        "marks": {str(step): scores.metrics for step, scores in watch.scores.items()},
        "ranks": {str(step): scores.answers.ranks.tolist() for step, scores in watch.scores.items()},
        "clusters": np.unique(answers.row_ids, return_inverse=True)[1].tolist(),
        "blanks": blanks_hash(answers),
        "curve": watch.curve,
        "training_cpu_seconds": watch.cpu_seconds,
        "training_peak_memory_bytes": watch.peak_memory_bytes,
    }


def _score(prepared: Prepared, split: str, max_rows: int | None, model: PreTrainedModel) -> Scores:
    rows = getattr(prepared, split)
    scorer = sparse_scorer(model) if isinstance(model, BertAnchor) else None
    with full_precision(model):
        return score_rows(model, prepared.tokenizer, rows, prepared.counts, max_rows=max_rows, scorer=scorer)


def _look(exam: Exam, prepared: Prepared, model: PreTrainedModel) -> dict[str, float]:
    """A point of the curve on valid."""
    metrics = _score(prepared, "valid", exam.eval_rows, model).metrics
    return {name: metrics[name] for name in ("top1", "mrr", "median_rank")}


def blanks_hash(answers: BlankAnswers) -> str:
    """Two arms can be paired where this is the same: row, position and true token of every blank."""
    asked = np.stack([answers.row_ids, answers.positions, answers.targets]).astype(np.int64)
    return hashlib.sha256(asked.tobytes()).hexdigest()


def _build(run: Run, family: Family, prepared: Prepared, is_bert: bool) -> PreTrainedModel:
    config = build_config(run, family, prepared.tokenizer)
    if not is_bert:
        return build_model(run, family, config, prepared)
    set_seed(run.training.seed)
    return BertAnchor(bert_config(config))


def _keep(model: PreTrainedModel, prepared: Prepared, folder: Path) -> None:
    model.save_pretrained(folder)
    prepared.tokenizer.save_pretrained(folder)
