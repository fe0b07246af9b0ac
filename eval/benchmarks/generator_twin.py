"""The staged generator at stage 0 beside GPT-2 and Llama of its size, on the same batches.

    python -m eval.benchmarks.generator_twin --data PATH/TO/wikitext2 --seeds 3 --workers 2

All arms have one tokenizer, the same packed blocks in the same order, as many steps and the same schedule; each has
the rate of the same small grid that was best on valid in short runs with seed 0. Test figures are taken at the end,
and at the marks. `llama_muon` and `ours_adamw` tell what the optimizer is worth. Stop it and give the same command
again: finished cells are kept. `--table` collects what is there. Exit codes: 0; 1 a cell failed, or what is required
does not hold; 2 bad input.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eval.benchmarks.cells import Arm, collect, plan_cells
from eval.benchmarks.comparison import parse_changes, publish, run_all, shown_command
from eval.benchmarks.curves import reaching
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
    shown_number,
    shown_ratio,
    tune,
)
from training.common.errors import InputError
from training.common.records import check_target, package_versions

OURS, GPT2, LLAMA, LLAMA_MUON, OURS_ADAMW = "ours", "gpt2", "llama", "llama_muon", "ours_adamw"
ARMS: dict[str, dict[str, Any]] = {
    OURS: {},
    GPT2: {"model": "gpt2", "overrides": {"optimizer": "adamw"}},
    LLAMA: {"model": "llama", "overrides": {"optimizer": "adamw"}},
    LLAMA_MUON: {"model": "llama", "overrides": {"optimizer": "muon"}},
    OURS_ADAMW: {"overrides": {"optimizer": "adamw"}},
}
REQUIRED = {GPT2: 0.95, LLAMA: 1.02}
AIMED = {LLAMA: 0.90}
NOTE = (
    "Test documents verbatim, every token once, in windows of the training length with a stride of half of it. "
    "Perplexity per token can be compared here, as all arms have one tokenizer. Ratios: of perplexities, with 95 % "
    "intervals of a paired bootstrap over documents and seeds. Seconds are CPU seconds of training at one thread, "
    "scoring not counted; those to Llama's final perplexity are read off the valid curve of the same seed, in "
    "straight lines between its points. Memory is the training process's peak, libraries included. All arms make "
    "their loss in the same chunks, attend in float32 and have the same dropout; z-loss and label smoothing, where "
    "the recipe has them, are ours alone."
)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; see the module."""
    options = _parser().parse_args(argv)
    try:
        check_target(Path(options.json))
        final_exam(options)  # what cannot be run should not come to light after the tuning
        rates, tuning, failed = tune(options.arms, lambda *given: make_arm(*given, options), options)
        arms = [long_arm(name, rate, options) for name, rate in rates.items()]
        cells = plan_cells(arms, range(options.seeds), Path(options.out) / "runs")
        if not options.table:
            failed |= run_all(cells, options.workers).failed
        record = summarise(collect(cells), rates, tuning, options)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    publish(record, table_rows(record), [checks(record), NOTE], options.json, width=220)
    return 1 if failed or False in record["required"].values() else 0


def make_arm(name: str, rate: float, exam: dict[str, Any], options: argparse.Namespace, **extra: Any) -> Arm:
    """One arm at one rate; named by both, unless it is kept under its own name."""
    given = ARMS[name]
    changes = {**parse_changes(options.set), **given.get("overrides", {}), "learning_rate": rate}
    label = name if "keep" in extra else f"{name}-{rate:g}"
    overrides = {"data": options.data, **changes}
    return generator_arm(label, overrides, exam, recipe=options.recipe, model=given.get("model", "recipe"), **extra)


def long_arm(name: str, rate: float, options: argparse.Namespace) -> Arm:
    """The arm at its chosen rate, scored on test; its weights are kept."""
    return make_arm(name, rate, final_exam(options), options, keep=str(Path(options.out) / "checkpoints" / name))


def summarise(results: Results, rates: Rates, tuning: dict[str, Rates], options: argparse.Namespace) -> dict[str, Any]:
    """The record of the comparison: all of it measured, nothing else."""
    marks = marks_of(options)
    anchors = results.get(LLAMA, [])
    arms = {
        name: {
            "learning_rate": rates[name],
            "tuning_perplexity_on_valid": tuning.get(name),
            "rate_at_the_grids_edge": at_edge(rates[name], tuning.get(name, {})),
            **arm_figures(cells, marks),
            "to_llamas_final_perplexity": reaching(cells, anchors, "perplexity", lower_is_better=True),
        }
        for name, cells in results.items()
    }
    pairs = {
        other: {
            name: {str(step): ratios(cells, results[other], step) for step in marks}
            for name, cells in results.items()
            if name != other
        }
        for other in (GPT2, LLAMA)
        if other in results
    }
    first = next(iter(results.values()), [{}])[0]
    return {
        "schema_version": 1,
        "command": shown_command("generator_twin", options, flags_of(options)),
        "num_examples": first.get("num_examples"),
        "steps": marks[-1],
        "arms": arms,
        "ratios": pairs,
        "required": held(pairs, str(marks[-1]), REQUIRED),
        "aimed": {**held(pairs, str(marks[-1]), AIMED), **half_the_time(arms)},
        "note": NOTE,
        "versions": package_versions(),
    }


