"""`training/train.py` as one of several processes, for test_processes.py: it tells what it ended with, or breaks.

    accelerate launch ... tests/faults/one_of_two.py FOLDER SCENARIO RECIPE --flags

FOLDER gets `rank0.json` and `rank1.json`: the process, how many there are, its threads, and a hash of all weights and
buffers of its model, the teacher's too. SCENARIO is `tell`, or `break` to have the second process fail at step 3.
"""

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch

from training.train import main
from training.trainer.trainer import JepaTrainer

train, compute_loss = JepaTrainer.train, JepaTrainer.compute_loss


def train_and_tell(self: JepaTrainer, *args: Any, **kwargs: Any) -> Any:
    result = train(self, *args, **kwargs)
    state = self.accelerator.unwrap_model(self.model).state_dict()
    digest = hashlib.sha256(b"".join(state[name].numpy().tobytes() for name in sorted(state))).hexdigest()
    told = {"pid": os.getpid(), "processes": torch.distributed.get_world_size(), "weights": digest}
    told |= {"threads": torch.get_num_threads(), "backend": torch.distributed.get_backend()}
    (FOLDER / f"rank{torch.distributed.get_rank()}.json").write_text(json.dumps(told))
    return result


def train_one(folder: Path, scenario: str, argv: list[str]) -> int:
    """The whole of it, in this process; the exit code."""
    global FOLDER
    FOLDER = folder
    (folder / f"pid{os.getpid()}").write_text(str(os.getpid()))
    JepaTrainer.train = train_and_tell
    if scenario == "break":
        JepaTrainer.compute_loss = break_at_step_3
    return main(argv)


def break_at_step_3(self: JepaTrainer, *args: Any, **kwargs: Any) -> Any:
    if self.state.global_step == 2 and self.args.process_index == 1:
        raise RuntimeError("the second process breaks")
    return compute_loss(self, *args, **kwargs)


if __name__ == "__main__":
    sys.exit(train_one(Path(sys.argv[1]), sys.argv[2], sys.argv[3:]))
