import pytest
from torch.utils.data import DataLoader

from configuration_jepa import DialogueJepaConfig, StagedGeneratorConfig, TextJepaConfig
from training.data.families import FAMILIES
from training.data.sampling import PassSampler

CONFIGS = {
    "text_jepa": TextJepaConfig(num_negatives=8, max_position_embeddings=16),
    "staged_generator": StagedGeneratorConfig(max_position_embeddings=16),
    "dialogue_jepa": DialogueJepaConfig(max_position_embeddings=16, max_reply_length=8, decoder_latent="mixed"),
}


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_a_familys_parts_fit_together_from_file_to_masked_batch(name, tmp_path, monkeypatch):
    monkeypatch.setenv("JEPA_CACHE", str(tmp_path / "cache"))
    (tmp_path / "a.txt").write_text("\n".join(f"line {n} of\tthis small file" for n in range(200)))
    family, config = FAMILIES[name], CONFIGS[name]
    ready = family.prepare(family.data_settings(data=str(tmp_path / "a.txt"), max_vocab=300), config, None)
    masker = family.make_masker(
        family.masking_settings(),
        ready.tokenizer,
        seed=0,
        config=config,
        token_counts=ready.counts,
    )
    rows = family.make_dataset(ready.train)
    loader = DataLoader(
        rows, batch_size=4, sampler=PassSampler(len(rows), 0, 8), collate_fn=family.make_collator(ready.tokenizer)
    )
    for batch in loader:
        masked = masker(batch, 0.5)
        assert masked["input_ids"].shape == masked["attention_mask"].shape == batch["input_ids"].shape
        assert {"row_id", "pass_index"}.isdisjoint(masked)
        if name == "dialogue_jepa":
            assert (masked["labels"].shape, float(masked["target_share"])) == (batch["labels"].shape, 0.5)
        else:
            assert masked["labels"].shape == masked["input_ids"].shape
        if name == "text_jepa":
            assert masked["negative_ids"].shape == (int((masked["labels"] != -100).sum()), 8)
