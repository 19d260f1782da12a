"""Rollout of a block-causal generator: one latent frame after the other, beside a cache of fixed size.

A latent frame is decoded in a few steps, and turned into pixels by the tokenizer's streaming decoder; its keys and
values are written in the first pass of the next one. No frame is encoded again, so a video has no end and no seam.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from phenaki.conditioning.base import Text
from phenaki.core.errors import PhenakiError
from phenaki.core.grid import floor_frames
from phenaki.core.precision import autocast
from phenaki.generators import Components, Condition
from phenaki.nn.cache import KVCache
from phenaki.sampling.config import SamplingConfig
from phenaki.sampling.decoding import decode
from phenaki.sampling.guidance import OnStep, cfg_branches, cfg_logits_fns, negative_text
from phenaki.sampling.scenes import Scene, plan_windows


class LatentFrame(NamedTuple):
    """One of a rollout: ids int64 (B, 1, h, w), and the text and actions (B, 1, A) that it was generated under."""

    ids: Tensor
    text: Text
    actions: Tensor | None


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
        self.components, self.generator = components, generator
        self.sampling, self.rng, self.on_step = sampling, rng, on_step
        self.samples, self._start = samples, None
        size = tokenizer.config.image_size if size is None else size
        if start is not None:
            size, last = start.shape[-2:], floor_frames(start.shape[2], tokenizer.patch[0])
            self._start = start[:, :, -last:].to(components.device).expand(samples, -1, -1, -1, -1)
        self.grid = tokenizer.grid(1, *size)
        self.cache, self.decoder = generator.make_cache(), tokenizer.decoder(check_values=False)
        self.last: LatentFrame | None = None
        """The last latent frame, which the cache does not hold yet."""
        self._branches: list[Condition] | None = None  # its conditions; None: to be computed
        self._written: dict[int, tuple[Tensor, Tensor | None]] = {}  # ids and actions of what the cache holds

    @property
    def latent_frames(self) -> int:
        """Generated so far."""
        return self.cache.frames + (self.last is not None)

    @property
    def begun(self) -> bool:
        """Whether the video has a frame, generated or to be continued."""
        return self._start is not None or self.latent_frames > 0

    @property
    def batch_key(self) -> tuple[object, ...] | None:
        """What rollouts that `step_together` have in common; None for one that steps alone."""
        if self.samples > 1 or self._start is not None or self.on_step is not None:
            return None
        written = min(self.cache.frames, self.cache.size + self.cache.sinks)  # more make no difference
        return self.components, self.sampling, self.grid, self.last is None, written

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
        return step_together([self], [text], [actions])[0]

    def prepare(self, text: Text) -> None:
        """Make the frames to continue part of the video, and recompute the window where sampling says so."""
        self._cast_weights()
        if self.sampling.rollout.recompute and self.last is not None and not _same(text, self.last.text):
            self.recompute(text)
        if self._start is not None:
            ids, self._start = self.components.tokenizer.encode(self._start), None
            for frame in ids.split(1, dim=1):
                if self.last is not None:
                    self._write(self.last)
                self.last, self._branches = LatentFrame(frame, text, None), None
            self.decoder.push(ids)

    @torch.no_grad()
    def recompute(self, text: Text) -> None:
        """Write the cache again as if all that it holds had been generated under `text`."""
        written, self.cache, self._written = self._written, self.components.generator.make_cache(), {}
        self._branches = None
        self._cast_weights()
        with autocast(self.components.device, self.components.precision):
            for number, (ids, actions) in written.items():
                self.cache.skip(number)
                self._write(LatentFrame(ids, text, actions))
        if self.last is not None:
            self.last = self.last._replace(text=text)

    def _cast_weights(self) -> None:
        """Once for all passes of a latent frame: the weights may have changed since the last one."""
        self.generator = self.components.generator.with_cast_weights()

    def _write(self, frame: LatentFrame) -> None:
        """Write a latent frame in a pass of its own."""
        branches = self.branches(frame.text, frame.actions)
        ids = frame.ids.repeat(len(branches), 1, 1, 1)
        self.generator.commit(ids, branches[0].concatenate(branches), self.cache)
        self._note(frame)

    def _note(self, frame: LatentFrame) -> None:
        """Keep what `recompute` needs of the latent frame that was written last."""
        frames = self.cache.frames
        self._written[frames - 1] = frame.ids, frame.actions
        recent = frames - self.cache.size
        self._written = {n: held for n, held in self._written.items() if n < self.cache.sinks or n >= recent}

    def advance(self, cache: KVCache, branches: list[Condition]) -> None:
        """Take over the cache that holds the last latent frame too, and the conditions of the next one."""
        self.cache, self._branches = cache, branches
        if self.last is not None:
            self._note(self.last)

    def branches(self, text: Text, actions: Tensor | None) -> list[Condition]:
        """The conditions of a latent frame, one for each branch of guidance."""
        if self._branches is not None and text is self.last.text and _equal(actions, self.last.actions):
            return self._branches
        guidance = self.sampling.guidance
        negative = negative_text(self.components, guidance, self.samples)
        return cfg_branches(self.generator, text, guidance.uses_cfg, negative, actions, guidance.over)

    def branches_of_last(self) -> list[Condition]:
        """Those of the last latent frame; none if there is none."""
        if self._branches is None and self.last is not None:
            self._branches = self.branches(self.last.text, self.last.actions)
        return self._branches or []

    def state(self) -> dict[str, Tensor]:
        """What `restore` takes to go on as if nothing had happened."""
        decoder = self.decoder.state.tensors(self.components.tokenizer)
        state = {"rng": self.rng.get_state()} | ({} if self._start is None else {"start": self._start})
        state |= {f"decoder.{name}": tensor for name, tensor in decoder.items()}
        state |= {f"cache.{name}": tensor for name, tensor in self.cache.state().items()}
        if self.last is not None:
            fields = {"ids": self.last.ids, "actions": self.last.actions} | self.last.text._asdict()
            state |= {f"last.{name}": tensor for name, tensor in fields.items() if tensor is not None}
        for number, (ids, actions) in self._written.items():
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
        self._written = {int(number): (ids, parts["actions"].get(number)) for number, ids in parts["ids"].items()}
        last = parts["last"]
        text = Text(*(last.get(name) for name in Text._fields))
        self.last, self._branches = LatentFrame(last["ids"], text, last.get("actions")) if last else None, None


def _same(one: Text, other: Text) -> bool:
    shapes = one.embeddings.shape == other.embeddings.shape
    return one is other or (shapes and all(_equal(*pair) for pair in zip(one, other, strict=True)))


def _equal(one: Tensor | None, other: Tensor | None) -> bool:
    return one is other or (one is not None and other is not None and torch.equal(one, other))


@torch.no_grad()
def step_together(
    rollouts: Sequence[CausalRollout], texts: Sequence[Text], actions: Sequence[Tensor | None]
) -> list[Tensor]:
    """`step` of each rollout, under a text and actions each.

    Several run in one batch: they are of the same components, and their `batch_key`s are equal. The ids of each are
    those that it would have alone, unless rounding differs.
    """
    components = rollouts[0].components
    with autocast(components.device, components.precision):  # around all passes, so that weights are cast once
        for rollout, text in zip(rollouts, texts, strict=True):
            rollout.prepare(text)
        rows = [None if row is None else row[:, None] for row in actions]
        ids = _generate(rollouts, texts, rows)
        for each in zip(rollouts, ids, texts, rows, strict=True):
            each[0].last = LatentFrame(*each[1:])
        # One by one, so that the same ids have the same pixels, bit for bit, whoever else plays.
        return [rollout.decoder.push(own) for rollout, own in zip(rollouts, ids, strict=True)]


def _generate(
    rollouts: Sequence[CausalRollout], texts: Sequence[Text], actions: Sequence[Tensor | None]
) -> list[Tensor]:
    """Ids int64 (B, 1, h, w) of the next latent frame of each rollout; the one before is written to its cache."""
    first, count = rollouts[0], len(rollouts)
    generator, device = first.generator, first.components.device
    sampling = first.sampling if first.latent_frames else first.sampling.of_first_frame()
    before = [rollout.branches_of_last() for rollout in rollouts]
    after = [rollout.branches(*inputs) for rollout, *inputs in zip(rollouts, texts, actions, strict=True)]
    conditions = [branch[0].concatenate(branch) for branch in zip(*after, strict=True)]
    branches = len(conditions)
    cache = KVCache.concatenate([rollout.cache for rollout in rollouts], branches)
    if first.last is not None:
        ids = torch.cat([rollout.last.ids for rollout in rollouts]).repeat(branches, 1, 1, 1)
        condition = before[0][0].concatenate([each[branch] for branch in range(branches) for each in before])
        generator.commit(ids, condition, cache, defer=True)
    ids = torch.full((count * first.samples, *first.grid), generator.mask_id, device=device)
    known = torch.zeros(ids.shape, dtype=torch.bool)
    scales = sampling.guidance.scales(sampling.decoding.steps)
    both = conditions[0].concatenate(conditions)
    logits_fns = cfg_logits_fns(generator, (conditions[0], both), scales, cache)
    rng = first.rng if count == 1 else [rollout.rng for rollout in rollouts]
    ids = decode(logits_fns, ids, known, generator.mask_id, sampling.decoding, rng, first.on_step)
    caches = cache.split([rollout.cache for rollout in rollouts], branches)
    for rollout, own, kept in zip(rollouts, caches, after, strict=True):
        rollout.advance(own, kept)
    return list(ids.split(first.samples))
