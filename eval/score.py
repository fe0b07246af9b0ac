"""Score a checkpoint on held-out data, beside its baselines.

    python -m eval.score outputs/quickstart --data builtin:sotu --json scores.json

The data is prepared as in training (settings come from the checkpoint's run.json); `--data` changes the source only.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from eval.errors import NonFiniteError
from eval.loading import quiet_libraries
from eval.metrics.ranks import FIGURE_NAMES
from eval.records import check_target, package_versions, write_json
from eval.scorers.checkpoint import ScoreRequest, score_checkpoint
from eval.scorers.text_jepa import MAX_ROWS, Scores
from training.data.errors import InputError
from training.data.rows import RowReport

SCHEMA_VERSION = 1
_HEADINGS = ("top-1", "top-5", "top-10", "MRR", "median", "mean", "cosine", "cos>.9")


def score(request: ScoreRequest) -> dict[str, Any]:
    """Score a checkpoint; returns the Score JSON (plain Python, None and never NaN).

    Keys: schema_version, family, checkpoint, data, split, num_examples (blanks), num_rows, seed, versions,
    metrics{}, baselines{name: {same keys}}, and rows (what was read, left out and unusable).

    Raises:
        InputError: bad checkpoint, source or setting. NonFiniteError: the model's scores are NaN.
    """
    scored = score_checkpoint(request)
    record = score_record(
        scored.scores, scored.family, request.checkpoint, scored.settings.data, scored.split, request.seed
    )
    return {**record, "rows": scored.rows.to_dict()}


def score_record(scores: Scores, family: str, checkpoint: str, data: str, split: str, seed: int) -> dict[str, Any]:
    """The Score JSON of figures that were made elsewhere, by a trainer for instance."""
    return {
        "schema_version": SCHEMA_VERSION,
        "family": family,
        "checkpoint": checkpoint,
        "data": data,
        "split": split,
        "num_examples": scores.num_examples,
        "num_rows": scores.num_rows,
        "seed": seed,
        "versions": package_versions(),
        "metrics": scores.metrics,
        "baselines": scores.baselines,
    }


def score_table(record: dict[str, Any]) -> Table:
    """All figures beside the unigram baseline, overall and by frequency decile of the targets.

    Decile 1 holds the most frequent targets; beside it stands how often they occur in the training part.
    """
    title = f"{record['checkpoint']} on {record['data']} ({record['split']}): {record['num_examples']:,} blanks"
    # `Text`, because a token such as [bold] would be read as rich's markup.
    table = Table(
        title=Text(title), caption=Text(_caption(record)), title_justify="left", caption_justify="left", box=SIMPLE
    )
    table.add_column("decile: training count", no_wrap=True)
    table.add_column("", style="dim")
    for heading in _HEADINGS:
        table.add_column(heading, justify="right")
    model, unigram = record["metrics"], record["baselines"]["unigram"]
    _add_pair(table, "all", model, unigram)
    table.add_section()
    # `or ()`: without training counts there are no deciles and no baseline.
    for ours, theirs in zip(model["by_decile"] or (), unigram["by_decile"] or (), strict=True):
        label = f"{ours['decile']}: {_count_range(ours)}"
        _add_pair(table, label, ours, theirs)
    return table


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code: 0, 2 for bad input, 3 for a model that gives NaN."""
    arguments = _parser().parse_args(argv)
    request = ScoreRequest(
        checkpoint=arguments.checkpoint,
        data=arguments.data,
        split=arguments.split,
        text_column=arguments.text_column,
        max_rows=arguments.max_rows,
        batch_size=arguments.batch_size,
        seed=arguments.seed,
        device=arguments.device,
        progress=sys.stderr.isatty(),
    )
    quiet_libraries()
    try:
        if arguments.json is not None:
            check_target(Path(arguments.json))
        record = score(request)
        if arguments.json is not None:
            write_json(record, arguments.json)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except NonFiniteError as error:
        print(f"error: {error}", file=sys.stderr)
        return 3
    console = Console()
    # A pipe or a log has no width of its own, and a table folded at 80 columns cannot be read.
    console.width = max(console.width, 110)
    console.print(score_table(record))
    console.print(RowReport(**record["rows"]).summary(), markup=False, highlight=False)
    return 0


def _add_pair(table: Table, label: str, model: dict, unigram: dict) -> None:
    """Two rows: the model's figures and the baseline's."""
    table.add_row(label, "model", *_cells(model))
    table.add_row("", "unigram", *_cells(unigram), style="dim")


def _cells(figures: dict) -> list[str]:
    """Figures as short text: ranks with one decimal, shares and cosines with three, - for what makes no sense."""
    cells = []
    for name in FIGURE_NAMES:
        value = figures[name]
        digits = 1 if name.endswith("rank") else 3
        cells.append("-" if value is None else f"{value:,.{digits}f}")
    return cells


def _count_range(decile: dict) -> str:
    """How often a decile's tokens stood in the training part."""
    if decile["num_examples"] == 0:
        return "no blanks"
    return f"{decile['max_count']:,} to {decile['min_count']:,}"


def _caption(record: dict[str, Any]) -> str:
    """The tokens put first most often, so that a model that always says the same is seen at once."""
    words = ", ".join(f"{token} {share:.1%}" for token, share in record["metrics"]["most_predicted"][:5])
    return f"Most predicted: {words}. Ranks are among the whole vocabulary; ties count against the model."


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m eval.score", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkpoint", help="folder of a trained model, or its repository id")
    parser.add_argument("--data", help="source to score on (default: the one it was trained on)")
    parser.add_argument(
        "--split", choices=("train", "valid", "test", "all"), help="default: test; a file is used whole"
    )
    parser.add_argument("--text_column", help="column of the source that holds the text")
    parser.add_argument("--json", metavar="FILE", help="also write the figures to this file")
    parser.add_argument(
        "--max_rows",
        type=_rows_or_all,
        default=MAX_ROWS,
        metavar="N",
        help=f"rows to score, a seeded subset, or `all` (default: {MAX_ROWS})",
    )
    parser.add_argument("--batch_size", type=int, default=64, help="blanks per forward pass (default: 64)")
    parser.add_argument("--seed", type=int, default=0, help="decides the subset (default: 0)")
    parser.add_argument("--device", help="cpu, cuda, ... (default: a GPU where there is one)")
    return parser


def _rows_or_all(text: str) -> int | None:
    """A number of rows; None for `all`."""
    return None if text == "all" else int(text)


if __name__ == "__main__":
    sys.exit(main())
