"""Whatever is wrong with a file, here or in a shard, it is named, and never a frame of it is seen; the others come."""

from __future__ import annotations

import io
import os
import re
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from helpers import media_files
from helpers.media_files import even, video
from phenaki.data.config import DataConfig, SourceConfig
from phenaki.data.loader import Batches
from phenaki.data.packing import PackConfig, pack
from phenaki.data.shards import ShardWriter

FRAMES = 11  # at 8 per second, so 1.25 s


def bright(index: int, size: media_files.Size) -> np.ndarray:
    """A texture that moves and has no dark pixel, so that nothing dark can come of it."""
    return media_files.noise(index, size) // 2 + 128


def good(frames: int = 46, size: media_files.Size = (48, 64)) -> bytes:
    return video(even(frames), paint=bright, size=size)


GOOD = {
    "a folder with blanks/Käfer und 鳥.mp4": good(),
    "of 16x16 pixels.mp4": good(size=(16, 16)),
    "of a length that is no 1 + 2k.mp4": good(50),
    "variable.mp4": video([t / 20 + (t % 3) / 90 for t in range(40)], paint=bright),
    "with its moving part first.mkv": video(even(60), "matroska", paint=bright),
}

# their frames are dark or darker in part
BROKEN = {
    "empty.mp4": (media_files.empty(), "it cannot be read"),
    "truncated.mp4": (media_files.truncated(0.2), "corrupt|ends at|no key frame"),
    "without index.mp4": (media_files.without_index(), "it cannot be read"),
    "text.mp4": (media_files.text(), "it cannot be read"),
    "sound.mp4": (media_files.sound(), "no video stream"),
    "one frame.mp4": (video([0]), "11 frames at 8 fps need more than 1.25 s"),
    "short.mp4": (video(even(27)), "11 frames at 8 fps need more than 1.25 s"),
    "corrupt.mp4": (media_files.corrupted(video(even(45), paint=media_files.noise), range(13, 30), "zeros"), "corrupt"),
    "jumps.mp4": (media_files.jumping_forward(30, 3600), "jump from|a single frame"),
    "strip.mp4": (video(even(45), size=(10, 4000)), "4000x10 pixels"),
}

WORDS = {
    "wordless.mp4": (b"", "it has no caption"),
    "latin.mp4": ("Käfer".encode("latin-1"), "is not UTF-8"),
    "long.mp4": (b"x" * 100_000, "10,000"),
}


def all_files() -> Iterator[tuple[str, bytes, bytes]]:
    """Name, media and caption of each."""
    yield from ((name, media, b"a good one") for name, media in GOOD.items())
    yield from ((name, media, b"a bad one") for name, (media, _) in BROKEN.items())
    for number, (name, (words, _)) in enumerate(WORDS.items(), start=1):
        yield name, good() + b"\0\0\0\x08free" * number, words  # an empty box each: no two files are the same


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("folder")
    for name, media, words in all_files():
        path = root / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(media)
        if words:
            path.with_suffix(".txt").write_bytes(words)
    (root / "to itself").symlink_to(root)
    (root / "loop.mp4").symlink_to("loop.mp4")
    return root


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same samples, beside a shard that is cut in the middle and one with two members of a name."""
    root = tmp_path_factory.mktemp("shards")
    with ShardWriter(str(root), max_samples=4) as writer:
        for name, media, words in all_files():
            stem, _, ending = name.rpartition(".")
            writer.write(stem, {ending: media} | ({"txt": words} if words else {}))
    whole = (root / "shard-000000.tar").read_bytes()
    (root / "cut.tar").write_bytes(whole[: len(whole) // 2])
    with tarfile.open(root / "twice.tar", "w") as tar:
        for name, data in (("of one name.mp4", good()), ("of one name.mp4", good()), ("of one name.txt", b"words")):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return root


def train_on(place: Path) -> dict[str, str]:
    """What a training is told of bad samples, by name, while it sees good ones alone, which are bright."""
    told: dict[str, str] = {}
    config = DataConfig(
        (SourceConfig(str(place)),), size=16, batch=2, lengths=(FRAMES,), workers=0, max_bad_fraction=1.0
    )
    batches = Batches(config, 2, on_bad=lambda sentence: told.update([sentence.split(": ", 1)]))
    for batch in (next(batches) for _ in range(len(GOOD) + 4)):
        assert set(batch["captions"]) == {"a good one"}
        assert batch["video"].min() > 70
    return told


def check(told: dict[str, str], expected: dict[str, str]) -> None:
    assert told.keys() == expected.keys()
    for name, said in expected.items():
        assert re.search(said, told[name]), f"{name}: {told[name]}"


SAID = {name: said for name, (_, said) in (BROKEN | WORDS).items()}


def test_in_a_folder(folder: Path) -> None:
    check(train_on(folder), SAID | {"loop.mp4": "Too many levels of symbolic links"})


def test_in_shards(shards: Path) -> None:
    told = {name.partition("/")[2] or name: said for name, said in train_on(shards).items()}
    stems = {name.rpartition(".")[0]: said for name, said in SAID.items()}
    check(told, stems | {"cut.tar": "it is cut off at byte", "of one name": "it has two members 'mp4'"})


def test_what_is_packed_is_what_can_be_opened(folder: Path, tmp_path: Path) -> None:
    report = pack(PackConfig((folder,), str(tmp_path / "out"), processes=1))
    closed = ["empty.mp4", "loop.mp4", "sound.mp4", "text.mp4", "truncated.mp4", "without index.mp4"]
    assert sorted(report.refused) == sorted(["latin.mp4", "long.mp4", *closed])
    assert report.without_caption == 1


@contextmanager
def as_nobody() -> Iterator[None]:
    """Root may read what nobody may."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@pytest.mark.skipif(os.name != "posix", reason="permissions are those of POSIX")
def test_without_permission() -> None:
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are closed to others
        root = Path(name)
        for stem in ("good", "closed", "words"):
            (root / f"{stem}.mp4").write_bytes(good())
            (root / f"{stem}.txt").write_text("a good one")
        (root / "locked").mkdir()
        (root / "locked/clip.mp4").write_bytes(good())
        root.chmod(0o755)
        for closed in ("closed.mp4", "words.txt", "locked"):
            (root / closed).chmod(0)
        with as_nobody():
            told = train_on(root)
        (root / "locked").chmod(0o700)
    check(
        told,
        {
            "closed.mp4": "Permission denied",
            "words.mp4": "its caption file 'words.txt' cannot be read: Permission denied",
            "locked/": "the folder cannot be opened: Permission denied",
        },
    )
