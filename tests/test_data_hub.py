"""Shards on the Hugging Face hub are read where they lie: hf://datasets/owner/name/folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.hub import HubServer, serve_hub
from phenaki.core.errors import PhenakiError
from phenaki.data.packing import PackConfig, pack
from phenaki.data.sample import EncodedSample
from phenaki.data.shards import read_shard
from phenaki.data.storage import expand, read_optional

URI = "hf://datasets/owner/data/shards"


@pytest.fixture(scope="module")
def hub(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubServer]:
    folder = tmp_path_factory.mktemp("hub")
    pack(PackConfig((clips,), str(folder / "shards"), validation=0.3, processes=1), progress=False)
    files = [path for path in (folder / "shards").rglob("*") if path.is_file()]
    with serve_hub(folder / "cache") as server:
        server.repositories["owner/data"] = {"main": {str(p.relative_to(folder)): p.read_bytes() for p in files}}
        yield server


@pytest.mark.parametrize("uri", [URI, f"{URI}/*/*.tar", f"{URI}/{{train,validation}}/shard-000000.tar"])
def test_shards_are_found(hub: HubServer, uri: str) -> None:
    assert expand(uri) == [f"{URI}/{split}/shard-000000.tar" for split in ("train", "validation")]


def test_they_are_read(hub: HubServer, clips: Path) -> None:
    items = [item for url in expand(URI) for item, _ in read_shard(url)]
    assert len(items) == 7 and all(isinstance(item, EncodedSample) for item in items)
    media = {item.metadata["source"]: item.media for item in items if isinstance(item, EncodedSample)}
    assert media == {path.name: path.read_bytes() for path in clips.glob("*.mp4")}
    assert b'"train"' in (read_optional(f"{URI}/dataset.json") or b"")


@pytest.mark.parametrize("uri", ["hf://datasets/owner/nothing/shards", "hf://datasets/owner/data/nothing"])
def test_what_is_not_there_is_said(hub: HubServer, uri: str) -> None:
    with pytest.raises(PhenakiError, match="nothing"):
        expand(uri)
