"""Runs made from a recipe, as an arm of a comparison asks for them. Imports no torch."""

from pathlib import Path
from typing import Any

from training.run.arguments import parse_arguments
from training.run.run import Run


def flags(changes: dict[str, Any]) -> list[str]:
    """Keys of a recipe as the command line takes them."""
    return [part for name, value in changes.items() for part in _flag(name, value)]


def parse_run(recipe: str, overrides: dict[str, Any], seed: int, steps: int, output_dir: Path) -> Run:
    """A recipe with overrides as the command line would take it, on the CPU."""
    own = [f"--seed={seed}", f"--max_steps={steps}", f"--output_dir={output_dir}", "--device=cpu"]
    return parse_arguments([recipe, *flags(overrides), *own])


def run_of_cell(settings: dict[str, Any], seed: int, output_dir: Path) -> Run:
    """The run of a cell with the files that it names; `run_steps` is its length where the exam has none."""
    from training.families import load_family

    steps = settings.get("run_steps", settings["exam"]["marks"][-1])
    run = parse_run(settings["recipe"], settings["overrides"], seed, steps, output_dir)
    return load_family(run.family).with_files(run)


def _flag(name: str, value: Any) -> list[str]:
    if isinstance(value, list):
        return [f"--{name}", *map(str, value)]
    return [f"--{name}={str(value).lower() if isinstance(value, bool) else value}"]