def held(pairs: dict[str, Any], last: str, bounds: dict[str, float]) -> dict[str, bool]:
    """Whether our token perplexity at the end is at most so many times that of each arm, as far as they are there."""
    return {
        f"perplexity at most {bound:g} times that of {other}": pairs[other][OURS][last]["perplexity"]["ratio"] <= bound
        for other, bound in bounds.items()
        if pairs.get(other, {}).get(OURS, {}).get(last)
    }


def half_the_time(arms: dict[str, Any]) -> dict[str, bool]:
    """Whether we reach Llama's final perplexity on valid, under every seed, in half of its CPU seconds."""
    if OURS not in arms or LLAMA not in arms:
        return {}
    reached, whole = arms[OURS]["to_llamas_final_perplexity"], arms[LLAMA]["training_cpu_seconds"]["mean"]
    everywhere = reached["seeds_that_reached_it"] == reached["of"] > 0
    return {"llama's final perplexity in half its time": everywhere and reached["cpu_seconds"] <= whole / 2}


def table_rows(record: dict[str, Any]) -> list[list[str]]:
    """Header and a row per arm and mark."""
    header = ["arm, steps", "seeds", "rate", "perplexity", "word perplexity", "bits per byte", "greedy accuracy"]
    header += ["leak gap", "times GPT-2's", "times Llama's", "Llama's final perplexity after", "tokens/CPU s"]
    rows = [[*header, "CPU s", "peak MiB", "parameters"]]
    for name, arm in record["arms"].items():
        for step, figures in arm["at"].items():
            shown = [shown_number(figures[key], form) for key, form in zip(METRICS, METRIC_FORMATS, strict=True)]
            versus = [
                shown_ratio(record["ratios"].get(other, {}).get(name, {}).get(step, {}).get("perplexity"))
                for other in (GPT2, LLAMA)
            ]
            costs = _costs(arm) if step == str(record["steps"]) else [""] * 5
            rate = f"{arm['learning_rate']:g}" + (" (edge)" if arm["rate_at_the_grids_edge"] else "")
            rows.append([f"{name}, {step}", str(len(arm["seeds"])), rate, *shown, *versus, *costs])
    return rows


def checks(record: dict[str, Any]) -> str:
    """What is required and aimed at, with both ratios at the end, a line each."""
    last = str(record["steps"])
    lines = [f"- required: {name}: {'yes' if holds else 'NO'}" for name, holds in record["required"].items()]
    lines += [f"- aimed at: {name}: {'yes' if holds else 'no'}" for name, holds in record["aimed"].items()]
    for other, pairs in record["ratios"].items():
        found = pairs.get(OURS, {}).get(last)
        if found:
            words = shown_ratio(found["word_perplexity"])
            lines.append(f"- {OURS} / {other}: perplexity {shown_ratio(found['perplexity'])}, per word {words}")
    return "\n".join(lines)


def _costs(arm: dict[str, Any]) -> list[str]:
    reached = arm["to_llamas_final_perplexity"]
    after = "-" if reached["step"] is None else f"{reached['step']:,.0f} steps, {reached['cpu_seconds']:,.0f} s"
    if reached["step"] is not None and reached["seeds_that_reached_it"] < reached["of"]:
        after += f" ({reached['seeds_that_reached_it']} of {reached['of']} seeds)"
    memory = arm["training_peak_memory_bytes"]["mean"] / 2**20
    speed, seconds = arm["tokens_per_second"]["mean"], arm["training_cpu_seconds"]["mean"]
    return [after, f"{speed:,.0f}", f"{seconds:,.0f}", f"{memory:,.0f}", f"{arm['num_parameters']:,}"]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m eval.benchmarks.generator_twin", description=(__doc__ or "").split("\n")[0]
    )
    add_generator_options(parser, "generator_twin")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS), help="arms (default: all)")
    parser.add_argument("--rates", nargs="+", type=float, default=[2e-3, 4e-3, 8e-3], help="learning rates to try")
    return parser


if __name__ == "__main__":
    sys.exit(main())
