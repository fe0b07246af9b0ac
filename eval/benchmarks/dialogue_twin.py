"""The dialogue model beside a bi-encoder, a sequence-to-sequence model and a language model of replies.

    python -m eval.benchmarks.dialogue_twin --data PATH/TO/dailydialog --seeds 3 --workers 2

All arms have one tokenizer, the same pairs in the same order, the same sizes, as many steps and the same schedule;
each has the rate of the same small grid that was best on valid in short runs with seed 0. `ours` sees context and
latent, `ours_latent` the latent alone. Stop it and give the same command again: finished cells are kept. `--table`
collects what is there. Exit codes: 0; 1 a cell failed, or what is required does not hold; 2 bad input.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eval.benchmarks.cells import Arm, collect, plan_cells
from eval.benchmarks.comparison import add_common_options, publish, run_all, shown_command
from eval.benchmarks.dialogue_arms import (
    ARMS,
    BI_ENCODER,
    METRICS,
    NO_LATENT,
    OURS,
    OURS_LATENT,
    SEQ2SEQ,
    arm_figures,
    dialogue_arm,
    paired_difference,
    perplexity_ratio,
    tuning_cost,
)
from eval.benchmarks.generator_arms import Rates, Results, at_edge, shown_number, shown_ratio, tune
from eval.scorers.dialogue import GREEDY_REPLIES
from training.common.errors import InputError
from training.common.records import check_target, package_versions

RECIPE = str(Path("training") / "recipes" / "dialogue_jepa" / "dailydialog_cpu.yaml")
STEPS = 2100  # of that recipe, in 8 minutes of one CPU thread
RANKED = ("hits_at_1", "hits_at_5", "mrr")
NOTE = (
    "Test pairs of whole held-out dialogues. Perplexity per token, end tokens among them; one tokenizer. hits@k and "
    "MRR: the true reply among 20. The usage ratio is the perplexity with another pair's latents over the perplexity. "
    "distinct-1 and -2 are of greedy replies to the same contexts in every arm, and have no interval. Brackets: 95 % "
    "intervals of a paired bootstrap over dialogues and seeds; parentheses: spread over seeds. Every twin is our own "
    "network with a part taken out: the bi-encoder has no decoder and no teacher, reads replies with the same reader "
    "and keeps of our losses the ranking, through which both sides learn; the sequence-to-sequence twin's decoder "
    "attends to the context alone, without the latent losses; the no-latent twin's sees learned constants in place of "
    "the latents, and so is a language model of replies. Parameters are those that learn. Seconds are CPU "
    "seconds of training at one thread, scoring not counted."
)
CHOSEN = " Rates are chosen by perplexity, the bi-encoder's by MRR."


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; see the module."""
    options = _parser().parse_args(argv)
    try:
        check_target(Path(options.json))
        rates, tuning, failed = tune(options.arms, lambda *given: _tuning_arm(*given, options), options, tuning_cost)
        arms = [dialogue_arm(name, name, rate, _final_exam(options), options) for name, rate in rates.items()]
        cells = plan_cells(arms, range(options.seeds), Path(options.out) / "runs")
        if not options.table:
            failed |= run_all(cells, options.workers).failed
        record = summarise(collect(cells), rates, tuning, options)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    publish(record, table_rows(record), [checks(record), record["note"]], options.json, width=240)
    return 1 if failed or False in record["required"].values() else 0


def summarise(results: Results, rates: Rates, tuning: dict[str, Rates], options: argparse.Namespace) -> dict[str, Any]:
    """The record of the comparison: all of it measured, nothing else."""
    arms = {
        name: {
            "learning_rate": rates[name],
            "tuning_cost_on_valid": tuning.get(name),
            "rate_at_the_grids_edge": at_edge(rates[name], tuning.get(name, {})),
            **arm_figures(cells),
        }
        for name, cells in results.items()
    }
    first = next(iter(results.values()), [{}])[0]
    record = {
        "schema_version": 1,
        "command": shown_command("dialogue_twin", options, _flags_of(options)),
        "num_examples": first.get("num_examples"),
        "num_dialogues": first.get("num_dialogues"),
        "steps": options.steps,
        "arms": arms,
        "baselines": first.get("baselines", {}),
        "perplexity_ratios": _against(results, (SEQ2SEQ, NO_LATENT)),
        "retrieval_differences": _ranks_against(results, BI_ENCODER),
        "note": NOTE + (CHOSEN if len(options.rates) > 1 else " All arms have one rate, which was given."),
        "versions": package_versions(),
    }
    return {**record, "required": required(record), "aimed": aimed(record)}


