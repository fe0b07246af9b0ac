"""Runs that are hurt and started again: a tiny recipe, children that may die, and two runs compared bit for bit.

Importing torch and transformers takes seconds, so a run that has to die does so in a child forked from a process that
has imported everything.
"""

import gc
import json
import os
import random
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from safetensors.torch import load_file

from training.run_folder.checkpoints import list_checkpoints
from training.train import main

# 48 rows and 8 per step: a pass over the data is 6 steps, and the run goes over it three times.
ROWS, STEPS, PASS_STEPS = 48, 18, 6
RECIPE = """\
# tiny
family: text_jepa
model:
  hidden_size: 16
  num_hidden_layers: 1
  num_attention_heads: 2
  max_position_embeddings: 16
  dropout: 0.1
  attention_dropout: 0.1
data:
  data: {data}
  max_vocab: 60
loss:
  num_negatives: 8
training:
  max_steps: 18
  warmup_steps: 2
  per_device_train_batch_size: 8
  learning_rate: 3e-3
  logging_steps: 4
  save_steps: 6
evaluation:
  eval_steps: 9
  eval_rows: 10
  milestones: [0, 6]
  final_score: false
"""
_TIMES = ("time", "tokens_per_second")
_WHOLE_FILES = ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "run_state.json")


@dataclass(frozen=True)
class Ending:
    """How a child ended: its exit code (negative: the signal that killed it) and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def last_line(self) -> str:
        """The last line of its errors, or of its output where there are none."""
        return (self.err.strip() or self.out.strip()).splitlines()[-1]


class Child:
    """A forked process, in a group of its own, that runs `work` and exits with what it returns."""

    def __init__(self, work: Callable[[], int]) -> None:
        self._files = [tempfile.TemporaryFile() for _ in range(2)]  # noqa: SIM115  (open until the child ends)
        self._has_ended = False
        self.pid = os.fork()
        if self.pid == 0:
            os.setpgid(0, 0)
            self._run(work)

    def wait(self) -> Ending:
        """Its ending. A test that is interrupted here takes the child along."""
        try:
            _, status = os.waitpid(self.pid, 0)
        except BaseException:
            self.end()
            raise
        self._has_ended = True
        return Ending(os.waitstatus_to_exitcode(status), *self._texts())

    def end(self) -> None:
        """Kill it and all that it started, unless it has been waited for."""
        if not self._has_ended:
            end_with_all_it_started(self.pid)
            os.waitpid(self.pid, 0)
            self._has_ended = True

    def _texts(self) -> list[str]:
        texts = []
        for file in self._files:
            file.seek(0)
            texts.append(file.read().decode("utf-8", "replace"))
        return texts

    def _run(self, work: Callable[[], int]) -> None:
        """In the child: nothing of the parent's test may go on here, so it ends without cleaning up."""
        code = 99
        try:
            for number, file in enumerate(self._files, start=1):
                os.dup2(file.fileno(), number)
            sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1) for number in (1, 2))
            code = work()
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)


def import_everything() -> None:
    """All that a run imports, reads and compiles once: children forked after this need not."""
    import training.estimate
    import training.finish  # noqa: F401
    from configuration_jepa.remote_code import export_remote_code
    from training.cards.render import templates
    from training.common.layout import TEMPLATES
    from training.settings.recipes import config_class_of, family_names

    for template in TEMPLATES.glob("template*.md"):
        templates(TEMPLATES).get_template(template.name)
    with tempfile.TemporaryDirectory() as folder:
        for family in family_names():
            export_remote_code(config_class_of(family).auto_classes.values(), folder)
    gc.freeze()  # the library collects garbage at every start, and a child need not look at what it inherits


def fork(work: Callable[[], int]) -> Ending:
    """`work` in a child, and how that ended."""
    return Child(work).wait()


def accelerate_launch(words: list[str], folder: Path) -> Ending:
    """`accelerate launch *words` in `folder`: the launcher is a child, what it starts are programs of their own."""
    from accelerate.commands.launch import main as launch

    def work() -> int:
        os.chdir(folder)
        sys.argv = ["accelerate-launch", *words]
        launch()
        return 0

    return fork(work)


def launch_forked(processes: int, work: Callable[[], int]) -> Ending:
    """`work` in so many children of torch's launcher, which ends all where one fails."""
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    def one() -> None:
        try:
            code = work()
        except Exception:
            traceback.print_exc()
            code = 1
        sys.exit(code)

    def launch() -> int:
        forget_earlier_runs()
        os.environ["ACCELERATE_MIXED_PRECISION"] = "no"  # as `accelerate launch` says it
        meeting = {"rdzv_backend": "static", "rdzv_endpoint": f"127.0.0.1:{_free_port()}", "rdzv_configs": {"rank": 0}}
        config = LaunchConfig(1, 1, processes, **meeting, run_id="forked", start_method="fork", max_restarts=0)
        elastic_launch(config, one)()
        return 0

    return fork(launch)


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


