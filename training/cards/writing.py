"""Where cards are written: into checkpoints, into the folders of finished runs, and those of our reference models.

A reference model is a record, `model_cards/results/cards/NAME.json`, and the card it gives, `model_cards/NAME.md`.
"""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from eval.plots.curves import read_log
from training.cards.record import CardRecord, facts_of, load_record, read_record
from training.cards.render import milestone_figures, render_card
from training.common.layout import (
    CARD_FILE,
    CARD_RECORD_FILE,
    CLIPS_FILE,
    CURVES_FILE,
    FRAMES_FILE,
    LOG_FILE,
    PICTURES,
    TEMPLATES,
)
from training.common.manifest import read_run
from training.common.records import write_json, write_text
from training.data.settings import DataSettings
from training.data.sources.locate import describe_source
from training.families import load_family
from training.family import Family
from training.run.run import Run
from training.run.state import RunState
from training.runtime.hardware import describe_machine

RECORDS = TEMPLATES / "results" / "cards"


def write_checkpoint_card(
    run: Run, family: Family, sizes: dict[str, Any], folder: Path, step: int, state: RunState
) -> None:
    """The card of a checkpoint within its run: what was trained, and the milestones so far.

    Args:
        sizes: see `sizes_of`.
        folder: of the checkpoint, its `run.json` in it.
    """
    described = read_run(folder)
    if not described:
        return  # a trainer outside of a run: there is nothing to say
    record = CardRecord(
        run=described,
        facts=facts_of(run, family, sizes, step, state),
        machine=describe_machine(read_log(log) if (log := run.output_dir / LOG_FILE).is_file() else []),
        milestones=state.milestones,
        finished=False,
    )
    (folder / CARD_FILE).write_text(str(render_card(record, family.card)), encoding="utf-8")


def write_run_card(run_dir: Path, record: CardRecord, family: Family) -> None:
    """The card of a finished run, and beside its figures what else the card is made of."""
    write_json(record.beside_a_run(), run_dir / CARD_RECORD_FILE)
    write_text(str(render_card(record, family.card)), run_dir / CARD_FILE)


def render_run(run_dir: Path) -> str:
    """Render a finished run's card anew; returns what was done. Raises `InputError`."""
    write_text(_text(read_record(run_dir)), run_dir / CARD_FILE)
    return f"rendered: {run_dir / CARD_FILE}"


def keep_run(run_dir: Path, name: str, source: str | None = None) -> str:
    """Keep a finished run's record, pictures and card among those of our reference models; returns what was done.

    Args:
        source: what the run's data is a copy of, such as `hub:dailydialog`: its name and licence stand in the card.

    Raises:
        InputError: no finished run there.
    """
    record = read_record(run_dir)
    record = _compact(replace(record, facts=record.facts | {"name": name} | _described(source)).without_places())
    write_json(record.to_dict(), RECORDS / f"{name}.json", indent=1)
    for picture in (CURVES_FILE, CLIPS_FILE, FRAMES_FILE):
        if (run_dir / picture).is_file():
            target = TEMPLATES / PICTURES / name / Path(picture).name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(run_dir / picture, target)
    write_text(_text(record, f"{PICTURES}/{name}"), TEMPLATES / f"{name}.md")
    return f"kept: {RECORDS / name}.json, rendered: {TEMPLATES / name}.md"


def reference_cards() -> dict[Path, str]:
    """The cards of our reference models, as their records give them."""
    return {
        TEMPLATES / f"{path.stem}.md": _text(load_record(path), f"{PICTURES}/{path.stem}")
        for path in sorted(RECORDS.glob("*.json"))
    }


def render_references(only_look: bool = False) -> list[Path]:
    """Write the reference models' cards; returns those that were not what their records give."""
    cards = reference_cards()
    changed = [path for path, text in cards.items() if not _holds(path, text)]
    for path in [] if only_look else changed:
        write_text(cards[path], path)
    return changed


def _text(record: CardRecord, pictures: str = PICTURES) -> str:
    return str(render_card(record, load_family(record.family).card, pictures))


def _holds(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text(encoding="utf-8") == text


def _described(source: str | None) -> dict[str, Any]:
    """What is known of data under its name, of which a run read a copy."""
    if source is None:
        return {}
    known = describe_source(DataSettings(data=source))
    return {
        "source": known.name,
        "licence": known.licence,
        "language": known.language,
        "hub_dataset": known.hub_id,
    }


def _compact(record: CardRecord) -> CardRecord:
    """Without what a card does not show."""
    names = ("step", "samples", *milestone_figures(load_family(record.family).card, record.milestones))
    rows = [{name: row.get(name) for name in names} for row in record.milestones]
    score = record.score
    if score is not None:
        figures = {
            name: {key: value for key, value in of.items() if key != "by_decile"}
            for name, of in (("", score["metrics"]), *score["baselines"].items())
        }
        score = {**score, "metrics": figures.pop(""), "baselines": figures}
    return replace(record, milestones=rows, score=score)