def required(record: dict[str, Any]) -> dict[str, bool]:
    """What must hold, as far as the arms for it are there."""
    found = {}
    for metric, name in (("hits_at_1", "hits@1 of 20"), ("mrr", "MRR")):
        pair, spread = _retrieval(record, metric), _figure(record, BI_ENCODER, metric, "sd") or 0.0
        if pair is not None:
            found[f"{name} at least the bi-encoder's within its spread"] = pair >= -spread
    ratio = _perplexity(record, OURS, SEQ2SEQ)
    if ratio is not None:
        found["perplexity with context and latent not above the sequence-to-sequence twin's"] = ratio <= 1.0
    usage = _figure(record, OURS_LATENT, "latent_usage_ratio")
    if usage is not None:
        found["usage ratio of the latent alone at least 1.2"] = usage >= 1.2
    ratio = _perplexity(record, OURS_LATENT, NO_LATENT)
    if ratio is not None:
        found["perplexity with the latent alone at least 2 % under the no-latent twin's"] = ratio <= 0.98
    ours, twins = (_figure(record, name, "distinct_2") for name in (OURS, SEQ2SEQ))
    if ours is not None and twins is not None:
        found["distinct-2 at least the sequence-to-sequence twin's"] = ours >= twins
    return found


def aimed(record: dict[str, Any]) -> dict[str, bool]:
    """What is aimed at, as far as the arms for it are there."""
    found = {}
    pair, ratio = _retrieval(record, "hits_at_1"), _perplexity(record, OURS, SEQ2SEQ)
    if pair is not None:
        found["hits@1 of 20 five points above the bi-encoder's"] = pair >= 0.05
    if ratio is not None:
        found["perplexity 5 % under the sequence-to-sequence twin's"] = ratio <= 0.95
    return found


def table_rows(record: dict[str, Any]) -> list[list[str]]:
    """Header, a row per arm, and a row per guesser."""
    header = ["arm", "seeds", "rate", *(name.replace("_", " ") for name in METRICS)]
    header += ["times seq2seq's perplexity", "times no_latent's", "hits@1 minus bi_encoder's", "MRR minus its"]
    rows = [[*header, "CPU s", "peak MiB", "parameters"]]
    for name, arm in record["arms"].items():
        figures = [shown_number(arm["figures"][metric], form) for metric, form in METRICS.items()]
        versus = [shown_ratio(record["perplexity_ratios"].get(other, {}).get(name)) for other in (SEQ2SEQ, NO_LATENT)]
        versus += [
            shown_difference(record["retrieval_differences"].get(name, {}).get(k)) for k in ("hits_at_1", "mrr")
        ]
        costs = [f"{arm['training_cpu_seconds']['mean']:,.0f}"]
        costs += [f"{arm['training_peak_memory_bytes']['mean'] / 2**20:,.0f}", f"{arm['num_parameters']:,}"]
        rate = f"{arm['learning_rate']:g}" + (" (edge)" if arm["rate_at_the_grids_edge"] else "")
        rows.append([name, str(len(arm["seeds"])), rate, *figures, *versus, *costs])
    for name, found in record["baselines"].items():
        figures = [shown_number({"mean": found.get(metric), "sd": None}, form) for metric, form in METRICS.items()]
        rows.append([name.replace("_", " "), "", "", *figures, *[""] * 7])
    return rows


def checks(record: dict[str, Any]) -> str:
    """What is required and aimed at, and the intervals behind it, a line each."""
    lines = [f"- required: {name}: {'yes' if holds else 'NO'}" for name, holds in record["required"].items()]
    lines += [f"- aimed at: {name}: {'yes' if holds else 'no'}" for name, holds in record["aimed"].items()]
    for name, other in ((OURS, SEQ2SEQ), (OURS_LATENT, NO_LATENT)):
        found = record["perplexity_ratios"].get(other, {}).get(name)
        if found:
            lines.append(f"- {name} / {other}: perplexity {shown_ratio(found)}")
    for name in (OURS, OURS_LATENT):
        for metric, found in record["retrieval_differences"].get(name, {}).items():
            lines.append(f"- {name} - {BI_ENCODER}: {metric} {shown_difference(found)}")
        usage = record["arms"].get(name, {}).get("usage")
        if usage:
            lines.append(f"- {name}: usage ratio {shown_ratio(usage)}")
    return "\n".join(lines)


