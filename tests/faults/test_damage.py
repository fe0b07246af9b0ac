"""Every file of a checkpoint, damaged in every way, is noticed: no damage makes a run silently another one."""

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from eval.loading import checked_name
from tests.faults.harness import assert_same_run, train
from training.common.errors import InputError
from training.finish import fill_root_from_best
from training.run.state import RunState
from training.run_folder.checkpoints import (
    NoWholeCheckpointError,
    find_resumable,
    list_checkpoints,
    root_step,
    step_of,
)

ACC = "--best_metric acc_ema"
FILES = (
    "model.safetensors",
    "optimizer.pt",
    "scheduler.pt",
    "rng_state.pth",
    "trainer_state.json",
    "run_state.json",
    "run.json",
    "manifest.json",
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "configuration_base.py",
    "configuration_text_jepa.py",
    "counter_random.py",
    "latent_head.py",
    "layers.py",
    "losses.py",
    "modeling_base.py",
    "modeling_text_jepa.py",
    "teacher.py",
    "modules.json",
    "sentence_bert_config.json",
    "remote_code.py",
    "sentence_transformers_files.py",
    "1_Pooling/config.json",
    "publishing.py",
    "README.md",
)


def _delete(path: Path, other: Path) -> None:
    path.unlink()


def _empty(path: Path, other: Path) -> None:
    path.write_bytes(b"")


def _halve(path: Path, other: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _flip_a_bit(path: Path, other: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0b100
    path.write_bytes(content)


def _swap(path: Path, other: Path) -> None:
    shutil.copyfile(other, path)


DAMAGE: dict[str, Callable[[Path, Path], None]] = {
    "deleted": _delete,
    "emptied": _empty,
    "cut in half": _halve,
    "one bit flipped": _flip_a_bit,
    "another step's": _swap,
}


def test_the_list_above_holds_every_file_of_a_checkpoint(killed_run: Path) -> None:
    newest = list_checkpoints(killed_run)[-1]
    assert {str(path.relative_to(newest)) for path in newest.rglob("*") if path.is_file()} == set(FILES)


@pytest.mark.parametrize(("name", "how"), list(itertools.product(FILES, DAMAGE)))
def test_a_damaged_file_is_named_and_its_checkpoint_neither_resumed_nor_loaded(
    hurt_run: Path, name: str, how: str
) -> None:
    older, newest = list_checkpoints(hurt_run)
    before = (newest / name).read_bytes()
    DAMAGE[how](newest / name, older / name)
    if (newest / name).is_file() and (newest / name).read_bytes() == before:
        assert how == "another step's"  # a file that is the same at every step
        assert find_resumable(hurt_run).path == newest
        return
    found = find_resumable(hurt_run)
    assert found.path == older
    # a list that is itself damaged names whatever no longer fits it
    assert name == "manifest.json" or name in found.damaged[newest]
    if name == "manifest.json" and how == "deleted":
        return  # what nobody lists cannot be checked; a resume wants the list
    with pytest.raises(InputError, match=newest.name):
        checked_name(newest)


@pytest.mark.parametrize("how", DAMAGE)
@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "manifest.json"])
def test_a_run_goes_on_from_the_checkpoint_before_to_the_same_bits(
    whole_run, recipe: Path, hurt_run: Path, name: str, how: str
) -> None:
    older, newest = list_checkpoints(hurt_run)
    DAMAGE[how](newest / name, older / name)
    ending = train(recipe, hurt_run, ACC)
    assert ending.code == 0, ending
    assert f"skipped: {newest}" in ending.err
    assert f"it is now called damaged-{newest.name}" in ending.err
    assert_same_run(whole_run(ACC), hurt_run)


@pytest.mark.parametrize("how", DAMAGE)
def test_no_whole_checkpoint_ends_with_4_and_nothing_is_started_over(recipe: Path, hurt_run: Path, how: str) -> None:
    older, newest = list_checkpoints(hurt_run)
    for one, other in ((older, newest), (newest, older)):
        DAMAGE[how](one / "manifest.json", other / "manifest.json")
    if how == "another step's":  # the second took the first one's own back
        DAMAGE["emptied"](newest / "manifest.json", older)
    log = (hurt_run / "log.jsonl").read_bytes()
    ending = train(recipe, hurt_run, ACC)
    assert ending.code == 4
    assert ending.last_line.startswith(f"error: no checkpoint in {hurt_run} is whole")
    assert (hurt_run / "log.jsonl").read_bytes() == log
    assert {path.name for path in list_checkpoints(hurt_run)} == {older.name, newest.name}


def test_a_damaged_best_checkpoint_never_becomes_the_model_of_the_run(
    hurt_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    best, newest = list_checkpoints(hurt_run)
    _flip_a_bit(best / "model.safetensors", best)
    assert fill_root_from_best(hurt_run, RunState(best_step=step_of(best))) == step_of(newest)
    assert f"skipped: {best} is damaged: model.safetensors" in capsys.readouterr().err
    assert root_step(hurt_run) == step_of(newest)
    _flip_a_bit(newest / "model.safetensors", newest)
    with pytest.raises(NoWholeCheckpointError, match="is whole"):
        fill_root_from_best(hurt_run, RunState(best_step=step_of(best)))


def test_a_damaged_root_is_filled_again_by_the_same_command(whole_run, recipe: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(whole_run(ACC), tmp_path / "run"))
    _flip_a_bit(folder / "model.safetensors", folder)
    with pytest.raises(InputError, match=r"model\.safetensors"):
        checked_name(folder)
    assert train(recipe, folder, ACC).code == 0
    assert_same_run(whole_run(ACC), folder)
