"""The dialogue model in training: what a run tells and leaves, where it may start, exact resumes, bad input."""

import json
import random
from pathlib import Path

import datasets
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    Lfm2Config,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
)

from eval.replies.index import ReplyIndex
from tests.clean_process import run_clean
from tests.faults.harness import Ending, assert_resumes_exactly, import_everything, log_rows, train
from training.common.errors import InputError
from training.families import dialogue_answers, load_family
from training.families.dialogue_answers import Answers
from training.run.arguments import parse_arguments
from training.trainer.build import build_config, build_model, prepare_data

RECIPE = """\
# tiny
family: dialogue_jepa
model:
  hidden_size: 16
  num_hidden_layers: 1
  num_attention_heads: 2
  decoder_layers: 1
  num_latents: 2
  max_position_embeddings: 32
  max_reply_length: 12
  dropout: 0.1
data:
  data: {data}
  max_vocab: 300
loss:
  bag_weight: 0.3
training:
  max_steps: 18
  warmup_steps: 2
  per_device_train_batch_size: 8
  learning_rate: 3e-3
  logging_steps: 4
  save_steps: 6
evaluation:
  eval_steps: 9
  eval_rows: 30
  milestones: [0, 6]
  sample_phrases: ["do you see the cat?"]
  final_score: false
"""


@pytest.fixture(scope="module", autouse=True)
def _imported() -> None:
    import_everything()
    import training.families.dialogue_jepa
    import training.init_from.pretrained_decoder  # noqa: F401


def dialogues(seed: int, count: int) -> list[dict]:
    """Questions and answers of a small grammar; an answer repeats what was asked for."""
    generator = random.Random(seed)
    nouns, verbs = "dog cat cow hen fox owl ant bee".split(), "see hear find like".split()
    rows = []
    for _ in range(count):
        noun, verb, number = generator.choice(nouns), generator.choice(verbs), generator.randrange(100)
        turns = [f"do you {verb} the {noun}?", f"yes, i {verb} {number} of them.", f"only {number}?"]
        rows.append({"turns": turns[: generator.randrange(2, 4)]})
    return rows


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recipe above and its data."""
    folder = tmp_path_factory.mktemp("dialogue")
    for seed, (name, count) in enumerate((("train", 80), ("valid", 40), ("test", 20))):
        lines = [json.dumps(row) for row in dialogues(seed, count)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    path = folder / "tiny.yaml"
    path.write_text(RECIPE.format(data=folder), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def finished(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ending]:
    """A run that went to its end. Read only."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    ending = train(recipe, folder, "--final_score true --max_steps 60 --eval_steps 30")
    assert ending.code == 0, ending
    return folder, ending


