from __future__ import annotations

import errno
import multiprocessing
import os
import random
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers.servers import BUCKET, CuttingProxy, FileServer, forget_s3
from phenaki.core.errors import PhenakiError
from phenaki.data import storage
from phenaki.data.storage import expand, open_atomic, open_from, read_optional

pytestmark = pytest.mark.usefixtures("short_waits")
DATA = random.Random(0).randbytes(3_000_000)


@pytest.fixture
def server(server: FileServer, tmp_path: Path) -> FileServer:
    (tmp_path / "a.tar").write_bytes(DATA)
    return server


def put(url: str, data: bytes) -> str:
    with open_atomic(url) as file:
        file.write(data)
    return url


def read(url: str, offset: int = 0) -> bytes:
    with open_from(url, offset) as file:
        return b"".join(iter(lambda: file.read(70_001), b""))


# finding


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("", ["a-0.tar", "a-1.tar", "a-2.tar", "b/a-0.tar"]),
        ("b", ["b/a-0.tar"]),
        ("a-1.tar", ["a-1.tar"]),
        ("a-[12].tar", ["a-1.tar", "a-2.tar"]),
        ("**/a-0.tar", ["a-0.tar", "b/a-0.tar"]),
        ("a-{1..3}.tar", ["a-1.tar", "a-2.tar", "a-3.tar"]),
        ("{a-2,b/a-0,a-2}.tar", ["a-2.tar", "b/a-0.tar"]),
        ("{,b/}a-{0,2}.tar", ["a-0.tar", "a-2.tar", "b/a-0.tar", "b/a-2.tar"]),
        ("{a,b/a}-?.tar", ["a-0.tar", "a-1.tar", "a-2.tar", "b/a-0.tar"]),
        ("note.txt", ["note.txt"]),
    ],
)
def test_expand_finds_the_same_locally_and_in_a_bucket(
    tmp_path: Path, s3: CuttingProxy, pattern: str, names: list[str]
) -> None:
    bucket = f"s3://{BUCKET}/found"
    (tmp_path / "b").mkdir()
    for name in ("a-1.tar", "a-0.tar", "a-2.tar", "b/a-0.tar", "._a-0.tar", "note.txt"):
        (tmp_path / name).write_bytes(b"x")
        put(f"{bucket}/{name}", b"x")
    for place in (str(tmp_path), bucket):
        assert expand(f"{place}/{pattern}") == [f"{place}/{name}" for name in names]


def test_braces_count_with_zeros(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "t-098.tar").write_bytes(b"x")
    assert [url[-7:] for url in expand(f"{server.url}/t-{{098..101}}.tar")] == [
        "098.tar",
        "099.tar",
        "100.tar",
        "101.tar",
    ]


def test_a_name_with_signs_of_patterns_is_a_name(tmp_path: Path) -> None:
    for name in ("a[1].tar", "{a,b}.tar", "a1.tar"):
        (tmp_path / name).write_bytes(b"x")
    assert expand(f"{tmp_path}/a[1].tar") == [f"{tmp_path}/a[1].tar"]
    assert expand(f"{tmp_path}/{{a,b}}.tar") == [f"{tmp_path}/{{a,b}}.tar"]


def test_a_folder_that_links_to_itself_ends(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"x")
    (tmp_path / "loop").symlink_to(tmp_path)
    assert expand(str(tmp_path)) == [f"{tmp_path}/a.tar"]


@pytest.mark.parametrize("name", ["", "*.tar", "no/*.tar", "{5..2}.tar", "a.tar", "{a,b}.tar", "n" * 300])
def test_what_is_not_there_locally_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(PhenakiError, match="Nothing was found|nothing of that name|File name too long"):
        expand(f"{tmp_path}/{name}")


