"""Recipes and flags: what wins, what is refused, and before what."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from training.common.errors import InputError
from training.run.arguments import keys_of_family, parse_arguments
from training.run.run import Run


def parse(recipe: Path, *flags: str) -> Run:
    return parse_arguments([str(recipe), *flags])


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_flag_wins_over_the_recipe_and_the_recipe_over_the_default(tiny_recipe: Path) -> None:
    run = parse(tiny_recipe, "--max_steps", "500", "--hidden_size", "32")
    assert run.training.max_steps == 500
    assert run.model["hidden_size"] == 32
    assert run.training.per_device_train_batch_size == 8
    assert run.training.weight_decay == 0.01


@pytest.mark.parametrize("text", ["1e-3", "0.001", '"1e-3"'])
def test_a_rate_written_1e_3_is_a_number(tmp_path: Path, text: str) -> None:
    recipe = write(tmp_path, f"family: text_jepa\ntraining:\n  learning_rate: {text}\n")
    assert parse(recipe).training.learning_rate == 0.001
    assert parse(recipe, "--max_steps", "1e3").training.max_steps == 1000


def test_a_bare_switch_means_true(tiny_recipe: Path) -> None:
    assert parse(tiny_recipe, "--bf16").training.bf16 is True
    assert parse(tiny_recipe, "--bf16", "false").training.bf16 is False


def test_lists_and_null_are_understood_in_both_places(tmp_path: Path) -> None:
    recipe = write(tmp_path, "family: text_jepa\nevaluation:\n  milestones: [0, 7]\n  score_rows: null\n")
    assert parse(recipe).evaluation.milestones == [0, 7]
    assert parse(recipe).evaluation.score_rows is None
    assert parse(recipe, "--milestones", "1", "2", "--max_words", "null").evaluation.milestones == [1, 2]


def test_the_output_folder_is_named_after_the_recipe(tiny_recipe: Path) -> None:
    assert parse(tiny_recipe).output_dir == Path("outputs/tiny")
    assert parse(tiny_recipe, "--output_dir", "x/y").output_dir == Path("x/y")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("family: text_jepa\ntraning: {}\n", "unknown section 'traning'; did you mean training?"),
        ("family: text_jepa\nmodel:\n  hiden_size: 3\n", "unknown key 'hiden_size'"),
        ("family: text_jepa\nmodel:\n  max_steps: 3\n", "belongs in section `training`, found in `model`"),
        ("family: text_jepa\nmodel:\n  hidden_size: [1]\n", "hidden_size: got [1]; use a whole number"),
        ("family: text_jepa\nmodel: 3\n", "must hold keys, got 3"),
        ("family: bert\n", "family: got 'bert'"),
        ("model: {}\n", "family: got None"),
        ("[1, 2\n", "is no YAML"),
        ("", "holds no keys"),
    ],
)
def test_a_bad_recipe_is_refused_in_one_line_that_names_it(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        parse(write(tmp_path, text))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_recipe_and_no_recipe_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no file"):
        parse(tmp_path / "absent.yaml")
    with pytest.raises(InputError, match="none given"):
        parse_arguments([])


def test_the_recipe_may_come_after_flags(tiny_recipe: Path) -> None:
    run = parse_arguments(["--max_steps", "5", "--warmup_steps=1", str(tiny_recipe), "--bf16"])
    assert (run.training.max_steps, run.training.bf16, run.recipe_path) == (5, True, tiny_recipe)
    assert run.training.learning_rate == 3e-3


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--bf16"], "tiny.yaml stands where a flag's value may stand; give the recipe first"),
        (["--milestones", "1"], "give the recipe first"),
        (["--lerning_rate", "1"], "unknown flag --lerning_rate; did you mean --learning_rate?"),
    ],
)
def test_a_recipe_after_flags_that_cannot_be_told_from_their_values_is_asked_for_first(
    tiny_recipe: Path, flags: list[str], said: str
) -> None:
    with pytest.raises(InputError, match=re.escape(said)):
        parse_arguments([*flags, str(tiny_recipe)])


def test_an_output_folder_that_is_a_file_is_refused(tiny_recipe: Path) -> None:
    with pytest.raises(InputError, match="is a file; give a folder"):
        parse(tiny_recipe, "--output_dir", str(tiny_recipe))


def test_every_key_has_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    keys = keys_of_family("text_jepa")
    assert all(len(key.help) > 8 for key in keys.values())
    with pytest.raises(SystemExit) as ended:
        parse_arguments(["--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert [name for name in keys if f"--{name} " not in shown] == []


def test_every_field_of_the_configuration_is_a_key_unless_the_tokenizer_decides_it() -> None:
    from configuration_jepa import TextJepaConfig
    from configuration_jepa.configuration_base import own_fields

    decided = {"vocab_size", *(f"{name}_token_id" for name in ("pad", "unk", "mask", "bos", "eos"))}
    assert own_fields(TextJepaConfig) - decided <= set(keys_of_family("text_jepa"))


def test_a_typo_ends_with_code_2_and_without_a_traceback_or_the_models(repository: Path, tiny_recipe: Path) -> None:
    program = (
        "import sys\nfrom training.train import main\n"
        f"code = main([{str(tiny_recipe)!r}, '--lerning_rate', '1'])\n"
        "assert 'modeling_jepa' not in sys.modules and 'datasets' not in sys.modules\n"
        "sys.exit(code)"
    )
    ended = subprocess.run([sys.executable, "-c", program], cwd=repository, capture_output=True, text=True)
    assert ended.returncode == 2
    assert ended.stderr.strip() == "error: unknown flag --lerning_rate; did you mean --learning_rate?"


@pytest.mark.parametrize(
    ("flag", "instead"),
    [
        ("--batch_size", "--per_device_train_batch_size"),
        ("--epochs", "--num_train_epochs"),
        ("--lr", "--learning_rate"),
    ],
)
def test_what_other_programs_call_a_flag_is_answered_with_ours(tiny_recipe: Path, flag: str, instead: str) -> None:
    with pytest.raises(InputError, match=f"unknown flag {flag}; use {instead}"):
        parse(tiny_recipe, flag, "4")


def test_help_shows_numbers_as_numbers_and_a_named_recipe_as_it_stands(tmp_path: Path, capsys) -> None:
    recipe = write(tmp_path, "family: text_jepa\ntraining:\n  max_steps: 77\n")
    for argv, steps in (([], None), ([str(recipe)], 77)):
        with pytest.raises(SystemExit):
            parse_arguments([*argv, "--help"])
        shown = " ".join(capsys.readouterr().out.split())
        shown = shown[shown.index("model (recipe section)") :]
        values = dict(re.findall(r"--(\w+) X .*?\[([^\]]*)\](?= --| \w+ \(recipe section\):|$)", shown))
        assert not {"true", "false"} & set(values.values())
        assert values["dropout"] == "0.0"
        assert steps is None or values["max_steps"] == str(steps)
