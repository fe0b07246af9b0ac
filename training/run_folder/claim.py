"""A run and its folder: who may write there, whether it is the same run, and where it goes on."""

import hashlib
import json
import os
import platform
import shlex
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from training.common.errors import InputError
from training.common.manifest import MANIFEST, RUN_FILE, read_run
from training.common.records import package_versions
from training.run.run import Run
from training.run_folder.checkpoints import (
    NoWholeCheckpointError,
    Resumable,
    check_whole,
    clean_leftovers,
    ended_early,
    find_resumable,
    finished_steps,
    set_aside,
    start_over,
    write_json_flushed,
)
from training.run_folder.ownership import (
    MODEL_FILES,
    identity_of,
    own_run,
    refuse_another_root,
    refuse_another_run,
    refuse_foreign,
)
from training.runtime.precision import precision_of
from training.settings.schema import keys_of_config

LOCK_FILE = ".lock"
OWNER_FILE = ".lock.json"
_WORKERS_END_SECONDS = 30  # they look for their parent every 5 seconds
_PACKAGES = ("jepa-lm", "torch", "transformers", "accelerate", "datasets", "tokenizers")


@contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Hold the run folder: a second run in it is refused by name. The system frees the lock when the process dies.

    Raises:
        InputError: another process holds it, or the folder cannot be made or written.
    """
    lock = _acquire(run_dir)
    try:
        yield
    finally:
        (run_dir / OWNER_FILE).unlink(missing_ok=True)
        lock.release()


def _acquire(run_dir: Path) -> FileLock:
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        lock = _take(run_dir)
        owner = {"process": os.getpid(), "host": socket.gethostname()}
        (run_dir / OWNER_FILE).write_text(json.dumps(owner), encoding="utf-8")
    except Timeout:
        raise InputError(
            f"output_dir: {run_dir} is in use by {_owner(run_dir)}; wait for it, or give another --output_dir"
        ) from None
    except OSError as error:
        raise InputError(
            f"output_dir: {run_dir} cannot be written ({error.strerror}); give another --output_dir"
        ) from None
    return lock


def _take(run_dir: Path) -> FileLock:
    """The lock; a run that was killed is waited for until its data loader's processes, which share it, are gone."""
    lock = FileLock(run_dir / LOCK_FILE, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        if not _owner_is_gone(run_dir):
            raise
        lock.acquire(timeout=_WORKERS_END_SECONDS)
    return lock


def _owner_is_gone(run_dir: Path) -> bool:
    """Whether the process that took the lock ran on this host and has ended."""
    try:
        owner = json.loads((run_dir / OWNER_FILE).read_text(encoding="utf-8"))
        if owner["host"] != socket.gethostname():
            return False
        os.kill(owner["process"], 0)
    except ProcessLookupError:
        return True
    except (OSError, ValueError, KeyError):
        return False
    return False


def describe_run(
    run: Run,
    config: Any,
    data_hash: str,
    num_processes: int = 1,
    threads: int | None = None,
    data_read: Sequence[str] = (),
) -> dict[str, Any]:
    """The content of `run.json`: the resolved recipe, what makes the run this run, and how it was started.

    Args:
        num_processes: of the run; another number is another global batch, and so another run.
        threads: of each process on a CPU; another number rounds sums differently.
        data_read: what was guessed of the data, such as its column, in words.
    """
    from_config = {key.name: (key.section, getattr(config, key.name)) for key in keys_of_config(type(config))}
    recipe = {
        "model": {name: value for name, (section, value) in from_config.items() if section == "model"},
        "data": asdict(run.data),
        "masking": asdict(run.masking),
        "loss": {name: value for name, (section, value) in from_config.items() if section == "loss"},
        "training": asdict(run.training),
        "evaluation": asdict(run.evaluation),
    }
    description = {
        "schema_version": 1,
        "family": run.family,
        "recipe_name": run.recipe_path.stem,
        "recipe": recipe,
        "init_from": run.init_from,
        "data_hash": data_hash,
        "num_processes": num_processes,
    }
    description |= {} if run.stage is None else {"stage": run.stage}
    return {
        **description,
        "identity": hashlib.sha256(json.dumps(identity_of(description), sort_keys=True).encode()).hexdigest(),
        "command": shlex.join(["python", *sys.argv]),
        "versions": {name: version for name, version in package_versions(_PACKAGES).items() if version},
        "python": platform.python_version(),
        "threads": threads,
        "data_read": list(data_read),
        "precision": precision_of(run),
    }


def write_run(run_dir: Path, description: dict[str, Any]) -> None:
    """Write `run.json` in one step."""
    write_json_flushed(run_dir / RUN_FILE, description)


def decide_resume(run: Run, description: dict[str, Any]) -> Resumable:
    """Where this run goes on: its newest whole checkpoint, the one asked for, or the beginning.

    Raises:
        InputError: the folder holds somebody else's files or another run, or the checkpoint asked for is not whole or
            not of this run.
        NoWholeCheckpointError: there are checkpoints and none is whole; or there is a model, and none of its
            checkpoints, and it is not that of the finished run.
    """
    refuse_foreign(run.output_dir)
    clean_leftovers(run.output_dir)
    if run.resume == "never":
        start_over(run.output_dir)
        return Resumable(None)
    if run.resume != "auto":
        checkpoint = Path(run.resume)
        problem = check_whole(checkpoint) if checkpoint.is_dir() else f"{checkpoint} is no folder"
        if problem:
            raise InputError(f"resume: {problem}; give auto, never, or the path of a whole checkpoint-N")
        refuse_another_run(run, description, checkpoint)
        refuse_another_root(run, description)
        return Resumable(checkpoint)
    found = find_resumable(run.output_dir)
    if found.path is None:
        return _without_checkpoints(run, description)
    refuse_another_run(run, description, found.path)
    refuse_another_root(run, description)
    named = {path: f"{problem}; it is now called {set_aside(path).name}" for path, problem in found.damaged.items()}
    return Resumable(found.path, named)


def rounding_changes(checkpoint: Path, description: dict[str, Any]) -> list[str]:
    """What differs from how `checkpoint` was computed, and rounds differently: the resume is then not bitwise."""
    before, now = ({**told, **told["versions"]} for told in (read_run(checkpoint), description))
    names = ("threads", "python", *_PACKAGES[1:])
    return [
        f"{name} {before.get(name)} before, {now[name]} now"
        for name in names
        if name in now and before.get(name) != now[name]
    ]


def _without_checkpoints(run: Run, description: dict[str, Any]) -> Resumable:
    """A folder without checkpoints: new, stopped before its first one, or finished and they were removed."""
    folder = run.output_dir
    if own_run(folder) is None:
        return Resumable(None)
    refuse_another_run(run, description, folder)
    if not any((folder / name).exists() for name in (MANIFEST, *MODEL_FILES)):
        return Resumable(None)
    if finished_steps(folder) != run.training.max_steps and not ended_early(folder):
        raise NoWholeCheckpointError(
            f"no checkpoint in {folder} to go on from, and the model there is not whole and that of this run's last "
            "step with its card: give another --output_dir, or start over with --resume never"
        )
    return Resumable(None, finished=True)


def _owner(run_dir: Path) -> str:
    try:
        owner = json.loads((run_dir / OWNER_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "another process"
    return f"process {owner['process']} on {owner['host']}"
