"""The staged generator in training: growing from stage to stage, what the log says, exact resumes, bad input."""

import json
import random
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from eval.score import main as score_main
from tests.faults.harness import (
    Ending,
    assert_resumes_exactly,
    assert_same_run,
    before_step,
    die,
    fork,
    import_everything,
    log_rows,
    train,
)
from training.common.errors import InputError
from training.run.arguments import parse_arguments

RECIPE = """\
# tiny
family: staged_generator
model:
  hidden_size: 16
  num_hidden_layers: 2
  num_attention_heads: 2
  embedding_size: 16
  num_semantic_blocks: 4
  max_position_embeddings: 32
  routing_occurrences: 2
  dropout: 0.1
data:
  data: {data}
  max_vocab: 300
training:
  max_steps: 18
  warmup_steps: 2
  per_device_train_batch_size: 4
  learning_rate: 3e-3
  logging_steps: 4
  save_steps: 6
  credit_steps: 4
evaluation:
  eval_steps: 9
  eval_rows: 6
  milestones: [0, 6]
  sample_phrases: ["the red dog"]
  final_score: false
"""

Train = Callable[..., Ending]


@pytest.fixture(scope="module", autouse=True)
def _imported() -> None:
    import_everything()
    import training.families.staged_generator  # noqa: F401


