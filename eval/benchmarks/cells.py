"""Run arms x seeds, one JSON each: what is done is never done again, what is missing can be done later or elsewhere.

A cell's number is what `function(settings, seed, folder)` returns. Its file name carries a hash of code, settings,
data and seed: a change of any of them asks for a new cell and leaves the old one alone. Each cell runs in a process of
its own with one thread: two of them use two cores best for small models.
"""

import hashlib
import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml
from rich.progress import Progress

from eval.benchmarks.exams.memory import peak_memory
from training.common.errors import InputError
from training.common.records import package_versions, write_json
from training.common.source_code import files_behind

SCHEMA_VERSION = 1
CHECKOUT = Path(__file__).resolve().parents[2]
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")
_ONE_THREAD = dict.fromkeys(_THREADS, "1")
# glibc gives large blocks back at once, and a training step asks for the same ones again: a tenth of the time.
_KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**32), "MALLOC_TRIM_THRESHOLD_": str(2**32)}


@dataclass(frozen=True)
class Arm:
    """One row of a comparison.

    `function` is "module:function", called as function(settings, seed, folder) in a fresh process with an empty
    folder; it returns a dict with `metrics` (name -> number or None) and, for paired intervals, `examples`: lists of
    one length, an entry per test example: `ids` (the same for all arms), `clusters` (the row that an example comes
    from) and one list per metric. `data` names the sources that the number depends on: files and folders count by
    their content, `builtin:` and `hub:` by their name; so does a file at `settings["recipe"]`. The code that counts is
    that of `function` for the family of the recipe, see `code_of`.
    """

    name: str
    settings: dict[str, Any]
    function: str
    data: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cell:
    """One (arm, seed) with its key and the file of its result."""

    arm: Arm
    seed: int
    key: str
    path: Path

    @property
    def done(self) -> bool:
        """Whether its result is there."""
        return self.path.is_file()


@dataclass
class Outcome:
    """Cells by what became of them; `failed` maps a cell's file name to the last line of its error."""

    ran: list[Cell] = field(default_factory=list)
    kept: list[Cell] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


def plan_cells(arms: Sequence[Arm], seeds: Sequence[int], folder: str | Path) -> list[Cell]:
    """All cells, seed by seed, so that an interrupted comparison has every arm at its first seeds.

    Raises:
        InputError: two arms of one name, or a function or data that is not there.
    """
    names = [arm.name for arm in arms]
    if len(set(names)) != len(names):
        raise InputError(f"arms must have different names, were given {', '.join(sorted(names))}")
    sources = {arm.name: code_of(arm.function, _family_of(arm)) for arm in arms}
    hashes = {paths: hash_paths(paths, CHECKOUT, "*.py") for paths in set(sources.values())}
    stamps = {arm.name: (hashes[sources[arm.name]], _data_stamp(arm)) for arm in arms}
    cells = []
    for seed in seeds:
        for arm in arms:
            key = cell_key(arm, seed, *stamps[arm.name])
            cells.append(Cell(arm, seed, key, Path(folder) / f"{_slug(arm.name)}-seed{seed}-{key[:12]}.json"))
    return cells


def cell_key(arm: Arm, seed: int, code_hash: str, data_stamp: dict[str, str]) -> str:
    """sha256 over everything that a number depends on; the arm's name and where it keeps its weights are not."""
    content = {
        "function": arm.function,
        "settings": {name: value for name, value in arm.settings.items() if name != "keep"},
        "seed": seed,
        "code": code_hash,
        "data": data_stamp,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True, allow_nan=False).encode()).hexdigest()


def run_cells(cells: Sequence[Cell], workers: int = 1, progress: bool = False) -> Outcome:
    """Run the cells that have no result, `workers` one-thread processes at a time.

    A cell that fails leaves no file and does not stop the others. Interrupting keeps all finished results.
    """
    if workers < 1:
        raise InputError(f"workers must be at least 1, was given {workers}")
    outcome = Outcome(kept=[cell for cell in cells if cell.done])
    waiting = [cell for cell in cells if not cell.done]
    with ThreadPoolExecutor(workers) as pool, Progress(disable=not progress) as bar:
        task = bar.add_task("cells", total=len(waiting))
        for cell, error in zip(waiting, pool.map(_run_in_process, waiting), strict=True):
            if error is None:
                outcome.ran.append(cell)
            else:
                outcome.failed[cell.path.name] = error
            bar.advance(task)
    return outcome


def collect(cells: Sequence[Cell]) -> dict[str, list[dict]]:
    """Results of the finished cells by arm, in the order of arms and seeds."""
    results: dict[str, list[dict]] = {}
    for cell in cells:
        if cell.done:
            results.setdefault(cell.arm.name, []).append(json.loads(cell.path.read_text(encoding="utf-8")))
    return results


