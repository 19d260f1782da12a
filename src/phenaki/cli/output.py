"""How commands write videos."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from phenaki.core.errors import pluralize

if TYPE_CHECKING:
    from torch import Tensor

    from phenaki.media.convert import Frames
    from phenaki.media.writer import Fragments, VideoWriter
    from phenaki.pipeline import Phenaki

PIPE = Path("-")  # standard input, standard output


class Output:
    """Writes samples side by side to `path`, pixels enlarged by `scale`, at `fps` (None: the model's).

    Raises PhenakiError for a frame larger than video files allow.
    """

    def __init__(
        self, path: Path, model: Phenaki, size: tuple[int, int], num: int, scale: int, fps: float | None, seed: int
    ) -> None:
        import torch

        self.path, self.scale, self.seed = path, scale, seed
        self.rate = model.fps if fps is None else fps
        self.size = self.layout(torch.zeros(num, 3, 1, *size)).shape[1:3]

    def layout(self, video: Tensor) -> Frames:
        """float (B, 3, T, H, W) -> uint8 (T, H', W', 3)."""
        from phenaki.pipeline import sample_grid

        return sample_grid(video, self.scale)

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
            return nullcontext(Fragments(sys.stdout.buffer, self.rate))
        return open_writer(self.path, self.rate, self.size)

    def say(self, frames: int, seconds: float, new: int | None = None) -> None:
        """Print what was written; `new`: how many of the frames were generated in `seconds`."""
        height, width = self.size
        print(
            f"{self.path}: {pluralize(frames, 'frame')} of {width}x{height} at {self.rate:g} fps, "
            f"seed {self.seed}; {seconds:.1f} s, {(new or frames) / seconds:.1f} frames per second",
            file=sys.stderr if self.path == PIPE else sys.stdout,
        )