@contextmanager
def started(command: list[str], **options: Any) -> Iterator[subprocess.Popen]:
    """A program in a group of its own, which ends with the block, and so does all that it started."""
    process = subprocess.Popen(command, start_new_session=True, **options)
    try:
        yield process
    finally:
        end_with_all_it_started(process.pid)
        process.wait()


def completed(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
    """As `subprocess.run` with its output captured, but whatever ends the test ends all that the program started."""
    with started(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options) as process:
        out, err = process.communicate()
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def end_with_all_it_started(pid: int) -> None:
    """Kill a process, its children and their children, and what of its group a dead process has left behind."""
    with suppress(psutil.NoSuchProcess):
        for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def has_ended(process: psutil.Process) -> bool:
    """Whether it is gone, or waits for nothing but to be asked how it ended."""
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def wait_for_the_end_of(process: psutil.Process) -> None:
    """Of one that is nobody's child any more, so that the system does not tell."""
    while not has_ended(process):
        time.sleep(0.02)


def wait_until(holds: Callable[[], bool], process: psutil.Process) -> None:
    """Until `holds` does; it is an error that `process` ends before."""
    while not holds():
        assert not has_ended(process) or holds(), "the process ended and it had not happened"
        time.sleep(0.02)


def write_recipe(folder: Path) -> Path:
    """The recipe and its data: phrases of a small grammar."""
    generator = random.Random(7)
    adjectives, nouns, verbs = "red old big wet".split(), "dog cat cow hen fox".split(), "sees eats finds".split()
    for name, count in (("train", ROWS), ("valid", 12), ("test", 12)):
        lines = [
            " ".join(["the", generator.choice(adjectives), generator.choice(nouns), generator.choice(verbs)])
            + f" the {generator.choice(adjectives)} {generator.choice(nouns)} {index} {generator.randrange(20)}"
            for index in range(count)
        ]
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    recipe = folder / "tiny.yaml"
    recipe.write_text(RECIPE.format(data=folder), encoding="utf-8")
    return recipe


def train(recipe: Path, output_dir: Path, flags: str = "", hurt: Callable[[], None] | None = None) -> Ending:
    """The command line in a child; `hurt` is called there first, to put faults into place."""
    return fork(command(recipe, output_dir, flags, hurt))


def command(
    recipe: Path, output_dir: Path, flags: str = "", hurt: Callable[[], None] | None = None
) -> Callable[[], int]:
    """What `train` does in its child."""
    argv = [str(recipe), "--output_dir", str(output_dir), "--device", "cpu", *shlex.split(flags)]

    def work() -> int:
        forget_earlier_runs()
        _save_time()
        if hurt is not None:
            hurt()
        return main(argv)

    return work


def forget_earlier_runs() -> None:
    """What runs of the parent's process have left behind, and a new process would not find."""
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    for name in [name for name in os.environ if name.startswith("ACCELERATE_")]:
        del os.environ[name]


def _save_time() -> None:
    """Leave out what takes time and is not looked at: the curves, and waiting for the disk (no power is cut here)."""
    import training.finish

    training.finish.plot_run = lambda log, picture: None
    os.fsync = lambda descriptor: None


def before_step(step: int, act: Callable[[], None]) -> Callable[[], None]:
    """A fault: `act` is called when the step after `step` begins."""

    def hurt() -> None:
        from training.trainer.trainer import JepaTrainer

        begin = JepaTrainer.get_batch_samples

        def wrapped(self: JepaTrainer, *args: object) -> object:
            if self.state.global_step == step:
                act()
            return begin(self, *args)

        JepaTrainer.get_batch_samples = wrapped

    return hurt


def die() -> None:
    """Be gone, as after a power cut."""
    os.kill(os.getpid(), signal.SIGKILL)


def log_rows(folder: Path) -> list[dict]:
    """Rows of `log.jsonl` without what measures time."""
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{name: value for name, value in row.items() if name not in _TIMES} for row in rows]


def assert_same_run(whole: Path, other: Path) -> None:
    """Weights, optimizer, schedule, random state, our own state, log (times aside) and root are the same bits."""
    assert log_rows(other) == log_rows(whole)
    ours, theirs = list_checkpoints(whole)[-1], list_checkpoints(other)[-1]
    assert theirs.name == ours.name == f"checkpoint-{STEPS}"
    for name in _WHOLE_FILES:
        assert (theirs / name).read_bytes() == (ours / name).read_bytes(), name
    assert set(load_file(theirs / "model.safetensors")) == set(load_file(ours / "model.safetensors"))
    assert (other / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert not [path.name for path in other.iterdir() if path.name.startswith((".staging", ".trash"))]


def assert_resumes_exactly(recipe: Path, folder: Path, flags: str) -> None:
    """A run that is killed before its tenth step, and started again, ends as one that was not."""
    assert train(recipe, folder / "whole", flags).code == 0
    assert train(recipe, folder / "run", flags, before_step(10, die)).code == -9
    ending = train(recipe, folder / "run", flags)
    assert ending.code == 0, ending
    assert_same_run(folder / "whole", folder / "run")
