"""Our latent text model beside its softmax twin, the first prototype's objective and BERT, all of one size.

    python -m eval.benchmarks.text_twin --data PATH/TO/wikitext2 --seeds 3 --workers 2 --seconds 600

Ours and its twin stand there twice: ranking among shared candidates, and over the whole vocabulary. Each arm gets the
same small grid of learning rates, chosen on valid by MRR in short runs with seed 0; then it is trained with each seed,
and its test figures are taken at the marks, or after so many CPU seconds of training. The prototype stands there as
its recipe is, rate included, and in variants: its rate tuned, a gradient into the negatives' rows of its table, and
none at all. Stop it and give the same command again: finished cells are kept. `--table` collects what is there. Exit
codes: 0; 1 a cell failed, or what is required does not hold; 2 bad input.
"""

import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from eval.benchmarks import columns as column
from eval.benchmarks.cells import Arm, Cell, collect, plan_cells
from eval.benchmarks.columns import Record, Row, figure
from eval.benchmarks.comparison import (
    Comparison,
    Options,
    Rates,
    Tuned,
    Tuning,
    arm_costs,
    of_first,
    parse_changes,
    run_of,
)
from eval.benchmarks.statistics import (
    Cells,
    Results,
    check_asked,
    marks_of,
    over_seeds,
    paired_interval,
    reaching,
    same_seeds,
    shown_difference,
)
from training.run.arguments import parse_arguments

RECIPES = Path("training") / "recipes" / "text_jepa"
BASE_RECIPE = str(RECIPES / "wikitext2_small.yaml")
EVAL_ROWS = 500
OURS, SHARED, TWIN, SHARED_TWIN, ANCHOR = "ours", "ours_shared", "softmax", "softmax_shared", "bert"
PROTOTYPE, TUNED_PROTOTYPE = "prototype", "prototype_tuned"
OPEN_PROTOTYPE, CLOSED_PROTOTYPE = "prototype_all_gradients", "prototype_no_gradient"
ARMS: dict[str, dict[str, Any]] = {
    OURS: {"overrides": {"ranking": "full"}},
    SHARED: {"overrides": {"ranking": "shared"}},
    TWIN: {"overrides": {"head": "softmax", "ranking": "full"}},
    SHARED_TWIN: {"overrides": {"head": "softmax", "ranking": "shared"}},
    PROTOTYPE: {"recipe": str(RECIPES / "prototype.yaml"), "tuned": False},
    TUNED_PROTOTYPE: {"recipe": str(RECIPES / "prototype.yaml")},
    OPEN_PROTOTYPE: {
        "recipe": str(RECIPES / "prototype.yaml"),
        "overrides": {"target_gradient": "all"},
        "tuned": False,
    },
    CLOSED_PROTOTYPE: {
        "recipe": str(RECIPES / "prototype.yaml"),
        "overrides": {"target_gradient": "none"},
        "tuned": False,
    },
    ANCHOR: {"model": "bert", "overrides": {"ranking": "full"}},
}
PROTOTYPES = (PROTOTYPE, TUNED_PROTOTYPE, OPEN_PROTOTYPE, CLOSED_PROTOTYPE)
METRICS = ("top1", "top5", "top10", "mrr", "median_rank", "effective_rank")
NOTE = (
    "Test blanks: up to four a row, one at a time. The early figures are those of the long runs on their way, with "
    "the long runs' schedule. Intervals: 95 %, paired bootstrap over rows and seeds. Seconds are CPU seconds of "
    "training at one thread, scoring not counted; those to the twin's final MRR are read off the valid curve of the "
    "same seed, in straight lines between its points. Memory is the training process's peak, libraries included."
)


