"""The dialogue comparison at the size of a test: every arm trains, is scored, paired, and stands in the table."""

import json
import math
import re

import pytest
import torch

from configuration_jepa import DialogueJepaConfig
from eval.benchmarks import dialogue_twin, readme_tables
from eval.benchmarks.anchors.dialogue import ANCHOR_FIELDS, ANCHORS
from eval.benchmarks.exams.runs import parse_run
from modeling_jepa import DialogueJepaForConditionalGeneration
from training.common.errors import InputError

TINY = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "decoder_layers": 1,
    "num_attention_heads": 2,
    "num_latents": 2,
    "max_position_embeddings": 24,
    "max_reply_length": 10,
    "max_vocab": 300,
    "per_device_train_batch_size": 8,
    "warmup_steps": 1,
    "bf16": "false",
}
SHORT = ["--seeds", "2", "--steps", "3", "--tuning_steps", "2", "--eval_steps", "2", "--eval_rows", "20"]
TWINS = ("bi_encoder", "seq2seq", "no_latent")


def flags(talks, folder, *more):
    place = [
        "--data",
        str(talks),
        "--out",
        str(folder / "cells"),
        "--json",
        str(folder / "dialogue_twin.json"),
    ]
    return [
        *place,
        *SHORT,
        "--greedy_replies",
        "8",
        *more,
        "--set",
        *(f"{key}={value}" for key, value in TINY.items()),
    ]


def test_the_twin_tunes_each_arm_by_its_own_figure_and_goes_on_where_it_was(talks, tmp_path, cells_in_this_process):
    arguments = flags(talks, tmp_path, "--rates", "1e-3", "2e-3", "--arms", "ours", "bi_encoder")
    assert dialogue_twin.main([*arguments, "--seeds", "1"]) in (0, 1)
    assert len(cells_in_this_process) == 2 * 2 + 2
    cells_in_this_process.clear()
    assert dialogue_twin.main(arguments) in (0, 1)
    assert cells_in_this_process == ["ours/1", "bi_encoder/1"]
    arms = json.loads((tmp_path / "dialogue_twin.json").read_text(encoding="utf-8"))["arms"]
    for name, cost in (("ours", lambda value: value > 1), ("bi_encoder", lambda value: -1 <= value < 0)):
        tried = arms[name]["tuning_cost_on_valid"]
        assert set(tried) == {"0.001", "0.002"}
        assert all(map(cost, tried.values()))
        assert f"{arms[name]['learning_rate']:g}" == min(tried, key=tried.get)


def test_every_arm_is_scored_on_the_same_pairs_and_stands_in_the_tables(
    talks, tmp_path, cells_in_this_process, monkeypatch
):
    arguments = flags(talks, tmp_path, "--rates", "1e-3")
    assert dialogue_twin.main(arguments) in (0, 1)
    assert len(cells_in_this_process) == 5 * 2
    record = json.loads((tmp_path / "dialogue_twin.json").read_text(encoding="utf-8"))
    arms = record["arms"]
    assert list(arms) == ["ours", "ours_latent", "bi_encoder", "seq2seq", "no_latent"]
    assert arms["ours"]["seeds"] == [0, 1]
    assert (record["num_examples"], record["num_dialogues"]) == (30, 10)
    for name, arm in arms.items():  # a model that has learnt nothing may say single words, which have no distinct-2
        known = {metric for metric, figure in arm["figures"].items() if figure["mean"] is not None}
        meant = set(ANCHORS[name].figures if name in TWINS else dialogue_twin.METRICS)
        assert known | ({"distinct_2"} & meant) == meant
    for name in ("ours", "ours_latent"):
        figure = arms[name]["figures"]["latent_usage_ratio"]["mean"]
        assert arms[name]["usage"]["ratio"] == pytest.approx(figure, rel=1e-3)
    assert len(record["required"]) >= 5
    assert str(talks.parent) not in record["command"]

    table = (tmp_path / "dialogue_twin.md").read_text(encoding="utf-8")
    assert re.search(r"^\| no_latent \| 2 \|", table, flags=re.MULTILINE)
    assert re.search(r"^\| word overlap \|", table, flags=re.MULTILINE)
    assert re.search(r"^- ours / seq2seq: perplexity \d.*\[", table, flags=re.MULTILINE)
    assert re.search(r"^- required: .*within its spread: (yes|NO)$", table, flags=re.MULTILINE)
    assert record["command"] in table
    monkeypatch.setattr(readme_tables, "RESULTS", tmp_path)
    page = readme_tables.filled("<!-- results:dialogue_twin -->\n<!-- /results:dialogue_twin -->\n")
    assert page.count("\n| ") == 2 + 5 + len(record["baselines"])
    assert "| ours, the latent alone | 2 |" in page


