import pytest
from huggingface_hub.errors import StrictDataclassError
from torch.utils.data import DataLoader

from configuration_jepa import DialogueJepaConfig, StagedGeneratorConfig, TextJepaConfig, VideoJepaConfig
from training.data.families import FAMILIES, _text_masker
from training.data.sampling import PassSampler
from training.data.settings import DataSettings, MaskingSettings
from training.data.tokenization import build_tokenizer

CONFIGS = {
    "text_jepa": TextJepaConfig(num_negatives=8, max_position_embeddings=16),
    "staged_generator": StagedGeneratorConfig(max_position_embeddings=16),
    "dialogue_jepa": DialogueJepaConfig(max_position_embeddings=16, max_reply_length=8, decoder_latent="mixed"),
}


@pytest.mark.parametrize("name", sorted(CONFIGS))
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


def test_a_video_models_parts_fit_together_from_digits_to_masked_batch(tmp_path, monkeypatch):
    monkeypatch.setenv("JEPA_CACHE", str(tmp_path / "cache"))
    family = FAMILIES["video_jepa"]
    config = VideoJepaConfig(
        frame_size=16, patch_size=4, code_size=1, frame_codes="grey", max_position_embeddings=6, vocab_size=16
    )
    ready = family.prepare(family.data_settings(num_clips=10, code_levels=[16]), config, None)
    masker = family.make_masker(family.masking_settings(), ready.tokenizer, seed=0, config=config)
    rows = family.make_dataset(ready.train)
    loader = DataLoader(
        rows, batch_size=4, sampler=PassSampler(len(rows), 0, 12), collate_fn=family.make_collator(ready.tokenizer)
    )
    shapes = [masker(batch, 0.5)["codes"].shape for batch in loader]
    assert shapes == [(4, 6, 16, 16)] * 3
    assert (len(ready.train), len(ready.valid), len(ready.test)) == (10, 10_000, 10_000)
    assert len({report["key"] for report in ready.reports.values()}) == 3
    assert ready.reports["train"]["tokens"]["unchanged"] == 1
    assert ready.counts.sum() == 64 * 6 * 256


def test_clips_of_other_digits_lengths_or_numbers_are_other_data(tmp_path, monkeypatch):
    monkeypatch.setenv("JEPA_CACHE", str(tmp_path / "cache"))
    family, shape = FAMILIES["video_jepa"], {"frame_size": 16, "patch_size": 4, "code_size": 1, "frame_codes": "grey"}
    hashes = [
        family.prepare(
            family.data_settings(code_levels=[16], **data),
            VideoJepaConfig(max_position_embeddings=length, **shape),
            None,
        ).data_hash
        for data, length in (
            ({}, 3),
            ({}, 4),
            ({"num_clips": 7}, 3),
            ({"clip_seed": 1}, 3),
            ({"flip": True}, 3),
            ({}, 3),
        )
    ]
    assert hashes[0] == hashes[-1]
    assert len(set(hashes)) == 5


def test_negatives_that_are_only_a_figure_are_as_many_as_there_are() -> None:
    tokenizer = build_tokenizer(DataSettings(max_vocab=8), ["the people came"])
    masker = _text_masker(MaskingSettings(), tokenizer, seed=0, config=TextJepaConfig(vocab_size=8, ranking="full"))
    assert masker.num_negatives == 2
    with pytest.raises(StrictDataclassError, match="num_negatives=32 is more than the 2"):
        TextJepaConfig(vocab_size=8, ranking="sampled")
