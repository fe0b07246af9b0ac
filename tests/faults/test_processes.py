"""Several processes: what two learn is what one does, and when one of them fails, all end."""

import json
import os
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
from safetensors.torch import load_file

from tests.faults.harness import Ending, accelerate_launch, completed, launch_forked
from tests.faults.one_of_two import train_one
from tests.training.conftest import RECIPE
from training.common.errors import InputError
from training.runtime import processes
from training.train import main

# The two runs that most of these tests look at are made once.
pytestmark = pytest.mark.xdist_group("two processes")

# Where there is a GPU, it has to be said that it is not meant; elsewhere nothing is said.
DEVICE = "--device cpu" if torch.accelerator.is_available() else ""
FLAGS = (
    f"{DEVICE} --dropout 0 --target_table ema --logging_steps 1 --save_total_limit 9 --final_score false"
    " --per_device_train_batch_size 4"
).split()


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    generator = random.Random(5)
    for name, count in (("train", 150), ("valid", 20), ("test", 20)):
        lines = [
            " ".join(f"w{generator.randrange(40)}" for _ in range(generator.randint(3, 12))) for _ in range(count)
        ]
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n")
    path = folder / "tiny.yaml"
    path.write_text(RECIPE.format(data=folder))
    return path


@pytest.fixture(scope="module")
def two(repository: Path, recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of two processes, as they are started in earnest. Read only."""
    folder = tmp_path_factory.mktemp("two")
    config = repository / "training" / "launch" / "two_cpu_processes.yaml"
    script = repository / "tests" / "faults" / "one_of_two.py"
    words = ["--config_file", config, script, folder, "tell", recipe, "--output_dir", folder / "run", *FLAGS]
    ending = accelerate_launch(list(map(str, words)), repository)
    assert ending.code == 0, ending.err
    assert "training on 2 processes" in ending.out
    return folder


@pytest.fixture
def fork_two(recipe: Path, tmp_path: Path) -> Callable[..., Ending]:
    """`fork_two("tell", "--flag", ...)`: two forks of a launcher, into `tmp_path/run`, and how that ended."""

    def launch(scenario: str, *flags: str) -> Ending:
        argv = [str(recipe), "--output_dir", str(tmp_path / "run"), *FLAGS, *flags]
        return launch_forked(2, lambda: train_one(tmp_path, scenario, argv))

    return launch


@pytest.fixture(scope="module")
def one(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the same run in one process, two forward passes to a step."""
    folder = tmp_path_factory.mktemp("one")
    assert main([str(recipe), "--output_dir", str(folder / "run"), *FLAGS, "--gradient_accumulation_steps", "2"]) == 0
    return folder


def rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "run" / "log.jsonl").read_text().splitlines()]


def told(folder: Path) -> list[dict]:
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1)]


def test_two_processes_really_ran(two: Path) -> None:
    first, second = told(two)
    assert first["pid"] != second["pid"]
    assert first["processes"] == second["processes"] == 2
    assert first["backend"] == "gloo"
    assert json.loads((two / "run" / "run.json").read_text())["num_processes"] == 2
    assert {path.name for path in (two / "run" / "checkpoint-4").glob("rng_state*")} == {
        "rng_state_0.pth",
        "rng_state_1.pth",
    }


@pytest.mark.parametrize("figure", ["loss", "ranking", "alignment", "auxiliary", "cos_mean", "acc_neg", "grad_norm"])
def test_two_processes_log_what_one_with_accumulation_2_logs(one: Path, two: Path, figure: str) -> None:
    ours, theirs = ([row[figure] for row in rows(folder) if "loss" in row] for folder in (one, two))
    assert len(ours) == 12
    assert theirs == pytest.approx(ours, abs=1e-6, rel=1e-6)


def test_card_and_dry_run_count_the_rows_of_both(two: Path, fork_two: Callable) -> None:
    assert " steps of 8 rows" in (two / "run" / "README.md").read_text()
    dry = fork_two("tell", "--dry_run")
    assert dry.code == 0, dry.err
    assert dry.out.count(" steps of 8 rows") == 1


def test_two_processes_score_and_pass_through_the_data_as_one_does(one: Path, two: Path) -> None:
    for name in ("eval_mrr", "eval_cosine", "passes", "learning_rate", "acc_ema"):
        ours, theirs = ([row[name] for row in rows(folder) if name in row] for folder in (one, two))
        assert theirs == pytest.approx(ours, abs=1e-6), name


@pytest.mark.parametrize("step", [4, 8, 12])
def test_two_processes_have_the_weights_of_one(one: Path, two: Path, step: int) -> None:
    ours, theirs = (load_file(folder / "run" / f"checkpoint-{step}" / "model.safetensors") for folder in (one, two))
    assert any(name.startswith("teacher.") for name in ours)
    for name, tensor in ours.items():
        torch.testing.assert_close(theirs[name], tensor, rtol=0, atol=1e-6, msg=name)


def test_every_process_ends_with_the_same_weights_and_teacher(two: Path) -> None:
    first, second = told(two)
    assert first["weights"] == second["weights"]


