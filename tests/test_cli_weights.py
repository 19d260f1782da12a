"""Weights of other networks are fetched once, complete and with the right content, or not at all."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from helpers.servers import FileServer
from phenaki.cli import app
from phenaki.core import hub
from phenaki.core.errors import PhenakiError
from phenaki.perceptual import download
from phenaki.perceptual.i3d import _FILE
from phenaki.perceptual.lpips import _HEADS, _VGG

CONTENT = b"weights" * 300_000


def run(*arguments: str) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, ["weights", "get", *arguments])


@pytest.fixture
def cache(tmp_path: Path, server: FileServer, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache; the files come from a server on this machine."""
    (tmp_path / "vgg.pth").write_bytes(CONTENT)
    (tmp_path / "rgb.pt").write_bytes(CONTENT[:99])
    files = {
        name: tuple(
            download.WeightFile(
                file, f"{server.url}/{file}", hashlib.sha256((tmp_path / file).read_bytes()).hexdigest()
            )
            for file in names
        )
        for name, names in {"lpips": ("vgg.pth",), "i3d": ("rgb.pt",)}.items()
    }
    monkeypatch.setattr(download, "WEIGHTS", files)
    monkeypatch.setenv("PHENAKI_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_weights_are_fetched_once(cache: Path, server: FileServer) -> None:
    got = run("lpips", "i3d")
    assert got.exit_code == 0, got.output
    assert f"lpips: {cache / 'vgg.pth'}" in got.output and (cache / "vgg.pth").read_bytes() == CONTENT
    asked = len(server.asked)
    assert run("lpips", "i3d").exit_code == 0 and len(server.asked) == asked == 2
    (cache / "vgg.pth").write_bytes(b"damaged")
    assert run("lpips").exit_code == 0 and (cache / "vgg.pth").read_bytes() == CONTENT


@pytest.mark.parametrize("fault", ["content", "cut", "missing", "gone"])
def test_what_is_not_right_is_not_kept(
    fault: str, cache: Path, server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if fault == "content":
        (tmp_path / "vgg.pth").write_bytes(CONTENT[::-1])
    elif fault == "cut":
        server.cuts = [1000]
    elif fault == "missing":
        server.status = 404
    else:
        (file,) = download.WEIGHTS["lpips"]
        monkeypatch.setitem(download.WEIGHTS, "lpips", (replace(file, url="http://127.0.0.1:9/vgg.pth"),))
    got = run("lpips")
    assert got.exit_code == 2 and "Traceback" not in got.output
    assert ("has another content" in got.output) or ("cannot be downloaded" in got.output), got.output
    assert list(cache.iterdir()) == []


def test_unknown_names(monkeypatch: pytest.MonkeyPatch) -> None:
    said = run("lpisp")
    assert said.exit_code == 2 and "Did you mean 'lpips'?" in said.output
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: (_ for _ in ()).throw(OSError("offline")))
    with pytest.raises(PhenakiError, match="'google/t5-v1_1-base' cannot be downloaded"):
        hub.fetch_text_encoder("google/t5-v1_1-base")
    with pytest.raises(PhenakiError, match="not owner/name"):
        hub.fetch_text_encoder("t5")


def test_the_published_files_are_those_that_the_networks_look_for() -> None:
    names = {name: [file.name for file in files] for name, files in download.WEIGHTS.items()}
    assert names == {"lpips": [_VGG, _HEADS], "i3d": [_FILE]}
    for files in download.WEIGHTS.values():
        assert all(len(file.sha256) == 64 and file.url.startswith("https://") for file in files)
    assert download.WEIGHTS["lpips"][0].sha256.startswith(_VGG[6:14])  # torch names the file by its digest
