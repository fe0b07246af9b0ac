"""Advice while training: the log patterns asked at every row, each finding said once, and again where it worsens."""

import math
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from eval.advice.patterns import look
from eval.advice.run_log import Advice, RunFacts, RunLog
from training.common.layout import LOG_FILE
from training.run.state import RunState
from training.trainer.log_file import append_row

# Said again when its badness has grown by a quarter: what only wavers is not news.
_WORSE = 1.25
_WIDEST = 1e9  # stands for infinity, which JSON has not


class Advise(TrainerCallback):
    """Prints each finding with its evidence and remedy, and keeps it in `log.jsonl` and in the run's state.

    It reads the Trainer's own history of log rows, which a resume brings back, and what was said stands in `RunState`:
    a run that goes on says nothing twice.
    """

    def __init__(self, facts: RunFacts, run_state: RunState) -> None:
        self.facts = facts
        self.run_state = run_state

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """A row has come: look at the log as it is now."""
        if not state.is_world_process_zero or "train_runtime" in kwargs["logs"]:
            return
        milestones = self.run_state.milestones
        log = RunLog(state.log_history, milestones[-1]["samples"] if milestones else ())
        for advice in self._news(look(log, self.facts)):
            tqdm.write("\n".join(advice_lines(advice)))
            row = {"advice": advice.pattern, "evidence": advice.evidence, "remedy": advice.remedy}
            append_row(Path(args.output_dir) / LOG_FILE, state.global_step, args.device.type, row)

    def _news(self, found: list[Advice]) -> list[Advice]:
        """What was not said yet, or was said of something better."""
        news = []
        for advice in found:
            badness = min(advice.badness, _WIDEST) if math.isfinite(advice.badness) else _WIDEST
            said = self.run_state.advice.get(advice.pattern)
            if said is None or badness > _WORSE * said:
                self.run_state.advice[advice.pattern] = badness
                news.append(advice)
        return news


def advice_lines(advice: Advice) -> list[str]:
    """For the screen: what was seen, and what to do."""
    name = advice.pattern.replace("_", " ")
    return [f"{'note' if advice.level == 'note' else 'advice'}: {name}: {advice.evidence}", f"        {advice.remedy}"]
