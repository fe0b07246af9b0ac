"""Train an arm, score it on its way, and count the CPU seconds and the memory of what lies between.

Unlike a run of `training/train.py` an exam writes no checkpoints and chooses no best one: what is compared is the
model after a number of steps. What a family is asked, and what is kept of its answers, is in the module of its name.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments, set_seed
from transformers.trainer_utils import SaveStrategy

from eval.benchmarks.exams.memory import peak_memory
from eval.benchmarks.exams.runs import run_of_cell
from modeling_jepa import JepaPreTrainedModel
from training.families import load_family
from training.family import Family
from training.run.run import Run
from training.run.state import RunState
from training.trainer.build import build_config, build_model, build_parts, prepare_data, training_arguments
from training.trainer.callbacks import TeacherUpdate
from training.trainer.trainer import JepaTrainer, full_precision


@dataclass(frozen=True)
class Plan:
    """What is scored when.

    Attributes:
        marks: steps at which `split` is scored; the last is the length of the run, 0 that of a model that is not
            trained.
        eval_steps, eval_rows: how often, and on how many rows, the curve on `valid` is measured.
        split: `test`, or `valid` where something is chosen by the result.
        max_rows, max_tokens: bounds of a seeded subset of it; None for all.
        greedy_replies: contexts that a dialogue model answers, for the variety of its replies.
        contexts: further lengths that a generator of ours is scored at, on `context_tokens` of the same documents.
    """

    marks: list[int]
    eval_steps: int
    eval_rows: int
    split: str = "test"
    max_rows: int | None = None
    max_tokens: int | None = None
    greedy_replies: int = 0
    contexts: tuple[int, ...] = ()
    context_tokens: int = 60_000


class Exam(TrainerCallback):
    """One arm under one seed: it watches the training, and scores with the clock stopped.

    Attributes:
        curve_figures: what is taken of the last point of the curve where nothing else is scored.
        settings: of the cell: `recipe`, `overrides` (key -> value), `model` (`recipe`, or an anchor of the family),
            `exam` (fields of `Plan`), `run_steps` where the last mark is 0, and by choice `keep`: a folder, to which
            `-seedN` is added, for the final weights and the tokenizer.
        curve, scores: points on valid, and step -> scores at the marks, so far.
        cpu_seconds: of training so far.
        peak_memory_bytes: of the process, before anything was scored.
    """

    curve_figures: ClassVar[tuple[str, ...]]

    def __init__(self, settings: dict[str, Any], run: Run) -> None:
        self.settings, self.run = settings, run
        self.plan = Plan(**settings["exam"])
        self.family = self.family_of(load_family(run.family))
        self.prepared = prepare_data(run, self.family)
        self.config = build_config(run, self.family, self.prepared)
        anchor = self.anchor()
        if anchor is None:
            self.model = build_model(run, self.family, self.config, self.prepared)
        else:
            set_seed(run.training.seed)
            self.model = anchor()
        self.curve: list[dict[str, Any]] = []
        self.scores: dict[int, Any] = {}
        self.cpu_seconds, self.peak_memory_bytes, self._started = 0.0, 0, 0.0

    @classmethod
    def train_and_mark(cls, settings: dict[str, Any], seed: int, folder: Path) -> dict[str, Any]:
        """Train and score one arm; see `Exam.settings`.

        Returns:
            `metrics` at the last mark, or the last point of the curve where nothing was scored; `split`; `curve` (on
            valid, by CPU seconds of training); `training_cpu_seconds`; `training_peak_memory_bytes`;
            `num_parameters` that learn; `training_row`, the last that was logged; where `split` was scored also
            `baselines`, `num_examples`, `marks` (step -> metrics); and what the family's exam adds.
        """
        exam = cls(settings, run_of_cell(settings, seed, folder / "run"))
        found = exam.take()
        if "keep" in settings:
            kept = Path(f"{settings['keep']}-seed{seed}")
            exam.model.save_pretrained(kept)
            exam.prepared.tokenizer.save_pretrained(kept)
        return found

    def family_of(self, family: Family) -> Family:
        """The family as this arm has it."""
        return family

    def anchor(self) -> Callable[[], PreTrainedModel] | None:
        """Makes the model where it is none of the family's."""
        return None

    def look(self, model: PreTrainedModel) -> dict[str, Any]:
        """A point of the curve, on valid."""
        raise NotImplementedError

    def score(self, model: PreTrainedModel) -> Any:
        """Scores on `split`: `metrics`, `baselines`, `num_examples`; None where nothing but the curve counts."""
        raise NotImplementedError

    def answers(self) -> dict[str, Any]:
        """What is kept of the scores at each mark, for pairing."""
        raise NotImplementedError

    def of_training(self, trainer: JepaTrainer) -> dict[str, Any]:
        """What is kept of the training beside its costs."""
        return {}

    def take(self) -> dict[str, Any]:
        """Train and score; see `train_and_mark`."""
        last, extra = self.plan.marks[-1], {}
        if last:
            trainer = bare_trainer(self)
            trainer.train()
            logged = [row for row in trainer.state.log_history if "loss" in row]
            extra = {"training_row": logged[-1] if logged else None, **self.of_training(trainer)}
        else:
            self.examine(0)
        result = {
            "metrics": self._kept(self.curve[-1]),
            "split": self.plan.split,
            "curve": self.curve,
            "training_cpu_seconds": self.cpu_seconds,
            "training_peak_memory_bytes": self.peak_memory_bytes,
            "num_parameters": sum(p.numel() for p in self.model.parameters() if p.requires_grad) if last else 0,
            **extra,
        }
        found = self.scores[last]
        if found is None:
            return result
        return {
            **result,
            **{name: getattr(found, name) for name in ("metrics", "baselines", "num_examples")},
            "marks": {str(step): scores.metrics for step, scores in self.scores.items()},
            **self.answers(),
        }

    def examine(self, step: int) -> None:
        """Score what is due after so many steps."""
        last = self.plan.marks[-1]
        is_curve = step == last or step % self.plan.eval_steps == 0
        if not (is_curve or step in self.plan.marks):
            return
        self.peak_memory_bytes = self.peak_memory_bytes or peak_memory()
        with full_precision(self.model):
            if is_curve:
                self.curve.append({"step": step, "cpu_seconds": self.cpu_seconds, **self.look(self.model)})
            if step in self.plan.marks:
                self.scores[step] = self.score(self.model)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """The clock starts."""
        self._started = time.process_time()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """The clock stops where something is scored."""
        self.cpu_seconds += time.process_time() - self._started
        self.examine(state.global_step)
        self._started = time.process_time()

    def _kept(self, found: dict[str, Any]) -> dict[str, Any]:
        return {name: found[name] for name in self.curve_figures}


def bare_trainer(exam: Exam) -> JepaTrainer:
    """Rows, masks and loss of a run, without what chooses and saves checkpoints."""
    arguments = training_arguments(exam.run)
    arguments.save_strategy, arguments.eval_on_start = SaveStrategy.NO, False
    parts = build_parts(exam.run, exam.family, exam.prepared, exam.config, arguments, score=lambda model: {})
    state = RunState()
    follow = [TeacherUpdate(state)] if isinstance(exam.model, JepaPreTrainedModel) else []
    return JepaTrainer(exam.model, arguments, exam.prepared.tokenizer, parts, state, [*follow, exam])
