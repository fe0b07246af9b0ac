"""The video model in training: what a run tells and leaves, exact resumes with a curriculum, one clip learnt by heart,
advice, bad input.
"""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModel

from eval.advice.patterns import look
from eval.advice.run_log import RunFacts, RunLog
from eval.loading import open_tokenizer
from tests.faults.harness import Ending, assert_same_run, before_step, die, import_everything, log_rows, train
from training.data.video_jepa.clips import as_frames
from training.data.video_jepa.prepared import PreparedClips
from training.families import load_family
from training.run.arguments import parse_arguments
from training.trainer.build import build_config, build_model, prepare_data

RECIPE = """\
# tiny
family: video_jepa
model:
  hidden_size: 16
  num_hidden_layers: 1
  num_attention_heads: 2
  latent_size: 8
  max_position_embeddings: 6
  frame_size: 16
  dropout: 0.1
data:
  num_clips: 48
  code_levels: [4, 4]
masking:
  curriculum_frames: [2, 4, 6]
training:
  max_steps: 18
  warmup_steps: 2
  per_device_train_batch_size: 8
  learning_rate: 1e-2
  final_learning_rate: 1e-3
  logging_steps: 4
  save_steps: 6
evaluation:
  eval_steps: 9
  eval_rows: 8
  milestones: [0, 6]
  score_rows: 4
  final_score: false
"""


@pytest.fixture(scope="module", autouse=True)
def _imported(quick_pictures: None) -> None:
    import_everything()
    import training.families.video_jepa  # noqa: F401


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recipe above, whose frame tokenizer is made at once: children find it in the cache."""
    path = tmp_path_factory.mktemp("video") / "tiny.yaml"
    path.write_text(RECIPE, encoding="utf-8")
    run = parse_arguments([str(path)])
    prepare_data(run, load_family(run.family))
    return path


@pytest.fixture(scope="module")
def finished(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ending]:
    """A run that went to its end. Read only."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    ending = train(recipe, folder, "--final_score true")
    assert ending.code == 0, ending
    return folder, ending


def built(recipe: Path, *flags: str) -> tuple[torch.nn.Module, PreparedClips]:
    """The model that a run starts with, and its data."""
    run = parse_arguments([str(recipe), "--device", "cpu", *flags])
    family = load_family(run.family)
    prepared = prepare_data(run, family)
    return build_model(run, family, build_config(run, family, prepared), prepared), prepared


# ---- what a run tells and leaves ----


def test_a_run_starts_with_the_pictures_of_its_tokenizer_and_the_counts_of_the_codes(recipe: Path) -> None:
    model, prepared = built(recipe)
    assert torch.equal(model.model.codes.values, prepared.tokenizer.values)
    assert model.token_counts.tolist() == prepared.counts.tolist()
    assert model.token_counts.argmax() == prepared.tokenizer.encode(torch.zeros(1, 1, 1, 16, 16)).flatten()[0]


def test_every_part_of_the_loss_stands_in_the_log_from_the_first_step(finished) -> None:
    rows = [row for row in log_rows(finished[0]) if "loss" in row]
    assert rows[0]["step"] == 1
    for row in rows:
        assert {"prediction", "accuracy", "cos_mean", "learning_rate", "grad_norm", "passes"} <= row.keys()
    assert rows[0]["loss"] == pytest.approx(rows[0]["prediction"], rel=1e-5)


def test_a_held_out_row_has_loss_accuracy_and_error_beside_guessers(finished) -> None:
    rows = [row for row in log_rows(finished[0]) if "eval_mse" in row]
    assert [row["step"] for row in rows] == [0, 6, 9, 18]
    for name in ("black", "copy_last", "mean_frame"):  # these do not learn
        assert len({row[f"eval_{name}_mse"] for row in rows}) == 1
    assert rows[-1]["eval_future_loss"] < 0.9 * rows[0]["eval_future_loss"]
    assert 0 <= rows[-1]["eval_future_accuracy"] <= 1


def test_held_out_figures_are_those_of_the_score_on_the_same_clips(finished, recipe: Path) -> None:
    from eval.scorers.video import score_clips
    from training.families.video_held_out import future_figures

    model = AutoModel.from_pretrained(finished[0])
    _, prepared = built(recipe)
    ours = future_figures(model, prepared.tokenizer, prepared.valid, prepared.mean_picture, 5)
    score = score_clips(model, prepared.valid, prepared.mean_picture, max_rows=5, sampled_clips=1)
    assert ours["mse"] == pytest.approx(score.metrics["mse"], rel=1e-5)
    for name in ("black", "copy_last", "mean_frame"):
        assert ours[f"{name}_mse"] == pytest.approx(score.baselines[name]["mse"], rel=1e-5)


