"""What comparisons of recipes share: runs made from a recipe, cells run on prepared data, the options of commands.

Commands are run from the root of a checkout, as recipes are named by their path in it.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from eval.benchmarks.cells import Cell, Outcome, run_cells
from training.common.errors import InputError
from training.common.records import write_json
from training.run.arguments import parse_arguments
from training.run.run import Run


def parse_run(recipe: str, overrides: dict[str, Any], seed: int, steps: int, output_dir: Path) -> Run:
    """A recipe with overrides as the command line would take it, on the CPU."""
    flags = [part for name, value in overrides.items() for part in _flags(name, value)]
    own = [f"--seed={seed}", f"--max_steps={steps}", f"--output_dir={output_dir}", "--device=cpu"]
    return parse_arguments([recipe, *flags, *own])


def run_of_cell(settings: dict[str, Any], seed: int, output_dir: Path) -> Run:
    """The run of a cell with the files that it names; `run_steps` is its length where the exam has none."""
    from training.families import load_family

    steps = settings.get("run_steps", settings["exam"]["marks"][-1])
    run = parse_run(settings["recipe"], settings["overrides"], seed, steps, output_dir)
    return load_family(run.family).with_files(run)


def run_all(cells: Sequence[Cell], workers: int) -> Outcome:
    """Run what is missing; the data is prepared once before, so that no cell's figures contain it."""
    waiting = [cell for cell in cells if not cell.done]
    if waiting:
        from training.families import load_family
        from training.trainer.build import prepare_data

        run = run_of_cell(waiting[0].arm.settings, 0, Path("unused"))
        prepared = prepare_data(run, load_family(run.family))
        print(
            f"{len(waiting)} of {len(cells)} cells to run; {len(prepared.train):,} rows, {len(prepared.test):,} test"
        )
    outcome = run_cells(cells, workers, progress=True)
    for name, error in outcome.failed.items():
        print(f"failed: {name}: {error}")
    return outcome


def add_common_options(parser: argparse.ArgumentParser, name: str, flag: str = "--data") -> None:
    """The options of every comparison of recipes; `flag` is the family's own for its source."""
    help_text = "the source, as in the recipe; such as a folder"
    parser.add_argument(flag, dest="data", required=True, help=help_text)
    parser.add_argument(
        "--out", default=f"outputs/benchmarks/{name}", help="folder of the cells (default: %(default)s)"
    )
    parser.add_argument(
        "--json", default=f"model_cards/results/{name}.json", help="result file (default: %(default)s)"
    )
    parser.add_argument("--workers", type=int, default=1, help="one-thread processes at a time (default: 1)")
    parser.add_argument("--table", action="store_true", help="run nothing: collect what is there")
    parser.add_argument("--max_rows", type=int, help="rows that are scored at the end, a seeded subset (default: all)")
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="KEY=VALUE", help="keys of the recipe that change for every arm"
    )


def parse_changes(pairs: Sequence[str]) -> dict[str, str]:
    """`KEY=VALUE` items as a dictionary. Raises InputError."""
    for pair in pairs:
        if "=" not in pair:
            raise InputError(f"set: got {pair!r}; use KEY=VALUE, such as hidden_size=64")
    return dict(pair.split("=", 1) for pair in pairs)


def shown_command(module: str, options: argparse.Namespace, rest: str = "", flag: str = "--data") -> str:
    """The command that re-makes a result, with the place of the data left open."""
    source = f"PATH/TO/{Path(options.data).resolve().name}" if Path(options.data).exists() else options.data
    changes = f" --set {' '.join(options.set)}" if options.set else ""
    rows = f" --max_rows {options.max_rows}" if options.max_rows else ""
    return f"python -m eval.benchmarks.{module} {flag} {source}{rest}{rows}{changes}"


def publish(
    record: dict[str, Any], rows: Sequence[Sequence[str]], notes: Sequence[str], path: str, width: int
) -> None:
    """Write a record to `path`, and its table, notes and command beside it as Markdown; show those, `width` wide."""
    text = "\n\n".join([markdown(rows).rstrip("\n"), *notes, f"`{record['command']}`"]) + "\n"
    write_json(record, path)
    Path(path).with_suffix(".md").write_text(text, encoding="utf-8")
    Console(width=width).print(text)


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Header and rows as a Markdown table."""
    header, *body = rows
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, rule, *body)) + "\n"


def _flags(name: str, value: Any) -> list[str]:
    if isinstance(value, list):
        return [f"--{name}", *map(str, value)]
    return [f"--{name}={str(value).lower() if isinstance(value, bool) else value}"]
