"""What the commands of this folder share: options, cells, the choice of a rate, a record as JSON, and its table.

`Benchmark` is a command that writes a record; `Comparison` one whose record is of arms, each a recipe with overrides.
Commands are run from the root of a checkout, as recipes are named by their path in it.
"""

import argparse
import shlex
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

from rich.console import Console

from eval.benchmarks.cells import Arm, Cell, Outcome, collect, plan_cells, run_cells
from eval.benchmarks.columns import Column, Record, Row, guess_rows
from eval.benchmarks.exams.runs import flags, run_of_cell
from eval.benchmarks.statistics import Cells, Results, markdown, mean_and_spread
from eval.command import new_parser, run_command
from training.common.errors import InputError
from training.common.records import check_target, package_versions, write_json
from training.run.arguments import parse_arguments
from training.run.run import Run

Options = argparse.Namespace
Rates = dict[str, float]
Tuning = dict[str, Rates]
Tuned = tuple[Rates, Tuning, dict[str, str]]
OPTIONS: dict[str, dict[str, Any]] = {
    "max_rows": {"type": int, "help": "rows that are scored, a seeded subset (default: %(default)s; None for all)"},
    "max_tokens": {"type": int, "help": "test tokens that are scored, a seeded subset (default: all)"},
    "set": {"nargs": "*", "metavar": "KEY=VALUE", "help": "keys of the recipe that change for every arm"},
    "recipe": {"help": "recipe of the arms (default: %(default)s)"},
    "decoder": {"required": True, "help": "a causal language model's folder or Hub id"},
    "arms": {"nargs": "+", "help": "arms (default: all)"},
    "seeds": {"type": int, "help": "seeds 0 .. N-1 for each arm (default: %(default)s)"},
    "seed": {"type": int, "help": "of all runs (default: %(default)s)"},
    "steps": {"type": int, "help": "length of the long runs (default: %(default)s; None for the recipe's)"},
    "base_steps": {"type": int, "help": "length of the training that all arms go on from (default: the recipe's)"},
    "seconds": {
        "type": int,
        "help": "CPU seconds of each long run instead of marks, by what tuning steps cost",
    },
    "marks": {"type": int, "nargs": "+", "help": "steps at which test is scored (default: %(default)s)"},
    "rates": {"type": float, "nargs": "+", "help": "learning rates to try; one: no tuning (default: %(default)s)"},
    "learning_rate": {"type": float, "help": "of all runs (default: %(default)s)"},
    "tuning_steps": {"type": int, "help": "length of the runs that choose the rate (default: %(default)s)"},
    "eval_steps": {"type": int, "help": "distance of the points of the valid curve (default: %(default)s)"},
    "eval_rows": {"type": int, "help": "rows of valid that a point is scored on (default: %(default)s)"},
    "greedy_replies": {"type": int, "help": "contexts that are answered (default: %(default)s)"},
}
_OF_AN_EXAM = ("max_rows", "max_tokens", "eval_steps", "eval_rows", "greedy_replies")