def shown_difference(found: dict[str, float] | None, digits: int = 4) -> str:
    """A difference with its interval."""
    if not found:
        return ""
    return "{:+.{n}f} [{:+.{n}f}, {:+.{n}f}]".format(*(found[key] for key in ("difference", "low", "high")), n=digits)


def _tuning_arm(name: str, rate: float, exam: dict[str, Any], options: argparse.Namespace) -> Arm:
    return dialogue_arm(name, f"{name}-{rate:g}", rate, exam, options)


def _final_exam(options: argparse.Namespace) -> dict[str, Any]:
    names = ("max_rows", "eval_steps", "eval_rows", "greedy_replies")
    return {"marks": [options.steps], **{name: vars(options)[name] for name in names}}


def _against(results: Results, others: Sequence[str]) -> dict[str, dict[str, dict[str, float]]]:
    """Twin -> arm -> ratio of perplexities."""
    return {
        other: {
            name: found
            for name, cells in results.items()
            if name != other and (found := perplexity_ratio(cells, results[other]))
        }
        for other in others
        if other in results
    }


def _ranks_against(results: Results, other: str) -> dict[str, dict[str, dict[str, float]]]:
    """Arm -> metric -> difference to that twin."""
    if other not in results:
        return {}
    pairs = {
        name: {k: found for k in RANKED if (found := paired_difference(cells, results[other], k))}
        for name, cells in results.items()
        if name != other
    }
    return {name: found for name, found in pairs.items() if found}


def _retrieval(record: dict[str, Any], metric: str) -> float | None:
    found = record["retrieval_differences"].get(OURS, {}).get(metric)
    return None if found is None else found["difference"]


def _perplexity(record: dict[str, Any], name: str, other: str) -> float | None:
    found = record["perplexity_ratios"].get(other, {}).get(name)
    return None if found is None else found["ratio"]


def _figure(record: dict[str, Any], name: str, metric: str, part: str = "mean") -> float | None:
    return record["arms"][name]["figures"][metric][part] if name in record["arms"] else None


def _flags_of(options: argparse.Namespace) -> str:
    """What was asked for beyond data, rows and recipe keys, as it stands in the command of a record."""
    rates = " ".join(f"{rate:g}" for rate in options.rates)
    shown = f" --seeds {options.seeds}" + (f" --recipe {options.recipe}" if options.recipe != RECIPE else "")
    shown += f" --steps {options.steps} --rates {rates}"
    shown += f" --tuning_steps {options.tuning_steps}" if len(options.rates) > 1 else ""
    shown += f" --eval_steps {options.eval_steps} --eval_rows {options.eval_rows}"
    return shown + (f" --greedy_replies {options.greedy_replies}" if options.greedy_replies != GREEDY_REPLIES else "")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m eval.benchmarks.dialogue_twin", description=(__doc__ or "").split("\n")[0]
    )
    add_common_options(parser, "dialogue_twin")
    parser.add_argument("--recipe", default=RECIPE, help="recipe of all arms (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0 .. N-1 for each arm (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=STEPS, help="length of the long runs (default: %(default)s)")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS), help="arms (default: all)")
    parser.add_argument(
        "--rates", nargs="+", type=float, default=[5e-3, 1e-2, 2e-2], help="learning rates to try; one: no tuning"
    )
    parser.add_argument("--tuning_steps", type=int, default=400, help="length of the runs that choose the rate")
    parser.add_argument("--eval_steps", type=int, default=600, help="distance of the points of the valid curve")
    parser.add_argument("--eval_rows", type=int, default=300, help="pairs of valid that a point is scored on")
    parser.add_argument(
        "--greedy_replies", type=int, default=GREEDY_REPLIES, help="contexts that are answered (default: %(default)s)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
