"""Stories: videos of any length from a list of scenes, each going on from the last frames (paper, 2.2 and 3.3)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from phenaki.conditioning.base import Text, TextEncoder
from phenaki.core.errors import PhenakiError
from phenaki.core.grid import floor_frames
from phenaki.core.precision import autocast
from phenaki.generators.base import Generator
from phenaki.generators.critic import Critic
from phenaki.sampling.critic import judged
from phenaki.sampling.decoding import SamplingConfig, decode
from phenaki.sampling.guidance import steered
from phenaki.tokenizers.base import Tokenizer


@dataclass(frozen=True)
class Scene:
    """A prompt, or one for each of the samples made side by side, and the frames it lasts.

    The first scene of a story has 1 + p k frames, the others p k new ones. `keep`: how many of the last frames each of
    its windows takes over, at most (the paper's K); None is the configuration's `prime_frames`.
    """

    prompt: str | tuple[str, ...]
    frames: int
    keep: int | None = None


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
        config: `prime_frames`, or a scene's own `keep`, says how many frames a window takes over, at most, rounded down
            to 1 + period * k; `first_frame_alone` whether the first window is of one frame.
        primed: whether the first scene, too, goes on from given frames.

    Raises PhenakiError, naming the nearest lengths, for a scene whose frames do not fit, and for all but one frame of a
    generator that writes single images.
    """
    if frames == 1 and (primed or [scene.frames for scene in scenes] != [1]):
        raise PhenakiError("this generator was trained on single images: give one prompt and 1 frame")
    windows: list[Window] = []
    for scene in scenes:
        keep = config.prime_frames if scene.keep is None else scene.keep
        known = floor_frames(min(keep, frames - period), period)
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


def window_sampling(window: Window, config: SamplingConfig) -> SamplingConfig:
    """The configuration of a window's decoding: a frame by itself has steps of its own, all guided."""
    if window.known or window.new > 1:
        return config
    return replace(config, steps=config.first_frame_steps or config.steps, guidance_share=1.0)


def count_steps(windows: Sequence[Window], config: SamplingConfig) -> int:
    """How many decoding steps the windows take."""
    return sum(window_sampling(window, config).steps for window in windows)


class Storyteller:
    """Makes a video scene after scene, for as long as there are scenes.

    Each window but the first begins with the last frames, re-encoded and held fixed; only as many as the generator can
    see are kept, so memory does not grow with the number of scenes. `state` is all that the next scene depends on.

    Args:
        rng: source of all randomness, on the generator's device.
        samples: B, how many videos are made side by side.
        prime: float (B or 1, 3, K, H, W) in [0, 1]: given frames to go on from; they are not handed out again.
        size: (H, W) of the frames, multiples of the tokenizer's patch; None: those of `prime`, else the trained ones.
        on_step: called after each decoding step, for a progress bar: `count_steps(plan(...), config)` times in all.
        critic: what the order "critic" asks.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        generator: Generator,
        text_encoder: TextEncoder,
        config: SamplingConfig,
        rng: torch.Generator,
        samples: int = 1,
        prime: Tensor | None = None,
        size: tuple[int, int] | None = None,
        on_step: Callable[[int], None] | None = None,
        critic: Critic | None = None,
    ) -> None:
        self.tokenizer, self.generator, self.text_encoder, self.critic = tokenizer, generator, text_encoder, critic
        self.config, self.rng, self.samples, self.on_step = config, rng, samples, on_step
        self.device = next(generator.parameters()).device
        self.size = tokenizer.config.image_size if size is None else size
        self._last: Tensor | None = None
        if prime is not None:
            self.size = tuple(prime.shape[-2:])
            self._remember(prime.to(self.device).expand(samples, -1, -1, -1, -1))

    @torch.no_grad()
    def tell(self, scene: Scene) -> Iterator[Tensor]:
        """Make a scene and hand out float32 (B, 3, n, H, W) in [0, 1], the n new frames of a window, as they are made.

        Raises PhenakiError as `plan` does, for a prompt that cannot be read, and for prompts that are not one or B.
        """
        frames, period = self.generator.config.frames, self.tokenizer.patch[0]
        windows = plan([scene], frames, period, self.config, primed=self._last is not None)
        text = encoded(self.text_encoder, scene.prompt, self.samples)
        for window in windows:
            video = self._make(window, text)
            self._remember(video)
            yield video

    def _make(self, window: Window, text: Text) -> Tensor:
        period, samples = self.tokenizer.patch[0], self.samples
        given = 0 if self._last is None else min(window.known, floor_frames(self._last.shape[2], period))
        grid = self.tokenizer.grid(given + window.new, *self.size)
        ids = torch.full((samples, *grid), self.generator.mask_id, device=self.device)
        known = torch.zeros_like(ids, dtype=torch.bool)
        if given:
            prefix = self.tokenizer.encode(self._last[:, :, -given:])
            ids[:, : prefix.shape[1]], known[:, : prefix.shape[1]] = prefix, True
        config = window_sampling(window, self.config)
        logits_fn = steered(self.generator, self.text_encoder, text, config)
        critic = judged(self.critic, self.generator, text, config)
        with autocast(self.device):  # around all steps: it casts the weights once
            ids = decode(logits_fn, ids, known, self.generator.mask_id, config, self.rng, self.on_step, critic)
        return self.tokenizer.decode(ids)[:, :, -window.new :]

    def _remember(self, video: Tensor) -> None:
        frames = video if self._last is None else torch.cat((self._last, video), 2)
        self._last = frames[:, :, -self.generator.config.frames :].clone()  # a view would hold on to all of it

    def state(self) -> dict[str, Tensor]:
        """What `restore` takes, between two scenes, to go on as if nothing had happened."""
        last = {} if self._last is None else {"last": self._last}
        return {"rng": self.rng.get_state()} | last

    def restore(self, state: dict[str, Tensor]) -> None:
        self.rng.set_state(state["rng"])
        self._last = state["last"].to(self.device) if "last" in state else None


def story(
    tokenizer: Tokenizer,
    generator: Generator,
    text_encoder: TextEncoder,
    scenes: Iterable[Scene],
    config: SamplingConfig,
    rng: torch.Generator,
    samples: int = 1,
    prime: Tensor | None = None,
    size: tuple[int, int] | None = None,
    on_step: Callable[[int], None] | None = None,
    critic: Critic | None = None,
) -> Iterator[Tensor]:
    """Generate a video scene by scene and hand out its new frames as they are made; arguments as of `Storyteller`.

    Yields:
        video float32 (B, 3, n, H, W) in [0, 1], the n new frames of a window.
    """
    teller = Storyteller(tokenizer, generator, text_encoder, config, rng, samples, prime, size, on_step, critic)
    for scene in scenes:
        yield from teller.tell(scene)


@torch.no_grad()
def encoded(text_encoder: TextEncoder, prompt: str | tuple[str, ...], samples: int) -> Text:
    """The text of `samples` videos made side by side: embeddings (B, L, D) and mask (B, L)."""
    each = (prompt,) * samples if isinstance(prompt, str) else prompt
    if len(each) != samples:
        raise PhenakiError(f"a scene has {len(each)} prompts for {samples} samples: give one, or one for each")
    with autocast(text_encoder.device):
        return text_encoder.encode(each)
