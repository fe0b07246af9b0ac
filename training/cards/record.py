"""All that a model card is made of, as one record that JSON can hold.

record = read_record(Path("outputs/quickstart"))
"""

import json
import shlex
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from training.common.errors import InputError
from training.common.layout import CARD_RECORD_FILE, MILESTONES_FILE, SCORE_FILE
from training.common.manifest import read_run
from training.family import Family
from training.init_from.growing import Growth
from training.run.run import Run
from training.run.state import RunState

SCHEMA_VERSION = 1
PLACE_OF_FILES = "PATH/TO"


@dataclass(frozen=True)
class CardRecord:
    """What one card says, before any words.

    Attributes:
        run: the content of `run.json`.
        facts: `name`, `num_parameters`, `vocab_size`, `max_length`, `kept_step`, `source`, `licence`, `language`,
            `hub_dataset`, `growth` (a line, or None).
        machine: see `describe_machine`; empty where it is not known.
        score: the Score JSON of the kept checkpoint, or None.
        milestones: rows of figures by step, see `RunState.milestones`.
        shown: more variables of the family's template, see `Family.at_end`.
        finished: whether this is the kept checkpoint of a run that went to its end.
    """

    run: dict[str, Any]
    facts: dict[str, Any]
    machine: dict[str, Any] = field(default_factory=dict)
    score: dict[str, Any] | None = None
    milestones: list[dict[str, Any]] = field(default_factory=list)
    shown: dict[str, Any] = field(default_factory=dict)
    finished: bool = True

    @property
    def family(self) -> str:
        """The family of the model."""
        return self.run["family"]

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON holds it."""
        return {"schema_version": SCHEMA_VERSION, **asdict(self)}

    def beside_a_run(self) -> dict[str, Any]:
        """What a run's other files do not hold."""
        own = ("facts", "machine", "shown", "finished")
        return {"schema_version": SCHEMA_VERSION, **{name: self.to_dict()[name] for name in own}}

    def without_places(self) -> "CardRecord":
        """A copy in which no path of this machine is left: `/home/me/talks` is `PATH/TO/talks`."""
        return replace(self, run=without_places(self.run), score=without_places(self.score))


def sizes_of(model: PreTrainedModel) -> dict[str, Any]:
    """The facts of a model's sizes: `num_parameters` that learn, `vocab_size`, `max_length`."""
    return {
        "num_parameters": sum(weight.numel() for weight in model.parameters() if weight.requires_grad),
        "vocab_size": model.config.vocab_size,
        "max_length": model.config.max_position_embeddings,
    }


def facts_of(run: Run, family: Family, sizes: dict[str, Any], kept_step: int, state: RunState) -> dict[str, Any]:
    """`CardRecord.facts` of a run; `sizes` are those of `sizes_of`."""
    source = family.source(run.data)
    return {
        **sizes,
        "name": run.output_dir.resolve().name,
        "kept_step": kept_step,
        "source": source.name,
        "licence": source.licence,
        "language": source.language,
        "hub_dataset": source.hub_id,
        "growth": None if state.growth is None else Growth(**state.growth).line(),
    }


def read_record(run_dir: Path) -> CardRecord:
    """The record of a finished run's folder; the score is the one that lies there now.

    Raises:
        InputError: the folder holds no finished run, or a file of it is damaged.
    """
    own = _read(run_dir / CARD_RECORD_FILE)
    run = read_run(run_dir)
    if own is None or run is None:
        raise InputError(f"{run_dir} holds no finished run ({CARD_RECORD_FILE}); give the folder of one")
    own.pop("schema_version")
    milestones = (_read(run_dir / MILESTONES_FILE) or {}).get("milestones", [])
    return CardRecord(run=run, score=_read(run_dir / SCORE_FILE), milestones=milestones, **own)


def load_record(path: Path) -> CardRecord:
    """A record that was kept as one file. Raises `InputError`."""
    content = _read(path)
    if content is None:
        raise InputError(f"{path} is no file; give a record of a card")
    content.pop("schema_version")
    return CardRecord(**content)


def _read(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is damaged: {' '.join(str(error).split())}; make it again") from error


def without_places(value: Any) -> Any:
    """What JSON holds, with every absolute path by its last part alone, also in what stands under `command`."""
    if isinstance(value, dict):
        return {name: _command(item) if name == "command" else without_places(item) for name, item in value.items()}
    if isinstance(value, list):
        return [without_places(item) for item in value]
    return _place(value) if isinstance(value, str) else value


def _command(line: str) -> str:
    return shlex.join(_place(word) for word in shlex.split(line))


def _place(text: str) -> str:
    """An absolute path by its last part; any other text as it is."""
    is_path = "\n" not in text and Path(text).is_absolute() and Path(text).name
    return f"{PLACE_OF_FILES}/{Path(text).name}" if is_path else text
