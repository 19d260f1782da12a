from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path

import pytest

from helpers.servers import BUCKET, CuttingProxy, FileServer
from phenaki.core.errors import BadSample, PhenakiError
from phenaki.data import shards, storage
from phenaki.data.sample import EncodedSample
from phenaki.data.shards import END, ShardWriter, read_shard

pytestmark = pytest.mark.usefixtures("short_waits")
Members = list[tuple[str, bytes]]


def samples(count: int) -> dict[str, dict[str, bytes]]:
    return {
        f"park/{number:04d}": {
            "mp4": bytes([number]) * (700 * number + 1),
            "txt": f"a clip, número {number}".encode(),
            "json": json.dumps({"fps": number, "captions": ["another"], "label": "park"}).encode(),
        }
        for number in range(count)
    }


def write(place: str, count: int = 7, **limits: int) -> list[shards.Shard]:
    with ShardWriter(place, **limits) as writer:
        for key, fields in samples(count).items():
            writer.write(key, fields)
    return writer.finished


def pack(path: Path, members: Members, form: int = tarfile.PAX_FORMAT, end_mark: bool = True) -> str:
    with tarfile.open(path, "w", format=form) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        size = tar.offset
    if not end_mark:
        os.truncate(path, size)
    return str(path)


def read(url: str) -> list[EncodedSample | BadSample]:
    return [sample for sample, _ in read_shard(url)]


def keys(url: str) -> list[str]:
    """Keys of the good ones, and sentences of the bad ones."""
    return [sample.key if isinstance(sample, EncodedSample) else str(sample) for sample in read(url)]


# reading


def test_the_fields_of_a_sample(tmp_path: Path) -> None:
    (shard,) = write(str(tmp_path))
    found = read(shard.url)
    assert [sample.key for sample in found] == [f"shard-000000.tar/park/{number:04d}" for number in range(7)]
    assert found[3] == EncodedSample(
        "shard-000000.tar/park/0003",
        bytes([3]) * 2101,
        ".mp4",
        ("a clip, número 3", "another"),
        "park",
        {"fps": 3},
    )


def test_every_place_gives_the_same_samples(tmp_path: Path, server: FileServer, s3: CuttingProxy) -> None:
    (local,) = write(str(tmp_path))
    (remote,) = write(f"s3://{BUCKET}/same")
    expected = list(read_shard(local.url))
    assert len(expected) == 7
    assert list(read_shard(f"{server.url}/shard-000000.tar?signed=a/b")) == expected
    assert remote.url == f"s3://{BUCKET}/same/shard-000000.tar" and list(read_shard(remote.url)) == expected


def test_reading_goes_on_at_any_offset(tmp_path: Path, server: FileServer, s3: CuttingProxy) -> None:
    members = [("folder.mp4", b"0")]
    for number in range(4):
        name = f"{'long' * 50}/{number}{'n' * 120}ö"
        members += [(f"{name}.npy", bytes(3000)), (f"{name}.mp4", bytes([number]) * 1000), (f"{name}.txt", b"word")]
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        path = pack(tmp_path / "a.tar", [*members, ("broken.txt", b"no media"), ("last.gif", b"1" * 512)], form)
        with storage.open_atomic(f"s3://{BUCKET}/a.tar") as file:
            file.write(Path(path).read_bytes())
        whole = list(read_shard(path))
        assert len(whole) == 7 and str(whole[5][0]).startswith("a.tar/broken: ")
        for url in (path, f"{server.url}/a.tar", f"s3://{BUCKET}/a.tar"):
            for index, (_, offset) in enumerate(whole):
                rest = list(read_shard(url, offset))
                assert [(str(sample), end) for sample, end in rest] == [
                    (str(sample), end) for sample, end in whole[index + 1 :]
                ]


