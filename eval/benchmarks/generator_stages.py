"""What each stage of the generator is worth: stages 1, 2 and 3 branched from one checkpoint of stage 0.

    python -m eval.benchmarks.generator_stages --data PATH/TO/wikitext2 --seeds 3 --workers 2

A checkpoint of stage 0 is trained first (or given by `--from`). From it go on, equally long and with the same rows and
schedule: stage 0 itself, stage 1, stage 2 with credit assignment and its controls, and stage 3. Cells are kept as in
`generator_twin`; `--table` collects what is there. Exit codes: 0, 1 a cell failed, 2 bad input.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from eval.benchmarks import columns as column
from eval.benchmarks.cells import Arm, collect, plan_cells
from eval.benchmarks.columns import Record, Row, alone
from eval.benchmarks.comparison import Options, Tuning, parse_changes
from eval.benchmarks.generator_twin import METRICS, GeneratorComparison, ratio_column, recipe_of
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
NOTE = (
    "All arms start from the same weights and go on equally long, with the same rows, schedule and seeds; what a "
    "stage adds starts at zero. Stage 2 differs from stage 1 in its training only, so stage 1 is stage 2 with credit "
    "off. Controls of credit: gradients scaled instead of updates; a part drawn by chance instead of the most "
    "responsible one, with the same multipliers; the mean of the multipliers for every part. Stage 3 attends along "
    "the graph from its first step, without credit. Loss: nats per test token. Ratios: of perplexities, with 95 % "
    "intervals of a paired bootstrap over documents and seeds. Seconds are CPU seconds of training at one thread; "
    "memory is the training process's peak, libraries included."
)


class GeneratorStages(GeneratorComparison):
    """See the module."""

    name = "generator_stages"
    arms = ARMS
    options = {**GeneratorComparison.options, "arms": list(ARMS), "rates": None, "base_steps": None}
    others = (CONTINUED, NO_CREDIT)
    note = NOTE
    columns = (
        *(column.SEEDS, column.RATE, column.figure("loss", "loss", ".4f"), *column.figures(METRICS)),
        *(ratio_column("times stage 0's", CONTINUED), ratio_column("times stage 1's", NO_CREDIT)),
        column.cost(
            "logits changed by at first",
            lambda arm: f"{arm['growth']['largest_change']:.2g} (KL {arm['growth']['mean_kl']:.2g})",
        ),
        *(column.SPEED, column.SECONDS, column.MEMORY),
    )
    off_pages = ("leak gap", "logits changed by at first", "CPU s")

    def parser(self) -> argparse.ArgumentParser:
        """With `--from`."""
        parser = super().parser()
        parser.add_argument("--from", dest="origin", metavar="CHECKPOINT", help="of stage 0; default: trained first")
        parser.set_defaults(before=None)
        return parser

    def measure(self, options: Options) -> tuple[Record, bool]:
        """All branches from one checkpoint, at the recipe's rate where none are given."""
        options.rates = options.rates or [recipe_of(options).learning_rate]
        if options.origin is None:
            self.begin(options)
        return super().measure(options)

    def begin(self, options: Options) -> None:
        """Train the checkpoint that all branches start from, where it is not there yet.

        Raises:
            InputError: it is not there, and is not to be made.
            SystemExit: its training failed.
        """
        keep = self.kept_in(options, "base")
        steps = recipe_of(options).max_steps if options.base_steps is None else options.base_steps
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
        changes = {**parse_changes(options.set), **ARMS[name], "learning_rate": rate, "init_from": options.origin}
        return self.recipe_arm(label, options.recipe, {"data": options.data, **changes}, exam)

    def said(self, options: Options) -> dict[str, Any]:
        """The checkpoint's place is left open."""
        return {**super().said(options), "from": "CHECKPOINT" if options.before is None else None}

    def figures(self, name: str, results: Results, tuning: Tuning, options: Options) -> Record:
        """With what growing changed."""
        growth = results[name][0]["growth"]
        kept = {key: growth[key] for key in ("from_stage", "largest_change", "mean_kl")}
        return {**super().figures(name, results, tuning, options), "growth": kept}

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
