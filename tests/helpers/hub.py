"""A Hugging Face hub on the loopback interface: repositories of files, uploads and downloads."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

TOKEN = "hf_" + "t" * 34


class HubServer(ThreadingHTTPServer):
    """repositories: the files of each revision, by name. tokens: seen so far. private: repositories created so.

    status: of all answers; 200 is the real one.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.repositories: dict[str, dict[str, dict[str, bytes]]] = {}
        self.private: set[str] = set()
        self.tokens: set[str | None] = set()
        self.status = 200


def commit_of(files: dict[str, bytes]) -> str:
    return hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()


class _Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HubServer

    def do_POST(self) -> None:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.tokens.add(self.headers.get("Authorization"))
        if self.server.status != 200:
            return self._send({"error": "no"}, status=self.server.status)
        match self.path.partition("?")[0].strip("/").split("/"):
            case ["api", "repos", "create"]:
                asked = json.loads(body)
                name = f"{asked.get('organization') or 'owner'}/{asked['name']}"
                self.server.repositories.setdefault(name, defaultdict(dict))["main"]
                if asked.get("private") or asked.get("visibility") == "private":
                    self.server.private.add(name)
                self._send({"url": f"{self.server.url}/{name}"})
            case ["api", "validate-yaml"]:
                self._send({"errors": [], "warnings": []})
            case ["api", "models", owner, name, "branch", branch]:
                self.server.repositories[f"{owner}/{name}"][branch]
                self._send({})
            case ["api", "models", _, _, "preupload", _]:
                names = [file["path"] for file in json.loads(body)["files"]]
                self._send({"files": [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]})
            case ["api", "models", owner, name, "commit", branch]:
                files = self.server.repositories[f"{owner}/{name}"][branch]
                for line in map(json.loads, body.splitlines()):
                    if line["key"] == "file":
                        files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                self._send(
                    {"commitUrl": f"{self.server.url}/{owner}/{name}/commit/{commit_of(files)}", "commitOid": "1"}
                )
            case _:
                self._send({"error": self.path}, status=404)

    def do_GET(self) -> None:
        self.server.tokens.add(self.headers.get("Authorization"))
        if self.server.status != 200:
            return self._send({"error": "no"}, status=self.server.status)
        match self.path.partition("?")[0].strip("/").split("/"):
            case ["api", "models", owner, name, *rest]:
                files = self._files(owner, name, rest[1] if len(rest) > 1 else "main")
                if files is not None:
                    entries = [{"type": "file", "path": n, "size": len(d), "oid": "0" * 40} for n, d in files.items()]
                    siblings = [{"rfilename": name} for name in files]
                    info = {"id": f"{owner}/{name}", "sha": commit_of(files), "siblings": siblings}
                    self._send(entries if rest[:1] == ["tree"] else info)
            case [owner, name, "resolve", revision, *path]:
                files = self._files(owner, name, revision)
                if files is not None and "/".join(path) in files:
                    data = files["/".join(path)]
                    headers = {"X-Repo-Commit": commit_of(files), "ETag": f'"{hashlib.sha1(data).hexdigest()}"'}
                    self._send(data, headers)
                elif files is not None:
                    self._send({}, {"X-Error-Code": "EntryNotFound"}, 404)
            case _:
                self._send({"error": self.path}, status=404)

    do_HEAD = do_GET

    def _files(self, owner: str, name: str, revision: str) -> dict[str, bytes] | None:
        """Of a revision, or a commit; else the answer says what is not there."""
        revisions = self.server.repositories.get(f"{owner}/{name}")
        if revisions is None:
            self._send({}, {"X-Error-Code": "RepoNotFound"}, 404)
            return None
        for branch, files in revisions.items():
            if revision in (branch, commit_of(files)):
                return files
        self._send({}, {"X-Error-Code": "RevisionNotFound"}, 404)
        return None

    def _send(self, body: Any, headers: dict[str, str] | None = None, status: int = 200) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        kind = "application/octet-stream" if isinstance(body, bytes) else "application/json"
        usual = {"Content-Length": str(len(data)), "Content-Type": kind, "Connection": "close"}
        for key, value in (usual | (headers or {})).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serve_hub(cache: Path) -> Iterator[HubServer]:
    """A hub that huggingface_hub talks to, with its cache in that folder, logged in with TOKEN."""
    from huggingface_hub import constants, file_download

    server = HubServer()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "ENDPOINT", server.url)
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.setattr(constants, "HF_HUB_CACHE", str(cache))
        for module in (constants, file_download):  # older versions hold it in both
            template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
            patch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
        patch.setenv("HF_TOKEN", TOKEN)
        yield server
    server.shutdown()
    server.server_close()