class Benchmark:
    """A command that measures something.

    Attributes:
        name: of its module, its result file and its table on the pages.
        note: how to read the table.
        width: of the terminal that the table is shown on.
        heading, columns: of the labels of the table's rows, and what stands right of them.
        names: name of an arm -> its label on the pages.
        off_pages: headings of the columns that the pages leave out.
    """

    name: ClassVar[str]
    note: ClassVar[str] = ""
    width: ClassVar[int] = 200
    heading: ClassVar[str] = "arm"
    columns: ClassVar[Sequence[Column]] = ()
    names: ClassVar[dict[str, str]] = {}
    off_pages: ClassVar[tuple[str, ...]] = ()

    def main(self, argv: Sequence[str] | None = None) -> int:
        """Command line: 0; 1 where a part failed or what is required does not hold; 2 for bad input."""
        return run_command(self.parser(), self.work, argv)

    def parser(self) -> argparse.ArgumentParser:
        """The options; all benchmarks have `--json`."""
        parser = new_parser(f"eval.benchmarks.{self.name}", sys.modules[type(self).__module__].__doc__)
        place = f"model_cards/results/{self.name}.json"
        parser.add_argument("--json", default=place, help="result file (default: %(default)s)")
        return parser

    def work(self, options: Options) -> int:
        """Measure; write the record, and its text beside it as Markdown; show that."""
        check_target(Path(options.json))
        record, failed = self.measure(options)
        text = self.text(record)
        write_json(record, options.json)
        Path(options.json).with_suffix(".md").write_text(text, encoding="utf-8")
        Console(width=self.width).print(text)
        return 1 if failed or False in record.get("required", {}).values() else 0

    def measure(self, options: Options) -> tuple[Record, bool]:
        """The record, all of it measured, and whether a part of it failed."""
        raise NotImplementedError

    def columns_of(self, record: Record) -> Sequence[Column]:
        """The columns, where they depend on the record."""
        return self.columns

    def rows(self, record: Record) -> Iterable[Row]:
        """A row per arm and step, then one per guesser."""
        for name, arm in record.get("arms", {}).items():
            found = arm["at"] if "at" in arm else {None: arm.get("figures", {})}
            for step, taken in found.items():
                label = name if len(found) == 1 else f"{name}, {step}"
                yield Row(name, label, taken, arm, step, ends=step == list(found)[-1])
        yield from guess_rows(record.get("baselines", {}))

    def evidence(self, record: Record) -> list[str]:
        """What stands below the table beside what is required, a line each."""
        return []

    def table(self, record: Record, on_page: bool = False) -> list[list[str]]:
        """Header and rows; on the pages some columns are left out, and arms have longer names."""
        columns = [one for one in self.columns_of(record) if not (on_page and one.heading in self.off_pages)]
        names = self.names if on_page else {}
        lines = [[self.heading, *(one.heading for one in columns)]]
        for row in self.rows(record):
            label = row.label.replace(row.name, names.get(row.name, row.name), 1)
            lines.append([label, *(one.show(record, row) for one in columns)])
        return lines

    def text(self, record: Record) -> str:
        """Table, conclusions, note and command as Markdown."""
        required = record.get("required", {}).items()
        lines = [f"- required: {name}: {'yes' if holds else 'NO'}" for name, holds in required]
        conclusions = "\n".join([*lines, *self.evidence(record)])
        parts = [markdown(self.table(record)).rstrip("\n"), conclusions, record.get("note"), f"`{record['command']}`"]
        return "\n\n".join(filter(None, parts)) + "\n"


