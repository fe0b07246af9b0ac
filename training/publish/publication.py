"""What of a checkpoint is published: chosen, checked, and put together under the name it will have.

Nothing here needs a token or a network.
"""

import ast
import hashlib
import json
import os
import pickletools
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import yaml
from huggingface_hub import ModelCard

from eval.load_as_stranger import OWN_PACKAGES, StrangerError, declared_auto_map, load_as_stranger
from training.cards.record import without_places
from training.cards.render import with_repository
from training.common.errors import InputError
from training.common.finite import broken_tensors
from training.common.layout import CARD_FILE, CURVES_FILE, INDEX_FOLDER, LOG_FILE, SCORE_FILE, TOKENIZER_FILE
from training.common.manifest import MANIFEST, RUN_FILE, verify_manifest
from training.run_folder.checkpoints import PREFIX, check_whole, is_resume_only

WEIGHTS = ".safetensors"
# What stands beside a model, from its first folder on.
_BESIDE = (CARD_FILE, RUN_FILE, *(Path(name).parts[0] for name in (SCORE_FILE, CURVES_FILE)), INDEX_FOLDER)
# What hardly any other file that reads as a pickle has: the protocol's number, a name to import, a call.
_OF_PICKLES = {"PROTO", "GLOBAL", "INST", "REDUCE", "BUILD"}
# What is edited on the Hub without harm, and so in no list of hashes.
_EDITABLE = (CARD_FILE, MANIFEST)
_PLAIN = (".json", ".jinja", ".md", ".model", ".py", ".txt", WEIGHTS)


@dataclass(frozen=True)
class Publication:
    """A checkpoint as it will stand in `repo_id`: name -> the file to send, or its content."""

    repo_id: str
    files: dict[str, Path | bytes]

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of every file, by name."""
        return {
            name: len(what) if isinstance(what, bytes) else what.stat().st_size for name, what in self.files.items()
        }

    @property
    def card(self) -> str:
        """The card."""
        return _bytes_of(self.files[CARD_FILE]).decode("utf-8")

    @property
    def model_type(self) -> str:
        """The family, as the configuration names it."""
        return json.loads(_bytes_of(self.files["config.json"]))["model_type"]


def prepare(checkpoint: Path, repo_id: str, check_code: Callable[[Path], Any] = load_as_stranger) -> Publication:
    """Choose and check what is sent.

    Places of this machine are cut from card and JSON.

    Args:
        checkpoint: the folder of a run, a `checkpoint-N` in it, or what `save_pretrained` wrote with tokenizer and
            card.
        check_code: opens a folder in a clean process.

    Raises:
        InputError: something is missing, damaged, not finite, a pickle, or does not open without this package.
    """
    names = _chosen(checkpoint)
    _refuse_pickles(checkpoint, names)
    _refuse_damaged_texts(checkpoint, names)
    _refuse_missing(checkpoint, names)
    _refuse_code_of_ours(checkpoint, names)
    _refuse_non_finite(checkpoint, names)
    files: dict[str, Path | bytes] = {name: checkpoint / name for name in names}
    for name in names:
        if _is_text(name):
            text = (checkpoint / name).read_text(encoding="utf-8")
            changed = _without_folders(with_repository(text, repo_id) if name == CARD_FILE else _record(text))
            files |= {name: changed.encode()} if changed != text else {}
    files[MANIFEST] = _manifest(checkpoint, files)
    with _put_together(files) as folder:
        try:
            check_code(folder)
        except (StrangerError, ValueError) as error:
            reason = " ".join(str(error).splitlines()[-1:]).replace(str(folder), str(checkpoint))
            raise InputError(f"{checkpoint} does not open without this package: {reason}; train it again") from error
    return Publication(repo_id, dict(sorted(files.items())))


def _chosen(checkpoint: Path) -> list[str]:
    """Names of what is published. Raises InputError where the checkpoint is none, or not whole."""
    if not (checkpoint / "config.json").is_file():
        raise InputError(f"{checkpoint} is no checkpoint: it holds no config.json; give the folder of a trained model")
    of_a_run = checkpoint.name.removeprefix(PREFIX).isdigit() and (checkpoint / RUN_FILE).is_file()
    if of_a_run and (problem := check_whole(checkpoint)):
        raise InputError(f"{problem}; take another checkpoint")
    verify_manifest(checkpoint)
    if (checkpoint / MANIFEST).is_file():
        names = set(json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))["files"])
    else:
        names = {path.name for path in checkpoint.iterdir() if path.suffix in _PLAIN and path.name != LOG_FILE}
        names |= {f"1_Pooling/{path.name}" for path in checkpoint.glob("1_Pooling/*.json")}
    beside = {
        path.relative_to(checkpoint).as_posix()
        for name in _BESIDE
        for path in ([checkpoint / name] if (checkpoint / name).is_file() else (checkpoint / name).rglob("*"))
        if path.is_file()
    }
    return sorted({name for name in names if not is_resume_only(name) and not name.startswith(".")} | beside)


def _refuse_missing(checkpoint: Path, names: list[str]) -> None:
    """Raise InputError that names what a self-contained checkpoint has and this one has not."""
    needed = [[f"{value.split('.')[0]}.py"] for value in _code_references(checkpoint)]
    needed += [["tokenizer.json", TOKENIZER_FILE], [CARD_FILE]]
    index = checkpoint / f"model{WEIGHTS}.index.json"
    shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()) if index.is_file() else ()
    needed += [[name] for name in shards or [f"model{WEIGHTS}"]]
    missing = [" or ".join(either) for either in needed if not set(either) & set(names)]
    if missing:
        raise InputError(
            f"{checkpoint} is incomplete: no {', no '.join(missing)}; give the folder of a finished run, or save "
            "model, tokenizer and card there"
        )


def _code_references(checkpoint: Path) -> list[str]:
    try:
        declared_auto_map(checkpoint)
        return list(json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))["auto_map"].values())
    except ValueError as error:
        raise InputError(f"{error}") from None


def _refuse_code_of_ours(checkpoint: Path, names: list[str]) -> None:
    """From a folder the library looks at the imports of a few files, from the Hub at those of all."""
    for name in (name for name in names if name.endswith(".py")):
        found = imported_packages((checkpoint / name).read_text(encoding="utf-8")) & set(OWN_PACKAGES)
        if found:
            raise InputError(
                f"{checkpoint / name} imports {', '.join(sorted(found))}, which is not there where it is opened from "
                "the Hub; save the model again"
            )


def imported_packages(source: str) -> set[str]:
    """Packages that a module imports anywhere, by their first names; none for what stands beside it."""
    nodes = list(ast.walk(ast.parse(source)))
    named = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    named |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level}
    return {name.split(".")[0] for name in named}


def _refuse_pickles(checkpoint: Path, names: list[str]) -> None:
    found = [name for name in names if is_pickle(checkpoint / name)]
    if found:
        raise InputError(
            f"{checkpoint} holds pickles ({', '.join(found)}), which can run anything where they are opened; save the "
            "weights as safetensors, and remove them"
        )


def is_pickle(path: Path) -> bool:
    """Whether a file is a pickle, or an archive with one in it, whatever it is called."""
    if path.suffix == WEIGHTS:  # whether it is one is looked at where its numbers are
        return False
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith(".pkl") for name in archive.namelist())
    try:
        with path.open("rb") as file:
            operations = {operation.name for operation, _, _ in pickletools.genops(file)}
    except (ValueError, IndexError):  # UnicodeDecodeError too
        return False
    return bool(operations & _OF_PICKLES)


def _refuse_damaged_texts(checkpoint: Path, names: list[str]) -> None:
    """JSON and the card's metadata, which the Hub reads."""
    for name in (name for name in names if name == CARD_FILE or name.endswith(".json")):
        try:
            text = (checkpoint / name).read_text(encoding="utf-8")
            if name == CARD_FILE:
                ModelCard(text)
            else:
                json.loads(text)
        except (ValueError, yaml.YAMLError) as error:
            told = " ".join(str(error).split())
            raise InputError(f"{checkpoint / name} is damaged ({told}); take another checkpoint") from None


