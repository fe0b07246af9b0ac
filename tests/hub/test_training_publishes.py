"""`--push_to_hub`: checked before training begins, published when it ends, and again where that failed."""

import huggingface_hub
import pytest

import training.publish.publication as command
from tests.hub.faults import Fault
from training.common.manifest import verify_manifest
from training.publish.publication import prepare

pytestmark = pytest.mark.xdist_group("hub")

PUSH = ("--push_to_hub", "--hub_model_id", "user/trained")


@pytest.fixture(autouse=True)
def _no_clean_process(monkeypatch):
    """It takes seconds: tests/hub/test_round_trip.py has it."""
    monkeypatch.setattr(
        command, "prepare", lambda checkpoint, repo_id: prepare(checkpoint, repo_id, lambda folder: None)
    )


def test_the_best_checkpoint_is_published_and_a_fault_is_mended_by_the_same_command(hub, train_tiny, tmp_path, capsys):
    hub.faults.add(Fault("POST", "/commit/", 503))
    assert train_tiny("text_jepa", tmp_path / "run", *PUSH, "--hub_private") == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: user/trained: the Hub itself failed")
    assert "run the same command again" in last
    verify_manifest(tmp_path / "run")

    assert train_tiny("text_jepa", tmp_path / "run", *PUSH, "--hub_private") == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"published: {hub.url}/user/trained (commit ")
    repository = hub.store.find("models", "user/trained")
    assert repository.private
    weights = hub.store.content(repository.at("main").files["model.safetensors"].sha256)
    assert weights.read_bytes() == (tmp_path / "run" / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (("--push_to_hub",), "push_to_hub: no repository is named; give --hub_model_id OWNER/NAME"),
        (("--hub_model_id", "user/a"), "hub_model_id: nothing is published without --push_to_hub"),
        (("--hub_private",), "hub_private: nothing is published without --push_to_hub"),
        (("--push_to_hub", "--hub_model_id", "a name"), "hub_model_id: 'a name' is no id of a repository"),
        (("--push_to_hub", "--hub_model_id", "name"), "hub_model_id: 'name' names no owner"),
    ],
)
def test_half_an_address_is_refused_before_anything_is_read(hub, train_tiny, tmp_path, flags, line, capsys):
    assert train_tiny("text_jepa", tmp_path / "run", *flags) == 2
    assert capsys.readouterr().err.startswith(f"error: {line}")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("token", "code", "line"),
    [
        (None, 2, "error: token: none found; log in with `hf auth login`"),
        ("hf_read", 2, "error: token: that of user may only read; take one with write access"),
        ("hf_unknown", 1, "error: token: the Hub does not take it (401"),
    ],
)
def test_a_token_that_will_not_do_is_told_before_training(
    hub, train_tiny, tmp_path, monkeypatch, token, code, line, capsys
):
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    monkeypatch.delenv("HF_TOKEN") if token is None else monkeypatch.setenv("HF_TOKEN", token)
    assert train_tiny("text_jepa", tmp_path / "run", *PUSH) == code
    assert capsys.readouterr().err.startswith(line)
    assert not (tmp_path / "run").exists()


def test_a_dry_run_asks_the_hub_nothing(hub, train_tiny, tmp_path, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    assert train_tiny("text_jepa", tmp_path / "run", *PUSH, "--dry_run") == 0
    assert hub.asked == []
