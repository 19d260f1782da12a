"""Rollout: videos of any length from scenes, each continuing the last frames (paper, sections 2.2 and 3.3)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from phenaki.conditioning.base import Text
from phenaki.core.grid import floor_frames
from phenaki.generators import Components
from phenaki.sampling.causal import CausalRollout
from phenaki.sampling.config import SamplingConfig
from phenaki.sampling.guidance import OnStep, sample_ids
from phenaki.sampling.scenes import Scene, Window, plan_windows, window_sampling


class Rollout:
    """Generates a video scene by scene, without end.

    Each window but the first is conditioned on the last frames, re-encoded and held fixed. Only as many frames as the
    generator sees are kept, so memory does not grow with the number of scenes.

    Args:
        rng: source of all randomness, on the generator's device.
        samples: B, how many videos are generated side by side.
        start: float (B or 1, 3, K, H, W) in [0, 1], frames to continue; they are not yielded.
        size: (H, W) of the frames, multiples of the tokenizer's patch; None: those of `start`, else the trained size.
        on_step: called after each decoding step, `count_steps(plan_windows(...), sampling)` times in all.
    """

    def __init__(
        self,
        components: Components,
        sampling: SamplingConfig,
        rng: torch.Generator,
        samples: int = 1,
        start: Tensor | None = None,
        size: tuple[int, int] | None = None,
        on_step: OnStep | None = None,
    ) -> None:
        self.components, self.sampling, self.rng = components, sampling, rng
        self.samples, self.on_step = samples, on_step
        self.size = components.tokenizer.config.image_size if size is None else size
        self._last: Tensor | None = None
        if start is not None:
            self.size = tuple(start.shape[-2:])
            self._remember(start.to(components.device).expand(samples, -1, -1, -1, -1))

    @torch.no_grad()
    def generate(self, scene: Scene) -> Iterator[Tensor]:
        """Generate a scene and yield float32 (B, 3, n, H, W) in [0, 1], the n new frames of each window.

        Raises PhenakiError as `plan_windows` and `Components.encode_text` do.
        """
        frames, period = self.components.generator.config.frames, self.components.tokenizer.patch[0]
        windows = plan_windows([scene], frames, period, self.sampling.rollout, primed=self._last is not None)
        text = self.components.encode_text(scene.prompt, self.samples)
        for window in windows:
            video = self._generate_window(window, text)
            self._remember(video)
            yield video

    def _generate_window(self, window: Window, text: Text) -> Tensor:
        tokenizer, mask_id = self.components.tokenizer, self.components.generator.mask_id
        available = 0 if self._last is None else floor_frames(self._last.shape[2], tokenizer.patch[0])
        known_frames = min(window.known, available)
        grid = tokenizer.grid(known_frames + window.new, *self.size)
        ids = torch.full((self.samples, *grid), mask_id, device=self.components.device)
        known = torch.zeros(ids.shape, dtype=torch.bool)  # on the CPU, so that nobody waits for the GPU to count them
        if known_frames:
            prefix = tokenizer.encode(self._last[:, :, -known_frames:], check_values=False)
            ids[:, : prefix.shape[1]], known[:, : prefix.shape[1]] = prefix, True
        sampling = window_sampling(window, self.sampling)
        ids = sample_ids(self.components, text, ids, known, sampling, self.rng, self.on_step)
        return tokenizer.decode(ids, check_values=False)[:, :, -window.new :]

    def _remember(self, video: Tensor) -> None:
        frames = video if self._last is None else torch.cat((self._last, video), 2)
        longest = self.components.generator.config.frames
        self._last = frames[:, :, -longest:].clone()  # a view would keep all frames alive

    def state(self) -> dict[str, Tensor]:
        """What `restore` takes, between two scenes, to go on as if nothing had happened."""
        last = {} if self._last is None else {"last": self._last}
        return {"rng": self.rng.get_state()} | last

    def restore(self, state: dict[str, Tensor]) -> None:
        self.rng.set_state(state["rng"])
        self._last = state["last"].to(self.components.device) if "last" in state else None


AnyRollout = Rollout | CausalRollout


def make_rollout(
    components: Components,
    sampling: SamplingConfig,
    rng: torch.Generator,
    samples: int = 1,
    start: Tensor | None = None,
    size: tuple[int, int] | None = None,
    on_step: OnStep | None = None,
) -> AnyRollout:
    """The rollout that the generator calls for; arguments as of `Rollout`."""
    kind = CausalRollout if components.generator.has_cache else Rollout
    return kind(components, sampling, rng, samples, start, size, on_step)


def rollout(
    components: Components,
    scenes: Iterable[Scene],
    sampling: SamplingConfig,
    rng: torch.Generator,
    samples: int = 1,
    start: Tensor | None = None,
    size: tuple[int, int] | None = None,
    on_step: OnStep | None = None,
) -> Iterator[Tensor]:
    """Generate scenes and yield float32 (B, 3, n, H, W) in [0, 1], the new frames of each window, as they are made;
    arguments as of `Rollout`."""
    video = make_rollout(components, sampling, rng, samples, start, size, on_step)
    for scene in scenes:
        yield from video.generate(scene)