@pytest.fixture(scope="module")
def language_model(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny causal language model of the library, with the tokenizer of this data."""
    folder = tmp_path_factory.mktemp("language-model")
    run = parse_arguments([str(recipe)])
    tokenizer = prepare_data(run, load_family(run.family)).tokenizer
    torch.manual_seed(3)
    # Deeper than the encoder, whose depth a cache must not go by.
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=64, **sizes)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def built(recipe: Path, *flags: str) -> torch.nn.Module:
    """The model that a run starts with."""
    run = parse_arguments([str(recipe), "--device", "cpu", *flags])
    family = load_family(run.family)
    run = family.with_files(run)
    prepared = prepare_data(run, family)
    return build_model(run, family, build_config(run, family, prepared), prepared)


# ---- what a run tells ----


def test_every_part_of_the_loss_stands_in_the_log_from_the_first_step(finished) -> None:
    rows = [row for row in log_rows(finished[0]) if "loss" in row]
    assert rows[0]["step"] == 1
    named = "reply perplexity accuracy alignment ranking bag batch_accuracy cos_mean collapse learning_rate grad_norm"
    for row in rows:
        assert set(named.split()) <= row.keys()
        assert row["perplexity"] == pytest.approx(2.718281828459045 ** row["reply"])
    assert rows[-1]["loss"] < 0.9 * rows[0]["loss"]
    assert rows[-1]["reply"] < 0.9 * rows[0]["reply"]


def test_a_held_out_row_tells_of_replies_retrieval_and_latents(finished) -> None:
    rows = [row for row in log_rows(finished[0]) if "eval_perplexity" in row]
    assert [row["step"] for row in rows] == [0, 6, 30, 60]
    named = "perplexity accuracy latent_usage_ratio hits_at_1 mrr effective_rank target_effective_rank"
    for row in rows:
        assert {
            f"eval_{name}" for name in (*named.split(), "mean_pairwise_cosine", "unigram_perplexity")
        } <= row.keys()
        assert 0 <= row["eval_hits_at_1"] <= row["eval_mrr"] <= 1
    assert rows[-1]["eval_perplexity"] < rows[0]["eval_perplexity"]


def test_milestones_show_three_answers_side_by_side(finished) -> None:
    found = json.loads((finished[0] / "results" / "milestones.json").read_text(encoding="utf-8"))["milestones"]
    assert [row["step"] for row in found] == [0, 6, 60]
    for row in found:
        (sample,) = row["samples"]
        for said in ("do you see the cat? ... greedy: ", "top-k 50, temperature 0.7: ", " ... retrieved ("):
            assert said in sample


def test_the_index_of_the_training_replies_lies_beside_the_model(finished, recipe: Path) -> None:
    folder, _ = finished
    model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    index = ReplyIndex.load(folder, model, tokenizer)
    turns = [json.loads(line)["turns"] for line in (recipe.parent / "train.jsonl").read_text().splitlines()]
    assert set(index.replies) == {reply for one in turns for reply in one[1:]}


def test_the_card_shows_held_out_prompts_with_three_answers_each(finished) -> None:
    folder, _ = finished
    answers = json.loads((folder / "results" / "transcript.json").read_text(encoding="utf-8"))["answers"]
    card = (folder / "README.md").read_text(encoding="utf-8")
    known = (Path(json.loads((folder / "run.json").read_text())["recipe"]["data"]["data"]) / "test.jsonl").read_text()
    assert len(answers) == 10
    for one in answers:
        assert one["true_reply"] in known
        assert f"- greedy: {one['greedy']}\n- top-k: {one['sampled']}\n" in card
        assert f"- retrieved ({one['cosine']:.2f}): {one['retrieved']}" in card


def test_the_card_shows_the_score_beside_its_baselines(finished) -> None:
    folder, _ = finished
    card = (folder / "README.md").read_text(encoding="utf-8")
    score = json.loads((folder / "results" / "score.json").read_text(encoding="utf-8"))
    for name, figures in (("this model", score["metrics"]), *score["baselines"].items()):
        perplexity = "-" if figures["perplexity"] is None else f"{figures['perplexity']:,.1f}"
        measured = any(figures[column] is not None for column in load_family("dialogue_jepa").card.figures)
        assert (f"| {name.replace('_', ' ')} | {perplexity} |" in card) == measured


def test_a_dry_run_counts_pairs(recipe: Path, tmp_path: Path) -> None:
    ending = train(recipe, tmp_path / "run", "--dry_run")
    assert ending.code == 0, ending
    assert "effective examples (pairs)" in ending.out
    assert "(every pair is seen so often)" in ending.out


def test_latents_without_protection_collapse_and_the_run_says_so(recipe: Path, tmp_path: Path) -> None:
    # With scaled embeddings two directions are left, which is no collapse.
    flags = "--collapse_protection none --ranking_weight 0 --bag_weight 0 --alignment_weight 4 --reply_weight 0.05"
    flags += " --scale_embeddings false --learning_rate 1e-2"
    flags += " --max_steps 200 --eval_steps 100 --logging_steps 50 --save_steps 200"
    ending = train(recipe, tmp_path / "run", flags)
    assert ending.code == 0, ending
    assert "advice: representation collapsing: effective rank of the replies' latents 1." in ending.out
    ranks = [row["eval_target_effective_rank"] for row in log_rows(tmp_path / "run") if "eval_mrr" in row]
    assert ranks[-1] < 1.5 < 5 < ranks[0]


# ---- the decoder's own rate ----


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_the_decoder_keeps_its_share_of_the_rate_over_the_whole_schedule(recipe: Path, optimizer: str) -> None:
    run = parse_arguments([str(recipe), "--optimizer", optimizer, "--decoder_learning_rate", "1e-3"])
    model = built(recipe)
    of_decoder = {id(p) for name, p in model.named_parameters() if name.startswith("decoder.")}
    made = load_family(run.family).make_optimizer(model, run)
    groups = [(group, {id(p) in of_decoder for p in group["params"]}) for group in made.param_groups]
    assert all(len(kinds) == 1 for _, kinds in groups)
    assert {False, True} == {kind for _, kinds in groups for kind in kinds}
    schedule = torch.optim.lr_scheduler.LambdaLR(made, lambda step: 1 / (1 + step))
    for step in range(3):
        for group, kinds in groups:
            assert group["lr"] == pytest.approx((1e-3 if kinds == {True} else 3e-3) / (1 + step))
        made.step()
        schedule.step()


def test_the_decoders_rate_is_a_third_by_default(recipe: Path) -> None:
    assert parse_arguments([str(recipe)]).training.decoder_rate == pytest.approx(1e-3)


def test_muon_gets_the_matrices_and_no_table(recipe: Path) -> None:
    run = parse_arguments([str(recipe), "--optimizer", "muon"])
    model = built(recipe)
    made = load_family(run.family).make_optimizer(model, run)
    muons = {id(p) for group in made.param_groups if group["muon"] for p in group["params"]}
    names = {name for name, p in model.named_parameters() if id(p) in muons}
    assert "model.reader.encoder.layers.0.self_attn.q_proj.weight" in names
    assert "decoder.layers.0.cross_attn.v_proj.weight" in names
    assert "decoder.latent_proj.weight" in names
    assert not {"model.reader.encoder.embed_tokens.weight", "model.reader.queries"} & names
    assert not any("norm" in name or name.startswith("teacher.") for name in names)


def test_what_projects_into_a_pretrained_decoder_has_the_decoders_rate(recipe: Path, language_model: Path) -> None:
    given = ("--pretrained_decoder", str(language_model), "--decoder_learning_rate", "1e-4")
    run = parse_arguments([str(recipe), *given])
    model = built(recipe, *given)
    rates = {id(p): group["lr"] for group in load_family(run.family).make_optimizer(model, run).param_groups
             for p in group["params"]}  # fmt: skip
    for name, parameter in model.named_parameters():
        if id(parameter) in rates:
            assert rates[id(parameter)] == (1e-4 if name.startswith("decoder.") else 3e-3), name


# ---- where a run may start ----


@pytest.fixture(scope="module")
def text_run(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A latent text model of the same width, with a tokenizer of its own. Read only."""
    folder = tmp_path_factory.mktemp("text")
    lines = [turn for row in dialogues(5, 90) for turn in row["turns"]]
    for name, part in (("train", lines[:150]), ("valid", lines[150:170]), ("test", lines[170:190])):
        (folder / f"{name}.txt").write_text("\n".join(part) + "\n", encoding="utf-8")
    text = folder / "text.yaml"
    text.write_text(
        "family: text_jepa\nmodel: {hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, "
        f"max_position_embeddings: 24}}\ndata: {{data: {folder}, max_vocab: 90}}\n"
        "training: {max_steps: 4, warmup_steps: 1, per_device_train_batch_size: 8}\n"
        "evaluation: {final_score: false, eval_rows: 8, milestones: []}\n",
        encoding="utf-8",
    )
    ending = train(text, folder / "run")
    assert ending.code == 0, ending
    return folder / "run"


def test_a_run_starts_with_the_encoder_of_a_text_model_and_its_tokenizer(recipe: Path, text_run: Path) -> None:
    model = built(recipe, "--init_from", str(text_run), "--scale_embeddings", "false")
    source = AutoModelForMaskedLM.from_pretrained(text_run)
    ours, theirs = model.model.reader.encoder.state_dict(), source.model.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert model.config.vocab_size == len(AutoTokenizer.from_pretrained(text_run))
    taught = model.read_replies(torch.tensor([[3, 7, 8, 4]]))
    assert torch.isfinite(taught).all()


def test_a_text_model_of_another_size_is_refused_by_what_differs(recipe: Path, text_run: Path) -> None:
    with pytest.raises(InputError, match=r"another encoder \(num_hidden_layers 1 there and 2 here\)") as caught:
        built(recipe, "--init_from", str(text_run), "--num_hidden_layers", "2", "--scale_embeddings", "false")
    assert "\n" not in str(caught.value)


def test_a_run_starts_with_all_weights_of_a_dialogue_model(recipe: Path, finished) -> None:
    ours, theirs = built(recipe, "--init_from", str(finished[0])), load_file(finished[0] / "model.safetensors")
    state = ours.state_dict()
    assert all(torch.equal(state[name], theirs[name]) for name in theirs)


# ---- a pretrained decoder ----


def test_a_frozen_decoder_stays_as_it_was_and_travels_along(
    recipe: Path, language_model: Path, tmp_path: Path
) -> None:
    ending = train(recipe, tmp_path / "run", f"--pretrained_decoder {language_model} --freeze_decoder true")
    assert ending.code == 0, ending
    model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "run")
    before = LlamaForCausalLM.from_pretrained(language_model).state_dict()
    after = model.decoder.language_model.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert model.config.decoder_config["model_type"] == "llama"
    rows = [row for row in log_rows(tmp_path / "run") if "loss" in row]
    assert rows[-1]["loss"] < rows[0]["loss"]


