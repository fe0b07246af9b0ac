"""A classifier on a trained encoder: labels as they come, its run from the recipe, and what it refuses."""

import json
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoConfig, pipeline

from eval.metrics.classification import Classification
from eval.score import score
from eval.scorers.request import ScoreRequest
from tests.training.families.labelled import FLAGS, train_classifier, train_encoder, write_labelled
from training.common.errors import InputError
from training.data.text_classifier.labels import NUMBER, ONE, SEVERAL, LabelScheme

WORDS = ["good", "bad"] * 4


@pytest.mark.parametrize(
    ("values", "problem_type", "names", "encoded"),
    [
        (WORDS, ONE, ("bad", "good"), [1, 0]),
        ([10, 2, 10, 2], ONE, ("2", "10"), [1, 0]),
        (["10", "2", "10", "2"], ONE, ("2", "10"), [1, 0]),
        ([1.0, 0.0, 1.0, 0.0], ONE, ("0", "1"), [1, 0]),
        ([True, False, True, True], ONE, ("False", "True"), [1, 0]),
        ([["a", "b"], [], ["b"], ["a"]], SEVERAL, ("a", "b"), [[1, 1], [0, 0]]),
        ([0.5, 2, 3.0, 1.25], NUMBER, ("label",), [0.5, 2.0]),
        (["4K", "2", "2", "4K"], ONE, ("2", "4K"), [1, 0]),
        (["0.5", "2", "3"], NUMBER, ("label",), [0.5, 2.0]),
    ],
)
def test_labels_are_what_they_look_like(values: list, problem_type: str, names: tuple, encoded: list) -> None:
    scheme = LabelScheme.found_in(values, "label")
    assert (scheme.problem_type, scheme.names) == (problem_type, names)
    assert scheme.encoded(values, "train")[:2].tolist() == encoded
    fields = scheme.config_fields()
    assert fields["id2label"] == dict(enumerate(names))
    assert {place: name for name, place in fields["label2id"].items()} == fields["id2label"]


