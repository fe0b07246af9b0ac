"""What keeps the latents of the dialogue model apart: effective ranks over training, with and without protection.

    python -m eval.benchmarks.dialogue_collapse

Each arm is a whole run of `training/train.py` with its advice, after which the doctor looks at what it left. Stop it
and give the same command again: finished runs are kept. Exit codes: 0; 1 a run failed, or what is required does not
hold; 2 bad input.
"""

import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from eval.benchmarks.cells import Arm, Cell
from eval.benchmarks.columns import Column, Record, of_arm
from eval.benchmarks.comparison import Comparison, Options, Tuning, parse_changes, run_all
from eval.benchmarks.exams.runs import flags
from eval.benchmarks.statistics import Results

RECIPE = str(Path("training") / "recipes" / "dialogue_jepa" / "quickstart.yaml")
HEALTHY, PROTECTED, VICREG, UNPROTECTED = (
    "the recipe",
    "ranking and VICReg, AdamW",
    "VICReg alone, AdamW",
    "no protection, AdamW",
)
# Muon's updates have full rank, which slows a collapse down; the loss is mostly alignment.
_ALIGNMENT: dict[str, Any] = {
    "optimizer": "adamw",
    "learning_rate": 3e-3,
    "alignment_weight": 1.0,
    "reply_weight": 0.05,
}
_NO_RANKING: dict[str, Any] = {"ranking_weight": 0.0, "ranking_target": "teacher"}
ARMS: dict[str, dict[str, Any]] = {
    HEALTHY: {},
    PROTECTED: _ALIGNMENT,
    VICREG: {**_ALIGNMENT, **_NO_RANKING},
    UNPROTECTED: {**_ALIGNMENT, **_NO_RANKING, "collapse_protection": "none"},
}
CURVE = ("effective_rank", "target_effective_rank", "mean_pairwise_cosine", "hits_at_1")
COLLAPSING = "representation_collapsing"
NOTE = (
    "Effective rank (Roy and Vetterli, 2007) of the predicted and of the teacher's latents of the held-out pairs, a "
    "pair one vector, not centred; it cannot exceed the number of pairs. All arms but the recipe weigh alignment ten "
    "times the recipe's and the reply a twentieth, so that latents which are all alike are nearly the best answer."
)


class DialogueCollapse(Comparison):
    """See the module."""

    name = "dialogue_collapse"
    source = "builtin:chatterbot"
    arms = ARMS
    options = {"recipe": RECIPE, "seed": 0, "steps": 200, "eval_steps": 50}
    shown = ("seed", "recipe?", "steps", "eval_steps")
    note = NOTE
    heading = "predicted / target rank at step"

    def arm(self, name: str, label: str, rate: float | None, exam: dict[str, Any], options: Options) -> Arm:
        """A whole run."""
        overrides = {"data": options.data, **ARMS[name], **parse_changes(options.set)}
        settings = {"recipe": options.recipe, "overrides": overrides, "steps": options.steps}
        settings["eval_steps"] = options.eval_steps
        return Arm(label, settings, "eval.benchmarks.dialogue_collapse:train_and_examine", (options.data,))

    def run(self, cells: Sequence[Cell], options: Options) -> dict[str, str]:
        """A run prepares its own data."""
        return {} if options.table else run_all(cells, options.workers, prepare=False).failed

    def figures(self, name: str, results: Results, tuning: Tuning, options: Options) -> Record:
        """What was logged, said and found."""
        (cell,) = results[name]
        return {"overrides": ARMS[name], **{key: cell[key] for key in ("seed", "curve", "advice", "doctor")}}

    def required(self, record: Record) -> dict[str, bool]:
        """What must hold, as far as the arms for it are there."""
        found, arms = {}, record["arms"]
        if {PROTECTED, UNPROTECTED} <= arms.keys():
            ends = {name: arms[name]["curve"][-1]["target_effective_rank"] for name in (PROTECTED, UNPROTECTED)}
            found["protection keeps three times the directions"] = ends[PROTECTED] >= 3 * ends[UNPROTECTED]
        for name in (name for name in (HEALTHY, PROTECTED) if name in arms):
            said = warned(arms[name]) or failing(arms[name])
            found[f"{name}: neither advice nor doctor speaks of collapse"] = not said
        if UNPROTECTED in arms:
            found[f"{UNPROTECTED}: the advice names the collapse"] = bool(warned(arms[UNPROTECTED]))
            found[f"{UNPROTECTED}: the doctor names the collapse"] = bool(failing(arms[UNPROTECTED]))
        return found

    def evidence(self, record: Record) -> list[str]:
        """The first evidence of each advice."""
        return [
            f"- {name}, step {said['step']:,}: {said['evidence']}; {said['remedy']}"
            for name, arm in record["arms"].items()
            for said in warned(arm)[:1]
        ]

    def columns_of(self, record: Record) -> list[Column]:
        """Rank of predicted / of target latents at each step, what was said, and what the doctor found."""
        curve = next((arm["curve"] for arm in record["arms"].values()), [])
        return [
            *(of_arm(f"{point['step']:,}", partial(_ranks, place)) for place, point in enumerate(curve)),
            of_arm("advice at step", lambda arm: f"{warned(arm)[0]['step']:,}" if warned(arm) else "none"),
            of_arm("doctor", lambda arm: ", ".join(failing(arm)) or "passes"),
        ]


