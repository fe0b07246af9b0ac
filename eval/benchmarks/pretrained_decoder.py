"""A pretrained language model that says the predicted latents, beside itself without them.

    python -m eval.benchmarks.small_llama --data PATH/TO/dailydialog --output_dir outputs/small_llama
    python -m eval.benchmarks.pretrained_decoder --data PATH/TO/dailydialog --decoder outputs/small_llama

`latent` is the recipe: the model reads predicted latents as a soft prefix and with each of its words. `no_latent` is
adapted in the same way, on the same replies and for as many steps, with learned constants in the place of the latents;
`as_it_came` reads the replies as the model came, without prefix or training. Stop it and give the same command again:
finished cells are kept. Exit codes: 0; 1 a cell failed, or what is required does not hold; 2 bad input.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eval.benchmarks.anchors.dialogue import ANCHOR_FIELDS
from eval.benchmarks.cells import Arm, Cell, collect, plan_cells
from eval.benchmarks.comparison import add_common_options, parse_changes, publish, run_all, shown_command
from eval.benchmarks.dialogue_arms import CODE, METRICS, arm_figures, perplexity_ratio
from eval.benchmarks.generator_arms import Results, shown_number, shown_ratio
from eval.scorers.dialogue import GREEDY_REPLIES
from training.common.errors import InputError
from training.common.records import check_target, package_versions

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


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; see the module."""
    options = _parser().parse_args(argv)
    try:
        check_target(Path(options.json))
        cells = plan(options)
        failed = {} if options.table else run_all(cells, options.workers).failed
        record = summarise(collect(cells), options)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    publish(record, table_rows(record), [checks(record), NOTE], options.json, width=200)
    return 1 if failed or False in record["required"].values() else 0


def plan(options: argparse.Namespace) -> list[Cell]:
    """All cells, what learns first; a model as it came is the same under every seed."""
    folder = Path(options.out) / "runs"
    learns = [_arm(name, options) for name in (LATENT, NO_LATENT)]
    return [
        *plan_cells(learns, range(options.seeds), folder),
        *plan_cells([_arm(AS_IT_CAME, options)], [0], folder),
    ]


def summarise(results: Results, options: argparse.Namespace) -> dict[str, Any]:
    """The record of the comparison: all of it measured, nothing else."""
    first = next(iter(results.values()), [{}])[0]
    found = {
        "schema_version": 1,
        "command": shown_command("pretrained_decoder", options, _flags_of(options)),
        "decoder": Path(options.decoder).name,
        "num_examples": first.get("num_examples"),
        "num_dialogues": first.get("num_dialogues"),
        "steps": options.steps,
        "arms": {name: arm_figures(cells) | {"curve": cells[0]["curve"]} for name, cells in results.items()},
        "baselines": {"unigram": first.get("baselines", {}).get("unigram", {})},
        "perplexity_ratios": _against(results),
        "note": NOTE,
        "versions": package_versions(),
    }
    return {**found, "required": required(found)}


def required(record: dict[str, Any]) -> dict[str, bool]:
    """What must hold, as far as the arms for it are there."""
    found, usage = {}, record["arms"].get(LATENT, {}).get("usage")
    if usage:
        found[f"usage ratio at least {LEAST_USAGE:g}"] = usage["ratio"] >= LEAST_USAGE
    for name, said in ((NO_LATENT, "adapted without latents"), (AS_IT_CAME, "as it came")):
        ratio = record["perplexity_ratios"].get(name, {}).get(LATENT)
        if ratio:
            found[f"perplexity under that of the model {said}"] = ratio["ratio"] < 1
    return found


