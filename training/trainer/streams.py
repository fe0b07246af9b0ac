"""A stream in the Trainer: how it is loaded, and what it met on its way."""

import logging
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from training.data.sources.rows import RowReport
from training.data.streaming import Cursor, StreamCollator, TextStream
from training.run.state import RunState

logger = logging.getLogger(__name__)


def stream_loader(stream: TextStream, collator: Any, arguments: TrainingArguments) -> DataLoader:
    """Batches of a stream, each with the cursor after it."""
    return DataLoader(
        stream,
        batch_size=arguments.train_batch_size,
        collate_fn=StreamCollator(collator),
        num_workers=arguments.dataloader_num_workers,
        pin_memory=arguments.dataloader_pin_memory,
        generator=torch.Generator(),  # or it draws from the global one, once more after a resume
    )


class StreamReport(TrainerCallback):
    """Says how many rows were unusable whenever there are more of them, and what became of the rows in all."""

    def __init__(self, run_state: RunState) -> None:
        self.run_state = run_state
        self._said = 0

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """One line, where there are new ones."""
        report = self._report()
        if state.is_world_process_zero and report.num_bad > self._said:
            self._said = report.num_bad
            logger.info("%s", report.summary())

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """The counts."""
        if state.is_world_process_zero:
            logger.info("streamed, in whole windows: %s", self._report().summary())

    def _report(self) -> RowReport:
        return Cursor.from_dict(self.run_state.cursor).report if self.run_state.cursor else RowReport("", "train")
