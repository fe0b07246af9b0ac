"""The staged generator at stage 0 beside GPT-2 and Llama of its size, on the same batches.

    python -m eval.benchmarks.generator_twin --data PATH/TO/wikitext2 --seeds 3 --workers 2

All arms have one tokenizer, the same packed blocks in the same order, as many steps and the same schedule; each has
the rate of the same small grid that was best on valid in short runs with seed 0. Test figures are taken at the end,
and at the marks. `llama_muon` and `ours_adamw` tell what the optimizer is worth. Stop it and give the same command
again: finished cells are kept. `--table` collects what is there. Exit codes: 0; 1 a cell failed, or what is required
does not hold; 2 bad input.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np

from eval.benchmarks import columns as column
from eval.benchmarks.cells import Arm
from eval.benchmarks.columns import Column, Record
from eval.benchmarks.comparison import (
    Comparison,
    Options,
    Tuned,
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
    interval_of_sums,
    marks_of,
    mean_and_spread,
    over_seeds,
    ratio_of,
    reaching,
    same_seeds,
    shown_ratio,
)
from training.common.errors import InputError

RECIPE = str(Path("training") / "recipes" / "staged_generator" / "wikitext2_cpu.yaml")
METRICS = {
    "perplexity": ",.2f",
    "word_perplexity": ",.2f",
    "bits_per_byte": ".4f",
    "greedy_accuracy": ".4f",
    "leak_gap": ".1e",
}
OURS, GPT2, LLAMA, LLAMA_MUON, OURS_ADAMW = "ours", "gpt2", "llama", "llama_muon", "ours_adamw"
ARMS: dict[str, dict[str, Any]] = {
    OURS: {},
    GPT2: {"model": "gpt2", "overrides": {"optimizer": "adamw"}},
    LLAMA: {"model": "llama", "overrides": {"optimizer": "adamw"}},
    LLAMA_MUON: {"model": "llama", "overrides": {"optimizer": "muon"}},
    OURS_ADAMW: {"overrides": {"optimizer": "adamw"}},
}
REQUIRED = {GPT2: 0.95, LLAMA: 1.02}
NOTE = (
    "Test documents verbatim, every token once, in windows of the training length with a stride of half of it. "
    "Perplexity per token can be compared here, as all arms have one tokenizer. Ratios: of perplexities, with 95 % "
    "intervals of a paired bootstrap over documents and seeds. Seconds are CPU seconds of training at one thread, "
    "scoring not counted; those to Llama's final perplexity are read off the valid curve of the same seed, in "
    "straight lines between its points. Memory is the training process's peak, libraries included. All arms make "
    "their loss in the same chunks, attend in float32 and have the same dropout; z-loss and label smoothing, where "
    "the recipe has them, are ours alone."
)


class GeneratorComparison(Comparison):
    """What comparisons of the generator share; `others`: arms that the others' perplexities are divided by."""

    family = "staged_generator"
    options = {
        "recipe": RECIPE,
        "seeds": 3,
        "steps": None,
        "marks": [],
        "tuning_steps": 400,
        "eval_steps": 250,
        "eval_rows": 256,
        "max_rows": None,
        "max_tokens": None,
    }
    shown = (
        *("seeds", "recipe?", "steps", "marks", "rates", "tuning_steps", "eval_steps", "eval_rows", "max_tokens"),
        *("base_steps", "from"),
    )
    others: tuple[str, ...] = ()
    metrics: dict[str, str] = METRICS
    heading = "arm, steps"

    def marks(self, options: Options) -> list[int]:
        """The earlier ones that were asked for, and the end. Raises InputError."""
        last = run_of(options.recipe, options).training.max_steps if options.steps is None else options.steps
        if any(not 0 < mark < last for mark in options.marks):
            raise InputError(f"marks: got {' '.join(map(str, options.marks))}; use steps from 1 to {last - 1}")
        return [*sorted(set(options.marks)), last]

    def said(self, options: Options) -> dict[str, Any]:
        """The length, whatever the recipe says."""
        return {"steps": self.marks(options)[-1]}

    def figures(self, name: str, results: Results, tuning: Tuning, options: Options) -> Record:
        """At the marks; `loss` is in nats per test token."""
        cells, marks = results[name], {}
        for step in marks_of(cells):
            found = [cell["marks"][step] for cell in cells]
            loss = mean_and_spread([metrics["nll"] / metrics["tokens"] for metrics in found])
            marks[step] = {"loss": loss, **over_seeds(found, list(self.metrics))}
        speeds = [cell["training_tokens"] / cell["training_cpu_seconds"] for cell in cells]
        return {
            **rate_of(cells, tuning.get(name), "tuning_perplexity_on_valid"),
            **arm_costs(cells, "training_cpu_seconds", "training_peak_memory_bytes"),
            "size": cells[0]["size"],
            "training_tokens": cells[0]["training_tokens"],
            "tokens_per_second": mean_and_spread(speeds),
            "at": marks,
            "valid_perplexity": mean_and_spread([cell["curve"][-1]["perplexity"] for cell in cells]),
        }

    def summary(self, results: Results, options: Options) -> Record:
        """Arms beside each other, at each mark of the first; an arm that was not scored there is taken at its end."""

        def compare(first: Cells, second: Cells) -> dict[str, Any]:
            known = marks_of(second)
            return {
                step: ratios(first, second, step, step if step in known else known[-1]) for step in marks_of(first)
            }

        pairs = against(results, self.others, compare)
        return {**of_first(results, "num_examples"), "steps": self.marks(options)[-1], "ratios": pairs}


