"""The planner: the ladder of sizes at three sizes of data, estimates and a real run, one error for an empty file."""

import random
import re
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from configuration_jepa import TextJepaConfig
from eval.rules import (
    ROWS_PER_EXAMPLE,
    SHAPES,
    judge_text_size,
    rows_to_draw,
    suggest_shape,
    suggest_vocabulary,
    text_size_range,
)
from modeling_jepa import TextJepaForMaskedLM
from training.common.errors import InputError
from training.estimate import RunEstimate, count_parameters
from training.families import load_family
from training.plan import main, plan, suggest
from training.run.arguments import parse_arguments
from training.run.run import Run
from training.runtime.memory import is_out_of_memory
from training.trainer.build import prepare_data


@pytest.fixture
def phrases(tmp_path: Path) -> Callable[[int], Path]:
    """`phrases(n)`: a file of n different phrases of 8 words from a vocabulary of 300."""

    def write(count: int) -> Path:
        generator = random.Random(3)
        words = [f"{a}{b}{c}" for a in "bdfgklmnpr" for b in "aeiou" for c in "dklnrt"]
        path = tmp_path / "phrases.txt"
        path.write_text("\n".join(" ".join(generator.choices(words, k=8)) for _ in range(count)) + "\n")
        return path

    return write


def number(text: str, pattern: str) -> float:
    found = re.search(pattern, text)
    assert found, f"{pattern} not in:\n{text}"
    return float(found[1].replace(",", ""))


@pytest.mark.parametrize(
    ("phrase_count", "low", "high"),
    [(3_000, 500_000, 1_500_000), (40_000, 4_000_000, 30_000_000), (500_000, 4_000_000, 30_000_000)],
)
def test_suggestions_for_phrases_of_8_words_keep_to_the_ladder(phrase_count: int, low: int, high: int) -> None:
    examples = 8 * phrase_count
    vocabulary = suggest_vocabulary(examples)

    def parameters(shape: object) -> int:
        return 12 * shape.num_hidden_layers * shape.hidden_size**2 + vocabulary * shape.hidden_size

    sizes = text_size_range(examples)
    shape = suggest_shape(sizes, parameters)
    assert (sizes.low, sizes.high) == (low, high)
    assert low <= parameters(shape) <= high
    assert judge_text_size(parameters(shape), examples).level == "ok"
    for holes in (1.0, 2.4):
        assert ROWS_PER_EXAMPLE[0] <= rows_to_draw(examples, holes) / examples <= ROWS_PER_EXAMPLE[1]


def test_the_smallest_suggestion_is_the_one_million_model() -> None:
    with_vocabulary = TextJepaConfig(vocab_size=4000, hidden_size=128, num_hidden_layers=2, num_attention_heads=4)
    parameters = count_parameters(TextJepaForMaskedLM(with_vocabulary))[0]

    def parameters_of(shape: object) -> int:
        return parameters if shape.hidden_size == 128 else 10 * parameters

    assert suggest_shape(text_size_range(24_000), parameters_of) == SHAPES[1]
    assert 900_000 < parameters < 1_000_000


def test_a_plan_suggests_a_run_that_fits_and_says_what_it_takes(phrases: Callable[[int], Path], capsys) -> None:
    assert main(["--data", str(phrases(400)), "--device", "cpu"]) == 0
    shown = capsys.readouterr().out
    examples = number(shown, r"([\d.]+)k effective examples") * 1000
    rows = number(shown, r"--max_steps (\d+)") * number(shown, r"--per_device_train_batch_size (\d+)")
    assert ROWS_PER_EXAMPLE[0] <= rows / examples <= ROWS_PER_EXAMPLE[1] * 1.01
    assert 0.5 <= number(shown, r"parameters  ([\d.]+)M trainable") <= 1.5
    assert "width " in shown
    assert "depth " in shown
    assert " MiB beside the libraries" in shown
    assert re.search(r"time        about \d+ (s|min|h) here", shown)
    assert "!!" not in shown


def test_flags_are_kept_and_the_rest_suggested(phrases: Callable[[int], Path], capsys) -> None:
    flags = ["--hidden_size", "32", "--num_hidden_layers", "1", "--num_attention_heads", "2"]
    assert main(["--data", str(phrases(400)), "--device", "cpu", "--max_steps", "9000", *flags]) == 0
    shown = capsys.readouterr().out
    assert "--hidden_size 32" in shown
    assert "--max_steps 9000" in shown
    assert "note        " in shown
    assert "it may underfit" in shown
    assert " rows per effective example (" in shown


