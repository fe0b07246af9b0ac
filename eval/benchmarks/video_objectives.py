"""What each objective of the video model is worth, and then dropout, schedule, augmentation and growing clips.

    python -m eval.benchmarks.video_objectives --digits PATH/TO/mnist --seeds 3 --workers 2

All arms are one recipe with some keys changed: the same sizes, clips, steps and seeds. This table chooses, so it is
scored on valid; the test part stays unseen. Stop it and give the same command again: finished cells are kept.
`--table` collects what is there. Exit codes: 0, 1 a cell failed, 2 bad input.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eval.benchmarks.cells import Arm, collect, plan_cells
from eval.benchmarks.comparison import add_common_options, parse_changes, publish, run_all, shown_command
from eval.benchmarks.curves import mean_and_spread
from eval.benchmarks.dialogue_twin import shown_difference
from eval.benchmarks.generator_arms import Results, shown_number
from eval.benchmarks.tables import difference
from training.common.errors import InputError
from training.common.records import check_target, package_versions

RECIPE = str(Path("training") / "recipes" / "video_jepa" / "mnist_small.yaml")
STEPS = 800  # of that recipe, in 3 minutes of one CPU thread
BASE = "future"
_GROWING = {"mask_ratio_start": 0.5, "mask_ratio_end": 1.0}
# All that the arms differ in; each of them starts from this.
PLAIN: dict[str, Any] = {
    "objective": "future",
    "mask_ratio_start": 1.0,
    "mask_ratio_end": 1.0,
    "dropout": 0.0,
    "constant_share": 0.0,
    "flip": False,
    "rotation": 0.0,
    "brightness": 0.0,
    "contrast": 0.0,
}
ARMS: dict[str, dict[str, Any]] = {
    BASE: {},
    "joint": {"objective": "joint", **_GROWING},
    "individual": {"objective": "individual", **_GROWING},
    "mixed": {"objective": "mixed", **_GROWING},
    "mixed, all hidden from the start": {"objective": "mixed"},
    "future, ever more hidden": _GROWING,
    "future, dropout 0.1": {"dropout": 0.1},
    "future, a quarter of the steps at the peak rate": {"constant_share": 0.25},
    "future, AdamW 3e-4": {"optimizer": "adamw", "learning_rate": 3e-4},
    "future, augmented": {"flip": True, "rotation": 10.0, "brightness": 0.1, "contrast": 0.1},
    "future, clips of 5, 10, 15, 20": {"curriculum_frames": [5, 10, 15, 20]},
}
METRICS = {"mse": ".1f", "psnr": ".2f", "ssim": ".3f", "expectation_ssim": ".3f", "argmax_mse": ".1f"}
CODE = (
    "configuration_jepa/configuration_base.py",
    "configuration_jepa/configuration_video_jepa.py",
    "modeling_jepa",
    *(
        f"training/{name}.py"
        for name in (
            "build",
            "callbacks",
            "family_video",
            "optimizers",
            "precision",
            "run_state",
            "schedule",
            "settings",
        )
    ),
    "training/families/video_held_out.py",
    "training/trainer/trainer.py",
    "training/settings/video_jepa.py",
    "training/data",
    "eval/metrics",
    "eval/metrics/frame_baselines.py",
    *(f"eval/scorers/{name}.py" for name in ("holes", "token_scores", "video")),
    "eval/benchmarks/bare_trainer.py",
    "eval/benchmarks/exam.py",
    "eval/benchmarks/video_cell.py",
)
NOTE = (
    "Held-out clips of validation digits, 10 frames seen and 10 predicted; MSE summed over a frame. MSE and PSNR of "
    "the mean frame under the probabilities, SSIM of the best codes. `mixed`: half future, four tenths joint, one "
    "tenth individual. `future` hides all codes of the later frames; `ever more hidden` begins with half of them, as "
    "do joint, individual and mixed. Parentheses: spread over seeds; brackets: 95 % intervals of a paired bootstrap "
    "over clips and seeds. Seconds are CPU seconds of training at one thread, scoring not counted."
)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; see the module."""
    options = _parser().parse_args(argv)
    try:
        check_target(Path(options.json))
        cells = plan_cells(objective_arms(options), range(options.seeds), Path(options.out) / "runs")
        failed = {} if options.table else run_all(cells, options.workers).failed
        record = summarise(collect(cells), options)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    publish(record, table_rows(record), [NOTE], options.json, width=160)
    return 1 if failed else 0


