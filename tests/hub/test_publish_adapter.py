"""An adapter on the Hub: published in one commit, opened by its id on a base that is opened by its id."""

import json
from pathlib import Path

import peft
import pytest
import torch
from huggingface_hub import HfApi, hf_api, metadata_load
from transformers import AutoModelForMaskedLM

from training.publish.adapter import main
from training.publish.publication import prepare
from training.publish.sending import publish

pytestmark = pytest.mark.xdist_group("hub")


@pytest.fixture(scope="module")
def adapted(text_run: Path, train_tiny, tmp_path_factory) -> Path:
    """A run that adapted the text run. Read only."""
    folder = tmp_path_factory.mktemp("adapted") / "run"
    assert train_tiny("text_jepa", folder, "--init_from", str(text_run), "--lora_rank", "2") == 0
    return folder


def test_published_adapter_opens_by_its_id_and_says_the_same(
    hub, text_run: Path, adapted: Path, monkeypatch, capsys
) -> None:
    # `peft` asks through a client that took its address when it was imported.
    monkeypatch.setattr(hf_api.api, "endpoint", hub.url)
    publish(prepare(text_run, "user/base", lambda folder: None))
    assert main([str(adapted), "user/lora", "--base", "user/base", "--private"]) == 0
    repository = hub.store.find("models", "user/lora")
    assert repository.private
    names = {"README.md", "adapter_config.json", "adapter_model.safetensors"}
    assert set(repository.at("main").files) - {".gitattributes"} == names
    model = peft.AutoPeftModel.from_pretrained("user/lora").eval()
    merged = AutoModelForMaskedLM.from_pretrained(adapted).eval()
    tokens = torch.tensor([[3, 6, 7, 8, 4]])
    with torch.no_grad():
        torch.testing.assert_close(model(input_ids=tokens).logits, merged(input_ids=tokens).logits, atol=1e-5, rtol=0)
    card = Path(HfApi(endpoint=hub.url).hf_hub_download("user/lora", "README.md"))
    about = metadata_load(card)
    assert (about["base_model"], about["library_name"]) == ("user/base", "peft")
    assert (about["license"], about["pipeline_tag"]) == ("other", "fill-mask")
    assert "PATH_OR_REPOSITORY" not in card.read_text()


def test_the_same_adapter_again_is_no_new_commit(hub, adapted: Path, capsys) -> None:
    HfApi(endpoint=hub.url).create_repo("user/base")
    for _ in range(2):
        assert main([str(adapted), "user/lora", "--base", "user/base"]) == 0
    assert len(hub.store.find("models", "user/lora").commits) == 2  # the repository's first one, and ours


def test_what_cannot_be_published_is_one_line(hub, adapted: Path, text_run: Path, tmp_path: Path, capsys) -> None:
    damaged = tmp_path / "adapter"
    damaged.mkdir()
    for path in (adapted / "adapter").iterdir():
        (damaged / path.name).write_bytes(path.read_bytes())
    (damaged / "adapter_model.safetensors").write_bytes(b"no tensors")
    config = json.loads((damaged / "adapter_config.json").read_text())
    for given, message in (
        ([str(adapted), "user/lora"], "base: the adapter is for"),
        ([str(text_run), "user/lora"], "holds no adapter (adapter_config.json is missing)"),
        ([str(damaged), "user/lora", "--base", "user/base"], "holds a damaged adapter"),
        ([str(adapted), "lora", "--base", "user/base"], "names no owner"),
    ):
        assert main(given) == 2
        error = capsys.readouterr().err.strip()
        assert message in error
        assert "\n" not in error
    assert config["base_model_name_or_path"] == str(text_run)
    assert hub.asked == []


def test_a_hub_that_fails_is_one_line(hub, adapted: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_unknown")
    assert main([str(adapted), "user/lora", "--base", "user/base"]) == 1
    assert capsys.readouterr().err.startswith("error: token: the Hub does not take it")


def test_a_base_that_is_not_on_the_hub_is_named(hub, adapted: Path, capsys) -> None:
    assert main([str(adapted), "user/lora", "--base", "user/nobody"]) == 1
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: user/nobody: not there")
    assert error.endswith("(the base has to be on the Hub: nothing was published)")
    assert ("POST", "/api/repos/create") not in hub.asked


def test_a_repository_with_a_model_and_a_public_one_are_left_as_they_are(hub, text_run, adapted, capsys) -> None:
    publish(prepare(text_run, "user/base", lambda folder: None))
    HfApi(endpoint=hub.url).create_repo("user/lora")
    for flags, message in (
        (["user/base"], "repository: user/base is there and holds no adapter (1_Pooling/config.json, "),
        (["user/lora", "--private"], "private: user/lora is there and public"),
    ):
        before = len(hub.store.find("models", flags[0]).commits)
        assert main([str(adapted), *flags, "--base", "user/base"]) == 2
        assert capsys.readouterr().err.startswith(f"error: {message}")
        assert len(hub.store.find("models", flags[0]).commits) == before
