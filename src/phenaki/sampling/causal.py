"""Rollout of a block-causal generator: one latent frame after the other, beside a cache of fixed size.

A latent frame is decoded in a few steps, committed to the cache, and turned into pixels by the tokenizer's streaming
decoder. No frame is encoded again, so a video has no end and no seam.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import torch
from torch import Tensor

from phenaki.conditioning.base import Text
from phenaki.core.errors import PhenakiError
from phenaki.core.grid import floor_frames
from phenaki.core.precision import autocast
from phenaki.generators import Components, Condition
from phenaki.sampling.config import SamplingConfig
from phenaki.sampling.decoding import decode
from phenaki.sampling.guidance import OnStep, cfg_conditions, cfg_logits_fns, negative_text
from phenaki.sampling.scenes import Scene, plan_windows


class CausalRollout:
    """B videos that grow by one latent frame a step.

    Args:
        sampling: may be replaced between two steps; call `recompute` where guidance begins or ends.
        rng: source of all randomness, on the generator's device.
        samples: B.
        start: float (B or 1, 3, K, H, W) in [0, 1], frames to continue; they are not yielded.
        size: (H, W) of the frames; None: those of `start`, else the trained size.
        on_step: called after each decoding step.

    Raises PhenakiError for a generator without a cache, and for a tokenizer that is not causal.
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
        generator, tokenizer = components.generator, components.tokenizer
        if not generator.has_cache:
            raise PhenakiError(
                f"a {type(generator).__name__} writes whole clips and cannot be steered between two frames: use a "
                "causal generator"
            )
        self.components, self.sampling, self.rng, self.on_step = components, sampling, rng, on_step
        self.samples, self._start = samples, None
        size = tokenizer.config.image_size if size is None else size
        if start is not None:
            size, last = start.shape[-2:], floor_frames(start.shape[2], tokenizer.patch[0])
            self._start = start[:, :, -last:].to(components.device).expand(samples, -1, -1, -1, -1)
        self.grid = tokenizer.grid(1, *size)
        self.cache, self.decoder = generator.make_cache(), tokenizer.decoder(check_values=False)
        self._committed: dict[int, tuple[Tensor, Tensor | None]] = {}  # ids and actions of what the cache holds

    @property
    def latent_frames(self) -> int:
        """Generated so far."""
        return self.cache.frames

    @property
    def begun(self) -> bool:
        """Whether the video has a frame, generated or to be continued."""
        return self._start is not None or self.latent_frames > 0

    def generate(self, scene: Scene) -> Iterator[Tensor]:
        """As `Rollout.generate`, in windows of one latent frame."""
        period = self.components.tokenizer.patch[0]
        windows = plan_windows([scene], None, period, self.sampling.rollout, primed=self.begun)
        text = self.components.encode_text(scene.prompt, self.samples)
        for _ in windows:
            yield self.step(text)

    @torch.no_grad()
    def step(self, text: Text, actions: Tensor | None = None) -> Tensor:
        """Generate the next latent frame under a text of B prompts, and actions float (B, A).

        Returns its frames, float32 (B, 3, n, H, W) in [0, 1]: n is 1 for the first one of a video, else the tokenizer's
        p.
        """
        device, precision = self.components.device, self.components.precision
        with autocast(device, precision):  # around all passes, so that weights are cast once
            self._prime(text)
            return self.decoder.push(self._generate(text, None if actions is None else actions[:, None]))

    def _generate(self, text: Text, actions: Tensor | None) -> Tensor:
        """Ids int64 (B, 1, h, w) of the next latent frame, committed; actions float (B, 1, A)."""
        sampling = self.sampling if self.latent_frames else self.sampling.of_first_frame()
        generator, steps = self.components.generator, sampling.decoding.steps
        ids = torch.full((self.samples, *self.grid), generator.mask_id, device=self.components.device)
        known = torch.zeros(ids.shape, dtype=torch.bool)
        conditions = self._conditions(text, actions)
        logits_fns = cfg_logits_fns(generator, conditions, sampling.guidance.scales(steps), self.cache)
        ids = decode(logits_fns, ids, known, generator.mask_id, sampling.decoding, self.rng, self.on_step)
        self._commit(ids, actions, conditions[1])
        return ids

    def _conditions(self, text: Text, actions: Tensor | None) -> tuple[Condition, Condition]:
        """Those of `cfg_conditions`."""
        guidance = self.sampling.guidance
        negative = negative_text(self.components, guidance, self.samples)
        return cfg_conditions(self.components.generator, text, guidance.uses_cfg, negative, actions)

    def _prime(self, text: Text) -> None:
        """Commit the frames to continue, under the text of what follows them."""
        if self._start is not None:
            ids, self._start = self.components.tokenizer.encode(self._start), None
            for frame in ids.split(1, dim=1):
                self._commit(frame, None, self._conditions(text, None)[1])
            self.decoder.push(ids)

    @torch.no_grad()
    def recompute(self, text: Text) -> None:
        """Write the cache again as if all that it holds had been generated under `text`."""
        committed, self.cache, self._committed = self._committed, self.components.generator.make_cache(), {}
        for number, (ids, actions) in committed.items():
            self.cache.frames = number
            self._commit(ids, actions, self._conditions(text, actions)[1])

    def _commit(self, ids: Tensor, actions: Tensor | None, condition: Condition) -> None:
        """Make a latent frame, ids int64 (B, 1, h, w), part of the video, in as many branches as the condition has."""
        self._committed[self.latent_frames] = ids, actions
        with autocast(ids.device, self.components.precision):
            branches = 1 + self.sampling.guidance.uses_cfg
            self.components.generator.commit(ids.repeat(branches, 1, 1, 1), condition, self.cache)
        first, size = self.cache.sinks, self.cache.size
        self._committed = {
            n: held for n, held in self._committed.items() if n < first or n >= self.latent_frames - size
        }

    def state(self) -> dict[str, Tensor]:
        """What `restore` takes to go on as if nothing had happened."""
        decoder = self.decoder.state.tensors(self.components.tokenizer)
        state = {"rng": self.rng.get_state()} | ({} if self._start is None else {"start": self._start})
        state |= {f"decoder.{name}": tensor for name, tensor in decoder.items()}
        state |= {f"cache.{name}": tensor for name, tensor in self.cache.state().items()}
        for number, (ids, actions) in self._committed.items():
            state |= {f"ids.{number}": ids} | ({} if actions is None else {f"actions.{number}": actions})
        return state

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go back to a state of the same networks."""
        parts: dict[str, dict[str, Tensor]] = defaultdict(dict)
        for name, tensor in state.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = tensor
        self.rng.set_state(state["rng"])
        self._start = state.get("start")
        self.cache.restore(parts["cache"])
        self.decoder = self.components.tokenizer.decoder(check_values=False)
        self.decoder.state.load(self.components.tokenizer, parts["decoder"])
        self._committed = {int(number): (ids, parts["actions"].get(number)) for number, ids in parts["ids"].items()}
