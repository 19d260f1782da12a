"""What was played, kept in the saved mp4, and made again from it."""

from __future__ import annotations

import base64
import hashlib
import os
import tempfile
import zlib
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from phenaki.core.config import bounded, configclass, from_dict
from phenaki.core.errors import PhenakiError
from phenaki.media.convert import Frames, to_float, to_uint8
from phenaki.media.montage import upscale
from phenaki.media.uploads import encode_png, read_picture
from phenaki.media.writer import open_writer
from phenaki.pipeline import Event, Phenaki, World, check_adjustable

SECONDS = 60  # that a recorder keeps
_MOST_BYTES = 256 * 2**20  # of frames that a recorder keeps
_MOST_IDS = 2**28  # bytes of the ids of a recording, days of it
COMMAND = "play"  # in the metadata of a file


@configclass
class Recording:
    """All that the frames of a saved video depend on.

    skipped: frames before the first saved one. frames: how many were saved. threads: of PyTorch, on which the last bits
    of a sum may depend. picture: PNG that the video began with, in base64; "": none. ids: of all latent frames
    (`pack_ids`), since what is sampled in a batch may differ in the last bit of a logit; "": there are none, and the
    frames are sampled again. sha256: of the saved frames.
    """

    model: str
    fingerprint: str
    prompt: str
    seed: int = bounded(at_least=0)
    options: dict[str, float]
    events: tuple[Event, ...] = ()
    skipped: int = bounded(0, at_least=0, at_most=100_000_000)  # weeks
    frames: int = bounded(0, at_least=0, at_most=100_000)
    threads: int = bounded(1, at_least=1, at_most=1024)
    picture: str = ""
    ids: str = ""
    sha256: str = ""

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any], where: str) -> Recording:
        """That of a file, `where`, with the command COMMAND. Raises PhenakiError for one that is not complete."""
        fields = metadata.get(COMMAND)
        if not isinstance(fields, dict):
            raise PhenakiError(f"{where} does not say what was played")
        return from_dict(cls, fields, where=where)

    @property
    def metadata(self) -> dict[str, Any]:
        """For the file that is written."""
        return {"command": COMMAND, "model": self.model, "seed": self.seed, COMMAND: asdict(self)}

    def open(self, model: Phenaki, replayed: bool = True) -> World:
        """The world at its beginning; `replayed`: in which the events come again."""
        for option in self.options:
            check_adjustable(option)
        events = self.events if replayed else ()
        return model.play(self.prompt, start=self._start(model), seed=self.seed, events=events, **self.options)

    def frames_of(self, model: Phenaki) -> Iterator[Frames]:
        """The saved frames, made again, uint8 (n, H, W, 3) a step. Raises PhenakiError for another model."""
        world = self.open(model)
        if world.fingerprint != self.fingerprint:
            raise PhenakiError(
                f"this video was played with another model, '{self.model}': name its folder with --model"
            )
        skipped, missing = self.skipped, self.frames
        for clip in self._decoded(model) if self.ids else world:
            kept = clip[skipped : skipped + missing]
            skipped, missing = max(0, skipped - len(clip)), missing - len(kept)
            if len(kept):
                yield kept
            if not missing:
                return
        raise PhenakiError(f"this recording is damaged: its ids end {missing:,} frames before its video")

    def _decoded(self, model: Phenaki) -> Iterator[Frames]:
        """All frames, from the ids."""
        tokenizer, start = model.tokenizer, self._start(model)
        grid = tokenizer.grid(1, *model.image_size)
        decoder, ids = tokenizer.decoder(), unpack_ids(self.ids, grid, tokenizer.vocab_size)
        if start is not None:
            decoder.push(tokenizer.encode(start))
        for latent_frame in ids.to(model.device):
            yield to_uint8(decoder.push(latent_frame[None]))[0]

    def _start(self, model: Phenaki) -> Tensor | None:
        if not self.picture:
            return None
        return to_float(read_picture(decode_base64(self.picture), model.image_size)[None])


