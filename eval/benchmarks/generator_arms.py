"""What the comparisons of the staged generator share: arms, the choice of a rate, paired differences, options."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eval.benchmarks.cells import Arm, collect, plan_cells
from eval.benchmarks.comparison import add_common_options, parse_changes, run_all
from eval.benchmarks.curves import mean_and_spread
from eval.benchmarks.statistics import interval_of_sums
from training.common.errors import InputError
from training.run.arguments import parse_arguments

BASE_RECIPE = str(Path("training") / "recipes" / "staged_generator" / "wikitext2_cpu.yaml")
METRICS = ("perplexity", "word_perplexity", "bits_per_byte", "greedy_accuracy", "leak_gap")
METRIC_FORMATS = (",.2f", ",.2f", ".4f", ".4f", ".1e")
_MODELING = (
    "chunked_cross_entropy",
    "counter_random",
    "graph_routing",
    "layers",
    "losses",
    "modeling_base",
    "modeling_staged_generator",
    "semantic_blocks",
    "staged_attention",
    "temporal_memory",
)
_TRAINING = (
    "data",
    "families/staged_generator.py",
    "init_from/growing.py",
    "optim",
    "run",
    "runtime/precision.py",
    "settings",
    "trainer",
)
_SCORERS = ("causal", "causal_inside", "holes")
CODE = (
    "configuration_jepa/configuration_base.py",
    "configuration_jepa/configuration_staged_generator.py",
    *(f"modeling_jepa/{name}.py" for name in _MODELING),
    *(f"training/{name}" for name in _TRAINING),
    "eval/metrics/language_modeling.py",
    *(f"eval/scorers/{name}.py" for name in _SCORERS),
    "eval/benchmarks/bare_trainer.py",
    "eval/benchmarks/exam.py",
    "eval/benchmarks/anchors/gpt2_and_llama.py",
    "eval/benchmarks/generator_cell.py",
)

Results = dict[str, list[dict]]
Rates = dict[str, float]


def generator_arm(
    name: str,
    overrides: dict[str, Any],
    exam: dict[str, Any],
    *,
    recipe: str,
    model: str = "recipe",
    keep: str | None = None,
) -> Arm:
    """An arm that `generator_cell.train_and_mark` runs; `overrides` must name `data`, and may name `init_from`."""
    settings: dict[str, Any] = {"recipe": recipe, "overrides": overrides, "model": model, "exam": exam}
    if keep is not None:
        settings["keep"] = keep
    sources = tuple(overrides[key] for key in ("data", "init_from") if key in overrides)
    return Arm(name, settings, "eval.benchmarks.generator_cell:train_and_mark", sources, CODE)


def tune(
    names: Sequence[str],
    make: Callable[[str, float, dict[str, Any]], Arm],
    options: argparse.Namespace,
    cost: Callable[[str, dict[str, Any]], float] = lambda name, metrics: metrics["perplexity"],
) -> tuple[Rates, dict[str, Rates], dict[str, str]]:
    """The rate of each arm with the lowest cost (by default the perplexity) on valid, in short runs with seed 0.

    Args:
        names: of the arms.
        make: (arm, rate, exam) -> the short run.
        cost: (arm, its figures on valid) -> what is to be low.

    Returns:
        Arm -> rate; arm -> rate -> cost; and what failed. Arms without a result are left out. Where there is
        only one rate to try, nothing is run.
    """
    if len(options.rates) == 1:
        return dict.fromkeys(names, options.rates[0]), {}, {}
    steps = options.tuning_steps
    exam = {"marks": [steps], "split": "valid", "eval_steps": steps, "eval_rows": options.eval_rows}
    arms = {(name, rate): make(name, rate, exam) for name in names for rate in options.rates}
    cells = plan_cells(list(arms.values()), [0], Path(options.out) / "tuning")
    failed = {} if options.table else run_all(cells, options.workers).failed
    results = collect(cells)
    found: dict[str, Rates] = {name: {} for name in names}
    for (name, rate), arm in arms.items():
        if arm.name in results:
            found[name][f"{rate:g}"] = cost(name, results[arm.name][0]["metrics"])
    best = {name: float(min(tried, key=lambda rate: tried[rate])) for name, tried in found.items() if tried}
    return best, found, failed


def at_edge(rate: float, tried: Rates) -> bool:
    """Whether a rate was the lowest or highest of those tried, so that a better one may lie beyond."""
    return bool(tried) and rate in (min(map(float, tried)), max(map(float, tried)))


def final_exam(options: argparse.Namespace) -> dict[str, Any]:
    """Test figures at the marks, and a curve on valid."""
    return {
        "marks": marks_of(options),
        "max_rows": options.max_rows,
        "max_tokens": options.max_tokens,
        "eval_steps": options.eval_steps,
        "eval_rows": options.eval_rows,
    }


def marks_of(options: argparse.Namespace) -> list[int]:
    """The steps of the test figures: the earlier ones that were asked for, and the end. Raises InputError."""
    last = recipe_of(options).max_steps if options.steps is None else options.steps
    if any(not 0 < mark < last for mark in options.marks):
        raise InputError(f"marks: got {' '.join(map(str, options.marks))}; use steps from 1 to {last - 1}")
    return [*sorted(set(options.marks)), last]


def recipe_of(options: argparse.Namespace) -> Any:
    """The training settings of the recipe with the changes that were asked for."""
    changes = [f"--{name}={value}" for name, value in parse_changes(options.set).items()]
    return parse_arguments([options.recipe, f"--data={options.data}", *changes]).training


def arm_figures(cells: list[dict], marks: Sequence[int]) -> dict[str, Any]:
    """One arm over its seeds."""
    speeds = [cell["training_tokens"] / cell["training_cpu_seconds"] for cell in cells]
    return {
        "seeds": [cell["seed"] for cell in cells],
        "num_parameters": cells[0]["num_parameters"],
        "size": cells[0]["size"],
        "training_tokens": cells[0]["training_tokens"],
        "training_cpu_seconds": mean_and_spread([cell["training_cpu_seconds"] for cell in cells]),
        "tokens_per_second": mean_and_spread(speeds),
        "training_peak_memory_bytes": mean_and_spread([cell["training_peak_memory_bytes"] for cell in cells]),
        "at": {str(step): _at_mark([cell["marks"][str(step)] for cell in cells]) for step in marks},
        "valid_perplexity": mean_and_spread([cell["curve"][-1]["perplexity"] for cell in cells]),
    }


def _at_mark(found: list[dict]) -> dict[str, dict[str, float | None]]:
    """Test figures over seeds; `loss` is in nats per token."""
    figures = {name: mean_and_spread([metrics.get(name) for metrics in found]) for name in METRICS}
    return {"loss": mean_and_spread([metrics["nll"] / metrics["tokens"] for metrics in found]), **figures}


def ratios(
    first: list[dict], second: list[dict], step: int, second_step: int | None = None
) -> dict[str, dict[str, float]]:
    """How many times the second arm's perplexity the first one's is, per token and per word, over the seeds that both
    have; after `step` steps of both, or `second_step` of the second.

    A ratio is exp of the difference of nll per token or word, averaged over seeds; its interval that of the
    difference, resampled over documents and seeds. Empty where no seed is common.

    Raises:
        InputError: the arms were asked different tokens.
    """
    left, right = ({cell["seed"]: cell for cell in cells} for cells in (first, second))
    seeds = sorted(left.keys() & right.keys())
    if not seeds:
        return {}
    if len({side[seed]["asked"] for side in (left, right) for seed in seeds}) > 1:
        raise InputError("the arms were asked different tokens and cannot be paired; run them on one test set")
    steps = (step, step if second_step is None else second_step)
    nll = [
        np.array([side[seed]["documents"][str(mark)] for seed in seeds])
        for side, mark in zip((left, right), steps, strict=True)
    ]
    shown = left[seeds[0]]
    tokens = np.array(shown["tokens"], dtype=np.float64)
    found = interval_of_sums(nll[0] - nll[1], tokens)
    per_word = tokens.sum() / shown["marks"][str(step)]["words"]
    bounds = {"ratio": found.difference, "low": found.low, "high": found.high}
    return {
        "nll_per_token": vars(found),
        "perplexity": {name: float(np.exp(value)) for name, value in bounds.items()},
        "word_perplexity": {name: float(np.exp(value * per_word)) for name, value in bounds.items()},
    }


def add_generator_options(parser: argparse.ArgumentParser, name: str) -> None:
    """The options of every comparison of the generator."""
    add_common_options(parser, name)
    parser.add_argument("--recipe", default=BASE_RECIPE, help="recipe of our arms (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0 .. N-1 for each arm (default: %(default)s)")
    parser.add_argument("--steps", type=int, help="length of the long runs (default: the recipe's)")
    parser.add_argument(
        "--marks", nargs="*", type=int, default=[], help="steps before the end at which test is scored too"
    )
    parser.add_argument("--tuning_steps", type=int, default=400, help="length of the runs that choose the rate")
    parser.add_argument("--eval_steps", type=int, default=250, help="distance of the points of the valid curve")
    parser.add_argument("--eval_rows", type=int, default=256, help="packed blocks of valid that a point is scored on")
    parser.add_argument("--max_tokens", type=int, help="test tokens that are scored, a seeded subset (default: all)")


def flags_of(options: argparse.Namespace) -> str:
    """What was asked for beyond data, rows and recipe keys, as it stands in the command of a record."""
    rates = " ".join(f"{rate:g}" for rate in options.rates)
    shown = f" --seeds {options.seeds}"
    shown += f" --recipe {options.recipe}" if options.recipe != BASE_RECIPE else ""
    shown += f" --steps {marks_of(options)[-1]}"
    shown += f" --marks {' '.join(map(str, options.marks))}" if options.marks else ""
    shown += f" --rates {rates} --tuning_steps {options.tuning_steps}"
    shown += f" --eval_steps {options.eval_steps} --eval_rows {options.eval_rows}"
    return shown + (f" --max_tokens {options.max_tokens}" if options.max_tokens else "")


def shown_number(figure: dict[str, float | None], form: str) -> str:
    """Mean, with the spread over seeds where there is one."""
    mean, spread = figure["mean"], figure["sd"]
    if mean is None:
        return "-"
    return f"{mean:{form}}" + (f" ({spread:{form}})" if spread is not None else "")


def shown_ratio(ratio: dict[str, float] | None) -> str:
    """A ratio with its interval."""
    return f"{ratio['ratio']:.3f} [{ratio['low']:.3f}, {ratio['high']:.3f}]" if ratio else ""
