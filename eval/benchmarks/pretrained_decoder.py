"""A pretrained language model that says the predicted latents, beside itself without them.

    python -m eval.benchmarks.small_llama --data PATH/TO/dailydialog --output_dir outputs/small_llama
    python -m eval.benchmarks.pretrained_decoder --data PATH/TO/dailydialog --decoder outputs/small_llama

`latent` is the recipe: the model reads predicted latents as a soft prefix and with each of its words. `no_latent` is
adapted in the same way, on the same replies and for as many steps, with learned constants in the place of the latents;
`as_it_came` reads the replies as the model came, without prefix or training. Stop it and give the same command again:
finished cells are kept. Exit codes: 0; 1 a cell failed, or what is required does not hold; 2 bad input.
"""

import sys
from pathlib import Path
from typing import Any

from eval.benchmarks import columns as column
from eval.benchmarks.anchors.dialogue import ANCHOR_FIELDS
from eval.benchmarks.cells import Arm, Cell
from eval.benchmarks.columns import Record, versus
from eval.benchmarks.comparison import Options, Rates, Tuning, against, left_open, parse_changes
from eval.benchmarks.dialogue_twin import METRICS, DialogueComparison, perplexity_ratio
from eval.benchmarks.statistics import Results, shown_ratio

RECIPE = str(Path("training") / "recipes" / "dialogue_jepa" / "pretrained_decoder_cpu.yaml")
LATENT, NO_LATENT, AS_IT_CAME = "latent", "no_latent", "as_it_came"
MODELS = {LATENT: "ours", NO_LATENT: "no_latent", AS_IT_CAME: "language_model"}
LEAST_USAGE = 1.1
NOTE = (
    "Test pairs of whole held-out dialogues, replies cut to the recipe's length. Perplexity per token of the "
    "pretrained model's own vocabulary, end tokens among them. The usage ratio is the perplexity with another pair's "
    "latents over the perplexity. Brackets: 95 % intervals of a paired bootstrap over dialogues and seeds; "
    "parentheses: spread over seeds. Parameters are those that learn. Seconds are CPU seconds of training at one "
    "thread, scoring not counted."
)


class PretrainedDecoderTwin(DialogueComparison):
    """See the module."""

    name = "pretrained_decoder"
    arms = {name: ANCHOR_FIELDS[model] for name, model in MODELS.items()}
    options = {**DialogueComparison.options, "recipe": RECIPE, "decoder": None, "seeds": 1, "steps": 1800}
    shown = ("decoder", "seeds", "recipe?", "steps", "eval_steps", "eval_rows", "greedy_replies?")
    note = NOTE
    columns = (
        *(column.SEEDS, *column.figures(METRICS)),
        versus("times no_latent's", "perplexity_ratios", NO_LATENT, "{name}"),
        versus("times as_it_came's", "perplexity_ratios", AS_IT_CAME, "{name}"),
        *(column.SECONDS, column.PARAMETERS),
    )
    names = {
        LATENT: "the model behind the predicted latents",
        NO_LATENT: "the same behind learned constants",
        AS_IT_CAME: "the model as it came",
    }

    def plan(self, options: Options, rates: Rates) -> list[Cell]:
        """All cells, what learns first; a model as it came is the same under every seed."""
        cells = super().plan(options, rates)
        return [cell for cell in cells if cell.arm.name != AS_IT_CAME] + [
            cell for cell in cells if cell.arm.name == AS_IT_CAME and cell.seed == 0
        ]

    def arm(self, name: str, label: str, rate: float | None, exam: dict[str, Any], options: Options) -> Arm:
        """A model as it came takes its exam without a step of training."""
        given = {"data": options.data, "pretrained_decoder": options.decoder}
        overrides = {**given, **parse_changes(options.set), **self.arms[name]}
        untrained: dict[str, Any] = {"run_steps": options.steps} if name == AS_IT_CAME else {}
        exam = {**exam, "marks": [0]} if untrained else exam
        return self.recipe_arm(label, options.recipe, overrides, exam, model=MODELS[name], **untrained)

    def figures(self, name: str, results: Results, tuning: Tuning, options: Options) -> Record:
        """With the curve of the first seed."""
        return {**super().figures(name, results, tuning, options), "curve": results[name][0]["curve"]}

    def summary(self, results: Results, options: Options) -> Record:
        """Arms beside each other."""
        found = super().summary(results, options)
        return {
            **found,
            "decoder": Path(options.decoder).name,
            "baselines": {"unigram": found["baselines"].get("unigram", {})},
            "perplexity_ratios": against(results, (NO_LATENT, AS_IT_CAME), perplexity_ratio),
        }

    def required(self, record: Record) -> dict[str, bool]:
        """What must hold, as far as the arms for it are there."""
        found, usage = {}, record["arms"].get(LATENT, {}).get("usage")
        if usage:
            found[f"usage ratio at least {LEAST_USAGE:g}"] = usage["ratio"] >= LEAST_USAGE
        for name, said in ((NO_LATENT, "adapted without latents"), (AS_IT_CAME, "as it came")):
            ratio = record["perplexity_ratios"].get(name, {}).get(LATENT)
            if ratio:
                found[f"perplexity under that of the model {said}"] = ratio["ratio"] < 1
        return found

    def said(self, options: Options) -> dict[str, Any]:
        """The place of the decoder is left open."""
        return {"decoder": left_open(options.decoder)}

    def evidence(self, record: Record) -> list[str]:
        """The interval of the usage ratio."""
        usage = record["arms"].get(LATENT, {}).get("usage")
        return [f"- usage ratio {shown_ratio(usage)}"] if usage else []


COMPARISON = PretrainedDecoderTwin()
main = COMPARISON.main


if __name__ == "__main__":
    sys.exit(main())
