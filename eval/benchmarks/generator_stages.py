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
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from eval.benchmarks.cells import Arm, collect, plan_cells
from eval.benchmarks.comparison import parse_changes, publish, run_all, shown_command
from eval.benchmarks.generator_arms import (
    METRIC_FORMATS,
    METRICS,
    Rates,
    Results,
    add_generator_options,
    arm_figures,
    at_edge,
    final_exam,
    flags_of,
    generator_arm,
    marks_of,
    ratios,
    recipe_of,
    shown_number,
    shown_ratio,
    tune,
)
from training.common.errors import InputError
from training.common.records import check_target, package_versions
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
SAME_TIME = "{name}, equal time"
NOTE = (
    "All arms start from the same weights (or all from nothing) and go on equally long, with the same rows, schedule "
    "and seeds; what a stage adds starts at zero. Equal time: trained for as many steps as take the CPU seconds of "
    "stage 0, by what the arm's steps cost. Stage 2 differs from stage 1 in its training only, so stage 1 is stage 2 "
    "with credit off. Controls of credit: gradients scaled instead of updates; a part drawn by chance instead of the "
    "most responsible one, with the same multipliers; the mean of the multipliers for every part. Stage 3 attends "
    "along far edges from its first step, without credit. Loss: nats per test token. Ratios: of perplexities, with "
    "95 % intervals of a paired bootstrap over documents and seeds. Seconds are CPU seconds of training at one "
    "thread; memory is the training process's peak, libraries included."
)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; see the module."""
    options = _parser().parse_args(argv)
    try:
        check_target(Path(options.json))
        options.rates = options.rates or [recipe_of(options).learning_rate]
        begun = (None, []) if options.from_nothing else begin(options)
        if begun is None:
            return 1
        origin, start = begun
        rates, tuning, failed = tune(options.arms, lambda *given: make_arm(*given, origin, options), options)
        arms = [make_arm(name, rate, final_exam(options), origin, options) for name, rate in rates.items()]
        cells = plan_cells(arms, range(options.seeds), Path(options.out) / "runs")
        if not options.table:
            failed |= run_all(cells, options.workers).failed
        if options.equal_time:
            timed = plan_cells(
                equal_time_arms(collect(cells), rates, origin, options),
                range(options.seeds),
                Path(options.out) / "runs",
            )
            if not options.table:
                failed |= run_all(timed, options.workers).failed
            cells += timed
        record = summarise(collect(cells), start, rates, tuning, options)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    publish(record, table_rows(record), [NOTE], options.json, width=200)
    return 1 if failed else 0


def begin(options: argparse.Namespace) -> tuple[str, list[dict]] | None:
    """The checkpoint that all branches start from, and the result of the run that made it; trains it where it is not
    there yet. None where that failed.

    Raises:
        InputError: it is not there, and is not to be made.
    """
    if options.origin is not None:
        return options.origin, []
    keep = Path(options.out) / "checkpoints" / "base"
    steps = recipe_of(options).max_steps if options.base_steps is None else options.base_steps
    exam = {**final_exam(options), "marks": [steps]}
    overrides = {"data": options.data, **parse_changes(options.set), **ARMS[CONTINUED]}
    arm = generator_arm("base", overrides, exam, recipe=options.recipe, keep=str(keep))
    (cell,) = plan_cells([arm], [0], Path(options.out) / "base")
    if not options.table and run_all([cell], 1).failed:
        return None
    checkpoint = keep.with_name(f"{keep.name}-seed0")
    if not cell.done or not checkpoint.is_dir():
        raise InputError(f"{checkpoint} is not there to branch from; leave --table out, or remove {cell.path}")
    return str(checkpoint), collect([cell])[arm.name]


def equal_time_arms(results: Results, rates: Rates, origin: str | None, options: argparse.Namespace) -> list[Arm]:
    """The arms beside stage 0, each for as many steps as cost what stage 0 cost."""
    if CONTINUED not in results:
        raise InputError(f"equal_time: needs the arm '{CONTINUED}'; name it among --arms")
    steps = marks_of(options)[-1]
    seconds = {name: np.mean([cell["training_cpu_seconds"] for cell in cells]) for name, cells in results.items()}
    arms = []
    for name, rate in rates.items():
        if name == CONTINUED or name not in results:
            continue
        exam = {**final_exam(options), "marks": [max(1, round(steps * seconds[CONTINUED] / seconds[name]))]}
        arms.append(replace(make_arm(name, rate, exam, origin, options), name=SAME_TIME.format(name=name)))
    return arms


def make_arm(name: str, rate: float, exam: dict[str, Any], origin: str | None, options: argparse.Namespace) -> Arm:
    """One branch at one rate."""
    changes = {**parse_changes(options.set), **ARMS[name], "learning_rate": rate}
    changes |= {} if origin is None else {"init_from": origin}
    label = name if len(options.rates) == 1 or exam.get("split") != "valid" else f"{name}, {rate:g}"
    return generator_arm(label, {"data": options.data, **changes}, exam, recipe=options.recipe)


def summarise(
    results: Results, start: list[dict], rates: Rates, tuning: dict[str, Rates], options: argparse.Namespace
) -> dict[str, Any]:
    """The record of the comparison."""
    marks = marks_of(options)
    marks_by_arm = {name: sorted(map(int, cells[0]["marks"])) for name, cells in results.items()}
    arms = {}
    for name, cells in results.items():
        tuned = name.removesuffix(SAME_TIME.format(name=""))
        growth = cells[0].get("growth")
        arms[name] = {
            "learning_rate": rates[tuned],
            "tuning_perplexity_on_valid": tuning.get(tuned),
            "rate_at_the_grids_edge": at_edge(rates[tuned], tuning.get(tuned, {})),
            "growth": growth and {key: growth[key] for key in ("from_stage", "largest_change", "mean_kl")},
            **arm_figures(cells, marks_by_arm[name]),
        }
    pairs = {
        other: {
            name: {
                str(step): ratios(cells, results[other], step, step if step in marks else marks[-1])
                for step in marks_by_arm[name]
            }
            for name, cells in results.items()
            if name != other
        }
        for other in (CONTINUED, NO_CREDIT)
        if other in results
    }
    rest = flags_of(options) + (f" --base_steps {options.base_steps}" if options.base_steps else "")
    rest += " --from CHECKPOINT" if options.origin else ""
    rest += " --from_nothing" if options.from_nothing else ""
    rest += " --equal_time" if options.equal_time else ""
    rest += "" if options.arms == list(ARMS) else " --arms " + " ".join(f"'{name}'" for name in options.arms)
    return {
        "schema_version": 1,
        "command": shown_command("generator_stages", options, rest),
        "num_examples": next((cells[0]["num_examples"] for cells in results.values()), None),
        "steps": marks[-1],
        "before": {name: start[0]["metrics"][name] for name in METRICS} if start else None,
        "arms": arms,
        "ratios": pairs,
        "note": NOTE,
        "versions": package_versions(),
    }


def table_rows(record: dict[str, Any]) -> list[list[str]]:
    """Header and a row per arm and mark."""
    header = ["arm, steps", "seeds", "rate", "loss", "perplexity", "word perplexity", "bits per byte"]
    header += ["greedy accuracy", "leak gap", "times stage 0's", "times stage 1's", "logits changed by at first"]
    rows = [[*header, "tokens/CPU s", "CPU s", "peak MiB"]]
    if record["before"] is not None:
        before = [f"{record['before'][key]:{form}}" for key, form in zip(METRICS, METRIC_FORMATS, strict=True)]
        rows.append(["stage 0, before", "1", "", "", *before, "", "", "", "", "", ""])
    for name, arm in record["arms"].items():
        for step, figures in arm["at"].items():
            shown = [shown_number(figures["loss"], ".4f")]
            shown += [shown_number(figures[key], form) for key, form in zip(METRICS, METRIC_FORMATS, strict=True)]
            versus = [
                shown_ratio(record["ratios"].get(other, {}).get(name, {}).get(step, {}).get("perplexity"))
                for other in (CONTINUED, NO_CREDIT)
            ]
            costs = _costs(arm) if step == list(arm["at"])[-1] else [""] * 4
            rate = f"{arm['learning_rate']:g}" + (" (edge)" if arm["rate_at_the_grids_edge"] else "")
            rows.append([f"{name}, {step}", str(len(arm["seeds"])), rate, *shown, *versus, *costs])
    return rows


def _costs(arm: dict[str, Any]) -> list[str]:
    growth, memory = arm["growth"], arm["training_peak_memory_bytes"]["mean"] / 2**20
    change = f"{growth['largest_change']:.2g} (KL {growth['mean_kl']:.2g})" if growth else ""
    speed, seconds = arm["tokens_per_second"]["mean"], arm["training_cpu_seconds"]["mean"]
    return [change, f"{speed:,.0f}", f"{seconds:,.0f}", f"{memory:,.0f}"]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m eval.benchmarks.generator_stages", description=(__doc__ or "").split("\n")[0]
    )
    add_generator_options(parser, "generator_stages")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS), help="branches (default: all)")
    parser.add_argument(
        "--rates", nargs="+", type=float, help="learning rates to try for each branch (default: the recipe's alone)"
    )
    parser.add_argument("--from", dest="origin", metavar="CHECKPOINT", help="of stage 0; default: trained first")
    parser.add_argument("--from_nothing", action="store_true", help="train every arm from its first step")
    parser.add_argument("--equal_time", action="store_true", help="also train every arm as long as stage 0 takes")
    parser.add_argument("--base_steps", type=int, help="length of that training (default: the recipe's)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
