"""Whose a run folder is: nobody's yet, this run's, another run's, or somebody else's altogether."""

from pathlib import Path
from typing import Any

from training.common.errors import InputError
from training.common.layout import MODEL_FILES as MODEL_FILES
from training.common.layout import OWN_FILES, code_files
from training.common.manifest import RUN_FILE, read_run
from training.run.run import Run
from training.run_folder.checkpoints import list_checkpoints

# What may differ between two starts of the same run: output, logging and saving cadence, speed of reading.
_NOT_IDENTITY = (
    *("logging_steps", "save_steps", "save_total_limit", "dataloader_num_workers", "report_to", "run_name"),
    *("on_non_finite", "num_train_epochs", "early_stopping_patience"),
    *("milestones", "sample_phrases", "sample_steps", "keep", "final_score", "score_rows"),
)

# What is no part of a run where it is off: runs that are older than these settings go on.
_OFF = {"lora_rank": 0}


def refuse_foreign(folder: Path) -> None:
    """Raise `InputError` where files stand in the way that no run of ours wrote."""
    checkpoints = list_checkpoints(folder)
    if any(own_run(place) is not None for place in (folder, *reversed(checkpoints))):
        return
    ours = dict.fromkeys(name.split("/")[0] for name in (*OWN_FILES, *MODEL_FILES, *code_files()))
    found = [name for name in ours if (folder / name).exists()] + [path.name for path in checkpoints]
    if found:
        raise InputError(
            f"output_dir: {folder} holds {', '.join(found[:4])}, and no {RUN_FILE} that says what run wrote "
            f"{'it' if len(found) == 1 else 'them'}; give another --output_dir, or move away what is there"
        )


def own_run(folder: Path) -> dict[str, Any] | None:
    """`run.json` of a folder, if a run of ours wrote it and it can be read."""
    try:
        earlier = read_run(folder)
        if earlier is not None:
            identity_of(earlier)
    except (InputError, OSError, KeyError, TypeError, AttributeError):
        return None
    return earlier


def refuse_another_root(run: Run, description: dict[str, Any]) -> None:
    """Raise `InputError` where checkpoint and run agree, and the folder is of another run. Its steps are not asked
    for: whether they fit, the checkpoint says.
    """
    root = own_run(run.output_dir)
    if root is not None:
        steps = {"max_steps": description["recipe"]["training"]["max_steps"]}
        refuse_another_run(run, description, run.output_dir, overriding=steps)


def refuse_another_run(
    run: Run, description: dict[str, Any], folder: Path, overriding: dict[str, Any] | None = None
) -> None:
    """Raise `InputError`, naming what differs, unless `folder` holds this run (or a shorter one, with --extend)."""
    earlier = read_run(folder)
    if earlier is None:
        raise InputError(f"resume: {folder} has no {RUN_FILE}, so whose it is cannot be known; use --resume never")
    old, new = _flat(identity_of(earlier)) | (overriding or {}), _flat(identity_of(description))
    different = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
    before, now = old.get("max_steps"), new.get("max_steps")
    if different == ["max_steps"] and before < now:
        if run.extend:
            return
        raise InputError(f"max_steps: the run in {folder} has {before}, now {now}; add --extend to go on with it")
    if different == ["max_steps"]:
        raise InputError(
            f"max_steps: {folder} holds this run with max_steps {before}, here it is {now}, and no run gets shorter; "
            f"give --max_steps {before}, or another --output_dir"
        )
    if different:
        shown = ", ".join(f"{name} {old.get(name)!r} there and {new.get(name)!r} here" for name in different[:4])
        raise InputError(
            f"output_dir: {folder} belongs to another run ({shown}); give another --output_dir, or --resume never"
        )


def identity_of(description: dict[str, Any]) -> dict[str, Any]:
    """The part of a run's description that makes it this run."""
    recipe = {
        section: {
            name: value
            for name, value in content.items()
            if name not in _NOT_IDENTITY and (name not in _OFF or value != _OFF[name])
        }
        for section, content in description["recipe"].items()
    }
    rest = {name: description[name] for name in ("family", "init_from", "data_hash")}
    rest["num_processes"] = description.get("num_processes", 1)
    rest |= {"stage": description["stage"]} if "stage" in description else {}
    return {**rest, **recipe}


def _flat(identity: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in identity.items():
        flat |= value if isinstance(value, dict) else {name: value}
    return flat
