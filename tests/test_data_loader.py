"""Batches of a training: nothing lost or doubled over processes and workers, resumed exactly, bad samples named."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from PIL import Image

import phenaki.worlds.shapes  # noqa: F401, registers "shapes"
from helpers.servers import FileServer
from phenaki.core.errors import PhenakiError
from phenaki.data import batch_stream
from phenaki.data.batch import Batch, collate
from phenaki.data.config import DataConfig, SourceConfig
from phenaki.data.eval_samples import eval_samples
from phenaki.data.folder import Folder
from phenaki.data.loader import Batches
from phenaki.data.shards import ShardWriter
from phenaki.data.sources import FolderSource, ShardSource, Source, StreamConfig
from phenaki.data.tokens import Tokens
from phenaki.media.writer import write_video

SHAPES = (SourceConfig("shapes"),)
WORLD = DataConfig(SHAPES, size=32, batch=4, lengths=(1, 5), length_weights=(0.5, 0.5), workers=0)


def picture(number: int) -> np.ndarray:
    return np.full((16, 16, 3), number, np.uint8)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 23 pictures, each of one grey level, which its caption names."""
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(23):
        Image.fromarray(picture(10 * number)).save(folder / f"{number:02d}.png")
        (folder / f"{number:02d}.txt").write_text(f"grey {10 * number}")
    return folder


