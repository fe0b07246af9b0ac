"""What the text comparisons share: arms built on recipes, and the code they depend on."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from eval.benchmarks.cells import Arm
from eval.benchmarks.comparison import parse_run
from training.run.arguments import parse_arguments

__all__ = ["BASE_RECIPE", "CODE", "RECIPES", "base_overrides", "parse_run", "text_arm"]

RECIPES = Path("training") / "recipes" / "text_jepa"
BASE_RECIPE = str(RECIPES / "wikitext2_small.yaml")
CODE = (
    "configuration_jepa/configuration_base.py",
    "configuration_jepa/configuration_text_jepa.py",
    *(f"modeling_jepa/{name}.py" for name in ("counter_random", "latent_head", "layers", "losses", "teacher")),
    "modeling_jepa/modeling_base.py",
    "modeling_jepa/modeling_text_jepa.py",
    *(
        f"training/{name}.py"
        for name in ("build", "callbacks", "precision", "run_state", "schedule", "settings", "trainer")
    ),
    "training/data",
    "eval/metrics",
    "eval/metrics/baselines.py",
    "eval/metrics/representation.py",
    "eval/scorers/holes.py",
    "eval/scorers/text_jepa.py",
    "eval/benchmarks/anchors/bert.py",
    "eval/benchmarks/bare_trainer.py",
    "eval/benchmarks/exam.py",
    "eval/benchmarks/text_cell.py",
)


def text_arm(
    name: str,
    overrides: dict[str, Any],
    exam: dict[str, Any],
    *,
    recipe: str = BASE_RECIPE,
    model: str = "recipe",
    keep: str | None = None,
) -> Arm:
    """An arm that `text_cell.train_and_mark` runs; `overrides` must name `data`."""
    settings = {"recipe": recipe, "overrides": overrides, "model": model, "exam": exam}
    if keep is not None:
        settings["keep"] = keep
    return Arm(name, settings, "eval.benchmarks.text_cell:train_and_mark", (overrides["data"],), CODE)


def base_overrides(data: str, changes: dict[str, Any]) -> dict[str, Any]:
    """What all arms share, whichever recipe they start from: the base recipe's trunk, data and batch."""
    run = parse_arguments([BASE_RECIPE, f"--data={data}"])
    data_section = {name: value for name, value in asdict(run.data).items() if value is not None}
    batch = {name: getattr(run.training, name) for name in ("per_device_train_batch_size",)}
    trunk = {name: value for name, value in run.model.items() if name != "head"}
    return {**trunk, **data_section, **batch, **changes}
