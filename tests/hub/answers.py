"""What the test Hub answers: one function for each kind of request that the client makes.

Each takes the store and the request, and returns an `Answer` or raises `HubAnswerError`.
"""

import base64
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import yaml

from tests.hub.store import MAIN, File, HubAnswerError, Repository, Store, User, file_of, is_large


@dataclass(frozen=True)
class Request:
    """A request that was read whole. `base` is the server's own address."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes
    base: str
    user: User | None

    def json(self) -> Any:
        """The body."""
        return json.loads(self.body or b"{}")

    def writer(self) -> User:
        """Whoever asks, if the token may write: else 401 or 403."""
        if self.user is None:
            raise HubAnswerError(401, "Invalid username or password.")
        if self.user.role != "write":
            raise HubAnswerError(403, "Forbidden: you must use a write token to write to this repository")
        return self.user


@dataclass(frozen=True)
class Answer:
    """`content` is JSON, or a file of which `headers` tell the range."""

    content: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


def who_am_i(store: Store, request: Request) -> Answer:
    """The owner of the token."""
    if request.user is None:
        raise HubAnswerError(401, "Invalid credentials in Authorization header")
    role = {"accessToken": {"displayName": "test", "role": request.user.role}}
    return Answer({"type": "user", "name": request.user.name, "orgs": [], "auth": role})


def create_repository(store: Store, request: Request) -> Answer:
    """`POST /api/repos/create`."""
    user, asked = request.writer(), request.json()
    owner = asked.get("organization") or user.name
    repo_id, kind = f"{owner}/{asked['name']}", f"{asked.get('type') or 'model'}s"
    url = f"{request.base}/{'' if kind == 'models' else kind + '/'}{repo_id}"
    if owner != user.name:
        raise HubAnswerError(403, f'You don\'t have the rights to create a model under the namespace "{owner}"')
    private = asked.get("visibility") == "private" or bool(asked.get("private"))
    try:
        store.create(kind, repo_id, private)
    except HubAnswerError as error:
        return Answer({"error": error.message, "url": url}, error.status)
    return Answer({"url": url, "name": repo_id})


def delete_repository(store: Store, request: Request) -> Answer:
    """`DELETE /api/repos/delete`."""
    user, asked = request.writer(), request.json()
    store.delete(f"{asked.get('type') or 'model'}s", f"{asked.get('organization') or user.name}/{asked['name']}")
    return Answer({})


def validate_card(store: Store, request: Request) -> Answer:
    """The metadata of a card: YAML, and a mapping, with results that belong to a named model."""
    front = re.match(r"\s*---\r?\n(.*?)\r?\n---", request.json()["content"], re.DOTALL)
    try:
        data = yaml.safe_load(front[1]) if front else {}
    except yaml.YAMLError as error:
        return Answer({"errors": [{"message": f"bad YAML: {error}"}], "warnings": []}, 400)
    problems = [] if isinstance(data, dict) else ["the metadata must be an object"]
    if not problems and data:
        problems += [
            f'"{name}" must be a string'
            for name in ("license", "library_name", "pipeline_tag")
            if not isinstance(data.get(name, ""), str)
        ]
        problems += [
            '"model-index" needs names and results'
            for model in data.get("model-index") or []
            if not model.get("name") or not isinstance(model.get("results"), list)
        ]
    warnings = [] if front else [{"message": "empty or missing yaml metadata in repo card"}]
    return Answer(
        {"errors": [{"message": problem} for problem in problems], "warnings": warnings}, 400 if problems else 200
    )


def preupload(store: Store, request: Request, kind: str, repo_id: str, revision: str) -> Answer:
    """How each file is to be sent, and what is there under its name."""
    head = _writable(store, request, kind, repo_id).at(revision)
    files = []
    for asked in request.json()["files"]:
        large = is_large(base64.b64decode(asked["sample"]), asked["size"])
        there = head.files.get(asked["path"])
        entry = {"path": asked["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
        files.append(entry | ({"oid": there.etag} if there else {}))
    return Answer({"files": files})


def large_files(store: Store, request: Request, kind: str, repo_id: str) -> Answer:
    """Where each large file goes; nowhere, if its content is here already."""
    _writable(store, request, kind, repo_id)
    objects = []
    for asked in request.json()["objects"]:
        entry = {"oid": asked["oid"], "size": asked["size"]}
        if store.content(asked["oid"]) is None:
            upload = {"href": f"{request.base}/lfs/objects/{asked['oid']}"}
            entry["actions"] = {"upload": upload, "verify": {"href": f"{request.base}/lfs/verify"}}
        objects.append(entry)
    return Answer({"transfer": "basic", "objects": objects})


def put_large_file(store: Store, request: Request, oid: str) -> Answer:
    """The content of a large file; no file is there before a commit names it."""
    if file_of(request.body, lfs=True).sha256 != oid:
        raise HubAnswerError(400, "Checksum does not match")
    store.put(request.body)
    return Answer({})


def verify_large_file(store: Store, request: Request) -> Answer:
    """Whether a large file came whole."""
    path = store.content(request.json()["oid"])
    if path is None or path.stat().st_size != request.json()["size"]:
        raise HubAnswerError(400, "Object is not there")
    return Answer({})


def commit(store: Store, request: Request, kind: str, repo_id: str, revision: str) -> Answer:
    """One commit; its operations are lines of JSON."""
    repository = _writable(store, request, kind, repo_id)
    lines = [json.loads(line) for line in request.body.splitlines()]
    header = next(line["value"] for line in lines if line["key"] == "header")
    added: dict[str, File] = {}
    deleted = [line["value"]["path"] for line in lines if line["key"] == "deletedFile"]
    deleted += [line["value"]["path"].rstrip("/") + "/" for line in lines if line["key"] == "deletedFolder"]
    for line in lines:
        if line["key"] == "file":
            content = base64.b64decode(line["value"]["content"])
            store.put(content)
            added[line["value"]["path"]] = file_of(content, lfs=False)
        elif line["key"] == "lfsFile":
            added[line["value"]["path"]] = _large_file(store, line["value"]["oid"])
    made = store.commit(repository, revision, added, deleted, header["summary"], header.get("parentCommit"))
    return Answer({"success": True, "commitOid": made.oid, "commitUrl": f"{_page(request, repository)}/{made.oid}"})


def _large_file(store: Store, oid: str) -> File:
    path = store.content(oid)
    if path is None:
        raise HubAnswerError(400, f"LFS pointer points to a file that does not exist: {oid}")
    return file_of(path.read_bytes(), lfs=True)


def describe(store: Store, request: Request, kind: str, repo_id: str, revision: str = MAIN) -> Answer:
    """`GET /api/models/{id}[/revision/{rev}]`."""
    repository = _readable(store, request, kind, repo_id)
    made = repository.at(revision)
    facts = {
        "_id": made.oid[:24],
        "id": repo_id,
        "author": repo_id.split("/")[0],
        "sha": made.oid,
        "lastModified": made.date,
        "private": repository.private,
        "disabled": False,
        "gated": False,
        "tags": [],
        "downloads": 0,
        "likes": 0,
        "siblings": [{"rfilename": path} for path in sorted(made.files)],
    }
    return Answer(facts | ({"modelId": repo_id} if kind == "models" else {}))


def tree(store: Store, request: Request, kind: str, repo_id: str, revision: str, folder: str = "") -> Answer:
    """Files and folders below one; all that is below with `recursive`."""
    files = _readable(store, request, kind, repo_id).at(revision).files
    prefix = f"{folder}/" if folder else ""
    below = {path: file for path, file in sorted(files.items()) if path.startswith(prefix)}
    if folder and not below:
        raise HubAnswerError(404, f"{folder} does not exist", "EntryNotFound")
    deep = request.query.get("recursive", "").lower() in ("true", "1")
    entries = [_file_entry(path, file) for path, file in below.items() if deep or "/" not in path[len(prefix) :]]
    folders = {prefix + "/".join(parts) for path in below for parts in _folders(path[len(prefix) :], deep)}
    return Answer([*({"type": "directory", "oid": "", "size": 0, "path": path} for path in sorted(folders)), *entries])


def paths_info(store: Store, request: Request, kind: str, repo_id: str, revision: str) -> Answer:
    """What stands under some paths; those that do not exist are left out."""
    files = _readable(store, request, kind, repo_id).at(revision).files
    asked = request.json()["paths"]
    entries = [_file_entry(path, files[path]) for path in asked if path in files]
    folders = [path for path in asked if any(name.startswith(f"{path}/") for name in files)]
    return Answer([*entries, *({"type": "directory", "oid": "", "size": 0, "path": path} for path in folders)])


def references(store: Store, request: Request, kind: str, repo_id: str) -> Answer:
    """Branches and tags."""
    repository = _readable(store, request, kind, repo_id)

    def named(kind_of_name: str, names: dict[str, str]) -> list[dict]:
        return [
            {"name": name, "ref": f"refs/{kind_of_name}/{name}", "targetCommit": oid} for name, oid in names.items()
        ]

    return Answer(
        {"branches": named("heads", repository.branches), "tags": named("tags", repository.tags), "converts": []}
    )


def history(store: Store, request: Request, kind: str, repo_id: str, revision: str) -> Answer:
    """The commits that lead to one, newest first."""
    repository = _readable(store, request, kind, repo_id)
    found, oid = [], repository.at(revision).oid
    while oid is not None:
        made = repository.commits[oid]
        found.append({"id": made.oid, "title": made.title, "message": "", "date": made.date, "authors": []})
        oid = made.parent
    return Answer(found)


def add_tag(store: Store, request: Request, kind: str, repo_id: str, revision: str) -> Answer:
    """A tag at a revision; 409 where there is one."""
    repository = _writable(store, request, kind, repo_id)
    store.name_commit(repository, repository.tags, request.json()["tag"], revision)
    return Answer({})


def delete_tag(store: Store, request: Request, kind: str, repo_id: str, tag: str) -> Answer:
    """No such tag any more."""
    repository = _writable(store, request, kind, repo_id)
    if repository.tags.pop(tag, None) is None:
        raise HubAnswerError(404, f"Invalid rev id: {tag}", "RevisionNotFound")
    store.save(repository)
    return Answer({})


def add_branch(store: Store, request: Request, kind: str, repo_id: str, branch: str) -> Answer:
    """A branch at `startingPoint`, or at main; 409 where there is one."""
    repository = _writable(store, request, kind, repo_id)
    store.name_commit(repository, repository.branches, branch, request.json().get("startingPoint") or MAIN)
    return Answer({})


def content(store: Store, request: Request, kind: str, repo_id: str, revision: str, path: str) -> Answer:
    """A file, or a range of it."""
    made = _readable(store, request, kind, repo_id).at(revision)
    headers = {"X-Repo-Commit": made.oid, "Accept-Ranges": "bytes"}
    if path not in made.files:
        headers |= {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"}
        return Answer({"error": "Entry not found"}, 404, headers)
    file = made.files[path]
    headers["ETag"] = f'"{file.etag}"'
    if file.lfs:
        headers |= {"X-Linked-ETag": f'"{file.etag}"', "X-Linked-Size": str(file.size)}
    return Answer(store.content(file.sha256), 200, headers)


_ID = r"([\w.-]+/[\w.-]+)"
_API = rf"/api/(models|datasets|spaces)/{_ID}"
_PAGE = rf"/(?:(datasets|spaces)/)?{_ID}"
Handler = Callable[..., Answer]
ROUTES: list[tuple[str, str, Handler]] = [
    ("GET", r"/api/whoami-v2", who_am_i),
    ("POST", r"/api/repos/create", create_repository),
    ("DELETE", r"/api/repos/delete", delete_repository),
    ("POST", r"/api/validate-yaml", validate_card),
    ("POST", rf"{_API}/preupload/([^/]+)", preupload),
    ("POST", rf"{_PAGE}\.git/info/lfs/objects/batch", large_files),
    ("PUT", r"/lfs/objects/(\w+)", put_large_file),
    ("POST", r"/lfs/verify", verify_large_file),
    ("POST", rf"{_API}/commit/([^/]+)", commit),
    ("GET", rf"{_API}/revision/([^/]+)", describe),
    ("GET", rf"{_API}/tree/([^/]+)(?:/(.*))?", tree),
    ("POST", rf"{_API}/paths-info/([^/]+)", paths_info),
    ("GET", rf"{_API}/refs", references),
    ("GET", rf"{_API}/commits/([^/]+)", history),
    ("POST", rf"{_API}/tag/([^/]+)", add_tag),
    ("DELETE", rf"{_API}/tag/([^/]+)", delete_tag),
    ("POST", rf"{_API}/branch/([^/]+)", add_branch),
    ("GET", _API, describe),
    ("GET", rf"{_PAGE}/resolve/([^/]+)/(.+)", content),
]


def answer(store: Store, request: Request) -> Answer:
    """The answer to a request; a HEAD request is answered as a GET."""
    method = "GET" if request.method == "HEAD" else request.method
    for wanted, pattern, handler in ROUTES:
        found = re.fullmatch(pattern, request.path)
        if found and wanted == method:
            # A page without a prefix is a model's.
            parts = ["models" if part is None and number == 0 else part for number, part in enumerate(found.groups())]
            return handler(store, request, *(unquote(part) for part in parts if part is not None))
    raise HubAnswerError(404, f"No such page: {request.method} {request.path}")


def _readable(store: Store, request: Request, kind: str, repo_id: str) -> Repository:
    """A repository that whoever asks may see; a private one does not exist for others."""
    repository = store.find(kind, repo_id)
    if repository.private and (request.user is None or request.user.name != repo_id.split("/")[0]):
        raise HubAnswerError(404 if request.user else 401, "Repository not found", "RepoNotFound")
    return repository


def _writable(store: Store, request: Request, kind: str, repo_id: str) -> Repository:
    """A repository that whoever asks may change."""
    repository, user = _readable(store, request, kind, repo_id), request.writer()
    if user.name != repo_id.split("/")[0]:
        raise HubAnswerError(403, "Forbidden: you do not have write access to this repository")
    return repository


def _page(request: Request, repository: Repository) -> str:
    prefix = "" if repository.kind == "models" else f"{repository.kind}/"
    return f"{request.base}/{prefix}{repository.id}/commit"


def _file_entry(path: str, file: File) -> dict[str, Any]:
    entry = {"type": "file", "path": path, "size": file.size, "oid": file.oid}
    return entry | ({"lfs": {"oid": file.sha256, "size": file.size, "pointerSize": 130}} if file.lfs else {})


def _folders(path: str, deep: bool) -> list[tuple[str, ...]]:
    parents = [parent.parts for parent in Path(path).parents if parent.parts]
    return parents if deep else [parts for parts in parents if len(parts) == 1]
