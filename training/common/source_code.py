"""What modules import, read from their source without running it: in functions and under `TYPE_CHECKING` too."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path


def imports(module: str, source: str, is_package: bool) -> Iterator[tuple[str, ast.stmt]]:
    """Every (imported name, statement). `from a import b` gives `a.b`: its prefix decides, whichever `b` is."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module.split(".") if is_package else module.split(".")[:-1]
                package = package[: len(package) - node.level + 1]
                base = ".".join([*package, base] if base else package)
            yield from ((f"{base}.{alias.name}", node) for alias in node.names)


@cache
def files_behind(
    module: str, root: Path, family: str | None = None, families: tuple[str, ...] = ()
) -> tuple[Path, ...]:
    """The file of a module under `root` and of all that it imports from there, over however many others, sorted.

    The packages around a module run before it, so they count as imported. Empty where the module is not there.
    With a `family`, files of the other `families` count only where a family's own file imports them: a table that
    names every family brings in this one alone.
    """
    found: dict[str, Path] = {}
    waiting = _with_packages(module) if _file_of(module, root) else []
    while waiting:
        name = waiting.pop()
        path = None if name in found else _file_of(name, root)
        if path is None:
            continue
        found[name] = path
        allowed = {None, *families} if family is None or _family_of(name, families) else {None, family}
        waiting += [wanted for wanted in _imported_by(name, path) if _family_of(wanted, families) in allowed]
    return tuple(sorted(found.values()))


@cache
def _imported_by(module: str, path: Path) -> tuple[str, ...]:
    """All that its file imports, and the packages around that."""
    found = imports(module, path.read_text(encoding="utf-8"), path.name == "__init__.py")
    return tuple(dict.fromkeys(name for imported, _ in found for name in _with_packages(imported)))


def _family_of(module: str, families: tuple[str, ...]) -> str | None:
    """Whose file it is: one of its name, such as `scorers.NAME` or `modeling_NAME`, or in a folder of its name."""
    parts = module.split(".")
    return next((name for name in families for part in parts if part == name or part.endswith(f"_{name}")), None)


def _with_packages(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:length]) for length in range(1, len(parts) + 1)]


def _file_of(name: str, root: Path) -> Path | None:
    place = root.joinpath(*name.split("."))
    return next((path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file()), None)
