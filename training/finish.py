"""What comes after the last step: the best checkpoint to the root, its score, the curves, the card.

All of it can be done again: a run that is killed here does it at its next start.
"""

import json
import sys
from pathlib import Path, PurePath
from typing import Any

from rich.console import Console

from eval.plots.curves import plot_run, read_log
from eval.score import score, score_table
from eval.scorers.request import ScoreRequest
from training.cards.record import CardRecord, facts_of
from training.cards.writing import write_run_card
from training.common.layout import CARD_FILE, CURVES_FILE, KEPT, LOG_FILE, MILESTONES_FILE, SCORE_FILE
from training.common.manifest import read_run
from training.common.records import write_json
from training.data.prepared import OVERLAP_NOTE, Prepared
from training.families import load_family
from training.run.run import Run
from training.run.state import RUN_STATE, RunState
from training.run_folder.checkpoints import (
    PREFIX,
    NoWholeCheckpointError,
    Resumable,
    check_whole,
    fill_root,
    finished_steps,
    list_checkpoints,
    root_step,
    step_of,
)
from training.runtime.hardware import describe_machine


def is_finished(run: Run, resumable: Resumable) -> bool:
    """Whether nothing is left to do: all steps done, the root whole, its figures those of the last step, the card
    there.
    """
    return resumable.finished or (is_over(run, resumable) and finished_steps(run.output_dir) == resumable.step)


def is_over(run: Run, resumable: Resumable) -> bool:
    """Whether all steps are done, or the run was ended early and its patience is no larger now."""
    if resumable.path is None or resumable.step >= run.training.max_steps:
        return resumable.step >= run.training.max_steps
    state = RunState()
    if (resumable.path / RUN_STATE).is_file():  # else the resume refuses it by name
        state.restore(resumable.path)
    return not state.is_patient(run.evaluation.early_stopping_patience)


def show_score(run_dir: Path) -> None:
    """Print the table of figures that a finished run left, if it was scored."""
    if (run_dir / SCORE_FILE).is_file():
        try:
            _print_table(json.loads((run_dir / SCORE_FILE).read_text(encoding="utf-8")))
        except (ValueError, KeyError, TypeError):
            again = f"python -m eval.score {run_dir} --json {run_dir / SCORE_FILE}"
            print(f"note: {run_dir / SCORE_FILE} is damaged; score again: {again}", file=sys.stderr)


def finish(run: Run, run_state: RunState, model_facts: dict[str, Any], prepared: Prepared) -> None:
    """Fill the root of the run folder and put figures, curves and card beside it."""
    family = load_family(run.family)
    (run.output_dir / CARD_FILE).unlink(missing_ok=True)  # of fewer steps; a card says that all of this is done
    kept = fill_root_from_best(run.output_dir, run_state)
    growth = {} if run_state.growth is None else {"growth": run_state.growth}
    early = run_state.milestones[-1]["step"] < run.training.max_steps
    ended = {"ended_early": True} if early else {}
    write_json({"milestones": run_state.milestones, **growth, **ended}, run.output_dir / MILESTONES_FILE)
    if early:
        last, since = run_state.milestones[-1]["step"], run_state.evaluations_without_gain
        print(
            f"ended early, at step {last:,}: {run.evaluation.best_metric} was best at step {run_state.best_step:,}, "
            f"and no better in {since} evaluation{'s' * (since != 1)} since"
        )
    plot_run(run.output_dir / LOG_FILE, run.output_dir / CURVES_FILE)
    shown = family.at_end(run, prepared)
    record = _score(run) if run.evaluation.final_score else None
    if record is not None:
        family.plot_score(record, run.output_dir)
    card = CardRecord(
        run=read_run(run.output_dir) or {},
        facts=facts_of(run, family, model_facts, kept, run_state)
        | {"data_notes": [*data_notes(record, prepared), *kept_notes(run, run_state)]},
        machine=describe_machine(read_log(run.output_dir / LOG_FILE)),
        score=record,
        milestones=run_state.milestones,
        shown=shown,
    )
    write_run_card(run.output_dir, card, family)


def fill_root_from_best(run_dir: Path, run_state: RunState) -> int:
    """Fill the root, unless it is; returns the step it now holds."""
    kept = _best_whole(run_dir, run_state.best_step)
    if root_step(run_dir) != step_of(kept):
        fill_root(run_dir, kept)
    return step_of(kept)


def _best_whole(run_dir: Path, best_step: int | None) -> Path:
    """The best checkpoint; where it is damaged, the newest whole one. Raises `NoWholeCheckpointError`."""
    best = [] if best_step is None else [run_dir / f"{PREFIX}{best_step}"]
    problem = None
    for checkpoint in (*best, *reversed(list_checkpoints(run_dir))):
        problem = check_whole(checkpoint)
        if problem is None:
            return checkpoint
        print(f"skipped: {problem}", file=sys.stderr)
    raise NoWholeCheckpointError(f"no checkpoint in {run_dir} is whole ({problem}); train again with --resume never")


def _score(run: Run) -> dict[str, Any]:
    request = ScoreRequest(
        checkpoint=str(run.output_dir),
        max_rows=run.evaluation.score_rows,
        device=None if run.device == "auto" else run.device,
    )
    record = score(request)
    write_json(record, run.output_dir / SCORE_FILE)
    _print_table(record)
    return record


def data_notes(record: dict[str, Any] | None, prepared: Prepared) -> list[str]:
    """What a card says beside the figures: how much of the held-out text the model does not know, or has seen."""
    if record is None:
        return []
    report, unknown = prepared.reports.get("test", {}), record["metrics"].get("unknown_share")
    notes = []
    if unknown is not None:
        of_all = record["metrics"].get("top1_of_all")
        counted = (
            "none counts as right" if of_all is None else f"no blank stands there; as wrong, top-1 is {of_all:.3f}"
        )
        said = f" ({counted})" if unknown and "quality" not in record["metrics"] else ""
        notes.append(f"{unknown:.1%} of the tokens are unknown to the tokenizer{said}.")
    if "overlap" in report:
        share = report["overlap"]["near_share"]
        by_heart = ": the figures tell in part what was learnt by heart" if share >= OVERLAP_NOTE else ""
        notes.append(f"{share:.1%} of the tokens stand in rows of the training part too{by_heart}.")
    if "seen_in_training" in report:
        seen = report["seen_in_training"]
        notes.append(
            f"{seen['replies']:,} of the {seen['pairs']:,} replies stand in the training part too, "
            f"{seen['whole_pairs']:,} of them as answers to the same turn."
        )
    return notes


def kept_notes(run: Run, run_state: RunState) -> list[str]:
    """What a card says of the text that was to be kept: the figures of its first and last milestone."""
    rows = [row for row in run_state.milestones if row.get(KEPT[0]) is not None]
    if not rows:
        return []
    name = PurePath(run.evaluation.keep).name
    figures = [f"{row[KEPT[0]]:,.1f} at step {row['step']:,}" for row in (rows[0], rows[-1])]
    return [f"Perplexity on held-out text of {name}, which was to be kept: {', '.join(figures)}."]


def _print_table(record: dict[str, Any]) -> None:
    console = Console()
    console.width = max(console.width, 110)
    console.print(score_table(record))
