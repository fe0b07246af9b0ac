"""Every recipe in the tree parses, says what it is, and builds its model."""

import re
from pathlib import Path

import pytest
import torch
import yaml

from training.families import load_family
from training.run.arguments import parse_arguments
from training.run.run import Run

RECIPES = sorted((Path(__file__).resolve().parents[3] / "training" / "recipes").rglob("*.yaml"))


@pytest.fixture(params=RECIPES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def recipe(request: pytest.FixtureRequest) -> Path:
    return request.param


def test_there_are_recipes() -> None:
    assert {path.stem for path in RECIPES} >= {"quickstart", "prototype"}


def test_a_recipe_lies_in_its_models_folder_and_builds_it(recipe: Path) -> None:
    run: Run = parse_arguments([str(recipe)])
    family = load_family(run.family)
    assert family.config_class.model_type == recipe.parent.name
    with torch.device("meta"):
        model = family.model_class(family.config_class(vocab_size=run.data.max_vocab, **run.config_fields))
    assert sum(p.numel() for p in model.parameters()) > 100_000
    assert all(p.device.type == "meta" for p in model.parameters())


def test_a_recipe_starts_with_its_command_hardware_and_time(recipe: Path) -> None:
    header = [line for line in recipe.read_text(encoding="utf-8").split("family:")[0].splitlines() if line]
    assert all(line.startswith("#") for line in header)
    text = "\n".join(header)
    assert f"command   python training/train.py training/recipes/{recipe.parent.name}/{recipe.name}" in text
    for name in ("hardware", "time"):
        assert re.search(rf"^#   {name} +\S", text, flags=re.MULTILINE), f"{recipe} says no {name}"


def test_a_header_claims_a_figure_only_where_a_results_file_holds_it(recipe: Path) -> None:
    times = re.search(r"^#   time +(.*)$", recipe.read_text(encoding="utf-8"), flags=re.MULTILINE).group(1)
    if times != "not run":
        source = re.search(r"model_cards/results/\S+\.json", times)
        assert source, f"{recipe}: a time needs the results file it comes from"
        assert (recipe.parents[3] / source.group()).is_file()


def test_a_recipe_writes_each_key_once(recipe: Path) -> None:
    class Strict(yaml.SafeLoader):
        pass

    def mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict:
        names = [key.value for key, _ in node.value]
        assert len(names) == len(set(names)), f"{recipe} repeats a key among {names}"
        return {loader.construct_object(k): loader.construct_object(v, deep=True) for k, v in node.value}

    Strict.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping)
    yaml.load(recipe.read_text(encoding="utf-8"), Strict)
