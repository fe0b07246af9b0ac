"""A cell of the dialogue comparisons: what each test pair and dialogue gave is kept."""

import hashlib
from typing import Any

import datasets
import numpy as np
from transformers import PreTrainedModel

from eval.benchmarks.anchors.dialogue import ANCHORS
from eval.benchmarks.exams.exam import Exam
from eval.scorers.dialogue import (
    DialogueScores,
    PairAnswers,
    answer_pairs,
    figures,
    latent_ranks,
    read_pairs,
    score_pairs,
)
from training.family import Family


class DialogueExam(Exam):
    """Adds `num_dialogues`, `examples` (per pair, see `statistics.difference`), `dialogues` (`nll`, `swapped_nll` and
    `tokens` of each dialogue's replies) and `asked` (hash of what was asked).

    Models: of `ANCHORS`. Figures that mean nothing for one are None. Where `split` is not `test`, nothing but the
    curve is measured.
    """

    def family_of(self, family: Family) -> Family:
        """With the anchor's class, and the figures that mean something for it."""
        anchor = ANCHORS[self.settings["model"]]
        self.curve_figures = anchor.figures  # type: ignore[misc] # it depends on the arm
        return family.with_model(anchor.model_class)

    def look(self, model: PreTrainedModel) -> dict[str, Any]:
        """Figures of pairs of valid."""
        answers = answer_pairs(model, self.prepared.tokenizer, read_pairs(self.prepared.valid, self.plan.eval_rows))
        return self._meaningful({**figures(answers), **latent_ranks(answers)})

    def score(self, model: PreTrainedModel) -> DialogueScores | None:
        """All figures on the test part; nothing in a run that only chooses."""
        if self.plan.split != "test":
            return None
        greedy = self.plan.greedy_replies if "distinct_2" in self.curve_figures else 0
        rows, max_rows = self.prepared.test, self.plan.max_rows
        return score_pairs(model, self.prepared.tokenizer, rows, max_rows=max_rows, greedy_replies=greedy)

    def answers(self) -> dict[str, Any]:
        """See the class."""
        (found,) = self.scores.values()
        dialogues = dialogue_numbers(self.prepared.test, found.answers.row_ids)
        return {
            "metrics": self._meaningful(found.metrics),
            "num_dialogues": found.num_rows,
            "examples": _per_pair(found.answers, dialogues, self.curve_figures),
            "dialogues": _per_dialogue(found.answers, dialogues, self.curve_figures),
            "asked": asked_hash(self.prepared.test, self.plan.max_rows),
        }

    def _meaningful(self, metrics: dict[str, float | None]) -> dict[str, float | None]:
        return {name: value if name in self.curve_figures else None for name, value in metrics.items()}


def dialogue_numbers(dataset: datasets.Dataset, row_ids: np.ndarray) -> np.ndarray:
    """The number of each pair's dialogue, from 0, `(pairs,)`."""
    places = {row: place for place, row in enumerate(dataset["row_id"][:])}
    dialogues = np.asarray(dataset["dialogue_id"][:])[[places[row] for row in row_ids.tolist()]]
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


train_and_mark = DialogueExam.train_and_mark