def pack_ids(ids: bytes) -> str:
    """Ids int32, in the order of a grid (t, h, w), compressed and in base64."""
    return base64.b64encode(zlib.compress(ids)).decode()


def unpack_ids(packed: str, grid: tuple[int, int, int], vocab_size: int) -> Tensor:
    """int64 (n, 1, h, w) of latent frames of the grid (1, h, w). Raises PhenakiError for what is damaged."""
    unpacking = zlib.decompressobj()
    try:
        data = unpacking.decompress(base64.b64decode(packed), _MOST_IDS)  # a few bytes may unpack to gigabytes
        ids = torch.from_numpy(np.frombuffer(data, np.int32).astype(np.int64)).view(-1, *grid)
    except (ValueError, RuntimeError, zlib.error) as error:
        raise PhenakiError(f"the ids of this recording are damaged: {error}") from error
    if not unpacking.eof or not ids.numel() or ids.min() < 0 or ids.max() >= vocab_size:
        raise PhenakiError(
            f"the ids of this recording are damaged: they are cut off, or not from 0 to {vocab_size - 1}"
        )
    return ids


class Recorder:
    """Keeps the last minute of what a world makes."""

    def __init__(self, recording: Recording, world: World, fps: float) -> None:
        height, width = world.components.tokenizer.config.image_size
        self._recording, self._world = recording, world
        self._most = max(1, min(round(SECONDS * fps), _MOST_BYTES // (3 * height * width)))
        self._clips: deque[Frames] = deque()
        self._made = self._kept = 0
        self._ids = bytearray()

    def add(self, clip: Frames) -> None:
        """Keep the frames of the world's last step."""
        if (ids := self._world.last_ids) is not None:
            self._ids += ids.to("cpu", torch.int32).numpy().tobytes()
        self._clips.append(clip)
        self._made, self._kept = self._made + len(clip), self._kept + len(clip)
        while self._kept - len(self._clips[0]) >= self._most:
            self._kept -= len(self._clips.popleft())

    def snapshot(self) -> tuple[Frames, Recording]:
        """The last minute and its recording. Raises PhenakiError if there is no frame yet."""
        if not self._clips:
            raise PhenakiError("there is no frame to save yet")
        frames = np.concatenate(self._clips)
        return frames, replace(
            self._recording,
            fingerprint=self._world.fingerprint,
            events=tuple(self._world.events),
            skipped=self._made - len(frames),
            frames=len(frames),
            ids=pack_ids(bytes(self._ids)) if self._ids else "",
            sha256=digest(frames),
        )


def save(frames: Frames, recording: Recording, fps: float, factor: int = 4) -> bytes:
    """Frames as the bytes of an mp4, pixels enlarged `factor` times, with their recording."""
    return to_mp4(frames, fps, factor, recording.metadata | {"fps": fps, "upscale": factor})


def to_mp4(frames: Frames, fps: float, factor: int, metadata: dict[str, Any]) -> bytes:
    """Frames uint8 (T, H, W, 3), enlarged, as the bytes of an mp4 file."""
    with tempfile.TemporaryDirectory() as folder:
        path, (height, width) = os.path.join(folder, "video.mp4"), frames.shape[1:3]
        with open_writer(path, fps, (height * factor, width * factor), metadata) as writer:
            for frame in frames:  # enlarged all at once, a minute may take gigabytes
                writer.add(upscale(frame[None], factor))
        return Path(path).read_bytes()


def decode_base64(text: str) -> bytes:
    """The bytes of a picture. Raises PhenakiError for other text."""
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise PhenakiError(f"the picture is not in base64: {error}") from error


def to_picture(data: bytes, size: tuple[int, int]) -> str:
    """A picture file, fitted to `size` (H, W), as PNG in base64. Raises PhenakiError for what is no picture."""
    return base64.b64encode(encode_png(read_picture(data, size))).decode()


def digest(frames: Frames) -> str:
    return hashlib.sha256(np.ascontiguousarray(frames)).hexdigest()
