"""The tiny recipe, its uninterrupted runs, and copies of a run that was killed."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.harness import Ending, before_step, die, import_everything, train, write_recipe

Train = Callable[..., Ending]
WholeRun = Callable[[str], Path]


@pytest.fixture(scope="session", autouse=True)
def _imported() -> None:
    """Once, for all children."""
    import_everything()


@pytest.fixture(scope="session")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny recipe."""
    return write_recipe(tmp_path_factory.mktemp("recipe"))


@pytest.fixture(scope="session")
def whole_run(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> WholeRun:
    """`whole_run(flags)`: the folder of a run with these flags that nothing disturbed. Read only."""
    made: dict[str, Path] = {}

    def run(flags: str = "") -> Path:
        if flags not in made:
            folder = tmp_path_factory.mktemp("whole") / "run"
            ending = train(recipe, folder, flags)
            assert ending.code == 0, ending
            made[flags] = folder
        return made[flags]

    return run


@pytest.fixture(scope="session")
def killed_run(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was killed in its 14th step, with checkpoint-6 and checkpoint-12. Read only."""
    folder = tmp_path_factory.mktemp("killed") / "run"
    assert train(recipe, folder, "--best_metric acc_ema", before_step(13, die)).code == -9
    return folder


@pytest.fixture
def hurt_run(killed_run: Path, tmp_path: Path) -> Path:
    """A copy of the killed run, to be damaged."""
    return Path(shutil.copytree(killed_run, tmp_path / "run"))
