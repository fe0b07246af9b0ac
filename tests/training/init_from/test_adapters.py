"""LoRA on a checkpoint of each family: only adapters learn; merged weights and what `peft` reads say the same."""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import peft
import pytest
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import PreTrainedModel

from tests.faults.harness import assert_resumes_exactly, import_everything, train
from training.families import load_family
from training.init_from.adapters import NEVER_ADAPTED
from training.train import main

SIZES = "hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2"
SHORT = (
    "training: {max_steps: 6, warmup_steps: 1, per_device_train_batch_size: 8, learning_rate: 1.0e-2, save_steps: 3}\n"
    "evaluation: {final_score: false, eval_rows: 4, eval_steps: 6, milestones: []}\n"
)
RECIPES = {
    "text_jepa": f"model: {{{SIZES}, max_position_embeddings: 16}}\ndata: {{data: DATA.txt, max_vocab: 60}}\n"
    "loss: {num_negatives: 8, target_table: contextual}\n",
    "staged_generator": f"model: {{{SIZES}, embedding_size: 16, num_semantic_blocks: 4, time_dim: 4, "
    "max_position_embeddings: 32}\ndata: {data: DATA.txt, max_vocab: 300}\n",
    "dialogue_jepa": f"model: {{{SIZES}, decoder_layers: 1, num_latents: 2, max_position_embeddings: 32, "
    "max_reply_length: 12}\ndata: {data: DATA.jsonl, max_vocab: 300}\n",
    "video_jepa": f"model: {{{SIZES}, latent_size: 8, max_position_embeddings: 4, frame_size: 16}}\n"
    "data: {num_clips: 16, code_levels: [4, 4]}\nmasking: {curriculum_frames: [2, 4]}\n",
}


@dataclass(frozen=True)
class Adapted:
    """A base, and the run that adapted it; `inputs(config)` are what both are asked."""

    family: str
    base: Path
    run: Path

    @property
    def auto_class(self) -> type:
        return load_family(self.family).auto_class

    def open(self, folder: Path) -> PreTrainedModel:
        return self.auto_class.from_pretrained(folder).eval()

    def answer(self, model: torch.nn.Module) -> torch.Tensor:
        """Logits for the same input every time."""
        config, tokens = model.config, torch.tensor([[3, 6, 7, 8, 4]])
        with torch.no_grad():
            if self.family == "video_jepa":
                frames = torch.rand(1, 3, 1, 16, 16, generator=torch.Generator().manual_seed(0))
                return model(frames=frames).logits
            if self.family == "dialogue_jepa":
                return model(input_ids=tokens, decoder_input_ids=torch.tensor([[config.bos_token_id, 9]])).logits
            return model(input_ids=tokens, attention_mask=torch.ones_like(tokens)).logits


@pytest.fixture(scope="module", autouse=True)
def _imported(quick_pictures: None) -> None:
    import_everything()


