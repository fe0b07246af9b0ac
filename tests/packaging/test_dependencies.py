"""pyproject.toml and constraints.txt against what the code imports and the environment holds."""

import ast
import importlib.metadata
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

# Extras apart from `dev`: what they bring clashes with what is pinned, or is large.
APART = {"demo", "lm-eval", "onnx", "slow"}
OWN = {"configuration_jepa", "modeling_jepa", "training", "eval", "tests"}


@pytest.fixture(scope="module")
def project(repository: Path) -> dict:
    return tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def pins(repository: Path) -> dict[str, Requirement]:
    lines = (repository / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(requirement.name): requirement for requirement in pinned}


@pytest.mark.parametrize(
    ("folder", "extras"),
    [("eval", "search demo"), ("training/data", "evaluation"), ("training", "training"), ("tests", "dev slow")],
)
def test_every_imported_library_is_declared(repository, project, folder, extras):
    declared = set().union(*(declared_names(project, extra) for extra in extras.split()))
    providers = importlib.metadata.packages_distributions()
    undeclared = {
        name
        for name in imported_libraries(repository / folder)
        if not declared & {canonicalize_name(provider) for provider in providers.get(name, [name])}
    }
    assert undeclared == set()


def test_every_declared_library_is_pinned_within_its_range(project, pins):
    extras = project["optional-dependencies"]
    groups = [project["dependencies"], *(group for name, group in extras.items() if name not in APART)]
    for requirement in (Requirement(line) for group in groups for line in group):
        if requirement.name == project["name"]:
            continue
        pin = pins[canonicalize_name(requirement.name)]
        (specifier,) = pin.specifier
        assert specifier.operator == "==", f"{pin} is not an exact version"
        assert requirement.specifier.contains(specifier.version), f"{pin} is outside {requirement}"


def test_the_environment_holds_the_pinned_versions(pins):
    installed = {canonicalize_name(dist.name): dist.version for dist in importlib.metadata.distributions()}
    # A local build tag such as `+cpu` does not make another version.
    differing = {
        name: installed[name]
        for name, pin in pins.items()
        if name in installed and not pin.specifier.contains(installed[name].split("+")[0], prereleases=True)
    }
    assert differing == {}


def declared_names(project: dict, extra: str) -> set[str]:
    """Libraries that installing `jepa-lm[extra]` asks for by name."""
    names, groups = set(), [project["dependencies"], project["optional-dependencies"][extra]]
    for requirement in (Requirement(line) for group in groups for line in group):
        if requirement.name == project["name"]:
            for inner in requirement.extras:
                names |= declared_names(project, inner)
        else:
            names.add(canonicalize_name(requirement.name))
    return names


def imported_libraries(folder: Path) -> set[str]:
    """Top-level names that the modules of a folder import and that are neither Python's nor the project's."""
    found = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found.update(alias.name.split(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add(node.module.split(".")[0])
            elif isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.importorskip":
                found.add(ast.literal_eval(node.args[0]).split(".")[0])  # or it would be skipped everywhere
    return found - OWN - set(sys.stdlib_module_names)
