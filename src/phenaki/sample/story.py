"""Stories: videos of any length from a list of scenes, each going on from the last frames (paper, 2.2 and 3.3)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from phenaki.errors import PhenakiError
from phenaki.generator.masked import MaskedTransformer
from phenaki.grid import fitting
from phenaki.precision import autocast
from phenaki.sample.decode import SamplingConfig, decode
from phenaki.sample.guidance import guided
from phenaki.text.base import TextEncoder
from phenaki.tokenizer.base import Tokenizer


@dataclass(frozen=True)
class Scene:
    """A prompt, or one for each of the samples made side by side, and the frames it lasts.

    The first scene of a story has 1 + p k frames, the others p k new ones.
    """

    prompt: str | tuple[str, ...]
    frames: int


@dataclass(frozen=True)
class Window:
    """One decoding: `known` frames taken over from before, `new` frames made under `prompt`."""

    prompt: str | tuple[str, ...]
    known: int
    new: int


def plan(
    scenes: Sequence[Scene], frames: int, period: int, config: SamplingConfig, primed: bool = False
) -> list[Window]:
    """The decodings that a story takes.

    Args:
        frames: the longest clip (known and new frames) that the generator writes, 1 + period * k.
        period: frames of one time step (the paper's 2).
        config: `prime_frames` says how many frames a window takes over, at most, rounded down to 1 + period * k;
            `first_frame_alone` whether the first window is of one frame.
        primed: whether the first scene, too, goes on from given frames.

    Raises PhenakiError, naming the nearest lengths, for a scene whose frames do not fit, and for all but one frame of a
    generator that writes single images.
    """
    if frames == 1 and (primed or [scene.frames for scene in scenes] != [1]):
        raise PhenakiError("this generator was trained on single images: give one prompt and 1 frame")
    known = fitting(min(config.prime_frames, frames - period), period)
    windows: list[Window] = []
    for scene in scenes:
        start = not windows and not primed
        left = scene.frames - start
        if left < 0 or left % period or (not start and not left):
            offset = 1 if start else 0
            below = max(left // period * period, 0 if start else period) + offset
            form = f"1 + {period}k" if start else f"{period}k"
            raise PhenakiError(
                f"{scene.frames} frames for {scene.prompt!r}: {'a video' if start else 'a scene that goes on'} has "
                f"{form} frames; the nearest are {below} and {below + period}"
            )
        if start:
            windows.append(Window(scene.prompt, 0, 1 if config.first_frame_alone else min(scene.frames, frames)))
            left = scene.frames - windows[0].new
        while left:
            new = min(left, frames - known)
            windows.append(Window(scene.prompt, known, new))
            left -= new
    return windows


@torch.no_grad()
def story(
    tokenizer: Tokenizer,
    generator: MaskedTransformer,
    text_encoder: TextEncoder,
    scenes: Sequence[Scene],
    config: SamplingConfig,
    rng: torch.Generator,
    samples: int = 1,
    prime: Tensor | None = None,
    on_step: Callable[[int], None] | None = None,
) -> Iterator[Tensor]:
    """Generate a video scene by scene and hand out its new frames as they are made.

    Each window but the first begins with the last frames, re-encoded and held fixed; only those are kept, so memory
    does not grow with the number of scenes.

    Args:
        samples: B, how many videos are made side by side; a scene with a prompt for each has B of them.
        prime: float (B or 1, 3, K, H, W) in [0, 1]: given frames to go on from; they are not handed out again.
        on_step: called after each decoding step, for a progress bar: `len(plan(...)) * config.steps` times in all.

    Yields:
        video float32 (B, 3, n, H, W) in [0, 1], the n new frames of a window.
    """
    height, width = tokenizer.config.image_size if prime is None else prime.shape[-2:]
    device = next(generator.parameters()).device
    windows = plan(scenes, generator.config.frames, tokenizer.patch[0], config, prime is not None)
    texts = {}
    for prompt in dict.fromkeys(scene.prompt for scene in scenes):
        each = (prompt,) * samples if isinstance(prompt, str) else prompt
        if len(each) != samples:
            raise PhenakiError(f"a scene has {len(each)} prompts for {samples} samples: give one, or one for each")
        with autocast(device):
            texts[prompt] = text_encoder.encode(each)
    last = None if prime is None else prime.expand(samples, -1, -1, -1, -1)
    for window in windows:
        known_frames = 0 if last is None else min(window.known, fitting(last.shape[2], tokenizer.patch[0]))
        grid = tokenizer.grid(known_frames + window.new, height, width)
        ids = torch.full((samples, *grid), generator.mask_id, device=device)
        known = torch.zeros_like(ids, dtype=torch.bool)
        if known_frames:
            prefix = tokenizer.encode(last[:, :, -known_frames:])
            ids[:, : prefix.shape[1]], known[:, : prefix.shape[1]] = prefix, True
        logits_fn = guided(generator, texts[window.prompt], config.guidance)
        ids = decode(logits_fn, ids, known, generator.mask_id, config, rng, on_step)
        video = tokenizer.decode(ids)[:, :, -window.new :]
        last = video if last is None else torch.cat((last, video), 2)[:, :, -config.prime_frames :]
        yield video
