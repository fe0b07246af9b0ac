"""The test Hub itself, seen through the real client."""

import os
import random
import subprocess
import sys
import urllib.request

import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

from tests.faults.harness import started
from tests.hub.faults import Fault
from tests.hub.store import Store

LARGE = random.Random(0).randbytes(300_000)  # the same in every process: it names tests


@pytest.fixture
def api(hub):
    return HfApi(endpoint=hub.url, token="hf_write")


@pytest.fixture
def published(api):
    """A repository with a large file and a small one."""
    api.create_repo("user/a")
    files = [CommitOperationAdd("weights.bin", LARGE), CommitOperationAdd("folder/words.txt", b"some words")]
    return api.create_commit("user/a", files, commit_message="first").oid


def test_files_come_back_as_they_were_sent(api, published, tmp_path):
    folder = api.snapshot_download("user/a", revision=published, cache_dir=tmp_path)
    assert {"weights.bin", "folder", ".gitattributes"} == set(os.listdir(folder))
    with open(f"{folder}/weights.bin", "rb") as file:
        assert file.read() == LARGE


def test_a_large_file_went_up_before_its_commit_and_a_small_one_in_it(hub, published):
    kinds = [path.split("/")[1] for method, path in hub.asked if method == "PUT"]
    assert kinds == ["lfs"]
    files = hub.store.find("models", "user/a").at(published).files
    assert (files["weights.bin"].lfs, files["folder/words.txt"].lfs) == (True, False)


def test_what_went_up_is_not_seen_before_its_commit(hub, api):
    api.create_repo("user/a")
    api.preupload_lfs_files("user/a", [CommitOperationAdd("weights.bin", LARGE)])
    assert api.list_repo_files("user/a") == [".gitattributes"]


@pytest.mark.parametrize(("asked", "content"), [("bytes=5-8", LARGE[5:9]), ("bytes=299990-", LARGE[-10:])])
def test_a_range_of_a_file_can_be_had(hub, published, asked, content):
    request = urllib.request.Request(f"{hub.url}/user/a/resolve/main/weights.bin", headers={"Range": asked})
    with urllib.request.urlopen(request) as answer:
        assert (answer.status, answer.read()) == (206, content)


def test_a_tag_keeps_its_state_when_the_branch_goes_on(api, published):
    api.create_tag("user/a", tag="v1")
    api.create_commit("user/a", [CommitOperationDelete("folder/words.txt")], commit_message="second")
    assert "folder/words.txt" in api.list_repo_files("user/a", revision="v1")
    assert "folder/words.txt" not in api.list_repo_files("user/a")
    assert [commit.title for commit in api.list_repo_commits("user/a")] == ["second", "first", "initial commit"]
    with pytest.raises(RevisionNotFoundError):
        api.model_info("user/a", revision="v2")


def test_a_private_repository_is_there_for_its_owner_only(hub, api):
    api.create_repo("user/hidden", private=True)
    assert api.model_info("user/hidden").private
    for token in ("hf_other", False):
        with pytest.raises(RepositoryNotFoundError):
            HfApi(endpoint=hub.url, token=token).model_info("user/hidden")


@pytest.mark.parametrize(("token", "status"), [(False, 401), ("hf_unknown", 401), ("hf_read", 403), ("hf_other", 403)])
def test_only_a_write_token_of_the_owner_writes(hub, published, token, status):
    with pytest.raises(HfHubHTTPError) as caught:
        HfApi(endpoint=hub.url, token=token).upload_file(path_or_fileobj=b"x", path_in_repo="x", repo_id="user/a")
    assert caught.value.response.status_code == status


def test_a_commit_on_a_state_that_is_past_is_refused(api, published):
    api.upload_file(path_or_fileobj=b"x", path_in_repo="x", repo_id="user/a")
    with pytest.raises(HfHubHTTPError, match="412"):
        api.upload_file(path_or_fileobj=b"y", path_in_repo="y", repo_id="user/a", parent_commit=published)


def test_a_fault_happens_as_often_as_was_asked_for(hub, api):
    hub.faults.add(Fault.parse("GET:whoami:403:1"))
    with pytest.raises(HfHubHTTPError, match="403"):
        api.whoami()
    assert api.whoami()["name"] == "user"


def test_a_new_server_serves_what_an_earlier_one_kept(hub, published):
    again = Store(hub.store.folder, hub.store.users).find("models", "user/a")
    assert again.at("main") == hub.store.find("models", "user/a").at(published)


def test_by_hand_it_prints_what_to_set(hub, tmp_path, repository):
    command = [sys.executable, "-m", "tests.hub.server", "--port", "0", "--folder", str(tmp_path)]
    with started(command, cwd=repository, stdout=subprocess.PIPE, text=True) as process:
        printed = [process.stdout.readline() for _ in range(5)]
        assert {line.removeprefix("export ").split("=")[0] for line in printed} == {
            *("HF_ENDPOINT", "HF_TOKEN", "HF_HOME", "HF_HUB_OFFLINE", "HF_HUB_DISABLE_XET")
        }
        url = printed[0].strip().split("=")[1]
        assert HfApi(endpoint=url, token="hf_read").whoami()["name"] == "user"