def test_what_is_not_there_in_a_bucket_is_named(s3: CuttingProxy) -> None:
    for name in ("no", "no/", "no/*.tar", "no.tar", "no-{0..9}.tar"):
        with pytest.raises(PhenakiError, match=f"s3://{BUCKET}/no.*|nothing of that name"):
            expand(f"s3://{BUCKET}/{name}")
        with pytest.raises(PhenakiError, match="'s3://missing/.*there is no bucket of that name"):
            expand(f"s3://missing/{name}")
    with pytest.raises(PhenakiError, match="no bucket"):
        put("s3://missing/a.tar", b"x")


def test_missing_and_forbidden_over_http(server: FileServer) -> None:
    with pytest.raises(PhenakiError, match=rf"{server.url}/no-0.tar'.*nothing of that name"):
        expand(f"{server.url}/no-{{0..3}}.tar")
    assert len(server.asked) == 1  # another try would not help
    server.status = 403
    with pytest.raises(PhenakiError, match="refuses access.*credentials"):
        expand(f"{server.url}/a.tar")


def test_unreachable_hosts_and_unknown_protocols(server: FileServer, s3: CuttingProxy, monkeypatch) -> None:
    server.shutdown()
    server.server_close()
    with pytest.raises(PhenakiError, match=rf"{server.url}/a.tar' stopped at byte 0, after 5 tries: Cannot connect"):
        expand(f"{server.url}/a.tar")
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    forget_s3()
    for place in ("a.tar", "a/*.tar"):
        with pytest.raises(PhenakiError, match=rf"s3://{BUCKET}/a.*Could not connect to the endpoint"):
            expand(f"s3://{BUCKET}/{place}")
    forget_s3()
    with pytest.raises(PhenakiError, match="gopher://a/b.*Protocol not known"):
        expand("gopher://a/b")


@pytest.mark.parametrize(("library", "place", "extra"), [("s3fs", "s3://b/*", "s3"), ("aiohttp", "http://b/a", "http")])
def test_a_missing_library_is_named(library: str, place: str, extra: str) -> None:
    code = f"import sys; sys.modules['{library}'] = None; from phenaki.data.storage import *; expand('{place}')"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "PhenakiError: Cannot " in ended.stderr and f'pip install "phenaki[{extra}]"' in ended.stderr