def test_what_lies_between_samples_is_passed_over(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, kind in [
            ("park", tarfile.DIRTYPE), ("park/1.gif", tarfile.SYMTYPE), ("park/1.MP4", tarfile.REGTYPE),
            ("park/._1.mp4", tarfile.REGTYPE),
            (".hidden.mp4", tarfile.REGTYPE), ("README", tarfile.REGTYPE),
            ("park/1.txt", tarfile.REGTYPE), ("./v1.5/2.left.webm", tarfile.REGTYPE),
            ("3.safetensors", tarfile.REGTYPE),
        ]:  # fmt: skip
            info = tarfile.TarInfo(name)
            info.type, info.size = kind, 5 if kind == tarfile.REGTYPE else 0
            tar.addfile(info, io.BytesIO(b"words"))
    found = read(f"{tmp_path}/a.tar")
    assert [(sample.key, sample.suffix, sample.captions) for sample in found] == [
        ("a.tar/park/1", ".mp4", ("words",)),
        ("a.tar/v1.5/2", ".webm", ()),
        ("a.tar/3", ".safetensors", ()),
    ]


def test_the_video_is_taken_and_samples_are_consecutive_members(tmp_path: Path) -> None:
    path = pack(
        tmp_path / "a.tar", [("1.wav", b"w"), ("1.gif", b"g"), ("1.mp4", b"m"), ("2.mp4", b"2"), ("1.mp4", b"3")]
    )
    assert [(sample.key, sample.media) for sample in read(path)] == [
        ("a.tar/1", b"m"),
        ("a.tar/2", b"2"),
        ("a.tar/1", b"3"),
    ]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_names_of_any_length_and_letters(tmp_path: Path, form: int) -> None:
    long = "folder/" * 12 + "n" * 90 if form == tarfile.USTAR_FORMAT else "folder/" * 40 + "n" * 200
    path = pack(tmp_path / "a.tar", [(f"{name}.mp4", b"x") for name in (long, "日本 語/ünï", "\udce4", "\udcf6")], form)
    assert keys(path) == [f"a.tar/{long}", "a.tar/日本 語/ünï", r"a.tar/\xe4", r"a.tar/\xf6"]


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ([("b.mp4", b"1"), ("b.mp4", b"2")], "b: it has two members 'mp4'"),
        ([("b.mp4", b"1"), ("b.txt", b"1"), ("b.txt", b"2")], "b: it has two members 'txt'"),
        ([("b.mp4", b"1"), ("b.txt", "naïve".encode("latin-1"))], "b: its .txt is not UTF-8 (invalid continuation"),
        ([("b.mp4", b"1"), ("b.txt", b"x" * 100_000)], "b: its 'txt' has 100,000 bytes; at most 10,000"),
        ([("b.mp4", b"1"), ("b.json", b"{")], "b: its .json cannot be read"),
        ([("b.mp4", b"1"), ("b.json", b"\xff")], "b: its .json cannot be read"),
        ([("b.mp4", b"1"), ("b.json", b"[" * 100_000)], "b: its .json cannot be read"),
        ([("b.mp4", b"1"), ("b.json", b"[1]")], "b: its .json is no object"),
        ([("b.mp4", b"1"), ("b.json", b'{"captions": "one"}')], "b: its .json needs a list of texts as 'captions'"),
        ([("b.mp4", b"1"), ("b.json", b'{"captions": [1]}')], "b: its .json needs a list of texts as 'captions'"),
        ([("b.mp4", b"1"), ("b.json", b'{"label": 3}')], "b: its .json needs a list"),
        ([("b.mp4", b"1"), ("b.json", b'{"captions": ["' + b"x" * 20_000 + b'"]}')], "b: a caption has 20,000 bytes"),
        ([("b.txt", b"1"), ("b.npy", b"1")], "b: it has no video or picture, only npy, txt"),
        ([("b.mp4", bytes(4001))], "b: its 'mp4' has 4,001 bytes; at most 4,000"),
    ],
)
def test_a_bad_sample_is_named_and_reading_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, members: Members, said: str
) -> None:
    monkeypatch.setitem(shards._MOST, "media", 4000)
    path = pack(tmp_path / "a.tar", [("a.mp4", bytes(4000)), *members, ("c.mp4", b"1")])
    first, bad, last = keys(path)
    assert (first, last) == ("a.tar/a", "a.tar/c") and bad.startswith(f"a.tar/{said}")


# shards that are broken


def test_a_shard_cut_at_any_byte_gives_what_is_whole(tmp_path: Path) -> None:
    path = pack(tmp_path / "a.tar", [(f"{n}.{field}", bytes(600)) for n in range(3) for field in ("mp4", "npy")])
    data = Path(path).read_bytes()
    begins = [end for _, end in read_shard(path)]  # of the next sample; the last is the end mark
    for length in [*range(1, begins[-1], 97), *begins[:-1], begins[0] + 512, begins[-1]]:
        Path(path).write_bytes(data[:length])
        whole = sum(length >= begin + 512 for begin in begins)
        *found, (bad, end) = read_shard(path)
        assert [sample.key for sample, _ in found] == [f"a.tar/{n}" for n in range(whole)]
        assert f"byte {length:,}" in str(bad) if length >= 512 else str(bad) == "a.tar: it is no tar file"
        assert end == END and list(read_shard(path, end)) == []


