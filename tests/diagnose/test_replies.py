"""The doctor's look at a dialogue model: latents that fall together or reach nobody, and its teacher."""

import copy

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from configuration_jepa import DialogueJepaConfig
from eval.diagnose import Report, diagnose
from eval.diagnose.checks.dialogue import pairs_of
from eval.diagnose.opening import make_subject, open_checkpoint
from modeling_jepa import DialogueJepaForConditionalGeneration
from tests.diagnose import family_faults as faults
from training.data.dialogue_jepa.framing import build_dialogue_tokenizer
from training.data.settings import DialogueDataSettings

TOPICS = ("tea", "rain", "music", "bread", "trains", "snow", "books", "cats")
DIALOGUES = [
    f"do you like {topic} ?\nyes , {topic} is what I like .\ntell me more of {topic} ." for topic in TOPICS
] * 3


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return build_dialogue_tokenizer(DialogueDataSettings(max_vocab=300), "\n".join(DIALOGUES).split("\n"), 32)


@pytest.fixture(scope="module")
def built(tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """Not trained, but for what tells that it was: its norms."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "decoder_layers": 1, "num_attention_heads": 2}
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "unk", "mask", "bos", "eos")}
    config = DialogueJepaConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=32,
        max_reply_length=16,
        context_access="latent",
        **sizes,
        **ids,
    )
    model = DialogueJepaForConditionalGeneration(config)
    model.teacher.num_updates += 300
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter += 0.05 * torch.randn(parameter.shape)
            if name.startswith("teacher."):
                parameter += 1e-3 * torch.randn(parameter.shape)
    return model.eval()


@pytest.fixture
def model(built: PreTrainedModel) -> PreTrainedModel:
    return copy.deepcopy(built)


def look(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, group: str) -> Report:
    return diagnose(model, tokenizer, data=DIALOGUES, only=[group])


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (faults.ignores_latents, "collapse.latent_ignored"),
        (faults.hears_one_latent, "collapse.latent_ignored"),
        (faults.collapses, "collapse.latents"),
        (faults.teaches_itself, "collapse.teacher_frozen"),
        (faults.predicts_nothing, "collapse.predictor_idle"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_a_fault_is_named_and_only_where_it_is(model, tokenizer, change, expected):
    others = ("collapse.latents", "collapse.teacher_frozen", "collapse.predictor_idle")
    assert not look(model, tokenizer, "collapse").fails() & set(others)
    found = look(change(model), tokenizer, "collapse")
    assert expected in found.fails()
    if expected == "collapse.latent_ignored":
        finding = next(one for one in found.findings if one.check == expected)
        assert finding.evidence["latent_usage_ratio"] == pytest.approx(1.0, abs=1e-6)
        assert "do not reach the decoder at all" in finding.cause


def test_a_teacher_that_was_not_saved_is_named(model, tokenizer, tmp_path):
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if not name.startswith("teacher.")}
    assert open_checkpoint(str(tmp_path))[2] == []
    save_file(kept, tmp_path / "model.safetensors", {"format": "pt"})
    (finding,) = open_checkpoint(str(tmp_path))[2]
    assert finding.check == "parity.missing_tensors"
    assert all(name.startswith("teacher.") for name in finding.evidence["missing"])


def test_padding_has_no_part_in_the_loss_of_a_model_whose_parts_are_of_whole_replies(model, tokenizer):
    assert "data.padding_in_loss" not in look(model, tokenizer, "data").fails()


def test_the_teacher_is_not_counted_among_the_parameters(model, tokenizer):
    teacher = sum(parameter.numel() for parameter in model.teacher.parameters())
    subject = make_subject(model, tokenizer, data=DIALOGUES)
    assert subject.parameters == sum(parameter.numel() for parameter in model.parameters()) - teacher


def test_pairs_are_the_turns_of_held_out_dialogues(model, tokenizer):
    pairs = pairs_of(make_subject(model, tokenizer, data={"train": ["one text"], "valid": DIALOGUES}))
    assert pairs is not None
    assert pairs.prompts[:2] == ["do you like tea ?", "do you like tea ?\nyes , tea is what I like ."]
    assert pairs.replies[0] == "yes , tea is what I like ."
    assert all(len(context) <= 32 for context in pairs.contexts)


def test_text_without_dialogues_is_said_and_not_judged(model, tokenizer):
    report = diagnose(model, tokenizer, data=["The people of the United States want peace."] * 9, only=["collapse"])
    assert any("too few dialogues" in note for note in report.notes)
    assert "collapse.latent_ignored" not in {finding.check for finding in report.findings}
