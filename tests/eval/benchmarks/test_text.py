"""The text comparisons at the size of a test: every arm trains, is scored at its marks, and stands in the table."""

import json
import random
import re

import numpy as np
import pytest
import torch
from transformers import AutoModelForMaskedLM

from configuration_jepa import TextJepaConfig
from eval.benchmarks import text_ablation, text_probe, text_twin
from eval.benchmarks.anchors.bert import BertAnchor, bert_config, sparse_scorer
from eval.benchmarks.exams.runs import parse_run
from eval.benchmarks.statistics import first_reach
from eval.benchmarks.text_twin import BASE_RECIPE, base_overrides
from eval.scorers.holes import HoleBatch, make_scorer
from modeling_jepa import TextJepaForMaskedLM
from training.common.errors import InputError

TINY = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_vocab": 60,
    "per_device_train_batch_size": 8,
    "warmup_steps": 1,
    "num_negatives": 8,
}
SET = ["--set", *(f"{name}={value}" for name, value in TINY.items())]
SHARED = [*SET, "num_candidates=8"]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A folder with train, valid and test phrases of eight words."""
    folder = tmp_path_factory.mktemp("text-source")
    generator = random.Random(3)
    words = [f"word{number}" for number in range(50)]
    for name, count in (("train", 80), ("valid", 20), ("test", 20)):
        lines = [" ".join(generator.choices(words, k=8)) for _ in range(count)]
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def run_twin(source, folder, *flags):
    place = ["--out", str(folder / "cells"), "--json", str(folder / "text_twin.json")]
    short = [
        "--marks",
        "2",
        "4",
        "--tuning_steps",
        "2",
        "--eval_steps",
        "2",
        "--seeds",
        "2",
        "--rates",
        "1e-3",
        "2e-3",
    ]
    return text_twin.main(["--data", str(source), *place, *short, *SET, *flags])


def test_the_twin_comparison_tunes_runs_every_arm_and_goes_on_where_it_was(source, tmp_path, cells_in_this_process):
    code = run_twin(source, tmp_path, "--arms", "ours", "softmax", "bert", *SHARED)
    assert code in (0, 1)
    assert len(cells_in_this_process) == 3 * 2 + 3 * 2
    record = json.loads((tmp_path / "text_twin.json").read_text(encoding="utf-8"))
    assert set(record["arms"]) == {"ours", "softmax", "bert"}
    ours = record["arms"]["ours"]
    assert set(ours["at"]) == {"2", "4"}
    assert ours["seeds"] == [0, 1]
    assert set(ours["tuning_mrr_on_valid"]) == {"0.001", "0.002"}
    assert record["arms"]["softmax"]["to_twins_final_mrr"]["of"] == 2
    assert record["against_twin"]["ours"]["4"]["top1"].keys() == {"difference", "low", "high"}
    assert str(source.parent) not in record["command"]
    table = (tmp_path / "text_twin.md").read_text(encoding="utf-8")
    assert re.search(r"^\| ours, 4 \| 2 \|", table, flags=re.MULTILINE)
    assert record["command"] in table

    cells_in_this_process.clear()
    assert run_twin(
        source, tmp_path, "--seeds", "1", "--arms", "ours", "softmax", "bert", "prototype", "prototype_tuned", *SHARED
    ) in (0, 1)
    assert {name.split("/")[0] for name in cells_in_this_process} == {
        "prototype", "prototype_tuned-0.001", "prototype_tuned-0.002", "prototype_tuned"
    }  # fmt: skip
    record = json.loads((tmp_path / "text_twin.json").read_text(encoding="utf-8"))
    assert record["arms"]["prototype"]["learning_rate"] == 3e-4
    assert record["arms"]["prototype"]["tuning_mrr_on_valid"] is None
    assert set(record["mrr_over_the_prototypes"]) == {"prototype", "prototype_tuned"}
    assert text_twin.main(["--data", str(source), "--table", "--json", str(tmp_path / "empty.json")]) == 0


def test_with_seconds_an_arm_has_as_many_steps_as_fit(source, tmp_path, cells_in_this_process):
    arguments = ["--seeds", "1", "--arms", "ours_shared", "softmax", *SHARED]
    assert run_twin(source, tmp_path, *arguments) in (0, 1)
    for path in (tmp_path / "cells" / "tuning").rglob("*.json"):
        cell = json.loads(path.read_text(encoding="utf-8"))
        cell["training_cpu_seconds"] = 2.0 if path.name.startswith("ours") else 4.0
        path.write_text(json.dumps(cell), encoding="utf-8")
    assert run_twin(source, tmp_path, *arguments, "--seconds", "6") in (0, 1)
    record = json.loads((tmp_path / "text_twin.json").read_text(encoding="utf-8"))
    assert {name: list(arm["at"]) for name, arm in record["arms"].items()} == {"ours_shared": ["6"], "softmax": ["3"]}
    assert set(record["against_twin"]["ours_shared"]) == {"6"}
    assert "--seconds 6" in record["command"]
    assert "--marks" not in record["command"]


def test_prototype_and_ours_differ_in_objective_and_share_trunk_and_data(source, repository, monkeypatch, tmp_path):
    monkeypatch.chdir(repository)
    overrides = base_overrides(str(source), {"learning_rate": 1e-3})
    ours = parse_run(BASE_RECIPE, overrides, 0, 200, tmp_path)
    prototype = parse_run(text_twin.ARMS["prototype"]["recipe"], overrides, 0, 200, tmp_path)
    assert (prototype.data, prototype.training) == (ours.data, ours.training)
    assert {**prototype.model, "head": "cosine"} == ours.model
    assert prototype.masking.masking == "single"
    assert prototype.loss["ranking"] == "sampled"
    assert prototype.loss["target_gradient"] == "positive"
    opened = {**overrides, **text_twin.ARMS["prototype_all_gradients"]["overrides"]}
    assert parse_run(text_twin.ARMS["prototype"]["recipe"], opened, 0, 200, tmp_path).loss["target_gradient"] == "all"


def test_the_anchor_has_the_size_of_ours_within_two_percent():
    config = TextJepaConfig(vocab_size=8000, hidden_size=128, num_hidden_layers=2, num_attention_heads=4)
    with torch.device("meta"):
        sizes = [
            sum(p.numel() for p in model.parameters())
            for model in (TextJepaForMaskedLM(config), BertAnchor(bert_config(config)))
        ]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.02)


@pytest.fixture(scope="module")
def anchor():
    torch.manual_seed(0)
    config = TextJepaConfig(vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    return BertAnchor(bert_config(config)).eval()


def test_the_anchor_gives_the_librarys_loss_and_its_share_of_a_window(anchor):
    ids = torch.randint(5, 40, (3, 7), generator=torch.Generator().manual_seed(1))
    labels = torch.where(torch.arange(7) % 3 == 0, ids, -100)
    own = anchor(ids, torch.ones_like(ids), labels, num_items_in_batch=18)
    stock = super(BertAnchor, anchor).forward(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels)
    torch.testing.assert_close(own.loss * 18 / 9, stock.loss)
    torch.testing.assert_close(own.logits, stock.logits[labels != -100])


def test_the_anchor_is_asked_sparsely_with_the_same_answers(anchor):
    ids = torch.randint(5, 40, (4, 6), generator=torch.Generator().manual_seed(2))
    places, targets = torch.tensor([0, 2, 5, 1]), torch.tensor([7, 8, 9, 10])
    batch = HoleBatch(np.arange(4), ids, torch.ones_like(ids), places, targets)
    with torch.inference_mode():
        sparse, dense = sparse_scorer(anchor)(batch), make_scorer(anchor)(batch)
    torch.testing.assert_close(sparse.logits, dense.logits)
    torch.testing.assert_close(sparse.vectors, dense.vectors)


def test_a_curve_reaches_a_goal_between_its_points_or_never():
    curve = [
        {"step": 100, "cpu_seconds": 10.0, "mrr": 0.1},
        {"step": 200, "cpu_seconds": 20.0, "mrr": 0.3},
    ]
    assert first_reach(curve, 0.2) == pytest.approx({"step": 150, "cpu_seconds": 15.0})
    assert first_reach(curve, 0.05) == {"step": 100, "cpu_seconds": 10.0}
    assert first_reach(curve, 0.31) is None


def test_differences_pair_the_same_blanks_only():
    def cells(ranks, blanks):
        return [{"seed": 0, "ranks": {"5": ranks}, "clusters": [0, 0, 1, 1], "blanks": blanks}]

    found = text_twin.differences(cells([1, 1, 2, 1], "a"), cells([2, 1, 2, 2], "a"), "5")
    assert found["top1"]["difference"] == pytest.approx(0.5)
    assert found["mrr"]["difference"] == pytest.approx(0.25)
    with pytest.raises(InputError, match="different blanks"):
        text_twin.differences(cells([1, 1, 1, 1], "a"), cells([1, 1, 1, 1], "b"), "5")


def test_requirements_hold_the_bounds_of_the_vocabulary():
    def required(size, difference, high):
        pair = {"5": {"top1": {"difference": difference, "high": high}}}
        record = {
            "max_vocab": size,
            "against_twin": {"ours_shared": pair},
            "against_shared_twin": {"ours_shared": pair},
        }
        return list(text_twin.COMPARISON.required(record).values())

    assert required(8000, 0.03, 0.0) == [True, True]
    assert required(8000, 0.029, -0.001) == [False, False]
    assert required(32000, 0.05, 0.001) == [False, True]
    assert required(32000, 0.08, 0.001) == [True, True]


def test_the_ablation_grid_is_whole_and_its_cells_keep_models_that_the_probe_opens(
    source, tmp_path, cells_in_this_process
):
    options = text_ablation.COMPARISON.parser().parse_args(["--data", str(source), "--out", str(tmp_path)])
    assert len(text_ablation.COMPARISON.plan(options, {})) == 1 + 27 + 3
    place = ["--out", str(tmp_path), "--json", str(tmp_path / "text_ablation.json"), "--steps", "2"]
    assert text_ablation.main(["--data", str(source), *place, "--only", "contextual, sigreg", *SET]) == 0
    record = json.loads((tmp_path / "text_ablation.json").read_text(encoding="utf-8"))
    assert len(record["arms"]) == 4
    assert all(1 <= arm["effective_rank"] <= 16 for arm in record["arms"].values())

    checkpoint = tmp_path / "checkpoints" / "rate-contextual-sigreg-seed0"
    assert AutoModelForMaskedLM.from_pretrained(checkpoint).config.collapse_protection == "sigreg"
    labelled = [{"text": f"word{n % 50} word{n % 7}", "label": n % 2} for n in range(40)]
    for name in ("train", "test"):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, labelled)), encoding="utf-8")
    flags = ["--data", str(tmp_path), "--checkpoints", str(checkpoint), "--json", str(tmp_path / "probe.json")]
    assert text_probe.main(flags) == 0
    accuracy = json.loads((tmp_path / "probe.json").read_text(encoding="utf-8"))["accuracy"]
    beside = {f"{checkpoint.name}: mean of its tokens' rows", "random encoder", "TF-IDF of the words"}
    assert set(accuracy) == {checkpoint.name, *beside, "most frequent label"}


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--set", "hidden_size"], "KEY=VALUE"),
        (["--set", "hiden_size=16"], "hidden_size"),
        (["--data", "nowhere"], "nowhere"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(flags, named, source, tmp_path, capsys, cells_in_this_process):
    data = [] if "--data" in flags else ["--data", str(source)]
    assert text_twin.main([*data, "--json", str(tmp_path / "x.json"), "--out", str(tmp_path), *flags]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ")
    assert "\n" not in error
    assert named in error


def test_a_probe_source_without_labels_is_named(tmp_path, capsys):
    (tmp_path / "train.jsonl").write_text('{"text": "a"}\n', encoding="utf-8")
    flags = ["--data", str(tmp_path), "--checkpoints", "x", "--json", str(tmp_path / "p.json")]
    assert text_probe.main(flags) == 2
    assert "train.jsonl needs lines with `text` and an integer `label`" in capsys.readouterr().err