def test_a_broken_header_in_the_middle(tmp_path: Path) -> None:
    path = pack(tmp_path / "a.tar", [(f"{n}.mp4", bytes(512)) for n in range(4)])
    data = bytearray(Path(path).read_bytes())
    for broken in (b"\xff" * 512, b"ustar".ljust(512, b"x")):
        data[2048:2560] = broken
        Path(path).write_bytes(data)
        assert keys(path)[:1] == ["a.tar/0"] and len(keys(path)) == 2
        assert keys(path)[1].startswith("a.tar: it is broken at byte 2,048; what began before")


@pytest.mark.parametrize("size", [b"77777777777\0", b"\xff" * 12, b"\x80" + b"\xff" * 11])
@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_sizes_that_cannot_be_take_no_memory(tmp_path: Path, size: bytes, kind: bytes) -> None:
    header = bytearray(tarfile.TarInfo("2.mp4").tobuf())
    header[124:136], header[156:157] = size, kind
    header[148:156] = b"%06o\0 " % tarfile.calc_chksums(bytes(header))[0]
    path = pack(tmp_path / "a.tar", [("1.mp4", b"1")], end_mark=False)
    with open(path, "ab") as file:
        file.write(header + bytes(1024))
    found = keys(path)
    assert found[-1].startswith(("a.tar: it is broken at byte 1,024", "a.tar: it is cut off at byte 2,560"))


@pytest.mark.parametrize(
    "records", [b"", b"nonsense", b"99 path=x\n", b"0 path=x\n", b"-5 path=x\n", b"11 size=-1\n", b"12 size=two\n"]
)
def test_broken_extended_headers(tmp_path: Path, records: bytes) -> None:
    header = tarfile.TarInfo("pax")
    header.type, header.size = tarfile.XHDTYPE, len(records)
    body = header.tobuf(tarfile.USTAR_FORMAT) + records + bytes(-len(records) % 512) + tarfile.TarInfo("2.mp4").tobuf()
    path = pack(tmp_path / "a.tar", [("1.mp4", b"1")], end_mark=False)
    with open(path, "ab") as file:
        file.write(body + bytes(1024))
    assert keys(path)[-1].startswith("a.tar: it is broken at byte " if records else "a.tar/2")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "it is an empty file"),
        (b"<html>not found</html>", "it is no tar file"),
        (b"<html>not found</html>" * 100, "it is no tar file"),
        (bytes(10240), "it holds no members"),
    ],
)
def test_what_is_no_shard(tmp_path: Path, server: FileServer, data: bytes, said: str) -> None:
    (tmp_path / "a.tar").write_bytes(data)
    for url in (f"{tmp_path}/a.tar", f"{server.url}/a.tar"):
        assert keys(url) == [f"a.tar: {said}"]


def test_a_hole_in_a_shard_is_not_its_end(tmp_path: Path) -> None:
    path = pack(tmp_path / "a.tar", [(f"{n}.mp4", bytes(512)) for n in range(4)])
    with open(path, "r+b") as file:
        file.seek(2048)
        file.write(bytes(512))
    assert keys(path) == [
        "a.tar/0",
        "a.tar/1",
        "a.tar: it has an end mark at byte 2,048, and data behind it, which are lost",
    ]
    Path(path).write_bytes(Path(path).read_bytes()[:3000])
    assert keys(path)[2].startswith("a.tar: it is cut off at byte 3,000")


def test_missing_shards(tmp_path: Path, server: FileServer, s3: CuttingProxy) -> None:
    for place in (str(tmp_path), server.url, f"s3://{BUCKET}", "s3://missing"):
        ((bad, end),) = read_shard(f"{place}/no.tar")
        assert end == END and str(bad).startswith("no.tar: Cannot read") and f"{place}/no.tar" in str(bad)


def test_a_server_that_stops_in_the_middle(tmp_path: Path, server: FileServer) -> None:
    path = pack(tmp_path / "a.tar", [(f"{n}.mp4", os.urandom(1_000_000)) for n in range(8)])
    whole = list(read_shard(path))
    server.cuts = [6_500_000, *[0] * 20]
    *found, (bad, end) = read_shard(f"{server.url}/a.tar")
    assert found == whole[: len(found)] and 3 <= len(found) <= 6 and end == END  # aiohttp loses what it holds
    assert f"{server.url}/a.tar' stopped at byte" in str(bad) and "of 8,0" in str(bad)
    server.cuts = [3_000_000, 0, 3_000_000]
    assert list(read_shard(f"{server.url}/a.tar")) == whole


# writing