def table_rows(record: dict[str, Any]) -> list[list[str]]:
    """Header, a row per arm, and the unigram guess."""
    header = ["arm", "seeds", *(name.replace("_", " ") for name in METRICS)]
    rows = [[*header, "times no_latent's", "times as_it_came's", "CPU s", "parameters"]]
    for name, arm in record["arms"].items():
        figures = [shown_number(arm["figures"][metric], form) for metric, form in METRICS.items()]
        versus = [shown_ratio(record["perplexity_ratios"].get(one, {}).get(name)) for one in (NO_LATENT, AS_IT_CAME)]
        costs = [f"{arm['training_cpu_seconds']['mean']:,.0f}", f"{arm['num_parameters']:,}"]
        rows.append([name, str(len(arm["seeds"])), *figures, *versus, *costs])
    guess = [
        shown_number({"mean": record["baselines"]["unigram"].get(metric), "sd": None}, form)
        for metric, form in METRICS.items()
    ]
    return [*rows, ["unigram", "", *guess, "", "", "", ""]]


def checks(record: dict[str, Any]) -> str:
    """What is required, and the interval of the usage ratio, a line each."""
    lines = [f"- required: {name}: {'yes' if holds else 'NO'}" for name, holds in record["required"].items()]
    usage = record["arms"].get(LATENT, {}).get("usage")
    return "\n".join([*lines, f"- usage ratio {shown_ratio(usage)}"] if usage else lines)


def _arm(name: str, options: argparse.Namespace) -> Arm:
    model = MODELS[name]
    overrides = {
        "data": options.data,
        "pretrained_decoder": options.decoder,
        **parse_changes(options.set),
        **ANCHOR_FIELDS[model],
    }
    exam = {
        "marks": [0 if name == AS_IT_CAME else options.steps],
        **{key: vars(options)[key] for key in ("max_rows", "eval_steps", "eval_rows", "greedy_replies")},
    }
    settings = {"recipe": options.recipe, "overrides": overrides, "model": model, "exam": exam}
    settings |= {"run_steps": options.steps} if name == AS_IT_CAME else {}
    sources = (options.data, options.decoder) if Path(options.decoder).exists() else (options.data,)
    code = (*CODE, "training/init_from/pretrained_decoder.py", "training/init_from/adapters.py")
    return Arm(name, settings, "eval.benchmarks.dialogue_cell:train_and_mark", sources, code)


def _against(results: Results) -> dict[str, dict[str, dict[str, float]]]:
    """Arm without latents -> arm -> ratio of perplexities."""
    return {
        other: {
            name: ratio
            for name, cells in results.items()
            if name != other and (ratio := perplexity_ratio(cells, results[other]))
        }
        for other in (NO_LATENT, AS_IT_CAME)
        if other in results
    }


def _flags_of(options: argparse.Namespace) -> str:
    """What was asked for beyond data, rows and recipe keys, as it stands in the command of a record."""
    decoder = f"PATH/TO/{Path(options.decoder).resolve().name}" if Path(options.decoder).exists() else options.decoder
    shown = f" --decoder {decoder} --seeds {options.seeds}"
    shown += f" --recipe {options.recipe}" if options.recipe != RECIPE else ""
    shown += f" --steps {options.steps} --eval_steps {options.eval_steps} --eval_rows {options.eval_rows}"
    return shown + (f" --greedy_replies {options.greedy_replies}" if options.greedy_replies != GREEDY_REPLIES else "")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m eval.benchmarks.pretrained_decoder", description=(__doc__ or "").split("\n")[0]
    )
    add_common_options(parser, "pretrained_decoder")
    parser.add_argument("--decoder", required=True, help="a causal language model's folder or Hub id")
    parser.add_argument("--recipe", default=RECIPE, help="recipe of all arms (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=1, help="seeds 0 .. N-1 for each arm (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=1800, help="length of the runs (default: %(default)s)")
    parser.add_argument("--eval_steps", type=int, default=600, help="distance of the points of the valid curve")
    parser.add_argument("--eval_rows", type=int, default=300, help="pairs of valid that a point is scored on")
    parser.add_argument(
        "--greedy_replies", type=int, default=GREEDY_REPLIES, help="contexts that are answered (default: %(default)s)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
