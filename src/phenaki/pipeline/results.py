"""What the pipeline returns."""

from __future__ import annotations

import base64
import io
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image
from torch import Tensor

from phenaki.core.arguments import as_float, as_int
from phenaki.core.errors import PhenakiError
from phenaki.core.files import with_ending, writing
from phenaki.media.convert import Frames, to_uint8
from phenaki.media.montage import side_by_side, upscale
from phenaki.media.writer import write_video
from phenaki.pipeline.words import RESULT_ATTRIBUTES, no_attribute

LARGEST = 16_383  # pixels a side that H.264 and WebP both hold
OutputType = Literal["pil", "np", "pt"]
_PREVIEW = 256  # pixels of the short side in a notebook, where small videos are enlarged


@dataclass(frozen=True)
class Generation:
    """Generated videos. In a notebook, the last line of a cell plays them.

    video: float32 (B, 3, T, H, W) in [0, 1] on the CPU, B samples of the same prompts.
    prompts: of the scenes, in order; a tuple where each sample has its own, None where embeddings were passed.
    scene_starts: index of the first new frame of each scene; conditioning frames come before.
    fps: frames per second at which the motion has its natural speed.
    output_type: of `frames`. metadata: how it was made (`pipeline/provenance.py`), which `save` keeps in the file.
    """

    video: Tensor = field(repr=False)
    prompts: tuple[str | tuple[str, ...] | None, ...]
    scene_starts: tuple[int, ...]
    fps: float
    seed: int
    output_type: OutputType = "pil"
    metadata: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def clips(self) -> Frames:
        """uint8 (B, T, H, W, 3)."""
        return to_uint8(self.video)

    @cached_property
    def frames(self) -> Any:
        """As diffusers returns them: a list of PIL pictures for each sample ("pil"), float32 (B, T, H, W, 3) in [0, 1]
        ("np"), or the same as a tensor (B, T, 3, H, W) ("pt")."""
        match self.output_type:
            case "pil":
                return [[Image.fromarray(frame) for frame in clip] for clip in self.clips]
            case "np":
                return np.ascontiguousarray(self.video.movedim(1, -1).numpy())
            case _:
                return self.video.movedim(1, 2).contiguous()

    def save(
        self,
        path: str | os.PathLike[str] | IO[bytes],
        upscale: int = 1,
        format: str | None = None,
        fps: float | None = None,
    ) -> Path | None:
        """Write the samples side by side, each pixel enlarged to `upscale` x `upscale`, at `fps` frames per second or
        the model's; returns the path written.

        The ending decides: .mp4, .gif, .webp (animated), .png (a contact sheet); without one, .mp4 is added. A string
        that ends in "/", or a folder that exists, takes numbered PNG files. To a binary stream, `format` ("mp4", ...)
        decides. Raises PhenakiError where it cannot be written.
        """
        upscale, fps = as_int(upscale, "upscale"), self.fps if fps is None else as_float(fps, "fps")
        metadata = {**self.metadata, "upscale": upscale, "fps": fps} if self.metadata else None
        clip = sample_grid(self.video, upscale)
        if isinstance(path, (str, os.PathLike)):
            if format is not None:
                raise PhenakiError(f"format {format!r} is for streams: the ending of '{path}' decides")
            path = with_ending(os.fspath(path), ".mp4")
            write_video(path, clip, fps, metadata)
            return Path(path)
        if not hasattr(path, "write"):
            raise PhenakiError(f"a video cannot be saved to {path!r}: pass a path, or a binary stream and format='mp4'")
        if format is None:
            raise PhenakiError("a stream has no ending: pass format='mp4', 'gif', 'webp' or 'png'")
        path.write(encode(clip, fps, format, metadata))
        return None

    if not TYPE_CHECKING:  # which would take any name then

        def __getattr__(self, name):
            raise no_attribute(self, name, RESULT_ATTRIBUTES)

    def _repr_html_(self) -> str:
        """Plays in Jupyter and marimo."""
        clip = sample_grid(self.video, max(1, _PREVIEW // min(self.video.shape[-2:])))
        if len(clip) == 1:
            buffer = io.BytesIO()
            Image.fromarray(clip[0]).save(buffer, "PNG")
            return f'<img src="data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}">'
        source = base64.b64encode(encode(clip, self.fps, "mp4")).decode()
        return f'<video controls autoplay loop muted src="data:video/mp4;base64,{source}"></video>'


def encode(clip: Frames, fps: float, format: str, metadata: Mapping[str, Any] | None = None) -> bytes:
    """A clip uint8 (T, H, W, 3) as the bytes of a file of that format, such as "mp4"."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"video.{format.lower().lstrip('.')}"
        with writing(file):
            write_video(file, clip, fps, metadata)
            return file.read_bytes()


def sample_grid(video: Tensor, factor: int = 1) -> Frames:
    """Samples (B, 3, T, H, W) side by side as one clip uint8 (T, H', W', 3), pixels enlarged `factor` times.

    Raises PhenakiError for a picture that is larger than video files can hold.
    """
    if factor < 1:
        raise PhenakiError(f"upscale {factor}: give a whole number of 1 or more")
    clip = side_by_side(list(to_uint8(video)))
    height, width = (factor * side for side in clip.shape[1:3])
    if max(height, width) > LARGEST:
        raise PhenakiError(
            f"{width}x{height} pixels ({len(video)} samples side by side, enlarged {factor} times) exceed the "
            f"{LARGEST} a side that video files hold: take fewer samples or enlarge them less"
        )
    return upscale(clip, factor)