def ratio_column(heading: str, other: str) -> Column:
    """How many times the perplexity of another arm."""
    return column.versus(heading, "ratios", other, "{name}", "{step}", "perplexity")


class GeneratorTwin(GeneratorComparison):
    """See the module."""

    name = "generator_twin"
    arms = ARMS
    options = {**GeneratorComparison.options, "arms": list(ARMS), "rates": [2e-3, 4e-3, 8e-3]}
    others = (GPT2, LLAMA)
    note = NOTE
    width = 220
    columns = (
        *(column.SEEDS, column.RATE, *column.figures(METRICS)),
        *(ratio_column("times GPT-2's", GPT2), ratio_column("times Llama's", LLAMA)),
        column.reach("Llama's final perplexity after", "to_llamas_final_perplexity"),
        *(column.SPEED, column.SECONDS, column.MEMORY, column.PARAMETERS),
    )
    names = {
        OURS: "ours, stage 0 (Muon)",
        OURS_ADAMW: "the same with AdamW",
        GPT2: "`GPT2LMHeadModel` (AdamW)",
        LLAMA: "`LlamaForCausalLM` (AdamW)",
        LLAMA_MUON: "the same with Muon",
    }
    off_pages = ("Llama's final perplexity after", "CPU s", "parameters")

    def tune(self, options: Options) -> Tuned:
        """As others."""
        self.marks(options)  # what cannot be run should not come to light after the tuning
        return super().tune(options)

    def arm(self, name: str, label: str, rate: float | None, exam: dict[str, Any], options: Options) -> Arm:
        """The weights of a long run are kept."""
        given = ARMS[name]
        changes = {**parse_changes(options.set), **given.get("overrides", {}), "learning_rate": rate}
        settings = {"model": given.get("model", "recipe")}
        settings |= {"keep": self.kept_in(options, name)} if label == name else {}
        return self.recipe_arm(label, options.recipe, {"data": options.data, **changes}, exam, **settings)

    def figures(self, name: str, results: Results, tuning: Tuning, options: Options) -> Record:
        """With the way to Llama's final perplexity."""
        reached = reaching(results[name], results.get(LLAMA, []), "perplexity", lower_is_better=True)
        return {**super().figures(name, results, tuning, options), "to_llamas_final_perplexity": reached}

    def required(self, record: Record) -> dict[str, bool]:
        """Token perplexities at the end."""
        return held(record["ratios"], str(record["steps"]), REQUIRED)

    def evidence(self, record: Record) -> list[str]:
        """Both ratios at the end."""
        found = {other: pairs.get(OURS, {}).get(str(record["steps"])) for other, pairs in record["ratios"].items()}
        return [
            f"- {OURS} / {other}: perplexity {shown_ratio(pair['perplexity'])},"
            f" per word {shown_ratio(pair['word_perplexity'])}"
            for other, pair in found.items()
            if pair
        ]


def held(pairs: dict[str, Any], last: str, bounds: dict[str, float]) -> dict[str, bool]:
    """Whether our token perplexity at the end is at most so many times that of each arm, as far as they are there."""
    return {
        f"perplexity at most {bound:g} times that of {other}": pairs[other][OURS][last]["perplexity"]["ratio"] <= bound
        for other, bound in bounds.items()
        if pairs.get(other, {}).get(OURS, {}).get(last)
    }


def ratios(first: Cells, second: Cells, step: str, second_step: str | None = None) -> dict[str, dict[str, float]]:
    """How many times the second arm's perplexity the first one's is, per token and per word, over the seeds that both
    have; after `step` steps of both, or `second_step` of the second.

    A ratio is exp of the difference of nll per token or word, averaged over seeds; its interval that of the
    difference, resampled over documents and seeds. Empty where no seed is common.

    Raises:
        InputError: the arms were asked different tokens.
    """
    pairs = same_seeds(first, second)
    if not pairs:
        return {}
    check_asked(pairs, "asked", "tokens")
    steps = (step, step if second_step is None else second_step)
    nll = [
        np.array([cell["documents"][mark] for cell in side])
        for side, mark in zip(zip(*pairs, strict=True), steps, strict=True)
    ]
    shown = pairs[0][0]
    tokens = np.array(shown["tokens"], dtype=np.float64)
    found = interval_of_sums(nll[0] - nll[1], tokens)
    return {
        "nll_per_token": vars(found),
        "perplexity": ratio_of(found),
        "word_perplexity": ratio_of(found, tokens.sum() / shown["marks"][step]["words"]),
    }


COMPARISON = GeneratorTwin()
main = COMPARISON.main


if __name__ == "__main__":
    sys.exit(main())
