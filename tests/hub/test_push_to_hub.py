"""`model.push_to_hub`, the library's own call: what it sends of a model that was loaded, changed, or made here."""

import inspect

import pytest
import torch
from huggingface_hub import HfApi, ModelCard
from transformers import AutoModelForMaskedLM
from transformers.utils.hub import PushToHubMixin

from eval.fill_blank import main as fill_blank
from eval.loading import open_model, open_tokenizer
from modeling_jepa.publishing import push_model

pytestmark = pytest.mark.xdist_group("hub")

TOKENIZER = {"tokenizer.json", "tokenizer_config.json"}
CODE = {"configuration_text_jepa.py", "modeling_text_jepa.py", "layers.py"}
MEASURED = {"results/score.json", "results/milestones.json", "plots/loss.png", "run.json"}


@pytest.fixture
def model(text_run):
    return AutoModelForMaskedLM.from_pretrained(text_run)


def files_of(hub, repo_id):
    return set(hub.store.find("models", repo_id).at("main").files)


def card_of(hub, repo_id):
    file = hub.store.find("models", repo_id).at("main").files["README.md"]
    return hub.store.content(file.sha256).read_text()


def test_a_loaded_model_brings_tokenizer_card_and_figures_in_one_commit(hub, model):
    model.push_to_hub("user/plain", private=True, tags=["mine"])
    repository = hub.store.find("models", "user/plain")
    assert repository.private
    assert len(repository.commits) == 2
    assert CODE | TOKENIZER | MEASURED | {"model.safetensors", "config.json", "1_Pooling/config.json"} <= files_of(
        hub, "user/plain"
    )
    card = card_of(hub, "user/plain")
    assert 'from_pretrained("user/plain"' in card
    assert {"jepa", "mine"} <= set(ModelCard(card).data.tags)


def test_no_place_of_this_machine_goes_along(hub, model, text_run):
    model.push_to_hub("user/plain")
    files = hub.store.find("models", "user/plain").at("main").files
    assert str(text_run) in (text_run / "results" / "score.json").read_text(encoding="utf-8")
    for name, file in files.items():
        assert str(text_run.parent).encode() not in hub.store.content(file.sha256).read_bytes(), name


def test_a_model_that_learnt_more_brings_its_tokenizer_and_no_figures_of_before(hub, model):
    with torch.no_grad():
        next(model.parameters()).add_(1)
    model.push_to_hub("user/changed")
    files = files_of(hub, "user/changed")
    assert files >= CODE | TOKENIZER
    assert not files & MEASURED
    assert "Every number below" not in card_of(hub, "user/changed")


def test_a_model_made_here_brings_its_code_and_a_plain_card(hub, model):
    made = type(model)(model.config.__class__(vocab_size=40, hidden_size=16, num_attention_heads=2))
    made.push_to_hub("user/made")
    assert CODE | {"README.md", "model.safetensors"} <= files_of(hub, "user/made")
    assert not files_of(hub, "user/made") & TOKENIZER


def test_from_one_repository_to_another_everything_goes_along(hub, model):
    model.push_to_hub("user/first")
    AutoModelForMaskedLM.from_pretrained("user/first").push_to_hub("user/second")
    assert files_of(hub, "user/second") == files_of(hub, "user/first")
    assert 'from_pretrained("user/second"' in card_of(hub, "user/second")
    assert "user/first" not in card_of(hub, "user/second")


def test_the_commands_of_eval_open_a_repository_by_its_id(hub, model, text_run, capsys):
    model.push_to_hub("user/first")
    opened = open_model("user/first", AutoModelForMaskedLM, "cpu")
    assert all(torch.equal(there, here) for there, here in zip(opened.parameters(), model.parameters(), strict=True))
    assert open_tokenizer("user/first").get_vocab() == open_tokenizer(text_run).get_vocab()
    assert fill_blank(["user/first", "the red _ sees", "--answer", "dog"]) == 0
    assert "dog: rank" in capsys.readouterr().out


def test_a_branch_of_its_own_is_made(hub, model):
    model.push_to_hub("user/plain", revision="trial")
    branches = {ref.name for ref in HfApi(endpoint=hub.url).list_repo_refs("user/plain").branches}
    assert branches == {"main", "trial"}
    assert files_of(hub, "user/plain") == {".gitattributes"}


def test_it_takes_what_the_library_takes():
    library = set(inspect.signature(PushToHubMixin.push_to_hub).parameters) - {"self"}
    assert library <= set(inspect.signature(push_model).parameters)