def objective_arms(options: argparse.Namespace) -> list[Arm]:
    """The chosen rows of `ARMS`."""
    exam = {
        "marks": [options.steps],
        "max_rows": options.max_rows,
        "eval_steps": options.eval_steps,
        "eval_rows": options.eval_rows,
    }
    arms = []
    for name in options.arms:
        overrides = {"digits": options.data, **PLAIN, **ARMS[name], **parse_changes(options.set)}
        settings = {"recipe": options.recipe, "overrides": overrides, "exam": exam}
        arms.append(Arm(name, settings, "eval.benchmarks.video_cell:train_and_mark", (options.data,), CODE))
    return arms


def summarise(results: Results, options: argparse.Namespace) -> dict[str, Any]:
    """The record of the comparison."""
    first: list[dict] = next(iter(results.values()), [])
    named = "" if options.arms == list(ARMS) else " --arms " + " ".join(f"'{name}'" for name in options.arms)
    rest = f" --seeds {options.seeds} --steps {options.steps}{named}"
    # Another selection of arms is another table: it must not be written over the first one's.
    rest += f" --json {options.json}" if named and not Path(options.json).is_absolute() else ""
    return {
        "schema_version": 1,
        "command": shown_command("video_objectives", options, rest, flag="--digits"),
        "num_examples": first[0]["num_examples"] if first else None,
        "steps": options.steps,
        "arms": {name: _arm_figures(cells, results.get(BASE)) for name, cells in results.items()},
        "baselines": {
            name: {metric: figures[metric] for metric in METRICS}
            for name, figures in (first[0]["baselines"] if first else {}).items()
        },
        "note": NOTE,
        "versions": package_versions(),
    }


def table_rows(record: dict[str, Any]) -> list[list[str]]:
    """Header, a row per arm and one per guesser."""
    header = ["objective", "seeds", "MSE", "PSNR", "SSIM", "SSIM of the mean frame", "MSE of the best codes"]
    rows = [[*header, "MSE minus future's", "MSE of frame 1", "of frame 10", "CPU s"]]
    for name, arm in record["arms"].items():
        shown = [shown_number(arm["figures"][metric], form) for metric, form in METRICS.items()]
        ends = [shown_number(arm["per_frame_mse"][place], ".0f") for place in (0, -1)]
        seconds = f"{arm['training_cpu_seconds']['mean']:,.0f}"
        rows.append([name, str(len(arm["seeds"])), *shown, shown_difference(arm["mse_difference"], 1), *ends, seconds])
    for name, found in record["baselines"].items():
        guess = [f"{found[metric]:{form}}" for metric, form in METRICS.items()]
        rows.append([name.replace("_", " "), "", *guess, "", "", "", ""])
    return rows


def _arm_figures(cells: list[dict], base: list[dict] | None) -> dict[str, Any]:
    """One arm over its seeds, and its difference to `BASE`."""
    found = None if base is None or base is cells else difference(cells, base, "mse")
    by_frame = [cell["metrics"]["per_frame"]["mse"] for cell in cells]
    return {
        "seeds": [cell["seed"] for cell in cells],
        "num_parameters": cells[0]["num_parameters"],
        "figures": {name: mean_and_spread([cell["metrics"][name] for cell in cells]) for name in METRICS},
        "per_frame_mse": [mean_and_spread(list(values)) for values in zip(*by_frame, strict=True)],
        "mse_difference": None if found is None else vars(found),
        "training_cpu_seconds": mean_and_spread([cell["training_cpu_seconds"] for cell in cells]),
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m eval.benchmarks.video_objectives", description=(__doc__ or "").split("\n")[0]
    )
    add_common_options(parser, "video_objectives", flag="--digits")
    parser.set_defaults(max_rows=300)
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS), help="rows (default: all)")
    parser.add_argument("--recipe", default=RECIPE, help="what all arms start from (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0, 1, ... (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=STEPS, help="length of each run (default: %(default)s)")
    parser.add_argument("--eval_steps", type=int, default=100, help="between points of the curve (default: 100)")
    parser.add_argument("--eval_rows", type=int, default=50, help="clips of such a point (default: 50)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
