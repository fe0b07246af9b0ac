"""Full disks, folders that cannot be written or are not there, and two runs in one folder."""

import contextlib
import os
import resource
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.harness import assert_same_run, log_rows, train
from training.run_folder.checkpoints import check_whole, list_checkpoints, root_step
from training.run_folder.claim import locked

# /dev/full takes no byte: a file that points there fails as on a full disk, inside whichever library writes it.
FULL_DEVICE = "/dev/full"
NOBODY = 65534


def _full(name: str, step: int) -> Callable[[], None]:
    """The disk is full when `name` of the checkpoint of `step` is written."""

    def hurt() -> None:
        import training.trainer.trainer as trainer

        staged = trainer.staged

        @contextlib.contextmanager
        def on_full_disk(final: Path, needed_bytes: int) -> Iterator[Path]:
            with staged(final, needed_bytes) as staging:
                if final.name == f"checkpoint-{step}":
                    (staging / final.name).mkdir()
                    if name == "model.safetensors":  # written beside and renamed, so a limit on files' sizes has to do
                        size = (final.with_name("checkpoint-6") / name).stat().st_size
                        resource.setrlimit(resource.RLIMIT_FSIZE, (size - 1, size - 1))
                    else:
                        (staging / final.name / name).symlink_to(FULL_DEVICE)
                yield staging

        trainer.staged = on_full_disk
        _report_free(1000)

    return hurt


def _full_root() -> None:
    """The disk is full when the weights are copied to the root."""
    import training.run_folder.checkpoints as checkpoints

    copy = checkpoints.shutil.copyfile

    def on_full_disk(source: Path, target: Path) -> Any:
        if Path(target).name == ".staging-model.safetensors":
            Path(target).symlink_to(FULL_DEVICE)
        return copy(source, target)

    checkpoints.shutil.copyfile = on_full_disk
    _report_free(1000)


def _report_free(count: int) -> None:
    usage = shutil.disk_usage("/")
    shutil.disk_usage = lambda path: usage._replace(free=count)


POINTS = ["model.safetensors", "optimizer.pt", "rng_state.pth", "run_state.json", ".staging-manifest.json"]


@pytest.mark.skipif(not Path(FULL_DEVICE).exists(), reason="needs /dev/full")
@pytest.mark.parametrize("name", POINTS)
def test_a_full_disk_names_needed_and_free_bytes_and_the_checkpoint_before_survives(
    whole_run, recipe: Path, tmp_path: Path, name: str
) -> None:
    flags = "--save_total_limit 1"
    ending = train(recipe, tmp_path / "run", flags, _full(name, 12))
    assert ending.code == 2, ending
    assert "error: output_dir: checkpoint-12 needs about " in ending.last_line
    assert " bytes and 1,000 are free" in ending.last_line
    assert "Traceback" not in ending.err
    assert [check_whole(path) for path in list_checkpoints(tmp_path / "run")[-1:]] == [None]
    assert train(recipe, tmp_path / "run", flags).code == 0
    assert_same_run(whole_run(flags), tmp_path / "run")


@pytest.mark.skipif(not Path(FULL_DEVICE).exists(), reason="needs /dev/full")
def test_a_disk_that_fills_while_the_root_is_filled_is_named_and_the_same_command_repairs_it(
    whole_run, recipe: Path, tmp_path: Path
) -> None:
    ending = train(recipe, tmp_path / "run", "", _full_root)
    assert ending.code == 2, ending
    assert "needs about " in ending.last_line
    assert root_step(tmp_path / "run") is None
    assert train(recipe, tmp_path / "run").code == 0
    assert_same_run(whole_run(""), tmp_path / "run")


@pytest.mark.skipif(not Path(FULL_DEVICE).exists(), reason="needs /dev/full")
def test_a_disk_that_fills_while_the_log_is_written_is_one_line(recipe: Path, tmp_path: Path) -> None:
    def hurt() -> None:
        import training.trainer.log_file as log_file

        log_file.append_row = lambda *args: Path(FULL_DEVICE).write_text("a row")

    ending = train(recipe, tmp_path / "run", "", hurt)
    assert ending.code == 2, ending
    assert "No space left on device; free some space" in ending.last_line