class Comparison(Benchmark):
    """Arms x seeds; finished cells are kept.

    Attributes:
        arms: name -> what makes it differ.
        family: whose exam the arms take.
        flag, source: the option of the family's source, and its default; None where it must be given.
        options: of `OPTIONS` -> default.
        shown: options that stand in the command of a record, in this order; those with a "?" where they differ from
            their default.
        fixed: fields of `exams.exam.Plan` that no option gives.
        tuning_rows: bound of the rows by which a rate is chosen.
        best: picks the best of the values by which a rate is chosen.
    """

    arms: ClassVar[dict[str, dict[str, Any]]]
    family: ClassVar[str]
    flag: ClassVar[str] = "--data"
    source: ClassVar[str | None] = None
    options: ClassVar[dict[str, Any]] = {}
    shown: ClassVar[tuple[str, ...]] = ()
    fixed: ClassVar[dict[str, Any]] = {}
    tuning_rows: ClassVar[int | None] = None
    best: ClassVar[Callable[..., str]] = min

    def parser(self) -> argparse.ArgumentParser:
        """The options of every comparison, and those of `options`."""
        parser, is_needed = super().parser(), self.source is None
        parser.add_argument(self.flag, dest="data", required=is_needed, default=self.source, help="as in the recipe")
        place = f"outputs/benchmarks/{self.name}"
        parser.add_argument("--out", default=place, help="folder of the cells (default: %(default)s)")
        parser.add_argument("--workers", type=int, default=1, help="one-thread processes at a time (default: 1)")
        parser.add_argument("--table", action="store_true", help="run nothing: collect what is there")
        for name, default in {"set": [], **self.options}.items():
            choices = {"choices": list(self.arms)} if name == "arms" else {}
            parser.add_argument(f"--{name}", default=default, **choices, **OPTIONS[name])
        return parser

    def measure(self, options: Options) -> tuple[Record, bool]:
        """Choose the rates, run what is missing, and bring together what is there."""
        rates, tuning, failed = self.tune(options)
        cells = self.plan(options, rates)
        failed |= self.run(cells, options)
        return self.record(collect(cells), tuning, options), bool(failed)

    def tune(self, options: Options) -> Tuned:
        """Arm -> rate with the best value on valid, in short runs with seed 0; arm -> rate -> value; and what failed.

        Arms without a result are left out. Where there is only one rate to try, nothing is run.
        """
        names, rates = self.tuned(options), vars(options).get("rates", [])
        if len(rates) < 2:
            return {name: rate for rate in rates for name in names}, {}, {}
        exam = self.tuning_exam(options)
        made = {
            (name, rate): self.arm(name, f"{name}-{rate:g}", rate, exam, options) for name in names for rate in rates
        }
        cells = plan_cells(list(made.values()), [0], Path(options.out) / "tuning")
        failed = self.run(cells, options)
        results = collect(cells)
        tuning: Tuning = {name: {} for name in names}
        for (name, rate), arm in made.items():
            if arm.name in results:
                tuning[name][f"{rate:g}"] = self.value(name, results[arm.name][0]["metrics"])
        best = {name: float(self.best(tried, key=tried.__getitem__)) for name, tried in tuning.items() if tried}
        return best, tuning, failed

    def chosen(self, options: Options) -> list[str]:
        """Names of the arms that are run."""
        return vars(options).get("arms", list(self.arms))

    def tuned(self, options: Options) -> list[str]:
        """Names of the arms whose rate is chosen."""
        return self.chosen(options)

    def marks(self, options: Options) -> list[int]:
        """Steps of the long runs at which they are scored."""
        return [options.steps]

    def exam(self, options: Options) -> dict[str, Any]:
        """Fields of `exams.exam.Plan` for the long runs."""
        given = {name: vars(options)[name] for name in _OF_AN_EXAM if name in vars(options)}
        return {"marks": self.marks(options), **self.fixed, **given}

    def tuning_exam(self, options: Options) -> dict[str, Any]:
        """The same for the short runs."""
        steps = {"marks": [options.tuning_steps], "eval_steps": options.tuning_steps}
        rows = {"eval_rows": self.exam(options)["eval_rows"], "max_rows": self.tuning_rows}
        return {**steps, **rows, "split": "valid"}

    def value(self, name: str, metrics: dict[str, Any]) -> float:
        """What the rate of an arm is chosen by."""
        return metrics["perplexity"]

    def arm(self, name: str, label: str, rate: float | None, exam: dict[str, Any], options: Options) -> Arm:
        """An arm, at a rate where rates are chosen, under a label of its own."""
        raise NotImplementedError

    def recipe_arm(
        self, label: str, recipe: str, overrides: dict[str, Any], exam: dict[str, Any], **settings: Any
    ) -> Arm:
        """An arm that takes the family's exam, see `exams.exam.Exam`; what its overrides name counts as data."""
        given = {"recipe": recipe, "overrides": overrides, "model": "recipe", "exam": exam, **settings}
        sources = [overrides[key] for key in (self.flag.removeprefix("--"), "init_from") if key in overrides]
        sources += [each for each in [overrides.get("pretrained_decoder")] if each and Path(each).exists()]
        return Arm(label, given, f"eval.benchmarks.exams.{self.family}:train_and_mark", tuple(sources))

    def kept_in(self, options: Options, name: str) -> str:
        """Where the weights of an arm are kept."""
        return str(Path(options.out) / "checkpoints" / name)

    def plan(self, options: Options, rates: Rates) -> list[Cell]:
        """The cells of the long runs."""
        exam = self.exam(options)
        names = rates if "rates" in vars(options) else self.chosen(options)
        arms = [self.arm(name, name, rates.get(name), exam, options) for name in names]
        seeds = range(options.seeds) if "seeds" in vars(options) else [options.seed]
        return plan_cells(arms, seeds, Path(options.out) / "runs")

    def run(self, cells: Sequence[Cell], options: Options) -> dict[str, str]:
        """Run what is missing, unless only the table is asked for; what failed."""
        return {} if options.table else run_all(cells, options.workers).failed

    def record(self, results: Results, tuning: Tuning, options: Options) -> Record:
        """All that was measured, nothing else."""
        record = {
            "schema_version": 1,
            "command": self.command(options),
            "arms": {name: self.figures(name, results, tuning, options) for name in results},
            **self.summary(results, options),
            "note": self.note,
            "versions": package_versions(),
        }
        required = self.required(record)
        return record if required is None else {**record, "required": required}

    def figures(self, name: str, results: Results, tuning: Tuning, options: Options) -> Record:
        """What the record says of an arm."""
        raise NotImplementedError

    def summary(self, results: Results, options: Options) -> Record:
        """What the record says beside the arms."""
        return {}

    def required(self, record: Record) -> dict[str, bool] | None:
        """What must hold, as far as the arms for it are there; None where nothing must."""
        return None

    def said(self, options: Options) -> dict[str, Any]:
        """Options that the command of a record gives in another way; None leaves one out."""
        return {}

    def command(self, options: Options) -> str:
        """The command that re-makes a result, with the places of data and checkpoints left open."""
        defaults, said = self.parser(), self.said(options)
        parts = [f"python -m eval.benchmarks.{self.name} {self.flag} {left_open(options.data)}"]
        for option in (*self.shown, "max_rows", "set"):
            name = option.removesuffix("?")
            value = said.get(name, vars(options).get(name))
            changed = value != defaults.get_default(name) or not option.endswith("?")
            if changed and value not in (None, [], False):
                parts.append(f"--{name}" if value is True else f"--{name} {_shown(value)}")
        return " ".join(parts)


