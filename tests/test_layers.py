"""The order of the layers, and what may stand in the two packages that travel with a checkpoint.

Read from the source, so that an import inside a function or under `TYPE_CHECKING` counts as well.
"""

import ast
import sys
from pathlib import Path

import pytest

from training.common.source_code import imports

ROOT = Path(__file__).resolve().parent.parent

# Each may import itself and what stands above it. A module belongs to the longest prefix that fits its name.
LAYERS = (
    *("configuration_jepa", "modeling_jepa", "training.common", "training.data"),
    *("eval", "training", "eval.benchmarks", "tests"),
)
# The rooms of training above its data, in the same way; two that stand together are neighbours of one height.
ROOMS = (
    *("settings", "run", "runtime", "run_folder", "optim", "family", "init_from", "families", "cards"),
    *("trainer", "publish", "finish", "estimate", "plan", "train"),
)

SHIPPED = ("configuration_jepa", "modeling_jepa")
LIBRARIES = {
    "configuration_jepa": {"huggingface_hub", "transformers"},
    "modeling_jepa": {"huggingface_hub", "safetensors", "torch", "transformers"},
}
FAMILIES = ("text_jepa", "dialogue_jepa", "staged_generator", "video_jepa")
BUILT_ON = {"dialogue_jepa": {"text_jepa"}}


def sources() -> dict[str, str]:
    """Dotted module name -> source, for every module of every layer."""
    found = {}
    for top in sorted({layer.split(".")[0] for layer in LAYERS}):
        for path in sorted((ROOT / top).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.read_text(encoding="utf-8")
    return found


def layer_of(module: str) -> int | None:
    """Position in `LAYERS`, or None for a library's module."""
    fitting = [layer for layer in LAYERS if module == layer or module.startswith(layer + ".")]
    return LAYERS.index(max(fitting, key=len)) if fitting else None


def upward_imports(modules: dict[str, str]) -> list[str]:
    """Imports that go against the order, as `importer -> imported`."""
    packages = {name.rpartition(".")[0] for name in modules}
    found = []
    for module, source in modules.items():
        for name, _ in imports(module, source, module in packages):
            theirs = layer_of(name)
            if theirs is not None and theirs > layer_of(module):
                found.append(f"{module} -> {name}")
    return found


def room_of(module: str) -> int | None:
    """Position in `ROOMS`, or None for what stands elsewhere."""
    parts = module.split(".")
    return ROOMS.index(parts[1]) if parts[0] == "training" and len(parts) > 1 and parts[1] in ROOMS else None


def imports_of_upper_rooms(modules: dict[str, str]) -> list[str]:
    """Imports within `training` that go against the order of its rooms, as `importer -> imported`."""
    found = []
    for module, source in modules.items():
        own = room_of(module)
        for name, _ in imports(module, source, is_package=False):
            theirs = room_of(name)
            if own is not None and theirs is not None and theirs > own:
                found.append(f"{module} -> {name}")
    return found


def circles(modules: dict[str, str]) -> list[list[str]]:
    """Modules that import each other, over however many others. An `__init__` only hands names on: it is left out."""
    packages = {name.rpartition(".")[0] for name in modules}
    files = {name for name in modules if name not in packages}
    graph = {}
    for module in files:
        names = [name for name, _ in imports(module, modules[module], is_package=False)]
        targets = [name if name in files else name.rpartition(".")[0] for name in names]
        graph[module] = {target for target in targets if target in files and target != module}
    reach = {module: _reachable(module, graph) for module in graph}
    rings = {frozenset(other for other in reach[module] if module in reach[other]) for module in graph}
    return sorted(sorted(ring) for ring in rings if ring)


def _reachable(start: str, graph: dict[str, set[str]]) -> set[str]:
    found, waiting = set(), [start]
    while waiting:
        for target in graph[waiting.pop()] - found:
            found.add(target)
            waiting.append(target)
    return found


def foreign_imports(package: str, modules: dict[str, str]) -> list[str]:
    """Imports of `package` that are neither its own, of a layer below, of Python, nor allowed, and not in a `try`."""
    found = []
    for module, source in modules.items():
        if module.split(".")[0] != package:
            continue
        guarded = _inside_try(source)
        for name, node in imports(module, source, module == package):
            top = name.split(".")[0]
            known = top in LIBRARIES[package] or top in sys.stdlib_module_names or top in SHIPPED
            if not known and node.lineno not in guarded:
                found.append(f"{module} -> {name}")
    return found


def family_crossings(modules: dict[str, str]) -> list[str]:
    """Imports of one family's file by another's, beyond those of `BUILT_ON`."""
    found = []
    for module, source in modules.items():
        family = next((f for f in FAMILIES if module.endswith((f"ing_{f}", f"tion_{f}"))), None)
        if family is None or not module.startswith(SHIPPED):
            continue
        for name, _ in imports(module, source, is_package=False):
            other = next((f for f in FAMILIES if f"ing_{f}" in name or f"tion_{f}" in name), family)
            if other != family and other not in BUILT_ON.get(family, set()):
                found.append(f"{module} -> {name}")
    return found


def _inside_try(source: str) -> set[int]:
    """Line numbers of the statements in the body of a `try` that catches an `ImportError`."""
    lines = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Try) and any("ImportError" in ast.unparse(h.type) for h in node.handlers if h.type):
            lines.update(child.lineno for child in ast.walk(ast.Module(node.body, [])) if isinstance(child, ast.stmt))
    return lines


