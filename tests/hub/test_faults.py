"""Faults of the Hub and the network: each gives its line, nothing is published by halves, a repeat succeeds."""

import pytest

import training.publish.__main__ as command
from tests.hub.faults import Fault
from training.publish.__main__ import main
from training.publish.faults import HubError
from training.publish.publication import prepare
from training.publish.sending import publish

pytestmark = pytest.mark.xdist_group("hub")

NOTHING = r" \(nothing was published\)$"
COMMIT, LARGE_FILE = "/commit/", "/lfs/objects/"
GATEWAY = b"<html>502 Bad Gateway</html>"


@pytest.fixture(scope="module")
def publication(text_run):
    return prepare(text_run, "user/tiny", lambda folder: None)


def is_empty(hub):
    """Whether nobody can see anything of a checkpoint."""
    there = hub.store._repositories.get(("models", "user/tiny"))
    return there is None or list(there.at("main").files) == [".gitattributes"]


@pytest.mark.parametrize(
    ("fault", "line"),
    [
        (Fault("POST", "/repos/create", 401), "^token: the Hub does not take it .*log in with `hf auth login`"),
        (Fault("POST", "/repos/create", 403), "^user/tiny: the token may not write there .*one of user with write"),
        (Fault("POST", "/repos/create", 409), "^user/tiny: the name is taken .*choose another"),
        (Fault("POST", "/repos/create", 429, headers={"Retry-After": "60"}), "rate limit is reached .* in 60 seconds"),
        (Fault("POST", "/repos/create", 500), "^user/tiny: the Hub itself failed .*run the same command again"),
        (Fault("POST", "/repos/create", None), "^network: no answer from http://127.0.0.1:"),
        (Fault("POST", "/validate-yaml", 400, body=b'{"errors": [{"message": "bad licence"}]}'), "bad licence"),
        (Fault("POST", "/validate-yaml", 502, body=GATEWAY), "^user/tiny: "),
        (Fault("POST", "/preupload/", 403), "^user/tiny: the token may not write there"),
        (Fault("POST", "/preupload/", 503, times=None), "the Hub itself failed"),
        (Fault("POST", "/objects/batch", 429, times=None), "rate limit is reached"),
        (Fault("PUT", LARGE_FILE, 500, times=None), "the Hub itself failed"),
        (Fault("PUT", LARGE_FILE, None, "during", times=None), "^network: no answer"),
        (Fault("POST", "/lfs/verify", 404), "^user/tiny: not there, or not visible to this token"),
        (Fault("POST", COMMIT, 401), "^token: the Hub does not take it"),
        (Fault("POST", COMMIT, 404), "^user/tiny: not there"),
        (Fault("POST", COMMIT, 412), "^user/tiny: somebody else changed it meanwhile"),
        (Fault("POST", COMMIT, 503), "the Hub itself failed"),
        (Fault("POST", COMMIT, None, "during"), "^network: no answer"),
        (Fault("GET", "/tree/", None, times=None), "^network: no answer"),
    ],
    ids=lambda value: f"{value.path.strip('/')}-{value.status}-{value.moment}" if isinstance(value, Fault) else None,
)
def test_a_fault_gives_its_line_publishes_nothing_and_a_repeat_succeeds(hub, publication, fault, line):
    hub.faults.add(fault)
    with pytest.raises(HubError, match=line + ".*" + NOTHING) as caught:
        publish(publication, tag="v1")
    assert "\n" not in str(caught.value)
    assert is_empty(hub)
    hub.faults.clear()
    done = publish(publication, tag="v1")
    repository = hub.store.find("models", "user/tiny")
    assert set(publication.files) < set(repository.at("v1").files)
    assert list(repository.commits) == [repository.at(done.commit).parent, done.commit]


def test_what_passes_by_itself_is_not_noticed(hub, publication):
    for fault in ("POST:/preupload/:503:2", "PUT:/lfs/objects/:500:2", "PUT:/lfs/objects/:cut:1"):
        hub.faults.add(Fault.parse(fault))
    assert publish(publication).sent == len(publication.files)


def test_large_files_of_an_interrupted_upload_are_not_sent_again(hub, publication):
    hub.faults.add(Fault("POST", COMMIT, None, "during"))
    with pytest.raises(HubError):
        publish(publication)
    sent = sum(method == "PUT" for method, _ in hub.asked)
    publish(publication)
    assert sum(method == "PUT" for method, _ in hub.asked) == sent > 0


def test_a_commit_whose_answer_was_lost_is_found_by_the_repeat(hub, publication):
    hub.faults.add(Fault("POST", COMMIT, None, "after"))
    with pytest.raises(HubError, match="no answer"):
        publish(publication)
    assert publish(publication).sent is None


def test_a_tag_that_failed_is_told_and_set_by_the_repeat(hub, publication):
    hub.faults.add(Fault("POST", "/tag/", 500))
    with pytest.raises(HubError, match=r"the Hub itself failed .*\(published as commit \w{8}, not tagged yet\)$"):
        publish(publication, tag="v1")
    assert publish(publication, tag="v1").sent is None
    assert hub.store.find("models", "user/tiny").tags


@pytest.mark.parametrize(
    ("token", "repo_id", "line"),
    [
        ("hf_unknown", "user/tiny", "token: the Hub does not take it (401: Invalid credentials"),
        ("hf_read", "user/tiny", "user/tiny: the token may not write there (403: Forbidden"),
        ("hf_write", "somebody/tiny", "somebody/tiny: the token may not write there (403: You don't have the rights"),
    ],
)
def test_a_token_without_the_right_is_one_line_and_exit_code_1(
    hub, text_run, monkeypatch, token, repo_id, line, capsys
):
    monkeypatch.setenv("HF_TOKEN", token)
    monkeypatch.setattr(command, "prepare", lambda checkpoint, name: prepare(checkpoint, name, lambda folder: None))
    assert main([str(text_run), repo_id]) == 1
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert said[0].startswith(f"error: {line}")


def test_without_a_token_one_line_comes_before_anything_is_read(hub, text_run, monkeypatch, tmp_path, capsys):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(command.huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    assert main([str(text_run), "user/tiny"]) == 2
    assert capsys.readouterr().err.startswith("error: token: none found; log in with `hf auth login`")
    assert hub.asked == []


def test_without_a_network_one_line_says_so(hub, publication, monkeypatch):
    monkeypatch.setattr(command.huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(HubError, match=r"^network: no answer from http://127.0.0.1:9 .*" + NOTHING):
        publish(publication)
    monkeypatch.setattr(command.huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match=r"^network: HF_HUB_OFFLINE=1 is set"):
        publish(publication)