def test_a_checkpoint_of_two_processes_is_resumed_by_two_to_the_same_bits(
    fork_two: Callable, two: Path, tmp_path: Path
) -> None:
    shutil.copytree(two / "run" / "checkpoint-4", tmp_path / "run" / "checkpoint-4")
    shutil.copyfile(two / "run" / "log.jsonl", tmp_path / "run" / "log.jsonl")
    ending = fork_two("tell")
    assert ending.code == 0, ending.err
    assert "steps 4 to 12" in ending.out
    assert told(tmp_path)[1]["weights"] == told(two)[1]["weights"]
    without_time = [
        [{k: v for k, v in row.items() if k not in ("time", "tokens_per_second")} for row in rows(folder)]
        for folder in (two, tmp_path)
    ]
    assert without_time[0] == without_time[1]


def test_another_number_of_processes_is_another_run(
    two: Path, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(two / "run" / "checkpoint-4", tmp_path / "checkpoint-4")
    assert main([str(recipe), "--output_dir", str(tmp_path), *FLAGS]) == 2
    assert "belongs to another run (num_processes 2 there and 1 here)" in capsys.readouterr().err


def test_a_process_that_fails_ends_the_others(fork_two: Callable, tmp_path: Path) -> None:
    ending = fork_two("break")
    assert ending.code != 0
    assert "the second process breaks" in ending.err
    assert len(pids := [int(path.read_text()) for path in tmp_path.glob("pid*")]) == 2
    assert not any(psutil.pid_exists(pid) for pid in pids)


def test_bad_input_is_said_once_and_ends_all(fork_two: Callable) -> None:
    ending = fork_two("tell", "--data", "absent.txt")
    assert ending.code != 0
    said = ending.err.splitlines()
    found = [line for line in said if line.startswith("error: ")]
    assert found == [line for line in said if "absent.txt does not exist" in line]
    assert len(found) == 1


def test_one_process_where_two_were_asked_for_is_said_and_takes_every_core(
    repository: Path, recipe: Path, tmp_path: Path
) -> None:
    # A launcher that is a program: its environment, as it was started, is what is looked at.
    command = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    command += [
        "training/train.py",
        recipe,
        *FLAGS,
        "--output_dir",
        tmp_path,
        "--max_steps",
        "2",
        "--warmup_steps",
        "1",
    ]
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = completed(list(map(str, command)), cwd=repository, env=environment)
    assert done.returncode == 0, done.stderr
    assert "note: several processes were asked for and this is the only one" in done.stderr
    cores = processes.available_cores()
    assert f"training on the CPU, {cores} thread" in done.stdout
    assert json.loads((tmp_path / "run.json").read_text())["threads"] == cores


@pytest.mark.parametrize(
    ("setting", "own", "launchers", "local_processes", "threads"),
    [
        ("auto", None, None, 1, 8),
        ("auto", "3", None, 1, 3),
        ("auto", "1", None, 1, 1),  # no launcher: the user's own
        ("auto", "1", {}, 1, 8),  # the launcher's
        ("auto", "1", {"OMP_NUM_THREADS": "1"}, 1, 1),
        ("auto", "4", {}, 1, 4),  # --num_cpu_threads_per_process 4
        ("auto", "1", {}, 2, 4),
        ("auto", "1", {}, 16, 1),
        ("auto", "4,2", None, 1, 4),
        ("auto", "many", None, 1, 8),
        ("5", "1", {"OMP_NUM_THREADS": "1"}, 2, 5),
    ],
)
def test_threads_are_those_asked_for_or_the_share_of_the_cores(
    monkeypatch: pytest.MonkeyPatch,
    setting: str,
    own: str | None,
    launchers: dict | None,
    local_processes: int,
    threads: int,
) -> None:
    monkeypatch.setattr(processes, "available_cores", lambda: 8)
    monkeypatch.setattr(processes, "launcher_environment", lambda: launchers)
    monkeypatch.delenv("OMP_NUM_THREADS")
    if own is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", own)
    assert processes.choose_threads(setting, local_processes) == threads


def test_a_resume_with_other_threads_says_so(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = [*FLAGS, "--max_steps", "3", "--warmup_steps", "1", "--save_steps", "2", "--eval_steps", "9"]
    before = torch.get_num_threads()
    try:
        assert main([str(recipe), "--output_dir", str(tmp_path), *flags, "--threads", "1"]) == 0
        shutil.rmtree(tmp_path / "checkpoint-3")
        capsys.readouterr()
        assert main([str(recipe), "--output_dir", str(tmp_path), *flags, "--threads", "2"]) == 0
    finally:
        torch.set_num_threads(before)
    said = capsys.readouterr()
    assert "note: threads 1 before, 2 now: the resumed run is not bitwise that of before" in said.err
    assert "training on the CPU, 2 threads: steps 2 to 3" in said.out


@pytest.mark.parametrize(
    ("device", "is_there", "expected"), [("auto", False, True), ("auto", True, False), ("cpu", True, True)]
)
def test_the_cpu_is_taken_where_nothing_else_is_there(
    monkeypatch, device: str, is_there: bool, expected: bool
) -> None:
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: is_there)
    assert processes.wants_cpu(SimpleNamespace(device=device)) is expected


def test_processes_that_do_not_find_each_other_are_one_line(monkeypatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(
        processes, "PartialState", lambda **_: SimpleNamespace(num_processes=1, device=torch.device("cpu"))
    )
    with pytest.raises(InputError, match="processes: 2 were started and this one sees 1; give --device cpu"):
        processes.start_processes(SimpleNamespace(device="cpu", threads="1"))
