"""What each objective of the video model is worth, and then dropout, schedule, augmentation and growing clips.

    python -m eval.benchmarks.video_objectives --digits PATH/TO/mnist --seeds 3 --workers 2

All arms are one recipe with some keys changed: the same sizes, clips, steps and seeds. This table chooses, so it is
scored on valid; the test part stays unseen. Stop it and give the same command again: finished cells are kept.
`--table` collects what is there. Exit codes: 0, 1 a cell failed, 2 bad input.
"""

import sys
from functools import partial
from pathlib import Path
from typing import Any

from eval.benchmarks import columns as column
from eval.benchmarks.cells import Arm
from eval.benchmarks.columns import Record, figure, of_arm
from eval.benchmarks.comparison import Comparison, Options, Tuning, arm_costs, of_first, parse_changes
from eval.benchmarks.statistics import Results, difference, mean_and_spread, over_seeds, shown_difference, shown_number

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
NOTE = (
    "Held-out clips of validation digits, 10 frames seen and 10 predicted; MSE summed over a frame. MSE and PSNR of "
    "the mean frame under the probabilities, SSIM of the best codes. `mixed`: half future, four tenths joint, one "
    "tenth individual. `future` hides all codes of the later frames; `ever more hidden` begins with half of them, as "
    "do joint, individual and mixed. Parentheses: spread over seeds; brackets: 95 % intervals of a paired bootstrap "
    "over clips and seeds. Seconds are CPU seconds of training at one thread, scoring not counted."
)


FIGURES = (
    figure("MSE", "mse", ".1f"),
    figure("PSNR", "psnr", ".2f"),
    figure("SSIM", "ssim", ".3f"),
    figure("SSIM of the mean frame", "expectation_ssim", ".3f"),
    figure("MSE of the best codes", "argmax_mse", ".1f"),
)
METRICS = ("mse", "psnr", "ssim", "expectation_ssim", "argmax_mse")


def of_frame(place: int, arm: Record) -> str:
    """The error of one of the predicted frames."""
    return shown_number(arm["per_frame_mse"][place], ".0f")


class VideoObjectives(Comparison):
    """See the module."""

    name, family = "video_objectives", "video_jepa"
    flag = "--digits"
    arms = ARMS
    options = {
        "arms": list(ARMS),
        "recipe": RECIPE,
        "seeds": 3,
        "steps": STEPS,
        "eval_steps": 100,
        "eval_rows": 50,
        "max_rows": 300,
    }
    shown = ("seeds", "steps", "arms?", "json?")
    fixed = {"split": "valid"}
    note = NOTE
    width = 160
    heading = "objective"
    columns = (
        *(column.SEEDS, *FIGURES),
        of_arm("MSE minus future's", lambda arm: shown_difference(arm["mse_difference"], 1)),
        *(of_arm("MSE of frame 1", partial(of_frame, 0)), of_arm("of frame 10", partial(of_frame, -1))),
        column.SECONDS,
    )
    off_pages = ("SSIM of the mean frame", "MSE of the best codes")

    def arm(self, name: str, label: str, rate: float | None, exam: dict[str, Any], options: Options) -> Arm:
        """The recipe with what the arm changes."""
        overrides = {"digits": options.data, **PLAIN, **ARMS[name], **parse_changes(options.set)}
        return self.recipe_arm(label, options.recipe, overrides, exam)

    def figures(self, name: str, results: Results, tuning: Tuning, options: Options) -> Record:
        """At the end, and the difference to `BASE`."""
        cells, base = results[name], results.get(BASE)
        found = None if base is None or name == BASE else difference(cells, base, "mse")
        by_frame = [cell["metrics"]["per_frame"]["mse"] for cell in cells]
        return {
            **arm_costs(cells, "training_cpu_seconds"),
            "figures": over_seeds([cell["metrics"] for cell in cells], METRICS),
            "per_frame_mse": [mean_and_spread(list(values)) for values in zip(*by_frame, strict=True)],
            "mse_difference": None if found is None else vars(found),
        }

    def summary(self, results: Results, options: Options) -> Record:
        """What all arms were asked."""
        first = of_first(results, "num_examples", "baselines")
        guesses = (first["baselines"] or {}).items()
        kept = {name: {metric: found[metric] for metric in METRICS} for name, found in guesses}
        return {"num_examples": first["num_examples"], "steps": options.steps, "baselines": kept}

    def said(self, options: Options) -> dict[str, Any]:
        """Names of arms hold spaces. Another selection is another table: it must not be written over the first."""
        if options.arms == list(ARMS):
            return {"json": None}
        place = {"json": None} if Path(options.json).is_absolute() else {}
        return {"arms": [f"'{name}'" for name in options.arms], **place}


COMPARISON = VideoObjectives()
main = COMPARISON.main


if __name__ == "__main__":
    sys.exit(main())
