"""Two processes, of which one fails while a checkpoint is written: both end, with the same exit code."""

import errno
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.faults.harness import Child, command
from training.run_folder.checkpoints import check_whole, list_checkpoints


def _port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def _as_rank(rank: int, port: int, hurt: Callable[[], None]) -> Callable[[], None]:
    """One of two processes, as a launcher would start it."""

    def begin() -> None:
        os.environ.update(
            RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2",
            MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), ACCELERATE_USE_CPU="true",
        )  # fmt: skip
        hurt()

    return begin


def _disk_full(rank: int) -> Callable[[], None]:
    def hurt() -> None:
        from training.trainer.trainer import JepaTrainer

        save = JepaTrainer._save_rng_state

        def failing(self: JepaTrainer, output_dir: str) -> Any:
            if self.state.global_step == 12 and self.args.process_index == rank:
                raise OSError(errno.ENOSPC, "No space left on device", output_dir)
            return save(self, output_dir)

        JepaTrainer._save_rng_state = failing

    return hurt


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_cannot_write_its_part_of_a_checkpoint_ends_all(
    recipe: Path, tmp_path: Path, rank: int
) -> None:
    port = _port()
    flags = "--per_device_train_batch_size 4"
    children = [Child(command(recipe, tmp_path / "run", flags, _as_rank(n, port, _disk_full(rank)))) for n in (0, 1)]
    endings = [child.wait() for child in children]
    assert [ending.code for ending in endings] == [2, 2], endings
    assert "No space left on device" in endings[rank].err or "are free" in endings[rank].err
    saved = list_checkpoints(tmp_path / "run")
    assert saved
    assert "checkpoint-12" not in [path.name for path in saved]
    assert all(check_whole(path) is None for path in saved)
