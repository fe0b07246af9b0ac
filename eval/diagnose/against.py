"""Two runs beside each other (X12): what differs in recipe, data, versions and code, and where their curves part."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from eval.advice.record import TrainingRecord, read_record
from eval.diagnose.report.text import shown
from training.common.errors import InputError
from training.common.manifest import sha256_of

PARTED = 0.05  # share of a figure; less is the noise between two machines
_MOST_TOKENS = 5
# What is no cause: names, places and times, and what the recipe says in other words.
_LEFT_OUT = {
    *("identity", "command", "schema_version", "data_read", "recipe_name", "output_dir", "run_name"),
    *("_name_or_path", "transformers_version", "log_history", "best_metric", "best_model_checkpoint"),
    *("best_global_step", "global_step", "epoch", "total_flos", "stateful_callbacks"),
    *("is_local_process_zero", "is_world_process_zero"),
}


@dataclass(frozen=True)
class Difference:
    """One thing that differs: its name, and what each run has."""

    what: str
    one: Any
    other: Any


@dataclass(frozen=True)
class Parting:
    """Where a figure of both logs parts.

    Attributes:
        figure: its name in the log.
        first: step of the first difference; None where there is none.
        parted: step from which the values lie more than `PARTED` apart; None where they never do.
        step: the last one that both have, with its two values.
    """

    figure: str
    first: int | None
    parted: int | None
    step: int
    one: float
    other: float


@dataclass(frozen=True)
class Comparison:
    """Two runs: their names, what differs, and where their curves part."""

    one: str
    other: str
    differences: list[Difference]
    curves: list[Parting]

    def to_dict(self) -> dict[str, Any]:
        """Plain Python for JSON."""
        return asdict(self)


def compare(one: str | Path, other: str | Path) -> Comparison:
    """Compare two run folders, ours or the plain Trainer's; raises InputError for one that holds no run."""
    records = read_record(one), read_record(other)
    found = list(_differences(*records))
    return Comparison(str(one), str(other), found, list(_curves(*records)))


def print_comparison(compared: Comparison, console: Console | None = None) -> None:
    """Show what differs, then where the curves part."""
    console = console or Console(highlight=False)
    if not compared.differences:
        console.print(
            "Nothing that the runs keep differs: look at the machine, its threads, and code outside the run."
        )
    else:
        table = Table(
            title=_headline(compared), title_justify="left", box=None, header_style="dim", title_style="bold"
        )
        for name in ("what", compared.one, compared.other):
            table.add_column(name, overflow="fold")
        for each in compared.differences:
            table.add_row(each.what, shown(each.one), shown(each.other))
        console.print(table)
    for curve in compared.curves:
        if curve.first is None:
            console.print(f"{curve.figure}: the same up to step {curve.step}")
            continue
        parts = f"apart by {PARTED:.0%} from step {curve.parted}" if curve.parted is not None else "never far apart"
        console.print(
            f"{curve.figure}: first differs at step {curve.first}, {parts}; "
            f"{shown(curve.one)} against {shown(curve.other)} at step {curve.step}"
        )


def _headline(compared: Comparison) -> str:
    number = len(compared.differences)
    return f"{number} thing{'s' * (number != 1)} differ{'s' * (number == 1)}"


def _differences(one: TrainingRecord, other: TrainingRecord) -> Iterator[Difference]:
    """Of what the runs say of themselves, then of their files."""
    for mine, theirs in ((_said(one), _said(other)), (_json(one, "config.json"), _json(other, "config.json"))):
        for name in sorted(mine.keys() | theirs.keys()):
            if mine.get(name) != theirs.get(name):
                yield Difference(name, mine.get(name), theirs.get(name))
    yield from _tokens(one, other)
    yield from _code(one, other)


def _said(record: TrainingRecord) -> dict[str, Any]:
    """Recipe, data, versions and precision of our runs; of the Trainer's its state and its highest rate."""
    if record.run is not None:
        return dict(_flat(record.run))
    return {**dict(_flat(record.state)), "learning_rate": record.learning_rate}


def _flat(values: dict[str, Any], under: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if name in _LEFT_OUT:
            continue
        path = f"{under}.{name}" if under else name
        if isinstance(value, dict):
            yield from _flat(value, path)
        else:
            yield path.removeprefix("recipe."), value


def _json(record: TrainingRecord, name: str) -> dict[str, Any]:
    """A JSON file of the run; of the recipe's settings only what the recipe does not say already."""
    path = record.folder / name
    try:
        content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}; take another checkpoint of the run") from error
    known = {key.rpartition(".")[2] for key in _said(record)}
    return {key: value for key, value in _flat(content) if key not in known}


def _tokens(one: TrainingRecord, other: TrainingRecord) -> Iterator[Difference]:
    """Tokens that only one vocabulary has, or that have another id; else how text is cut."""
    files = [record.folder / "tokenizer.json" for record in (one, other)]
    if not all(file.is_file() for file in files) or sha256_of(files[0]) == sha256_of(files[1]):
        return
    words = [_vocabulary(file) for file in files]
    apart = [
        sorted(token for token, place in mine.items() if theirs.get(token) != place)
        for mine, theirs in (words, words[::-1])
    ]
    if any(apart):
        yield Difference("tokenizer: tokens", *(found[:_MOST_TOKENS] for found in apart))
    else:
        yield Difference("tokenizer.json", *((sha256_of(file) or "")[:12] for file in files))


def _vocabulary(file: Path) -> dict[str, int]:
    content = json.loads(file.read_text(encoding="utf-8"))
    held = content.get("model", {}).get("vocab", {})
    pairs = held.items() if isinstance(held, dict) else ((piece[0], place) for place, piece in enumerate(held))
    return {**dict(pairs), **{token["content"]: token["id"] for token in content.get("added_tokens", ())}}


def _code(one: TrainingRecord, other: TrainingRecord) -> Iterator[Difference]:
    """Model code beside the weights."""
    names = sorted({path.name for record in (one, other) for path in record.folder.glob("*.py")})
    for name in names:
        files = [record.folder / name for record in (one, other)]
        said = [(sha256_of(file) or "")[:12] or None for file in files]
        if said[0] != said[1]:
            yield Difference(f"code: {name}", *said)


def _curves(one: TrainingRecord, other: TrainingRecord) -> Iterator[Parting]:
    """The training loss, and the held-out figures that both logs have."""
    held_out = ("eval_loss", "eval_perplexity", "eval_mrr", "eval_frame_loss")
    for figure in ("loss", *held_out):
        mine, theirs = (dict(zip(*record.values(figure), strict=True)) for record in (one, other))
        steps = sorted(mine.keys() & theirs.keys())
        if not steps:
            continue
        last = steps[-1]
        first = next((step for step in steps if mine[step] != theirs[step]), None)
        far = [abs(mine[step] - theirs[step]) > PARTED * max(abs(mine[step]), abs(theirs[step])) for step in steps]
        near = max((place for place, is_far in enumerate(far) if not is_far), default=-1)
        parted = steps[near + 1] if near + 1 < len(steps) else None
        yield Parting(figure, first, parted, last, mine[last], theirs[last])
