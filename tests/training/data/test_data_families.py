import pytest
from torch.utils.data import DataLoader

from configuration_jepa import TextJepaConfig
from training.data.families import FAMILIES
from training.data.sampling import PassSampler


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_a_familys_parts_fit_together_from_file_to_masked_batch(name, tmp_path, monkeypatch):
    monkeypatch.setenv("JEPA_CACHE", str(tmp_path / "cache"))
    (tmp_path / "a.txt").write_text("\n".join(f"line number {n} of this small file" for n in range(200)))
    family = FAMILIES[name]
    ready = family.prepare(family.data_settings(data=str(tmp_path / "a.txt"), max_vocab=300), 16, None)
    masker = family.make_masker(
        family.masking_settings(),
        ready.tokenizer,
        seed=0,
        config=TextJepaConfig(num_negatives=8),
        token_counts=ready.counts,
    )
    rows = family.make_dataset(ready.train)
    loader = DataLoader(
        rows, batch_size=4, sampler=PassSampler(len(rows), 0, 8), collate_fn=family.make_collator(ready.tokenizer)
    )
    for batch in loader:
        masked = masker(batch, 0.5)
        assert masked["labels"].shape == masked["input_ids"].shape == batch["input_ids"].shape
        assert {"row_id", "pass_index"}.isdisjoint(masked)
        if name == "text_jepa":
            assert masked["negative_ids"].shape == (int((masked["labels"] != -100).sum()), 8)
