"""What is packed is what lay there, once, in the same shards however often packing was stopped; the rest is named."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from helpers import media_files
from helpers.children import children_of
from helpers.servers import BUCKET, serve_s3
from phenaki.core import files
from phenaki.core.errors import PhenakiError
from phenaki.data import pack_workers as pack_module
from phenaki.data import storage
from phenaki.data.captions import Columns
from phenaki.data.cuts import KEY_FRAME_EVERY, Cutting
from phenaki.data.journal import Journal
from phenaki.data.packing import PackConfig, pack
from phenaki.data.sample import EncodedSample
from phenaki.data.shards import read_shard
from phenaki.data.storage import expand


def clip(number: int, seconds: float = 1.0) -> bytes:
    """A video of its own bytes, 64x48 at 25 fps."""
    return media_files.video(
        media_files.even(round(25 * seconds), 25), paint=lambda i, size: media_files.grey((i + 3 * number) % 64, size)
    )


def fill(root: Path, **media: bytes) -> Path:
    """Files by name, "__" for the dot, each with a caption beside it."""
    root.mkdir(exist_ok=True)
    for name, data in media.items():
        stem, _, ending = name.partition("__")
        (root / f"{stem}.{ending}").write_bytes(data)
        (root / f"{stem}.txt").write_text(f"caption of {stem}")
    return root


@pytest.fixture(scope="module")
def ten(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten good clips, two bad ones and a double."""
    root = fill(tmp_path_factory.mktemp("ten"), **{f"clip_{n}__mp4": clip(n) for n in range(10)})
    fill(
        root,
        empty__mp4=media_files.empty(),
        text__mp4=media_files.text(),
        z_double__mp4=(root / "clip_3.mp4").read_bytes(),
    )
    return root


def samples(out: Path | str, split: str = "*") -> list[EncodedSample]:
    found = [item for url in expand(f"{out}/{split}/*.tar") for item, _ in read_shard(url)]
    assert all(isinstance(item, EncodedSample) for item in found)
    return found


