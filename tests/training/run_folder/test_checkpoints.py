"""Checkpoints are whole or do not exist, and the root of a run folder is filled from one."""

import json
import shutil
from pathlib import Path

import pytest

from training.run_folder.checkpoints import (
    DiskFullError,
    NoWholeCheckpointError,
    check_whole,
    clean_leftovers,
    fill_root,
    find_resumable,
    list_checkpoints,
    root_step,
    rotate,
    staged,
    start_over,
    step_of,
    write_manifest,
)

FILES = {"model.safetensors": "weights", "config.json": "{}", "optimizer.pt": "moments", "rng_state.pth": "random"}


def save(run_dir: Path, step: int, *more: str) -> Path:
    final = run_dir / f"checkpoint-{step}"
    with staged(final) as staging:
        inner = staging / final.name
        inner.mkdir()
        for name, text in {**FILES, **dict.fromkeys(more, "more")}.items():
            (inner / name).parent.mkdir(parents=True, exist_ok=True)
            (inner / name).write_text(f"{text} {step}")
    return final


def test_a_checkpoint_appears_whole_with_the_hash_of_every_file(tmp_path: Path) -> None:
    checkpoint = save(tmp_path, 3)
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    assert manifest["step"] == 3
    assert set(manifest["files"]) == set(FILES)
    assert check_whole(checkpoint) is None
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-3"]


def test_a_save_that_fails_leaves_nothing_that_is_called_a_checkpoint(tmp_path: Path) -> None:
    save(tmp_path, 3)
    with pytest.raises(RuntimeError, match="half-way"), staged(tmp_path / "checkpoint-6"):
        raise RuntimeError("half-way")
    assert [step_of(path) for path in list_checkpoints(tmp_path)] == [3]


def test_a_full_disk_is_named_with_what_is_needed_and_free(tmp_path: Path) -> None:
    save(tmp_path, 3)
    with pytest.raises(DiskFullError, match=r"needs about 1,000,000,000,000,000,000 bytes and [\d,]+ are free"):  # noqa: SIM117
        with staged(tmp_path / "checkpoint-6", needed_bytes=10**18):
            raise RuntimeError("a library's own error about a failed write")
    assert find_resumable(tmp_path).step == 3


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    old = save(tmp_path, 3)
    (old / "config.json").write_text("changed")
    assert check_whole(save(tmp_path, 3)) is None
    assert len(list(tmp_path.iterdir())) == 1


def damage(checkpoint: Path, how: str) -> None:
    target = checkpoint / "optimizer.pt"
    if how == "deleted":
        target.unlink()
    elif how == "emptied":
        target.write_text("")
    elif how == "bit flipped":
        target.write_bytes(bytes([target.read_bytes()[0] ^ 1]) + target.read_bytes()[1:])
    elif how == "manifest gone":
        (checkpoint / "manifest.json").unlink()
    elif how == "manifest cut":
        (checkpoint / "manifest.json").write_text('{"files": {"a')
    elif how == "another step's":
        shutil.rmtree(checkpoint)
        shutil.copytree(checkpoint.with_name("checkpoint-3"), checkpoint)


KINDS = ["deleted", "emptied", "bit flipped", "manifest gone", "manifest cut", "another step's"]


@pytest.mark.parametrize("how", KINDS)
def test_a_damaged_checkpoint_is_named_and_the_newest_whole_one_used(tmp_path: Path, how: str) -> None:
    for step in (3, 6):
        save(tmp_path, step)
    damage(tmp_path / "checkpoint-6", how)
    found = find_resumable(tmp_path)
    assert found.step == 3
    assert len(found.damaged) == 1
    assert "checkpoint-6" in found.damaged[tmp_path / "checkpoint-6"]


def test_no_whole_checkpoint_is_refused_and_none_at_all_is_a_fresh_start(tmp_path: Path) -> None:
    assert find_resumable(tmp_path).path is None
    damage(save(tmp_path, 3), "deleted")
    with pytest.raises(NoWholeCheckpointError, match="checkpoint-3"):
        find_resumable(tmp_path)


def test_rotation_keeps_the_newest_and_the_best(tmp_path: Path) -> None:
    for step in (1, 2, 3, 10, 20):
        save(tmp_path, step)
    rotate(tmp_path, keep=2, best_step=2, newest=20)
    assert [step_of(path) for path in list_checkpoints(tmp_path)] == [2, 10, 20]


def test_a_later_checkpoint_of_an_abandoned_past_never_pushes_out_the_one_just_saved(tmp_path: Path) -> None:
    for step in (1, 2, 9):  # resumed from 1, so 9 is what was given up
        save(tmp_path, step)
    rotate(tmp_path, keep=1, best_step=None, newest=2)
    assert [step_of(path) for path in list_checkpoints(tmp_path)] == [2, 9]


