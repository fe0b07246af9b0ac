"""Our latent text model beside its softmax twin, the first prototype's objective and BERT, all of one size.

    python -m eval.benchmarks.text_twin --data PATH/TO/wikitext2 --seeds 3 --workers 2

Each arm gets the same small grid of learning rates, chosen on valid by MRR in short runs with seed 0; then it is
trained with each seed, and its test figures are taken at the marks. The prototype stands there as its recipe is, rate
included, and in variants: its rate tuned, a gradient into the negatives' rows of its table, and none at all. Stop it
and give the same command again: finished cells are kept. `--table` collects what is there; `--adopt` also takes what
other code made. Exit codes: 0; 1 a cell failed, or what is required does not hold; 2 bad input.
"""

import argparse
import glob
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eval.benchmarks.cells import Arm, collect, plan_cells
from eval.benchmarks.comparison import add_common_options, parse_changes, publish, run_all, shown_command
from eval.benchmarks.curves import mean_and_spread, reaching
from eval.benchmarks.statistics import paired_interval
from eval.benchmarks.text_arms import RECIPES, base_overrides, text_arm
from training.common.errors import InputError
from training.common.records import check_target, package_versions
from training.run.arguments import parse_arguments

OURS, TWIN, ANCHOR = "ours", "softmax", "bert"
PROTOTYPE, TUNED_PROTOTYPE = "prototype", "prototype_tuned"
OPEN_PROTOTYPE, CLOSED_PROTOTYPE = "prototype_all_gradients", "prototype_no_gradient"
ARMS: dict[str, dict[str, Any]] = {
    OURS: {},
    TWIN: {"overrides": {"head": "softmax"}},
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
    ANCHOR: {"model": "bert"},
}
PROTOTYPES = (PROTOTYPE, TUNED_PROTOTYPE, OPEN_PROTOTYPE, CLOSED_PROTOTYPE)
METRICS = ("top1", "top5", "top10", "mrr", "median_rank", "effective_rank")
NOTE = (
    "Test blanks: up to four a row, one at a time. The early figures are those of the long runs on their way, with "
    "the long runs' schedule. Intervals: 95 %, paired bootstrap over rows and seeds. Seconds are CPU seconds of "
    "training at one thread, scoring not counted; those to the twin's final MRR are read off the valid curve of the "
    "same seed, in straight lines between its points. Memory is the training process's peak, libraries included."
)