class TextTwin(Comparison):
    """See the module."""

    name, family = "text_twin", "text_jepa"
    arms = ARMS
    options = {
        "arms": list(ARMS),
        "seeds": 3,
        "marks": [2000, 8000],
        "seconds": None,
        "rates": [5e-4, 1e-3, 2e-3],
        "tuning_steps": 2000,
        "eval_steps": 1000,
        "max_rows": None,
    }
    shown = ("seeds", "marks", "seconds?", "rates", "tuning_steps", "eval_steps", "arms?")
    fixed = {"eval_rows": EVAL_ROWS}
    note = NOTE
    tuning_rows = 1000
    best = max
    heading = "arm, steps"
    columns = (
        *(column.SEEDS, column.RATE),
        figure("top-1", "top1", ".3f"),
        figure("top-5", "top5", ".3f"),
        figure("top-10", "top10", ".3f"),
        figure("MRR", "mrr", ".3f"),
        figure("median rank", "median_rank", ".1f"),
        column.versus(
            "top-1 - twin", "against_twin", "{name}", "{step}", "top1", show=partial(shown_difference, digits=3)
        ),
        column.reach("twin's final MRR after", "to_twins_final_mrr"),
        *(column.SECONDS, column.MEMORY, column.PARAMETERS),
    )
    names = {
        OURS: "ours: cosines over the whole vocabulary",
        SHARED: "ours: cosines among shared candidates",
        TWIN: "its twin: the same with a softmax head",
        SHARED_TWIN: "the twin among shared candidates",
        ANCHOR: "`BertForMaskedLM` of this size",
        PROTOTYPE: "the first prototype's recipe",
        TUNED_PROTOTYPE: "the same with its rate tuned",
        OPEN_PROTOTYPE: "the same with a gradient into the negatives' rows",
        CLOSED_PROTOTYPE: "the same without any gradient into its targets",
    }
    off_pages = ("top-5", "top-10", "twin's final MRR after", "parameters")

    def tune(self, options: Options) -> Tuned:
        """As others; arms that are not tuned have the rate of their recipe."""
        best, tuning, failed = super().tune(options)
        for name in set(options.arms) - set(self.tuned(options)):
            run = parse_arguments([ARMS[name]["recipe"], f"--data={options.data}"])
            best[name] = run.training.learning_rate
        return {name: best[name] for name in options.arms if name in best}, tuning, failed

    def tuned(self, options: Options) -> list[str]:
        """All but those that say otherwise."""
        return [name for name in options.arms if ARMS[name].get("tuned", True)]

    def marks(self, options: Options) -> list[int]:
        """In their order."""
        return sorted(options.marks)

    def plan(self, options: Options, rates: Rates) -> list[Cell]:
        """With `seconds`, each arm has as many steps as fit in them."""
        if options.seconds is None:
            return super().plan(options, rates)
        exam = self.tuning_exam(options)
        labels = {f"{name}-{rate:g}": name for name, rate in rates.items()}
        trials = [self.arm(name, label, rates[name], exam, options) for label, name in labels.items()]
        cells = plan_cells(trials, [0], Path(options.out) / "tuning")
        self.run(cells, options)
        arms = []
        for label, (trial,) in collect(cells).items():
            steps = round(options.seconds * options.tuning_steps / trial["training_cpu_seconds"])
            timed = {**self.exam(options), "marks": [max(1, steps)]}
            arms.append(self.arm(labels[label], labels[label], rates[labels[label]], timed, options))
        return plan_cells(arms, range(options.seeds), Path(options.out) / "runs")

    def value(self, name: str, metrics: dict[str, Any]) -> float:
        """MRR."""
        return metrics["mrr"]

    def arm(self, name: str, label: str, rate: float | None, exam: dict[str, Any], options: Options) -> Arm:
        """The weights of a long run are kept for the probe."""
        given = ARMS[name]
        changes = {**given.get("overrides", {}), "learning_rate": rate, **parse_changes(options.set)}
        settings = {"model": given.get("model", "recipe")}
        settings |= {"keep": self.kept_in(options, name)} if label == name else {}
        overrides = base_overrides(options.data, changes)
        return self.recipe_arm(label, given.get("recipe", BASE_RECIPE), overrides, exam, **settings)

    def record(self, results: Results, tuning: Tuning, options: Options) -> Record:
        """In the order of all arms."""
        return super().record({name: results[name] for name in ARMS if name in results}, tuning, options)

    def figures(self, name: str, results: Results, tuning: Tuning, options: Options) -> Record:
        """At the marks, and on the way to the twin's last MRR."""
        cells = results[name]
        return {
            "learning_rate": cells[0]["arm"]["settings"]["overrides"]["learning_rate"],
            "tuning_mrr_on_valid": tuning.get(name),
            **arm_costs(cells, "training_cpu_seconds", "training_peak_memory_bytes"),
            "at": {step: over_seeds([cell["marks"][step] for cell in cells], METRICS) for step in marks_of(cells)},
            "to_twins_final_mrr": reaching(cells, results.get(TWIN, []), "mrr"),
        }

    def summary(self, results: Results, options: Options) -> Record:
        """Arms beside the twin and the prototypes."""
        first = of_first(results, "num_examples", "baselines")
        unigram = (first["baselines"] or {}).get("unigram", {})
        return {
            "num_examples": first["num_examples"],
            "unigram": {name: unigram.get(name) for name in METRICS},
            **{
                key: {
                    name: {step: differences(cells, results[other], step) for step in marks_of(cells)}
                    for name, cells in results.items()
                    if name != other and other in results
                }
                for key, other in (("against_twin", TWIN), ("against_shared_twin", SHARED_TWIN))
            },
            "max_vocab": run_of(BASE_RECIPE, options).data.max_vocab,
            "mrr_over_the_prototypes": over_the_prototypes(results),
        }

    def required(self, record: Record) -> dict[str, bool]:
        """At the last mark."""
        held, points = {}, 3 if record["max_vocab"] <= 8000 else 8
        if ours := record["against_twin"].get(SHARED):
            found = list(ours.values())[-1]["top1"]["difference"]
            held[f"top-1 at least {points} points above the twin over the whole vocabulary"] = found >= points / 100
        if ours := record["against_shared_twin"].get(SHARED):
            interval = list(ours.values())[-1]["top1"]
            held["top-1 not below the twin among shared candidates by more than the interval"] = interval["high"] >= 0
        return held

    def said(self, options: Options) -> dict[str, Any]:
        """The marks in their order, or the seconds."""
        return {"marks": self.marks(options) if options.seconds is None else None}

    def rows(self, record: Record) -> list[Row]:
        """With the most frequent words."""
        return [*super().rows(record), *column.guess_rows({"unigram guess": record["unigram"]})]