def test_leftovers_of_a_killed_save_and_rotation_are_cleaned(tmp_path: Path) -> None:
    save(tmp_path, 3)
    (tmp_path / ".staging-checkpoint-6" / "checkpoint-6").mkdir(parents=True)
    (tmp_path / ".trash-checkpoint-1").mkdir()
    (tmp_path / ".staging-model.safetensors").write_text("half")
    clean_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-3"]


def test_what_others_call_staging_or_trash_is_left_alone(tmp_path: Path) -> None:
    for name in (".staging-area/mine", ".trash-1000/mine", ".staging-notes.txt", "results/.staging-mine.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    clean_leftovers(tmp_path)
    assert sorted(tmp_path.rglob("*")) == before


def test_staged_files_in_folders_of_the_root_are_cleaned_with_the_folders_they_leave_empty(tmp_path: Path) -> None:
    fill_root(tmp_path, save(tmp_path, 3, "deep/er/vocab.txt"))
    for name in ("1_Pooling/.staging-config.json", "deep/er/.staging-vocab.txt", ".staging-manifest.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("half")
    clean_leftovers(tmp_path)
    assert not [*tmp_path.rglob(".staging-*"), *tmp_path.glob("1_Pooling")]
    assert root_step(tmp_path) == 3


def test_filling_the_root_removes_files_in_folders_that_the_new_model_does_not_have(tmp_path: Path) -> None:
    fill_root(tmp_path, save(tmp_path, 3, "1_Pooling/config.json", "deep/er/vocab.txt"))
    (tmp_path / "deep" / "mine.txt").write_text("mine")
    fill_root(tmp_path, save(tmp_path, 6))
    assert not (tmp_path / "1_Pooling").exists()
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("name", ["../mine.txt", "sub/../../mine.txt", "ABSOLUTE", "", "."])
def test_a_manifest_that_names_files_outside_of_the_folder_removes_none(tmp_path: Path, name: str) -> None:
    mine, run_dir = tmp_path / "mine.txt", tmp_path / "run"
    mine.write_text("mine")
    (run_dir / "sub").mkdir(parents=True)
    (run_dir / "manifest.json").write_text(json.dumps({"files": {name.replace("ABSOLUTE", str(mine)): "0"}}))
    start_over(run_dir)
    assert mine.read_text() == "mine"


@pytest.mark.parametrize("lacking", ["model.safetensors", "config.json"])
def test_a_checkpoint_without_weights_or_config_is_not_whole(tmp_path: Path, lacking: str) -> None:
    checkpoint = save(tmp_path, 3)
    (checkpoint / lacking).unlink()
    write_manifest(checkpoint, 3)
    with pytest.raises(NoWholeCheckpointError, match=lacking.removeprefix("model")):
        find_resumable(tmp_path)


def test_the_root_holds_what_is_published_and_nothing_that_only_a_resume_needs(tmp_path: Path) -> None:
    fill_root(tmp_path, save(tmp_path, 3))
    assert root_step(tmp_path) == 3
    assert {path.name for path in tmp_path.iterdir()} == {
        "checkpoint-3",
        "manifest.json",
        "model.safetensors",
        "config.json",
    }


@pytest.mark.parametrize(
    "name",
    [
        *("optimizer.bin", "pytorch_model_fsdp.bin", "rng_state_1.pth", "scaler.pt", "zero_to_fp32.py", "latest"),
        *("pytorch_model_fsdp_0/__0_0.distcp", "optimizer_0/.metadata", "global_step3/zero_pp_rank_0.pt"),
    ],
)
def test_what_sharded_runs_leave_for_a_resume_is_not_published(tmp_path: Path, name: str) -> None:
    checkpoint = tmp_path / "checkpoint-3"
    with staged(checkpoint) as staging:
        for file in (name, "model.safetensors", "1_Pooling/config.json"):
            (staging / checkpoint.name / file).parent.mkdir(parents=True, exist_ok=True)
            (staging / checkpoint.name / file).write_text("x")
    fill_root(tmp_path, checkpoint)
    assert (tmp_path / "1_Pooling" / "config.json").is_file()
    assert not (tmp_path / name).exists()


def test_a_half_filled_root_is_seen_and_filling_it_again_repairs_it(tmp_path: Path) -> None:
    fill_root(tmp_path, save(tmp_path, 3))
    (tmp_path / "model.safetensors").write_text("weights 6")  # killed after the first file of step 6
    assert root_step(tmp_path) is None
    fill_root(tmp_path, save(tmp_path, 6))
    assert root_step(tmp_path) == 6


def test_starting_over_removes_the_run_and_keeps_what_is_not_ours(tmp_path: Path) -> None:
    fill_root(tmp_path, save(tmp_path, 3, "1_Pooling/config.json"))
    for name in ("results/score.json", "results/mine.csv", "plots/loss.png", "notes.txt", "README.md", "log.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    start_over(tmp_path)
    kept = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}
    assert kept == {"notes.txt", "results", "results/mine.csv"}
