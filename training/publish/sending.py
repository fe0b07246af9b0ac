"""Sending a publication to the Hub: in one commit, and not twice."""

import hashlib
import io
import json
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import RepositoryNotFoundError
from huggingface_hub.hf_api import RepoFile

from training.common.errors import InputError
from training.common.manifest import MANIFEST
from training.publish.faults import naming_hub_faults, require_token
from training.publish.publication import Publication

_UNCHANGED = "nothing was published"


@dataclass(frozen=True)
class Published:
    """What is on the Hub now. `sent` is None where everything was there already."""

    commit: str
    url: str
    sent: int | None

    def line(self, tag: str | None) -> str:
        """It in words."""
        tagged = f", tag {tag}" if tag else ""
        if self.sent is None:
            return f"unchanged: {self.url} holds the same files already (commit {self.commit[:8]}{tagged})"
        return f"published: {self.url} (commit {self.commit[:8]}{tagged}; {self.sent} files changed)"


def publish(publication: Publication, private: bool = False, tag: str | None = None) -> Published:
    """Send a checkpoint in one commit, and tag it; done again, it sends what is not there yet.

    Args:
        private: of a new repository; one that exists must be private then.

    Raises:
        InputError: no token; the repository is public, holds something else, or has the tag elsewhere.
        HubError: the Hub did not take it; nothing of this checkpoint is visible then.
    """
    api = HfApi(token=require_token(), endpoint=huggingface_hub.constants.ENDPOINT)
    repo_id = publication.repo_id
    with naming_hub_faults(repo_id, _UNCHANGED):
        head = _head(api, repo_id, private)
        there = _files_there(api, repo_id, head)
        _refuse_another_model(api, publication, there, head)
        changed = [name for name, what in publication.files.items() if there.get(name) not in _ids(what)]
        outdated = _outdated(api, publication, there, head)
        tagged = _tagged(api, repo_id, tag)
        if tagged is not None and (tagged != head or changed or outdated):
            raise InputError(f"tag: {tag} is there already, for another state of {repo_id}; choose another --tag")
        commit = _commit(api, publication, changed, outdated, head) if changed or outdated else head
    if tag is not None and tagged is None:
        with naming_hub_faults(repo_id, f"published as commit {commit[:8]}, not tagged yet"):
            api.create_tag(repo_id, tag=tag, revision=commit, exist_ok=True)
    sent = len(changed) + len(outdated)
    return Published(commit, f"{api.endpoint}/{repo_id}", sent or None)


def check_access(repo_id: str) -> None:
    """Ask the Hub who the token belongs to, before a run begins that ends with publishing. Raises as `publish`."""
    api = HfApi(token=require_token(), endpoint=huggingface_hub.constants.ENDPOINT)
    with naming_hub_faults(repo_id, "nothing was trained"):
        whose = api.whoami()
    role = (whose.get("auth", {}).get("accessToken") or {}).get("role")
    if role == "read":
        raise InputError(f"token: that of {whose['name']} may only read; take one with write access")


def _head(api: HfApi, repo_id: str, private: bool) -> str:
    """The newest commit of the repository, which is made where there is none."""
    try:
        info = api.model_info(repo_id)
    except RepositoryNotFoundError:
        api.create_repo(repo_id, private=private or None)
        info = api.model_info(repo_id)
    if private and not info.private:
        raise InputError(f"private: {repo_id} is there and public; make it private in its settings, or leave it out")
    return info.sha


def _files_there(api: HfApi, repo_id: str, revision: str) -> dict[str, str]:
    """Name -> the id of its content, of every file in the repository."""
    entries = api.list_repo_tree(repo_id, revision=revision, recursive=True)
    files = [entry for entry in entries if isinstance(entry, RepoFile)]
    return {file.path: file.lfs.sha256 if file.lfs else file.blob_id for file in files}


def _refuse_another_model(api: HfApi, publication: Publication, there: dict[str, str], head: str) -> None:
    """Raise InputError where the repository holds something that is no version of this model."""
    held = set(there) - {".gitattributes", "README.md"}
    if not held:
        return
    path = api.hf_hub_download(publication.repo_id, "config.json", revision=head) if "config.json" in held else None
    kind = json.loads(Path(path).read_text(encoding="utf-8")).get("model_type") if path else None
    if kind != publication.model_type:
        what = f"a {kind} model" if kind else f"other files ({', '.join(sorted(held)[:3])})"
        raise InputError(
            f"repository: {publication.repo_id} is there and holds {what}, and this is a {publication.model_type} "
            "model; choose another name"
        )


def _outdated(api: HfApi, publication: Publication, there: dict[str, str], head: str) -> list[str]:
    """Files of an earlier version that this one has not any more; what others put there stays."""
    if MANIFEST not in there:
        return []
    path = api.hf_hub_download(publication.repo_id, MANIFEST, revision=head)
    ours = json.loads(Path(path).read_text(encoding="utf-8"))["files"]
    return sorted(name for name in ours if name in there and name not in publication.files)


def _tagged(api: HfApi, repo_id: str, tag: str | None) -> str | None:
    """The commit that the tag names, or None where there is no such tag."""
    if tag is None:
        return None
    return next((ref.target_commit for ref in api.list_repo_refs(repo_id).tags if ref.name == tag), None)


def _commit(api: HfApi, publication: Publication, changed: list[str], outdated: list[str], head: str) -> str:
    """One commit; the large files go first, and are seen once it names them."""
    operations = [CommitOperationAdd(name, publication.files[name]) for name in changed]
    made = api.create_commit(
        publication.repo_id,
        [*operations, *(CommitOperationDelete(name) for name in outdated)],
        commit_message=f"Publish {publication.model_type}",
        parent_commit=head,
    )
    return made.oid


def _ids(what: Path | bytes) -> tuple[str, str]:
    """What the Hub may name a content by: git's blob id, and the SHA-256 of a large file."""
    size = len(what) if isinstance(what, bytes) else what.stat().st_size
    blob, large = hashlib.sha1(b"blob %d\0" % size), hashlib.sha256()
    with io.BytesIO(what) if isinstance(what, bytes) else what.open("rb") as file:
        while piece := file.read(1 << 20):
            blob.update(piece)
            large.update(piece)
    return blob.hexdigest(), large.hexdigest()


def listing(publication: Publication, private: bool, tag: str | None) -> list[str]:
    """What is sent: a line for each file, with its size in bytes, and a line for all of them."""
    sizes = publication.sizes
    told = ("private, " if private else "") + (f"tag {tag}, " if tag else "")
    lines = [f"{size:>13,}  {name}" for name, size in sizes.items()]
    return [f"{publication.repo_id}: {told}{len(sizes)} files, {sum(sizes.values()):,} bytes", *lines]