def test_missing_credentials_are_a_sentence(s3: CuttingProxy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("HOME", str(tmp_path))
    forget_s3()
    for place in (f"s3://{BUCKET}/a.tar", f"s3://{BUCKET}/*"):
        with pytest.raises(PhenakiError, match="no credentials were found.*AWS_ACCESS_KEY_ID.*FSSPEC_S3_ANON"):
            expand(place)
    forget_s3()


def test_wrong_credentials_are_a_sentence(s3: CuttingProxy) -> None:
    import urllib.request

    def check_credentials(after: int) -> None:
        plain = {"Content-Type": "text/plain"}
        request = urllib.request.Request(f"{s3.url}/moto-api/reset-auth", str(after).encode(), plain)
        urllib.request.urlopen(request).close()

    check_credentials(0)
    try:
        for place in (f"s3://{BUCKET}/a.tar", f"s3://{BUCKET}/*"):
            with pytest.raises(PhenakiError, match=r"refuses access .*AWS_ACCESS_KEY_ID"):
                expand(place)
        with pytest.raises(PhenakiError, match="Cannot write.*refuses access"):
            put(f"s3://{BUCKET}/a.tar", b"x")
    finally:
        check_credentials(10**9)


# reading


@pytest.mark.parametrize("offset", [0, 1, 1_000_000, 2_999_999, 3_000_000])
def test_every_place_gives_the_same_bytes(server: FileServer, s3: CuttingProxy, tmp_path: Path, offset: int) -> None:
    places = [f"{tmp_path}/a.tar", f"file://{tmp_path}/a.tar", f"{server.url}/a.tar", f"s3://{BUCKET}/same.tar"]
    put(places[-1], DATA)
    for place in places:
        assert read(place, offset) == DATA[offset:]
    server.ranges = False
    assert read(f"{server.url}/a.tar", offset) == DATA[offset:]


def test_dropped_connections_are_taken_up_where_they_dropped(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(DATA * 3)
    drop = 2_500_000  # more than aiohttp holds, and loses when the connection is lost
    server.cuts = [0, drop, 0, 0, 0, drop, 0, 0, 0]  # more than TRIES in all, not in a row
    assert read(f"{server.url}/a.tar") == DATA * 3
    assert server.cuts == [] and 0 < int(server.asked[2].removeprefix("bytes=").removesuffix("-")) <= drop
    server.cuts, server.ranges = [drop, drop], False
    assert read(f"{server.url}/a.tar") == DATA * 3


def test_dropped_connections_to_a_store_are_taken_up(s3: CuttingProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    from s3fs import S3FileSystem

    monkeypatch.setattr(S3FileSystem, "retries", 1)  # its own would hide ours
    monkeypatch.setattr(storage, "READ_AHEAD", 2**16)
    url = put(f"s3://{BUCKET}/dropped.tar", DATA)
    s3.cuts = [300_000, 200_000, 1_000_000]
    assert read(url) == DATA and s3.cuts == []


def test_a_server_that_is_gone_is_named_with_the_place_reached(server: FileServer) -> None:
    server.cuts = [1_200_000, *[0] * 100]
    with open_from(f"{server.url}/a.tar") as file:
        with pytest.raises(PhenakiError, match=rf"{server.url}/a.tar' stopped at byte [\d,]+ of 3,000,000, after 5"):
            file.read()
    assert len(server.asked) == storage.TRIES  # the one that dropped is the first


def test_an_answer_that_is_short_without_saying_so_is_no_end(server: FileServer) -> None:
    server.sizes = False
    server.cuts = [1_000_000, 0, 500_000]
    assert read(f"{server.url}/a.tar") == DATA and server.cuts == []


def test_a_file_of_unknown_size_ends_where_it_ends(server: FileServer, tmp_path: Path) -> None:
    server.sizes = server.ranges = False
    assert read(f"{server.url}/a.tar") == DATA
    (tmp_path / "a.tar").write_bytes(b"")
    assert read(f"{server.url}/a.tar") == b""


def test_a_file_that_is_replaced_while_it_is_read_is_no_mixture(server: FileServer, tmp_path: Path) -> None:
    server.cuts = [1_000_000]
    with open_from(f"{server.url}/a.tar") as file:
        (tmp_path / "a.tar").write_bytes(DATA + b"more")
        with pytest.raises(PhenakiError, match="changed from 3,000,000 to 3,000,004 bytes"):
            file.read()


def test_waits_grow(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    monkeypatch.setattr(storage, "FIRST_WAIT", 0.5)
    server.status = 503
    with pytest.raises(PhenakiError, match="503"):
        open_from(f"{server.url}/a.tar")
    assert waits == [0.5, 1, 2, 4]


def in_forked_process(function: Callable[[list[str]], object], places: list[str]) -> object:
    context = multiprocessing.get_context("fork")
    found = context.SimpleQueue()
    child = context.Process(target=lambda: found.put(function(places)), daemon=True)
    child.start()
    child.join(120)  # of a busy machine
    assert child.exitcode == 0
    return found.get()


def peaks(places: list[str]) -> list[int]:
    found = []
    for place in places:
        open_from(place).close()  # sessions stay, and what they load
        tracemalloc.start()
        with open_from(place) as file:
            total = sum(len(data) for data in iter(lambda file=file: file.read(2**20), b""))
        found.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert total == 30_000_000
    return found


def test_memory_is_bounded(server: FileServer, s3: CuttingProxy, tmp_path: Path) -> None:
    (tmp_path / "large.tar").write_bytes(bytes(30_000_000))
    places = [f"{server.url}/large.tar", put(f"s3://{BUCKET}/large.tar", bytes(30_000_000))]
    assert max(in_forked_process(peaks, places)) < 20_000_000  # the servers, in this process, hold the whole file


def seconds_to_read(places: list[str]) -> float:
    begin = time.monotonic()
    assert all(read(place) == DATA for place in places)
    return time.monotonic() - begin


def test_a_forked_process_reads_what_its_parent_has_read(server: FileServer, s3: CuttingProxy) -> None:
    places = [f"{server.url}/a.tar", put(f"s3://{BUCKET}/forked.tar", DATA)]
    seconds_to_read(places)
    with open_from(places[0]) as half_read, open_from(places[1]):
        half_read.read(10)
        assert in_forked_process(seconds_to_read, places) < 10
        assert half_read.read() == DATA[10:]


def test_local_trouble_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(PhenakiError, match=rf"Cannot read '{tmp_path}': that is a folder"):
        open_from(str(tmp_path))
    with pytest.raises(PhenakiError, match=r"no.tar': nothing of that name is there"):
        open_from(f"{tmp_path}/no.tar")
    (tmp_path / "a.tar").touch(mode=0)
    if not os.access(tmp_path / "a.tar", os.R_OK):
        with pytest.raises(PhenakiError, match="permission is denied"):
            open_from(f"{tmp_path}/a.tar")


def test_read_if_there(server: FileServer, s3: CuttingProxy, tmp_path: Path) -> None:
    put(f"s3://{BUCKET}/there.json", b"{}")
    (tmp_path / "there.json").write_bytes(b"{}")
    for place in (str(tmp_path), server.url, f"s3://{BUCKET}"):
        assert read_optional(storage.join(place, "there.json")) == b"{}"
        assert read_optional(storage.join(place, "missing.json")) is None
    assert read_optional(f"{tmp_path}/there.json/no.json") is None
    server.status = 403
    with pytest.raises(PhenakiError, match="refuses access"):
        read_optional(f"{server.url}/there.json")


# writing


@pytest.mark.parametrize("size", [0, 100, 6_000_000])
def test_what_is_written_appears_whole(s3: CuttingProxy, tmp_path: Path, monkeypatch, size: int) -> None:
    monkeypatch.setattr(storage, "PART", 5 * 2**20)
    data = (DATA * 2)[:size]
    for place in (f"{tmp_path}/w.tar", f"s3://{BUCKET}/w{size}.tar"):
        with open_atomic(place) as file:
            file.write(data[: size // 2])
            assert read_optional(place) is None
            file.write(data[size // 2 :])
        assert read(place) == data


def stop_in_the_middle(place: str, data: bytes) -> None:
    with pytest.raises(RuntimeError, match="^mine$"), open_atomic(place) as file:
        file.write(data)
        raise RuntimeError("mine")
    assert not isinstance(file, storage._Upload) or file._file.closed  # a finalizer would hang when Python ends


@pytest.mark.parametrize("size", [100, 6_000_000])
def test_an_error_on_the_way_leaves_nothing(s3: CuttingProxy, tmp_path: Path, monkeypatch, size: int) -> None:
    import fsspec

    monkeypatch.setattr(storage, "PART", 5 * 2**20)
    for place in (f"{tmp_path}/e.tar", f"s3://{BUCKET}/e.tar"):
        stop_in_the_middle(place, bytes(size))
        assert read_optional(place) is None
    assert os.listdir(tmp_path) == []
    assert not fsspec.filesystem("s3").call_s3("list_multipart_uploads", Bucket=BUCKET).get("Uploads")


def test_dropped_connections_while_writing(s3: CuttingProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "PART", 5 * 2**20)
    forget_s3()
    s3.cuts = [0, 0, 100]
    data = DATA * 4
    assert read(put(f"s3://{BUCKET}/dropped-writing.tar", data)) == data and s3.cuts == []


def test_places_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PhenakiError, match="over http files are only read"):
        put("http://127.0.0.1:1/a.tar", b"x")
    with pytest.raises(PhenakiError, match="does not exist"):
        put(f"{tmp_path}/missing/a.tar", b"x")

    with pytest.raises(PhenakiError, match="disk is full"), open_atomic(f"{tmp_path}/a.tar"):
        raise OSError(errno.ENOSPC, "No space left")
    assert os.listdir(tmp_path) == []
