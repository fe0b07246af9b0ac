"""A Hub, the real client that takes it for the Hub, and a trained run of every family."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import pictures_in_few_steps
from tests.hub.client import use_hub
from tests.hub.server import HubServer, running
from tests.hub.tiny_runs import write_recipes


@pytest.fixture(scope="session")
def hub_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubServer]:
    """One server for all; `hub` is how a test gets it."""
    with running(tmp_path_factory.mktemp("hub")) as server:
        yield server


@pytest.fixture
def hub(hub_server: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    """The server, without faults and repositories, which the client of this process takes for the Hub."""
    hub_server.faults.clear()
    hub_server.store.clear()
    hub_server.asked.clear()
    use_hub(hub_server, monkeypatch, tmp_path / "cache")
    yield hub_server
    hub_server.faults.clear()


@pytest.fixture(scope="session")
def recipes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Family -> a recipe of a few steps."""
    return write_recipes(tmp_path_factory.mktemp("recipes"))


@pytest.fixture(scope="session")
def train_tiny(recipes: dict[str, Path]) -> Callable[..., int]:
    """`train_tiny(family, folder, *flags)` runs the command line in this process; returns its exit code."""
    from training.train import main

    def train(family: str, folder: Path, *flags: str) -> int:
        with pictures_in_few_steps():
            return main([str(recipes[family]), "--output_dir", str(folder), "--device", "cpu", *flags])

    return train


@pytest.fixture(scope="session")
def run_of(train_tiny: Callable[..., int], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`run_of(family)`: the folder of a finished run. Read only."""
    made: dict[str, Path] = {}

    def run(family: str) -> Path:
        if family not in made:
            folder = tmp_path_factory.mktemp("runs") / f"tiny-{family}"
            assert train_tiny(family, folder) == 0
            made[family] = folder
        return made[family]

    return run


@pytest.fixture(scope="session")
def text_run(run_of: Callable[[str], Path]) -> Path:
    """A finished run of the text family. Read only."""
    return run_of("text_jepa")
