"""Opening checkpoints: whole ones open, damaged ones are refused with a line that names what is wrong."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM

from eval.loading import open_model, open_tokenizer
from training.common.errors import InputError
from training.common.manifest import read_run, sha256_of, verify_manifest


@pytest.fixture
def copied(checkpoint, tmp_path):
    return shutil.copytree(checkpoint, tmp_path / "copy")


def _edit_weights(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_whole_checkpoint_opens_in_eval_mode_with_its_weights(checkpoint):
    model = open_model(checkpoint, AutoModelForMaskedLM, "cpu")
    saved = load_file(checkpoint / "model.safetensors")
    assert not model.training
    assert torch.equal(model.token_counts, saved["token_counts"])


def test_the_encoder_alone_opens_from_the_same_folder(checkpoint):
    assert type(open_model(checkpoint, AutoModel, "cpu")).__name__ == "TextJepaModel"


def test_a_missing_tensor_is_refused_by_name(copied):
    _edit_weights(copied, lambda tensors: tensors.pop("model.norm.weight"))
    with pytest.raises(InputError, match=r"missing model\.norm\.weight"):
        open_model(copied, AutoModelForMaskedLM)


def test_an_unexpected_tensor_is_refused_by_name(copied):
    _edit_weights(copied, lambda tensors: tensors.update(extra=torch.zeros(2)))
    with pytest.raises(InputError, match="unexpected extra"):
        open_model(copied, AutoModelForMaskedLM)


def test_a_tensor_of_another_shape_is_refused_by_name(copied):
    _edit_weights(copied, lambda tensors: tensors.update({"model.norm.weight": torch.zeros(3)}))
    with pytest.raises(InputError, match=r"model\.norm\.weight") as refused:
        open_model(copied, AutoModelForMaskedLM)
    assert "\n" not in str(refused.value)


def test_a_weights_file_cut_in_half_is_refused(copied):
    weights = copied / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    with pytest.raises(InputError, match="cannot be opened as a model"):
        open_model(copied, AutoModelForMaskedLM)


def test_a_flipped_bit_is_found_by_the_manifest(copied):
    weights = copied / "model.safetensors"
    manifest = {"files": {name: sha256_of(copied / name) for name in ("config.json", "model.safetensors")}}
    (copied / "manifest.json").write_text(json.dumps(manifest))
    verify_manifest(copied)
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(InputError, match=r"damaged: model\.safetensors"):
        open_model(copied, AutoModelForMaskedLM)


def test_a_file_that_the_manifest_names_and_is_gone_is_refused(copied):
    (copied / "manifest.json").write_text(json.dumps({"files": {"tokenizer.json": "0" * 64}}))
    (copied / "tokenizer.json").unlink()
    with pytest.raises(InputError, match=r"tokenizer\.json missing or changed"):
        open_tokenizer(copied)


def test_a_manifest_that_is_no_json_is_refused(copied):
    (copied / "manifest.json").write_text("{")
    with pytest.raises(InputError, match=r"manifest\.json is damaged"):
        open_model(copied, AutoModelForMaskedLM)


def test_a_path_that_is_not_there_is_refused_without_asking_the_hub(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        open_model(tmp_path / "nowhere" / "else", AutoModelForMaskedLM)


def test_a_folder_without_a_config_is_refused(tmp_path):
    with pytest.raises(InputError, match="is no checkpoint"):
        open_model(tmp_path, AutoModelForMaskedLM)


def test_a_device_that_is_not_there_is_refused(checkpoint):
    with pytest.raises(InputError, match="device 'abacus'"):
        open_model(checkpoint, AutoModelForMaskedLM, "abacus")


def test_a_folder_without_run_json_has_no_run_and_a_damaged_one_is_refused(copied):
    (copied / "run.json").write_text("{")
    with pytest.raises(InputError, match=r"run\.json is damaged"):
        read_run(copied)
    (copied / "run.json").unlink()
    assert read_run(copied) is None


def test_a_checkpoint_of_another_kind_is_refused_in_one_line_that_says_what_opens_it(checkpoint):
    said = r"is a 'text_jepa' model, which AutoModelForCausalLM does not open; use python -m eval\.fill_blank"
    with pytest.raises(InputError, match=said):
        open_model(checkpoint, AutoModelForCausalLM, "cpu")
