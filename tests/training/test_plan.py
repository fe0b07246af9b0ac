"""The planner: the ladder of sizes at three sizes of data, estimates and a real run, one error for an empty file."""

import random
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from configuration_jepa import TextJepaConfig
from eval.rules import (
    ROWS_PER_EXAMPLE,
    SHAPES,
    judge_text_size,
    rows_per_example,
    suggest_shape,
    suggest_steps,
    suggest_vocabulary_and_batch,
    text_size_range,
)
from modeling_jepa import TextJepaForMaskedLM
from training.estimate import count_parameters
from training.plan import main, suggestion_lines
from training.run.arguments import parse_arguments
from training.runtime.memory import is_out_of_memory


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
    vocabulary, batch = suggest_vocabulary_and_batch(examples)

    def parameters(shape: object) -> int:
        return 12 * shape.num_hidden_layers * shape.hidden_size**2 + vocabulary * shape.hidden_size

    shape = suggest_shape(examples, parameters)
    assert (text_size_range(examples).low, text_size_range(examples).high) == (low, high)
    assert low <= parameters(shape) <= high
    assert judge_text_size(parameters(shape), examples).level == "ok"
    for holes in (1.0, 2.4):
        steps = suggest_steps(examples, batch, holes)
        assert ROWS_PER_EXAMPLE[0] <= rows_per_example(steps, batch, examples) <= ROWS_PER_EXAMPLE[1]


def test_the_smallest_suggestion_is_the_one_million_model() -> None:
    with_vocabulary = TextJepaConfig(vocab_size=4000, hidden_size=128, num_hidden_layers=2, num_attention_heads=4)
    parameters = count_parameters(TextJepaForMaskedLM(with_vocabulary))[0]
    assert (
        suggest_shape(24_000, lambda shape: parameters if shape.hidden_size == 128 else 10 * parameters) == SHAPES[1]
    )
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


def test_the_flags_that_are_printed_name_the_column_and_are_quoted(tmp_path):
    run = parse_arguments(
        ["--data", str(tmp_path / "my file.csv"), "--text_column", "Customer Message"], needs_recipe=False
    )
    line = suggestion_lines(run)[1].removeprefix("as flags")
    assert shlex.split(line)[:4] == ["--data", str(tmp_path / "my file.csv"), "--text_column", "Customer Message"]
