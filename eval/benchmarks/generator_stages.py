r"""What each stage of the generator is worth: grown from one checkpoint of stage 0, or each from nothing.

    python -m eval.benchmarks.generator_stages --data PATH/TO/wikitext2 --seeds 3 --workers 2 --steps 300
    python -m eval.benchmarks.generator_stages --data PATH/TO/wikitext2 --seeds 3 --workers 2 --from_nothing \
        --arms "stage 0" "stage 1" "stage 3" --equal_time --json model_cards/results/generator_stages_nothing.json

A checkpoint of stage 0 is trained first (or given by `--from`). From it go on, equally long and with the same rows and
schedule: stage 0 itself, stage 1, stage 2 with credit assignment and its controls, and stage 3. With `--from_nothing`
every arm is a whole training of its own. With `--equal_time` each arm is trained once more, for as many steps as cost
what stage 0 costs. Cells are kept as in `generator_twin`; `--table` collects what is there. Exit codes: 0, 1 a cell
failed, 2 bad input.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

from eval.benchmarks import columns as column
from eval.benchmarks.cells import Arm, Cell, collect, plan_cells
from eval.benchmarks.columns import Record, Row, alone
from eval.benchmarks.comparison import Options, Rates, Tuning, parse_changes, run_of
from eval.benchmarks.generator_twin import METRICS, GeneratorComparison, ratio_column
from eval.benchmarks.statistics import Results
from training.common.errors import InputError
from training.settings.staged_generator import CREDIT_CONTROLS

CONTINUED, NO_CREDIT, CREDIT, ROUTED = "stage 0", "stage 1", "stage 2", "stage 3"
ARMS: dict[str, dict[str, Any]] = {
    CONTINUED: {"stage": 0, "credit": "off"},
    NO_CREDIT: {"stage": 1, "credit": "off"},
    CREDIT: {"stage": 2, "credit": "scale"},
    **{
        f"stage 2, {control.replace('_', ' ')}": {"stage": 2, "credit": "scale", "credit_control": control}
        for control in CREDIT_CONTROLS
        if control != "none"
    },
    ROUTED: {"stage": 3, "credit": "off"},
}
CONTEXTS = (256, 1024, 4096)
SAME_TIME = ", equal time"
NOTE = (
    "All arms start from the same weights (or all from nothing) and go on equally long, with the same rows, schedule "
    "and seeds; what a stage adds starts at zero. Equal time: trained for as many steps as take the CPU seconds of "
    "stage 0, by what the arm's steps cost. Perplexity at a length: with so many tokens of context, on 60,000 of "
    "the same tokens, by a seeded choice. Stage 2 differs from stage 1 in its training only, so stage 1 is stage 2 "
    "with credit off. Controls of credit: gradients scaled instead of updates; a part drawn by chance instead of the "
    "most responsible one, with the same multipliers; the mean of the multipliers for every part. Stage 3 attends "
    "along far edges from its first step, without credit. Loss: nats per test token. Ratios: of perplexities, with "
    "95 % intervals of a paired bootstrap over documents and seeds. Seconds are CPU seconds of training at one "
    "thread; memory is the training process's peak, libraries included."
)


class GeneratorStages(GeneratorComparison):
    """See the module."""

    name = "generator_stages"
    arms = ARMS
    options = {**GeneratorComparison.options, "arms": list(ARMS), "rates": None, "base_steps": None}
    shown = (*GeneratorComparison.shown, "from_nothing?", "equal_time?", "arms?")
    others = (CONTINUED, NO_CREDIT)
    note = NOTE
    fixed = {"contexts": list(CONTEXTS)}
    metrics = {**METRICS, **{f"perplexity_at_{context}": ",.2f" for context in CONTEXTS}}
    columns = (
        *(column.SEEDS, column.RATE, column.figure("loss", "loss", ".4f"), *column.figures(metrics)),
        *(ratio_column("times stage 0's", CONTINUED), ratio_column("times stage 1's", NO_CREDIT)),
        column.cost(
            "logits changed by at first",
            lambda arm: (
                f"{arm['growth']['largest_change']:.2g} (KL {arm['growth']['mean_kl']:.2g})" if arm["growth"] else ""
            ),
        ),
        *(column.SPEED, column.SECONDS, column.MEMORY),
    )
    off_pages = ("leak gap", "logits changed by at first", "CPU s")

    def parser(self) -> argparse.ArgumentParser:
        """With where the arms start, and how long they may take."""
        parser = super().parser()
        start = parser.add_mutually_exclusive_group()
        start.add_argument("--from", dest="origin", metavar="CHECKPOINT", help="of stage 0; default: trained first")
        start.add_argument("--from_nothing", action="store_true", help="train every arm from its first step")
        parser.add_argument("--equal_time", action="store_true", help="also train every arm as long as stage 0 takes")
        parser.set_defaults(before=None)
        return parser

    def measure(self, options: Options) -> tuple[Record, bool]:
        """All branches from one checkpoint or from nothing, at the recipe's rate where none are given."""
        options.rates = options.rates or [run_of(options.recipe, options).training.learning_rate]
        if options.origin is None and not options.from_nothing:
            self.begin(options)
        rates, tuning, failed = self.tune(options)
        cells = self.plan(options, rates)
        failed |= self.run(cells, options)
        if options.equal_time:
            timed = self.equal_time(collect(cells), rates, options)
            failed |= self.run(timed, options)
            cells += timed
        return self.record(collect(cells), tuning, options), bool(failed)

    def equal_time(self, results: Results, rates: Rates, options: Options) -> list[Cell]:
        """The arms beside stage 0, each for as many steps as cost what stage 0 cost. Raises InputError."""
        if CONTINUED not in results:
            raise InputError(f"equal_time: needs the arm '{CONTINUED}'; name it among --arms")
        steps = self.marks(options)[-1]
        seconds = {name: np.mean([cell["training_cpu_seconds"] for cell in cells]) for name, cells in results.items()}
        arms = []
        for name in [name for name in rates if name in results and name != CONTINUED]:
            exam = {**self.exam(options), "marks": [max(1, round(steps * seconds[CONTINUED] / seconds[name]))]}
            arms.append(self.arm(name, name + SAME_TIME, rates[name], exam, options))
        return plan_cells(arms, range(options.seeds), Path(options.out) / "runs")

    def begin(self, options: Options) -> None:
        """Train the checkpoint that all branches start from, where it is not there yet.

        Raises:
            InputError: it is not there, and is not to be made.
            SystemExit: its training failed.
        """
        keep = self.kept_in(options, "base")
        recipe = run_of(options.recipe, options).training
        steps = recipe.max_steps if options.base_steps is None else options.base_steps
        overrides = {"data": options.data, **parse_changes(options.set), **ARMS[CONTINUED]}
        arm = self.recipe_arm("base", options.recipe, overrides, {**self.exam(options), "marks": [steps]}, keep=keep)
        (cell,) = plan_cells([arm], [0], Path(options.out) / "base")
        if self.run([cell], options):
            raise SystemExit(1)  # it has said why
        checkpoint = Path(f"{keep}-seed0")
        if not cell.done or not checkpoint.is_dir():
            raise InputError(f"{checkpoint} is not there to branch from; leave --table out, or remove {cell.path}")
        options.origin, options.before = str(checkpoint), collect([cell])[arm.name][0]["metrics"]

    def arm(self, name: str, label: str, rate: float | None, exam: dict[str, Any], options: Options) -> Arm:
        """One branch."""
        changes = {**parse_changes(options.set), **ARMS[name], "learning_rate": rate}
        changes |= {} if options.origin is None else {"init_from": options.origin}
        return self.recipe_arm(label, options.recipe, {"data": options.data, **changes}, exam)

    def said(self, options: Options) -> dict[str, Any]:
        """The checkpoint's place is left open."""
        given = options.origin is not None and options.before is None
        return {**super().said(options), "from": "CHECKPOINT" if given else None}

    def figures(self, name: str, results: Results, tuning: Tuning, options: Options) -> Record:
        """With what growing changed."""
        growth = results[name][0].get("growth")
        kept = growth and {key: growth[key] for key in ("from_stage", "largest_change", "mean_kl")}
        tried = {**tuning, **({name: tuning[first]} if (first := name.removesuffix(SAME_TIME)) in tuning else {})}
        found = super().figures(name, results, tried, options)
        return {**found, "growth": kept}

    def summary(self, results: Results, options: Options) -> Record:
        """With the figures of the checkpoint."""
        before = None if options.before is None else {name: options.before[name] for name in METRICS}
        return {**super().summary(results, options), "before": before}

    def rows(self, record: Record) -> list[Row]:
        """The checkpoint, and a row per arm and mark."""
        before = {name: alone(value) for name, value in (record["before"] or {}).items()}
        return [*([Row("before", "stage 0, before", before)] if before else []), *super().rows(record)]


COMPARISON = GeneratorStages()
main = COMPARISON.main


if __name__ == "__main__":
    sys.exit(main())
