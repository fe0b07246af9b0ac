"""What each choice of the latent text model is worth: target tables x collapse protections x masking kinds.

    python -m eval.benchmarks.text_ablation --data PATH/TO/wikitext2 --workers 2

One seed, from nothing, on valid: this table chooses, the test part stays unseen. Every run of the grid has full
ranking and an alignment part of weight 1, so that the target table matters. The last rows have the alignment part
alone, against a contextual target: what keeps them from saying the same everywhere is the protection, or nothing.
Cells are kept as in `text_twin`. Exit codes: 0, 1 a cell failed, 2 bad input.
"""

import argparse
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from configuration_jepa.configuration_text_jepa import COLLAPSE_PROTECTIONS, TARGET_TABLES
from eval.benchmarks.cells import Arm, collect, plan_cells
from eval.benchmarks.comparison import add_common_options, parse_changes, publish, run_all, shown_command
from eval.benchmarks.text_arms import base_overrides, text_arm
from training.common.errors import InputError
from training.common.records import check_target, package_versions

MASKINGS = ("single", "rate", "span")
METRICS = ("top1", "mrr", "median_rank", "cosine", "effective_rank", "mean_pairwise_cosine")
NOTE = (
    "One seed, valid, blanks made one at a time. Effective rank and mean pairwise cosine are those of the encoder's "
    "vectors at the blanks. `single` learns from one hole a phrase, `rate` and `span` from more of the same text, so "
    "rows of different maskings differ in what a step costs. A `contextual` target is that of the alignment and "
    "auxiliary parts only; ranking takes the online table. Ranking by itself keeps predictions apart: beside it a "
    "protection is a regulariser and no rescue. Alignment-only rows never train the table that answers: their top-1, "
    "MRR and rank say nothing."
)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; see the module."""
    options = _parser().parse_args(argv)
    try:
        check_target(Path(options.json))
        cells = plan_cells(ablation_arms(options), [options.seed], options.out)
        failed = {} if options.table else run_all(cells, options.workers).failed
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    record = summarise({name: found[0] for name, found in collect(cells).items()}, options)
    publish(record, table_rows(record), [NOTE], options.json, width=160)
    return 1 if failed else 0


def ablation_arms(options: argparse.Namespace) -> list[Arm]:
    """The recipe itself, the grid, and the runs that only a protection can save; `--only` keeps some of them."""
    arms = {"recipe": {}}
    for masking, table, protection in itertools.product(MASKINGS, TARGET_TABLES, COLLAPSE_PROTECTIONS):
        arms[f"{masking}, {table}, {protection}"] = {
            "masking": masking,
            "target_table": table,
            "collapse_protection": protection,
            "alignment_weight": 1.0,
        }
    for protection in COLLAPSE_PROTECTIONS:
        arms[f"alignment only, contextual, {protection}"] = {
            "target_table": "contextual",
            "collapse_protection": protection,
            "collapse_weight": 1.0,
            "alignment_weight": 1.0,
            "ranking_weight": 0.0,
        }
    chosen = [name for name in arms if options.only is None or options.only in name]
    if not chosen:
        raise InputError(f"only: {options.only!r} is part of no arm; there are {'; '.join(arms)}")
    exam = {"marks": [options.steps], "split": "valid", "max_rows": options.max_rows, "eval_steps": options.steps}
    shared = {"learning_rate": options.learning_rate, **parse_changes(options.set)}
    folder = Path(options.out) / "checkpoints"
    return [
        text_arm(
            name,
            base_overrides(options.data, {**arms[name], **shared}),
            exam,
            keep=str(folder / name.replace(", ", "-").replace(" ", "_")),
        )
        for name in chosen
    ]


def summarise(results: dict[str, dict], options: argparse.Namespace) -> dict[str, Any]:
    """The record of the ablation."""
    first: dict = next(iter(results.values()), {})
    rest = f" --steps {options.steps} --learning_rate {options.learning_rate:g} --seed {options.seed}"
    return {
        "schema_version": 1,
        "command": shown_command("text_ablation", options, rest),
        "num_examples": first.get("num_examples"),
        "steps": options.steps,
        "seed": options.seed,
        "arms": {
            name: {
                **{metric: cell["metrics"][metric] for metric in METRICS},
                "training_cpu_seconds": cell["training_cpu_seconds"],
            }
            for name, cell in results.items()
        },
        "note": NOTE,
        "versions": package_versions(),
    }


def table_rows(record: dict[str, Any]) -> list[list[str]]:
    """Header and a row per arm."""
    header = ["masking, table, protection", "top-1", "MRR", "median rank", "cosine", "effective rank"]
    rows = [[*header, "mean pairwise cosine", "CPU s"]]
    for name, figures in record["arms"].items():
        shown = [_shown(figures[metric], metric) for metric in METRICS]
        rows.append([name, *shown, f"{figures['training_cpu_seconds']:,.0f}"])
    return rows


def _shown(value: float | None, metric: str) -> str:
    if value is None:
        return "-"
    return f"{value:.1f}" if metric in ("median_rank", "effective_rank") else f"{value:.3f}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m eval.benchmarks.text_ablation", description=(__doc__ or "").split("\n")[0]
    )
    add_common_options(parser, "text_ablation")
    parser.set_defaults(max_rows=1000)
    parser.add_argument("--steps", type=int, default=2000, help="length of each run (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of all runs (default: %(default)s)")
    parser.add_argument("--learning_rate", type=float, default=2e-3, help="of all runs (default: %(default)s)")
    parser.add_argument("--only", metavar="TEXT", help="only the arms whose name holds this, such as 'rate, ema'")
    return parser


if __name__ == "__main__":
    sys.exit(main())