def test_arms_differ_in_the_loss_and_in_what_the_decoder_sees_alone(talks, repository, monkeypatch, tmp_path):
    monkeypatch.chdir(repository)
    options = dialogue_twin.COMPARISON.parser().parse_args(["--data", str(talks), "--set", "bf16=true"])
    cells = dialogue_twin.COMPARISON.plan(options, dict.fromkeys(dialogue_twin.ARMS, 4e-3))
    made = {cell.arm.name: cell.arm.settings["overrides"] for cell in cells}
    runs = {name: parse_run(dialogue_twin.RECIPE, one, 0, 10, tmp_path) for name, one in made.items()}
    ours = runs["ours"]
    for run in runs.values():
        assert (run.data, run.training) == (ours.data, ours.training)
        assert {**run.model, "context_access": ""} == {**ours.model, "context_access": ""}
    assert runs["ours_latent"].loss == ours.loss
    access = {name: run.model["context_access"] for name, run in runs.items()}
    assert access.pop("ours") == access.pop("seq2seq") == "both"
    assert set(access.values()) == {"latent"}


def test_the_decoders_rate_keeps_the_recipes_proportion(talks, repository, monkeypatch, tmp_path):
    monkeypatch.chdir(repository)
    given = ["--data", str(talks), "--set", "learning_rate=0.008", "decoder_learning_rate=0.002"]
    options = dialogue_twin.COMPARISON.parser().parse_args(given)
    arm = dialogue_twin.COMPARISON.arm("ours", "ours", 4e-3, {}, options)
    assert arm.settings["overrides"]["decoder_learning_rate"] == pytest.approx(1e-3)


def make(name, **changes):
    torch.manual_seed(0)
    size = {"vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = DialogueJepaConfig(
        **{**size, "decoder_layers": 1, "num_latents": 2, "initializer_range": 0.3, **ANCHOR_FIELDS[name], **changes}
    )
    return ANCHORS[name].model_class(config).train()


@pytest.fixture(scope="module")
def batch():
    generator = torch.Generator().manual_seed(1)
    return {
        "input_ids": torch.randint(5, 60, (4, 6), generator=generator),
        "attention_mask": torch.ones(4, 6, dtype=torch.long),
        "labels": torch.randint(5, 60, (4, 5), generator=generator),
    }


@pytest.mark.parametrize("name", TWINS)
def test_all_that_a_twin_learns_gets_a_gradient_and_nothing_else(name, batch):
    model = make(name)
    model(**batch).loss.backward()
    learns = {key for key, parameter in model.named_parameters() if parameter.requires_grad}
    moved = {key for key, parameter in model.named_parameters() if parameter.grad is not None and parameter.grad.any()}
    assert learns == moved
    assert not model.has_teacher


@pytest.mark.parametrize("name", TWINS)
def test_a_twin_has_our_sizes(name):
    ours = DialogueJepaForConditionalGeneration(make(name).config)
    shapes = {key: parameter.shape for key, parameter in ours.named_parameters()}
    for key, parameter in make(name).named_parameters():
        assert parameter.shape == shapes[key]


def test_the_bi_encoder_learns_the_cross_entropy_of_cosines_through_both_sides(batch):
    model = make("bi_encoder")
    said = torch.cat((torch.full((4, 1), model.config.bos_token_id), batch["labels"]), dim=1)
    replies = model.read_replies(said)
    assert replies.requires_grad
    cosines = model.latent_cosines(model.model(batch["input_ids"]).predicted_latents, replies)
    wanted = torch.nn.functional.cross_entropy(cosines / 0.05, torch.arange(4))
    torch.testing.assert_close(model(**batch).loss, wanted)


def decoded(model, batch, **changes):
    with torch.inference_mode():
        said = model.prepare_decoder_input_ids_from_labels(batch["labels"])
        return model.eval()(**{**batch, "labels": None, "decoder_input_ids": said, **changes}).logits


def test_sequence_to_sequence_is_the_plain_cross_entropy_and_reads_the_context_without_latents(batch):
    model = make("seq2seq")
    loss = model(**batch).loss
    torch.testing.assert_close(
        loss, torch.nn.functional.cross_entropy(decoded(model, batch).flatten(0, 1), batch["labels"].flatten())
    )
    read = model.model(batch["input_ids"], batch["attention_mask"])
    own = decoded(model, batch)
    read.predicted_latents = torch.randn_like(read.predicted_latents)
    torch.testing.assert_close(decoded(model, batch, encoder_outputs=read), own)
    read.last_hidden_state = torch.randn_like(read.last_hidden_state)
    assert (decoded(model, batch, encoder_outputs=read) - own).abs().max() > 1e-3


