"""A cell of the text comparisons: train an arm, score it on the way, keep the rank of every test blank.

Unlike a run of `training/train.py` it writes no checkpoints and chooses no best one: what is compared is the model
after a number of steps.
"""

import hashlib
import resource
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments, set_seed
from transformers.trainer_utils import SaveStrategy

from eval.benchmarks.bert_anchor import BertAnchor, bert_config, sparse_scorer
from eval.benchmarks.text_arms import parse_run
from eval.scorers.text_jepa import BlankAnswers, Scores, score_rows
from training.arguments import Run
from training.build import build_config, build_model, build_parts, prepare_data, training_arguments
from training.callbacks import TeacherUpdate
from training.data.prepared import Prepared
from training.families import Family, load_family
from training.run_state import RunState
from training.trainer import JepaTrainer, full_precision


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
    watch = Examiner(exam, prepared)
    trainer = _trainer(run, family, prepared, model, watch)
    trainer.train()
    if "keep" in settings:
        _keep(model, prepared, Path(f"{settings['keep']}-seed{seed}"))
    return {
        **watch.result(),
        "training_row": next((row for row in reversed(trainer.state.log_history) if "loss" in row), None),
        "num_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
    }


@dataclass
class Examiner(TrainerCallback):
    """Scores at the marks and along the curve, and counts the CPU seconds of what lies between."""

    exam: Exam
    prepared: Prepared
    cpu_seconds: float = 0.0
    peak_memory_bytes: int | None = None
    curve: list[dict[str, float]] = field(default_factory=list)
    scores: dict[int, Scores] = field(default_factory=dict)
    _started: float = 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """The clock starts."""
        self._started = time.process_time()

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: PreTrainedModel | None = None,
        **kwargs: Any,
    ) -> None:
        """Score what is due, with the clock stopped."""
        step, last = state.global_step, self.exam.marks[-1]
        is_mark, is_curve = step in self.exam.marks, step % self.exam.eval_steps == 0 or step == last
        if not (is_mark or is_curve):
            return
        self.cpu_seconds += time.process_time() - self._started
        if self.peak_memory_bytes is None:  # of training alone: nothing was scored yet
            self.peak_memory_bytes = _peak_memory()
        if is_curve:
            figures = self._score(model, "valid", self.exam.eval_rows).metrics
            self.curve.append({"step": step, "cpu_seconds": self.cpu_seconds, **_headline(figures)})
        if is_mark:
            self.scores[step] = self._score(model, self.exam.split, self.exam.max_rows)
        self._started = time.process_time()

    def result(self) -> dict[str, Any]:
        """The examined part of the cell."""
        last = self.scores[self.exam.marks[-1]]
        answers = last.answers
        return {
            "metrics": last.metrics,
            "baselines": last.baselines,
            "num_examples": last.num_examples,
            "split": self.exam.split,
            "marks": {str(step): scores.metrics for step, scores in self.scores.items()},
            "ranks": {str(step): scores.answers.ranks.tolist() for step, scores in self.scores.items()},
            "clusters": np.unique(answers.row_ids, return_inverse=True)[1].tolist(),
            "blanks": blanks_hash(answers),
            "curve": self.curve,
            "training_cpu_seconds": self.cpu_seconds,
            "training_peak_memory_bytes": self.peak_memory_bytes,
        }

    def _score(self, model: PreTrainedModel, split: str, max_rows: int | None) -> Scores:
        rows = getattr(self.prepared, split)
        scorer = sparse_scorer(model) if isinstance(model, BertAnchor) else None
        counts = self.prepared.counts
        with full_precision(model):
            return score_rows(model, self.prepared.tokenizer, rows, counts, max_rows=max_rows, scorer=scorer)


def blanks_hash(answers: BlankAnswers) -> str:
    """Two arms can be paired where this is the same: row, position and true token of every blank."""
    asked = np.stack([answers.row_ids, answers.positions, answers.targets]).astype(np.int64)
    return hashlib.sha256(asked.tobytes()).hexdigest()


def _build(run: Run, family: Family, prepared: Prepared, is_bert: bool) -> PreTrainedModel:
    config = build_config(run, family, prepared.tokenizer)
    if not is_bert:
        return build_model(run, family, config, prepared.counts)
    set_seed(run.training.seed)
    return BertAnchor(bert_config(config))


def _trainer(run: Run, family: Family, prepared: Prepared, model: PreTrainedModel, watch: Examiner) -> JepaTrainer:
    """The trainer of every run, without what chooses and saves checkpoints."""
    arguments = training_arguments(run)
    arguments.save_strategy, arguments.eval_on_start = SaveStrategy.NO, False
    loss = build_config(run, family, prepared.tokenizer)  # BERT's own configuration has none
    parts = build_parts(run, family, prepared, loss, arguments, score=lambda model: {})
    state = RunState()
    follow = [] if isinstance(model, BertAnchor) else [TeacherUpdate(state)]
    return JepaTrainer(model, arguments, prepared.tokenizer, parts, state, [*follow, watch])


def _headline(metrics: dict[str, Any]) -> dict[str, float]:
    return {name: metrics[name] for name in ("top1", "mrr", "median_rank")}


def _keep(model: PreTrainedModel, prepared: Prepared, folder: Path) -> None:
    model.save_pretrained(folder)
    prepared.tokenizer.save_pretrained(folder)


def _peak_memory() -> int:
    """Bytes this process has held at most; Linux counts in KiB, macOS in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
