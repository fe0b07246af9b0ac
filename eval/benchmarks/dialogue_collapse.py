"""What keeps the latents of the dialogue model apart: effective ranks over training, with and without protection.

    python -m eval.benchmarks.dialogue_collapse

Each arm is a whole run of `training/train.py` with its advice, after which the doctor looks at what it left. Stop it
and give the same command again: finished runs are kept. Exit codes: 0; 1 a run failed, or what is required does not
hold; 2 bad input.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eval.benchmarks.cells import DEFAULT_CODE, Arm, collect, plan_cells, run_cells
from eval.benchmarks.comparison import publish, shown_command
from eval.benchmarks.generator_arms import Results
from training.common.errors import InputError
from training.common.records import check_target, package_versions

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
CODE = (
    *DEFAULT_CODE,
    *(f"eval/{name}.py" for name in ("dialogue_patterns", "generator_patterns", "log_patterns", "run_log")),
    "eval/diagnose",
    "eval/benchmarks/dialogue_collapse.py",
)
NOTE = (
    "Effective rank (Roy and Vetterli, 2007) of the predicted and of the teacher's latents of the held-out pairs, a "
    "pair one vector, not centred; it cannot exceed the number of pairs. All arms but the recipe weigh alignment ten "
    "times the recipe's and the reply a twentieth, so that latents which are all alike are nearly the best answer."
)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; see the module."""
    options = _parser().parse_args(argv)
    try:
        check_target(Path(options.json))
        cells = plan_cells([_arm(name, options) for name in ARMS], [options.seed], options.out)
        failed = {} if options.table else run_cells(cells, options.workers, progress=True).failed
        record = summarise(collect(cells), options)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for name, reason in failed.items():
        print(f"failed: {name}: {reason}", file=sys.stderr)
    publish(record, table_rows(record), [checks(record), NOTE], options.json, width=200)
    return 1 if failed or False in record["required"].values() else 0


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
    arguments = [settings["recipe"], *(f"--{name}={_plain(value)}" for name, value in given.items())]
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


def summarise(results: Results, options: argparse.Namespace) -> dict[str, Any]:
    """The record of the comparison: all of it measured, nothing else."""
    arms = {
        name: {
            "overrides": ARMS[name],
            "seed": cell["seed"],
            **{key: cell[key] for key in ("curve", "advice", "doctor")},
        }
        for name, (cell,) in results.items()
    }
    record = {
        "schema_version": 1,
        "command": shown_command("dialogue_collapse", options, _flags_of(options)),
        "arms": arms,
        "note": NOTE,
        "versions": package_versions(),
    }
    return {**record, "required": required(arms)}


def required(arms: dict[str, Any]) -> dict[str, bool]:
    """What must hold, as far as the arms for it are there."""
    found = {}
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


def warned(arm: dict[str, Any]) -> list[dict[str, Any]]:
    """Advice of an arm about its latents."""
    return [said for said in arm["advice"] if said["advice"] == COLLAPSING]


def failing(arm: dict[str, Any]) -> list[str]:
    """Checks of latents that the doctor fails; whether a decoder listens to them is another matter."""
    checks = ("collapse.latents", "collapse.predictor_idle")
    return [found["check"] for found in arm["doctor"] if found["verdict"] == "fail" and found["check"] in checks]


def table_rows(record: dict[str, Any]) -> list[list[str]]:
    """A row per arm: rank of predicted / of target latents at each step, what was said, and what the doctor found."""
    arms = record["arms"]
    steps = [point["step"] for point in next(iter(arms.values()))["curve"]] if arms else []
    rows = [["predicted / target rank at step", *(f"{step:,}" for step in steps), "advice at step", "doctor"]]
    for name, arm in arms.items():
        ranks = [f"{point['effective_rank']:.1f} / {point['target_effective_rank']:.1f}" for point in arm["curve"]]
        said = warned(arm)
        rows.append([name, *ranks, f"{said[0]['step']:,}" if said else "none", ", ".join(failing(arm)) or "passes"])
    return rows


def checks(record: dict[str, Any]) -> str:
    """What is required, and the first evidence of each advice, a line each."""
    lines = [f"- required: {name}: {'yes' if holds else 'NO'}" for name, holds in record["required"].items()]
    for name, arm in record["arms"].items():
        lines += [f"- {name}, step {said['step']:,}: {said['evidence']}; {said['remedy']}" for said in warned(arm)[:1]]
    return "\n".join(lines)


def _arm(name: str, options: argparse.Namespace) -> Arm:
    settings = {
        "recipe": options.recipe,
        "overrides": {"data": options.data, **ARMS[name]},
        "steps": options.steps,
        "eval_steps": options.eval_steps,
    }
    return Arm(name, settings, "eval.benchmarks.dialogue_collapse:train_and_examine", (options.data,), CODE)


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _flags_of(options: argparse.Namespace) -> str:
    shown = f" --seed {options.seed}" + (f" --recipe {options.recipe}" if options.recipe != RECIPE else "")
    return f"{shown} --steps {options.steps} --eval_steps {options.eval_steps}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m eval.benchmarks.dialogue_collapse", description=(__doc__ or "").split("\n")[0]
    )
    name = "dialogue_collapse"
    parser.add_argument("--data", default="builtin:chatterbot", help="the source (default: %(default)s)")
    parser.add_argument("--recipe", default=RECIPE, help="recipe of all arms (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of all runs (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=200, help="length of the runs (default: %(default)s)")
    parser.add_argument("--eval_steps", type=int, default=50, help="distance of the points (default: %(default)s)")
    parser.add_argument(
        "--out", default=f"outputs/benchmarks/{name}", help="folder of the cells (default: %(default)s)"
    )
    parser.add_argument(
        "--json", default=f"model_cards/results/{name}.json", help="result file (default: %(default)s)"
    )
    parser.add_argument("--workers", type=int, default=1, help="one-thread processes at a time (default: 1)")
    parser.add_argument("--table", action="store_true", help="run nothing: collect what is there")
    parser.set_defaults(set=[], max_rows=None)
    return parser


if __name__ == "__main__":
    sys.exit(main())
