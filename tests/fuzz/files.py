"""Files of others and of ours, broken: media, shards, datasets, models, checkpoints, records of runs, stories."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from random import Random

import numpy as np
import pyarrow
import torch
from PIL import Image
from pyarrow import parquet

import phenaki
from fuzz.models import tiny_model
from fuzz.mutate import mutate_bytes, mutate_file
from fuzz.surface import Case, Surface
from helpers import media_files, robots
from phenaki.cli.story import read_story
from phenaki.core.components import fingerprint
from phenaki.core.errors import BadSample, PhenakiError
from phenaki.data.captions import CaptionTable, Columns, read_timed_captions
from phenaki.data.config import DataConfig, SourceConfig
from phenaki.data.lerobot import LeRobot
from phenaki.data.opening import open_source
from phenaki.data.pack_config import PackConfig
from phenaki.data.packing import pack
from phenaki.data.shards import ShardWriter
from phenaki.data.sources import Sample, ShardSource, StreamConfig
from phenaki.data.table_rows import read_names
from phenaki.data.tokenizing import TokenizeConfig, tokenize
from phenaki.data.tokens import Tokens
from phenaki.evaluation.metrics_file import read_metrics
from phenaki.media.inputs import as_video
from phenaki.media.metadata import read_metadata
from phenaki.media.reader import PICTURES, VIDEOS, probe, read_clip, read_video
from phenaki.media.view import ClipView
from phenaki.media.writer import write_video
from phenaki.training.checkpoints import Checkpoints, load
from phenaki.training.runs import find_runs

VIEW = ClipView(frames=3, fps=30.0, size=(16, 16), random=False)


def sound_media() -> dict[str, bytes]:
    """Small files by ending, one of each kind that the reader knows."""
    even, small = media_files.even(5), (32, 32)
    made = {
        ".mp4": media_files.video(even, size=small, paint=media_files.noise),
        ".mov": media_files.video(even, "mov", size=small, turn=(90, False)),
        ".mkv": media_files.video(even, "matroska", size=small),
        ".webm": media_files.video(even, "webm", "libvpx-vp9", small),
        ".avi": media_files.video(even, "avi", "mpeg4", small),
        ".ts": media_files.video(even, "mpegts", size=small),
        ".gif": media_files.animation("GIF", [100, 50, 100]),
        ".webp": media_files.animation("WebP", [100, 50, 100]),
    }
    pixels = media_files.noise(0, small)
    for ending, form in ((".png", "PNG"), (".jpg", "JPEG"), (".bmp", "BMP"), (".tif", "TIFF"), (".avif", "AVIF")):
        made[ending] = media_files.picture(pixels, form)
    frames = [Image.fromarray(media_files.noise(index, small)) for index in range(3)]
    file = io.BytesIO()
    frames[0].save(file, "PNG", save_all=True, append_images=frames[1:], duration=100)
    return made | {".apng": file.getvalue()}


class Media(Surface):
    """Videos, animations and pictures, also under the ending of another kind."""

    name, weight = "media", 0.22

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.sound = sound_media()

    def case(self, rng: Random) -> Case:
        ending = rng.choice(list(self.sound))
        data = mutate_bytes(self.sound[ending], rng, list(self.sound.values()))
        named = ending if rng.random() < 0.8 else rng.choice(sorted(PICTURES | VIDEOS))
        path, way = self.fresh(f"media{named}"), rng.randrange(4)
        path.write_bytes(data)
        return Case(f"{ending} as {named}, {len(data)} bytes, way {way}", lambda: self._read(path, data, named, way))

    def _read(self, path: Path, data: bytes, ending: str, way: int) -> None:
        if way == 0:
            clip = read_video(path)
            assert clip.frames.dtype == np.uint8 and clip.frames.shape[3] == 3 and clip.fps > 0
        elif way == 1:
            frames = read_clip(data, ending, VIEW, np.random.default_rng(0))
            assert frames.shape == (3, 16, 16, 3) and frames.dtype == np.uint8
        elif way == 2:
            info = probe(path, ending)
            assert info.frames >= 1 and info.width >= 1 and info.height >= 1 and np.isfinite(info.seconds)
        else:
            read_metadata(path)
            video = as_video(path)
            assert video.shape[1] == 3 and video.isfinite().all()


class Shards(Surface):
    """Tar files of clips. What is lost of one is named."""

    name, weight = "shards", 0.15

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        media = sound_media()
        with ShardWriter(str(folder / "sound"), max_samples=10) as writer:
            for number, ending in enumerate((".mp4", ".png", ".gif")):
                words = json.dumps({"captions": ["a clip"], "fps": 8.0, "source": "x"}).encode()
                writer.write(f"{number:04d}", {ending[1:]: media[ending], "txt": b"a clip", "json": words})
            writer.finish_shard()
        self.sound = next((folder / "sound").glob("*.tar")).read_bytes()

    def case(self, rng: Random) -> Case:
        data = mutate_bytes(self.sound, rng)
        path = self.fresh("shard.tar")
        path.write_bytes(data)
        return Case(f"tar of {len(data)} bytes", lambda: self._read(path))

    def _read(self, path: Path) -> None:
        source = ShardSource([str(path)])
        good, bad = read_samples(source, 10)
        assert good + bad >= 3 or bad, f"{good} of 3 samples, and none is named as bad"
        if bad:
            raise PhenakiError(f"{bad} bad samples")


def read_samples(source, most: int) -> tuple[int, int]:
    """The number of good and of bad samples among the first of a source."""
    good = bad = 0
    for item, _ in source.items(StreamConfig(shuffle=0, epochs=1), {}):
        try:
            sample = source.sample(item, VIEW, np.random.default_rng(0))
        except BadSample:
            bad += 1
        else:
            good += 1
            assert sample is None or isinstance(sample, (Sample, Tokens))
            if isinstance(sample, Sample):
                assert sample.video.shape == (3, 16, 16, 3) and sample.video.dtype == np.uint8
        if good + bad >= most:
            break
    return good, bad


class Folders(Surface):
    """A folder of files, of which one is broken."""

    sound: Path

    def broken(self, rng: Random, only: Sequence[str] = ()) -> tuple[Path, str]:
        """A copy of the sound folder with one broken file, and the name of that."""
        copy = self.fresh()
        shutil.copytree(self.sound, copy)
        files = sorted(path.relative_to(copy) for path in copy.rglob("*") if path.is_file())
        name = rng.choice([file for file in files if not only or file.name in only])
        path = copy / name
        match rng.randrange(25):
            case 0:
                path.unlink()
            case 1:
                path.unlink()
                path.mkdir()
            case 2:
                path.unlink()
                path.symlink_to("/dev/zero" if rng.random() < 0.5 else path)
            case 3:
                path.unlink()
                os.mkfifo(path)
            case _:
                path.write_bytes(mutate_file(path.read_bytes(), rng, [b"\x80\x04cos\nsystem\n(S'true'\ntR."]))
        return copy, str(name)


class Datasets(Folders):
    """Packed clips and token shards, with what describes them; packing and tokenizing go on in them."""

    name, weight = "datasets", 0.12

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        clips = folder / "clips"
        clips.mkdir()
        for number in range(3):
            write_video(
                clips / f"{number}.mp4", np.stack([media_files.noise(number + t, (16, 16)) for t in range(4)]), 8
            )
            (clips / f"{number}.txt").write_text("a red circle")
        self.packing = PackConfig((str(clips),), str(folder / "input"), processes=1, shard_samples=2)
        self.tokenizing = TokenizeConfig(SourceConfig(str(folder / "packed")), frames=3)
        pack(PackConfig((str(clips),), str(folder / "packed"), processes=1, shard_samples=2), progress=False)
        self.tokenizer = tiny_model().tokenizer
        tokenize(self.tokenizing, str(folder / "tokens"), self.tokenizer)
        self.again = {}
        for kind in ("packed", "tokens"):
            self.again[kind] = {path.name: path.read_bytes() for path in (folder / kind).rglob("*.tar")}

    def case(self, rng: Random) -> Case:
        kind = rng.choice(("packed", "tokens"))
        self.sound = self.folder / kind
        resumes = rng.random() < 0.25
        descriptions = ("journal.jsonl", "dataset.json", "tokens.json", "tokens-000.json")
        copy, name = self.broken(rng, descriptions if resumes or rng.random() < 0.7 else ())
        work = {"packed": self._pack, "tokens": self._tokenize}[kind] if resumes else self._read
        return Case(f"{kind}: {name}, {work.__name__}", lambda: work(copy))

    def _read(self, copy: Path) -> None:
        data = DataConfig((SourceConfig(str(copy)),), size=16, lengths=(3,))
        good, bad = read_samples(open_source(data.sources[0], data, captions=False), 4)
        if bad:
            raise PhenakiError(f"{bad} bad samples, {good} good ones")

    def _pack(self, copy: Path) -> None:
        pack(self.packing, progress=False)
        self._check(copy, "packed")

    def _tokenize(self, copy: Path) -> None:
        tokenize(self.tokenizing, str(copy), self.tokenizer)
        self._check(copy, "tokens")

    def _check(self, copy: Path, kind: str) -> None:
        made = {path.name: path.read_bytes() for path in copy.rglob("*.tar")}
        assert made == self.again[kind], "it ended well, and other shards lie there"


class Robots(Folders):
    """Data sets of LeRobot, of both versions. What is lost of one is named."""

    name, weight = "robots", 0.06

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        robots.write_v2(folder / "v2", 2)
        robots.write_v3(folder / "v3", 3)

    def case(self, rng: Random) -> Case:
        self.sound = self.folder / rng.choice(("v2", "v3"))
        copy, name = self.broken(rng)
        return Case(f"{self.sound.name}: {name}", lambda: self._read(copy))

    def _read(self, copy: Path) -> None:
        episodes = LeRobot(copy, robots.CAMERA, states=True)
        bad = [item for item in map(episodes.__getitem__, range(len(episodes))) if isinstance(item, BadSample)]
        if bad:
            raise bad[0]


class Models(Folders):
    """Folders of models and of components: whatever loads is what was saved."""

    name, weight = "models", 0.14

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.sound = folder / "sound"
        model = tiny_model()
        model.save_pretrained(self.sound)
        self.fingerprints = {kind: fingerprint(network) for kind, network in model.components.networks.items()}

    def case(self, rng: Random) -> Case:
        copy, name = self.broken(rng)
        return Case(name, lambda: self._load(copy, name))

    def _load(self, copy: Path, name: str) -> None:
        model = phenaki.load(copy)
        if name == "model.json" or name.endswith(".md"):
            return
        config = (copy / name).parent / "config.json"
        if "sha256" not in json.loads(config.read_bytes()):
            return  # as who changes a config removes it
        for kind, network in model.components.networks.items():
            assert fingerprint(network) == self.fingerprints[kind], f"another {kind} was loaded without a word"


class CheckpointFiles(Folders):
    """Checkpoints of a run: the newest whole one is found, with the very tensors that were saved."""

    name, weight = "checkpoints", 0.08

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.sound = folder / "sound"
        self.sound.mkdir()
        store = Checkpoints(self.sound, 3, 0, print)
        for step in (1, 2):
            store.save(step, {"state": {"weight": torch.full((200,), float(step)), "list": [1, (2.0, "x")]}})
            store.wait()

    def case(self, rng: Random) -> Case:
        copy, name = self.broken(rng)
        return Case(name, lambda: self._resume(copy, name))

    def _resume(self, copy: Path, name: str) -> None:
        said: list[str] = []
        saved = load(Checkpoints(copy, 3, 0, said.append).newest(), torch.device("cpu"))
        assert (saved["state"]["weight"] == saved["step"]).all() and saved["state"]["list"] == [1, (2.0, "x")]
        assert saved["step"] == 2 or said or not (copy / name).exists(), "an older one was taken without a word"


class Records(Folders):
    """Records of runs, tables and captions, metrics, stories."""

    name, weight = "records", 0.09

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.sound = folder / "sound"
        self.sound.mkdir()
        state = {"state": "running", "sentence": "", "host": "here", "pid": 1, "time": 1.5}
        records = [{"step": step, "time": 1.0, "loss": 0.5} for step in range(3)]
        protocol = {"model": {"name": "x"}, "seed": 0}
        files = {
            "recipe.json": json.dumps({"run": {"steps": 4}, "generator": {}}),
            "state.json": json.dumps(state),
            "metrics.jsonl": "".join(json.dumps(record) + "\n" for record in records),
            "captions.csv": 'path,caption\na.mp4,"one, two"\nb.mp4,three\n',
            "captions.jsonl": '{"path": "a.mp4", "caption": "one"}\n{"path": "b.mp4", "caption": "two"}\n',
            "metadata.csv": "file_name;text\r\na.mp4;one\r\n",
            "a.captions.json": json.dumps([{"start": 0, "text": "one"}, {"start": 1.5, "text": "two"}]),
            "evaluation.json": json.dumps({"prompts": {"protocol": protocol, "fulfilled": 0.5}}),
            "story.txt": "a red circle\n[frames=3] now it turns blue\n# no\n[21] now it moves\n",
        }
        for name, text in files.items():
            (self.sound / name).write_text(text)
        table = pyarrow.table({"path": ["a.mp4", "b.mp4"], "caption": [["one", "two"], ["three"]]})
        parquet.write_table(table, self.sound / "captions.parquet")

    def case(self, rng: Random) -> Case:
        copy, name = self.broken(rng)
        return Case(name, lambda: self._read(copy, copy / name))

    def _read(self, folder: Path, path: Path) -> None:
        match path.name:
            case "captions.csv" | "captions.jsonl" | "captions.parquet" | "metadata.csv":
                read_names(path)
                CaptionTable(path, Columns())
            case "a.captions.json":
                read_timed_captions(path)
            case "evaluation.json":
                read_metrics(path)
            case "story.txt":
                for line in read_story(path):
                    assert line.prompt
            case _:
                for run in find_runs(folder):
                    assert isinstance(run.step, int) and run.best is not None and run.pictures == []
