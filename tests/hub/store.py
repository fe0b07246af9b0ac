"""Repositories of the test Hub, on disk: contents by their SHA-256, commits, branches, tags, and who may see what.

A commit is written in one step, so that nothing of it can be seen before all of it can.
"""

import hashlib
import json
import os
import threading
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

KINDS = ("models", "datasets", "spaces")
MAIN = "main"
# The Hub's first commit, which it makes itself.
_ATTRIBUTES = b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"
_LARGE = 10 * 2**20


class HubAnswerError(Exception):
    """A request that is refused: what the client is told."""

    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code


@dataclass(frozen=True)
class User:
    """Whom a token belongs to; `role` is write or read."""

    name: str
    role: str = "write"


@dataclass(frozen=True)
class File:
    """One version of a file.

    Attributes:
        sha256: of its content, by which the store keeps it.
        oid: git's blob id.
        lfs: whether it went up as a large file.
    """

    sha256: str
    oid: str
    size: int
    lfs: bool

    @property
    def etag(self) -> str:
        """What the Hub names a file's content by."""
        return self.sha256 if self.lfs else self.oid


@dataclass(frozen=True)
class Commit:
    """One state of a repository."""

    oid: str
    parent: str | None
    title: str
    date: str
    files: dict[str, File]


@dataclass
class Repository:
    """A repository with all its states; `branches` and `tags` are names of commits."""

    kind: str
    id: str
    private: bool
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def at(self, revision: str) -> Commit:
        """The commit that a branch, a tag or a commit's id names."""
        oid = self.branches.get(revision) or self.tags.get(revision) or revision
        if oid not in self.commits:
            raise HubAnswerError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.commits[oid]


class Store:
    """All repositories of a Hub. Its methods may be called from several threads.

    Args:
        folder: where everything is kept; what is there already is served again.
        users: token -> whom it belongs to.
    """

    def __init__(self, folder: Path, users: dict[str, User]) -> None:
        self.folder, self.users = folder, users
        self._lock = threading.RLock()
        self._repositories: dict[tuple[str, str], Repository] = {}
        (folder / "contents").mkdir(parents=True, exist_ok=True)
        for path in sorted(folder.glob("*/*/*.json")):
            repository = _repository_of(json.loads(path.read_text(encoding="utf-8")))
            self._repositories[repository.kind, repository.id] = repository

    def create(self, kind: str, repo_id: str, private: bool) -> Repository:
        """A new repository with the Hub's own first commit; 409 where there is one."""
        with self._lock:
            if (kind, repo_id) in self._repositories:
                raise HubAnswerError(409, "You already created this model repo")
            repository = Repository(kind, repo_id, private)
            self._repositories[kind, repo_id] = repository
            self.put(_ATTRIBUTES)
            self._commit(repository, MAIN, {".gitattributes": file_of(_ATTRIBUTES, lfs=False)}, "initial commit")
            return repository

    def delete(self, kind: str, repo_id: str) -> None:
        """Forget a repository."""
        with self._lock:
            self.find(kind, repo_id)
            del self._repositories[kind, repo_id]
            self._path(kind, repo_id).unlink()

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            for kind, repo_id in list(self._repositories):
                self.delete(kind, repo_id)
            for path in (self.folder / "contents").iterdir():
                path.unlink()

    def find(self, kind: str, repo_id: str) -> Repository:
        """The repository, or 404."""
        found = self._repositories.get((kind, repo_id))
        if found is None:
            raise HubAnswerError(404, "Repository not found", "RepoNotFound")
        return found

    def commit(
        self,
        repository: Repository,
        branch: str,
        added: dict[str, File],
        deleted: list[str],
        title: str,
        parent: str | None = None,
    ) -> Commit:
        """A new state of a branch; 412 where the branch is not at `parent` any more."""
        with self._lock:
            if branch not in repository.branches:
                raise HubAnswerError(404, f"Invalid rev id: {branch}", "RevisionNotFound")
            head = repository.commits[repository.branches[branch]]
            if parent is not None and parent != head.oid:
                raise HubAnswerError(412, "A commit has happened since. Please refresh and try again.")
            kept = {path: file for path, file in head.files.items() if not _is_among(path, deleted)}
            return self._commit(repository, branch, {**kept, **added}, title)

    def _commit(self, repository: Repository, branch: str, files: dict[str, File], title: str) -> Commit:
        parent = repository.branches.get(branch)
        date = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
        names = {path: file.sha256 for path, file in sorted(files.items())}
        oid = hashlib.sha1(json.dumps([repository.id, parent, title, date, names]).encode()).hexdigest()
        made = Commit(oid, parent, title, date, files)
        repository.commits[oid] = made
        repository.branches[branch] = oid
        self.save(repository)
        return made

    def name_commit(self, repository: Repository, names: dict[str, str], name: str, revision: str) -> None:
        """A new tag or branch; 409 where there is one of that name."""
        with self._lock:
            if name in names:
                raise HubAnswerError(409, f"Reference already exists: {name}")
            names[name] = repository.at(revision).oid
            self.save(repository)

    def save(self, repository: Repository) -> None:
        """Bring a repository to the disk in one step."""
        path = self._path(repository.kind, repository.id)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_text(json.dumps(asdict(repository)), encoding="utf-8")
        os.replace(part, path)

    def _path(self, kind: str, repo_id: str) -> Path:
        return self.folder / kind / f"{repo_id}.json"

    def put(self, content: bytes) -> str:
        """Keep a content; returns its SHA-256."""
        sha256 = hashlib.sha256(content).hexdigest()
        path = self.folder / "contents" / sha256
        if not path.exists():
            part = path.with_suffix(f".{threading.get_ident()}")
            part.write_bytes(content)
            os.replace(part, path)
        return sha256

    def content(self, sha256: str) -> Path | None:
        """The file that holds a content, or None."""
        path = self.folder / "contents" / sha256
        return path if path.is_file() else None


def file_of(content: bytes, lfs: bool) -> File:
    """The entry of a file with that content."""
    oid = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    return File(hashlib.sha256(content).hexdigest(), oid, len(content), lfs)


def is_large(sample: bytes, size: int) -> bool:
    """Whether the Hub wants a file as a large one: binary, or above 10 MB."""
    return size > _LARGE or b"\0" in sample


def _is_among(path: str, deleted: list[str]) -> bool:
    return any(path == name or (name.endswith("/") and path.startswith(name)) for name in deleted)


def _repository_of(saved: dict) -> Repository:
    commits = {
        oid: Commit(**{**commit, "files": {path: File(**file) for path, file in commit["files"].items()}})
        for oid, commit in saved["commits"].items()
    }
    return Repository(**{**saved, "commits": commits})
