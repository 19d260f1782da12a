"""How commands write videos."""

from __future__ import annotations

import os
import re
import sys
import time
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phenaki.core.errors import PhenakiError, pluralize
from phenaki.core.files import with_ending

if TYPE_CHECKING:
    from torch import Tensor

    from phenaki.media.convert import Frames
    from phenaki.media.writer import Fragments, VideoWriter

PIPE = Path("-")  # standard input, standard output
_LONGEST_NAME = 60


def output_path(out: str | None, title: str) -> str:
    """Where a video goes: `out`, an mp4 if that has no ending, else a new mp4 in the current folder named by `title`.

    A folder of frames ends in "/". Raises PhenakiError for the name of a folder without it.
    """
    if out is None:
        ascii_only = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode().lower()
        name = "-".join(re.findall(r"\w+", ascii_only))[:_LONGEST_NAME].strip("-") or "video"
        names = (f"{name}{'' if number == 1 else f'-{number}'}.mp4" for number in count(1))
        return next(name for name in names if not Path(name).exists())
    if os.path.isdir(out) and not (out.endswith("/") or Path(out).suffix):
        raise PhenakiError(f"'{out}' is a folder: give -o {out}/ for numbered pictures in it, or the name of a file")
    return out if out == str(PIPE) else with_ending(out, ".mp4")


class Output:
    """Writes samples side by side to `path`, pixels enlarged by `upscale`, at `fps`; prints nothing if `quiet`.

    size: (H, W) of a sample. metadata: of the file, which may grow until the video is finished. Raises PhenakiError for
    a frame larger than video files allow.
    """

    def __init__(
        self,
        path: str,
        size: tuple[int, int],
        *,
        samples: int,
        upscale: int,
        fps: float,
        metadata: dict[str, Any],
        quiet: bool = False,
    ) -> None:
        import torch

        self.path, self.rate, self.metadata = Path(path), fps, metadata | {"fps": fps, "upscale": upscale}
        self._target, self._upscale, self._quiet = path, upscale, quiet
        self.size = self.layout(torch.zeros(samples, 3, 1, *size)).shape[1:3]

    def layout(self, video: Tensor) -> Frames:
        """float (B, 3, T, H, W) -> uint8 (T, H', W', 3)."""
        from phenaki.pipeline import sample_grid

        return sample_grid(video, self._upscale)

    @contextmanager
    def writing(self) -> Iterator[Callable[[Tensor], None]]:
        """Yields a function that appends videos float (B, 3, n, H, W); prints a summary at the end.

        Raises PhenakiError, before the block, for a path that cannot be written.
        """
        started = time.monotonic()
        with self._writer() as writer:
            yield lambda video: writer.add(self.layout(video))
        self.say(writer.frames, time.monotonic() - started)

    def _writer(self) -> AbstractContextManager[VideoWriter | Fragments]:
        from phenaki.media.writer import Fragments, open_writer

        if self.path == PIPE:
            return nullcontext(Fragments(sys.stdout.buffer, self.rate, metadata=self.metadata))
        return open_writer(self._target, self.rate, self.size, self.metadata)

    def say(self, frames: int, seconds: float, new: int | None = None) -> None:
        """Print what was written; `new`: how many of the frames were generated in `seconds`."""
        if self._quiet:
            return
        height, width = self.size
        print(
            f"{self._target}: {pluralize(frames, 'frame')} of {width}x{height} at {self.rate:g} fps, "
            f"seed {self.metadata['seed']}; {seconds:.1f} s, {(new or frames) / seconds:.1f} frames per second",
            file=sys.stderr if self.path == PIPE else sys.stdout,
        )
