"""A cell of the generator's comparisons: what each test document cost is kept."""

import hashlib
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from eval.benchmarks.anchors.gpt2_and_llama import ANCHORS, OUR_DOCUMENTS, build_anchor
from eval.benchmarks.exams.exam import Exam
from eval.scorers.causal import ScoringPlan, TokenAnswers, held_out_figures, score_documents
from eval.scorers.request import Scores
from training.data.sampling import PassSampler
from training.data.staged_generator.documents import load_documents
from training.init_from.growing import measure_growth
from training.run.run import Run
from training.trainer.trainer import JepaTrainer


class GeneratorExam(Exam):
    """Adds `documents` (step -> nll of each document), `tokens` (of each document), `asked` (hash of what was asked),
    `training_tokens`, `size`; and `growth`, where the run began from a checkpoint.

    Models: `recipe`, `gpt2`, `llama`. Where `split` is not `test`, nothing but the curve is measured.
    """

    curve_figures = ("perplexity", "word_perplexity", "bits_per_byte", "greedy_accuracy")

    def __init__(self, settings: dict[str, Any], run: Run) -> None:
        super().__init__(settings, run)
        self.growth = {}
        if run.init_from is not None:
            self.growth = {"growth": measure_growth(run, self.family, self.prepared, self.model).to_dict()}

    def anchor(self) -> Callable[[], PreTrainedModel] | None:
        """GPT-2 or Llama of as many parameters."""
        name = self.settings["model"]
        return partial(build_anchor, name, self.config) if name in ANCHORS else None

    def look(self, model: PreTrainedModel) -> dict[str, Any]:
        """Figures of packed blocks of valid."""
        rows, tokenizer = self.prepared.valid, self.prepared.tokenizer
        return self._kept(held_out_figures(model, tokenizer, rows, self.plan.eval_rows))

    def score(self, model: PreTrainedModel) -> Scores | None:
        """The verbatim documents, in windows of the training length; nothing in a run that only chooses."""
        if self.plan.split != "test":
            return None
        texts = load_documents(self.prepared.settings, self.plan.split).texts
        bounds = {"max_documents": self.plan.max_rows, "max_tokens": self.plan.max_tokens}
        found = self._score(model, texts, ScoringPlan(self.prepared.max_length, **bounds))
        for context in self.plan.contexts if self.anchor() is None else ():
            longer = self._score(model, texts, ScoringPlan(context, max_tokens=self.plan.context_tokens))
            found.metrics[f"perplexity_at_{context}"] = longer.metrics["perplexity"]
        return found

    def _score(self, model: PreTrainedModel, texts: list[str], plan: ScoringPlan) -> Scores:
        return score_documents(model, self.prepared.tokenizer, texts, plan)

    def answers(self) -> dict[str, Any]:
        """See the class."""
        costs = {step: _per_document(found.answers) for step, found in self.scores.items()}
        last = self.plan.marks[-1]
        return {
            "documents": {str(step): nll.tolist() for step, (nll, _) in costs.items()},
            "tokens": costs[last][1].tolist(),
            "asked": asked_hash(self.scores[last].answers),
        }

    def of_training(self, trainer: JepaTrainer) -> dict[str, Any]:
        """Tokens of all blocks that were learnt from, the sizes, and what growing changed."""
        lengths = trainer.parts.dataset.lengths
        order = PassSampler(len(lengths), trainer.args.seed, self.plan.marks[-1] * trainer.rows_per_step)
        learnt = int(sum(lengths[row] for row, _ in order))
        return {"training_tokens": learnt, "size": _size(self.model, self.settings["model"]), **self.growth}


def asked_hash(answers: TokenAnswers) -> str:
    """Two arms can be paired where this is the same: document and true token of every prediction."""
    asked = np.stack([answers.documents, answers.targets]).astype(np.int64)
    return hashlib.sha256(asked.tobytes()).hexdigest()


def _per_document(answers: TokenAnswers) -> tuple[np.ndarray, np.ndarray]:
    """Total nll and number of predictions of each document, (documents,) both."""
    _, members = np.unique(answers.documents, return_inverse=True)
    return np.bincount(members, weights=answers.nll), np.bincount(members)


def _size(model: PreTrainedModel, name: str) -> dict[str, Any]:
    """How an arm was made to its size, and how it keeps documents apart."""
    config = model.config.to_dict()
    names = {"gpt2": ("n_embd", "n_inner", "n_layer", "n_head")}.get(
        name, ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    )
    shown = dict(zip(("width", "inner_width", "layers", "heads"), (config[key] for key in names), strict=True))
    return {**shown, "documents": ANCHORS[name].documents if name in ANCHORS else OUR_DOCUMENTS}


train_and_mark = GeneratorExam.train_and_mark
