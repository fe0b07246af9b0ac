"""`log.jsonl`: one JSON object per row, cut back to the checkpoint on a resume."""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from training.common.layout import LOG_FILE


class JsonlLog(TrainerCallback):
    """`log.jsonl` in the run folder: one JSON object per row, flushed, and cut back to the checkpoint on a resume."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Drop rows that the resumed run will write again."""
        if state.is_world_process_zero:
            path = Path(args.output_dir) / LOG_FILE
            kept = _rows_until(path, state.global_step) if state.global_step > 0 else []
            part = path.with_name(f".{LOG_FILE}.part")
            part.write_bytes(b"".join(kept))
            os.replace(part, path)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Append a row; the library's summary of the whole run is none."""
        logs = kwargs["logs"]
        if not state.is_world_process_zero or "train_runtime" in logs:
            return
        # `epoch` would be the share of the run, since the run is one epoch to the library; `passes` says it rightly.
        figures = {name: value for name, value in logs.items() if name != "epoch"}
        append_row(Path(args.output_dir) / LOG_FILE, state.global_step, args.device.type, figures)


def append_row(path: Path, step: int, device: str, content: dict[str, Any]) -> None:
    """Add one row to a `log.jsonl`."""
    row = {"step": step, "time": round(time.time(), 3), "device": device, **content}
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _rows_until(path: Path, step: int) -> list[bytes]:
    """Lines of rows up to `step`. A kill can leave half a line, which goes unsaid: its row will be written again."""
    kept: list[bytes] = []
    lines = path.read_bytes().split(b"\n")[:-1] if path.is_file() else []
    for number, line in enumerate(lines, start=1):
        at = _step_of_row(line)
        if at is None:
            left = f"{len(lines) - number + 1} of {len(lines)} rows"
            print(f"note: {path}, line {number} is damaged: {left} are left out", file=sys.stderr, flush=True)
            break
        kept += [line + b"\n"] if at <= step else []
    return kept


def _step_of_row(line: bytes) -> int | None:
    """The step of a row, or None where it is no row."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return None