@pytest.fixture(scope="module")
def shards(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same pictures in 5 shards."""
    folder = tmp_path_factory.mktemp("shards")
    with ShardWriter(str(folder), max_samples=5) as writer:
        for file in sorted(pictures.glob("*.png")):
            writer.write(file.stem, {"png": file.read_bytes(), "txt": file.with_suffix(".txt").read_bytes()})
    return folder


def images(place: Path | str, **changes: Any) -> DataConfig:
    sources = (SourceConfig(str(place)),)
    config = DataConfig(sources, size=16, batch=2, lengths=(1,), length_weights=(1.0,), workers=0, shuffle=7)
    return replace(config, **changes)


def take(batches: Batches, count: int) -> list[Batch]:
    return [next(batches) for _ in range(count)]


def seen(batches: list[Batch]) -> list[str]:
    return [caption for batch in batches for caption in batch["captions"]]


def equal(one: list[Batch], two: list[Batch]) -> bool:
    return len(one) == len(two) and all(
        torch.equal(a["video"], b["video"])
        and a["captions"] == b["captions"]
        and torch.equal(a["continued"], b["continued"])
        for a, b in zip(one, two, strict=True)
    )


# ---- batches


def test_every_batch_has_as_many_time_steps_whatever_the_length() -> None:
    shapes = {tuple(batch["video"].shape) for batch in take(Batches(WORLD, 2), 12)}
    assert shapes == {(12, 1, 32, 32, 3), (4, 5, 32, 32, 3)}


def test_captions_go_with_their_pictures(shards: Path) -> None:
    for batch in take(Batches(images(shards), 2), 12):
        levels = batch["video"][:, 0, 0, 0, 0].tolist()
        assert [f"grey {level}" for level in levels] == batch["captions"]


def test_the_seed_decides(shards: Path) -> None:
    first, again, other = (seen(take(Batches(images(shards, seed=seed), 2), 8)) for seed in (0, 0, 1))
    assert first == again != other


def test_no_sample_of_the_world_is_drawn_twice_over_workers_and_processes() -> None:
    config = replace(WORLD, lengths=(5,), length_weights=(1.0,), workers=2)
    clips = torch.cat([b["video"] for rank in range(2) for b in take(Batches(config, 2, rank, 2), 10)])
    assert len(clips.flatten(1).unique(dim=0)) == len(clips) == 40


def test_images_never_go_on_from_a_scene() -> None:
    config = replace(
        WORLD, lengths=(1, 5), length_weights=(1.0, 0.0), sources=(SourceConfig("shapes", options={"continued": 1.0}),)
    )
    assert not next(Batches(config, 2))["continued"].any()


# ---- sources


def epochs(source: Source, count: int, shuffle: int, epochs: int = 1) -> list[list[str]]:
    """What each of `count` streams hands out in so many epochs."""
    streams = (StreamConfig(3, index, count, shuffle, epochs) for index in range(count))
    return [[item.key for item, _ in source.items(stream, {})] for stream in streams]


@pytest.mark.parametrize("count", [1, 2, 3, 5, 7, 16, 30])
@pytest.mark.parametrize("shuffle", [0, 4])
def test_streams_share_an_epoch_without_loss_or_double(pictures: Path, shards: Path, count: int, shuffle: int) -> None:
    for source in (FolderSource(Folder(pictures)), ShardSource(sorted(map(str, shards.glob("*.tar"))))):
        taken = Counter(key for keys in epochs(source, count, shuffle, epochs=2) for key in keys)
        assert len(taken) == 23
        assert set(taken.values()) == {2}


def test_epochs_have_orders_of_their_own(pictures: Path, shards: Path) -> None:
    for source in (FolderSource(Folder(pictures)), ShardSource(sorted(map(str, shards.glob("*.tar"))))):
        (two,) = epochs(source, 1, 100, epochs=2)
        assert sorted(two[:23]) == sorted(two[23:]) and two[:23] != two[23:]
        (as_they_lie,) = epochs(source, 1, 0)
        assert as_they_lie == sorted(as_they_lie)


# ---- resuming


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("place", ["shards", "pictures", "shapes", "mixture", "sizes"])
def test_a_resumed_run_sees_what_an_uninterrupted_one_would_have_seen(
    place: str, workers: int, pictures: Path, shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = {"shards": shards, "pictures": pictures, "shapes": "shapes"}
    if place == "mixture":
        sources = (SourceConfig(str(shards), weight=2, images=True), SourceConfig(str(pictures), images=True))
        config = images("shapes", sources=(*sources, *SHAPES), lengths=(1, 3), length_weights=(0.6, 0.4))
    elif place == "sizes":
        sources = tuple(SourceConfig(str(shards), size=size) for size in (0, (16, 24), 8))
        config = images("", sources=sources, batch=4)
    else:
        config = images(places[place])
    config = replace(config, workers=workers)
    states: list[dict[str, Any]] = []
    wholes = []
    for rank in range(2):
        whole = Batches(config, 2, rank, 2)
        monkeypatch.setattr(dist, "all_gather_object", lambda into, own: into.__setitem__(slice(None), [own, own]))
        first = take(whole, 5)
        states.append(whole.state_dict()["processes"][0])
        wholes.append((first, take(whole, 9)))
    for rank, (_, following) in enumerate(wholes):
        resumed = Batches(config, 2, rank, 2)
        resumed.load_state_dict({"processes": states})
        assert equal(take(resumed, 9), following)
        assert not equal(wholes[rank][0], following[:5])


def test_another_number_of_workers_cannot_go_on(shards: Path) -> None:
    whole = Batches(images(shards, workers=0), 2)
    next(whole)
    with pytest.raises(PhenakiError, match="1 processes with 1 data streams each, not 1 with 3"):
        Batches(images(shards, workers=3), 2).load_state_dict(whole.state_dict())


def test_data_that_changed_since_the_run_was_saved_are_refused(pictures: Path, shards: Path, tmp_path: Path) -> None:
    folder, tars = tmp_path / "pictures", tmp_path / "shards"
    shutil.copytree(pictures, folder)
    shutil.copytree(shards, tars)
    config = images("", sources=(SourceConfig(str(folder)), SourceConfig(str(tars))))
    whole = Batches(config, 2)
    take(whole, 3)

    def check(said: str = "") -> None:
        resumed = Batches(config, 2)
        if said:
            with pytest.raises(PhenakiError, match=f"{said}.*restore the data, or train in a new folder"):
                resumed.load_state_dict(whole.state_dict())
        else:
            resumed.load_state_dict(whole.state_dict())

    (folder / "23.png").write_bytes((folder / "00.png").read_bytes())
    check(rf"'{folder}' has changed since this run was saved \(it had 23 files and now has 24 files\)")
    (folder / "22.png").unlink()
    check(rf"'{folder}' has changed since this run was saved \(its 23 files have other names\)")
    (folder / "23.png").rename(folder / "22.png")
    check()
    last = (tars / "shard-000004.tar").rename(tars / "shard-000005.tar")
    check(rf"'{tars}' has changed since this run was saved \(its 5 shards have other names\)")
    last.unlink()
    check(rf"'{tars}' has changed since this run was saved \(it had 5 shards and now has 4 shards\)")


# ---- what fails on the way


@pytest.fixture
def server(server: FileServer, shards: Path) -> FileServer:
    server.folder = shards
    return server


@pytest.mark.parametrize(("workers", "status"), [(0, 503), (1, 503), (0, 403)])
def test_a_server_that_is_gone_or_closed_stops_a_run_that_loses_no_sample(
    server: FileServer, workers: int, status: int
) -> None:
    config = images(f"{server.url}/shard-{{000000..000004}}.tar", workers=workers)
    stopped, before, told = Batches(config, 2), [], []
    stopped.on_bad = told.append
    before += take(stopped, 2)
    server.status = status
    gone = rf"'{server.url}/shard-00000\d.tar'.* source seems lost. .* to resume from the checkpoint"
    with pytest.raises(PhenakiError, match=gone):
        while len(before) < 100:
            stopped.prefetch()
            before.append(next(stopped))
    server.status = 200
    resumed = Batches(config, 2, on_bad=told.append)
    resumed.load_state_dict(stopped.state_dict())
    assert equal(before + take(resumed, 12), take(Batches(config, 2), len(before) + 12))
    assert not told


@pytest.mark.parametrize("number", [0, 3])
def test_a_single_shard_that_cannot_be_had_is_a_bad_sample(
    shards: Path, tmp_path: Path, number: int, server: FileServer
) -> None:
    server.folder = tmp_path
    for file in shards.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    batches = Batches(images(f"{server.url}/shard-{{000000..000004}}.tar", seed=1), 2)
    told: list[str] = []
    batches.on_bad = told.append
    (tmp_path / f"shard-00000{number}.tar").unlink()
    assert len(set(seen(take(batches, 30)))) == 18
    assert {sentence.partition(": ")[0] for sentence in told} == {f"shard-00000{number}.tar"}


def die_at_a_digit_3(caption: str) -> None:
    if "3" in caption and os.getpid() != PROCESS:
        os.kill(os.getpid(), signal.SIGKILL)


PROCESS = os.getpid()


def test_a_worker_that_is_killed_is_told_when_the_next_batch_is_wanted(pictures: Path) -> None:
    config = images(pictures, workers=2)
    stopped, before = Batches(config, 2, check_caption=die_at_a_digit_3), []
    with pytest.raises(PhenakiError, match=r"a data worker died, .* data.workers below 2 or data.shuffle below 7"):
        while len(before) < 100:
            stopped.prefetch()
            before.append(next(stopped))
            time.sleep(0.1)  # a step of the training, in which the death must not show itself
    resumed = Batches(config, 2)
    resumed.load_state_dict(stopped.state_dict())
    assert equal(before + take(resumed, 3), take(Batches(config, 2), len(before) + 3))


@pytest.mark.parametrize("where", ["worker", "main"])
def test_a_training_that_breaks_ends_and_its_workers_with_it(where: str, pictures: Path) -> None:
    """They ignore signals, so that Ctrl-C lets them finish; a bug must not leave everything waiting for them."""
    script = (
        "import sys\n"
        "from torch.utils.data import get_worker_info\n"
        "from phenaki.data.config import DataConfig, SourceConfig\n"
        "from phenaki.data.loader import Batches\n"
        "def check(caption):\n"
        "    if get_worker_info() and get_worker_info().id == 0 and sys.argv[2] == 'worker':\n"
        "        raise ZeroDivisionError\n"
        "sources = (SourceConfig(sys.argv[1]),)\n"
        "config = DataConfig(sources, size=16, batch=2, lengths=(1,), workers=2)\n"
        "batches = Batches(config, 2, check_caption=check)\n"
        "next(batches)\n"
        "raise ZeroDivisionError\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(pictures), where], stderr=-1) as process:
        try:
            told = process.communicate(timeout=50)[1]
        finally:
            process.kill()
    assert process.returncode == 1 and b"ZeroDivisionError" in told


# ---- mixtures


def test_weights_are_the_shares_of_the_batches(pictures: Path, shards: Path) -> None:
    sources = (
        SourceConfig(str(pictures), weight=3, images=True),
        SourceConfig("shapes", weight=9),
        SourceConfig("shapes", weight=1),
    )
    config = images("", sources=sources, batch=1, lengths=(1, 3), length_weights=(0.2, 0.8), size=16)
    kinds = Counter((b["video"].shape[1], b["captions"][0].startswith("grey")) for b in take(Batches(config, 2), 400))
    assert set(kinds) == {(1, True), (3, False)}  # images come from sources of images alone
    assert 40 < kinds[1, True] < 120


def test_videos_beside_pictures_in_one_folder(pictures: Path, tmp_path: Path) -> None:
    for file in pictures.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    write_video(tmp_path / "clip.mp4", np.stack([picture(200)] * 9), 8)
    (tmp_path / "clip.txt").write_text("a video")
    config = images(tmp_path, lengths=(1, 3), length_weights=(0.5, 0.5), batch=1)
    taken = {(batch["video"].shape[1], batch["captions"][0]) for batch in take(Batches(config, 2), 30)}
    assert {caption for frames, caption in taken if frames == 3} == {"a video"}
    assert len({caption for frames, caption in taken if frames == 1}) > 5


# ---- sizes

SIZES = tuple(SourceConfig("shapes", weight=weight, size=size) for weight, size in ((3, 0), (2, (32, 16)), (1, 32)))


def test_each_bucket_has_its_share_and_as_many_tokens() -> None:
    config = DataConfig(SIZES, size=16, batch=4, lengths=(1, 3), length_weights=(0.25, 0.75), workers=0)
    drawn = Counter(tuple(batch["video"].shape[:4]) for batch in take(Batches(config, 2), 400))
    expected = {
        (8, 1, 16, 16): 1 / 8,
        (4, 1, 32, 16): 1 / 12,
        (2, 1, 32, 32): 1 / 24,
        (4, 3, 16, 16): 3 / 8,
        (2, 3, 32, 16): 1 / 4,
        (1, 3, 32, 32): 1 / 8,
    }
    assert drawn.keys() == expected.keys()
    for bucket, share in expected.items():
        assert abs(drawn[bucket] - 400 * share) < 4 * (400 * share * (1 - share)) ** 0.5


def test_real_pictures_and_videos_of_one_place_come_in_several_sizes(pictures: Path, tmp_path: Path) -> None:
    write_video(tmp_path / "clip.mp4", np.stack([picture(200)] * 9), 8)
    (tmp_path / "clip.txt").write_text("a video")
    videos = tuple(SourceConfig(str(tmp_path), size=size) for size in (0, 8))
    sources = (SourceConfig(str(pictures), images=True, size=(8, 24)), *videos)
    config = images("", sources=sources, lengths=(1, 3), length_weights=(0.5, 0.5))
    shapes = {tuple(batch["video"].shape[:4]) for batch in take(Batches(config, 2), 20)}
    assert shapes == {(5, 1, 8, 24), (2, 3, 16, 16), (8, 3, 8, 8)}


def test_a_batch_without_room_for_a_large_clip_is_refused() -> None:
    config = DataConfig(SIZES, size=16, batch=4, lengths=(1, 3), length_weights=(0.5, 0.5), workers=0)
    Batches(config, 2)
    room = "data.batch 4 at data.size 16x16 .* one clip of 3 frames of 32x32 pixels from 'shapes': raise data.batch"
    with pytest.raises(PhenakiError, match=room):
        Batches(config, 2, 0, 2)
    Batches(replace(config, length_weights=(1.0, 0.0)), 2, 0, 2)  # nobody asks for that clip


def test_sizes_that_do_not_fit_the_patches_are_refused() -> None:
    config = DataConfig(SIZES, size=16)
    config.check_tokenizer((16, 16), 8, (2, 8, 16))
    with pytest.raises(PhenakiError, match="32x16 pixels .*data.sources.* do not fit .* 8x32: .* width of 32"):
        replace(config, size=(32, 32)).check_tokenizer((32, 32), 8, (2, 8, 32))
    with pytest.raises(PhenakiError, match="data.size 16 must equal the tokenizer"):
        config.check_tokenizer((32, 16), 8, (2, 8, 8))


def test_a_run_is_judged_by_clips_of_one_size(pictures: Path) -> None:
    sources = tuple(SourceConfig(str(pictures), size=size) for size in (8, 24))
    for more in ((), SHAPES):  # one of that size goes before all others
        clips = eval_samples(images("", sources=(*sources, *more)), count=2)
        assert {sample.video.shape for sample in clips.samples} == {(1, 16, 16, 3)}
        assert clips.checkable == bool(more)


def test_texts_of_unequal_length_are_padded_and_the_padding_is_masked() -> None:
    texts = [np.full((length, 4), length, np.float16) for length in (3, 1)]
    batch = collate([Tokens(np.zeros((2, 2, 2), np.int64), "", False, text) for text in texts])
    assert batch["text_mask"].tolist() == [[True, True, True], [True, False, False]]
    assert batch["text"].shape == (2, 3, 4) and batch["text"][batch["text_mask"]][:, 0].tolist() == [3, 3, 3, 1]


# ---- bad samples


@pytest.fixture
def some_bad(pictures: Path, tmp_path: Path) -> Path:
    for file in pictures.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "03.png").write_bytes(b"no picture")
    (tmp_path / "05.txt").unlink()
    return tmp_path


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_samples_are_left_out_and_named(some_bad: Path, workers: int) -> None:
    told: list[str] = []
    taken = seen(take(Batches(images(some_bad, workers=workers), 2, on_bad=told.append), 22))
    assert "grey 30" not in taken and "grey 50" not in taken
    assert len(set(taken)) == 21
    assert any(name.startswith("03.png: ") for name in told)
    assert any(name.startswith("05.png: it has no caption") for name in told)


def test_a_tokenizer_needs_no_captions(some_bad: Path) -> None:
    told: list[str] = []
    assert "" in seen(take(Batches(images(some_bad), 2, captions=False, on_bad=told.append), 22))
    assert {name.partition(":")[0] for name in told} == {"03.png"}


def test_too_many_bad_samples_stop_a_run(some_bad: Path) -> None:
    batches = Batches(images(some_bad, max_bad_fraction=0.05), 2)
    with pytest.raises(PhenakiError, match=r"of \d+ samples are unusable, more than data.max_bad_fraction 0.05"):
        take(batches, 200)
    take(Batches(images(some_bad, max_bad_fraction=0.1), 2), 200)


def test_each_source_must_have_something_usable_before_training(pictures: Path, shards: Path, tmp_path: Path) -> None:
    for name in ("broken", "wordless", "shards", "bare"):
        (tmp_path / name).mkdir()
    for number in range(3):
        (tmp_path / "broken" / f"{number}.mp4").write_bytes(b"no video")
        (tmp_path / "wordless" / f"{number}.png").write_bytes((pictures / "00.png").read_bytes())
        (tmp_path / "shards" / f"{number}.tar").write_bytes(b"no shard" * 99)
    with tarfile.open(tmp_path / "bare" / "0.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("README"))
    three = "has 0 usable samples and 3 bad ones; the last one: "
    for name, said in (
        ("broken", rf"{three}\d.mp4: it cannot be read"),
        ("wordless", rf"{three}\d.png: it has no caption"),
        ("shards", rf"{three}\d.tar: it is no tar file"),
        ("bare", "has no samples"),
    ):
        sources = (SourceConfig(str(shards), weight=99), SourceConfig(str(tmp_path / name)))
        with pytest.raises(PhenakiError, match=f"'{tmp_path / name}' {said}"):
            Batches(images("", sources=sources), 2)
    with pytest.raises(PhenakiError, match=rf"'{shards}' has 0 usable samples and 23 bad ones; .*: not a word"):
        Batches(images(shards), 2, check_caption=refuse)
    never = (SourceConfig(str(shards), images=True), SourceConfig(str(tmp_path / "broken")))
    Batches(images("", sources=never), 2)  # of clips, for which nobody asks


def refuse(caption: str) -> None:
    raise PhenakiError("not a word")


def test_impossible_data_is_refused(pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(PhenakiError, match="one weight per length"):
        replace(WORLD, length_weights=(1.0,))
    with pytest.raises(PhenakiError, match="length_weights .* must be finite"):
        replace(WORLD, length_weights=(float("nan"), 1.0))
    with pytest.raises(PhenakiError, match="not a multiple of the 3 processes"):
        Batches(WORLD, 2, 0, 3)
    with pytest.raises(PhenakiError, match="4 frames"):
        Batches(replace(WORLD, lengths=(4,), length_weights=(1.0,)), 2)
    with pytest.raises(PhenakiError, match="all data.sources are images"):
        replace(WORLD, sources=(SourceConfig(str(pictures), images=True),))
    with pytest.raises(PhenakiError, match="nowhere"):
        Batches(images(tmp_path / "nowhere"), 2)
    with pytest.raises(PhenakiError, match=f"'{pictures}' has only still images"):
        Batches(images(pictures, lengths=(3,)), 2)


def refuse_a_digit_3(caption: str) -> None:
    if "3" in caption:
        raise PhenakiError("the prompt has a 3")


@pytest.mark.parametrize("workers", [0, 1])
def test_captions_that_the_text_encoder_refuses_are_bad(shards: Path, workers: int) -> None:
    told: list[str] = []
    config = images(shards, workers=workers, max_bad_fraction=1.0)
    taken = seen(take(Batches(config, 2, check_caption=refuse_a_digit_3, on_bad=told.append), 30))
    assert len(set(taken)) == 21 and not any("3" in caption for caption in taken)
    assert all(sentence.endswith(": the prompt has a 3") for sentence in told)
    assert {sentence.partition(":")[0].rpartition("/")[2] for sentence in told} == {"03", "13"}


def test_processes_draw_batches_of_one_length_and_source(pictures: Path) -> None:
    sources = (SourceConfig(str(pictures), images=True), *SHAPES, SourceConfig("shapes", images=True, size=(16, 32)))
    config = images("", sources=sources, batch=4, lengths=(1, 3), length_weights=(0.5, 0.5), workers=2)

    def kinds(rank: int) -> list[tuple[torch.Size, bool]]:
        batches = take(Batches(config, 2, rank, 2), 24)
        return [(batch["video"].shape, batch["captions"][0].startswith("grey")) for batch in batches]

    first = kinds(0)
    assert first == kinds(1) and len(set(first)) == 3
    assert first[::2] != first[1::2]  # while the workers of a process draw their own


def test_a_batch_that_cannot_be_had_changes_no_state(some_bad: Path) -> None:
    """So that a run goes on where it stopped, with a larger max_bad_fraction."""
    config = images(some_bad, max_bad_fraction=0.05)
    stopped = Batches(config, 2)
    before = []
    with pytest.raises(PhenakiError, match="more than data.max_bad_fraction"):
        while True:
            stopped.prefetch()
            before.append(next(stopped))
    resumed = Batches(replace(config, max_bad_fraction=1.0), 2)
    resumed.load_state_dict(stopped.state_dict())
    whole = take(Batches(replace(config, max_bad_fraction=1.0), 2), len(before) + 5)
    assert equal(before + take(resumed, 5), whole)


def test_pictures_and_animations_of_one_frame_beside_videos_are_no_bad_samples(tmp_path: Path) -> None:
    for number, ending in enumerate(("png", "webp", "gif", "jpg") * 3):
        Image.fromarray(picture(20 * number)).save(tmp_path / f"{number}.{ending}")  # no captions, as of previews
    write_video(tmp_path / "clip.mp4", np.stack([picture(200)] * 4 + [picture(100)] * 5), 8)
    (tmp_path / "clip.txt").write_text("a video")
    told: list[str] = []
    take(Batches(images(tmp_path, lengths=(7,)), 2, on_bad=told.append), 5)
    assert not told


def test_the_memory_for_mixing_is_shared_by_the_sources(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_stream, "_WINDOW_BYTES", 300)  # of pictures of some 80 bytes
    for sources in (1, 3):
        batches = Batches(images("", sources=(SourceConfig(str(shards)),) * sources), 2)
        stream = batches._streams[0].stream
        assert stream.window_bytes == 300 // sources
    assert stream.window_bytes == 100
    windows = {position["window"] for _, position in islice(batches._sources[0].items(stream, {}), 20)}
    assert len(windows) >= 10


def test_shown_clips_are_found_behind_many_pictures_and_captions_are_checked(pictures: Path, tmp_path: Path) -> None:
    for number in range(45):
        (tmp_path / f"{number:02d}.png").write_bytes((pictures / f"{number % 23:02d}.png").read_bytes())
    write_video(tmp_path / "clip.mp4", np.stack([picture(200)] * 4 + [picture(100)] * 5), 8)
    (tmp_path / "clip.txt").write_text("a video with a 3")
    config = images(tmp_path, lengths=(7,))
    assert len(eval_samples(config, count=4).samples) == 1
    with pytest.raises(PhenakiError, match="clip.mp4: the prompt has a 3"):
        eval_samples(config, count=4, check_caption=refuse_a_digit_3)
    with pytest.raises(PhenakiError, match="is also a training source"):
        eval_samples(replace(config, validation=f"{tmp_path}/./"))