def _refuse_non_finite(checkpoint: Path, names: list[str]) -> None:
    for name in (name for name in names if name.endswith(WEIGHTS)):
        try:
            with safetensors.safe_open(checkpoint / name, "pt") as file:
                broken = broken_tensors((key, file.get_tensor(key)) for key in file.keys())  # noqa: SIM118  (no mapping)
        except safetensors.SafetensorError as error:
            raise InputError(f"{checkpoint / name} is damaged ({error}); take another checkpoint") from None
        if broken:
            raise InputError(
                f"{checkpoint / name} holds numbers that are not finite ({', '.join(broken[:3])}); take an earlier "
                "checkpoint"
            )


def _is_text(name: str) -> bool:
    """Whether a file may name a place of this machine, and nothing but a reader depends on how it reads."""
    return name in (CARD_FILE, RUN_FILE, "tokenizer_config.json") or Path(name).match("results/*.json")


def _record(text: str) -> str:
    """JSON in which no absolute path is left; as it was where none stood there."""
    held = json.loads(text)
    cut = without_places(held)
    return text if cut == held else json.dumps(cut, indent=2, ensure_ascii=False) + "\n"


def _without_folders(text: str) -> str:
    """A text without the two folders that say whose machine it was made on."""
    working, home = Path.cwd(), Path.home()
    for folder, instead in ((working, ""), (home, "~/")):
        if folder != Path(folder.anchor):
            text = text.replace(f"{folder}{os.sep}", instead)
    return text


def _manifest(checkpoint: Path, files: dict[str, Path | bytes]) -> bytes:
    """Hashes of what is sent, but for the card, which may be edited on the Hub."""
    hashes = {name: _sha256(what) for name, what in sorted(files.items()) if name not in _EDITABLE}
    path = checkpoint / MANIFEST
    step = json.loads(path.read_text(encoding="utf-8"))["step"] if path.is_file() else None
    return (json.dumps({"schema_version": 1, "step": step, "files": hashes}, indent=1) + "\n").encode()


@contextmanager
def _put_together(files: dict[str, Path | bytes]) -> Iterator[Path]:
    """A folder that holds just what is sent."""
    with tempfile.TemporaryDirectory(prefix="publish-") as made:
        for name, what in files.items():
            target = Path(made) / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(what, bytes):
                target.write_bytes(what)
            else:
                _link(what.resolve(), target)
        yield Path(made)


def _link(source: Path, target: Path) -> None:
    try:
        target.symlink_to(source)
    except OSError:  # not every system lets everybody
        shutil.copyfile(source, target)


def _sha256(what: Path | bytes) -> str:
    if isinstance(what, bytes):
        return hashlib.sha256(what).hexdigest()
    with what.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _bytes_of(what: Path | bytes) -> bytes:
    return what if isinstance(what, bytes) else what.read_bytes()
