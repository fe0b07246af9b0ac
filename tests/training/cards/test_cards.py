"""Model cards: each number is its JSON's, the metadata is what the Hub reads, and what they tell to run runs."""

import ast
import json
import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard, metadata_load
from huggingface_hub.repocard_data import model_index_to_eval_results

from eval.score import main as score_main
from training.cards.__main__ import main
from training.cards.record import CardRecord, load_record, read_record
from training.cards.render import licence_id, render_card, with_repository
from training.cards.writing import RECORDS, reference_cards
from training.common.layout import TEMPLATES
from training.families import load_family
from training.run.arguments import parse_arguments
from training.runtime.hardware import describe_machine, hardware_line, training_seconds

NAMES = sorted(path.stem for path in RECORDS.glob("*.json"))


def record_of(name: str) -> CardRecord:
    return load_record(RECORDS / f"{name}.json")


def card_of(record: CardRecord) -> str:
    return str(render_card(record, load_family(record.family).card))


def test_a_card_names_the_checkpoint_that_a_run_began_with() -> None:
    record = record_of("quickstart")
    assert "It began with the weights" not in card_of(record)
    run = {**record.run, "init_from": "user/base"}
    assert "\nIt began with the weights of `user/base`.\n" in card_of(replace(record, run=run))
    adapted = {**run["recipe"], "training": {**run["recipe"]["training"], "lora_rank": 8}}
    said = card_of(replace(record, run={**run, "recipe": adapted}))
    assert "adapters of rank 8 beside them (LoRA), which are merged here.\n" in said


def test_milestones_stand_in_the_results_and_in_the_card_with_a_sample(finished_run: Path) -> None:
    rows = json.loads((finished_run / "results" / "milestones.json").read_text(encoding="utf-8"))["milestones"]
    assert [row["step"] for row in rows] == [0, 6, 12]
    card = (finished_run / "README.md").read_text(encoding="utf-8").splitlines()
    for row in rows:
        assert {"loss", "mrr", "top1", "median_rank", "effective_rank", "mean_pairwise_cosine"} <= row.keys()
        line = next(line for line in card if line.startswith(f"| {row['step']} | {row['loss']:.3f} | "))
        assert line.endswith(f"| {row['samples'][0]} |")
        assert f"| {row['effective_rank']:,.1f} |" in line


def test_the_score_holds_figures_of_the_representation_and_none_for_the_baseline(finished_run: Path) -> None:
    record = json.loads((finished_run / "results" / "score.json").read_text(encoding="utf-8"))
    assert 1 <= record["metrics"]["effective_rank"] <= 16
    assert -1 <= record["metrics"]["mean_pairwise_cosine"] <= 1
    assert record["metrics"]["cosine_spread"] > 0
    assert record["baselines"]["unigram"]["effective_rank"] is None
    assert record["baselines"]["unigram"].keys() == record["metrics"].keys()


def test_the_command_in_the_card_gives_the_figures_of_the_card(
    finished_run: Path, tiny_data: Path, tmp_path: Path
) -> None:
    card = (finished_run / "README.md").read_text(encoding="utf-8")
    command = next(line for line in card.splitlines() if line.startswith("python -m eval.score "))
    assert "--max_rows 10" in command
    command = command.replace("PATH_OR_REPOSITORY", str(finished_run)).replace("scores.json", "")
    words = shlex.split(command.replace(f"PATH/TO/{tiny_data.name}", str(tiny_data)))
    assert score_main([*words[3:-1], "--json", str(tmp_path / "again.json"), "--device", "cpu"]) == 0
    again = json.loads((tmp_path / "again.json").read_text(encoding="utf-8"))
    stored = json.loads((finished_run / "results" / "score.json").read_text(encoding="utf-8"))
    assert (again["num_rows"], again["metrics"]) == (stored["num_rows"], stored["metrics"])


def test_every_checkpoint_of_a_run_has_a_card_of_what_is_known_by_then(finished_run: Path) -> None:
    for step in (8, 12):
        folder = finished_run / f"checkpoint-{step}"
        card = (folder / "README.md").read_text(encoding="utf-8")
        assert f"this is the checkpoint of step {step}" in card
        assert "Not scored: this is a checkpoint of a run that goes on after it." in card
        assert "| 6 | " in card
        assert ("| 12 | " in card) == (step == 12)
        assert "README.md" in json.loads((folder / "manifest.json").read_text())["files"]
    assert "README.md" not in json.loads((finished_run / "manifest.json").read_text())["files"]


