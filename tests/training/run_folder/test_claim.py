"""Who may write into a run folder, and whether it is the same run."""

import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from configuration_jepa import TextJepaConfig
from training.common.errors import InputError
from training.common.manifest import verify_manifest
from training.run.arguments import parse_arguments
from training.run.run import Run
from training.run_folder.checkpoints import staged
from training.run_folder.claim import decide_resume, describe_run, locked, write_run


def describe(recipe: Path, folder: Path, *flags: str) -> tuple[Run, dict]:
    run = parse_arguments([str(recipe), "--output_dir", str(folder), *flags])
    config = TextJepaConfig(vocab_size=60, **run.config_fields)
    return run, describe_run(run, config, data_hash="abc")


@pytest.fixture
def earlier_run(tiny_recipe: Path, tmp_path: Path) -> Path:
    """A folder in which the tiny recipe saved step 4."""
    _, description = describe(tiny_recipe, tmp_path)
    write_run(tmp_path, description)
    with staged(tmp_path / "checkpoint-4") as staging:
        (staging / "checkpoint-4").mkdir()
        (staging / "checkpoint-4" / "run.json").write_bytes((tmp_path / "run.json").read_bytes())
        for name in ("model.safetensors", "config.json"):
            (staging / "checkpoint-4" / name).write_text("{}")
    return tmp_path


def test_the_same_run_goes_on_and_cadence_may_change(tiny_recipe: Path, earlier_run: Path) -> None:
    flags = ["--logging_steps", "1", "--save_steps", "2", "--save_total_limit", "5", "--score_rows", "7"]
    for extra in ([], flags):
        assert decide_resume(*describe(tiny_recipe, earlier_run, *extra)).step == 4


@pytest.mark.parametrize(
    ("flag", "value"), [("learning_rate", "1e-3"), ("seed", "2"), ("mask_rate", "0.2"), ("hidden_size", "32")]
)
def test_another_runs_folder_is_refused_by_what_differs(
    tiny_recipe: Path, earlier_run: Path, flag: str, value: str
) -> None:
    with pytest.raises(InputError, match=f"belongs to another run .*{flag}"):
        decide_resume(*describe(tiny_recipe, earlier_run, f"--{flag}", value))


def test_other_data_is_another_run(tiny_recipe: Path, earlier_run: Path) -> None:
    run, description = describe(tiny_recipe, earlier_run)
    with pytest.raises(InputError, match="data_hash 'abc' there and 'other' here"):
        decide_resume(run, {**description, "data_hash": "other"})


def test_more_steps_need_extend_and_fewer_are_refused(tiny_recipe: Path, earlier_run: Path) -> None:
    with pytest.raises(InputError, match="has 12, now 20; add --extend"):
        decide_resume(*describe(tiny_recipe, earlier_run, "--max_steps", "20"))
    assert decide_resume(*describe(tiny_recipe, earlier_run, "--max_steps", "20", "--extend")).step == 4
    for extend in ([], ["--extend"]):
        with pytest.raises(InputError, match=r"run with max_steps 12, here it is 8.* give --max_steps 12, or"):
            decide_resume(*describe(tiny_recipe, earlier_run, "--max_steps", "8", *extend))


def test_never_starts_over_and_a_path_is_taken_when_it_is_whole(tiny_recipe: Path, earlier_run: Path) -> None:
    checkpoint = earlier_run / "checkpoint-4"
    assert decide_resume(*describe(tiny_recipe, earlier_run / "new", "--resume", str(checkpoint))).path == checkpoint
    with pytest.raises(InputError, match=r"resume: .* is no folder"):
        decide_resume(*describe(tiny_recipe, earlier_run, "--resume", "checkpoint-9"))
    assert decide_resume(*describe(tiny_recipe, earlier_run, "--resume", "never")).path is None
    assert not checkpoint.exists()


@pytest.mark.parametrize("resume", ["auto", "never"])
@pytest.mark.parametrize(
    "name",
    [
        *("README.md", "results/mine.csv", "checkpoint-7/model.bin", "layers.py", "run.json"),
        *("modules.json", "1_Pooling/config.json", "sentence_bert_config.json"),
    ],
)
def test_a_folder_with_somebody_elses_files_is_refused_and_left_alone(
    tiny_recipe: Path, tmp_path: Path, name: str, resume: str
) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text('{"mine": 1}')
    with pytest.raises(InputError, match=f"holds {name.split('/')[0]}, and no run.json that says"):
        decide_resume(*describe(tiny_recipe, tmp_path, "--resume", resume))
    assert (tmp_path / name).read_text() == '{"mine": 1}'