@pytest.fixture(scope="module")
def recipe_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder, generator = tmp_path_factory.mktemp("recipes"), random.Random(3)
    words = "red old big wet dog cat cow hen fox sees eats finds".split()
    lines = [" ".join(generator.choices(words, k=8)) for _ in range(120)]
    (folder / "data.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    turns = (json.dumps({"turns": [line, line[::-1]]}) for line in lines)
    (folder / "data.jsonl").write_text("\n".join(turns) + "\n", encoding="utf-8")

    def write(family: str) -> Path:
        path = folder / f"{family}.yaml"
        text = f"family: {family}\n{RECIPES[family].replace('DATA', str(folder / 'data'))}{SHORT}"
        path.write_text(text, encoding="utf-8")
        return path

    return write


# Both runs of a family are made once, in one process.
GROUPED = [pytest.param(family, marks=pytest.mark.xdist_group(f"adapters {family}")) for family in RECIPES]


@pytest.fixture(scope="module", params=GROUPED)
def adapted(request, recipe_of, tmp_path_factory: pytest.TempPathFactory) -> Adapted:
    """Read only."""
    recipe, folder = str(recipe_of(request.param)), tmp_path_factory.mktemp(request.param)
    base, run = folder / "base", folder / "adapted"
    assert main([recipe, "--output_dir", str(base), "--device", "cpu"]) == 0
    lora = ["--init_from", str(base), "--lora_rank", "2", "--seed", "5"]
    assert main([recipe, "--output_dir", str(run), "--device", "cpu", *lora]) == 0
    return Adapted(request.param, base, run)


def test_only_adapted_matrices_change_and_no_target_network_does(adapted: Adapted) -> None:
    before, after = (load_file(folder / "model.safetensors") for folder in (adapted.base, adapted.run))
    changed = {name for name in after if not torch.equal(before[name], after[name])} - {"teacher.num_updates"}
    matrices = json.loads((adapted.run / "adapter" / "adapter_config.json").read_text())["target_modules"]
    assert changed == {f"{name}.weight" for name in matrices}
    assert len(changed) >= 6
    assert not [name for name in changed if "teacher" in name]


def test_adapter_on_its_base_says_what_the_merged_checkpoint_says(adapted: Adapted) -> None:
    base, merged = adapted.open(adapted.base), adapted.open(adapted.run)
    plain, expected = adapted.answer(base), adapted.answer(merged)
    assert (plain - expected).abs().max() > 1e-4
    model = peft.PeftModel.from_pretrained(base, adapted.run / "adapter").eval()
    torch.testing.assert_close(adapted.answer(model), expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(adapted.answer(model.merge_and_unload()), expected, atol=1e-5, rtol=1e-4)


def test_adapter_folder_opens_by_the_auto_classes_that_exist(adapted: Adapted) -> None:
    folder = str(adapted.run / "adapter")
    names = {"staged_generator": "AutoPeftModelForCausalLM", "dialogue_jepa": "AutoPeftModelForSeq2SeqLM"}
    by_peft = getattr(peft, names.get(adapted.family, "AutoPeftModel"))
    by_library = getattr(transformers, adapted.auto_class.__name__)
    expected = adapted.answer(adapted.open(adapted.run))
    for auto_class in (by_peft, by_library):
        opened = auto_class.from_pretrained(folder).eval()
        torch.testing.assert_close(adapted.answer(opened), expected, atol=1e-5, rtol=1e-4)


def test_adapter_is_small_holds_no_pickle_and_names_no_folder_in_its_card(adapted: Adapted) -> None:
    folder = adapted.run / "adapter"
    assert {path.name for path in folder.iterdir()} == {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    with safe_open(folder / "adapter_model.safetensors", "pt") as file:
        assert all(".lora_" in name for name in file.keys())  # noqa: SIM118  (no mapping)
    assert str(adapted.base) not in (folder / "README.md").read_text()


@pytest.mark.parametrize("family", RECIPES)
def test_peft_alone_trains_a_model_that_was_never_trained(family: str, recipe_of) -> None:
    """As a user does, with a loop of his own; a target network that was never asked copies what it is to follow."""
    from training.run.arguments import parse_arguments
    from training.trainer.build import build_config, build_model, prepare_data

    run = parse_arguments([str(recipe_of(family))])
    prepared = prepare_data(run, load_family(family))
    base = build_model(run, load_family(family), build_config(run, load_family(family), prepared), prepared)
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], exclude_modules=NEVER_ADAPTED)
    model = peft.get_peft_model(base, config).train()
    learning = {name: value for name, value in model.named_parameters() if value.requires_grad}
    assert learning
    assert not [name for name in learning if "teacher" in name]
    labels = torch.tensor([[-100, 6, -100, 8, -100]])
    inputs = {"input_ids": torch.tensor([[3, 6, 7, 8, 4]]), "labels": labels}
    if family == "text_jepa":
        inputs["negative_ids"] = torch.full((2, 8), 9)
    if family == "dialogue_jepa":
        inputs["labels"] = torch.tensor([[6, 7, 4]])
    if family == "video_jepa":
        codes = torch.randint(0, 16, (1, 3, 4, 4))
        inputs = {"codes": codes, "labels": codes, "time_view": torch.zeros(1, dtype=torch.int64)}
    model(**inputs).loss.backward()
    assert not [name for name, value in learning.items() if value.grad is None]
    if base.has_teacher:
        base.update_teacher()


def test_a_killed_run_with_adapters_goes_on_to_the_same_bits(recipe_of, tmp_path: Path) -> None:
    recipe = recipe_of("text_jepa")
    assert train(recipe, tmp_path / "base").code == 0
    flags = f"--init_from {tmp_path / 'base'} --lora_rank 2 --max_steps 18 --save_steps 8"
    assert_resumes_exactly(recipe, tmp_path, flags)


def test_gradient_checkpointing_reaches_the_adapters(recipe_of, tmp_path: Path) -> None:
    recipe = recipe_of("text_jepa")
    assert train(recipe, tmp_path / "base").code == 0
    flags = f"--init_from {tmp_path / 'base'} --lora_rank 2"
    for name, more in (("plain", ""), ("recomputed", "--gradient_checkpointing true")):
        assert train(recipe, tmp_path / name, f"{flags} {more}").code == 0
    plain, again = (load_file(tmp_path / name / "model.safetensors") for name in ("plain", "recomputed"))
    assert all(torch.allclose(plain[name], again[name], atol=1e-6) for name in plain)


@pytest.mark.parametrize(
    ("family", "flags", "message"),
    [
        (
            "text_jepa",
            "--lora_rank 2",
            "lora_rank=2 adapts a model that is there: give its checkpoint with --init_from",
        ),
        ("text_jepa", "--lora_rank -1", "lora_rank: got -1; use 0 or more"),
    ],
)
def test_adapters_of_nothing_are_one_line(family: str, flags: str, message: str, recipe_of, capsys) -> None:
    assert main([str(recipe_of(family)), *flags.split()]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert "\n" not in error


def test_a_part_of_the_model_or_an_earlier_stage_is_no_base(recipe_of, tmp_path: Path, capsys) -> None:
    text, generator = tmp_path / "text", tmp_path / "generator"
    assert main([str(recipe_of("text_jepa")), "--output_dir", str(text), "--device", "cpu"]) == 0
    assert main([str(recipe_of("staged_generator")), "--output_dir", str(generator), "--device", "cpu"]) == 0
    capsys.readouterr()
    lora = ["--lora_rank", "2", "--output_dir", str(tmp_path / "no"), "--init_from"]
    assert main([str(recipe_of("dialogue_jepa")), *lora, str(text)]) == 2
    assert "is a text_jepa model, a part of this one; adapters need a whole model" in capsys.readouterr().err
    assert main([str(recipe_of("staged_generator")), "--stage", "1", *lora, str(generator)]) == 2
    assert "is of stage 0, and this run trains stage 1; adapters need a whole model" in capsys.readouterr().err
