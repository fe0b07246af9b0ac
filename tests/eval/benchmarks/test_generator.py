"""The generator's comparisons at the size of a test: every arm trains, is scored, paired, and stands in the table."""

import json
import math
import random
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from configuration_jepa import StagedGeneratorConfig
from eval.benchmarks import comparison, generator_stages, generator_twin
from eval.benchmarks.anchors.gpt2_and_llama import (
    ANCHORS,
    build_anchor,
    count_parameters,
    document_mask,
    full_precision_sdpa,
    matching_size,
)
from eval.benchmarks.exams.runs import parse_run
from eval.benchmarks.statistics import first_reach, interval_of_sums, paired_interval
from modeling_jepa import StagedGeneratorForCausalLM
from training.common.errors import InputError

TINY = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "embedding_size": 16,
    "num_semantic_blocks": 4,
    "time_dim": 4,
    "max_position_embeddings": 16,
    "max_vocab": 300,
    "documents": "rows",
    "per_device_train_batch_size": 4,
    "warmup_steps": 1,
    "credit_steps": 1,
}
SHORT = ["--seeds", "2", "--steps", "3", "--tuning_steps", "2", "--eval_steps", "2", "--eval_rows", "4"]
SIZE = {"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "embedding_size": 32}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A folder with train, valid and test documents of twelve words."""
    folder = tmp_path_factory.mktemp("generator-source")
    generator = random.Random(3)
    words = [f"word{number}" for number in range(30)]
    for name, count in (("train", 60), ("valid", 10), ("test", 6)):
        lines = [" ".join(generator.choices(words, k=12)) for _ in range(count)]
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def flags(source, folder, name, *more, **changed):
    settings = {**TINY, **changed}
    place = ["--data", str(source), "--out", str(folder / "cells"), "--json", str(folder / f"{name}.json")]
    return [*place, *SHORT, *more, "--set", *(f"{key}={value}" for key, value in settings.items())]


def test_the_twin_tunes_runs_every_arm_on_the_same_tokens_and_goes_on_where_it_was(
    source, tmp_path, cells_in_this_process
):
    arguments = flags(source, tmp_path, "twin", "--rates", "1e-3", "2e-3", "--marks", "2")
    assert generator_twin.main([*arguments, "--arms", "ours", "gpt2"]) in (0, 1)
    assert len(cells_in_this_process) == 2 * 2 + 2 * 2
    cells_in_this_process.clear()
    assert generator_twin.main([*arguments, "--arms", "ours", "gpt2", "llama", "llama_muon"]) in (0, 1)
    assert {name.split("/")[0] for name in cells_in_this_process} == {
        "llama-0.001", "llama-0.002", "llama", "llama_muon-0.001", "llama_muon-0.002", "llama_muon"
    }  # fmt: skip

    record = json.loads((tmp_path / "twin.json").read_text(encoding="utf-8"))
    arms = record["arms"]
    assert list(arms) == ["ours", "gpt2", "llama", "llama_muon"]
    assert set(arms["ours"]["at"]) == {"2", "3"}
    assert arms["ours"]["seeds"] == [0, 1]
    assert set(arms["gpt2"]["tuning_perplexity_on_valid"]) == {"0.001", "0.002"}
    assert len({arm["training_tokens"] for arm in arms.values()}) == 1
    assert all(abs(arm["num_parameters"] / arms["ours"]["num_parameters"] - 1) <= 0.02 for arm in arms.values())
    assert all(abs(arm["at"]["3"]["leak_gap"]["mean"]) < 1e-4 for arm in arms.values())
    assert arms["llama"]["to_llamas_final_perplexity"]["of"] == 2
    assert set(record["required"]) == {
        "perplexity at most 0.95 times that of gpt2", "perplexity at most 1.02 times that of llama"
    }  # fmt: skip
    assert str(source.parent) not in record["command"]
    table = (tmp_path / "twin.md").read_text(encoding="utf-8")
    assert re.search(r"^\| llama, 3 \| 2 \|", table, flags=re.MULTILINE)
    assert re.search(r"^- ours / llama: perplexity \d.*, per word \d", table, flags=re.MULTILINE)
    assert record["command"] in table


def test_the_stages_branch_from_one_checkpoint_and_stand_beside_stage_0_continued(
    source, tmp_path, cells_in_this_process
):
    arms = ["stage 0", "stage 1", "stage 2", "stage 2, equal rate", "stage 3"]
    arguments = flags(source, tmp_path, "stages", "--base_steps", "2", "--arms", *arms)
    assert generator_stages.main(arguments) == 0
    assert cells_in_this_process[0] == "base/0"
    record = json.loads((tmp_path / "stages.json").read_text(encoding="utf-8"))
    assert list(record["arms"]) == arms
    for arm in record["arms"].values():
        assert arm["growth"]["largest_change"] < 1e-5
    assert set(record["ratios"]["stage 0"]) == set(arms) - {"stage 0"}
    assert record["arms"]["stage 2"]["at"]["3"]["loss"]["mean"] == pytest.approx(
        math.log(record["arms"]["stage 2"]["at"]["3"]["perplexity"]["mean"]), rel=1e-3
    )
    assert record["before"]["perplexity"] > 1
    cells_in_this_process.clear()
    assert generator_stages.main([*arguments, "--table"]) == 0
    assert cells_in_this_process == []


def test_stages_from_nothing_are_trained_once_more_for_as_long_as_stage_0_takes(
    source, tmp_path, cells_in_this_process
):
    arms = ["stage 0", "stage 3"]
    arguments = flags(source, tmp_path, "stages", "--from_nothing", "--arms", *arms)
    assert generator_stages.main(arguments) == 0
    for path in (tmp_path / "cells" / "runs").rglob("*.json"):
        cell = json.loads(path.read_text(encoding="utf-8"))
        cell["training_cpu_seconds"] = 2.0 if path.name.startswith("stage_0") else 3.0
        path.write_text(json.dumps(cell), encoding="utf-8")
    assert generator_stages.main([*arguments, "--equal_time"]) == 0
    record = json.loads((tmp_path / "stages.json").read_text(encoding="utf-8"))
    assert list(record["arms"]) == [*arms, "stage 3, equal time"]
    assert list(record["arms"]["stage 3, equal time"]["at"]) == ["2"]  # 3 steps at 2 s against 3 s
    assert record["ratios"]["stage 0"]["stage 3, equal time"]["2"]["perplexity"]["ratio"] > 0
    assert all(arm["growth"] is None for arm in record["arms"].values())
    assert "--from_nothing --equal_time --arms 'stage 0' 'stage 3'" in record["command"]


def test_every_control_of_credit_has_an_arm_that_the_recipe_understands(source, repository, monkeypatch, tmp_path):
    monkeypatch.chdir(repository)
    runs = {
        name: parse_run(generator_twin.RECIPE, {"data": str(source), **changes}, 0, 10, tmp_path)
        for name, changes in generator_stages.ARMS.items()
    }
    assert {run.training.credit_control for run in runs.values()} == {
        "none", "gradient_scaling", "random_part", "equal_rate"
    }  # fmt: skip
    assert [run.stage for run in runs.values()] == [0, 1, 2, 2, 2, 2, 3]


def test_twin_arms_differ_in_network_and_optimizer_alone(source, repository, monkeypatch, tmp_path):
    monkeypatch.chdir(repository)
    options = generator_twin.COMPARISON.parser().parse_args(["--data", str(source), "--out", str(tmp_path)])
    cells = generator_twin.COMPARISON.plan(options, dict.fromkeys(generator_twin.ARMS, 2e-3))
    made = {cell.arm.name: cell.arm.settings for cell in cells}
    runs = {name: parse_run(one["recipe"], one["overrides"], 0, 10, tmp_path) for name, one in made.items()}
    ours = runs["ours"]
    for run in runs.values():
        assert (run.data, run.model, run.loss) == (ours.data, ours.model, ours.loss)
        assert replace(run.training, optimizer=ours.training.optimizer) == ours.training
    assert [run.training.optimizer for run in runs.values()][1:] == ["adamw", "adamw", "muon", "adamw"]


@pytest.mark.parametrize("name", ANCHORS)
def test_an_anchor_has_the_size_of_ours_within_two_percent_and_its_usual_shape(name):
    ours = StagedGeneratorConfig(
        vocab_size=8000, hidden_size=192, num_hidden_layers=5, num_attention_heads=6, embedding_size=192
    )
    sizes = [
        count_parameters(lambda: build_anchor(name, ours)), count_parameters(lambda: StagedGeneratorForCausalLM(ours))
    ]  # fmt: skip
    assert sizes[0] == pytest.approx(sizes[1], rel=0.02)
    width, inner = matching_size(name, ours)
    assert inner / width == pytest.approx(ANCHORS[name].usual_ratio, rel=0.2)


def test_a_size_that_no_width_matches_is_bad_input():
    ours = StagedGeneratorConfig(**{**SIZE, "vocab_size": 5000, "embedding_size": 1, "num_semantic_blocks": 1})
    ours.num_attention_heads = 16
    with pytest.raises(InputError, match=r"llama: no width gives .* parameters within 2%"):
        matching_size("llama", ours)


@pytest.fixture(scope="module", params=list(ANCHORS))
def anchor(request):
    torch.manual_seed(0)
    return build_anchor(request.param, StagedGeneratorConfig(**SIZE, max_position_embeddings=32)).eval()


@pytest.fixture(scope="module")
def packed():
    """Ids and positions of two rows of three documents each, the last place of the second row padded."""
    ids = torch.randint(5, 300, (2, 24), generator=torch.Generator().manual_seed(1))
    positions = (torch.arange(24) % 8).expand(2, -1).clone()
    positions[1, -1] = 0
    return ids, positions


def test_an_anchor_learns_the_librarys_loss_of_each_document_by_itself(anchor, packed):
    ids, positions = packed
    labels = torch.where(positions > 0, ids, -100)
    whole = anchor(ids, torch.ones_like(ids), positions, labels)
    documents = torch.cat([ids[:, start : start + 8] for start in (0, 8, 16)])
    alone = documents.clone()
    alone[:, 0] = -100
    alone[-1, -1] = -100
    stock = super(type(anchor), anchor).forward(documents, labels=alone)
    torch.testing.assert_close(whole.loss, stock.loss)
    assert whole.loss_parts["cross_entropy"][1] == (labels[:, 1:] != -100).sum()
    twice = anchor(ids, torch.ones_like(ids), positions, labels, num_items_in_batch=82)
    torch.testing.assert_close(twice.loss * 82, whole.loss * (labels[:, 1:] != -100).sum())


def test_an_anchor_sees_no_other_document_and_nothing_later(anchor, packed):
    ids, positions = packed
    changed = ids.clone()
    changed[:, 12] = (ids[:, 12] + 1) % 300
    with torch.inference_mode():
        before, after = (anchor(each, torch.ones_like(ids), positions).logits for each in (ids, changed))
    moved = (before - after).abs().amax(-1) > 1e-6
    assert moved[:, 12:16].all()
    assert not moved[:, :12].any()
    assert not moved[:, 16:].any()


def test_documents_are_told_apart_by_positions():
    mask = document_mask(torch.tensor([[0, 1, 0, 1]]))[0, 0]
    assert mask.int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]]