Results = dict[str, list[dict]]


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; see the module."""
    options = _parser().parse_args(argv)
    try:
        check_target(Path(options.json))
        rates, tuning, failed = tune(options)
        tuning = {**tuning_of_adopted(options), **tuning}
        arms = [long_arm(name, rate, options) for name, rate in rates.items()]
        cells = plan_cells(arms, range(options.seeds), Path(options.out) / "runs")
        if not options.table:
            failed |= run_all(cells, options.workers).failed
        results = {**collect(cells), **adopted(options.adopt)}
        order = [name for name in ARMS if name in results]
        record = summarise({name: results[name] for name in order}, rates, tuning, options)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    publish(record, table_rows(record), [record["note"]], options.json, width=200)
    return 1 if failed or False in record["required"].values() else 0


def tune(options: argparse.Namespace) -> tuple[dict[str, float], dict[str, dict[str, float]], dict[str, str]]:
    """Arm -> rate, arm -> rate -> MRR on valid, and what failed. Tuned arms without a result are left out; those that
    are not tuned have the rate of their recipe.
    """
    exam = {"marks": [options.tuning_steps], "split": "valid", "max_rows": 1000, "eval_steps": options.tuning_steps}
    tuned = [name for name in options.arms if ARMS[name].get("tuned", True)]
    arms = [make_arm(name, rate, exam, options) for name in tuned for rate in options.rates]
    cells = plan_cells(arms, [0], Path(options.out) / "tuning")
    failed = {} if options.table else run_all(cells, options.workers).failed
    results = collect(cells)
    tuning: dict[str, dict[str, float]] = {}
    for name in tuned:
        found = {rate: results.get(_tuned_name(name, rate)) for rate in options.rates}
        tuning[name] = {str(rate): cell[0]["metrics"]["mrr"] for rate, cell in found.items() if cell}
    best = {name: float(max(found, key=lambda rate: found[rate])) for name, found in tuning.items() if found}
    best |= {name: recipe_rate(ARMS[name]["recipe"], options) for name in options.arms if name not in tuned}
    return {name: best[name] for name in options.arms if name in best}, tuning, failed


def adopted(given: Sequence[str]) -> dict[str, list[dict]]:
    """Results of whole arms that other code made, from `NAME=PATTERN`: each says so in the record.

    Raises:
        InputError: an unknown arm, a pattern that fits no file, or cells of different settings.
    """
    results: dict[str, list[dict]] = {}
    for one in given:
        name, _, pattern = one.partition("=")
        if name not in ARMS or not pattern:
            raise InputError(f"adopt: got {one!r}; use ARM=PATTERN with ARM one of {', '.join(ARMS)}")
        cells = [json.loads(Path(path).read_text(encoding="utf-8")) for path in sorted(glob.glob(pattern))]
        if not cells:
            raise InputError(f"adopt: no file fits {pattern!r}; name the cells' JSON files of one arm")
        settings = [{key: value for key, value in cell["arm"]["settings"].items() if key != "keep"} for cell in cells]
        if any(other != settings[0] for other in settings):
            raise InputError(f"adopt: the files that fit {pattern!r} are of different settings; name those of one arm")
        results[name] = [{**cell, "other_code": True} for cell in cells]
    return results


def tuning_of_adopted(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """How the rates of adopted arms were chosen, as the record says that stands where this one will."""
    if not options.adopt or not Path(options.json).is_file():
        return {}
    arms = json.loads(Path(options.json).read_text(encoding="utf-8"))["arms"]
    names = {one.partition("=")[0] for one in options.adopt}
    return {name: arm["tuning_mrr_on_valid"] for name, arm in arms.items() if name in names}


def recipe_rate(recipe: str, options: argparse.Namespace) -> float:
    """The learning rate that a recipe names."""
    return parse_arguments([recipe, f"--data={options.data}"]).training.learning_rate


def make_arm(name: str, rate: float, exam: dict[str, Any], options: argparse.Namespace, **extra: Any) -> Arm:
    """One arm at one rate; named by both, unless it is kept under its own name."""
    given = ARMS[name]
    changes = {**given.get("overrides", {}), "learning_rate": rate, **parse_changes(options.set)}
    settings = {key: value for key, value in given.items() if key not in ("overrides", "tuned")}
    label = name if "keep" in extra else _tuned_name(name, rate)
    return text_arm(label, base_overrides(options.data, changes), exam, **settings, **extra)


def long_arm(name: str, rate: float, options: argparse.Namespace) -> Arm:
    """The arm at its chosen rate, scored on test at the marks; its weights are kept for the probe."""
    exam = {"marks": sorted(options.marks), "max_rows": options.max_rows, "eval_steps": options.eval_steps}
    return make_arm(name, rate, exam, options, keep=str(Path(options.out) / "checkpoints" / name))


def summarise(
    results: Results, rates: dict[str, float], tuning: dict[str, dict[str, float]], options: argparse.Namespace
) -> dict[str, Any]:
    """The record of the comparison: all of it measured, nothing else."""
    marks = [str(step) for step in sorted(options.marks)]
    arms = {
        name: {
            "learning_rate": cells[0]["arm"]["settings"]["overrides"]["learning_rate"],
            "other_code": cells[0].get("other_code", False),
            "tuning_mrr_on_valid": tuning.get(name),
            **arm_figures(cells, marks, results.get(TWIN, [])),
        }
        for name, cells in results.items()
    }
    pairs = {
        name: {step: differences(cells, results[TWIN], step) for step in marks}
        for name, cells in results.items()
        if name != TWIN and TWIN in results
    }
    first = next(iter(results.values()), [{}])[0]
    rates_tried = " ".join(f"{rate:g}" for rate in options.rates)
    rest = f" --seeds {options.seeds} --marks {' '.join(marks)} --rates {rates_tried}"
    rest += f" --tuning_steps {options.tuning_steps} --eval_steps {options.eval_steps}"
    return {
        "schema_version": 1,
        "command": shown_command("text_twin", options, rest),
        "num_examples": first.get("num_examples"),
        "unigram": {name: first.get("baselines", {}).get("unigram", {}).get(name) for name in METRICS},
        "arms": arms,
        "against_twin": pairs,
        "mrr_over_the_prototypes": over_the_prototypes(arms, marks[-1]),
        "required": requirements(arms, pairs, marks[-1]),
        "note": NOTE + _of_other_code(arms),
        "versions": package_versions(),
    }


def arm_figures(cells: list[dict], marks: Sequence[str], twins: list[dict]) -> dict[str, Any]:
    """One arm over its seeds."""
    return {
        "seeds": [cell["seed"] for cell in cells],
        "num_parameters": cells[0]["num_parameters"],
        "training_cpu_seconds": mean_and_spread([cell["training_cpu_seconds"] for cell in cells]),
        "training_peak_memory_bytes": mean_and_spread([cell["training_peak_memory_bytes"] for cell in cells]),
        "at": {
            step: {name: mean_and_spread([cell["marks"][step].get(name) for cell in cells]) for name in METRICS}
            for step in marks
        },
        "to_twins_final_mrr": reaching(cells, twins, "mrr"),
    }


def differences(first: list[dict], second: list[dict], step: str) -> dict[str, dict[str, float]]:
    """Paired differences of top-1 and MRR with their intervals, over the seeds that both have."""
    left, right = ({cell["seed"]: cell for cell in cells} for cells in (first, second))
    seeds = sorted(left.keys() & right.keys())
    if not seeds:
        return {}
    if len({side[seed]["blanks"] for side in (left, right) for seed in seeds}) > 1:
        raise InputError("the arms were asked different blanks and cannot be paired; run them on one test set")
    ranks = [np.array([side[seed]["ranks"][step] for seed in seeds], dtype=np.float64) for side in (left, right)]
    clusters = np.array(left[seeds[0]]["clusters"])
    measures = {"top1": [values <= 1 for values in ranks], "mrr": [1.0 / values for values in ranks]}
    return {name: vars(paired_interval(*pair, clusters=clusters)) for name, pair in measures.items()}


def requirements(arms: dict[str, Any], pairs: dict[str, Any], last: str) -> dict[str, bool]:
    """What the comparison must show at the last mark, as far as its arms are there."""
    held = {}
    if OURS in arms and TWIN in arms:
        held["top-1 interval against the twin above -1 point"] = pairs[OURS][last]["top1"]["low"] > -0.01
    ratios = over_the_prototypes(arms, last)
    if PROTOTYPE in ratios:
        held["MRR at least twice the prototype's"] = ratios[PROTOTYPE] >= 2
    return held


def over_the_prototypes(arms: dict[str, Any], last: str) -> dict[str, float]:
    """Our MRR at the last mark divided by that of each prototype arm which is there."""
    if OURS not in arms:
        return {}
    present = [name for name in (OURS, *PROTOTYPES) if name in arms]
    mrr = {name: arms[name]["at"][last]["mrr"]["mean"] for name in present}
    return {name: mrr[OURS] / mrr[name] for name in present if name != OURS}


def table_rows(record: dict[str, Any]) -> list[list[str]]:
    """Header and a row per arm and mark."""
    header = ["arm, steps", "seeds", "rate", "top-1", "top-5", "top-10", "MRR", "median rank", "top-1 - twin"]
    rows = [[*header, "twin's final MRR after", "CPU s", "peak MiB", "parameters"]]
    for name, arm in record["arms"].items():
        for step, figures in arm["at"].items():
            shown = [_number(figures[metric], metric) for metric in METRICS[:5]]
            versus = _interval(record["against_twin"].get(name, {}).get(step, {}).get("top1"))
            is_last = step == list(arm["at"])[-1]
            costs = _costs(arm) if is_last else ["", "", "", ""]
            rows.append(
                [f"{name}, {step}", str(len(arm["seeds"])), f"{arm['learning_rate']:g}", *shown, versus, *costs]
            )
    unigram = [_number({"mean": record["unigram"][name], "sd": None}, name) for name in METRICS[:5]]
    return [*rows, ["unigram guess", "", "", *unigram, "", "", "", "", ""]]


def _costs(arm: dict[str, Any]) -> list[str]:
    reached = arm["to_twins_final_mrr"]
    after = "-" if reached["step"] is None else f"{reached['step']:,.0f} steps, {reached['cpu_seconds']:,.0f} s"
    if reached["step"] is not None and reached["seeds_that_reached_it"] < reached["of"]:
        after += f" ({reached['seeds_that_reached_it']} of {reached['of']} seeds)"
    seconds, memory = arm["training_cpu_seconds"]["mean"], arm["training_peak_memory_bytes"]["mean"]
    return [after, f"{seconds:,.0f}", f"{memory / 2**20:,.0f}", f"{arm['num_parameters']:,}"]


def _of_other_code(arms: dict[str, Any]) -> str:
    names = [name for name, arm in arms.items() if arm["other_code"]]
    return f" Kept from an earlier version of the code: {', '.join(names)}." if names else ""


def _number(figure: dict[str, float | None], metric: str) -> str:
    if figure["mean"] is None:
        return "-"
    if metric == "median_rank":
        return f"{figure['mean']:.1f}"
    return f"{figure['mean']:.3f}" + (f" ({figure['sd']:.3f})" if figure["sd"] is not None else "")


def _interval(interval: dict[str, float] | None) -> str:
    if not interval:
        return ""
    return f"{interval['difference']:+.3f} [{interval['low']:+.3f}, {interval['high']:+.3f}]"


def _tuned_name(name: str, rate: float) -> str:
    return f"{name}-{rate:g}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m eval.benchmarks.text_twin", description=(__doc__ or "").split("\n")[0]
    )
    add_common_options(parser, "text_twin")
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0 .. N-1 for each arm (default: 3)")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS), help="arms (default: all)")
    parser.add_argument("--marks", nargs="+", type=int, default=[2000, 8000], help="steps of the test figures")
    parser.add_argument("--rates", nargs="+", type=float, default=[5e-4, 1e-3, 2e-3], help="learning rates to try")
    parser.add_argument("--tuning_steps", type=int, default=2000, help="length of the runs that choose the rate")
    parser.add_argument(
        "--adopt",
        nargs="*",
        default=[],
        metavar="ARM=PATTERN",
        help="cells' JSON files that other code made, taken as this arm and marked so in the record",
    )
    parser.add_argument("--eval_steps", type=int, default=1000, help="distance of the points of the valid curve")
    return parser


if __name__ == "__main__":
    sys.exit(main())
