"""Tiny random models and tiny clips."""

from __future__ import annotations

import os
import signal

# Before torch is imported. One thread a process, since `make test` runs one process a core; idle threads sleep.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import phenaki.worlds.shapes  # noqa: F401, registers the world
from helpers.servers import CuttingProxy, FileServer, serve_files, serve_s3
from phenaki.conditioning import WordEncoder, WordEncoderConfig
from phenaki.data import storage
from phenaki.generators import MaskedTransformer, MaskedTransformerSizes
from phenaki.media.writer import write_video
from phenaki.tokenizers import CViViT, CViViTConfig, QuantizerConfig

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it, and so would their own


@pytest.fixture
def tokenizer() -> CViViT:
    torch.manual_seed(0)
    config = CViViTConfig(
        image_size=(32, 32), width=64, spatial_layers=1, temporal_layers=1, quantizer=QuantizerConfig(levels=(5, 5, 5))
    )
    return CViViT(config).eval()


@pytest.fixture
def text_encoder() -> WordEncoder:
    torch.manual_seed(1)
    return WordEncoder(WordEncoderConfig(width=64, layers=1)).eval()


@pytest.fixture
def generator(tokenizer: CViViT, text_encoder: WordEncoder) -> MaskedTransformer:
    torch.manual_seed(2)
    sizes = MaskedTransformerSizes(frames=11, width=64, layers=2)
    return MaskedTransformer(sizes.config(tokenizer.spec, text_encoder.width)).eval()


@pytest.fixture
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Readers that retry wait a millisecond, not seconds."""
    monkeypatch.setattr(storage, "FIRST_WAIT", 0.001)


@pytest.fixture
def server(tmp_path: Path, short_waits: None) -> Iterator[FileServer]:
    """`tmp_path` on a web server."""
    pytest.importorskip("aiohttp", reason="aiohttp is not installed")
    with serve_files(tmp_path) as server:
        yield server


@pytest.fixture(scope="module")
def s3() -> Iterator[CuttingProxy]:
    with serve_s3() as proxy:
        yield proxy


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 7 videos with captions: moving textures, 9 frames of 32x32 at 8 fps."""
    folder = tmp_path_factory.mktemp("clips")
    for number in range(7):
        texture = np.random.default_rng(number).integers(0, 256, (12, 12, 3), np.uint8).repeat(4, 0).repeat(4, 1)
        frames = [texture[2 * t : 2 * t + 32, number : number + 32] for t in range(9)]
        write_video(folder / f"{number}.mp4", np.stack(frames), 8)
        (folder / f"{number}.txt").write_text(f"texture {number} moves" + " up" * number)
    return folder
