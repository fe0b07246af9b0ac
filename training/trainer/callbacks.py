"""What happens around the steps: progress, the log file, held-out figures and milestones, the teacher."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from accelerate.optimizer import AcceleratedOptimizer
from tqdm.auto import tqdm
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from training.common.layout import LOG_FILE
from training.run.state import RunState
from training.runtime.signals import SignalWatch
from training.settings.common import EvaluationSettings
from training.trainer.log_file import append_row


class TeacherUpdate(TrainerCallback):
    """Moves the target network after every optimizer step that was made."""

    def __init__(self, run_state: RunState) -> None:
        self.run_state = run_state

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """The step is done: the moving average follows, unless the step was skipped, by us or by float16's scaler."""
        optimizer: AcceleratedOptimizer | None = kwargs.get("optimizer")
        skipped = self.run_state.skipped_in_a_row > 0 or (optimizer is not None and optimizer.step_was_skipped)
        if kwargs["model"].has_teacher and not skipped:
            kwargs["model"].update_teacher()


class HeldOut(TrainerCallback):
    """Decides when held-out rows are scored, which checkpoint is the best and when to stop, and keeps the milestones.

    Only the regular evaluations count for the best: then the choice does not hang on which milestones a recipe shows.
    """

    def __init__(self, settings: EvaluationSettings, run_state: RunState, phrases: "SamplePhrases") -> None:
        self.settings = settings
        self.run_state = run_state
        self.phrases = phrases

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Ask for a log row and an evaluation where one is due."""
        last = state.global_step >= state.max_steps
        # The loss of the first step is that of the initial weights, which milestone 0 shows.
        control.should_log |= last or self._is_milestone(state) or state.global_step == 1
        control.should_evaluate |= last or self._is_milestone(state) or self._is_regular(state)

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Take the figures in, and ask for a checkpoint where they are the best so far."""
        metrics: dict[str, Any] = kwargs["metrics"]
        if self._is_regular(state):
            named = {**metrics, "acc_ema": self.run_state.acc_ema}
            value = named[self.settings.best_metric]
            lower = self.settings.best_metric in self.settings.lower_is_better
            if value is not None and self.run_state.update_best(
                state.global_step, value, self.settings.best_smoothing, lower_is_better=lower
            ):
                control.should_save = True
            if not self.run_state.is_patient(self.settings.early_stopping_patience):
                control.should_save = control.should_training_stop = True
        if self._is_milestone(state) or state.global_step >= state.max_steps or control.should_training_stop:
            figures = {name: value for name, value in metrics.items() if isinstance(value, int | float)}
            row = {"step": state.global_step, "loss": self._last_loss(state), **figures}
            self.run_state.milestones.append({**row, "samples": self.phrases.fill(kwargs["model"])})

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Give milestone 0 its loss, once it is known."""
        logs = kwargs["logs"]
        if state.global_step == 1 and "loss" in logs:
            for row in self.run_state.milestones:
                row["loss"] = logs["loss"] if row["step"] == 0 else row["loss"]

    def _is_milestone(self, state: TrainerState) -> bool:
        return state.global_step in self.settings.milestones

    def _is_regular(self, state: TrainerState) -> bool:
        step = state.global_step
        return step > 0 and (step % self.settings.eval_steps == 0 or step >= state.max_steps)

    @staticmethod
    def _last_loss(state: TrainerState) -> float | None:
        return next((row["loss"] for row in reversed(state.log_history) if "loss" in row), None)


class SamplePhrases:
    """The recipe's sample phrases, filled by whatever the family calls filling."""

    def __init__(self, phrases: list[str], sample: Any, tokenizer: Any) -> None:
        self.phrases = phrases
        self.sample = sample
        self.tokenizer = tokenizer

    def fill(self, model: PreTrainedModel) -> list[str]:
        """One line per phrase."""
        return [self.sample(model, self.tokenizer, phrase) for phrase in self.phrases]


class ShowSamples(TrainerCallback):
    """Prints the recipe's prompts with their continuations every so many steps, and keeps them in the log.

    Args:
        stop_clock: called before; what comes then is not training time.
    """

    def __init__(self, steps: int, phrases: SamplePhrases, stop_clock: Callable[[], None]) -> None:
        self.steps = steps
        self.phrases = phrases
        self.stop_clock = stop_clock

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Where a sample is due."""
        if state.global_step % self.steps or not self.phrases.phrases:
            return
        self.stop_clock()
        samples = self.phrases.fill(kwargs["model"])
        if state.is_world_process_zero:
            tqdm.write("\n".join(f"sample: {sample}" for sample in samples))
            path = Path(args.output_dir) / LOG_FILE
            append_row(path, state.global_step, args.device.type, {"samples": samples})


class SaveOnSignal(TrainerCallback):
    """After SIGTERM, SIGINT or the launcher's death: one checkpoint at the end of the step, and out."""

    def __init__(self, watch: SignalWatch, any_process: Any) -> None:
        self.watch = watch
        self.any_process = any_process

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Stop where any process was told to."""
        if self.any_process(self.watch.told_to_stop()):
            self.watch.stopped = True
            control.should_save = True
            control.should_training_stop = True
