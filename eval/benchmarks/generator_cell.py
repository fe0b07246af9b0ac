"""A cell of the generator's comparisons: train an arm, score it on the way, keep what each test document cost.

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

from eval.benchmarks.anchors.gpt2_and_llama import ANCHORS, OUR_DOCUMENTS, build_anchor
from eval.benchmarks.bare_trainer import bare_trainer
from eval.benchmarks.comparison import parse_run
from eval.benchmarks.exam import Examiner
from eval.scorers.causal import CausalScores, ScoringPlan, TokenAnswers, held_out_figures, score_documents
from training.data.prepared import Prepared
from training.data.sampling import PassSampler
from training.data.staged_generator.documents import load_documents
from training.families import load_family
from training.family import Family
from training.init_from.growing import measure_growth
from training.run.run import Run
from training.trainer.build import build_config, build_model, prepare_data
from training.trainer.trainer import JepaTrainer, full_precision

CURVE_FIGURES = ("perplexity", "word_perplexity", "bits_per_byte", "greedy_accuracy")


@dataclass(frozen=True)
class Exam:
    """What is scored when.

    Attributes:
        marks: steps at which the documents of `split` are scored; the last is the length of the run.
        split: `test`; or `valid` where something is chosen by the result: then nothing but the curve is measured.
        max_rows, max_tokens: bounds of a seeded subset of the documents; None for all.
        eval_steps, eval_rows: how often, and on how many packed blocks, the curve on `valid` is measured.
    """

    marks: tuple[int, ...]
    split: str = "test"
    max_rows: int | None = None
    max_tokens: int | None = None
    eval_steps: int = 250
    eval_rows: int = 256


def train_and_mark(settings: dict[str, Any], seed: int, folder: Path) -> dict[str, Any]:
    """Train and score one arm.

    `settings`: `recipe`, `overrides` (key -> value), `model` (`recipe`, `gpt2` or `llama`), `exam` (fields of `Exam`),
    and by choice `keep`: a folder, to which `-seedN` is added, for the final weights and the tokenizer.

    Returns:
        `metrics` (the last point of the curve on valid, or the test figures at the last mark), `marks` (step -> test
        metrics), `documents` (step -> nll of each document), `tokens` (of each document), `asked` (hash of what was
        asked), `curve` (valid; CPU seconds of training), `training_row`, `training_tokens`, `num_parameters`, `size`,
        `training_peak_memory_bytes`; and `growth`, where the run began from a checkpoint.
    """
    exam = Exam(**{**settings["exam"], "marks": tuple(settings["exam"]["marks"])})
    run = parse_run(settings["recipe"], settings["overrides"], seed, exam.marks[-1], folder / "run")
    family = load_family(run.family)
    prepared = prepare_data(run, family)
    model = _build(run, family, prepared, settings["model"])
    growth = {} if run.init_from is None else {"growth": measure_growth(run, family, prepared, model).to_dict()}
    watch = Examiner(exam.marks, exam.eval_steps, partial(_score, exam, prepared), partial(_look, exam, prepared))
    trainer = bare_trainer(run, family, prepared, model, watch)
    trainer.train()
    if "keep" in settings:
        _keep(model, prepared, Path(f"{settings['keep']}-seed{seed}"))
    return {
        **_results(exam, watch),
        **growth,
        "training_row": next((row for row in reversed(trainer.state.log_history) if "loss" in row), None),
        "training_tokens": _training_tokens(trainer, exam.marks[-1]),
        "num_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "size": _size(model, settings["model"]),
    }


def asked_hash(answers: TokenAnswers) -> str:
    """Two arms can be paired where this is the same: document and true token of every prediction."""
    asked = np.stack([answers.documents, answers.targets]).astype(np.int64)
    return hashlib.sha256(asked.tobytes()).hexdigest()


def _build(run: Run, family: Family, prepared: Prepared, name: str) -> PreTrainedModel:
    config = build_config(run, family, prepared.tokenizer)
    if name not in ANCHORS:
        return build_model(run, family, config, prepared)
    set_seed(run.training.seed)
    return build_anchor(name, config)


def _score(exam: Exam, prepared: Prepared, model: PreTrainedModel) -> CausalScores | None:
    """The verbatim documents, in windows of the training length; nothing in a run that only chooses."""
    if exam.split != "test":
        return None
    texts = load_documents(prepared.settings, exam.split).texts
    plan = ScoringPlan(prepared.max_length, max_documents=exam.max_rows, max_tokens=exam.max_tokens)
    with full_precision(model):
        return score_documents(model, prepared.tokenizer, texts, plan)


def _look(exam: Exam, prepared: Prepared, model: PreTrainedModel) -> dict[str, float]:
    with full_precision(model):
        figures = held_out_figures(model, prepared.tokenizer, prepared.valid, exam.eval_rows)
    return {name: figures[name] for name in CURVE_FIGURES}


def _results(exam: Exam, watch: Examiner) -> dict[str, Any]:
    """What was examined."""
    scores = {str(step): found for step, found in watch.scores.items() if found is not None}
    result: dict[str, Any] = {
        "metrics": {name: watch.curve[-1][name] for name in CURVE_FIGURES},
        "split": exam.split,
        "marks": {step: found.metrics for step, found in scores.items()},
        "curve": watch.curve,
        "training_cpu_seconds": watch.cpu_seconds,
        "training_peak_memory_bytes": watch.peak_memory_bytes,
    }
    if not scores:
        return result
    last = scores[str(exam.marks[-1])]
    costs = {step: _per_document(found.answers) for step, found in scores.items()}
    return {
        **result,
        "metrics": last.metrics,
        "num_examples": last.num_examples,
        "documents": {step: nll.tolist() for step, (nll, _) in costs.items()},
        "tokens": costs[str(exam.marks[-1])][1].tolist(),
        "asked": asked_hash(last.answers),
    }


def _per_document(answers: TokenAnswers) -> tuple[np.ndarray, np.ndarray]:
    """Total nll and number of predictions of each document, (documents,) both."""
    _, members = np.unique(answers.documents, return_inverse=True)
    return np.bincount(members, weights=answers.nll), np.bincount(members)


def _training_tokens(trainer: JepaTrainer, steps: int) -> int:
    """Tokens of all blocks that were learnt from."""
    lengths = trainer.parts.dataset.lengths
    order = PassSampler(len(lengths), trainer.args.seed, steps * trainer.rows_per_step)
    return int(sum(lengths[row] for row, _ in order))


def _size(model: PreTrainedModel, name: str) -> dict[str, Any]:
    """How an arm was made to its size, and how it keeps documents apart."""
    config = model.config.to_dict()
    names = {"gpt2": ("n_embd", "n_inner", "n_layer", "n_head")}.get(
        name, ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    )
    shown = dict(zip(("width", "inner_width", "layers", "heads"), (config[key] for key in names), strict=True))
    return {**shown, "documents": ANCHORS[name].documents if name in ANCHORS else OUR_DOCUMENTS}


def _keep(model: PreTrainedModel, prepared: Prepared, folder: Path) -> None:
    model.save_pretrained(folder)
    prepared.tokenizer.save_pretrained(folder)