def rate_of(cells: Cells, tried: Rates | None, key: str) -> Record:
    """The rate of an arm's cells, under `key` what was found for those that were tried, and whether it lies at their
    edge, so that a better one may lie beyond.
    """
    rate = cells[0]["arm"]["settings"]["overrides"]["learning_rate"]
    return {"learning_rate": rate, key: tried, "rate_at_the_grids_edge": at_edge(rate, tried or {})}


def at_edge(rate: float, tried: Rates) -> bool:
    """Whether a rate was the lowest or highest of those tried."""
    return bool(tried) and rate in (min(map(float, tried)), max(map(float, tried)))


def arm_costs(cells: Cells, *names: str) -> Record:
    """An arm's seeds, its parameters that learn, and what its training took, over the seeds."""
    taken = {name: mean_and_spread([cell[name] for cell in cells]) for name in names}
    return {"seeds": [cell["seed"] for cell in cells], "num_parameters": cells[0]["num_parameters"], **taken}


def of_first(results: Results, *names: str) -> Record:
    """What all cells have alike, from the first that is there."""
    first = next(iter(results.values()), [{}])[0]
    return {name: first.get(name) for name in names}


def against(
    results: Results, others: Iterable[str], compare: Callable[[Cells, Cells], dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Other arm -> arm -> how it compares; without what cannot be compared."""
    present = [other for other in others if other in results]
    pairs = {
        other: {name: compare(cells, results[other]) for name, cells in results.items() if name != other}
        for other in present
    }
    return {other: {name: found for name, found in each.items() if found} for other, each in pairs.items()}


def run_all(cells: Sequence[Cell], workers: int, prepare: bool = True) -> Outcome:
    """Run what is missing; `prepare`: the data is prepared once before, so that no cell's figures contain it."""
    waiting = [cell for cell in cells if not cell.done]
    if waiting and prepare:
        from training.families import load_family
        from training.trainer.build import prepare_data

        run = run_of_cell(waiting[0].arm.settings, 0, Path("unused"))
        prepared = prepare_data(run, load_family(run.family))
        rows = f"{len(prepared.train):,} rows, {len(prepared.test):,} test"
        print(f"{len(waiting)} of {len(cells)} cells to run; {rows}")
    outcome = run_cells(cells, workers, progress=True)
    for name, error in outcome.failed.items():
        print(f"failed: {name}: {error}")
    return outcome


def parse_changes(pairs: Sequence[str]) -> dict[str, str]:
    """`KEY=VALUE` items as a dictionary. Raises InputError."""
    for pair in pairs:
        if "=" not in pair:
            raise InputError(f"set: got {pair!r}; use KEY=VALUE, such as hidden_size=64")
    return dict(pair.split("=", 1) for pair in pairs)


def run_of(recipe: str, options: Options) -> Run:
    """The recipe with the source and the changes that were asked for. Raises InputError."""
    return parse_arguments([recipe, f"--data={options.data}", *flags(parse_changes(options.set))])


def left_open(source: str) -> str:
    """A source without the place it has on this machine."""
    return f"PATH/TO/{Path(source).resolve().name}" if Path(source).exists() else source


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(_shown, value))
    return f"{value:g}" if isinstance(value, float) else shlex.quote(str(value))