def code_of(function: str, family: str | None = None) -> tuple[Path, ...]:
    """The files of this checkout that "module:function" may run: its module, and all that it imports over others.

    With a `family`, the other families' files are left out, but for those that a family's own file imports.

    Raises:
        InputError: there is no such module.
    """
    from training.settings.recipes import family_names  # and with it torch, which a cell's process may do without

    module = function.partition(":")[0]
    found = files_behind(module, CHECKOUT, family, family_names())
    if not found:
        raise InputError(f"function {function!r}: {module} is no module of this checkout; use MODULE:FUNCTION")
    return found


def hash_paths(paths: Sequence[str | Path], root: Path, pattern: str = "*") -> str:
    """sha256 over names and bytes of files, and of the files of folders that match a pattern, in sorted order."""
    digest = hashlib.sha256()
    for given in paths:
        path = root / given
        if not path.exists():
            raise InputError(f"{given} does not exist: a cell's key needs the content of all it depends on")
        for file in sorted(path.rglob(pattern)) if path.is_dir() else [path]:
            if file.is_file():
                digest.update(str(file.relative_to(root) if file.is_relative_to(root) else file.name).encode() + b"\0")
                with file.open("rb") as stream:
                    digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def run_one(arm: Arm, seed: int, key: str) -> dict[str, Any]:
    """Compute one cell here and now."""
    module, _, name = arm.function.partition(":")
    function = getattr(importlib.import_module(module), name)
    wall, cpu = time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory(prefix="cell-") as folder:
        result = function(arm.settings, seed, Path(folder))
    return {
        "schema_version": SCHEMA_VERSION,
        "key": key,
        "arm": asdict(arm),
        "seed": seed,
        "seconds": time.perf_counter() - wall,
        "cpu_seconds": time.process_time() - cpu,
        "peak_memory_bytes": peak_memory(),
        "versions": package_versions(),
        **result,
    }


def _run_in_process(cell: Cell) -> str | None:
    """Run one cell in a process of its own; returns the last line of its error, or None."""
    request = json.dumps(
        {"arm": asdict(cell.arm), "seed": cell.seed, "key": cell.key, "path": str(cell.path.resolve())}
    )
    python_path = os.pathsep.join([str(CHECKOUT), *filter(None, [os.environ.get("PYTHONPATH")])])
    quiet = {"TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": python_path}
    environment = {**os.environ, **_ONE_THREAD, **_KEEP_MEMORY, **quiet}
    command = [sys.executable, "-m", "eval.benchmarks.cells"]
    process = subprocess.run(command, input=request, env=environment, capture_output=True, text=True, check=False)
    if process.returncode == 0:
        return None
    cell.path.parent.mkdir(parents=True, exist_ok=True)
    cell.path.with_suffix(".log").write_text(process.stdout + process.stderr, encoding="utf-8")
    last = (process.stderr.strip() or f"exit code {process.returncode}").splitlines()[-1]
    return f"{last} (all of it in {cell.path.with_suffix('.log').name})"


def _data_stamp(arm: Arm) -> dict[str, str]:
    """Content hash of each source that is a file or folder; a built-in or Hub source stands for itself."""
    return {
        source: hash_paths([source], Path.cwd()) if Path(source).exists() else "by name"
        for source in (*arm.data, *([arm.settings["recipe"]] if "recipe" in arm.settings else []))
        if _known_source(source)
    }


def _family_of(arm: Arm) -> str | None:
    """The family that the arm's recipe names; None where it has no recipe."""
    recipe = Path(arm.settings.get("recipe", ""))
    content = yaml.safe_load(recipe.read_text(encoding="utf-8")) if recipe.is_file() else {}
    return content.get("family")


def _known_source(source: str) -> bool:
    """True; raises InputError for a path that does not exist."""
    if not Path(source).exists() and not source.startswith(("builtin:", "hub:")):
        raise InputError(f"data {source!r} is neither a file or folder, nor builtin:NAME or hub:ID")
    return True


def _slug(name: str) -> str:
    """An arm's name as part of a file name."""
    return re.sub(r"[^\w.-]+", "_", name)


def _work() -> None:
    """In the process of a cell: {arm, seed, key, path} as JSON on its input, the result into the path. An error ends
    it with its traceback, which the runner keeps.
    """
    request = json.load(sys.stdin)
    arm = Arm(**{**request["arm"], "data": tuple(request["arm"]["data"])})
    result = run_one(arm, request["seed"], request["key"])
    write_json(result, request["path"], indent=None)  # one entry per test example: a line each would be long


if __name__ == "__main__":
    _work()