def test_milestones_tell_the_error_of_a_clip_by_frame(finished) -> None:
    found = json.loads((finished[0] / "results" / "milestones.json").read_text(encoding="utf-8"))["milestones"]
    assert [row["step"] for row in found] == [0, 6, 18]
    for row in found:
        (sample,) = row["samples"]
        assert sample.startswith("clip 0, squared error of frames 4 to 6: ")
        assert "copy last" in sample


def test_the_tokenizer_lies_beside_the_model_and_codes_as_it_does(finished, recipe: Path) -> None:
    tokenizer, model = open_tokenizer(finished[0]), AutoModel.from_pretrained(finished[0])
    frames = as_frames(torch.from_numpy(built(recipe)[1].valid[[0, 1]]["frames"]))
    assert torch.equal(tokenizer.encode(frames), model.model.codes.encode(frames))
    assert (finished[0] / "checkpoint-18" / "frame_tokenizer.safetensors").is_file()


def test_pictures_of_predicted_clips_lie_beside_the_model(finished) -> None:
    plots = finished[0] / "plots"
    assert (plots / "clips.gif").read_bytes()[:4] == b"GIF8"
    assert (plots / "clips.png").read_bytes()[:4] == b"\x89PNG"
    assert (plots / "frames.png").read_bytes()[:4] == b"\x89PNG"


def test_the_card_shows_score_baselines_and_what_coding_costs(finished) -> None:
    folder, _ = finished
    card = (folder / "README.md").read_text(encoding="utf-8")
    score = json.loads((folder / "results" / "score.json").read_text(encoding="utf-8"))
    for name, figures in (("this model", score["metrics"]), *score["baselines"].items()):
        assert f"| {name.replace('_', ' ')} | {figures['mse']:.3f} | {figures['mae']:.3f} |" in card
    report = open_tokenizer(folder).report
    assert f"squared error of {report['reconstruction_mse']:.2f} per frame" in card
    assert "--digits builtin:digits --split test --max_rows 4 " in card
    assert "![truth, prediction and difference](plots/clips.gif)" in card
    assert "in the style of Moving MNIST" in card


def test_a_dry_run_counts_clips_and_says_what_the_codes_are(recipe: Path, tmp_path: Path) -> None:
    ending = train(recipe, tmp_path / "run", "--dry_run")
    assert ending.code == 0, ending
    assert "48 clips of 6 frames of 16 x 16 pixels: 1.15k tokens, 16 codes" in ending.out
    assert "(every clip is seen so often)" in ending.out
    assert "video tokens" in ending.out
    assert not (tmp_path / "run").exists()


# ---- resumes ----


@pytest.mark.parametrize("killed_before", [7, 13])
def test_a_run_killed_amid_its_curriculum_ends_with_the_same_bits(
    recipe: Path, tmp_path: Path, whole: Path, killed_before: int
) -> None:
    ending = train(recipe, tmp_path / "run", hurt=before_step(killed_before, die))
    assert ending.code < 0, ending
    ending = train(recipe, tmp_path / "run")
    assert ending.code == 0, ending
    assert_same_run(whole, tmp_path / "run")


