"""What the folder of a run tells about its training: log rows, learning rate, claimed accuracies, checkpoints, data.

record = read_record("outputs/quickstart")

Our own runs (`run.json`, `log.jsonl`, `results/`) and those of the plain `transformers` Trainer (`trainer_state.json`,
`all_results.json`). Nothing is unpickled: `training_args.bin` stays closed.
"""

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from training.common.errors import InputError
from training.common.manifest import read_run
from training.data.dialogue_jepa.dialogues import BETWEEN_TURNS, load_dialogues
from training.data.families import FAMILIES
from training.data.settings import DialogueDataSettings, GeneratorDataSettings, SourceSettings
from training.data.sources.locate import load_rows
from training.data.staged_generator.documents import load_documents

LOG_FILE = "log.jsonl"
STATE_FILE = "trainer_state.json"
RESULT_FILES = ("all_results.json", "train_results.json", "eval_results.json", "predict_results.json")
MAX_TEXTS = 100_000

_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
_ACCURACY = re.compile(r"(^|[_/ -])(acc|accuracy)$", re.IGNORECASE)
# What a guess without the model gets is no claim about the model.
_BASELINES = ("unigram", "baseline", "chance", "majority", "random")


@dataclass(frozen=True)
class TrainingRecord:
    """One run.

    Attributes:
        folder: of the run, or of one of its checkpoints.
        rows: of the log, in order: `step` with `loss`, `learning_rate`, `grad_norm`, or with `eval_...` figures; NaN
            and None stand where the log has them.
        learning_rate: the highest, None where it was never logged.
        claims: accuracies that the run reports, by the name it gave them.
        checkpoints: folders of models, in the order of their steps.
        ours: whether this package trained it.
        run: `run.json` of our runs.
        state: `trainer_state.json` without its log, of the Trainer's runs.
        notes: what could not be read.
    """

    folder: Path
    rows: list[dict[str, Any]]
    learning_rate: float | None
    claims: dict[str, float]
    checkpoints: list[Path]
    ours: bool
    run: dict[str, Any] | None = None
    state: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def steps(self) -> int:
        """Optimizer steps that the log tells of."""
        return max((row["step"] for row in self.rows), default=0)

    @property
    def uses_muon(self) -> bool:
        """Whether one of our runs was trained with Muon, whose rates are of another scale than AdamW's."""
        return self.run is not None and self.run["recipe"]["training"].get("optimizer") == "muon"

    @property
    def adam_rate(self) -> float | None:
        """The highest learning rate, where it is one of AdamW or unknown; 0 is 0 for every optimizer."""
        return None if self.uses_muon and self.learning_rate else self.learning_rate

    @property
    def training_rows(self) -> list[dict[str, Any]]:
        """Rows with a training loss."""
        return [row for row in self.rows if "loss" in row]

    def values(self, name: str) -> tuple[list[int], list[float]]:
        """Steps and values of one logged figure where it is a finite number."""
        found = [(row["step"], float(row[name])) for row in self.rows if is_finite(row.get(name))]
        return [step for step, _ in found], [value for _, value in found]

    def train_texts(self) -> list[str] | None:
        """Texts of the training part, at most `MAX_TEXTS`; None where the run does not say or the source is gone."""
        return self._texts("train")

    def valid_texts(self) -> list[str] | None:
        """Texts of the held-out part by which the model was chosen, as `train_texts`."""
        return self._texts("valid")

    def _texts(self, part: str) -> list[str] | None:
        if self.run is None:
            return None
        try:
            settings = FAMILIES[self.run["family"]].data_settings(**self.run["recipe"]["data"])
            texts = _read(settings, part)
        except (InputError, KeyError, TypeError) as error:
            self.notes.append(f"the {part} texts of {self.folder} cannot be read again: {error}")
            return None
        if len(texts) <= MAX_TEXTS:
            return list(texts)
        self.notes.append(f"of {len(texts):,} {part} texts of {self.folder} only {MAX_TEXTS:,} were looked at")
        return [texts[number * len(texts) // MAX_TEXTS] for number in range(MAX_TEXTS)]


def read_record(folder: str | Path) -> TrainingRecord:
    """The record of a run folder, or of a checkpoint in one (then up to its step).

    Raises:
        InputError: no such folder, nothing in it that a run leaves behind, or a damaged file.
    """
    place = Path(folder)
    if not place.is_dir():
        raise InputError(f"run: {folder} is no folder; give the output folder of a training run")
    record = _read_ours(place) or _read_trainers(place)
    if record is None:
        raise InputError(
            f"run: {folder} holds no log of a training run ({LOG_FILE} or {STATE_FILE}); give its output folder"
        )
    return record


def is_run(folder: str | Path) -> bool:
    """Whether `read_record` finds a run there."""
    place = Path(folder)
    return place.is_dir() and (_our_log(place) is not None or _state_file(place) is not None)


def is_finite(value: Any) -> bool:
    """Whether a logged value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _read(settings: SourceSettings, part: str) -> Sequence[str]:
    """The rows of a part, or its documents or dialogues where the family reads those."""
    if isinstance(settings, GeneratorDataSettings):
        return load_documents(settings, part).texts
    if isinstance(settings, DialogueDataSettings):
        return [BETWEEN_TURNS.join(turns) for turns in load_dialogues(settings, part).turns]
    return load_rows(settings, part).dataset["text"]


# ---- our runs ----


def _read_ours(place: Path) -> TrainingRecord | None:
    log = _our_log(place)
    if log is None:
        return None
    rows, notes = _read_log(log)
    step = _step_of(place)
    rows = [row for row in rows if step is None or row["step"] <= step]
    run = _own_run(log.parent)
    return TrainingRecord(
        folder=place,
        rows=rows,
        learning_rate=_peak(rows) if run is None else _number(run["recipe"]["training"].get("learning_rate")),
        claims=_claims(_held_out(rows), log.parent if step is None else None),
        checkpoints=_checkpoints(log.parent),
        ours=True,
        run=run,
        notes=notes,
    )


def _own_run(folder: Path) -> dict[str, Any] | None:
    """`run.json` of our runs; None where there is none, or another program wrote one of its own."""
    run: Any = read_run(folder)
    recipe = run.get("recipe") if isinstance(run, dict) else None
    return run if isinstance(recipe, dict) and isinstance(recipe.get("training"), dict) else None


def _our_log(place: Path) -> Path | None:
    """`log.jsonl` of the folder itself, or of the run that the checkpoint lies in."""
    folders = [place] if _step_of(place) is None else [place, place.parent]
    return next((folder / LOG_FILE for folder in folders if (folder / LOG_FILE).is_file()), None)


def _read_log(path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows with a step; a last line that was cut off while it was written is left out, and said."""
    rows, notes = [], []
    for number, line in enumerate(_text(path).split("\n"), start=1):
        try:
            row = json.loads(line) if line.strip() else None
        except json.JSONDecodeError:
            notes.append(f"{path}, line {number}: no JSON, left out")
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append(row)
    return rows, notes


# ---- runs of the plain Trainer ----


def _read_trainers(place: Path) -> TrainingRecord | None:
    path = _state_file(place)
    if path is None:
        return None
    state = _json(path)
    rows = [row for row in state.pop("log_history", []) if isinstance(row, dict) and isinstance(row.get("step"), int)]
    root = place if _step_of(place) is None else place.parent
    run = _own_run(place)
    return TrainingRecord(
        folder=place,
        rows=rows,
        learning_rate=_peak(rows),
        claims=_claims(rows, place if _step_of(place) is None else None),
        checkpoints=_checkpoints(root),
        ours=run is not None,
        run=run,
        state=state,
    )


def _state_file(place: Path) -> Path | None:
    """The Trainer's state in the folder, or in its newest checkpoint."""
    folders = [place, *reversed(_numbered(place))]
    return next((folder / STATE_FILE for folder in folders if (folder / STATE_FILE).is_file()), None)


# ---- both ----


def _checkpoints(root: Path) -> list[Path]:
    return [folder for folder in _numbered(root) if (folder / "config.json").is_file()]


def _numbered(root: Path) -> list[Path]:
    """Folders `checkpoint-N`, by N."""
    found = [(step, folder) for folder in root.iterdir() if folder.is_dir() and (step := _step_of(folder)) is not None]
    return [folder for _, folder in sorted(found)]


def _step_of(folder: Path) -> int | None:
    """N of `checkpoint-N`."""
    matched = _CHECKPOINT.fullmatch(folder.resolve().name)
    return int(matched.group(1)) if matched else None


def _held_out(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows without a training loss: our own training rows tell the accuracy of a batch, which claims nothing."""
    return [row for row in rows if "loss" not in row]


def _claims(rows: list[dict[str, Any]], root: Path | None) -> dict[str, float]:
    """Newest value of every figure whose last word is acc or accuracy, each a share from 0 to 1.

    Args:
        root: the run's folder with its results, which are of its last or best model; None for an earlier checkpoint.
    """
    claims = {name: value for row in rows for name, value in _accuracies(row)}
    for figures in _results(root) if root is not None else ():
        claims |= dict(_accuracies(figures))
    return claims


def _accuracies(figures: dict[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in figures.items():
        claimed = _ACCURACY.search(name) and not any(word in name.lower() for word in _BASELINES)
        if claimed and is_finite(value) and 0 <= value <= 100:
            yield name, float(value) if value <= 1 else value / 100


def _results(root: Path) -> Iterator[dict[str, Any]]:
    """Figures of the result files: those of the Trainer, and `results/*.json`, where `metrics` holds them."""
    paths = [root / name for name in RESULT_FILES] + sorted((root / "results").glob("*.json"))
    for path in paths:
        if path.is_file():
            content = _json(path)
            figures = content.get("metrics", content)
            if isinstance(figures, dict):
                yield figures


def _peak(rows: list[dict[str, Any]]) -> float | None:
    return max((float(row["learning_rate"]) for row in rows if is_finite(row.get("learning_rate"))), default=None)


def _number(value: Any) -> float | None:
    return float(value) if is_finite(value) else None


def _json(path: Path) -> dict[str, Any]:
    """A JSON object, or an empty one for a list; Python's reader takes NaN as the Trainer writes it."""
    try:
        content = json.loads(_text(path))
    except json.JSONDecodeError as error:
        raise InputError(f"run: {path} is damaged ({error.msg}, line {error.lineno}); take an earlier one") from error
    return content if isinstance(content, dict) else {}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"run: {path} cannot be read: {error}; check the file") from error