def test_a_plan_of_a_recipe_judges_it_as_a_dry_run_does(
    tiny_recipe: Path, train_tiny: Callable[..., int], tmp_path: Path, capsys
) -> None:
    def steady(text: str) -> list[str]:
        return [
            line for line in text.splitlines() if line.startswith(("data ", "parameters", "passes", "warning", "!!"))
        ]

    assert main([str(tiny_recipe), "--device", "cpu", "--max_steps", "100000"]) == 0
    planned = capsys.readouterr().out
    assert train_tiny(tmp_path / "run", "--dry_run", "--max_steps", "100000") == 0
    assert steady(planned) == steady(capsys.readouterr().out)
    assert "passes      4,000 (every row is seen so often" in planned
    assert "!! WARNING  500 rows per effective example" in planned
    assert "suggested" not in planned


def test_passes_of_a_plan_are_those_that_the_run_logs(
    finished_run: Path, tiny_recipe: Path, read_rows: Callable[[Path], list[dict]], capsys
) -> None:
    assert main([str(tiny_recipe), "--device", "cpu"]) == 0
    shown = capsys.readouterr().out
    logged = [row["passes"] for row in read_rows(finished_run) if "passes" in row]
    assert number(shown, r"passes      ([\d.,]+)") == pytest.approx(logged[-1], rel=0.05)
    assert len(re.findall("passes", shown)) == 1


def test_a_plan_says_which_parts_are_of_each_micro_batch(tiny_recipe: Path, capsys) -> None:
    flags = [str(tiny_recipe), "--device", "cpu", "--gradient_accumulation_steps", "2"]
    assert main(flags) == 0
    assert "micro-batch" not in capsys.readouterr().out
    assert main([*flags, "--collapse_protection", "vicreg"]) == 0
    assert (
        "note        collapse compare the 8 rows of each micro-batch, not the 16 of a step" in capsys.readouterr().out
    )


def test_a_dry_run_of_two_steps_still_measures_a_step(train_tiny: Callable[..., int], tmp_path: Path, capsys) -> None:
    flags = ["--gradient_accumulation_steps", "2", "--warmup_steps", "1"]
    assert train_tiny(tmp_path / "run", "--dry_run", "--max_steps", "2", *flags) == 0
    shown = capsys.readouterr().out
    assert number(shown, r"2 steps of (\d+) ms") > 0
    assert "2 steps of 16 rows" in shown