def test_llama_drops_what_our_recipe_drops_and_only_in_training():
    torch.manual_seed(0)
    model = build_anchor("llama", StagedGeneratorConfig(**SIZE, dropout=0.5))
    ids = torch.randint(5, 300, (1, 8))
    assert not torch.equal(model.train()(ids).logits, model(ids).logits)
    assert torch.equal(model.eval()(ids).logits, model(ids).logits)


def test_anchors_attend_in_float32_under_a_cpus_autocast():
    states = [torch.randn(1, 2, 5, 8).bfloat16() for _ in range(3)]
    with torch.autocast("cpu", torch.bfloat16):
        assert full_precision_sdpa(torch.nn.Module(), *states, None)[0].dtype == torch.float32


def cells(nll, seed=0, asked="a"):
    return [
        {
            "seed": seed,
            "asked": asked,
            "documents": {"5": nll},
            "tokens": [10, 30],
            "marks": {"5": {"words": 20}},
        }
    ]


def test_ratios_are_of_perplexities_per_token_and_per_word_over_documents():
    found = generator_twin.ratios(cells([20.0, 90.0]), cells([25.0, 105.0]), "5")
    assert found["nll_per_token"]["difference"] == pytest.approx(-20 / 40)
    assert found["perplexity"]["ratio"] == pytest.approx(math.exp(-20 / 40))
    assert found["word_perplexity"]["ratio"] == pytest.approx(math.exp(-20 / 20))
    assert found["perplexity"]["low"] == found["perplexity"]["high"]  # both documents differ by as much a token
    assert generator_twin.ratios(cells([1.0, 2.0]), cells([1.0, 2.0], seed=1), "5") == {}
    with pytest.raises(InputError, match="different tokens"):
        generator_twin.ratios(cells([1.0, 2.0]), cells([1.0, 2.0], asked="b"), "5")