def test_sequence_to_sequence_does_not_see_the_contexts_padding(batch):
    model = make("seq2seq")
    padded = {
        "input_ids": torch.nn.functional.pad(batch["input_ids"], (0, 3), value=0),
        "attention_mask": torch.nn.functional.pad(batch["attention_mask"], (0, 3)),
        "labels": batch["labels"],
    }
    torch.testing.assert_close(decoded(model, padded), decoded(model, batch), atol=1e-5, rtol=1e-5)


def test_the_twin_without_latents_says_the_same_whatever_the_context(batch):
    model = make("no_latent")
    other = {**batch, "input_ids": batch["input_ids"].flip(1)}
    assert torch.equal(decoded(model, other), decoded(model, batch))
    said = [
        model.generate(input_ids=each["input_ids"], attention_mask=each["attention_mask"], do_sample=False)
        for each in (batch, other)
    ]
    assert torch.equal(*said)
    assert (said[0] == said[0][:1]).all()


def cell(nll, seed=0, asked="a", mrr=None):
    examples = {"ids": [1, 2, 3], "clusters": [0, 0, 1]} | ({} if mrr is None else {"mrr": mrr})
    return {"seed": seed, "asked": asked, "dialogues": {"nll": nll, "tokens": [10, 30]}, "examples": examples}


def test_ratios_are_of_perplexities_per_token_over_dialogues_and_common_seeds():
    found = dialogue_twin.perplexity_ratio([cell([20.0, 90.0]), cell([0.0, 0.0], seed=1)], [cell([25.0, 105.0])])
    assert found["ratio"] == pytest.approx(math.exp(-20 / 40))
    assert found["low"] == pytest.approx(found["high"])  # both dialogues differ by as much a token
    assert dialogue_twin.perplexity_ratio([cell([1.0, 2.0])], [cell([1.0, 2.0], seed=1)]) == {}
    with pytest.raises(InputError, match="different pairs"):
        dialogue_twin.perplexity_ratio([cell([1.0, 2.0])], [cell([1.0, 2.0], asked="b")])


def test_differences_of_ranks_are_paired_by_example():
    first, second = cell([1.0, 1.0], mrr=[1.0, 0.5, 1.0]), cell([1.0, 1.0], mrr=[0.5, 0.5, 0.5])
    assert dialogue_twin.rank_differences([first], [second])["mrr"]["difference"] == pytest.approx(1 / 3)
    assert dialogue_twin.rank_differences([first], [cell([1.0, 1.0])]) == {}


def judged(**changes):
    """A record in which all holds by a hair, with changes."""
    bounds = {"hits": -0.01, "mrr": -0.01, "seq2seq": 1.0, "usage": 1.2, "no_latent": 0.98}
    at = {**bounds, "ours_2": 0.3, "twins_2": 0.3, **changes}
    figures = {
        "ours": {"distinct_2": {"mean": at["ours_2"]}},
        "ours_latent": {"latent_usage_ratio": {"mean": at["usage"]}},
        "bi_encoder": {metric: {"sd": 0.01} for metric in ("hits_at_1", "mrr")},
        "seq2seq": {"distinct_2": {"mean": at["twins_2"]}},
    }
    return {
        "arms": {name: {"figures": found} for name, found in figures.items()},
        "perplexity_ratios": {
            "seq2seq": {"ours": {"ratio": at["seq2seq"]}},
            "no_latent": {"ours_latent": {"ratio": at["no_latent"]}},
        },
        "retrieval_differences": {"ours": {"hits_at_1": {"difference": at["hits"]}, "mrr": {"difference": at["mrr"]}}},
    }


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({}, None),
        ({"hits": -0.011}, 0),
        ({"mrr": -0.011}, 1),
        ({"seq2seq": 1.001}, 2),
        ({"usage": 1.19}, 3),
        ({"no_latent": 0.981}, 4),
        ({"twins_2": 0.31}, 5),
    ],
)
def test_each_requirement_holds_up_to_its_bound(changes, place):
    holds = list(dialogue_twin.COMPARISON.required(judged(**changes)).values())
    assert holds == [index != place for index in range(6)]


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        (["--set", "hidden_size"], "KEY=VALUE"),
        (["--set", "hiden_size=16"], "hidden_size"),
        (["--data", "nowhere"], "nowhere"),
        (["--steps", "0"], "max_steps"),
        (["--recipe", "nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(changed, named, talks, tmp_path, capsys, cells_in_this_process):
    data = [] if "--data" in changed else ["--data", str(talks)]
    place = ["--json", str(tmp_path / "x.json"), "--out", str(tmp_path), "--rates", "1e-3"]
    assert dialogue_twin.main([*data, *place, *changed]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ")
    assert "\n" not in error
    assert named in error