def test_a_plan_for_an_empty_file_is_one_clear_error(tmp_path: Path, capsys) -> None:
    empty = tmp_path / "empty.txt"
    empty.write_text("")
    assert main(["--data", str(empty)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert "empty" in error


def test_the_help_of_a_plan_is_its_own(capsys) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = capsys.readouterr().out
    assert shown.startswith("usage: python -m training.plan ")
    assert "training/train.py" not in shown


def test_an_unknown_flag_of_a_plan_is_named(capsys) -> None:
    assert main(["--data", "builtin:sotu", "--max_step", "3"]) == 2
    assert "did you mean --max_steps" in capsys.readouterr().err


def test_the_estimated_parameters_are_those_of_the_run(
    finished_run: Path, tiny_recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from safetensors.torch import load_file

    assert main([str(tiny_recipe), "--device", "cpu"]) == 0
    planned = number(capsys.readouterr().out, r"parameters  ([\d.,]+)")
    saved = sum(t.numel() for name, t in load_file(finished_run / "model.safetensors").items() if "counts" not in name)
    assert planned == pytest.approx(saved, rel=0.02)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried to "
                     "allocate 8589934592 bytes. Error code 12 (Cannot allocate memory)"),
        MemoryError(),
    ],
)  # fmt: skip
def test_running_out_of_memory_is_one_line_with_figures_and_what_to_try(
    error: Exception, train_tiny: Callable[..., int], tmp_path: Path, capsys, monkeypatch
) -> None:
    from training.trainer.trainer import JepaTrainer

    def planted(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr(JepaTrainer, "compute_loss", planted)
    assert train_tiny(tmp_path / "run") == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: out of memory at per_device_train_batch_size=8, gradient_accumulation_steps=1")
    assert "--per_device_train_batch_size 4 --gradient_accumulation_steps 2" in line
    assert "--gradient_checkpointing true" in line
    assert ("8.0 GiB" in line) == isinstance(error, RuntimeError)


def test_another_runtime_error_is_not_taken_for_a_lack_of_memory() -> None:
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


QUICKSTARTS = "training/recipes/{}/quickstart.yaml"
SMALL = ["--device", "cpu", "--hidden_size", "16", "--num_hidden_layers", "1", "--num_attention_heads", "2"]


def write_source(family: str, folder: Path) -> list[str]:
    """Data of one's own for a family, and the flags that read it."""
    if family == "video_jepa":
        clips = np.random.default_rng(0).integers(0, 255, (12, 8, 16, 16), dtype=np.uint8)
        np.save(folder / "my clips.npy", clips)
        sizes = [
            "--frame_size",
            "16",
            "--patch_size",
            "8",
            "--frame_codes",
            "grey",
            "--code_size",
            "1",
            "--max_position_embeddings",
            "8",
        ]
        return ["--clips", str(folder / "my clips.npy"), *sizes, "--code_levels", "8"]
    rows = [f"the {n % 7} red dogs see the {n % 13} cats of number {n}" for n in range(300)]
    path = folder / "my file.csv"
    path.write_text("Customer Message,Agent Reply\n" + "".join(f"{row},so {row}\n" for row in rows))
    if family == "dialogue_jepa":
        return ["--data", str(path), "--prompt_column", "Customer Message", "--reply_column", "Agent Reply"]
    named = ["--documents", "rows"] if family == "staged_generator" else []
    return ["--data", str(path), "--text_column", "Customer Message", *named]


@pytest.mark.parametrize("family", ["text_jepa", "staged_generator", "dialogue_jepa", "video_jepa"])
def test_the_command_of_a_plan_within_minutes_runs_as_it_is(
    family: str, repository: Path, tmp_path: Path, capsys, monkeypatch
) -> None:
    monkeypatch.chdir(repository)
    monkeypatch.setattr("training.estimate._ENOUGH_SECONDS", 0.0)
    argv = [*write_source(family, tmp_path), "--max_vocab", "300"][: None if family != "video_jepa" else -2]
    assert main([*argv, *SMALL, "--minutes", "0.5"]) == 0
    shown = capsys.readouterr().out
    command = shlex.split(re.search("command +(.*)", shown)[1])
    assert command[:3] == ["python", "training/train.py", QUICKSTARTS.format(family)]
    run = parse_arguments(command[2:])
    assert run.family == family
    assert command[3 : 3 + len(argv)] == argv
    assert run.training.max_steps == number(shown, r"here: ([\d,]+) steps")
    assert run.model["hidden_size"] == 16


class Clock:
    """A second for each look at it."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        self.seconds += 1.0
        return self.seconds


def estimate_of(steps: int, milliseconds: float, rows_scored: Callable[[int], int] = lambda steps: 0) -> RunEstimate:
    sizes = {"trainable": 1_000, "parameters": 1_000, "memory_bytes": 1, "fixed_bytes": 1, "batch_bytes": 1}
    return RunEstimate(
        **sizes,
        libraries_bytes=0,
        steps=steps,
        rows_per_step=8,
        tokens_per_step=100,
        seconds_per_step=milliseconds / 1000,
        seconds_per_row=0.5,
        rows_scored=rows_scored,
    )


def test_steps_within_a_time_leave_some_of_it_for_the_scores() -> None:
    assert estimate_of(9, 100).steps_within(60, 10_000) == 600
    assert estimate_of(9, 100).steps_within(60, 40) == 40
    assert estimate_of(9, 100, lambda steps: 10 * (1 + steps // 100)).steps_within(60, 10_000) == 399
    assert estimate_of(9, 100, lambda steps: 200).steps_within(60, 10_000) == 0


def test_a_shorter_time_takes_a_smaller_model_and_fewer_steps(
    phrases: Callable[[int], Path], repository: Path, monkeypatch
) -> None:
    monkeypatch.chdir(repository)
    run = parse_arguments([QUICKSTARTS.format("text_jepa"), "--data", str(phrases(400)), "--device", "cpu"])
    family = load_family(run.family)
    prepared = prepare_data(run, family)

    def suggested(seconds: float | None, trainable: int = 10_000) -> tuple[int, int]:
        def slower_by_size(run: Run) -> RunEstimate:  # 10 ms for each unit of the width
            slow = estimate_of(run.training.max_steps, 10 * run.model["hidden_size"])
            return replace(slow, trainable=trainable)

        found, estimate = suggest(run, family, prepared, set(), seconds, slower_by_size)
        assert found.training.max_steps == estimate.steps
        return found.model["hidden_size"], found.training.max_steps

    wanted = suggested(None)
    assert wanted == (192, 222)
    assert suggested(3600) == wanted
    assert suggested(324) == (128, 222)  # and 192 wide 168 steps
    assert suggested(54) == (64, 84)
    assert suggested(54, trainable=10) == (192, 28)  # which see 20 tokens for each parameter
    with pytest.raises(InputError, match="one step and its scores take"):
        suggested(0.5)


def test_the_time_of_a_step_is_that_of_the_clock(tiny_recipe: Path) -> None:
    run = parse_arguments([str(tiny_recipe), "--device", "cpu", "--max_steps", "120"])
    line = next(line for line in plan(run, clock=Clock()) if line.startswith("time"))
    assert number(line, r"120 steps of ([\d,]+) ms") == 818  # 11 steps until 8 seconds are over at the 9th look


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--minutes", "0"], "minutes: got 0.0; use a number above 0"),
        (["--minutes", "nan"], "minutes: got nan; use a number above 0"),
        (["--minutes", "soon"], "invalid float value: 'soon'"),
        (["--family", "bert"], "choose from"),
    ],
)
def test_a_time_that_is_none_is_one_clear_error(flags: list[str], said: str, capsys) -> None:
    assert main(["--data", "builtin:sotu", *flags]) == 2
    assert said in capsys.readouterr().err