def train_and_examine(settings: dict[str, Any], seed: int, folder: Path) -> dict[str, Any]:
    """Train one arm, and read its log and the doctor's findings.

    `settings`: `recipe`, `overrides` (key -> value), `steps`, `eval_steps`.

    Returns:
        `metrics` and `curve` (figures of `CURVE` on the held-out part; step), `advice` (step, pattern, evidence,
        remedy), `doctor` (findings of its group `collapse`).

    Raises:
        RuntimeError: training ended with another exit code than 0.
    """
    from eval.diagnose.__main__ import main as doctor
    from training.train import main as train

    run, report = folder / "run", folder / "report.json"
    asked = {"max_steps": settings["steps"], "eval_steps": settings["eval_steps"], "save_steps": settings["steps"]}
    given = {**settings["overrides"], **asked, "seed": seed, "output_dir": run, "final_score": False}
    arguments = [settings["recipe"], *flags(given)]
    code = train([*arguments, "--device=cpu", "--threads=1"])
    if code != 0:
        raise RuntimeError(f"training ended with exit code {code}: {' '.join(arguments)}")
    last = run / f"checkpoint-{settings['steps']}"
    doctor([str(last), "--run", str(run), "--only", "collapse", "--json", str(report)])
    findings = json.loads(report.read_text(encoding="utf-8"))["findings"]
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").split("\n") if line]
    curve = [
        {"step": row["step"], **{name: row[f"eval_{name}"] for name in CURVE}} for row in rows if "eval_mrr" in row
    ]
    return {
        "metrics": {name: curve[-1][name] for name in CURVE},
        "curve": curve,
        "advice": [
            {"step": row["step"], **{key: row[key] for key in ("advice", "evidence", "remedy")}}
            for row in rows
            if "advice" in row
        ],
        "doctor": [
            {key: found[key] for key in ("check", "verdict", "evidence", "cause", "remedy")} for found in findings
        ],
    }


def warned(arm: dict[str, Any]) -> list[dict[str, Any]]:
    """Advice of an arm about its latents."""
    return [said for said in arm["advice"] if said["advice"] == COLLAPSING]


def failing(arm: dict[str, Any]) -> list[str]:
    """Checks of latents that the doctor fails; whether a decoder listens to them is another matter."""
    checks = ("collapse.latents", "collapse.predictor_idle")
    return [found["check"] for found in arm["doctor"] if found["verdict"] == "fail" and found["check"] in checks]


def _ranks(place: int, arm: Record) -> str:
    point = arm["curve"][place]
    return f"{point['effective_rank']:.1f} / {point['target_effective_rank']:.1f}"


COMPARISON = DialogueCollapse()
main = COMPARISON.main


if __name__ == "__main__":
    sys.exit(main())
