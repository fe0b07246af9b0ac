"""The dialogue model beside a bi-encoder, a sequence-to-sequence model and a language model of replies.

    python -m eval.benchmarks.dialogue_twin --data PATH/TO/dailydialog --seeds 3 --workers 2

All arms have one tokenizer, the same pairs in the same order, the same sizes, as many steps and the same schedule;
each has the rate of the same small grid that was best on valid in short runs with seed 0. `ours` sees context and
latent, `ours_latent` the latent alone. Stop it and give the same command again: finished cells are kept. `--table`
collects what is there. Exit codes: 0; 1 a cell failed, or what is required does not hold; 2 bad input.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np

from eval.benchmarks import columns as column
from eval.benchmarks.anchors.dialogue import ANCHOR_FIELDS
from eval.benchmarks.cells import Arm
from eval.benchmarks.columns import Column, Record, versus
from eval.benchmarks.comparison import (
    Comparison,
    Options,
    Tuning,
    against,
    arm_costs,
    of_first,
    parse_changes,
    rate_of,
    run_of,
)
from eval.benchmarks.statistics import (
    Cells,
    Results,
    check_asked,
    difference,
    interval_of_sums,
    over_seeds,
    ratio_of,
    same_seeds,
    shown_difference,
    shown_ratio,
)
from eval.scorers.dialogue import GREEDY_REPLIES
from training.common.errors import InputError

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


class DialogueComparison(Comparison):
    """What comparisons of the dialogue model share."""

    family = "dialogue_jepa"
    options = {"eval_steps": 600, "eval_rows": 300, "max_rows": None, "greedy_replies": GREEDY_REPLIES}
    off_pages = ("accuracy", "distinct 1", "target effective rank", "MRR minus its", "peak MiB", "parameters")

    def figures(self, name: str, results: Results, tuning: Tuning, options: Options) -> Record:
        """At the end; `usage` is the latent usage ratio with its interval, where the arm has latents."""
        cells = results[name]
        return {
            **arm_costs(cells, "training_cpu_seconds", "training_peak_memory_bytes"),
            "figures": over_seeds([cell["metrics"] for cell in cells], list(METRICS)),
            "usage": _ratio(cells, cells, "swapped_nll", "nll"),
        }

    def summary(self, results: Results, options: Options) -> Record:
        """What all arms were asked."""
        found = of_first(results, "num_examples", "num_dialogues", "baselines")
        return {**found, "baselines": found["baselines"] or {}, "steps": options.steps}


def _ranks(heading: str, metric: str) -> Column:
    return versus(heading, "retrieval_differences", "{name}", metric, show=shown_difference)


class DialogueTwin(DialogueComparison):
    """See the module."""

    name = "dialogue_twin"
    arms = ARMS
    options = {
        "recipe": RECIPE,
        "arms": list(ARMS),
        "seeds": 3,
        "steps": STEPS,
        "rates": [5e-3, 1e-2, 2e-2],
        **DialogueComparison.options,
        "tuning_steps": 400,
    }
    shown = ("seeds", "recipe?", "steps", "rates", "tuning_steps", "eval_steps", "eval_rows", "greedy_replies?")
    width = 240
    columns = (
        *(column.SEEDS, column.RATE, *column.figures(METRICS)),
        versus("times seq2seq's perplexity", "perplexity_ratios", SEQ2SEQ, "{name}"),
        versus("times no_latent's", "perplexity_ratios", NO_LATENT, "{name}"),
        _ranks("hits@1 minus bi_encoder's", "hits_at_1"),
        _ranks("MRR minus its", "mrr"),
        *(column.SECONDS, column.MEMORY, column.PARAMETERS),
    )
    names = {
        OURS: "ours, latent and context",
        OURS_LATENT: "ours, the latent alone",
        BI_ENCODER: "a bi-encoder",
        SEQ2SEQ: "encoder and decoder, no latent",
        NO_LATENT: "the decoder alone",
    }

    def value(self, name: str, metrics: dict[str, Any]) -> float:
        """The perplexity, or of an arm that says nothing minus its reciprocal rank."""
        value = metrics["mrr"] if name == BI_ENCODER else metrics["perplexity"]
        if value is None:
            raise InputError(f"{name}: valid has too few different replies to choose a rate by; give one in --rates")
        return -value if name == BI_ENCODER else value

    def arm(self, name: str, label: str, rate: float | None, exam: dict[str, Any], options: Options) -> Arm:
        """The decoder's rate keeps the recipe's proportion to it."""
        asked = parse_changes(options.set)
        settings = run_of(options.recipe, options).training
        share = settings.decoder_rate / settings.learning_rate
        rates = {"learning_rate": rate, "decoder_learning_rate": rate * share}
        overrides = {"data": options.data, **asked, **ARMS[name], **rates}
        return self.recipe_arm(label, options.recipe, overrides, exam, model=name if name in ANCHOR_FIELDS else OURS)

    def record(self, results: Results, tuning: Tuning, options: Options) -> Record:
        """With a word on how the rates were chosen."""
        chosen = CHOSEN if len(options.rates) > 1 else " All arms have one rate, which was given."
        return {**super().record(results, tuning, options), "note": NOTE + chosen}

    def figures(self, name: str, results: Results, tuning: Tuning, options: Options) -> Record:
        """With the rate."""
        rate = rate_of(results[name], tuning.get(name), "tuning_cost_on_valid")
        return {**rate, **super().figures(name, results, tuning, options)}

    def summary(self, results: Results, options: Options) -> Record:
        """Arms beside each other."""
        return {
            **super().summary(results, options),
            "perplexity_ratios": against(results, (SEQ2SEQ, NO_LATENT), perplexity_ratio),
            "retrieval_differences": against(results, (BI_ENCODER,), rank_differences).get(BI_ENCODER, {}),
        }

    def required(self, record: Record) -> dict[str, bool]:
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

    def said(self, options: Options) -> dict[str, Any]:
        """No length of short runs where there are none."""
        return {} if len(options.rates) > 1 else {"tuning_steps": None}

    def evidence(self, record: Record) -> list[str]:
        """The intervals behind what is required."""
        lines = []
        for name, other in ((OURS, SEQ2SEQ), (OURS_LATENT, NO_LATENT)):
            found = record["perplexity_ratios"].get(other, {}).get(name)
            lines += [f"- {name} / {other}: perplexity {shown_ratio(found)}"] if found else []
        for name in (OURS, OURS_LATENT):
            for metric, found in record["retrieval_differences"].get(name, {}).items():
                lines.append(f"- {name} - {BI_ENCODER}: {metric} {shown_difference(found)}")
            usage = record["arms"].get(name, {}).get("usage")
            lines += [f"- {name}: usage ratio {shown_ratio(usage)}"] if usage else []
        return lines


def perplexity_ratio(first: Cells, second: Cells) -> dict[str, float]:
    """How many times the second arm's perplexity the first one's is; exp of the difference of nats per token, averaged
    over the seeds that both have, with its interval over dialogues and seeds. Empty where it cannot be said.

    Raises:
        InputError: the arms were asked different pairs.
    """
    return _ratio(first, second, "nll", "nll")


def rank_differences(first: Cells, second: Cells) -> dict[str, dict[str, float]]:
    """Of hits and reciprocal ranks, with their intervals over dialogues and seeds; none where an arm has no ranks.

    Raises:
        InputError: the arms were asked different pairs.
    """
    check_asked(same_seeds(first, second), "asked", "pairs")
    found = {metric: difference(first, second, metric) for metric in RANKED}
    return {metric: vars(interval) for metric, interval in found.items() if interval is not None}


def _ratio(first: Cells, second: Cells, upper: str, lower: str) -> dict[str, float]:
    pairs = same_seeds(first, second)
    pairs = [(one, two) for one, two in pairs if upper in one["dialogues"] and lower in two["dialogues"]]
    if not pairs:
        return {}
    check_asked(pairs, "asked", "pairs")
    sums = np.array([[one["dialogues"][upper], two["dialogues"][lower]] for one, two in pairs])
    return ratio_of(interval_of_sums(sums[:, 0] - sums[:, 1], np.array(pairs[0][0]["dialogues"]["tokens"])))


def _retrieval(record: dict[str, Any], metric: str) -> float | None:
    found = record["retrieval_differences"].get(OURS, {}).get(metric)
    return None if found is None else found["difference"]


def _perplexity(record: dict[str, Any], name: str, other: str) -> float | None:
    found = record["perplexity_ratios"].get(other, {}).get(name)
    return None if found is None else found["ratio"]


def _figure(record: dict[str, Any], name: str, metric: str, part: str = "mean") -> float | None:
    return record["arms"][name]["figures"][metric][part] if name in record["arms"] else None


COMPARISON = DialogueTwin()
main = COMPARISON.main


if __name__ == "__main__":
    sys.exit(main())