def test_shards_are_tar_files_by_the_convention(tmp_path: Path) -> None:
    finished = write(f"{tmp_path}/made/here", max_samples=3)
    assert sorted(os.listdir(tmp_path / "made" / "here")) == [f"shard-00000{n}.tar" for n in range(3)]
    assert [shard.samples for shard in finished] == [3, 3, 1]
    found = {}
    for shard in finished:
        assert shard.bytes == os.path.getsize(shard.url)
        with tarfile.open(shard.url) as tar:
            for member in tar:
                assert (member.mtime, member.uid, member.uname, member.mode) == (0, 0, "", 0o644)
                found[member.name] = tar.extractfile(member).read()
    assert found == {f"{key}.{field}": data for key, fields in samples(7).items() for field, data in fields.items()}


def test_equal_samples_make_equal_bytes_everywhere(tmp_path: Path, s3: CuttingProxy) -> None:
    places = [f"{tmp_path}/a", f"{tmp_path}/b", f"s3://{BUCKET}/equal"]
    written = []
    for place in places:
        shard_bytes = []
        for shard in write(place, max_bytes=8000):
            with storage.open_from(shard.url) as file:
                shard_bytes.append(file.read())
        written.append(shard_bytes)
    assert written[0] == written[1] == written[2] and len(written[0]) > 1


def test_shards_are_no_larger_than_asked_unless_one_sample_is(tmp_path: Path) -> None:
    finished = write(str(tmp_path), max_bytes=8000)
    assert all(shard.bytes <= 8000 or shard.samples == 1 for shard in finished)
    assert max(shard.samples for shard in finished) > 1 and sum(shard.samples for shard in finished) == 7
    found = [sample.key.partition("/")[2] for shard in finished for sample in read(shard.url)]
    assert found == list(samples(7))


def test_only_whole_shards_appear_and_a_later_writer_goes_on(tmp_path: Path, s3: CuttingProxy) -> None:
    for place in (f"{tmp_path}/stopped", f"s3://{BUCKET}/stopped"):
        with pytest.raises(RuntimeError, match="stop"), ShardWriter(place, max_samples=3) as writer:
            for number, (key, fields) in enumerate(samples(7).items()):
                if number == 5:
                    raise RuntimeError("stop")
                writer.write(key, fields)
        assert [shard.samples for shard in writer.finished] == [3]
        assert [os.path.basename(url) for url in storage.expand(place)] == ["shard-000000.tar"]
        with ShardWriter(place, max_samples=3, first=len(writer.finished)) as later:
            for key, fields in list(samples(7).items())[3:]:
                later.write(key, fields)
        assert [sample.key for url in storage.expand(place) for sample in read(url)] == [
            sample.key for shard in write(f"{tmp_path}/whole", max_samples=3) for sample in read(shard.url)
        ]


def test_no_samples_make_no_shard(tmp_path: Path) -> None:
    assert write(str(tmp_path), count=0) == [] and os.listdir(tmp_path) == []


@pytest.mark.parametrize("key", ["", "a.b", "/a", "a/", "a//b", "../a", "./a", "a/../b", "a\nb", "\udce4", "."])
def test_keys_that_would_not_come_back_are_refused(tmp_path: Path, key: str) -> None:
    with ShardWriter(str(tmp_path)) as writer, pytest.raises(PhenakiError, match="cannot be the key of a sample"):
        writer.write(key, {"mp4": b"x"})


@pytest.mark.parametrize("fields", [{}, {"MP4": b""}, {"": b""}, {".mp4": b""}, {"a/b": b""}])
def test_fields_that_would_not_come_back_are_refused(tmp_path: Path, fields: dict[str, bytes]) -> None:
    with ShardWriter(str(tmp_path)) as writer, pytest.raises(PhenakiError, match="are named like mp4"):
        writer.write("a", fields)


def test_the_same_key_twice_is_refused(tmp_path: Path) -> None:
    with ShardWriter(str(tmp_path)) as writer:
        writer.write("v1.5/a ö", {"mp4": b"x"})
        with pytest.raises(PhenakiError, match="'v1.5/a ö' is in .*shard-000000.tar' already"):
            writer.write("v1.5/a ö", {"mp4": b"x"})
    assert keys(writer.finished[0].url) == ["shard-000000.tar/v1.5/a ö"]


def test_a_full_disk_is_a_sentence(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource", reason="this system has no limits of file sizes")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(PhenakiError, match="shard-000001.tar': it exceeds the largest file size"):
            with ShardWriter(str(tmp_path), max_samples=1) as writer:
                writer.write("a", {"mp4": b"x"})
                resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
                writer.write("b", {"mp4": bytes(200_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.listdir(tmp_path) == ["shard-000000.tar"]