@pytest.fixture(scope="module")
def modules() -> dict[str, str]:
    return sources()


def test_every_layer_imports_only_what_stands_below_it(modules):
    assert upward_imports(modules) == []


def test_no_module_imports_itself_over_others(modules):
    """Imports in functions and under `TYPE_CHECKING` included."""
    assert circles(modules) == []


def test_every_room_of_training_imports_only_those_before_it(modules):
    assert imports_of_upper_rooms(modules) == []


def test_the_check_sees_a_circle_and_a_room_that_is_above():
    lazy = {
        "training.plan": "def f():\n    import training.estimate",
        "training.estimate": "from training import plan",
    }
    assert circles(lazy) == [["training.estimate", "training.plan"]]
    assert circles({**lazy, "training.estimate": "import torch"}) == []
    assert imports_of_upper_rooms(lazy) == ["training.estimate -> training.plan"]


def test_importing_the_data_layer_does_not_run_the_layers_above_it(modules):
    """`import training.data` runs `training/__init__.py` first, which therefore imports nothing of the project."""
    own = [name for name, _ in imports("training", modules.get("training", ""), is_package=True) if layer_of(name)]
    assert own == []


@pytest.mark.parametrize("package", SHIPPED)
def test_a_package_that_travels_with_checkpoints_imports_only_what_a_stranger_has(modules, package):
    assert foreign_imports(package, modules) == []


def test_a_family_imports_no_other_family(modules):
    assert family_crossings(modules) == []


@pytest.mark.parametrize("package", SHIPPED)
def test_a_package_that_travels_with_checkpoints_is_flat(package):
    nested = [path for path in (ROOT / package).rglob("*.py") if path.parent != ROOT / package]
    assert nested == []
    assert (ROOT / package / "__init__.py").is_file()


@pytest.mark.parametrize(
    ("module", "source", "found"),
    [
        ("training.data.sources", "from eval.score import score", ["training.data.sources -> eval.score.score"]),
        (
            "training.data.sources",
            "def f():\n    import training.trainer",
            ["training.data.sources -> training.trainer"],
        ),
        ("training.data.masking", "from .. import trainer", ["training.data.masking -> training.trainer"]),
        ("eval.score", "import eval.benchmarks.cells", ["eval.score -> eval.benchmarks.cells"]),
        ("configuration_jepa.base", "import modeling_jepa", ["configuration_jepa.base -> modeling_jepa"]),
        ("eval.score", "from training.common.errors import InputError", []),
        ("training.train", "from eval import score\nimport torch", []),
    ],
)
def test_the_check_sees_an_import_that_goes_up(module, source, found):
    assert upward_imports({module: source}) == found


def test_the_check_sees_a_library_that_a_stranger_may_not_have():
    guarded = "try:\n    import faiss\nexcept ImportError:\n    faiss = None\n"
    assert foreign_imports("modeling_jepa", {"modeling_jepa.layers": guarded}) == []
    assert foreign_imports("modeling_jepa", {"modeling_jepa.layers": "import faiss"}) == [
        "modeling_jepa.layers -> faiss"
    ]
    assert foreign_imports("configuration_jepa", {"configuration_jepa.base": "def f():\n    import torch"}) == [
        "configuration_jepa.base -> torch"
    ]


def test_the_check_sees_a_family_that_imports_another():
    text = {"modeling_jepa.modeling_text_jepa": "from modeling_jepa.modeling_video_jepa import VideoJepaModel"}
    dialogue = {"modeling_jepa.modeling_dialogue_jepa": "from modeling_jepa.modeling_text_jepa import TextJepaModel"}
    assert len(family_crossings(text)) == 1
    assert family_crossings(dialogue) == []