def base_overrides(data: str, changes: dict[str, Any]) -> dict[str, Any]:
    """What all arms share, whichever recipe they start from: the base recipe's trunk, data and batch."""
    run = parse_arguments([BASE_RECIPE, f"--data={data}"])
    data_section = {name: value for name, value in asdict(run.data).items() if value is not None}
    batch = {"per_device_train_batch_size": run.training.per_device_train_batch_size}
    trunk = {name: value for name, value in run.model.items() if name != "head"}
    return {**trunk, **data_section, **batch, **changes}


def differences(first: Cells, second: Cells, step: str) -> dict[str, dict[str, float]]:
    """Paired differences of top-1 and MRR with their intervals, over the seeds that both have; after these steps of
    the first and, where the second was not scored there, at its end.
    """
    pairs = same_seeds(first, second)
    if not pairs:
        return {}
    check_asked(pairs, "blanks", "blanks")
    steps = (step, step if step in second[0]["ranks"] else marks_of(second)[-1])
    ranks = [
        np.array([cell["ranks"][mark] for cell in side], dtype=np.float64)
        for side, mark in zip(zip(*pairs, strict=True), steps, strict=True)
    ]
    clusters = np.array(pairs[0][0]["clusters"])
    measures = {"top1": [values <= 1 for values in ranks], "mrr": [1.0 / values for values in ranks]}
    return {name: vars(paired_interval(*pair, clusters=clusters)) for name, pair in measures.items()}


def over_the_prototypes(results: Results) -> dict[str, float]:
    """Our MRR at the end divided by that of each prototype arm which is there."""
    present = [name for name in (OURS, *PROTOTYPES) if name in results]
    ends = {name: [cell["marks"][marks_of(results[name])[-1]]["mrr"] for cell in results[name]] for name in present}
    mrr = {name: float(np.mean(found)) for name, found in ends.items()}
    return {name: mrr[OURS] / mrr[name] for name in present if name != OURS and OURS in mrr}


COMPARISON = TextTwin()
main = COMPARISON.main


if __name__ == "__main__":
    sys.exit(main())