def test_a_runs_card_is_rendered_again_from_its_json_and_changes_with_it(finished_run: Path, capsys) -> None:
    before = (finished_run / "README.md").read_text(encoding="utf-8")
    assert main([str(finished_run)]) == 0
    assert (finished_run / "README.md").read_text(encoding="utf-8") == before
    record = read_record(finished_run)
    changed = {**record.score, "metrics": {**record.score["metrics"], "top1": 0.123456}}
    text = card_of(replace(record, score=changed))
    assert "| this model | 0.123 |" in text
    assert "value: 0.123456" in text


def test_a_folder_without_a_finished_run_is_one_line_and_exit_code_2(tmp_path: Path, capsys) -> None:
    assert main([str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_no_path_of_this_machine_stands_in_a_card(finished_run: Path, tiny_data: Path) -> None:
    card = (finished_run / "README.md").read_text(encoding="utf-8")
    assert str(tiny_data) not in card
    assert f"PATH/TO/{tiny_data.name}" in card
    for name in NAMES:
        assert not re.search(r"(/work|/tmp|/home|/root)/", (RECORDS / f"{name}.json").read_text(encoding="utf-8"))


def test_the_cards_of_reference_models_are_what_their_records_give(capsys) -> None:
    assert {path.stem for path in reference_cards()} == set(NAMES)
    for path, text in reference_cards().items():
        assert path.read_text(encoding="utf-8") == text, "python -m training.cards"
    assert main(["--check"]) == 0


@pytest.mark.parametrize("name", NAMES)
def test_a_changed_figure_changes_the_card(name: str) -> None:
    record = record_of(name)
    style = load_family(record.family).card
    for figure in {*style.figures, *style.claimed} & {
        key for key, value in record.score["metrics"].items() if isinstance(value, float)
    }:
        changed = {**record.score["metrics"], figure: record.score["metrics"][figure] + 1}
        assert card_of(replace(record, score={**record.score, "metrics": changed})) != card_of(record), figure
    longer = {**record.machine, "seconds": record.machine["seconds"] * 3}
    assert card_of(replace(record, machine=longer)) != card_of(record)


@pytest.mark.parametrize("name", NAMES)
def test_samples_are_said_to_be_of_the_step_that_they_were_made_at(name: str) -> None:
    record = record_of(name)
    last = record.milestones[-1]
    text = card_of(replace(record, milestones=[*record.milestones[:-1], {**last, "step": 98765}]))
    assert "at step 98,765" in text
    assert f"the kept checkpoint is that of step {record.facts['kept_step']:,}" in text


def test_a_baseline_without_a_figure_is_left_out_and_others_are_named_in_words() -> None:
    record = record_of("dailydialog_cpu")
    baselines = record.score["baselines"]
    unmeasured = {**baselines, "random": dict.fromkeys(baselines["random"])}
    before, text = card_of(record), card_of(replace(record, score={**record.score, "baselines": unmeasured}))
    assert "\n| random |" in before
    assert "\n| random |" not in text
    assert "\n| word overlap |" in text


@pytest.mark.parametrize("name", NAMES)
def test_metadata_is_what_the_hub_reads_and_its_results_are_those_of_the_json(name: str) -> None:
    record, path = record_of(name), TEMPLATES / f"{name}.md"
    data = metadata_load(path)
    assert {"license", "library_name", "pipeline_tag", "tags", "model-index"} <= data.keys()
    assert data["library_name"] == "transformers"
    assert record.family in data["tags"]
    assert ModelCard.load(path, ignore_metadata_errors=False).data.to_dict() == data
    model, results = model_index_to_eval_results(data["model-index"])
    assert model == record.facts["name"]
    claimed = load_family(record.family).card.claimed
    assert {one.metric_type: one.metric_value for one in results} == {
        name: record.score["metrics"][name] for name in claimed
    }
    assert {one.dataset_split for one in results} == {record.score["split"]}
    assert all(re.fullmatch(r"([\w-]+/)?[\w.-]+", one.dataset_type, re.ASCII) for one in results)


@pytest.mark.parametrize("name", NAMES)
def test_the_recipe_in_a_card_is_that_of_the_run(name: str, tmp_path: Path) -> None:
    record = record_of(name)
    (text,) = re.findall(r"```yaml\n(.*?)```", card_of(record), flags=re.DOTALL)
    recipe = tmp_path / f"{record.run['recipe_name']}.yaml"
    recipe.write_text(text, encoding="utf-8")
    command = re.search(r"python training/train.py (\S+\.yaml)(.*)", card_of(record))
    run = parse_arguments([str(recipe), *command[2].split()])
    assert run.recipe_path.name == command[1]
    assert run.stage == record.run.get("stage")
    assert yaml.safe_load(text) == {
        "family": record.family,
        **{section: content for section, content in record.run["recipe"].items() if content},
    }
    assert (run.family, run.training.max_steps) == (record.family, record.run["recipe"]["training"]["max_steps"])


@pytest.mark.parametrize("name", NAMES)
def test_snippets_name_the_repository_once_the_card_is_published(name: str) -> None:
    text = with_repository(card_of(record_of(name)), "user/name")
    assert "PATH_OR_REPOSITORY" not in text
    (snippet,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert '"user/name", trust_remote_code=True' in snippet
    ast.parse(snippet)
    assert "python -m eval.score user/name " in text
    assert 'revision="..."' in text


@pytest.mark.parametrize(
    ("licence", "hub_id"),
    [
        (None, "other"),
        ("BSD-3-Clause", "apache-2.0"),
        ("CC-BY-NC-SA-4.0 (of the original; this copy names none)", "cc-by-nc-sa-4.0"),
        ("CC-BY-SA-3.0, GFDL", "cc-by-sa-3.0"),
        ("Yelp Dataset Terms of Use (the repository names no licence)", "other"),
    ],
)
def test_the_licence_is_that_of_the_data_where_it_asks_for_more_than_credit(licence, hub_id) -> None:
    assert licence_id(licence) == hub_id
    record = record_of(NAMES[0])
    card = card_of(replace(record, facts={**record.facts, "licence": licence}))
    assert f"\nlicense: {hub_id}\n" in card
    assert (licence or "not known") in card
    assert ("license_name: terms-of-the-training-data" in card) == (hub_id == "other")


def test_the_time_of_a_run_is_that_of_its_log_without_breaks() -> None:
    times = [0, 10, 21, 30, 5000, 5010]
    rows = [{"step": step, "time": time, "device": "cpu"} for step, time in enumerate(times)]
    assert training_seconds(rows) == 40
    assert training_seconds(rows[:1]) is None
    machine = {**describe_machine(rows), "processor": "P", "cores": 4, "memory_gib": 8.0}
    line = hardware_line(machine, {"num_processes": 2, "threads": 1})
    assert (
        line == "It took 40 s, held-out scores included, in 2 processes of 1 thread on: P, 4 cores, 8 GiB of memory."
    )
    on_gpu = hardware_line({**machine, "accelerator": "G", "seconds": None}, {"threads": None})
    assert on_gpu == "It ran in 1 process on: G (P, 4 cores, 8 GiB of memory)."
    asked = {"recipe": {"training": {"bf16": True}}}
    assert hardware_line(machine, {**asked, "precision": "float32"}).endswith(
        ", in float32, as that CPU has no bfloat16."
    )
    assert "float32" not in hardware_line(machine, {**asked, "precision": "bfloat16"})


def test_a_card_is_text_whatever_the_model_said() -> None:
    record = record_of("quickstart")
    row = {
        **record.milestones[-1],
        "samples": ["the \x11void\x00 of\x85a \u2028cut \ufffd\ufffd end, \u0939\u093f \U0001f600"],
    }
    card = card_of(replace(record, milestones=[*record.milestones[:-1], row]))
    assert r"the \x11void\x00 of\x85a \u2028cut [cut bytes] end, " in card
    assert "\u0939\u093f \U0001f600" in card
    assert not {"\x00", "\x11", "\x85", "\u2028", "\ufffd"} & set(card)