def test_a_second_run_in_the_folder_is_refused_naming_process_and_host(recipe: Path, tmp_path: Path) -> None:
    with locked(tmp_path / "run"):
        ending = train(recipe, tmp_path / "run")
    assert ending.code == 2
    assert f"in use by process {os.getpid()} on {socket.gethostname()}" in ending.last_line
    assert not (tmp_path / "run" / "log.jsonl").exists()
    assert train(recipe, tmp_path / "run").code == 0


def test_another_runs_folder_is_refused_by_what_differs(recipe: Path, hurt_run: Path) -> None:
    before = log_rows(hurt_run)
    ending = train(recipe, hurt_run, "--seed 2")
    assert ending.code == 2
    assert f"output_dir: {hurt_run / 'checkpoint-12'} belongs to another run" in ending.last_line
    assert "seed 1 there and 2 here" in ending.last_line
    assert log_rows(hurt_run) == before


@pytest.fixture
def forbidden() -> Iterator[Path]:
    """A folder that the children below may not write into."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o555)
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


def _without_privileges(module: str, name: str) -> Callable[[], None]:
    """In `module.name`, be a user for whom permissions count: root may write everywhere."""

    def hurt() -> None:
        import importlib

        target = importlib.import_module(module)
        original = getattr(target, name)

        def as_nobody(*args: object, **kwargs: object) -> object:
            user = os.geteuid()
            if user == 0:
                os.seteuid(NOBODY)
            try:
                return original(*args, **kwargs)
            finally:
                os.seteuid(user)

        setattr(target, name, as_nobody)

    return hurt


@pytest.mark.parametrize("existing", [True, False], ids=["there", "to be made"])
def test_a_folder_that_cannot_be_written_is_refused_before_step_1(
    recipe: Path, forbidden: Path, existing: bool
) -> None:
    folder = forbidden if existing else forbidden / "run"
    ending = train(recipe, folder, "", _without_privileges("training.run_folder.claim", "_acquire"))
    assert ending.code == 2, ending
    assert ending.last_line.startswith(f"error: output_dir: {folder} cannot be written (Permission denied)")
    assert "step" not in ending.out


def test_a_cache_that_cannot_be_written_is_refused_before_step_1(
    recipe: Path, forbidden: Path, tmp_path: Path
) -> None:
    def hurt() -> None:
        os.environ["JEPA_CACHE"] = str(forbidden / "cache")
        _without_privileges("training.data.prepared", "cached")()

    ending = train(recipe, tmp_path / "run", "", hurt)
    assert ending.code == 2, ending
    assert f"{forbidden / 'cache'}" in ending.last_line
    assert "JEPA_CACHE" in ending.last_line


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ("--data absent/folder", "absent/folder"),
        ("--init_from absent/run/checkpoint-6", "absent/run/checkpoint-6"),
        ("--resume absent/checkpoint-6", "absent/checkpoint-6"),
    ],
)
def test_a_folder_that_is_missing_is_named_before_step_1(recipe: Path, tmp_path: Path, flags: str, named: str) -> None:
    ending = train(recipe, tmp_path / "run", flags)
    assert ending.code == 2, ending
    assert named in ending.last_line
    assert ending.last_line.startswith("error: ")
    assert "Traceback" not in ending.err
    assert not (tmp_path / "run" / "log.jsonl").exists()


def test_an_output_folder_with_missing_parents_is_made(recipe: Path, tmp_path: Path) -> None:
    assert train(recipe, tmp_path / "one" / "two" / "run").code == 0


def test_an_output_folder_below_a_file_is_refused(recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ending = train(recipe, tmp_path / "file" / "run")
    assert ending.code == 2
    assert "cannot be written (Not a directory)" in ending.last_line
