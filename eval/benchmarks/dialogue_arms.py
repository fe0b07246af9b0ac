"""Arms of the dialogue comparison, and the paired differences between them."""

import argparse
from typing import Any

import numpy as np

from eval.benchmarks.anchors.dialogue import ANCHOR_FIELDS
from eval.benchmarks.cells import Arm
from eval.benchmarks.comparison import parse_changes
from eval.benchmarks.curves import mean_and_spread
from eval.benchmarks.statistics import Interval, interval_of_sums
from eval.benchmarks.tables import difference
from training.common.errors import InputError
from training.run.arguments import parse_arguments

OURS, OURS_LATENT, BI_ENCODER, SEQ2SEQ, NO_LATENT = "ours", "ours_latent", "bi_encoder", "seq2seq", "no_latent"
ARMS: dict[str, dict[str, Any]] = {
    OURS: {"context_access": "both"},
    OURS_LATENT: {"context_access": "latent"},
    **{name: ANCHOR_FIELDS[name] for name in (BI_ENCODER, SEQ2SEQ, NO_LATENT)},
}
METRICS = {
    "perplexity": ".2f",
    "accuracy": ".4f",
    "latent_usage_ratio": ".3f",
    "hits_at_1": ".4f",
    "hits_at_5": ".4f",
    "mrr": ".4f",
    "distinct_1": ".4f",
    "distinct_2": ".4f",
    "effective_rank": ".1f",
    "target_effective_rank": ".1f",
}
_MODELING = (
    "chunked_cross_entropy",
    "counter_random",
    "latent_head",
    "layers",
    "losses",
    "modeling_base",
    "modeling_dialogue_jepa",
    "modeling_text_jepa",
    "teacher",
)
_TRAINING = (
    "build",
    "callbacks",
    "dialogue_settings",
    "family_dialogue",
    "optimizers",
    "precision",
    "run_state",
    "schedule",
    "settings",
    "trainer",
)
CODE = (
    "configuration_jepa/configuration_base.py",
    "configuration_jepa/configuration_dialogue_jepa.py",
    *(f"modeling_jepa/{name}.py" for name in _MODELING),
    *(f"training/{name}.py" for name in _TRAINING),
    "training/data",
    "eval/metrics",
    *(f"eval/{name}.py" for name in ("ngrams", "replies", "representation", "word_overlap")),
    *(f"eval/scorers/{name}.py" for name in ("candidates", "dialogue", "holes", "token_scores")),
    "eval/benchmarks/anchors/dialogue.py",
    "eval/benchmarks/dialogue_cell.py",
    "eval/benchmarks/bare_trainer.py",
    "eval/benchmarks/exam.py",
)

Cells = list[dict]
Ratio = dict[str, float]


def dialogue_arm(name: str, label: str, rate: float, exam: dict[str, Any], options: argparse.Namespace) -> Arm:
    """An arm at one rate, under the name `label`; the decoder's rate keeps the recipe's proportion to it."""
    asked = parse_changes(options.set)
    settings = parse_arguments([options.recipe, f"--data={options.data}", *_flags(asked)]).training
    share = settings.decoder_rate / settings.learning_rate
    rates = {"learning_rate": rate, "decoder_learning_rate": rate * share}
    overrides = {"data": options.data, **asked, **ARMS[name], **rates}
    model = name if name in ANCHOR_FIELDS else OURS
    cell = {"recipe": options.recipe, "overrides": overrides, "model": model, "exam": exam}
    return Arm(label, cell, "eval.benchmarks.dialogue_cell:train_and_mark", (options.data,), CODE)


def tuning_cost(name: str, metrics: dict[str, float | None]) -> float:
    """What the rate is chosen by: the perplexity, or of an arm that says nothing minus its reciprocal rank."""
    value = metrics["mrr"] if name == BI_ENCODER else metrics["perplexity"]
    if value is None:
        raise InputError(f"{name}: valid has too few different replies to choose a rate by; give one in --rates")
    return -value if name == BI_ENCODER else value


def arm_figures(cells: Cells) -> dict[str, Any]:
    """One arm over its seeds; `usage` is the latent usage ratio with its interval, where the arm has latents."""
    return {
        "seeds": [cell["seed"] for cell in cells],
        "num_parameters": cells[0]["num_parameters"],
        "training_cpu_seconds": mean_and_spread([cell["training_cpu_seconds"] for cell in cells]),
        "training_peak_memory_bytes": mean_and_spread([cell["training_peak_memory_bytes"] for cell in cells]),
        "figures": {name: mean_and_spread([cell["metrics"].get(name) for cell in cells]) for name in METRICS},
        "usage": _ratio(cells, cells, "swapped_nll", "nll"),
    }


def perplexity_ratio(first: Cells, second: Cells) -> Ratio:
    """How many times the second arm's perplexity the first one's is; exp of the difference of nats per token, averaged
    over the seeds that both have, with its interval over dialogues and seeds. Empty where it cannot be said.

    Raises:
        InputError: the arms were asked different pairs.
    """
    return _ratio(first, second, "nll", "nll")


def paired_difference(first: Cells, second: Cells, metric: str) -> Ratio:
    """Of hits or reciprocal ranks, with its interval over dialogues and seeds. Empty where an arm has no ranks.

    Raises:
        InputError: the arms were asked different pairs.
    """
    _check_asked([*first, *second])
    found = difference(first, second, metric)
    return {} if found is None else vars(found)


def _ratio(first: Cells, second: Cells, upper: str, lower: str) -> Ratio:
    left, right = ({cell["seed"]: cell["dialogues"] for cell in cells} for cells in (first, second))
    seeds = sorted(seed for seed in left.keys() & right.keys() if upper in left[seed] and lower in right[seed])
    if not seeds:
        return {}
    _check_asked([*first, *second])
    sums = [np.array([left[seed][upper] for seed in seeds]), np.array([right[seed][lower] for seed in seeds])]
    found: Interval = interval_of_sums(sums[0] - sums[1], np.array(left[seeds[0]]["tokens"]))
    bounds = {"ratio": found.difference, "low": found.low, "high": found.high}
    return {name: float(np.exp(value)) for name, value in bounds.items()}


def _check_asked(cells: Cells) -> None:
    if len({cell["asked"] for cell in cells}) > 1:
        raise InputError("the arms were asked different pairs and cannot be paired; run them on one test set")


def _flags(changes: dict[str, str]) -> list[str]:
    return [f"--{name}={value}" for name, value in changes.items()]
