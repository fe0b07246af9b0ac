"""A Hub on this machine, for tests: models and data sets with the real client, no network, faults on request.

    python -m tests.hub.server --port 8900 --folder outputs/hub          # or: make hub
    python -m tests.hub.server --fail PUT:/lfs/objects:cut:1             # the first large file breaks off
    python -m tests.hub.server --fail POST:/commit/:503:2                # METHOD:PATTERN:STATUS|cut[:TIMES]

It prints what to set before a program of `huggingface_hub`, `transformers` or `datasets` starts. It knows two tokens:
`hf_write` of `user`, and `hf_read` of the same, which may not write.
"""

import argparse
import json
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from tests.hub.answers import Answer, Request, answer
from tests.hub.faults import Fault, Faults
from tests.hub.store import HubAnswerError, Store, User

USERS = {"hf_write": User("user"), "hf_read": User("user", "read"), "hf_other": User("other")}


class HubServer(ThreadingHTTPServer):
    """The server; `with running(folder) as hub:` starts one. `asked` lists method and path of all requests."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, folder: Path, port: int = 0, users: dict[str, User] | None = None) -> None:
        self.store, self.faults = Store(folder, USERS if users is None else users), Faults()
        self.asked: list[tuple[str, str]] = []
        super().__init__(("127.0.0.1", port), _Handler)

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def environment(self, cache: Path, token: str | None = "hf_write") -> dict[str, str]:
        """What a process needs in its environment to take this for the Hub.

        Args:
            cache: a folder for what it downloads.
            token: None is a process that is not logged in.
        """
        given = {"HF_ENDPOINT": self.url, "HF_HOME": str(cache), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
        return given | ({} if token is None else {"HF_TOKEN": token})

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that is gone is no error."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


@contextmanager
def running(folder: Path, port: int = 0) -> Iterator[HubServer]:
    """A server on a thread of its own; port 0 is any that is free."""
    server = HubServer(folder, port)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _CutError(Exception):
    """The connection is to be cut."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HubServer

    def do_GET(self) -> None:
        """All methods are the same here."""
        try:
            self._send(self._answered())
        except _CutError:
            self.close_connection = True

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815  (names that the base class calls)

    def log_message(self, *arguments: Any) -> None:
        """Quiet."""

    def _answered(self) -> Answer:
        split = urlsplit(self.path)
        self.server.asked.append((self.command, split.path))
        fault = self.server.faults.take(self.command, split.path)
        if fault and fault.moment == "during":
            self._read_body(half=True)
            raise _CutError
        body = self._read_body()
        if fault and fault.moment == "before":
            return _faulty(fault)
        try:
            user = self._user()
            headers = dict(self.headers.items())
            query = dict(parse_qsl(split.query))
            given = answer(
                self.server.store, Request(self.command, split.path, query, headers, body, self.server.url, user)
            )
        except HubAnswerError as error:
            given = _refusal(error)
        return _faulty(fault) if fault else given

    def _user(self) -> User | None:
        scheme, _, token = self.headers.get("Authorization", "").partition(" ")
        if not scheme:
            return None
        if token not in self.server.store.users:
            raise HubAnswerError(401, "Invalid credentials in Authorization header")
        return self.server.store.users[token]

    def _read_body(self, half: bool = False) -> bytes:
        """The request's body, or the first half of it."""
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            pieces = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                pieces.append(self.rfile.read(size))
                self.rfile.readline()
                if half:
                    return b"".join(pieces)
            self.rfile.readline()
            return b"".join(pieces)
        length = int(self.headers.get("Content-Length") or 0)
        return self.rfile.read(length // 2 if half else length)

    def _send(self, given: Answer) -> None:
        if isinstance(given.content, Path):
            self._send_file(given)
            return
        body = given.content if isinstance(given.content, bytes) else json.dumps(given.content).encode()
        self._send_head(given.status, {"Content-Type": "application/json", **given.headers}, len(body))
        if self.command != "HEAD":
            self.wfile.write(body)

    def _send_file(self, given: Answer) -> None:
        """A file of the store, or what the Range header asks of it."""
        content = given.content.read_bytes()
        status, headers, asked = given.status, dict(given.headers), self.headers.get("Range")
        if asked:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            start = int(first) if first else len(content) - int(last)
            stop = min(int(last) + 1, len(content)) if first and last else len(content)
            if start >= len(content):
                self._send_head(416, {"Content-Range": f"bytes */{len(content)}"}, 0)
                return
            status, headers["Content-Range"] = 206, f"bytes {start}-{stop - 1}/{len(content)}"
            content = content[start:stop]
        self._send_head(status, {"Content-Type": "application/octet-stream", **headers}, len(content))
        if self.command != "HEAD":
            self.wfile.write(content)

    def _send_head(self, status: int, headers: dict[str, str], length: int) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(length), "X-Request-Id": "test"}.items():
            self.send_header(name, value)
        self.end_headers()


def _refusal(error: HubAnswerError) -> Answer:
    headers = {"X-Error-Message": error.message} | ({"X-Error-Code": error.code} if error.code else {})
    return Answer({"error": error.message}, error.status, headers)


def _faulty(fault: Fault) -> Answer:
    if fault.status is None:
        raise _CutError
    body = {"error": f"fault on request: {fault.status}"} if fault.body is None else fault.body
    return Answer(body, fault.status, fault.headers)


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m tests.hub.server", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--port", type=int, default=8900, help="default: 8900; 0 is any that is free")
    parser.add_argument(
        "--folder", type=Path, default=Path("outputs/hub"), help="what it keeps (default: outputs/hub)"
    )
    parser.add_argument(
        "--fail", action="append", default=[], metavar="FAULT", help="METHOD:PATTERN:STATUS|cut[:TIMES]"
    )
    arguments = parser.parse_args(argv)
    server = HubServer(arguments.folder, arguments.port)
    for fault in arguments.fail:
        server.faults.add(Fault.parse(fault))
    for name, value in server.environment(arguments.folder / "client").items():
        print(f"export {name}={value}", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        server.server_close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
