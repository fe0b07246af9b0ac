"""Checkpoints that are whole or do not exist: staged, hashed, renamed; and the run folder's root, filled from them.

A save writes into `.staging-checkpoint-N/`, hashes every file into `manifest.json` there, and renames the folder.
Only then are older ones removed, and those are renamed away first, so that a folder called `checkpoint-N` is whole at
every moment, whenever the process dies.
"""

import errno
import json
import os
import pickle
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from training.common.errors import InputError
from training.common.layout import CARD_FILE, LORA_FILE, MILESTONES_FILE, MODEL_FILES, OWN_FILES, code_files
from training.common.manifest import MANIFEST, RUN_FILE, sha256_of, verify_manifest

PREFIX = "checkpoint-"
STAGING = ".staging-"
TRASH = ".trash-"
DAMAGED = "damaged-"

# A full disk, and a full quota.
FULL = (errno.ENOSPC, errno.EDQUOT)

# What only a resume needs. The root of a run folder, which is what gets published, holds none of it.
# FSDP and DeepSpeed bring pickles, folders of shards and a script of their own.
# The root has a card of its own, written last.
_RESUME_ONLY = (CARD_FILE, "trainer_state.json", "run_state.json", LORA_FILE, "latest", "zero_to_fp32.py")
_PICKLES = (".pt", ".pth", ".bin")
_SHARDS = ("global_step", "optimizer_", "pytorch_model_fsdp_")


class NoWholeCheckpointError(RuntimeError):
    """Checkpoints are there, and none of them is whole. Command lines end with exit code 4."""


class DiskFullError(InputError):
    """A save did not fit; what was saved before is untouched."""


@dataclass(frozen=True)
class Resumable:
    """The newest whole checkpoint of a run folder (None: there is none), and what is wrong with newer ones.

    Attributes:
        finished: the run is done, and its checkpoints were removed.
    """

    path: Path | None
    damaged: dict[Path, str] = field(default_factory=dict)
    finished: bool = False

    @property
    def step(self) -> int:
        """Optimizer steps done at that checkpoint."""
        return step_of(self.path) if self.path else 0


def step_of(checkpoint: Path) -> int:
    """The N of `checkpoint-N`."""
    return int(checkpoint.name.removeprefix(PREFIX))


def list_checkpoints(run_dir: Path) -> list[Path]:
    """All `checkpoint-N` folders, lowest step first."""
    found = [path for path in run_dir.glob(f"{PREFIX}*") if path.is_dir() and path.name.removeprefix(PREFIX).isdigit()]
    return sorted(found, key=step_of)


def find_resumable(run_dir: Path) -> Resumable:
    """The newest checkpoint whose every file has the hash that its manifest says.

    Raises:
        NoWholeCheckpointError: there are checkpoints, and every one is damaged.
    """
    damaged: dict[Path, str] = {}
    for path in reversed(list_checkpoints(run_dir)):
        problem = check_whole(path)
        if problem is None:
            return Resumable(path, damaged)
        damaged[path] = problem
    if damaged:
        raise NoWholeCheckpointError(
            f"no checkpoint in {run_dir} is whole ({'; '.join(damaged.values())}): restore one from a copy, "
            "or start over with --resume never"
        )
    return Resumable(None)


