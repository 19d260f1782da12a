"""A Hugging Face hub on the loopback interface: repositories of files, uploads and downloads."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote

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


def entries(files: dict[str, bytes], recursive: bool, under: str = "") -> list[dict[str, Any]]:
    """The files and folders below `under`, as the hub lists them."""
    within = f"{under}/" if under else ""
    below = {name: data for name, data in files.items() if name.startswith(within)}
    found: dict[str, dict[str, Any]] = {}
    for name, data in below.items():
        parts = name.removeprefix(within).split("/")
        for depth in range(1, len(parts)):
            folder = within + "/".join(parts[:depth])
            if recursive or depth == 1:
                found[folder] = {"type": "directory", "path": folder, "oid": "1" * 40}
        if recursive or len(parts) == 1:
            found[name] = {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
    return list(found.values())


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
        match self._parts():
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
            case ["api", "models", owner, name, "paths-info", revision]:
                wanted = parse_qs(body.decode()).get("paths") or json.loads(body)["paths"]
                files = self._files(owner, name, revision)
                if files is not None:
                    self._send([entry for entry in entries(files, recursive=True) if entry["path"] in wanted])
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
        match self._parts():
            case ["api", "models", owner, name, *rest]:
                files = self._files(owner, name, rest[1] if len(rest) > 1 else "main")
                if files is not None:
                    siblings = [{"rfilename": name} for name in files]
                    info = {"id": f"{owner}/{name}", "sha": commit_of(files), "siblings": siblings}
                    recursive = "recursive=True" in self.path or "recursive=true" in self.path
                    under = "/".join(rest[2:])
                    self._send(entries(files, recursive, under) if rest[:1] == ["tree"] else info)
            case [owner, name, "resolve", revision, *path]:
                files = self._files(owner, name, revision)
                if files is not None and "/".join(path) in files:
                    data = files["/".join(path)]
                    headers = {"X-Repo-Commit": commit_of(files), "ETag": f'"{hashlib.sha1(data).hexdigest()}"'}
                    if span := re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")):
                        first, last = int(span[1]), min(int(span[2]), len(data) - 1)
                        headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
                        self._send(data[first : last + 1], headers, 206)
                    else:
                        self._send(data, headers)
                elif files is not None:
                    self._send({}, {"X-Error-Code": "EntryNotFound"}, 404)
            case _:
                self._send({"error": self.path}, status=404)

    do_HEAD = do_GET

    def _parts(self) -> list[str]:
        """Of the path, where data sets are repositories like models."""
        parts = unquote(self.path.partition("?")[0]).strip("/").split("/")
        if parts[0] == "datasets":
            return parts[1:]
        return ["api", "models", *parts[2:]] if parts[:2] == ["api", "datasets"] else parts

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
        for seconds in ("HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT"):  # a busy machine answers late
            patch.setattr(constants, seconds, 120)
        patch.setattr(constants, "HF_HUB_CACHE", str(cache))
        for module in (constants, file_download):  # older versions hold it in both
            template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
            patch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
        patch.setenv("HF_TOKEN", TOKEN)
        yield server
    server.shutdown()
    server.server_close()
