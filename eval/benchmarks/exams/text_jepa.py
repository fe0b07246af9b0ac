"""A cell of the text comparisons: the rank of every blank is kept."""

import hashlib
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from eval.benchmarks.anchors.bert import BertAnchor, bert_config, sparse_scorer
from eval.benchmarks.exams.exam import Exam
from eval.scorers.request import Scores
from eval.scorers.text_jepa import BlankAnswers, score_rows


class TextExam(Exam):
    """Adds `ranks` (step -> rank of each blank), `clusters` (row of each blank) and `blanks` (hash of what was asked).

    Models: `recipe`, `bert`.
    """

    curve_figures = ("top1", "mrr", "median_rank")

    def anchor(self) -> Callable[[], PreTrainedModel] | None:
        """BERT of the recipe's size."""
        return partial(BertAnchor, bert_config(self.config)) if self.settings["model"] == "bert" else None

    def look(self, model: PreTrainedModel) -> dict[str, Any]:
        """Ranks on valid."""
        return self._kept(self._scores(model, "valid", self.plan.eval_rows).metrics)

    def score(self, model: PreTrainedModel) -> Scores:
        """All figures of blanks, on `split`."""
        return self._scores(model, self.plan.split, self.plan.max_rows)

    def answers(self) -> dict[str, Any]:
        """See the class."""
        asked = self.scores[self.plan.marks[-1]].answers
        return {
            "ranks": {str(step): found.answers.ranks.tolist() for step, found in self.scores.items()},
            "clusters": np.unique(asked.row_ids, return_inverse=True)[1].tolist(),
            "blanks": blanks_hash(asked),
        }

    def _scores(self, model: PreTrainedModel, split: str, max_rows: int | None) -> Scores:
        rows, prepared = getattr(self.prepared, split), self.prepared
        scorer = sparse_scorer(model) if isinstance(model, BertAnchor) else None
        return score_rows(model, prepared.tokenizer, rows, prepared.counts, max_rows=max_rows, scorer=scorer)


def blanks_hash(answers: BlankAnswers) -> str:
    """Two arms can be paired where this is the same: row, position and true token of every blank."""
    asked = np.stack([answers.row_ids, answers.positions, answers.targets]).astype(np.int64)
    return hashlib.sha256(asked.tobytes()).hexdigest()


train_and_mark = TextExam.train_and_mark