@pytest.fixture(scope="module")
def whole(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing interrupted. Read only."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    ending = train(recipe, folder)
    assert ending.code == 0, ending
    return folder


def test_clips_grow_longer_while_a_run_goes_on(whole: Path, recipe: Path) -> None:
    run = parse_arguments([str(recipe)])
    family = load_family(run.family)
    prepared = prepare_data(run, family)
    config = build_config(run, family, prepared)
    masker = family.data.make_masker(run.masking, prepared.tokenizer, seed=1, config=config)
    assert [masker.length_at(step / 18) for step in (0, 3, 6, 17)] == [2, 4, 6, 6]


# ---- where a run may start ----


def test_a_run_starts_with_weights_and_codes_of_another(recipe: Path, finished) -> None:
    model, prepared = built(recipe, "--init_from", str(finished[0]))
    theirs = AutoModel.from_pretrained(finished[0]).state_dict()
    state = model.state_dict()
    assert all(torch.equal(state[name], theirs[name]) for name in theirs)
    assert torch.equal(prepared.tokenizer.values, model.model.codes.values)


# ---- learning ----


def test_one_clip_is_learnt_by_heart(recipe: Path, tmp_path: Path) -> None:
    flags = (
        "--num_clips 1 --per_device_train_batch_size 1 --max_steps 250 --dropout 0 --hidden_size 64 --save_steps 250"
    )
    flags += " --objective future --context_frames 3 --mask_ratio_start 1 --curriculum_frames --eval_steps 250"
    flags += " --logging_steps 10 --milestones --final_learning_rate 1e-4"
    ending = train(recipe, tmp_path / "run", flags)
    assert ending.code == 0, ending
    assert [row["loss"] for row in log_rows(tmp_path / "run") if "loss" in row][-1] < 0.1


def test_a_hundred_clips_are_overfitted(recipe: Path, tmp_path: Path) -> None:
    flags = (
        "--num_clips 100 --per_device_train_batch_size 20 --max_steps 300 --dropout 0 --hidden_size 64 --milestones"
    )
    flags += " --objective future --context_frames 3 --mask_ratio_start 1 --curriculum_frames --eval_steps 300"
    flags += " --optimizer muon --logging_steps 10 --save_steps 300"
    ending = train(recipe, tmp_path / "run", flags)
    assert ending.code == 0, ending
    rows = log_rows(tmp_path / "run")
    learnt = [row["loss"] for row in rows if "loss" in row][-1]
    held_out = [row["eval_future_loss"] for row in rows if "eval_future_loss" in row]
    assert learnt < held_out[-1] / 3
    assert held_out[-1] > held_out[0] / 2


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_both_optimizers_train(recipe: Path, optimizer: str) -> None:
    run = parse_arguments([str(recipe), "--optimizer", optimizer])
    model, _ = built(recipe)
    groups = load_family(run.family).make_optimizer(model, run).param_groups
    assert {id(p) for group in groups for p in group["params"]} == {id(p) for p in model.parameters()}
    muons = {id(p) for group in groups if group["muon"] for p in group["params"]}
    names = {name for name, p in model.named_parameters() if id(p) in muons}
    assert ("model.layers.0.time_attn.q_proj.weight" in names) is (optimizer == "muon")
    assert all(".layers." in name for name in names)


# ---- advice ----

FACTS = RunFacts("video_jepa", max_steps=1000, warmup_steps=50, learning_rate=3e-4)


def healthy(**changed) -> RunLog:
    """A run whose training loss rises, as more is hidden; `changed`: figure -> function of the step."""
    usual = {
        "loss": lambda step: 0.2 + step / 1000,
        "grad_norm": lambda step: 1.0,
        "eval_future_loss": lambda step: 1.2 - step / 2000,
        "eval_mse": lambda step: 160 - step / 20,
        "eval_black_mse": lambda step: 171.0,
        "eval_mean_frame_mse": lambda step: 151.0,
    } | changed
    rows = []
    for step in range(100, 1001, 100):
        rows.append({"step": step, **{name: of(step) for name, of in usual.items() if "eval" not in name}})
        rows.append({"step": step, **{name: of(step) for name, of in usual.items() if "eval" in name}})
    return RunLog(rows)


def test_a_healthy_run_whose_masks_grow_is_told_nothing() -> None:
    assert look(healthy(), FACTS) == []


@pytest.mark.parametrize(
    ("changed", "pattern"),
    [
        ({"loss": lambda step: float("nan") if step == 1000 else 0.5}, "explosion"),
        ({"grad_norm": lambda step: 900.0 if step == 1000 else 1.0}, "explosion"),
        ({"eval_future_loss": lambda step: 1.2}, "loss_not_falling"),
        ({"eval_future_loss": lambda step: 0.5 if step == 100 else 0.9}, "explosion"),
        ({"eval_mse": lambda step: 155.0}, "no_better_than_guessed"),
        ({"eval_future_loss": lambda step: 1.2 - step / 2000 if step < 700 else 0.95}, "overfitting"),
    ],
)
def test_each_fault_is_named(changed: dict, pattern: str) -> None:
    assert look(healthy(**changed), FACTS)[0].pattern == pattern


def test_a_model_worse_than_the_mean_frame_is_given_half_of_its_steps() -> None:
    young = RunLog([row for row in healthy(eval_mse=lambda step: 155.0).held_out if row["step"] < 500])
    assert look(young, FACTS) == []


# ---- bad input ----


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ("--digits /no/such/place", "digits"),
        ("--curriculum_frames 2 4", "curriculum_frames"),
        ("--context_frames 6", "context_frames"),
    ],
)
def test_bad_input_ends_with_one_line_that_names_it(recipe: Path, tmp_path: Path, flags: str, named: str) -> None:
    ending = train(recipe, tmp_path / "run", flags)
    assert ending.code == 2
    assert ending.last_line.startswith("error: ")
    assert named in ending.last_line
