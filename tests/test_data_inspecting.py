"""The figures are those of the samples, in a folder and in shards, and the pictures show something."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import phenaki.worlds.shapes  # noqa: F401, registers "shapes"
from helpers import media_files
from helpers.servers import serve_files
from phenaki.core.errors import PhenakiError
from phenaki.data import inspecting as inspect
from phenaki.data.config import SourceConfig
from phenaki.data.inspecting import DataSummary, draw_histograms, inspect_data
from phenaki.data.packing import PackConfig, pack
from phenaki.data.tokenizing import TokenizeConfig, tokenize
from phenaki.tokenizers import CViViT


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("folder")
    for number in range(4):
        stamps = media_files.even(20 + number, 10)
        media = media_files.video(stamps, paint=lambda i, size, n=number: media_files.grey(i + n, size))
        (root / f"{number}.mp4").write_bytes(media)
        (root / f"{number}.txt").write_text("A dog's walk, a walk" if number else "käse")
    (root / "still.png").write_bytes(media_files.picture(media_files.noise(0, (20, 30))))
    return root


def test_figures_are_those_of_the_folder_and_of_its_shards(folder: Path, tmp_path: Path) -> None:
    pack(PackConfig((folder,), str(tmp_path / "packed"), processes=1, validation=0, shard_samples=100))
    (folder / "bad.mp4").write_bytes(media_files.text())
    (folder / "latin.mp4").write_bytes(media_files.text())
    (folder / "latin.txt").write_bytes(b"\xe4")
    for place, count in ((folder, 7), (tmp_path / "packed", 5)):
        summary = inspect_data(str(place), tmp_path / "out")
        assert (summary.total, summary.looked_at, summary.stills, summary.usable) == (count, count, 1, 5)
        assert sorted(summary.frames) == [20, 21, 22, 23] and summary.fps == pytest.approx([10] * 4)
        assert sorted(summary.seconds) == pytest.approx([2, 2.1, 2.2, 2.3])
        assert summary.sizes == {"64x48": 4, "30x20": 1} and summary.file_types == {".mp4": 4, ".png": 1}
        assert sorted(summary.caption_words) == [1, 5, 5, 5] and summary.without_caption == 1
        assert summary.words == {"a": 6, "walk": 6, "dog's": 3, "käse": 1}
        told = json.loads((tmp_path / "out/summary.json").read_text("utf-8"))
        assert told["words"]["käse"] == 1 and told["looked_at"] == count
    assert any(line.startswith("7 of 7 samples looked at: 4 videos, 1 stills, 2 bad") for line in inspect_lines(folder))


def inspect_lines(place: Path) -> list[str]:
    lines = inspect_data(str(place), place.parent / "lines").lines()
    assert any("bad.mp4: it cannot be read" in line for line in lines) and any("latin.mp4" in line for line in lines)
    return lines


def test_a_part_is_looked_at_from_every_shard(folder: Path, tmp_path: Path) -> None:
    pack(PackConfig((folder,), str(tmp_path / "packed"), processes=1, validation=0, shard_samples=1))
    summary = inspect_data(str(tmp_path / "packed"), tmp_path / "out", samples=3)
    assert (summary.looked_at, summary.total) == (3, 5)
    shard = str(next((tmp_path / "packed").rglob("*.tar")))
    assert inspect_data(shard, tmp_path / "out").looked_at == 1


def test_of_a_packed_data_set_the_part_for_training_is_looked_at(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("aiohttp", reason="aiohttp is not installed")
    report = pack(PackConfig((folder,), str(tmp_path / "packed"), processes=1, validation=0.5))
    assert report.train.samples and report.validation.samples
    with serve_files(tmp_path / "packed") as server:
        for place in (str(tmp_path / "packed"), server.url):
            summary = inspect_data(place, tmp_path / "out")
            assert summary.total == summary.looked_at == report.train.samples


def test_token_shards_and_the_procedural_world_are_refused(tmp_path: Path, tokenizer: CViViT, clips: Path) -> None:
    tokenize(TokenizeConfig(SourceConfig(str(clips)), frames=5), str(tmp_path / "tokens"), tokenizer)
    with pytest.raises(PhenakiError, match="tokens' holds token shards, but clips are needed"):
        inspect_data(str(tmp_path / "tokens"), tmp_path / "out")
    with pytest.raises(PhenakiError, match="'shapes' is a procedural world"):
        inspect_data("shapes", tmp_path / "out")


def test_pictures_show_clips_and_bars(folder: Path, tmp_path: Path) -> None:
    inspect_data(str(folder), tmp_path)
    sheet = np.asarray(Image.open(tmp_path / "clips.png"))
    assert sheet.shape[0] > 5 * 96 and sheet.shape[1] >= 8 * 96 and sheet.std() > 20
    few, many = DataSummary(None, seconds=[1.0]), DataSummary(None, seconds=[float(i % 7) for i in range(99)])
    blue = [
        int((draw_histograms(summary) == (66, 114, 174)).all(-1).sum()) for summary in (DataSummary(None), few, many)
    ]
    assert blue[0] == 0 < blue[1] < blue[2]


def test_labels_stand_for_captions(tmp_path: Path) -> None:
    for name in ("owl", "bear"):
        (tmp_path / "animals" / name).mkdir(parents=True)
        (tmp_path / f"animals/{name}/1.png").write_bytes(media_files.picture(media_files.noise(len(name), (16, 16))))
    asked = PackConfig((tmp_path / "animals",), str(tmp_path / "packed"), processes=1, validation=0)
    pack(replace(asked, label_from_folder=True))
    labelled = inspect_data(str(tmp_path / "packed"), tmp_path / "out")
    assert (labelled.labels, labelled.without_caption) == ({"owl": 1, "bear": 1}, 0)
    assert inspect_data(str(tmp_path / "animals"), tmp_path / "out").without_caption == 2


def test_a_folder_and_its_shards_have_the_same_bad_files(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    for name, media in {
        "whole": media_files.video(media_files.even(30)),
        "one_frame": media_files.video([0]),
        "two_frames": media_files.video(media_files.even(2)),
        "cut_off": media_files.truncated(),
    }.items():
        (root / f"{name}.mp4").write_bytes(media)
    report = pack(PackConfig((root,), str(tmp_path / "packed"), processes=1, validation=0))
    assert report.refused.keys() == {"cut_off.mp4"}
    (said,) = inspect_data(str(root), tmp_path / "out").bad
    assert said == f"cut_off.mp4: {report.refused['cut_off.mp4']}"
    assert inspect_data(str(tmp_path / "packed"), tmp_path / "out").bad == []


def test_each_clip_on_the_sheet_is_named(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[list[str]] = []
    monkeypatch.setattr(inspect, "contact_sheet", lambda clips, columns, labels: told.append(labels) or clips[0][0])
    inspect_data(str(folder), tmp_path / "out")
    assert {"0.mp4: käse", "3.mp4: A dog's walk, a walk", "still.png: (no caption)"} <= set(told[0])
    pack(PackConfig((folder,), str(tmp_path / "packed"), processes=1, validation=0))
    inspect_data(str(tmp_path / "packed"), tmp_path / "out")
    assert any(re.fullmatch(r"shard-000000.tar/0000000\d \(0.mp4\): käse", label) for label in told[1])


def test_what_is_written_is_no_part_of_what_is_looked_at(folder: Path) -> None:
    for out in (folder, folder / "look"):
        with pytest.raises(PhenakiError, match="lies within the source"):
            inspect_data(str(folder), out)
    assert not (folder / "look").exists()


def test_nothing_to_look_at_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/a.mp4").write_bytes(media_files.text())
    with pytest.raises(PhenakiError, match="no usable sample. a.mp4: it cannot be read"):
        inspect_data(str(tmp_path / "folder"), tmp_path / "out")
    with pytest.raises(PhenakiError, match="samples 0"):
        inspect_data(str(tmp_path / "folder"), tmp_path / "out", samples=0)
    with pytest.raises(PhenakiError, match="gone"):
        inspect_data(str(tmp_path / "gone"), tmp_path / "out")
