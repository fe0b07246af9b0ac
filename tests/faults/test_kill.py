"""SIGKILL at any point of a save leaves a folder in which the same command goes on, to the same bits."""

import functools
import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.harness import Ending, assert_same_run, die, train

SAVE_AT = 12  # the second save: there is one before it to go back to


def _at_save(step: int, name: str, when: str) -> Callable[[], None]:
    """Die before or after the trainer's method `name`, in the save of `step`."""

    def hurt() -> None:
        from training.trainer.trainer import JepaTrainer

        method = getattr(JepaTrainer, name)

        def dying(self: JepaTrainer, *args: object, **kwargs: object) -> object:
            if self.state.global_step != step:
                return method(self, *args, **kwargs)
            if when == "after":
                method(self, *args, **kwargs)
            return die()

        setattr(JepaTrainer, name, dying)

    return hurt


def _half_way_through_the_weights() -> None:
    from training.trainer.trainer import JepaTrainer

    save = JepaTrainer.save_model

    def dying(self: JepaTrainer, output_dir: str, **kwargs: object) -> None:
        save(self, output_dir, **kwargs)
        if self.state.global_step == SAVE_AT:
            weights = Path(output_dir, "model.safetensors")
            weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
            die()

    JepaTrainer.save_model = dying


def _after_the_manifest() -> None:
    import training.run_folder.checkpoints as checkpoints

    write = checkpoints.write_manifest

    def dying(folder: Path, step: int) -> None:
        write(folder, step)
        if step == SAVE_AT:
            die()

    checkpoints.write_manifest = dying


def _between_rename_and_rotation() -> None:
    import training.trainer.trainer as trainer

    rotate = trainer.rotate

    def dying(run_dir: Path, keep: int, best_step: int | None, newest: int) -> None:
        if newest == SAVE_AT:
            die()
        rotate(run_dir, keep, best_step, newest)

    trainer.rotate = dying


def _during_rotation() -> None:
    import training.run_folder.checkpoints as checkpoints

    remove = checkpoints.shutil.rmtree

    def dying(path: Path, *args: object, **kwargs: object) -> None:
        if Path(path).name.startswith(checkpoints.TRASH) and Path(path).is_dir():
            (Path(path) / "optimizer.pt").unlink()
            die()
        remove(path, *args, **kwargs)

    checkpoints.shutil.rmtree = dying


def _half_way_through_the_root() -> None:
    import training.run_folder.checkpoints as checkpoints

    copy, count = checkpoints.shutil.copyfile, itertools.count()

    def dying(source: Path, target: Path) -> None:
        copy(source, target)
        if Path(target).parent == Path(source).parent.parent and next(count) == 4:
            Path(target).write_bytes(Path(source).read_bytes()[:10])
            die()

    checkpoints.shutil.copyfile = dying


POINTS = {
    "before the weights": _at_save(SAVE_AT, "save_model", "before"),
    "half-way through the weights": _half_way_through_the_weights,
    "after the weights": _at_save(SAVE_AT, "save_model", "after"),
    "after the optimizer": _at_save(SAVE_AT, "_save_optimizer_and_scheduler", "after"),
    "after the random state": _at_save(SAVE_AT, "_save_rng_state", "after"),
    "after the manifest": _after_the_manifest,
    "between rename and rotation": _between_rename_and_rotation,
    "during rotation": _during_rotation,
    "half-way through filling the root": _half_way_through_the_root,
}
FLAGS = "--save_total_limit 1"


@pytest.mark.parametrize("point", POINTS)
def test_a_run_killed_during_a_save_goes_on_by_itself_to_the_same_bits(
    whole_run, recipe: Path, tmp_path: Path, point: str
) -> None:
    run = functools.partial(train, recipe, tmp_path / "run", FLAGS)
    assert run(POINTS[point]).code == -9
    ending: Ending = run()
    assert ending.code == 0, ending
    assert "skipped" not in ending.err  # nothing that is half written is ever called a checkpoint
    assert_same_run(whole_run(FLAGS), tmp_path / "run")


def test_a_run_killed_during_its_first_save_starts_again_to_the_same_bits(
    whole_run, recipe: Path, tmp_path: Path
) -> None:
    run = functools.partial(train, recipe, tmp_path / "run", FLAGS)
    assert run(_at_save(6, "_save_optimizer_and_scheduler", "after")).code == -9
    assert run().code == 0
    assert_same_run(whole_run(FLAGS), tmp_path / "run")