@pytest.mark.parametrize(
    ("values", "problem_type", "said"),
    [
        (["a"] * 5, "auto", "'label' has the one class 'a' in the training part"),
        (["a", 1, "a", 1], "auto", "'label' holds numbers ('1') and texts ('a'); give labels of one kind"),
        ([["a"], "a"], "auto", "holds lists (\"['a']\") and texts ('a')"),
        ([f"row {place}" for place in range(9)], "auto", "9 different labels in 9 rows ('row 0', 'row 1'"),
        (["a", "b"], NUMBER, "regression needs numbers, and 'label' holds 'a'"),
        ([[], []], "auto", "has no class at all"),
    ],
)
def test_labels_that_cannot_be_learned_are_refused_by_name(values: list, problem_type: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        LabelScheme.found_in(values, "label", problem_type)
    assert said in str(caught.value)


@pytest.mark.parametrize(("problem_type", "values"), [(ONE, ["good", "fine"]), (SEVERAL, [["good"], ["fine"]])])
def test_a_label_that_the_training_part_lacks_is_named(problem_type: str, values: list) -> None:
    with pytest.raises(InputError, match=r"test has labels that the training part lacks: 'fine' \(1 rows\)"):
        LabelScheme(problem_type, ("bad", "good")).encoded(values, "test")


def test_figures_are_those_of_their_formulas() -> None:
    logits, true = np.array([[2.0, 0.0], [0.0, 2.0], [2.0, 0.0]]), np.array([[1.0, 0.0]] * 2 + [[0.0, 1.0]])
    one = Classification()._compute(logits, true, ONE)
    low, high = np.log1p(np.exp(-2)), np.log1p(np.exp(2))
    assert one["accuracy"] == pytest.approx(1 / 3)
    assert one["loss"] == pytest.approx((low + 2 * high) / 3)
    assert one["quality"] == one["macro_f1"] == pytest.approx((1 / 2 + 0) / 2)
    assert one["mae"] is None
    several = Classification()._compute(
        np.array([[1.0, 1.0], [-1.0, 1.0]]), np.array([[1.0, 0.0], [0.0, 1.0]]), SEVERAL
    )
    assert several["accuracy"] == 0.5
    assert several["micro_f1"] == pytest.approx(4 / 5)
    number = Classification()._compute(np.array([[1.0], [2.0], [4.0]]), np.array([[1.0], [3.0], [4.0]]), NUMBER)
    assert (number["loss"], number["mae"]) == (pytest.approx(1 / 3), pytest.approx(1 / 3))
    assert number["pearson"] == number["quality"] == pytest.approx(np.corrcoef([1, 2, 4], [1, 3, 4])[0, 1])


@pytest.mark.xdist_group("classifier")
def test_a_run_learns_classes_from_an_encoder_and_its_checkpoint_opens_as_one(
    tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture
) -> None:
    folder = tmp_path_factory.mktemp("classes")
    source = write_labelled(folder, lambda kind, place: ["cats", "dogs"][kind], "csv")
    encoder = train_encoder(folder)
    code, run_dir = train_classifier(folder, source, "--init_from", str(encoder))
    said = capsys.readouterr()
    assert code == 0, said.err
    config = AutoConfig.from_pretrained(run_dir)
    assert (config.id2label, config.problem_type) == ({0: "cats", 1: "dogs"}, ONE)
    assert config.hidden_size == AutoConfig.from_pretrained(encoder).hidden_size == 16
    kept = json.loads((run_dir / "results/score.json").read_text())
    assert kept["family"] == "text_classifier"
    assert kept["metrics"]["accuracy"] > 0.9 > kept["baselines"]["most_frequent"]["accuracy"]
    again = score(ScoreRequest(str(run_dir)))
    assert (again["metrics"], again["split"]) == (kept["metrics"], "test")
    told = pipeline("text-classification", model=str(run_dir))("the old cat sees the cow")
    assert told[0]["label"] == "cats"
    card = (run_dir / "README.md").read_text()
    assert "pipeline_tag: text-classification" in card
    assert "| most frequent |" in card
    again, _ = train_classifier(folder, source, "--init_from", str(encoder))
    assert again == 0
    assert "is finished" in capsys.readouterr().out


@pytest.mark.xdist_group("classifier")
@pytest.mark.parametrize(
    ("label", "kind", "figure"),
    [
        (lambda kind, place: [["cat", "pet"], ["pet"]][kind], "jsonl", "accuracy"),
        (lambda kind, place: kind + 0.01 * (place % 7), "jsonl", "pearson"),
    ],
)
def test_several_labels_and_numbers_are_learned_too(label, kind: str, figure: str, tmp_path: Path) -> None:
    source = write_labelled(tmp_path, label, kind)
    code, run_dir = train_classifier(tmp_path, source, *FLAGS)
    assert code == 0
    kept = json.loads((run_dir / "results/score.json").read_text())
    assert kept["metrics"][figure] > 0.6  # guessing gives 0.5, and 0


@pytest.mark.xdist_group("classifier")
def test_the_same_rows_in_parts_give_the_same_loss(tmp_path: Path) -> None:
    source = write_labelled(tmp_path, lambda kind, place: kind, "jsonl")
    rows = []
    for name, size, parts in (("whole", 8, 1), ("parts", 2, 4)):
        flags = ["--per_device_train_batch_size", str(size), "--gradient_accumulation_steps", str(parts)]
        _, run_dir = train_classifier(tmp_path, source, *FLAGS, *flags, "--max_steps", "6", name=name)
        log = map(json.loads, (run_dir / "log.jsonl").read_text().splitlines())
        rows.append([(row["loss"], row["accuracy"]) for row in log if "loss" in row and "accuracy" in row])
    np.testing.assert_allclose(rows[0], rows[1], rtol=1e-5)


@pytest.mark.xdist_group("classifier")
@pytest.mark.parametrize(
    ("content", "flags", "said"),
    [
        ("text,label\na b c,x\n", ["--label_column", "kind"], "has no column 'kind'; it has text (text"),
        ("text,label\n" + "a b c,\n" * 9, [], "column 'label' is missing or null"),
        (None, [], "label_column: 'label' was asked for, but"),
    ],
)
def test_a_source_without_usable_labels_is_refused_in_one_line(
    content: str | None, flags: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    source = tmp_path / ("rows.txt" if content is None else "rows.csv")
    source.write_text("some words\n" * 9 if content is None else content)
    code, _ = train_classifier(tmp_path, source, *FLAGS, *flags)
    assert code == 2
    assert said in capsys.readouterr().err
