"""Everything of ours that loads refuses a tensor too few, too many or misshapen, and never opens a pickle."""

import itertools
import pickle
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from eval import fill_blank, score
from tests.faults.harness import completed, fork, train
from training.run_folder.checkpoints import list_checkpoints, step_of, write_manifest

TENSOR = "model.norm.weight"


def _missing(tensors: dict[str, torch.Tensor]) -> None:
    del tensors[TENSOR]


def _unexpected(tensors: dict[str, torch.Tensor]) -> None:
    tensors["extra.weight"] = torch.zeros(2)


def _misshapen(tensors: dict[str, torch.Tensor]) -> None:
    tensors[TENSOR] = torch.zeros(3)


CHANGES: dict[str, tuple[Callable[[dict], None], str]] = {
    "missing": (_missing, TENSOR),
    "unexpected": (_unexpected, "extra.weight"),
    "misshapen": (_misshapen, TENSOR),
}
LOADERS = {
    "resume": lambda recipe, run, out: train(recipe, run, "--best_metric acc_ema"),
    "resume by path": lambda recipe, run, out: train(
        recipe, out, f"--best_metric acc_ema --resume {list_checkpoints(run)[-1]}"
    ),
    "init_from": lambda recipe, run, out: train(recipe, out, f"--init_from {list_checkpoints(run)[-1]}"),
    "score": lambda recipe, run, out: fork(lambda: score.main([str(list_checkpoints(run)[-1])])),
    "fill_blank": lambda recipe, run, out: fork(
        lambda: fill_blank.main([str(list_checkpoints(run)[-1]), "the red _ sees"])
    ),
}


def _rehash(checkpoint: Path) -> None:
    """As if the file had been written so: the manifest fits, and only the content is wrong."""
    write_manifest(checkpoint, step_of(checkpoint))


@pytest.mark.parametrize(("loader", "change"), list(itertools.product(LOADERS, CHANGES)))
def test_tensors_that_do_not_fit_are_refused_by_name(
    recipe: Path, hurt_run: Path, tmp_path: Path, loader: str, change: str
) -> None:
    newest = list_checkpoints(hurt_run)[-1]
    alter, named = CHANGES[change]
    tensors = load_file(newest / "model.safetensors")
    alter(tensors)
    save_file(tensors, newest / "model.safetensors", metadata={"format": "pt"})
    _rehash(newest)
    ending = LOADERS[loader](recipe, hurt_run, tmp_path / "out")
    assert ending.code == 2, ending
    assert ending.last_line.startswith("error: ")
    assert named in ending.last_line
    assert "Traceback" not in ending.err


@pytest.mark.parametrize("loader", LOADERS)
def test_weights_in_a_pickle_are_never_opened(recipe: Path, hurt_run: Path, tmp_path: Path, loader: str) -> None:
    newest = list_checkpoints(hurt_run)[-1]
    torch.save({"state": _Harmful(tmp_path / "ran")}, newest / "pytorch_model.bin", pickle_module=pickle)
    (newest / "model.safetensors").unlink()
    _rehash(newest)
    ending = LOADERS[loader](recipe, hurt_run, tmp_path / "out")
    assert not (tmp_path / "ran").exists()
    assert "safetensors" in ending.out + ending.err
    assert "Traceback" not in ending.err
    if loader == "resume":  # not whole without weights: named, and the checkpoint before it is taken
        assert ending.code == 0, ending
        assert (hurt_run / f"damaged-{newest.name}").is_dir()
    else:
        assert ending.code == 2, ending


class _Harmful:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_a_pickle_with_code_in_it_is_refused_and_not_run(
    recipe: Path, hurt_run: Path, tmp_path: Path, name: str
) -> None:
    newest = list_checkpoints(hurt_run)[-1]
    torch.save({"state": _Harmful(tmp_path / "ran")}, newest / name, pickle_module=pickle)
    _rehash(newest)
    ending = train(recipe, hurt_run, "--best_metric acc_ema")
    assert ending.code == 2, ending
    assert f"error: resume: {newest} cannot be taken" in ending.last_line
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "run_state.json"])
def test_a_checkpoint_that_lacks_what_a_resume_needs_is_refused(recipe: Path, hurt_run: Path, name: str) -> None:
    newest = list_checkpoints(hurt_run)[-1]
    (newest / name).unlink()
    _rehash(newest)
    ending = train(recipe, hurt_run, "--best_metric acc_ema")
    assert ending.code == 2, ending
    assert f"error: resume: {newest} lacks {name}" in ending.last_line


def test_nothing_that_is_published_needs_a_pickle(whole_run) -> None:
    names = {path.name for path in whole_run("").iterdir() if path.is_file()}
    assert "model.safetensors" in names
    assert not [name for name in names if name.endswith((".pt", ".pth", ".bin", ".pkl", ".ckpt"))]


OFFLINE = """
import socket, sys
def refuse(*args, **kwargs):
    print("NETWORK", args, flush=True)
    raise OSError("no network")
socket.socket.connect = socket.getaddrinfo = socket.create_connection = refuse
from training.train import main as train
from eval.score import main as score
from eval.fill_blank import main as fill_blank
recipe, run = sys.argv[1:]
assert train([recipe, "--output_dir", run, "--device", "cpu", "--final_score", "true"]) == 0
assert score([run]) == 0
assert fill_blank([run, "the red _ sees"]) == 0
"""


def test_training_scoring_and_filling_blanks_work_offline(
    recipe: Path, tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HF_HUB_OFFLINE", "HF_EVALUATE_OFFLINE", "HF_HUB_DISABLE_TELEMETRY"):
        monkeypatch.delenv(name, raising=False)
    done = completed([sys.executable, "-c", OFFLINE, str(recipe), str(tmp_path / "run")], cwd=repository)
    assert done.returncode == 0, done.stderr
    assert "NETWORK" not in done.stdout


def test_a_copy_of_a_run_elsewhere_goes_on(whole_run, recipe: Path, hurt_run: Path, tmp_path: Path) -> None:
    moved = Path(shutil.move(hurt_run, tmp_path / "moved"))
    assert train(recipe, moved, "--best_metric acc_ema").code == 0