def check_whole(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, in words, or None."""
    if not (checkpoint / MANIFEST).is_file():
        return f"{checkpoint} has no {MANIFEST}"
    try:
        verify_manifest(checkpoint)
        step = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8")).get("step")
    except InputError as error:
        return str(error)
    if step != step_of(checkpoint):
        return f"{checkpoint} holds the files of step {step}"
    names = _manifest_files(checkpoint)
    if not any(name.endswith(".safetensors") for name in names):
        return f"{checkpoint} has no weights (*.safetensors) in its {MANIFEST}"
    return None if "config.json" in names else f"{checkpoint} has no config.json in its {MANIFEST}"


@contextmanager
def staged(final: Path, needed_bytes: int = 0) -> Iterator[Path]:
    """A folder in which the block writes a folder of `final`'s name; that becomes `final` when the block has ended.

    Raises:
        DiskFullError: the files did not fit; `final` does not exist then, and older checkpoints are untouched.
    """
    staging = final.with_name(STAGING + final.name)
    try:
        with naming_full_disk(final, needed_bytes):
            shutil.rmtree(staging, ignore_errors=True)
            staging.mkdir(parents=True)
            yield staging
            write_manifest(staging / final.name, step_of(final))
    except Exception:  # of any kind: it is raised again, once the half-written folder is gone
        shutil.rmtree(staging, ignore_errors=True)
        raise
    _put_in_place(staging / final.name, final)
    staging.rmdir()


@contextmanager
def naming_full_disk(target: Path, needed_bytes: int) -> Iterator[None]:
    """Turn the failed write of a full disk into one line.

    Raises:
        DiskFullError: naming what is needed and free.
    """
    try:
        yield
    except Exception as error:
        free = shutil.disk_usage(target.parent).free
        # safetensors and torch raise their own errors when a write fails, so the free space has to tell.
        if free < needed_bytes or (isinstance(error, OSError) and error.errno in FULL):
            raise DiskFullError(
                f"output_dir: {target.name} needs about {needed_bytes:,} bytes and {free:,} are free on the disk of "
                f"{target.parent}; free some and run the same command again (older checkpoints are whole)"
            ) from error
        raise


def write_manifest(folder: Path, step: int) -> None:
    """Hash every file of `folder` into its manifest, and bring all of them to the disk."""
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    hashes = {name: sha256_of(folder / name) for name in names if name != MANIFEST}
    for name in hashes:
        flush(folder / name)
    write_json_flushed(folder / MANIFEST, {"schema_version": 1, "step": step, "files": hashes})
    flush(folder)


def rotate(run_dir: Path, keep: int, best_step: int | None, newest: int) -> None:
    """Remove all but the `keep` newest checkpoints and the best one.

    Args:
        newest: the step just saved. Later ones are of a time before a resume from an older checkpoint, and count for
            nothing: they will be replaced.
    """
    reached = [path for path in list_checkpoints(run_dir) if step_of(path) <= newest]
    for path in reached[:-keep]:
        if step_of(path) != best_step:
            _remove(path)


def set_aside(checkpoint: Path) -> Path:
    """Rename a damaged checkpoint, so that it neither counts nor stands in the way; returns its new path."""
    aside = checkpoint.with_name(DAMAGED + checkpoint.name)
    shutil.rmtree(aside, ignore_errors=True)
    os.replace(checkpoint, aside)
    return aside


def clean_leftovers(run_dir: Path) -> None:
    """Remove what a killed save, rotation or filling of the root left behind.

    `checkpoint-N` folders are not touched, nor what others call `.staging-` or `.trash-`.
    """
    for pattern in (f"{STAGING}{PREFIX}*", f"{TRASH}{PREFIX}*"):
        for path in run_dir.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    published = {MANIFEST, RUN_FILE, *MODEL_FILES, *code_files()}
    for folder in (run_dir, *list_checkpoints(run_dir)):
        published |= _manifest_files(folder)
    _remove_files(run_dir, [str(_part_of(Path(name))) for name in published])


def fill_root(run_dir: Path, checkpoint: Path) -> None:
    """Make the root of the run folder the published form of `checkpoint`: file by file, the manifest last.

    A kill in between leaves a root whose manifest does not fit, which our loaders refuse; filling it again repairs it.
    """
    files = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))["files"]
    published = {name: digest for name, digest in files.items() if not is_resume_only(name)}
    outdated = _manifest_files(run_dir) - set(published)
    needed = sum((checkpoint / name).stat().st_size for name in published)
    with naming_full_disk(run_dir / "the model at the root of the run folder", needed):
        for name in published:
            _copy_atomically(checkpoint / name, run_dir / name)
    _remove_files(run_dir, outdated)
    # A start of the run, such as one with --extend, writes its own `run.json` while the root still holds this model.
    hashes = {name: digest for name, digest in published.items() if name != RUN_FILE}
    write_json_flushed(run_dir / MANIFEST, {"schema_version": 1, "step": step_of(checkpoint), "files": hashes})
    flush(run_dir)


def root_step(run_dir: Path) -> int | None:
    """The step whose checkpoint fills the root, or None where the root is empty, half filled or damaged."""
    if not (run_dir / MANIFEST).is_file():
        return None
    try:
        verify_manifest(run_dir)
    except InputError:
        return None
    return json.loads((run_dir / MANIFEST).read_text(encoding="utf-8"))["step"]


def finished_steps(run_dir: Path) -> int | None:
    """Steps of the finished run whose model, figures and card (written last) are in `run_dir`; None without one."""
    if root_step(run_dir) is None or not (run_dir / CARD_FILE).is_file():
        return None
    try:  # the last step is always the last milestone
        return _milestones(run_dir)["milestones"][-1]["step"]
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        return None


def ended_early(run_dir: Path) -> bool:
    """Whether the run in `run_dir` was ended before its last step, as nothing better came."""
    try:
        return bool(_milestones(run_dir).get("ended_early"))
    except (OSError, ValueError, AttributeError):
        return False


def _milestones(run_dir: Path) -> dict[str, Any]:
    return json.loads((run_dir / MILESTONES_FILE).read_text(encoding="utf-8"))


def start_over(run_dir: Path) -> None:
    """Remove what an earlier run left in `run_dir`: its checkpoints, log, results and the files of its root.

    Other files stay. Whether it was a run of ours is for the caller to know.
    """
    clean_leftovers(run_dir)
    for checkpoint in list_checkpoints(run_dir):
        _remove(checkpoint)
    for damaged in run_dir.glob(f"{DAMAGED}{PREFIX}*"):
        shutil.rmtree(damaged)
    _remove_files(run_dir, (*_manifest_files(run_dir), *OWN_FILES))


def is_resume_only(name: str) -> bool:
    """Whether a file of a checkpoint serves a resume only, and is not published."""
    return name in _RESUME_ONLY or name.endswith(_PICKLES) or name.startswith(_SHARDS)


def _manifest_files(folder: Path) -> set[str]:
    """Names in a folder's manifest that stay inside the folder; none where it cannot be read."""
    try:
        names = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"].keys()
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return set()
    return {name for name in names if Path(name).name and not Path(name).anchor and ".." not in Path(name).parts}


def _remove_files(run_dir: Path, names: Iterable[str]) -> None:
    """Remove those files that are there, and the folders that are empty without them."""
    gone = [Path(name) for name in names if (run_dir / name).is_file() or (run_dir / name).is_symlink()]
    for name in gone:
        (run_dir / name).unlink(missing_ok=True)
    folders = {folder for name in gone for folder in name.parents if folder.name}
    for folder in sorted(folders, key=lambda folder: len(folder.parts), reverse=True):
        if not any((run_dir / folder).iterdir()):  # what others put there stays
            (run_dir / folder).rmdir()


def _put_in_place(staging: Path, final: Path) -> None:
    if final.exists():
        _remove(final)
    os.replace(staging, final)
    flush(final.parent)


def _remove(checkpoint: Path) -> None:
    """Rename first: a checkpoint that is half removed must not be called one."""
    trash = checkpoint.with_name(TRASH + checkpoint.name)
    shutil.rmtree(trash, ignore_errors=True)
    os.replace(checkpoint, trash)
    shutil.rmtree(trash)


def _part_of(path: Path) -> Path:
    """Where a file of the root is written before it gets its name."""
    return path.with_name(f"{STAGING}{path.name}")


def _copy_atomically(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    part = _part_of(target)
    shutil.copyfile(source, part)
    flush(part)
    os.replace(part, target)


def write_json_flushed(path: Path, content: dict) -> None:
    """Write a file of a run folder in one step, and bring it to the disk."""
    part = _part_of(path)
    part.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    flush(part)
    os.replace(part, path)


def flush(path: Path) -> None:
    """Bring a file, or a folder's list of names, to the disk."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except PermissionError:
        return  # Windows opens no folders; there the rename alone has to do
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def last_good(run_dir: Path) -> str:
    """The newest whole checkpoint, in words."""
    whole = next((path for path in reversed(list_checkpoints(run_dir)) if check_whole(path) is None), None)
    return f"the last whole checkpoint is {whole}" if whole else "no checkpoint was saved yet"


# Weights are read from these alone, never from a pickle.
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")


def refuse_lacking(checkpoint: Path, needed: list[str]) -> None:
    """The library goes on without a file that is not there, and the run is another one. Raises `InputError`."""
    lacking = [name for name in needed if not (checkpoint / name).is_file()]
    if "optimizer.pt" in needed and not any((checkpoint / name).is_file() for name in _WEIGHTS):
        lacking.append(_WEIGHTS[0])
    if lacking:
        raise InputError(f"resume: {checkpoint} lacks {', '.join(lacking)}; take another checkpoint")


@contextmanager
def reading(checkpoint: Path) -> Iterator[None]:
    """One line for whatever the libraries say of a file that they cannot take. Raises `InputError`."""
    try:
        yield
    except InputError:
        raise
    except (pickle.UnpicklingError, SafetensorError, RuntimeError, ValueError, KeyError, EOFError) as error:
        said = " ".join(str(error).split())
        raise InputError(f"resume: {checkpoint} cannot be taken: {said[:300]}; take another checkpoint") from error