def tree(out: Path) -> dict[str, bytes]:
    """All files but the journal, which tells of the stops."""
    found = {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert found.pop("journal.jsonl")
    return found


def one_by_one(sources: Path, out: Path, **options: object) -> PackConfig:
    return PackConfig((sources,), str(out), processes=1, shard_samples=3, validation=0.3, **options)


# what goes in


def test_samples_hold_the_media_as_it_is_its_words_and_facts(tmp_path: Path) -> None:
    media = {"a.mp4": clip(0), "b.gif": media_files.animation("GIF", [100] * 5)}
    root = tmp_path / "root"
    (root / "dogs").mkdir(parents=True)
    for name, data in media.items():
        (root / "dogs" / name).write_bytes(data)
    (root / "captions.csv").write_text("file,caption\ndogs/a.mp4,one\ndogs/a.mp4,two\ngone.mp4,three\n")
    config = one_by_one(root, tmp_path / "out", label_from_folder=True, templates=("a video of {label}",))
    report = pack(config)
    a, b = sorted(samples(tmp_path / "out"), key=lambda sample: sample.metadata["source"])
    assert (a.media, a.suffix, a.captions, a.label) == (media["a.mp4"], ".mp4", ("one", "two"), "dogs")
    assert (b.media, b.suffix, b.captions, b.label) == (media["b.gif"], ".gif", (), "dogs")
    assert a.metadata == {
        "frames": 25,
        "fps": pytest.approx(25, rel=0.01),
        "width": 64,
        "height": 48,
        "seconds": pytest.approx(1, rel=0.01),
        "source": "dogs/a.mp4",
        "hash": hashlib.sha256(media["a.mp4"]).hexdigest(),
        "start": 0,
    }
    about = json.loads((tmp_path / "out/dataset.json").read_text())
    assert about["templates"] == ["a video of {label}"] and about["options"]["label_from_folder"] is True
    assert sum(about[split]["samples"] for split in ("train", "validation") if split in about) == 2
    assert report.unclaimed == ["gone.mp4"] and "  gone.mp4" in report.lines() and not report.without_caption


def test_bad_files_and_doubles_are_named_and_the_rest_goes_in(ten: Path, tmp_path: Path) -> None:
    fill(tmp_path / "more", sound__mp4=media_files.sound(), index__mp4=media_files.without_index(), good__mp4=clip(77))
    (tmp_path / "more/latin.mp4").write_bytes(clip(78))
    (tmp_path / "more/latin.txt").write_bytes(b"K\xe4se")
    (tmp_path / "more/gone.mp4").symlink_to("nowhere")
    report = pack(PackConfig((ten, tmp_path / "more"), str(tmp_path / "out"), processes=1))
    names = {f"{ten}/empty.mp4", f"{ten}/text.mp4"} | {
        f"{tmp_path}/more/{name}.mp4" for name in ("sound", "index", "latin", "gone")
    }
    assert set(report.refused) == names and all(report.refused.values())
    assert report.refused[f"{tmp_path}/more/latin.mp4"].startswith("its caption file 'latin.txt' is not UTF-8")
    ((double, original),) = report.duplicates.items()
    assert {double, original} == {f"{ten}/z_double.mp4", f"{ten}/clip_3.mp4"}
    assert report.sources == 18 and report.train.samples + report.validation.samples == 11
    assert len({sample.metadata["hash"] for sample in samples(tmp_path / "out")}) == 11
    told = "\n".join(report.lines())
    assert "11 of 18 sources packed" in told and all(name in told for name in names)
    assert json.loads((tmp_path / "out/report.json").read_text())["refused"] == report.refused


def test_of_doubles_the_best_described_goes_in(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    for number in range(4):
        for name in "abcd":
            (root / f"{name}{number}.mp4").write_bytes(clip(number))
        (root / f"c{number}.txt").write_text(f"words {number}")
        (root / f"d{number}.txt").write_bytes(b"K\xe4se")
    report = pack(one_by_one(root, tmp_path / "out"))
    assert {item.metadata["source"]: item.captions for item in samples(tmp_path / "out")} == {
        f"c{number}.mp4": (f"words {number}",) for number in range(4)
    }
    assert report.duplicates == {f"{name}{number}.mp4": f"c{number}.mp4" for name in "ab" for number in range(4)}
    assert set(report.refused) == {f"d{number}.mp4" for number in range(4)}
    assert "4 of 16 sources packed" in report.lines()


def test_doubles_of_a_file_that_cannot_be_used_are_refused_as_well(tmp_path: Path) -> None:
    root = fill(tmp_path / "root", a__mp4=clip(0), b__mp4=media_files.text(), c__mp4=media_files.text())
    report = pack(one_by_one(root, tmp_path / "out"))
    assert set(report.refused) == {"b.mp4", "c.mp4"} and not report.duplicates


def test_words_that_change_which_double_goes_in_are_another_source(tmp_path: Path) -> None:
    root = fill(tmp_path / "root", a__mp4=clip(0), b__mp4=clip(0), c__mp4=clip(1))
    (root / "b.txt").unlink()
    pack(one_by_one(root, tmp_path / "out"))
    (root / "a.txt").rename(root / "b.txt")
    with pytest.raises(PhenakiError, match="The sources have changed since"):
        pack(one_by_one(root, tmp_path / "out"))


def test_columns_are_those_of_the_tables_in_the_sources(tmp_path: Path) -> None:
    root = fill(tmp_path / "root", a__mp4=clip(0))
    (root / "captions.csv").write_text("file,text,other,kind\na.mp4,one,two,three\n")
    columns = Columns(caption="other", label="kind")
    pack(one_by_one(root, tmp_path / "out", columns=columns))
    (sample,) = samples(tmp_path / "out")
    assert (sample.captions, sample.label) == (("two",), "three")
    (root / "captions.csv").unlink()
    with pytest.raises(PhenakiError, match="There is no table with the column 'other', 'kind': name one"):
        pack(one_by_one(root, tmp_path / "out2", columns=columns))


def test_nothing_usable_is_an_error(tmp_path: Path) -> None:
    root = fill(tmp_path / "root", a__mp4=media_files.text(), b__mp4=media_files.empty())
    with pytest.raises(PhenakiError, match=r"None of the 2 sources is usable. a.mp4: .*b.mp4: "):
        pack(one_by_one(root, tmp_path / "out"))
    assert not (tmp_path / "out/dataset.json").exists()
    (root / "a.mp4").write_bytes(clip(1))
    report = pack(one_by_one(root, tmp_path / "out"))  # nothing was packed yet, so it begins anew
    assert report.train.samples + report.validation.samples == 1


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"templates": ("a video",)}, "has no {label}"),
        ({"validation": 1.0}, "validation 1.0"),
        ({"processes": -1}, "processes -1"),
        ({"sources": ()}, "nothing to pack"),
    ],
)
def test_options_are_checked(options: dict[str, object], says: str) -> None:
    with pytest.raises(PhenakiError, match=says):
        PackConfig(**{"sources": (Path("a"),), "out": "out"} | options)
    with pytest.raises(PhenakiError, match="size 7 must be an even number"):
        Cutting(size=7)
    with pytest.raises(PhenakiError, match="seconds 0.001 must be 0.1 or more, or 0 for all of the source"):
        Cutting(seconds=0.001)
    with pytest.raises(PhenakiError, match="fps 0.001 must be between 0.01 and 1000"):
        Cutting(fps=0.001)