def documents(seed: int, count: int) -> list[str]:
    """Texts of a small grammar."""
    generator = random.Random(seed)
    adjectives, nouns, verbs = "red old big wet".split(), "dog cat cow hen fox".split(), "sees eats finds".split()
    return [
        " ".join(
            f"the {generator.choice(adjectives)} {generator.choice(nouns)} {generator.choice(verbs)} a bird ."
            for _ in range(generator.randrange(1, 4))
        )
        for _ in range(count)
    ]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recipe above and its data."""
    folder = tmp_path_factory.mktemp("generator")
    for seed, (name, count) in enumerate((("train", 90), ("valid", 12), ("test", 12))):
        (folder / f"{name}.txt").write_text("\n".join(documents(seed, count)) + "\n", encoding="utf-8")
    path = folder / "tiny.yaml"
    path.write_text(RECIPE.format(data=folder), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def stages(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Path], list[Ending]]:
    """Folders and endings of four runs, each from the one before. Read only."""
    folder, endings = tmp_path_factory.mktemp("stages"), []
    folders = [folder / f"staged-{stage}" for stage in range(4)]
    for stage, run in enumerate(folders):
        start = f"--init_from {folders[stage - 1]}" if stage else ""
        endings.append(train(recipe, run, f"--stage {stage} {start} --final_score true"))
        assert endings[-1].code == 0, endings[-1]
    return folders, endings


def milestones(folder: Path) -> dict:
    return json.loads((folder / "results" / "milestones.json").read_text(encoding="utf-8"))


# ---- growing ----


def test_a_stage_starts_with_the_logits_of_the_stage_before(stages) -> None:
    folders, endings = stages
    for stage in (1, 2, 3):
        assert (
            f"stage {stage} starts from stage {stage - 1} in {folders[stage - 1].name}: same logits"
            in endings[stage].out
        )
        growth = milestones(folders[stage])["growth"]
        assert (growth["from_stage"], growth["to_stage"]) == (stage - 1, stage)
        assert growth["largest_change"] < 1e-6
        assert growth["tokens"] > 50


def test_a_stage_may_be_left_out_and_one_may_go_on_with_itself(recipe: Path, stages, tmp_path: Path) -> None:
    folders, _ = stages
    for stage in (0, 2):
        flags = f"--stage {stage} --init_from {folders[0]} --max_steps 1 --warmup_steps 0"
        ending = train(recipe, tmp_path / str(stage), flags)
        assert ending.code == 0, ending
        assert f"stage {stage} starts from stage 0 in {folders[0].name}: same logits" in ending.out


def test_stage_3_from_nothing_is_warned_about_and_grown_is_not(recipe: Path, stages, tmp_path: Path) -> None:
    ending = train(recipe, tmp_path / "run", "--stage 3 --max_steps 3 --warmup_steps 1")
    assert ending.code == 0, ending
    assert "advice: stage 3 from nothing" in ending.out
    assert "stage 3 from nothing" not in stages[1][3].out


# ---- what a run tells ----


def test_a_training_row_holds_loss_perplexity_and_greedy_accuracy(stages) -> None:
    rows = [row for row in log_rows(stages[0][0]) if "loss" in row]
    assert rows[0]["step"] == 1
    for row in rows:
        assert row["perplexity"] == pytest.approx(2.718281828459045 ** row["cross_entropy"])
        assert 0 <= row["accuracy"] <= 1


def test_a_held_out_row_stands_beside_the_unigram_guess(stages) -> None:
    rows = [row for row in log_rows(stages[0][0]) if "eval_perplexity" in row]
    assert [row["step"] for row in rows] == [0, 6, 9, 18]
    named = "perplexity word_perplexity bits_per_byte greedy_accuracy unigram_accuracy block_cosine effective_rank"
    assert {f"eval_{name}" for name in named.split()} <= rows[0].keys()
    assert rows[-1]["eval_perplexity"] < rows[0]["eval_perplexity"]


def test_the_kept_checkpoint_is_that_of_the_lowest_perplexity(stages) -> None:
    state = json.loads((stages[0][0] / "checkpoint-18" / "run_state.json").read_text(encoding="utf-8"))
    values = {row["step"]: row["eval_perplexity"] for row in log_rows(stages[0][0]) if "eval_perplexity" in row}
    assert values[18] < values[9]
    assert state["best_step"] == 18
    assert state["best_value"] == pytest.approx((values[9] + values[18]) / 2)


def test_milestones_show_greedy_and_sampled_text_with_what_can_be_counted_of_it(stages) -> None:
    rows = milestones(stages[0][0])["milestones"]
    assert [row["step"] for row in rows] == [0, 6, 18]
    for row in rows:
        assert row["samples"][0].startswith("the red dog ... greedy: ")
        assert "top-k 50, temperature 0.7: " in row["samples"][0]


def test_the_card_shows_the_score_beside_its_baselines(stages) -> None:
    for stage, folder in enumerate(stages[0]):
        card = (folder / "README.md").read_text(encoding="utf-8")
        score = json.loads((folder / "results" / "score.json").read_text(encoding="utf-8"))
        assert f"grown to stage {stage} of 3" in card
        for name, figures in (("this model", score["metrics"]), *score["baselines"].items()):
            assert f"| {name} | {figures['perplexity']:,.1f} | {figures['word_perplexity']:,.1f} |" in card
        assert ("Attention by kind of edge: near" in card) == (stage == 3)
        assert "pipeline_tag: text-generation" in card


def test_a_checkpoint_still_says_that_generation_uses_the_cache(stages) -> None:
    assert json.loads((stages[0][0] / "config.json").read_text(encoding="utf-8"))["use_cache"] is True


def test_the_command_in_the_card_gives_the_figures_of_the_card(stages, tmp_path: Path) -> None:
    folder = stages[0][3]
    card = (folder / "README.md").read_text(encoding="utf-8")
    command = next(line for line in card.splitlines() if line.startswith("python -m eval.score "))
    data = json.loads((folder / "run.json").read_text(encoding="utf-8"))["recipe"]["data"]["data"]
    command = command.replace("PATH_OR_REPOSITORY", str(folder)).replace("scores.json", "")
    words = shlex.split(command.replace(f"PATH/TO/{Path(data).name}", data))
    assert score_main([*words[3:-1], "--json", str(tmp_path / "again.json"), "--device", "cpu"]) == 0
    again = json.loads((tmp_path / "again.json").read_text(encoding="utf-8"))
    stored = json.loads((folder / "results" / "score.json").read_text(encoding="utf-8"))
    assert (again["num_rows"], again["metrics"]) == (stored["num_rows"], stored["metrics"])


def test_the_snippet_in_the_card_runs(stages) -> None:
    folder = stages[0][3]
    card = (folder / "README.md").read_text(encoding="utf-8")
    (snippet,) = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    snippet = snippet.replace("PATH_OR_REPOSITORY", str(folder)).replace(", trust_remote_code=True", "")

    def run() -> int:
        exec(compile(snippet, "card", "exec"), {})
        return 0

    ending = fork(run)
    assert ending.code == 0, ending
    assert ending.out.strip().startswith("Once upon a time")


def test_credit_is_given_at_stage_2_and_named_in_the_log(stages) -> None:
    for stage, folder in enumerate(stages[0]):
        rows = [row for row in log_rows(folder) if "loss" in row]
        shares = [{name: v for name, v in row.items() if name.startswith("credit/")} for row in rows]
        assert all(bool(row) == (stage == 2) for row in shares)
        for row in shares if stage == 2 else ():
            assert sum(row.values()) == pytest.approx(1)
            assert {"credit/embedding.tokens", "credit/layer_1.mlp", "credit/head"} <= set(row)


def test_prompts_are_continued_every_so_many_steps_without_a_change_of_the_run(
    recipe: Path, stages, tmp_path: Path
) -> None:
    ending = train(recipe, tmp_path / "run", "--stage 0 --sample_steps 5 --final_score true")
    assert ending.code == 0, ending
    assert ending.out.count("sample: the red dog ... greedy: ") == 3
    assert [row["step"] for row in log_rows(tmp_path / "run") if "samples" in row] == [5, 10, 15]
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (tmp_path / "run", stages[0][0]))
    assert all((ours[name] == theirs[name]).all() for name in theirs)


def test_a_dry_run_counts_tokens_and_says_that_it_is_too_small_for_language(recipe: Path, tmp_path: Path) -> None:
    ending = train(recipe, tmp_path / "run", "--dry_run")
    assert ending.code == 0, ending
    assert "tokens to predict in" in ending.out
    assert "parameters are too few to learn language" in ending.out
    assert "tokens are too few to learn language" in ending.out


def test_accumulated_batches_give_the_losses_of_one_large_batch(recipe: Path, tmp_path: Path) -> None:
    """The tokens of blocks differ in number, so a mean of means would be another loss."""
    halves = "--per_device_train_batch_size 2 --gradient_accumulation_steps 2"
    for name, flags in (("whole", ""), ("halves", halves)):
        ending = train(recipe, tmp_path / name, f"--stage 1 --dropout 0 --logging_steps 1 --max_steps 12 {flags}")
        assert ending.code == 0, ending
    whole, half = ([row for row in log_rows(tmp_path / name) if "loss" in row] for name in ("whole", "halves"))
    for name in ("loss", "cross_entropy", "accuracy", "grad_norm"):
        assert [row[name] for row in half] == pytest.approx([row[name] for row in whole], rel=1e-4), name


# ---- learning a new text and keeping the old one ----


@pytest.fixture
def adaptation(tmp_path: Path) -> Path:
    """A recipe that names neither size nor vocabulary, and texts of another kind."""
    folder = tmp_path / "new"
    folder.mkdir()
    for name, count in (("train", 60), ("valid", 10), ("test", 10)):
        lines = [f"a hen finds {number % 7} birds and eats the big cat ." for number in range(count)]
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    recipe = RECIPE.format(data=folder)
    sizes = recipe[recipe.index("model:") : recipe.index("data:")]
    path = tmp_path / "adapt.yaml"
    path.write_text(recipe.replace(sizes, "").replace("  max_vocab: 300\n", ""), encoding="utf-8")
    return path


def test_a_checkpoint_is_adapted_as_it_is_and_the_text_to_keep_is_scored_beside_the_new_one(
    recipe: Path, stages, adaptation: Path, tmp_path: Path
) -> None:
    flags = f"--init_from {stages[0][1]} --credit adapt --keep {recipe.parent} --final_score true"
    ending = train(adaptation, tmp_path / "run", flags)
    assert ending.code == 0, ending
    run, before = (json.loads((folder / "config.json").read_text()) for folder in (tmp_path / "run", stages[0][1]))
    assert all(run[name] == before[name] for name in ("hidden_size", "num_hidden_layers", "vocab_size", "stage"))
    rows = [row for row in log_rows(tmp_path / "run") if "eval_perplexity" in row]
    kept = [row["eval_keep_perplexity"] for row in log_rows(stages[0][1]) if "eval_keep_perplexity" in row]
    assert kept == []
    assert all(row["eval_keep_perplexity"] > 1 for row in rows)
    assert rows[0]["eval_keep_perplexity"] != rows[-1]["eval_keep_perplexity"]
    card = (tmp_path / "run" / "README.md").read_text()
    assert "which was to be kept" in card
    assert str(tmp_path) not in card


def test_a_text_to_keep_that_is_none_is_named(stages, adaptation: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("\n\n")
    for text in (tmp_path / "empty.txt", tmp_path / "nowhere.txt"):
        ending = train(adaptation, tmp_path / "run", f"--init_from {stages[0][1]} --keep {text}")
        assert ending.code == 2
        assert "error: keep: " in ending.err


# ---- exact resumes ----

KINDS = {
    "stage 0": "--stage 0",
    "stage 1 by Muon": "--stage 1 --optimizer muon",
    "credit": "--stage 2",
    "credit by Muon": "--stage 2 --optimizer muon --credit_steps 3",
    "adaptation by Muon": "--stage 1 --credit adapt --optimizer muon --credit_steps 3",
    "accumulation": "--stage 2 --per_device_train_batch_size 2 --gradient_accumulation_steps 2",
    "routing": "--stage 3 --credit analyse",
    "checkpointing in bf16": "--stage 3 --gradient_checkpointing true --bf16",
    "decorrelation": "--stage 0 --semantic_blocks full --block_decorrelation_weight 0.1 --z_loss_weight 1e-4",
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_run_goes_on_to_the_same_bits(recipe: Path, tmp_path: Path, kind: str) -> None:
    assert_resumes_exactly(recipe, tmp_path, f"{KINDS[kind]} --save_steps 8")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_killed_run_from_a_stream_goes_on_to_the_same_bits(recipe: Path, tmp_path: Path, workers: int) -> None:
    (tmp_path / "shards").mkdir()
    for shard in range(3):
        rows = [json.dumps({"text": text}) for text in documents(10 + shard, 60)]
        (tmp_path / "shards" / f"train-{shard:05d}.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    flags = f"--data {tmp_path / 'shards'} --streaming true --stream_window 16 --stream_sample 100 --save_steps 7"
    flags += f" --stage 1 --dataloader_num_workers {workers}"
    assert train(recipe, tmp_path / "whole", flags).code == 0
    assert train(recipe, tmp_path / "run", flags, before_step(10, die)).code == -9
    ending = train(recipe, tmp_path / "run", flags)
    assert ending.code == 0, ending
    assert_same_run(tmp_path / "whole", tmp_path / "run")


def test_a_killed_run_that_grew_goes_on_to_the_same_bits_even_where_its_origin_is_gone(
    recipe: Path, stages, tmp_path: Path
) -> None:
    folders, _ = stages
    origin = tmp_path / folders[0].name
    shutil.copytree(folders[0], origin)
    flags = f"--stage 1 --init_from {origin} --final_score true"
    assert train(recipe, tmp_path / "run", flags, before_step(10, die)).code == -9
    shutil.rmtree(origin)
    ending = train(recipe, tmp_path / "run", flags)
    assert ending.code == 0, ending
    assert_same_run(folders[1], tmp_path / "run")
    assert milestones(tmp_path / "run") == milestones(folders[1])


# ---- bad input ----


def test_the_stage_is_a_flag_and_no_key_of_a_recipe(recipe: Path, tmp_path: Path) -> None:
    assert parse_arguments([str(recipe)]).stage == 0
    assert parse_arguments([str(recipe), "--stage", "2"]).config_fields["stage"] == 2
    changed = tmp_path / "changed.yaml"
    changed.write_text("family: staged_generator\nmodel:\n  stage: 1\n", encoding="utf-8")
    with pytest.raises(InputError, match="unknown key 'stage'"):
        parse_arguments([str(changed)])


@pytest.mark.parametrize(
    ("from_stage", "flags", "said"),
    [
        (1, "--stage 0", "is of stage 1, and this run trains stage 0; give a checkpoint of stage 0 or below"),
        (0, "--stage 1 --hidden_size 32", "has another size (hidden_size 16 there and 32 here, intermediate_size"),
        (0, "--stage 1 --num_hidden_layers 3", "has another size (num_hidden_layers 2 there and 3 here)"),
        (0, "--stage 1 --semantic_blocks full", "has another size (semantic_blocks simple there and full here)"),
        (0, "--stage 1 --max_vocab 400", "has another tokenizer (max_vocab 300 there and 400 here)"),
        (0, "--stage 1 --tokenizer elsewhere", "has another tokenizer (tokenizer 'bpe' there and 'elsewhere' here)"),
    ],
)
def test_a_checkpoint_that_a_run_cannot_start_from_is_refused_before_the_data_is_read(
    recipe: Path, stages, tmp_path: Path, from_stage: int, flags: str, said: str
) -> None:
    origin = stages[0][from_stage]
    ending = train(recipe, tmp_path / "run", f"{flags} --init_from {origin} --data {tmp_path / 'no-data.txt'}")
    assert ending.code == 2
    assert ending.last_line.startswith(f"error: init_from: {origin} ")
    assert said in ending.last_line
    assert "training rows" not in ending.out


@pytest.mark.parametrize("flags", ["--stage 2", "--stage 0 --optimizer muon", "--stage 1 --credit analyse"])
def test_credit_and_muon_are_refused_where_an_engine_holds_the_optimizer_in_pieces(
    recipe: Path, tmp_path: Path, flags: str
) -> None:
    def shard() -> None:
        from training.trainer.trainer import JepaTrainer

        JepaTrainer._is_sharded = property(lambda self: True)

    ending = train(recipe, tmp_path / "run", flags, shard)
    assert ending.code == 2
    assert "credit and optimizer: FSDP and DeepSpeed keep weights and optimizer in pieces" in ending.last_line
    assert "--credit off --optimizer adamw" in ending.last_line


def test_a_checkpoint_of_another_family_or_none_at_all_is_refused(
    recipe: Path, finished_run: Path, tmp_path: Path
) -> None:
    ending = train(recipe, tmp_path / "run", f"--init_from {finished_run}")
    assert ending.code == 2
    assert "is a text_jepa model, and this recipe trains a staged_generator" in ending.last_line
    ending = train(recipe, tmp_path / "run", f"--init_from {tmp_path / 'nowhere'}")
    assert ending.code == 2
    assert "no checkpoint at" in ending.last_line
