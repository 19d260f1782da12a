"""Servers on the loopback interface for tests: files over HTTP, an S3 store, and connections that drop."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

BUCKET = "bucket"


class FileServer(ThreadingHTTPServer):
    """The files of a folder at `url`; its faults can be changed at any time.

    cuts: bytes of the body after which the next responses end. ranges: whether Range is supported. sizes: whether
    Content-Length is sent. status: of all responses; 200 is the real one. asked: the Range of each GET so far.
    """

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.folder = folder
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.cuts: list[int] = []
        self.ranges = self.sizes = True
        self.status = 200
        self.asked: list[str] = []

    def handle_error(self, request: object, client_address: object) -> None:
        """A client may disconnect early."""


class _Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FileServer

    def do_GET(self) -> None:
        asked = self.headers.get("Range", "")
        self.server.asked.append(asked)
        file = self.server.folder / self.path.lstrip("/").partition("?")[0]
        if self.server.status != 200 or not file.is_file():
            self.send_error(self.server.status if self.server.status != 200 else 404)
            return
        data = file.read_bytes()
        partial = bool(asked and self.server.ranges)
        start = int(re.findall(r"\d+", asked)[0]) if partial else 0
        if partial and start >= len(data):
            self.send_error(416)
            return
        self._send(data, start, partial)

    def _send(self, data: bytes, start: int, partial: bool) -> None:
        body = data[start:]
        self.send_response(206 if partial else 200)
        if partial:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        if self.server.sizes:
            self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body[: self.server.cuts.pop(0)] if self.server.cuts else body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serve_files(folder: Path) -> Iterator[FileServer]:
    server = FileServer(folder)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


class CuttingProxy:
    """Forwards TCP connections to a port, and drops the next ones after `cuts` bytes of the response.

    reachable: whether new connections are let through.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self.cuts: list[int] = []
        self.reachable = True
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client = self._listening.accept()[0]
            except OSError:  # closed
                return
            if self.reachable:
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()
            else:
                client.close()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self._port)) as server:
            requests = threading.Thread(target=self._pass_on, args=(client, server, False), daemon=True)
            requests.start()
            self._pass_on(server, client, True)
            requests.join()

    def _pass_on(self, source: socket.socket, target: socket.socket, answers: bool) -> None:
        passed = 0
        with suppress(OSError):
            while data := source.recv(65536):
                passed += len(data)
                if answers and self.cuts and passed > self.cuts[0]:
                    target.sendall(data[: len(data) - passed + self.cuts.pop(0)])
                    break
                target.sendall(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listening.close()


@contextmanager
def serve_s3() -> Iterator[CuttingProxy]:
    """An S3 store with an empty bucket, BUCKET, behind a proxy; the environment has its address and credentials."""
    pytest.importorskip("s3fs", reason="s3fs is not installed")
    server_of_moto = pytest.importorskip("moto.server", reason="moto[server] is not installed")
    import fsspec

    moto = server_of_moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    proxy = CuttingProxy(moto.get_host_and_port()[1])
    urlopen(Request(f"{proxy.url}/moto-api/reset", method="POST")).close()  # moto keeps the data of earlier servers
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AWS_ENDPOINT_URL", proxy.url)
        environment.setenv("AWS_ACCESS_KEY_ID", "key")
        environment.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        environment.setenv("AWS_DEFAULT_REGION", "us-east-1")
        environment.setenv("AWS_MAX_ATTEMPTS", "1")  # botocore's own retries wait for seconds
        environment.setenv("AWS_EC2_METADATA_DISABLED", "true")
        files = fsspec.filesystem("s3", skip_instance_cache=True)
        files.mkdir(BUCKET)
        forget_s3()
        yield proxy
        forget_s3()
    proxy.close()
    moto.stop()


def forget_s3() -> None:
    """Make the next use of s3:// read the environment again."""
    import fsspec

    fsspec.get_filesystem_class("s3").clear_instance_cache()
