"""To show some clips, no more is read than that takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from helpers import media_files
from phenaki.core.errors import PhenakiError
from phenaki.data.config import DataConfig, SourceConfig
from phenaki.data.eval_samples import eval_samples
from phenaki.data.shards import ShardWriter
from phenaki.data.sources import Sample, ShardSource


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The keys of what is looked at from now on."""
    keys: list[str] = []
    sample = ShardSource.sample

    def noted(self: ShardSource, item: Any, *more: Any) -> Sample | None:
        keys.append(item.key)
        return sample(self, item, *more)

    monkeypatch.setattr(ShardSource, "sample", noted)
    return keys


def write(place: Path, count: int, **fields: bytes) -> DataConfig:
    with ShardWriter(str(place)) as writer:
        for number in range(count):
            writer.write(f"{number}", {**fields, "txt": b"a caption"})
    return DataConfig((SourceConfig(str(place)),), size=16, lengths=(5,))


def test_of_pictures_alone_only_some_are_looked_at(looked_at: list[str], tmp_path: Path) -> None:
    config = write(tmp_path, 500, png=media_files.picture(media_files.noise(0, (16, 16))))
    with pytest.raises(PhenakiError, match="no usable clip of 5 frames: none of the first 200 samples is a vid"):
        eval_samples(config, count=2)
    assert len(looked_at) == 200


def test_of_bad_samples_only_a_few_are_tried(looked_at: list[str], tmp_path: Path) -> None:
    with pytest.raises(PhenakiError, match="no usable clip of 5 frames: .* it cannot be read"):
        eval_samples(write(tmp_path, 50, mp4=media_files.text()), count=2)
    assert len(looked_at) == 20


def test_of_videos_as_many_as_are_wished(looked_at: list[str], tmp_path: Path) -> None:
    assert len(eval_samples(write(tmp_path, 30, mp4=media_files.video(media_files.even(30, 25))), count=3).samples) == 3
    assert len(looked_at) == 3
