"""The ways of `peft` to train the rows of new tokens, on every family: trained, merged and opened again the same."""

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from peft import LoraConfig, PeftModel, get_peft_model

from tests.families import DIALOGUE_JEPA, STAGED_GENERATOR, TEXT_JEPA, Family

FAMILIES = {
    "generator": (STAGED_GENERATOR, {}),
    "text": (TEXT_JEPA, {}),
    "ema": (TEXT_JEPA, {"target_table": "ema"}),
    "contextual": (TEXT_JEPA, {"target_table": "contextual", "alignment_weight": 1.0}),
    "dialogue": (DIALOGUE_JEPA, {}),
}
WAYS = {
    "rows": {"trainable_token_indices": [7, 8]},
    "table": {"modules_to_save": ["embed_tokens"]},
    "tied table": {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
}
each_family = pytest.mark.parametrize(("family", "changes"), FAMILIES.values(), ids=FAMILIES)


def adapted(family: Family, changes: dict, way: dict) -> PeftModel:
    exclude = r"(.*\.)?(teacher\..*|head\.decoder|lm_head)"
    model = family.model(**changes)
    if getattr(getattr(model, "head", None), "bias", None) is not None:
        model.set_token_counts(torch.arange(model.config.vocab_size))
    return get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], exclude_modules=exclude, **way)).train()


def logits_of(model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(**inputs).logits


@each_family
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.filterwarnings(
    "ignore:Model has `tie_word_embeddings=True`", "ignore:Model with `tie_word_embeddings=True`"
)
def test_rows_of_new_tokens_are_trained_merged_and_saved(family, changes, way, tmp_path) -> None:
    base = logits_of(family.model(**changes), family.inputs(family.config(**changes)))
    model = adapted(family, changes, way)
    inputs = family.inputs(model.config)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    for _ in range(2):
        model(**family.learning_inputs(model.config)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if model.has_teacher:
            model.update_teacher()
    trained = logits_of(model, inputs)
    assert not torch.allclose(trained, base)
    plain = model.merge_and_unload()
    torch.testing.assert_close(logits_of(plain, inputs), trained, atol=1e-4, rtol=0)
    if changes.get("target_table") == "ema" and way is WAYS["table"]:
        with pytest.raises(StrictDataclassError, match="target_table='ema' needs tie_word_embeddings"):
            plain.save_pretrained(tmp_path)
        return
    plain.save_pretrained(tmp_path)
    torch.testing.assert_close(logits_of(family.learner.from_pretrained(tmp_path), inputs), trained, atol=1e-4, rtol=0)


@pytest.mark.filterwarnings("ignore:Model")
def test_a_tied_table_keeps_the_bias_of_its_tokens() -> None:
    model = adapted(TEXT_JEPA, {}, WAYS["tied table"])
    bias = model.base_model.model.head.bias.clone()
    assert bias.any()
    assert torch.equal(model.merge_and_unload().head.decoder.bias, bias)


@pytest.mark.parametrize("name", ["dialogue", "contextual"])
def test_tables_that_are_one_are_not_adapted_apart(name: str) -> None:
    family, changes = FAMILIES[name]
    model = adapted(family, changes, {"trainable_token_indices": {"embed_tokens": [7, 8]}})
    with pytest.raises(ValueError, match=r"trainable_token_indices adapts .* give a list of ids"):
        model(**family.learning_inputs(model.config))
