"""A Hugging Face Hub on loopback: what huggingface_hub, datasets and transformers ask for.

It serves repositories out of a folder, `models/NAME` and `datasets/OWNER/NAME`, each at one commit
that depends on its content. Gated repositories and faults are planted by the tests, and every
request is written down.
"""

import hashlib
import json
import re
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

NAME = r"(?P<name>[^/]+(?:/[^/]+)?)"
API = re.compile(rf"/api/(?P<kind>models|datasets)/{NAME}(?:/(?P<what>revision|tree|paths-info)/"
                 r"(?P<revision>[^/]+)(?:/(?P<path>.*))?)?")  # fmt: skip
FILE = re.compile(rf"/(?P<datasets>datasets/)?{NAME}/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
REASONS = {
    "GatedRepo": "Access to this repository is restricted. You must be authenticated to access it.",
    "RepoNotFound": "Repository not found",
    "RevisionNotFound": "Invalid rev id",
    "EntryNotFound": "Entry not found",
}


@dataclass
class Fault:
    """What goes wrong with requests whose method, path and range match `pattern`, so many `times`.

    status, headers: it is answered so. seconds: it is answered so much later. cut: the connection
    ends after so many bytes of the body; reset: without the end that TCP has.
    """

    pattern: str
    times: int = 1_000_000
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    cut: int = -1
    reset: bool = False


@dataclass
class Request:
    method: str
    path: str
    token: str
    range: str


class HubServer(ThreadingHTTPServer):
    """folder: of the repositories. gated: the tokens that open a repository, by name. refused:
    tokens that are no longer valid. faults, requests: see above."""

    daemon_threads = True

    def __init__(self, folder: Path):
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder = folder
        self.gated: dict[str, set[str]] = {}
        self.refused: set[str] = set()
        self.faults: list[Fault] = []
        self.requests: list[Request] = []
        self.lock = threading.Lock()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def commit(self, repository: Path) -> str:
        digest = hashlib.sha1()
        for path in sorted(repository.rglob("*")):
            if path.is_file():
                digest.update(str(path.relative_to(repository)).encode() + path.read_bytes())
        return digest.hexdigest()

    def fault(self, request: str) -> Fault:
        with self.lock:
            for fault in self.faults:
                if fault.times and re.search(fault.pattern, request):
                    fault.times -= 1
                    return fault
        return Fault("")

    def forget(self) -> None:
        """As new: no faults, no requests, no gates."""
        self.faults, self.requests, self.gated, self.refused = [], [], {}, set()

    def handle_error(self, request, client_address) -> None:
        """A client that has gone, as after a time-out, is no fault of the server."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HubServer

    def log_message(self, *args) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        span = self.headers.get("Range", "")
        self.server.requests.append(Request(self.command, self.path, token, span))
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.fault = self.server.fault(f"{self.command} {self.path} {span}")
        time.sleep(self.fault.seconds)
        if self.fault.status:
            return self._send(self.fault.status, b"{}", self.fault.headers)
        if token in self.server.refused:
            message = "Invalid credentials in Authorization header"
            return self._send(401, b"{}", {"X-Error-Message": message})
        path = unquote(urlsplit(self.path).path)
        if found := FILE.fullmatch(path):
            kind = "datasets" if found["datasets"] else "models"
            return self._file(kind, found["name"], found["revision"], found["path"], token)
        if found := API.fullmatch(path):
            return self._api(**found.groupdict(), token=token)
        self._send(404, b"{}")

    def _repository(self, kind: str, name: str, revision: str | None, token: str):
        """(folder, commit), or None when an answer has been sent."""
        folder = self.server.folder / kind / name
        if not folder.is_dir() or not any(folder.iterdir()):
            self._refuse("RepoNotFound", 404 if token else 401)
            return None
        commit = self.server.commit(folder)
        if revision not in (None, "main", commit):
            self._refuse("RevisionNotFound", 404)
            return None
        return folder, commit

    def _file(self, kind: str, name: str, revision: str, path: str, token: str) -> None:
        found = self._repository(kind, name, revision, token)
        if not found:
            return
        folder, commit = found
        if name in self.server.gated and token not in self.server.gated[name]:
            return self._refuse("GatedRepo", 403 if token else 401)
        file = folder / path
        commit_header = {"X-Repo-Commit": commit}
        if not file.is_file():
            return self._refuse("EntryNotFound", 404, commit_header)
        content = file.read_bytes()
        tag = hashlib.sha256(content).hexdigest()
        headers = {**commit_header, "ETag": f'"{tag}"', "X-Linked-Size": str(len(content))}
        if span := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            first, last = int(span[1]), min(int(span[2] or len(content)), len(content) - 1)
            if first >= len(content):
                return self._send(416, b"", headers)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            return self._send(206, content[first : last + 1], headers)
        self._send(200, content, headers)

    def _api(
        self, kind: str, name: str, what: str | None, revision: str, path: str, token: str
    ) -> None:
        found = self._repository(kind, name, revision, token)
        if not found:
            return
        folder, commit = found
        if what == "tree":
            return self._json(list(entries(folder, folder / (path or ""), self._is_recursive())))
        if what == "paths-info":
            wanted = parse_qs(self.body.decode())["paths"]
            all_of = {entry["path"]: entry for entry in entries(folder, folder, True)}
            return self._json([all_of[path] for path in wanted if path in all_of])
        siblings = [{"rfilename": entry["path"]} for entry in entries(folder, folder, True)]
        self._json({"id": name, "sha": commit, "siblings": siblings, "private": False, "tags": []})

    def _is_recursive(self) -> bool:
        return parse_qs(urlsplit(self.path).query).get("recursive", [""])[0].lower() == "true"

    def _refuse(self, code: str, status: int, headers: dict[str, str] | None = None) -> None:
        told = {"X-Error-Code": code, "X-Error-Message": REASONS[code]}
        self._send(status, b"", told | (headers or {}))

    def _json(self, content) -> None:
        self._send(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        cut = self.fault.cut
        self.wfile.write(body if cut < 0 else body[:cut])
        if 0 <= cut < len(body):
            self.wfile.flush()
            if self.fault.reset:
                linger = struct.pack("ii", 1, 0)
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                self.connection.close()
            self.close_connection = True


def entries(repository: Path, folder: Path, recursive: bool) -> Iterator[dict]:
    """The files and folders below a folder, as the Hub lists them."""
    for path in sorted(folder.rglob("*") if recursive else folder.glob("*")):
        name = str(path.relative_to(repository))
        digest = hashlib.sha1(name.encode()).hexdigest()
        if path.is_dir():
            yield {"type": "directory", "path": name, "oid": digest, "size": 0}
        else:
            yield {"type": "file", "path": name, "oid": digest, "size": path.stat().st_size}


@contextmanager
def serve(folder: Path) -> Iterator[HubServer]:
    """The Hub, as long as the `with` block lasts."""
    with HubServer(folder) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