def test_every_file_that_a_run_puts_into_its_root_is_refused_where_it_is_somebody_elses(
    finished_run: Path, tiny_recipe: Path, tmp_path: Path
) -> None:
    for name in json.loads((finished_run / "manifest.json").read_text())["files"]:
        folder = tmp_path / name.replace("/", "-")
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text("mine")
        with pytest.raises(InputError, match=f"holds {name.split('/')[0]}, and no run.json that says"):
            decide_resume(*describe(tiny_recipe, folder))


def test_a_folder_with_other_files_is_taken_and_they_stay(tiny_recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("mine")
    for resume in ("auto", "never"):
        assert decide_resume(*describe(tiny_recipe, tmp_path, "--resume", resume)).path is None
    assert (tmp_path / "train.txt").read_text() == "mine"


def test_before_its_first_checkpoint_a_run_begins_again_and_another_is_refused(
    tiny_recipe: Path, tmp_path: Path
) -> None:
    write_run(tmp_path, describe(tiny_recipe, tmp_path)[1])
    (tmp_path / "log.jsonl").write_text("")
    found = decide_resume(*describe(tiny_recipe, tmp_path))
    assert (found.path, found.finished) == (None, False)
    with pytest.raises(InputError, match=r"belongs to another run .*seed 1 there and 2 here"):
        decide_resume(*describe(tiny_recipe, tmp_path, "--seed", "2"))


def test_a_checkpoint_from_elsewhere_does_not_open_another_runs_folder(
    tiny_recipe: Path, earlier_run: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = tmp_path_factory.mktemp("other")
    write_run(other, describe(tiny_recipe, other, "--seed", "2")[1])
    with pytest.raises(InputError, match=f"{other} belongs to another run"):
        decide_resume(*describe(tiny_recipe, other, "--resume", str(earlier_run / "checkpoint-4")))


def test_a_finished_run_without_its_checkpoints_is_finished(
    finished_run: Path, train_tiny: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(finished_run, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoint-*"))
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "run.json"}
    assert train_tiny(folder) == 0
    assert "is finished" in capsys.readouterr().out
    assert all(path.read_bytes() == content for path, content in before.items())


@pytest.mark.parametrize("lacking", ["README.md", "model.safetensors", "results/milestones.json", "manifest.json"])
def test_a_model_without_its_checkpoints_that_is_not_a_finished_runs_ends_with_4(
    finished_run: Path, train_tiny: Callable[..., int], tmp_path: Path, capsys, lacking: str
) -> None:
    folder = shutil.copytree(finished_run, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoint-*"))
    (folder / lacking).unlink()
    assert train_tiny(folder) == 4
    assert "--resume never" in capsys.readouterr().err.splitlines()[-1]


def test_a_finished_run_without_its_checkpoints_cannot_be_extended(
    finished_run: Path, train_tiny: Callable[..., int], tmp_path: Path
) -> None:
    folder = shutil.copytree(finished_run, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoint-*"))
    assert train_tiny(folder, "--max_steps", "20") == 2
    assert train_tiny(folder, "--max_steps", "20", "--extend") == 4


def test_a_second_run_in_a_folder_is_refused_naming_process_and_host(tmp_path: Path) -> None:
    with locked(tmp_path):
        said = f"in use by process {os.getpid()} on {socket.gethostname()}"
        with pytest.raises(InputError, match=said), locked(tmp_path):
            pass
    with locked(tmp_path):
        pass


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"output_dir: .*file/run cannot be written \(Not a directory\)"):  # noqa: SIM117
        with locked(tmp_path / "file" / "run"):
            pass


def test_the_description_holds_every_resolved_value(tiny_recipe: Path, tmp_path: Path) -> None:
    _, description = describe(tiny_recipe, tmp_path)
    recipe = description["recipe"]
    assert recipe["model"]["hidden_size"] == 16
    assert recipe["model"]["rope_theta"] == 10000.0
    assert recipe["loss"]["ranking"] == "full"
    assert recipe["data"]["lowercase"] is True
    assert recipe["training"]["adam_beta2"] == 0.98
    assert json.loads(json.dumps(description)) == description


def test_a_finished_runs_model_stays_whole_when_the_run_is_started_again(
    finished_run: Path, train_tiny: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(finished_run, tmp_path / "run")
    assert train_tiny(folder, "--logging_steps", "7") == 0
    assert "is finished" in capsys.readouterr().out
    assert json.loads((folder / "run.json").read_text())["recipe"]["training"]["logging_steps"] == 7
    verify_manifest(folder)
