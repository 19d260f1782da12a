"""What the pipeline returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from phenaki.core.errors import PhenakiError
from phenaki.media.convert import Frames, to_uint8
from phenaki.media.montage import side_by_side, upscale
from phenaki.media.writer import write_video

LARGEST = 16_383  # pixels a side that H.264 and WebP both hold


@dataclass(frozen=True)
class Generation:
    """Generated videos.

    video: float32 (B, 3, T, H, W) in [0, 1] on the CPU, B samples of the same prompts.
    prompts: of the scenes, in order; None where text embeddings were passed. scene_starts: index of the first new frame
    of each scene; conditioning frames come before.
    fps: frames per second at which the motion has its natural speed.
    """

    video: Tensor = field(repr=False)
    prompts: tuple[str | None, ...]
    scene_starts: tuple[int, ...]
    fps: float
    seed: int

    @property
    def clips(self) -> Frames:
        """uint8 (B, T, H, W, 3)."""
        return to_uint8(self.video)

    def save(self, path: str | Path, upscale: int = 1) -> None:
        """Write the samples side by side, each pixel enlarged to `upscale` x `upscale`.

        The ending decides: .mp4, .gif, .webp (animated), .png (a contact sheet); a path that ends in "/" becomes a
        folder of numbered PNG files. Raises PhenakiError where it cannot be written.
        """
        write_video(path, sample_grid(self.video, upscale), self.fps)


def sample_grid(video: Tensor, factor: int = 1) -> Frames:
    """Samples (B, 3, T, H, W) side by side as one clip uint8 (T, H', W', 3), pixels enlarged `factor` times.

    Raises PhenakiError for a picture that is larger than video files can hold.
    """
    clip = side_by_side(list(to_uint8(video)))
    height, width = (factor * side for side in clip.shape[1:3])
    if max(height, width) > LARGEST:
        raise PhenakiError(
            f"{width}x{height} pixels ({len(video)} samples side by side, enlarged {factor} times) exceed the "
            f"{LARGEST} a side that video files hold: take fewer samples or enlarge them less"
        )
    return upscale(clip, factor)
