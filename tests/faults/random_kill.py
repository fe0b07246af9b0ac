"""Kill a run at random moments, start the same command again, and compare the bits.

    python -m tests.faults.random_kill --times 50

Each time a run is started in a folder of its own, killed with SIGKILL after a random part of the time that a whole
run takes, and started again until it ends. What it ends with must be the uninterrupted run, bit for bit.
"""

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

# Children are forked, so the libraries may have one thread only.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from tests.faults.harness import Child, assert_same_run, command, import_everything, train, write_recipe

FLAGS = "--save_steps 1 --save_total_limit 1 --target_table ema --dataloader_num_workers {workers}"


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, or 1 where a resumed run differed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=50, help="runs to kill [50]")
    parser.add_argument("--workers", type=int, default=0, help="processes of the data loader [0]")
    parser.add_argument("--seed", type=int, default=0, help="decides the moments, as shares of a run's time [0]")
    arguments = parser.parse_args(argv)
    scratch = Path(tempfile.mkdtemp(prefix="random-kill-"))
    os.environ.setdefault("JEPA_CACHE", str(scratch / "cache"))
    try:
        wrong = _kill(scratch, arguments.times, FLAGS.format(workers=arguments.workers), random.Random(arguments.seed))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return 1 if wrong else 0


def _kill(scratch: Path, times: int, flags: str, generator: random.Random) -> int:
    """How many of `times` killed runs did not go on to the same bits."""
    import_everything()
    recipe = write_recipe(scratch)
    whole = scratch / "whole"
    train(recipe, scratch / "warm-up", flags)
    begun = time.monotonic()
    assert train(recipe, whole, flags).code == 0
    seconds = time.monotonic() - begun
    print(f"an uninterrupted run takes {seconds:.1f} s")
    outcomes = []
    for index in range(1, times + 1):
        folder = scratch / f"run-{index}"
        moment = generator.random() * seconds
        child = Child(command(recipe, folder, flags))
        time.sleep(moment)
        os.kill(child.pid, signal.SIGKILL)
        killed = child.wait().code == -signal.SIGKILL
        left = _left_behind(folder)
        same = _goes_on(recipe, folder, whole, flags)
        outcomes.append((killed, same))
        print(
            f"{index:>3}  killed after {moment:5.2f} s, leaving {left}: {'same bits' if same else 'DIFFERENT'}",
            flush=True,
        )
        shutil.rmtree(folder, ignore_errors=True)
    wrong = sum(not same for _, same in outcomes)
    print(f"{times - wrong} of {times} ended with the bits of the uninterrupted run; "
          f"{sum(killed for killed, _ in outcomes)} were killed before they ended")  # fmt: skip
    return wrong


def _goes_on(recipe: Path, folder: Path, whole: Path, flags: str) -> bool:
    ending = train(recipe, folder, flags)
    try:
        assert ending.code == 0, ending
        assert_same_run(whole, folder)
    except AssertionError as error:
        print(error, file=sys.stderr)
        return False
    return True


def _left_behind(folder: Path) -> str:
    names = sorted(path.name for path in folder.glob("*")) if folder.is_dir() else []
    kept = [name for name in names if "checkpoint" in name or name == "manifest.json"]
    return ", ".join(kept) or "no checkpoint"


if __name__ == "__main__":
    sys.exit(main())
