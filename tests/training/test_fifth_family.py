"""Another family is a file of its name in each room and a row in each table: nothing that is there is edited."""

import ast
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import eval.score
from eval.diagnose import Limits, diagnose
from tests.fifth_family import NAME, join
from training.common.errors import InputError
from training.run.arguments import parse_arguments
from training.run_folder.checkpoints import list_checkpoints
from training.settings.recipes import family_names
from training.train import main
from training.trainer.trainer import JepaTrainer

TRAINING = Path(__file__).resolve().parents[2] / "training"
# Rooms with a file for each family, and the tables.
OF_FAMILIES = ("data", "families", "settings")

RECIPE = """\
# bigram
family: bigram
model:
  hidden_size: 16
  num_attention_heads: 2
  max_position_embeddings: 16
data:
  data: {data}
  max_vocab: 60
loss:
  smoothing: 0.01
training:
  max_steps: 40
  warmup_steps: 2
  per_device_train_batch_size: 16
  learning_rate: 3e-2
  logging_steps: 5
  save_steps: 10
evaluation:
  eval_steps: 10
  eval_rows: 20
  milestones: [0]
  score_rows: 20
"""


@pytest.fixture(scope="module", autouse=True)
def _joined() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        join(patch)
        yield


@pytest.fixture(scope="module")
def recipe(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(RECIPE.format(data=tiny_data), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def finished(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that went to its end. Read only."""
    folder = tmp_path_factory.mktemp("bigram") / "run"
    assert main([str(recipe), "--output_dir", str(folder), "--device", "cpu"]) == 0
    return folder


def rows_of(folder: Path) -> list[dict]:
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{k: v for k, v in row.items() if k not in ("time", "tokens_per_second")} for row in rows]


def test_it_is_trained_and_its_perplexity_falls(finished: Path) -> None:
    seen = [row["perplexity"] for row in rows_of(finished) if "perplexity" in row]
    held_out = [row["eval_perplexity"] for row in rows_of(finished) if "eval_perplexity" in row]
    assert seen[-1] < 0.5 * seen[0]
    assert held_out[-1] < 0.5 * held_out[0]


def test_its_card_is_made_by_its_own_template(finished: Path) -> None:
    card = (finished / "README.md").read_text(encoding="utf-8")
    assert "A bigram model: it predicts" in card
    assert "40 steps of 16 rows" in card
    assert "smoothing: 0.01" in card


def test_the_best_model_is_scored_at_the_end_and_by_the_command_alike(finished: Path, tmp_path: Path) -> None:
    at_the_end = json.loads((finished / "results" / "score.json").read_text(encoding="utf-8"))
    assert at_the_end["family"] == NAME
    assert at_the_end["metrics"]["perplexity"] < at_the_end["baselines"]["unigram"]["perplexity"]
    told = tmp_path / "score.json"
    assert eval.score.main([str(finished), "--max_rows", "20", "--json", str(told)]) == 0
    assert json.loads(told.read_text(encoding="utf-8"))["metrics"] == at_the_end["metrics"]


def test_a_killed_run_goes_on_to_the_same_bits(
    recipe: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [str(recipe), "--output_dir", str(tmp_path / "run"), "--device", "cpu", "--final_score", "false"]
    begin = JepaTrainer.get_batch_samples

    def dying(self: JepaTrainer, *args: object) -> object:
        if self.state.global_step == 27:
            raise KeyboardInterrupt
        return begin(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(JepaTrainer, "get_batch_samples", dying)
        assert main(command) == 130
    assert main(command) == 0
    last, same = (
        load_file(list_checkpoints(folder)[-1] / "model.safetensors") for folder in (tmp_path / "run", finished)
    )
    assert all(torch.equal(last[name], same[name]) for name in last | same)
    assert rows_of(tmp_path / "run") == rows_of(finished)


def test_a_typo_in_its_recipe_is_named(recipe: Path) -> None:
    with pytest.raises(InputError, match="did you mean --smoothing"):
        parse_arguments([str(recipe), "--smothing", "0.2"])


def test_a_sample_phrase_is_refused_by_name(recipe: Path, tmp_path: Path, capsys) -> None:
    command = [str(recipe), "--output_dir", str(tmp_path / "run"), "--device", "cpu", "--sample_phrases", "the red"]
    assert main(command) == 2
    assert "sample_phrases: got 'the red', but bigram shows no samples" in capsys.readouterr().err


def test_the_doctor_examines_it_with_its_run(finished: Path) -> None:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(finished), AutoTokenizer.from_pretrained(finished)
    report = diagnose(
        model, tokenizer, run=finished, limits=Limits(seconds=20), only=("leak", "parity", "data", "training")
    )
    verdicts = {finding.check: finding.verdict for finding in report.findings}
    assert verdicts["leak.future_tokens"] == "pass"
    assert verdicts["parity.offset"] == "pass"
    assert verdicts["training.loss"] == "pass"


def names_in(source: str) -> Iterator[str]:
    """Names, and strings that are no docstrings."""
    tree = ast.parse(source)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node, clean=False)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute):
            yield node.id if isinstance(node, ast.Name) else node.attr
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.value


def test_training_names_its_families_in_their_rooms_alone() -> None:
    families = [name for name in family_names() if name != NAME]
    classes = ["".join(part.capitalize() for part in name.split("_")) for name in families]
    found = [
        f"{path.relative_to(TRAINING)}: {name}"
        for path in sorted(TRAINING.rglob("*.py"))
        if path.relative_to(TRAINING).parts[0] not in OF_FAMILIES
        for name in names_in(path.read_text(encoding="utf-8"))
        if any(family in name for family in (*families, *classes))
    ]
    assert found == []
