"""A local stub of the Hugging Face Hub: as much of its file API as `huggingface_hub` calls for an adapter."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import attrs

TOKEN = "hf_abcdefghijklmnopqrstuvwxyz012345"


@attrs.define
class Repository:
    """Files by path, for each branch."""

    private: bool = False
    branches: dict[str, dict[str, bytes]] = attrs.field(factory=lambda: {"main": {}})

    def sha(self, revision: str) -> str:
        """The commit of a branch, which is made of its content."""
        files = sorted(
            (path, hashlib.sha256(data).hexdigest()) for path, data in self.branches[revision].items()
        )
        return hashlib.sha1(json.dumps([revision, files]).encode()).hexdigest()

    def branch(self, revision: str) -> str | None:
        """The branch of a revision, which is its name or its commit."""
        return next((name for name in self.branches if revision in (name, self.sha(name))), None)


@attrs.define
class Hub:
    """The server's state, for tests to look at."""

    url: str = ""
    repositories: dict[str, Repository] = attrs.field(factory=dict)
    large: dict[str, bytes] = attrs.field(factory=dict)
    requests: list[str] = attrs.field(factory=list)


def handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    """The class that answers requests."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = self.noted()
            if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/(revision|tree)/([^/]+)", path):
                return self.listing(*found.groups())
            if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)", path):
                return self.listing(found[1], "revision", "main")
            if found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
                return self.file(*found.groups())
            return self.answer(404, {"error": "Not found"})

        def do_POST(self) -> None:
            path = self.noted()
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if path == "/api/validate-yaml":
                return self.answer(200, {"errors": [], "warnings": []})
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                return self.answer(401, {"error": "Invalid credentials"})
            if path == "/api/repos/create":
                return self.create(json.loads(body))
            if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/(branch|preupload|commit)/([^/]+)", path):
                name, action, revision = found.groups()
                return getattr(self, action)(name, revision, body)
            if found := re.fullmatch(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
                return self.batch(json.loads(body))
            return self.answer(404, {"error": "Not found"})

        def do_PUT(self) -> None:
            path = self.noted()
            hub.large[path.rpartition("/")[2]] = self.rfile.read(int(self.headers["Content-Length"]))
            self.answer(200, {})

        def noted(self) -> str:
            path = self.path.partition("?")[0]
            hub.requests.append(f"{self.command} {path}")
            return path

        def create(self, values: dict[str, Any]) -> None:
            name = (
                f"{values['organization']}/{values['name']}" if values.get("organization") else values["name"]
            )
            if name in hub.repositories:
                return self.answer(
                    409, {"error": "You already created this model repo", "url": f"{hub.url}/{name}"}
                )
            hub.repositories[name] = Repository(
                values.get("private") is True or values.get("visibility") == "private"
            )
            return self.answer(200, {"url": f"{hub.url}/{name}", "name": name})

        def branch(self, name: str, revision: str, body: bytes) -> None:
            repository = hub.repositories[name]
            if revision in repository.branches:
                return self.answer(409, {"error": "Reference already exists"})
            repository.branches[revision] = dict(repository.branches["main"])
            return self.answer(200, {})

        def preupload(self, name: str, revision: str, body: bytes) -> None:
            files = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                    "oid": None,
                }
                for file in json.loads(body)["files"]
            ]
            self.answer(200, {"files": files})

        def batch(self, values: dict[str, Any]) -> None:
            objects = [
                {**entry, "actions": {"upload": {"href": f"{hub.url}/lfs/{entry['oid']}"}}}
                for entry in values["objects"]
            ]
            self.answer(200, {"transfer": "basic", "objects": objects})

        def commit(self, name: str, revision: str, body: bytes) -> None:
            repository = hub.repositories[name]
            files = repository.branches[revision]
            for line in map(json.loads, body.decode().splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    files[value["path"]] = hub.large[value["oid"]]
                elif line["key"] == "deletedFile":
                    del files[value["path"]]
            sha = repository.sha(revision)
            self.answer(200, {"commitUrl": f"{hub.url}/{name}/commit/{sha}", "commitOid": sha})

        def listing(self, name: str, kind: str, revision: str) -> None:
            repository = hub.repositories.get(name)
            if repository is None or (repository.private and "Authorization" not in self.headers):
                return self.answer(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
            branch = repository.branch(revision)
            if branch is None:
                return self.answer(404, {"error": "Invalid rev id"}, {"X-Error-Code": "RevisionNotFound"})
            files = repository.branches[branch]
            if kind == "tree":
                entries = [
                    {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                    for path, data in files.items()
                ]
                return self.answer(200, entries)
            siblings = [{"rfilename": path} for path in files]
            about = {"id": name, "sha": repository.sha(branch), "private": repository.private}
            return self.answer(200, {**about, "siblings": siblings})

        def file(self, name: str, revision: str, path: str) -> None:
            repository = hub.repositories[name]
            branch = repository.branch(revision)
            assert branch is not None
            data = repository.branches[branch][path]
            etag = f'"{hashlib.sha256(data).hexdigest()}"'
            self.answer(200, data, {"ETag": etag, "X-Repo-Commit": repository.sha(branch)})

        def answer(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            kind = "application/octet-stream" if isinstance(content, bytes) else "application/json"
            self.send_header("Content-Type", kind)
            for key, value in (headers or {}).items():
                self.send_header(key, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def log_message(self, format: str, *arguments: Any) -> None:
            """Nothing is printed."""

    return Handler


@contextmanager
def running() -> Iterator[Hub]:
    """A hub on a free port of this computer."""
    hub = Hub()
    with ThreadingHTTPServer(("127.0.0.1", 0), handler(hub)) as server:
        hub.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()
