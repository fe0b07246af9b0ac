"""Writes the code a checkpoint needs beside its weights, so that `trust_remote_code=True` opens it anywhere.

The library copies only the files it finds by relative imports inside one package; ours live in two. So the files are
collected here by their imports, from both packages, and written flat, the imports between the packages made relative.
"""

import ast
import importlib.util
import os
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path

PACKAGES = ("configuration_jepa", "modeling_jepa")
_ABSOLUTE_IMPORT = re.compile(rf"^from (?:{'|'.join(PACKAGES)})\.(\w+) import", flags=re.MULTILINE)


def is_remote_code(cls: type) -> bool:
    """Whether `cls` was itself loaded from a checkpoint's code: there the library's own copy does the work."""
    return cls.__module__.split(".", 1)[0] == "transformers_modules"


def export_remote_code(references: Iterable[str], folder: str | os.PathLike[str]) -> list[Path]:
    """Write the modules that `references` need, flat, into `folder`.

    Args:
        references: `"module.Class"` strings as they stand in an `auto_map`; the modules live in `modeling_jepa`.
        folder: an existing folder.

    Returns:
        The files written, sorted by name.

    Raises:
        ModuleNotFoundError: `modeling_jepa` is not installed beside `configuration_jepa`.
    """
    written = []
    for module, source in sorted(_collect({reference.split(".")[0] for reference in references}).items()):
        path = Path(folder) / f"{module}.py"
        path.write_text(_ABSOLUTE_IMPORT.sub(r"from .\1 import", source), encoding="utf-8")
        written.append(path)
    return written


def _collect(modules: set[str]) -> dict[str, str]:
    """Module name -> source, for `modules` and all that they import from the two packages."""
    folders = [_package_folder(package) for package in PACKAGES]
    sources: dict[str, str] = {}
    waiting = set(modules)
    while waiting:
        module = waiting.pop()
        path = next(folder / f"{module}.py" for folder in folders if (folder / f"{module}.py").exists())
        sources[module] = path.read_text(encoding="utf-8")
        waiting |= _imported_modules(sources[module]) - set(sources)
    return sources


@cache  # a run saves the same code with every checkpoint
def _imported_modules(source: str) -> frozenset[str]:
    """Modules of the two packages that `source` imports, as `from .x import` or `from package.x import`."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.ImportFrom) or node.module is None:
            continue
        package, _, module = node.module.rpartition(".")
        if node.level == 1 or package in PACKAGES:
            found.add(module)
    return frozenset(found)


def _package_folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"{package} is needed to save a checkpoint with its code, and is not installed.")
    return Path(spec.origin).parent