# the order


def test_folders_are_mixed_in_an_order_that_follows_from_the_names(tmp_path: Path) -> None:
    def packed(root: Path) -> list[str]:
        for number in range(24):
            file = root / "ab"[number // 12] / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(media_files.picture(media_files.noise(number, (16, 16))))
        pack(PackConfig((root,), str(tmp_path / f"{root.name} packed"), validation=0, processes=1))
        return [sample.metadata["source"] for sample in samples(tmp_path / f"{root.name} packed")]

    order = packed(tmp_path / "here")
    assert len(set(order)) == 24
    folders = [name[0] for name in order]
    assert 3 <= folders[:12].count("a") <= 9 and sum(a != b for a, b in zip(folders, folders[1:], strict=False)) > 6
    assert packed(tmp_path / "elsewhere") == order


# the splits


def test_a_source_is_on_one_side_whatever_else_there_is(ten: Path, tmp_path: Path) -> None:
    cutting = Cutting(fps=5, seconds=0.4)
    pack(one_by_one(ten, tmp_path / "out", cutting=cutting))
    sides = {
        split: {s.metadata["source"] for s in samples(tmp_path / "out", split)} for split in ("train", "validation")
    }
    assert sides["train"] and sides["validation"] and not sides["train"] & sides["validation"]
    fewer = tmp_path / "fewer"
    fewer.mkdir()
    for name in sorted(sides["validation"]):
        (fewer / f"other {name}").write_bytes((ten / name).read_bytes())
    report = pack(one_by_one(fewer, tmp_path / "out2", cutting=cutting))
    assert report.train.samples == 0 and report.validation.samples > len(sides["validation"])
    assert "train" not in json.loads((tmp_path / "out2/dataset.json").read_text())


# cutting


def test_clips_are_cut_scaled_and_have_key_frames(tmp_path: Path) -> None:
    root = fill(
        tmp_path / "root",
        long__mp4=clip(0, seconds=7.2),
        still__jpg=media_files.picture(media_files.noise(0, (90, 60))),
    )
    pack(one_by_one(root, tmp_path / "out", cutting=Cutting(fps=12.5, size=24, seconds=3)))
    by_source = Counter(sample.metadata["source"] for sample in samples(tmp_path / "out"))
    assert by_source == {"long.mp4": 2, "still.jpg": 1}  # the 1.2 s that are left are less than half of 3
    first, second, still = sorted(samples(tmp_path / "out"), key=lambda s: (s.metadata["source"], s.metadata["start"]))
    assert (first.metadata["start"], second.metadata["start"]) == (0, 3) and first.captions == ("caption of long",)
    assert Image.open(io.BytesIO(still.media)).size == (24, 36) and still.suffix == ".jpg"
    for sample in (first, second):
        with av.open(io.BytesIO(sample.media)) as container:
            stream = container.streams.video[0]
            keys = [number for number, packet in enumerate(container.demux(stream)) if packet.is_keyframe]
            assert max(np.diff(keys)) <= KEY_FRAME_EVERY
            container.seek(0)
            shown = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
        metadata = sample.metadata
        assert shown.shape == (37, 24, 32, 3) or shown.shape == (38, 24, 32, 3)
        assert (metadata["frames"], metadata["height"], metadata["width"]) == shown.shape[:3]
        assert metadata["fps"] == 12.5 and metadata["seconds"] == pytest.approx(len(shown) / 12.5)
        indexes = media_files.index_of(shown)  # of the source's frames: at 12.5 fps every second one
        expected = [round(25 * metadata["start"]) + 2 * i for i in range(len(shown))]
        assert np.abs((np.array(indexes) - expected + 32) % 64 - 32).max() <= 1


def test_nothing_is_scaled_up_and_odd_sizes_become_even(tmp_path: Path) -> None:
    root = fill(tmp_path / "root", a__mp4=clip(0), b__gif=media_files.animation("GIF", [100] * 5, size=(31, 45)))
    pack(one_by_one(root, tmp_path / "out", cutting=Cutting(size=200)))
    sizes = {s.metadata["source"]: (s.metadata["height"], s.metadata["width"]) for s in samples(tmp_path / "out")}
    assert sizes["a.mp4"] == (48, 64) and all(side % 2 == 0 for side in sizes["b.gif"])


def test_shots_are_told_apart_at_their_frame(tmp_path: Path) -> None:
    colours = [(200, 40, 40), (40, 200, 40), (40, 40, 200)]
    starts = [0, 20, 33]

    def scenes(index: int, size: tuple[int, int]) -> np.ndarray:
        return np.full((*size, 3), colours[sum(index >= start for start in starts) - 1], np.uint8)

    root = fill(tmp_path / "root", a__mp4=media_files.video(media_files.even(50, 25), paint=scenes))
    pack(one_by_one(root, tmp_path / "out", cutting=Cutting(shots=True)))
    shots = sorted(samples(tmp_path / "out"), key=lambda sample: sample.metadata["start"])
    assert [round(25 * shot.metadata["start"]) for shot in shots] == starts
    assert [shot.metadata["frames"] for shot in shots] == [20, 13, 17]
    for shot, colour in zip(shots, colours, strict=True):
        with av.open(io.BytesIO(shot.media)) as container:
            shown = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
        assert np.abs(shown.astype(int) - colour).max() < 40


def test_a_source_that_breaks_off_is_refused_when_cut(tmp_path: Path) -> None:
    root = fill(tmp_path / "root", a__mp4=clip(0), jump__mp4=media_files.jumping_forward(20, 60.0))
    fill(
        root,
        corrupt__mp4=media_files.corrupted(
            media_files.video(media_files.even(60), paint=media_files.noise), range(30, 40)
        ),
    )
    report = pack(one_by_one(root, tmp_path / "out", cutting=Cutting(fps=5)))
    assert set(report.refused) == {"jump.mp4", "corrupt.mp4"}


# stopping and going on


@pytest.fixture(scope="module")
def whole(ten: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What an uninterrupted run makes of `ten`, in clips."""
    out = tmp_path_factory.mktemp("whole") / "out"
    pack(one_by_one(ten, out, cutting=CLIPS))
    return tree(out)


CLIPS = Cutting(fps=5, seconds=0.4)  # two or three of a source


def test_the_number_of_processes_does_not_matter(ten: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    config = PackConfig((ten,), str(tmp_path / "out"), shard_samples=3, validation=0.3, cutting=CLIPS, processes=2)
    pack(config)
    assert tree(tmp_path / "out") == whole


def test_stopped_anywhere_it_goes_on_to_the_same_shards(
    ten: Path, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Journal._append
    for lines in range(1, 100, 4):
        out, left = tmp_path / f"out{lines}", [lines]

        def stopping(journal: object, line: object, left: list[int] = left) -> None:
            real(journal, line)
            left[0] -= 1
            if not left[0]:
                raise KeyboardInterrupt

        monkeypatch.setattr(Journal, "_append", stopping)
        try:
            pack(one_by_one(ten, out, cutting=CLIPS))
            break
        except KeyboardInterrupt:
            assert not (out / "dataset.json").exists() and not list(out.rglob("*.tmp"))
        with open(out / "journal.jsonl", "r+b") as journal:  # and the last line only half there
            journal.truncate(max(0, journal.seek(0, os.SEEK_END) - lines % 3))
        (out / "train").mkdir(exist_ok=True)
        (out / "train/.phenaki-0123.tmp").write_bytes(b"left by a killed process")
        monkeypatch.setattr(Journal, "_append", real)
        pack(one_by_one(ten, out, cutting=CLIPS))
        assert tree(out) == whole, f"stopped after {lines} lines"
        pack(one_by_one(ten, out, cutting=CLIPS))  # reads what the second one wrote into the journal
        assert tree(out) == whole
    assert lines > 20


def test_what_is_in_finished_shards_is_not_made_again(
    ten: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = pack(one_by_one(ten, tmp_path / "out"))
    before = tree(tmp_path / "out")
    monkeypatch.setattr(pack_module, "_make", None)
    assert pack(one_by_one(ten, tmp_path / "out")) == report
    assert tree(tmp_path / "out") == before


def test_a_full_disk_is_a_sentence_and_later_it_goes_on(
    ten: Path, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = os.fsync, [0]

    def full(file: int) -> None:
        calls[0] += 1
        if calls[0] == 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(file)

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(PhenakiError, match="the disk is full"):
        pack(one_by_one(ten, tmp_path / "out", cutting=CLIPS))
    assert not list((tmp_path / "out").rglob("*.tmp"))
    pack(one_by_one(ten, tmp_path / "out", cutting=CLIPS))
    assert tree(tmp_path / "out") == whole


def test_killed_it_goes_on_and_leaves_no_process(ten: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    out = tmp_path / "out"
    code = (
        "import sys; from pathlib import Path; from phenaki.data.cuts import Cutting\n"
        "from phenaki.data.packing import PackConfig, pack\n"
        "from phenaki.data.journal import Journal\n"
        "import time; real = Journal._append\n"
        "Journal._append = lambda *line: (real(*line), time.sleep(0.2))\n"
        "if __name__ == '__main__':\n"
        "    sources, out = map(Path, sys.argv[1:])\n"
        "    pack(PackConfig((sources,), str(out), shard_samples=3, validation=0.3, processes=2,\n"
        "                    cutting=Cutting(fps=5, seconds=0.4)))\n"
    )
    (tmp_path / "packer.py").write_text(code)
    process = subprocess.Popen([sys.executable, str(tmp_path / "packer.py"), str(ten), str(out)])
    try:
        deadline = time.monotonic() + 240
        while not list(out.glob("train/*.tar")) and time.monotonic() < deadline:
            time.sleep(0.05)
        workers = children_of(process.pid)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert workers and 0 < len(list(out.glob("train/*.tar"))) < len([name for name in whole if "train" in name])
    pack(one_by_one(ten, out, cutting=CLIPS))
    assert tree(out) == whole
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{worker}").exists() for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """More clips than are packed in a second, no two of the same bytes."""
    whole, empty_box = clip(0), b"\0\0\0\x08free"
    return fill(tmp_path_factory.mktemp("many"), **{f"clip_{n}__mp4": whole + n * empty_box for n in range(600)})


@pytest.mark.parametrize("later", [0, 0.2])  # seconds: while a worker is started, and while it reads its modules
@pytest.mark.parametrize(("end", "whole_group"), [(signal.SIGINT, True), (signal.SIGTERM, False)])
def test_stopped_while_its_processes_start_it_says_one_sentence(
    end: signal.Signals, whole_group: bool, later: float, many: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "phenaki", "data", "pack", str(many), str(tmp_path / "out"), "--processes", "2"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 240
    while "spawn_main" not in "".join(map(_command, children_of(process.pid))) and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(later)
    os.killpg(process.pid, end) if whole_group else process.send_signal(end)
    said = process.communicate(timeout=240)[1].lstrip("\n")  # typer 0.26 begins a line of its own
    assert said == "phenaki: interrupted\n" and process.returncode == 130


def _command(process: str) -> str:
    try:
        return Path(f"/proc/{process}/cmdline").read_text()
    except OSError:  # it has ended meanwhile
        return ""


def test_another_place_is_asked_for_other_options_sources_or_things(ten: Path, tmp_path: Path) -> None:
    root = fill(tmp_path / "root", a__mp4=clip(1), b__mp4=clip(2))
    out = tmp_path / "out"
    pack(one_by_one(root, out))
    with pytest.raises(PhenakiError, match="began with label_from_folder false, not true. Choose another folder"):
        pack(one_by_one(root, out, label_from_folder=True))
    with pytest.raises(PhenakiError, match=r"began with cutting.fps 0.0, not 8. Choose another folder"):
        pack(one_by_one(root, out, cutting=Cutting(fps=8)))
    fill(root, c__mp4=clip(3))
    with pytest.raises(PhenakiError, match="The sources have changed since"):
        pack(one_by_one(root, out))
    with pytest.raises(PhenakiError, match="already holds other things"):
        pack(one_by_one(root, ten))
    with pytest.raises(PhenakiError, match="is a file"):
        pack(one_by_one(root, ten / "clip_0.mp4"))
    for inside in (root, root / "out", tmp_path / "elsewhere/../root/out"):
        with pytest.raises(PhenakiError, match=f"'{inside}' lies within the source '{root}'"):
            pack(one_by_one(root, inside))
    assert not (root / "out").exists()
    (root / "c.mp4").unlink()
    for shard in out.rglob("*.tar"):
        shard.unlink()
    with pytest.raises(PhenakiError, match="nothing of that name is there. .* remove the journal '.*jsonl'"):
        pack(one_by_one(root, out))


def test_two_at_once_are_refused(ten: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = one_by_one(ten, tmp_path / "out")
    real = pack_module._make

    def packing_again(*arguments: object) -> object:
        monkeypatch.setattr(pack_module, "_make", real)
        with pytest.raises(PhenakiError, match="is in use: packing in process"):
            pack(config)
        return real(*arguments)

    monkeypatch.setattr(pack_module, "_make", packing_again)
    assert pack(config).train.samples


def test_packs_to_s3_over_connections_that_drop(ten: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(storage, "FIRST_WAIT", 0.001)
    with serve_s3() as s3:
        out = f"s3://{BUCKET}/set"
        config = PackConfig((ten,), out, processes=1, shard_samples=2)
        report = pack(config)
        assert pack(config) == report
        s3.cuts = [1000, 2000]
        packed = samples(out)
        assert not s3.cuts
    here = pack(replace(config, out=str(tmp_path / "here")))
    assert len(packed) == here.train.samples + here.validation.samples == 10
    assert packed == samples(str(tmp_path / "here"))


@pytest.mark.parametrize(
    "line",
    [b"{", b"3", b'["train"]', b"[0, 1, 2, 3, 4, 5, 6]", b"[" * 5000, b'["train", "../x", "1", 2]', b"\xff"],
)
def test_a_damaged_line_of_the_journal_is_work_to_repeat(clips: Path, tmp_path: Path, line: bytes) -> None:
    def outcomes(folder: Path) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in folder.rglob("*.*") if path.suffix in (".tar", ".json")}

    config = PackConfig((str(clips),), str(tmp_path / "out"), processes=1, shard_samples=2)
    pack(config, progress=False)
    expected = outcomes(tmp_path / "out")
    journal = tmp_path / "out" / "journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    for at in (2, len(lines) - 1):
        journal.write_bytes(b"".join([*lines[:at], line + b"\n", *lines[at + 1 :]]))
        pack(config, progress=False)
        assert outcomes(tmp_path / "out") == expected
    journal.write_bytes(line + b"\n" + b"".join(lines[1:]))
    with pytest.raises(PhenakiError, match="journal.jsonl' is damaged .*remove it"):
        pack(config, progress=False)
