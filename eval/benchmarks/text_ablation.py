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
from typing import Any

from configuration_jepa.configuration_text_jepa import COLLAPSE_PROTECTIONS, TARGET_TABLES
from eval.benchmarks.cells import Arm
from eval.benchmarks.columns import Record, Row, figure, guess_rows
from eval.benchmarks.comparison import Comparison, Options, Tuning, of_first, parse_changes
from eval.benchmarks.statistics import Results
from eval.benchmarks.text_twin import BASE_RECIPE, EVAL_ROWS, base_overrides
from training.common.errors import InputError

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


class TextAblation(Comparison):
    """The recipe itself, the grid, and the runs that only a protection can save."""

    name, family = "text_ablation", "text_jepa"
    arms = {
        "recipe": {},
        **{
            f"{masking}, {table}, {protection}": {
                "masking": masking,
                "target_table": table,
                "collapse_protection": protection,
                "alignment_weight": 1.0,
            }
            for masking, table, protection in itertools.product(MASKINGS, TARGET_TABLES, COLLAPSE_PROTECTIONS)
        },
        **{
            f"alignment only, contextual, {protection}": {
                "target_table": "contextual",
                "collapse_protection": protection,
                "collapse_weight": 1.0,
                "alignment_weight": 1.0,
                "ranking_weight": 0.0,
            }
            for protection in COLLAPSE_PROTECTIONS
        },
    }
    options = {"steps": 2000, "seed": 0, "learning_rate": 2e-3, "max_rows": 1000}
    shown = ("steps", "learning_rate", "seed")
    fixed = {"split": "valid", "eval_rows": EVAL_ROWS}
    note = NOTE
    width = 160
    heading = "masking, table, protection"
    columns = (
        figure("top-1", "top1", ".3f"),
        figure("MRR", "mrr", ".3f"),
        figure("median rank", "median_rank", ".1f"),
        figure("cosine", "cosine", ".3f"),
        figure("effective rank", "effective_rank", ".1f"),
        figure("mean pairwise cosine", "mean_pairwise_cosine", ".3f"),
        figure("CPU s", "training_cpu_seconds", ",.0f"),
    )
    off_pages = ("cosine", "CPU s")

    def parser(self) -> argparse.ArgumentParser:
        """With `--only`."""
        parser, help_text = super().parser(), "only the arms whose name holds this, such as 'rate, ema'"
        parser.add_argument("--only", metavar="TEXT", help=help_text)
        return parser

    def chosen(self, options: Options) -> list[str]:
        """Those that `--only` keeps."""
        names = [name for name in self.arms if options.only is None or options.only in name]
        if not names:
            raise InputError(f"only: {options.only!r} is part of no arm; there are {'; '.join(self.arms)}")
        return names

    def exam(self, options: Options) -> dict[str, Any]:
        """On valid, at the end."""
        return {**super().exam(options), "eval_steps": options.steps}

    def arm(self, name: str, label: str, rate: float | None, exam: dict[str, Any], options: Options) -> Arm:
        """Its weights are kept for the probe."""
        shared = {"learning_rate": options.learning_rate, **parse_changes(options.set)}
        overrides = base_overrides(options.data, {**self.arms[name], **shared})
        keep = self.kept_in(options, name.replace(", ", "-").replace(" ", "_"))
        return self.recipe_arm(label, BASE_RECIPE, overrides, exam, keep=keep)

    def figures(self, name: str, results: Results, tuning: Tuning, options: Options) -> Record:
        """Of the one run."""
        (cell,) = results[name]
        seconds = {"training_cpu_seconds": cell["training_cpu_seconds"]}
        return {**{metric: cell["metrics"][metric] for metric in METRICS}, **seconds}

    def summary(self, results: Results, options: Options) -> Record:
        """What all runs share."""
        return {**of_first(results, "num_examples"), "steps": options.steps, "seed": options.seed}

    def rows(self, record: Record) -> list[Row]:
        """A row per arm."""
        return guess_rows(record["arms"])


COMPARISON = TextAblation()
main = COMPARISON.main


if __name__ == "__main__":
    sys.exit(main())
