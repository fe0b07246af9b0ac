"""Score a checkpoint on held-out data, beside its baselines.

    python -m eval.score outputs/quickstart --data builtin:sotu --json scores.json
    python -m eval.score outputs/staged-3 --data PATH/TO/wikitext2
    python -m eval.score outputs/dialogue --data PATH/TO/dailydialog
    python -m eval.score outputs/video --digits PATH/TO/mnist --plot frames.png
    python -m eval.score outputs/video --clips PATH/TO/gifs

The data is prepared as in training (settings come from the checkpoint's run.json); `--data` changes the source only.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from eval.command import add_checkpoint, new_parser, run_command
from eval.scorers.request import AFFORDABLE, BATCH_SIZE, MAX_CLIPS, MAX_PAIRS, MAX_ROWS, ScoreRequest
from training.common.errors import InputError
from training.common.records import check_target, package_versions, write_json
from training.data.sources.rows import RowReport

SCHEMA_VERSION = 1


def score(request: ScoreRequest) -> dict[str, Any]:
    """Score a checkpoint; returns the Score JSON (plain Python, None and never NaN).

    Keys: schema_version, family, checkpoint, data, split, num_examples (blanks, pairs, clips or tokens), num_rows,
    seed, versions, metrics{}, baselines{name: {same keys}}, and rows (what was read, left out and unusable); of causal
    models also scoring (context, stride, documents, max_tokens), of dialogue models scoring (candidates,
    greedy_replies, reply_tokens, contexts_cut, replies_cut), of video models scoring (context_frames,
    predicted_frames, frame_size, sampled_clips, steps, temperature, top_k).

    Raises:
        InputError: bad checkpoint, source or setting. NonFiniteError: the model's scores are NaN.
    """
    from eval.scorers.checkpoint import choose_split, data_settings, family_of, scorer_of

    if request.batch_size < 1:
        raise InputError(f"batch_size must be at least 1, was given {request.batch_size}")
    request.rows(MAX_ROWS)
    family = family_of(request.checkpoint)
    settings = data_settings(request)
    split = choose_split(request, settings)
    scores, report = scorer_of(family).score(request, settings, split)
    return {
        "schema_version": SCHEMA_VERSION,
        "family": family,
        "checkpoint": request.checkpoint,
        "data": settings.data,
        "split": split,
        "num_examples": scores.num_examples,
        "num_rows": scores.num_rows,
        "seed": request.seed,
        "versions": package_versions(),
        "metrics": scores.metrics,
        "baselines": scores.baselines,
        **({"scoring": scores.details} if scores.details else {}),
        "rows": report.to_dict(),
    }


def score_table(record: dict[str, Any]) -> Table:
    """All figures of a Score JSON beside its baselines, as the family shows them."""
    from eval.scorers.checkpoint import scorer_of

    return scorer_of(record["family"]).table(record)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code: 0, 2 for bad input, 3 for a model that gives NaN."""
    return run_command(_parser(), _score, argv)


def _score(arguments: argparse.Namespace) -> None:
    from eval.plots.frame_curves import plot_frames
    from eval.scorers.checkpoint import family_of, scorer_of

    asked = {one.name: getattr(arguments, one.name) for one in fields(ScoreRequest) if one.name != "progress"}
    request = ScoreRequest(**asked, progress=sys.stderr.isatty())
    for target in (arguments.json, arguments.plot):
        if target is not None:
            check_target(Path(target))
    if arguments.plot is not None and not scorer_of(family_of(request.checkpoint)).by_frame:
        raise InputError(f"plot: got {arguments.plot!r}, but {request.checkpoint} is no video model; leave it out")
    record = score(request)
    if arguments.json is not None:
        write_json(record, arguments.json)
    if arguments.plot is not None:
        plot_frames(record, arguments.plot)
    console = Console()
    # A pipe or a log has no width of its own, and a table folded at 80 columns cannot be read.
    console.width = max(console.width, 110)
    console.print(score_table(record))
    console.print(RowReport(**record["rows"]).summary(), markup=False, highlight=False)


def _parser() -> argparse.ArgumentParser:
    parser = new_parser("eval.score", __doc__)
    add_checkpoint(parser)
    parser.add_argument("--data", help="source to score on (default: the one it was trained on)")
    parser.add_argument(
        "--split", choices=("train", "valid", "test", "all"), help="default: test; a file is used whole"
    )
    parser.add_argument("--text_column", help="column of the source that holds the text")
    parser.add_argument("--label_column", help="column of the source that holds the labels, for a classifier")
    parser.add_argument(
        "--allow_unknown", action="store_true", help="score a text of which the tokenizer does not know the half"
    )
    parser.add_argument("--json", metavar="FILE", help="also write the figures to this file")
    parser.add_argument(
        "--max_rows",
        type=_number_or_word,
        default=AFFORDABLE,
        metavar="N",
        help=f"rows, documents, pairs or clips to score, a seeded subset, or `all` (default: `{AFFORDABLE}`, "
        f"{MAX_ROWS:,} rows or documents, {MAX_PAIRS:,} pairs of a dialogue model, {MAX_CLIPS:,} clips of a video "
        "model, fewer of a large one on a CPU)",
    )
    parser.add_argument(
        "--batch_size",
        type=int,
        default=BATCH_SIZE,
        help=f"blanks, windows or clips per forward pass (default: {BATCH_SIZE})",
    )
    parser.add_argument("--seed", type=int, default=0, help="decides the subset (default: 0)")
    video = parser.add_argument_group("video models")
    video.add_argument(
        "--digits", "--clips", dest="digits", help="digits to make the clips of, or clips, in the place of --data"
    )
    video.add_argument("--plot", metavar="FILE", help="also draw the figures by predicted frame, as a picture")
    causal = parser.add_argument_group("causal models")
    causal.add_argument(
        "--documents",
        choices=("auto", "rows", "headings", "file"),
        help="what a document of the source is (default: as in training)",
    )
    causal.add_argument("--context", type=int, help="tokens the model sees at most (default: its own length)")
    causal.add_argument("--stride", type=int, help="tokens scored by each further window (default: half the context)")
    causal.add_argument(
        "--max_tokens",
        type=_number_or_word,
        default=AFFORDABLE,
        metavar="N",
        help=f"tokens to score, of a seeded choice of documents, or `all` (default: `{AFFORDABLE}`, what two cores "
        "score in about seven minutes)",
    )
    return parser


def _number_or_word(text: str) -> int | str | None:
    """A number; None for `all`, and `auto` as it is."""
    if text == AFFORDABLE:
        return text
    return None if text == "all" else int(text)


if __name__ == "__main__":
    sys.exit(main())