@pytest.fixture(scope="module")
def adapted(recipe: Path, language_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose pretrained decoder learnt by LoRA. Read only."""
    folder = tmp_path_factory.mktemp("adapted") / "run"
    ending = train(recipe, folder, f"--pretrained_decoder {language_model} --lora_rank 2")
    assert ending.code == 0, ending
    return folder


def test_adapters_learn_and_are_merged_into_what_is_saved(adapted: Path, language_model: Path) -> None:
    model, info = AutoModelForSeq2SeqLM.from_pretrained(adapted, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    before = LlamaForCausalLM.from_pretrained(language_model).state_dict()
    after = model.decoder.language_model.state_dict()
    changed = {name for name in before if not torch.equal(after[name], before[name])}
    assert changed == {name for name in before if "proj" in name}
    assert not (adapted / "lora.safetensors").exists()
    assert (adapted / "checkpoint-18" / "lora.safetensors").is_file()


ASKED = {"input_ids": torch.tensor([[3, 20, 21, 4]]), "attention_mask": torch.ones(1, 4, dtype=torch.long)}
LABELS = torch.tensor([[22, 23, 24, 4]])


def test_a_trained_checkpoint_says_what_base_and_adapters_say(
    recipe: Path, adapted: Path, language_model: Path
) -> None:
    from training.init_from.adapters import Adapters

    merged = AutoModelForSeq2SeqLM.from_pretrained(adapted / "checkpoint-18").eval()
    given = ("--pretrained_decoder", str(language_model), "--lora_rank", "2")
    resumed = built(recipe, *given).eval()
    Adapters.load(resumed, adapted / "checkpoint-18")
    with torch.no_grad():
        logits = resumed(**ASKED, labels=LABELS).logits
        assert torch.allclose(merged(**ASKED, labels=LABELS).logits, logits, atol=1e-5)
        for name, parameter in resumed.named_parameters():
            if ".lora_B" in name:
                parameter.zero_()
        assert (resumed(**ASKED, labels=LABELS).logits - logits).abs().max() > 1e-3


def test_an_adapted_decoder_says_the_same_where_the_packages_are_not(adapted: Path, tmp_path: Path) -> None:
    model = AutoModelForSeq2SeqLM.from_pretrained(adapted).eval()
    save_file({**ASKED, "labels": LABELS}, tmp_path / "asked.safetensors")
    code = (
        "import sys; import torch; from safetensors.torch import load_file, save_file;"
        "from transformers import AutoModelForSeq2SeqLM; given = load_file('asked.safetensors');"
        f"model = AutoModelForSeq2SeqLM.from_pretrained({str(adapted)!r}, trust_remote_code=True).eval();"
        "logits = model(**given).logits.detach(); del given['labels'];"
        "save_file({'logits': logits, 'said': model.generate(**given, do_sample=False)}, 'out.safetensors');"
        "print(type(model).__module__, [name for name in sys.modules if name.startswith('peft')])"
    )
    child = run_clean(["-c", code], cwd=tmp_path, modules=tmp_path / "modules")
    assert child.returncode == 0, child.stderr
    assert child.stdout.startswith("transformers_modules.")
    out = load_file(tmp_path / "out.safetensors")
    with torch.no_grad():
        assert torch.equal(out["logits"], model(**ASKED, labels=LABELS).logits)
        assert torch.equal(out["said"], model.generate(**ASKED, do_sample=False))


def test_merged_weights_say_the_same_as_base_and_adapters(recipe: Path, language_model: Path) -> None:
    from training.init_from.adapters import Adapters

    adapted = built(recipe, "--pretrained_decoder", str(language_model), "--lora_rank", "2").eval()
    for name, parameter in adapted.named_parameters():
        if ".lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    plain = built(recipe, "--pretrained_decoder", str(language_model)).eval()
    inputs = {"input_ids": torch.tensor([[3, 20, 21, 4]]), "labels": torch.tensor([[22, 23, 4]])}
    with torch.no_grad():
        assert (plain(**inputs).logits - adapted(**inputs).logits).abs().max() > 1e-3
        plain.load_state_dict(Adapters.merged_state(adapted))
        assert (plain(**inputs).logits - adapted(**inputs).logits).abs().max() < 1e-5


def test_only_what_is_new_learns_beside_a_frozen_decoder(recipe: Path, language_model: Path) -> None:
    given = ("--pretrained_decoder", str(language_model))
    frozen = {n for n, p in built(recipe, *given, "--freeze_decoder", "true").named_parameters() if p.requires_grad}
    adapted = {n for n, p in built(recipe, *given, "--lora_rank", "2").named_parameters() if p.requires_grad}
    assert {name for name in frozen if name.startswith("decoder.")} == {
        f"decoder.{name}"
        for name in (
            *("latent_proj.weight", "latent_proj.bias", "word_proj.weight"),
            *("context_proj.weight", "context_proj.bias"),
        )
    }
    assert all(".lora_" in name for name in adapted - frozen)
    assert len(adapted - frozen) == 3 * 2 * 7


# ---- exact resumes ----

KINDS = {
    "adamw": "",
    "muon": "--optimizer muon",
    "mixed latents": "--decoder_latent mixed",
    "latent alone, sigreg": "--context_access latent --collapse_protection sigreg",
    "checkpointing in bf16": "--gradient_checkpointing true --bf16",
    "accumulation": "--per_device_train_batch_size 4 --gradient_accumulation_steps 2",
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_run_goes_on_to_the_same_bits(recipe: Path, tmp_path: Path, kind: str) -> None:
    assert_resumes_exactly(recipe, tmp_path, f"{KINDS[kind]} --save_steps 8")


@pytest.mark.parametrize("kind", ["--freeze_decoder true", "--lora_rank 2", "--optimizer muon"])
def test_a_killed_run_with_a_pretrained_decoder_goes_on_to_the_same_bits(
    recipe: Path, language_model: Path, tmp_path: Path, kind: str
) -> None:
    assert_resumes_exactly(recipe, tmp_path, f"--pretrained_decoder {language_model} {kind} --save_steps 8")


# ---- bad input ----


def refused(recipe: Path, *flags: str) -> str:
    with pytest.raises(InputError) as caught:
        built(recipe, *flags)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_decoder_that_is_no_language_model_is_refused(recipe: Path, text_run: Path, tmp_path: Path) -> None:
    assert "no such folder" in refused(recipe, "--pretrained_decoder", str(tmp_path / "nowhere"))
    said = refused(recipe, "--pretrained_decoder", str(text_run))
    assert said.startswith(f"pretrained_decoder: {text_run} is a text_jepa model, which is no causal language model")


@pytest.mark.parametrize(
    "config",
    [
        MambaConfig(vocab_size=20, hidden_size=8, num_hidden_layers=1),
        Lfm2Config(vocab_size=20, hidden_size=8, num_hidden_layers=2, layer_types=["conv", "full_attention"]),
    ],
    ids=["state space", "convolutions"],
)
def test_a_decoder_that_is_not_of_attention_alone_is_refused(recipe: Path, tmp_path: Path, config) -> None:
    config.save_pretrained(tmp_path)
    said = refused(recipe, "--pretrained_decoder", str(tmp_path))
    assert said.startswith(f"pretrained_decoder: {tmp_path} is a {config.model_type} model, whose layers keep a state")


def test_a_tokenizer_that_is_not_the_decoders_is_refused_by_name(
    recipe: Path, language_model: Path, text_run: Path
) -> None:
    given = ("--pretrained_decoder", str(language_model))
    said = refused(recipe, *given, "--tokenizer", str(text_run))
    assert said.startswith(f"tokenizer: {text_run} is not that of pretrained_decoder {language_model}")
    said = refused(recipe, *given, "--init_from", str(text_run))
    assert said.startswith(f"init_from: {text_run} has another tokenizer than pretrained_decoder {language_model}")


def test_a_decoder_without_room_for_prefix_and_reply_is_refused(recipe: Path, language_model: Path) -> None:
    said = refused(recipe, "--pretrained_decoder", str(language_model), "--prefix_length", "20")
    assert "takes 64 positions and needs 84 here (soft prefix 40, context 32, reply 12)" in said


def test_a_checkpoint_of_another_family_is_refused(recipe: Path, language_model: Path) -> None:
    said = refused(recipe, "--init_from", str(language_model))
    assert (
        "is a llama model, and this recipe trains a dialogue_jepa; give a checkpoint of that family, or of text_jepa"
        in said
    )


def test_a_prompt_that_stands_there_twice_is_shown_once(monkeypatch) -> None:
    monkeypatch.setattr(
        dialogue_answers, "answer", lambda model, tokenizer, index, prompt, true: Answers(prompt, *4 * [""])
    )
    rows = {"row_id": range(40), "prompt": [str(row // 20) for row in range(40)], "reply": ["yes"] * 40}
    shown = dialogue_answers.transcript(None, None, None, datasets.Dataset.from_dict(rows))
    assert [one["prompt"] for one in shown] == ["0", "1"]