@pytest.mark.parametrize(("gpt2", "llama", "holds"), [(0.95, 1.02, True), (0.951, 1.02, False), (0.95, 1.03, False)])
def test_requirements_compare_token_perplexity_at_the_end(gpt2, llama, holds):
    pairs = {
        name: {"ours": {"9": {"perplexity": {"ratio": ratio}}}} for name, ratio in (("gpt2", gpt2), ("llama", llama))
    }
    assert all(generator_twin.held(pairs, "9", generator_twin.REQUIRED).values()) is holds


def test_a_falling_curve_reaches_a_goal_between_its_points_or_never():
    curve = [
        {"step": 100, "cpu_seconds": 10.0, "perplexity": 300.0},
        {"step": 200, "cpu_seconds": 20.0, "perplexity": 100.0},
    ]
    found = first_reach(curve, 200.0, "perplexity", lower_is_better=True)
    assert found == pytest.approx({"step": 150, "cpu_seconds": 15.0})
    assert first_reach(curve, 99.0, "perplexity", lower_is_better=True) is None


def test_a_rate_at_the_edge_of_its_grid_is_named():
    tried = {"0.001": 9.0, "0.002": 8.0, "0.004": 7.0}
    assert comparison.at_edge(0.004, tried)
    assert not comparison.at_edge(0.002, tried)
    assert not comparison.at_edge(0.002, {})


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        (["--set", "hidden_size"], "KEY=VALUE"),
        (["--set", "hiden_size=16"], "hidden_size"),
        (["--data", "nowhere"], "nowhere"),
        (["--marks", "5000"], "marks"),
    ],
)
@pytest.mark.parametrize("command", [generator_twin, generator_stages])
def test_bad_input_is_one_line_and_exit_code_2(
    command, changed, named, source, tmp_path, capsys, cells_in_this_process
):
    data = [] if "--data" in changed else ["--data", str(source)]
    place = ["--json", str(tmp_path / "x.json"), "--out", str(tmp_path)]
    assert command.main([*data, *place, *changed]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ")
    assert "\n" not in error
    assert named in error


def test_paired_sums_give_the_interval_of_paired_examples():
    first, second = np.random.default_rng(0).random((2, 3, 20))
    clusters = np.repeat(np.arange(5), 4)
    sums = (first - second).reshape(3, 5, 4).sum(-1)
    assert paired_interval(first, second, clusters) == interval_of_sums(sums, np.full(5, 4.0))
