"""Checkpoints open anywhere: by `trust_remote_code=True` in processes that cannot import the packages."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import pipeline

from configuration_jepa import DialogueJepaConfig, StagedGeneratorConfig, TextJepaConfig, VideoJepaConfig
from configuration_jepa.remote_code import export_remote_code
from tests.clean_process import run_clean
from tests.families import ROUTED_GENERATOR, STAGED_GENERATOR, TEXT_JEPA, Family, tiny_tokenizer
from tests.modeling_jepa.open_without_packages import answer_of
from training.publish.publication import imported_packages

SCRIPT = Path(__file__).with_name("open_without_packages.py")
FIRST_GENERATOR = replace(
    STAGED_GENERATOR,
    name="staged_generator-0",
    small={**STAGED_GENERATOR.small, "stage": 0, "semantic_blocks": "simple"},
)
# The generator's first and last stage: what lies between is part of the last.
TRAVELLERS = (TEXT_JEPA, FIRST_GENERATOR, ROUTED_GENERATOR)


@dataclass(frozen=True)
class Opened:
    """What two clean processes saw: the second opened what the first had saved again."""

    checkpoint: Path
    saved_again: Path
    answers: dict[str, torch.Tensor]
    modules: dict[str, str]
    modules_again: dict[str, str]
    answers_again: dict[str, torch.Tensor]


def open_in_a_clean_process(
    checkpoint: Path, inputs: dict, folder: Path, tasks: tuple[str, ...]
) -> tuple[dict, dict, Path]:
    folder.mkdir()
    answers, saved_again = folder / "answers.safetensors", folder / "again"
    save_file({f"input.{name}": tensor for name, tensor in inputs.items()}, answers)
    words = [str(SCRIPT), str(checkpoint), str(answers), str(saved_again), *tasks]
    child = run_clean(words, cwd=folder, modules=folder / "modules")
    assert child.returncode == 0, child.stderr
    return json.loads(child.stdout.splitlines()[-1]), load_file(answers), saved_again


@pytest.fixture(scope="module", params=TRAVELLERS, ids=lambda family: family.name)
def family(request) -> Family:
    return request.param


@pytest.fixture(scope="module")
def checkpoint(family: Family, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    family.model().save_pretrained(folder)
    tiny_tokenizer(family.config()).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def opened(family: Family, checkpoint: Path, tmp_path_factory) -> Opened:
    folder = tmp_path_factory.mktemp("clean")
    inputs = family.inputs(family.config())
    modules, answers, again = open_in_a_clean_process(checkpoint, inputs, folder / "first", family.tasks)
    modules_again, answers_again, _ = open_in_a_clean_process(again, inputs, folder / "second", family.tasks)
    return Opened(checkpoint, again, answers, modules, modules_again, answers_again)


def test_every_auto_class_uses_the_checkpoints_own_code(family: Family, opened: Opened) -> None:
    assert set(opened.modules) == {"AutoConfig", *family.classes, *family.heads}
    assert all(module.startswith("transformers_modules.") for module in opened.modules.values())


def test_answers_are_bitwise_those_of_the_installed_package(family: Family, opened: Opened) -> None:
    inputs = family.inputs(family.config())
    for auto_class, ours in {**family.classes, **family.heads}.items():
        torch.manual_seed(0)  # of a classifier's new layer
        with torch.no_grad():
            expected = ours.from_pretrained(opened.checkpoint)(**inputs)[0]
        assert torch.equal(opened.answers[f"answer.{auto_class}"], expected), auto_class


def test_stock_pipelines_work_for_a_stranger(family: Family, opened: Opened) -> None:
    for task in family.tasks:
        expected = answer_of(pipeline(task, model=str(opened.checkpoint), device="cpu"))
        assert torch.equal(opened.answers[f"answer.{task}"], expected), task


def test_generation_defaults_travel(family: Family, opened: Opened) -> None:
    if "text-generation" not in family.tasks:
        pytest.skip(f"{family.name} generates nothing")  # so it has no generation_config.json
    for folder in (opened.checkpoint, opened.saved_again):
        defaults = json.loads((folder / "generation_config.json").read_text())
        assert (defaults["do_sample"], defaults["top_k"], defaults["temperature"]) == (True, 50, 0.7)
        config = family.config()
        assert defaults["suppress_tokens"] == sorted(set(config.special_token_ids) - {config.eos_token_id})


def test_saved_again_after_a_remote_load_it_still_opens(opened: Opened) -> None:
    assert opened.modules_again.keys() == opened.modules.keys()
    for name, answer in opened.answers.items():
        assert torch.equal(opened.answers_again[name], answer), name


def test_saved_again_it_has_the_same_files_and_code(opened: Opened) -> None:
    for path in opened.checkpoint.glob("*.py"):
        assert (opened.saved_again / path.name).read_text() == path.read_text()
    first, again = (json.loads((path / "config.json").read_text()) for path in (opened.checkpoint, opened.saved_again))
    assert again["auto_map"] == first["auto_map"]


def test_saved_again_by_the_installed_package_it_has_the_same_code(family: Family, opened: Opened, tmp_path) -> None:
    family.learner.from_pretrained(opened.saved_again).save_pretrained(tmp_path)
    for path in opened.checkpoint.glob("*.py"):
        assert (tmp_path / path.name).read_text() == path.read_text()


def test_travelling_code_imports_no_package_of_ours(checkpoint: Path) -> None:
    for path in checkpoint.glob("*.py"):
        lines = [line for line in path.read_text().splitlines() if line.startswith(("from ", "import "))]
        assert not [line for line in lines if "_jepa." in line.split(" import ")[0].removeprefix("from .")], path.name


@pytest.mark.parametrize("config_class", [DialogueJepaConfig, StagedGeneratorConfig, TextJepaConfig, VideoJepaConfig])
def test_no_file_that_travels_imports_a_package_of_ours_anywhere(config_class, tmp_path) -> None:
    """Under `TYPE_CHECKING` or in a function it would do no harm in a folder, and keep a model from the Hub shut."""
    for path in export_remote_code(config_class.auto_classes.values(), tmp_path):
        assert not imported_packages(path.read_text()) & {"configuration_jepa", "modeling_jepa"}, path.name


def test_exported_code_is_only_what_the_family_needs(tmp_path) -> None:
    written = {path.name for path in export_remote_code(["modeling_text_jepa.TextJepaModel"], tmp_path)}
    assert {"modeling_text_jepa.py", "configuration_text_jepa.py", "layers.py", "losses.py"} <= written
    assert not [name for name in written if "dialogue" in name or "staged" in name or "video" in name]


def test_the_generators_code_brings_its_parts_and_no_other_family(tmp_path) -> None:
    written = {
        path.name for path in export_remote_code(["modeling_staged_generator.StagedGeneratorForCausalLM"], tmp_path)
    }
    parts = {"graph_routing.py", "semantic_blocks.py", "chunked_cross_entropy.py", "configuration_staged_generator.py"}
    assert {"modeling_staged_generator.py", *parts} <= written
    assert not [name for name in written if "text_jepa" in name]
