"""What a step of the second stage hides: known latent frames, masks, dropped text. All of it is uniforms on the CPU.

Shapes: B batch, t, h, w token grid, M masked ids, F ids to be generated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from phenaki.conditioning import Text, TextEncoder
from phenaki.core.config import bounded, configclass
from phenaki.core.errors import PhenakiError
from phenaki.core.precision import to_device
from phenaki.generators import Generator
from phenaki.generators.masking import free_positions, masked_count, random_box, random_mask


@configclass
class PrefixConfig:
    """Which ids of a clip are known instead of generated, so that the model learns rollouts and editing."""

    latent_frames: tuple[int, ...] = bounded((0, 1, 3), at_least=0)
    """Numbers of known latent frames at the start; the paper primes on K = 5 frames, which are 3 latent frames."""
    probabilities: tuple[float, ...] = bounded((0.8, 0.1, 0.1), at_least=0)
    """Of each of these numbers, for clips that begin a story."""
    continued_probabilities: tuple[float, ...] = bounded((0.0, 0.8, 0.2), at_least=0)
    """The same for clips that continue an earlier scene."""
    last: float = bounded(0.0, at_least=0, at_most=1)
    """Probability that the last latent frame is known too (interpolation)."""
    box: float = bounded(0.0, at_least=0, at_most=1)
    """Probability that everything is known but a box of rows and columns in all latent frames (inpainting)."""
    alone: float = bounded(0.0, at_least=0, at_most=1)
    """Probability that a step on clips trains on their first frame alone, as `sampling.rollout.first_frame_alone`
    decodes it."""

    def __post_init__(self) -> None:
        for probabilities in (self.probabilities, self.continued_probabilities):
            if len(probabilities) != len(self.latent_frames) or abs(sum(probabilities) - 1) > 1e-6:
                raise PhenakiError(
                    f"prefix.latent_frames {self.latent_frames} need one probability each, with sum 1, not "
                    f"{probabilities}"
                )

    def check_causal(self, causal: bool) -> None:
        """Raise PhenakiError if first latent frames are known, or trained on alone, and depend on later frames."""
        rows = zip(self.latent_frames, self.probabilities, self.continued_probabilities, strict=True)
        known = any(count and (new or continued) for count, new, continued in rows)
        if not causal and (known or self.alone):
            key = f"prefix.latent_frames {self.latent_frames}" if known else f"prefix.alone {self.alone}"
            raise PhenakiError(
                f"{key}: this tokenizer is not causal, so the first ids of a clip depend on its later frames and "
                "cannot be known before them; train with prefix.latent_frames=[0] prefix.probabilities=[1] "
                "prefix.continued_probabilities=[1] prefix.alone=0"
            )

    def draw_prefix(self, continued: Tensor, latent_frames: int, rng: torch.Generator) -> Tensor:
        """Known latent frames int64 (B,) of samples, of which `continued` (bool (B,)) continue an earlier scene; at
        least one stays free."""
        rows = torch.tensor(self.continued_probabilities), torch.tensor(self.probabilities)
        index = torch.multinomial(torch.where(continued[:, None], *rows), 1, generator=rng).squeeze(1)
        return torch.tensor(self.latent_frames)[index].clamp_max(latent_frames - 1)

    def draw_free(self, continued: Tensor, grid: tuple[int, int, int], rng: torch.Generator) -> Tensor:
        """Which ids of a grid (t, h, w) are to be generated, bool (B, t, h, w); at least a latent frame per sample."""
        prefix = self.draw_prefix(continued, grid[0], rng)
        free = free_positions(grid, prefix)
        if self.last:
            ends = (torch.rand(len(prefix), generator=rng) < self.last) & (prefix < grid[0] - 1)
            free = free & ~(ends[:, None] & (torch.arange(grid[0]) == grid[0] - 1))[:, :, None, None]
        if self.box:
            boxed = torch.rand(len(prefix), generator=rng) < self.box
            free = torch.where(boxed[:, None, None, None], random_box(len(prefix), grid, rng), free)
        return free

    def draw_masks(
        self, continued: Tensor, grid: tuple[int, int, int], rng: torch.Generator, shared: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Which ids are to be generated, and which of them are masked now: bool (B, t, h, w), or (B, 1, h, w) in steps
        on first frames alone. `shared`: an rng that is the same in all processes, as the length of a step must be."""
        if self.alone and torch.rand((), generator=shared) < self.alone:
            grid = (1, *grid[1:])
        free = self.draw_free(continued, grid, rng)
        progress = torch.rand(len(free), generator=rng)
        return free, random_mask(free, masked_count(progress, free.flatten(1).sum(1)), rng)


def draw_frame_masks(
    grid: tuple[int, int, int], begun: Tensor, window: int, rng: torch.Generator
) -> tuple[Tensor, Tensor]:
    """As `PrefixConfig.draw_masks`, for a causal generator: each latent frame has a mask ratio of its own.

    begun: bool (B,), clips that begin in the middle of a recording. Their first `window` - 1 latent frames lack a part
    of what came before, so they are given; at least one latent frame is not.
    """
    (t, h, w), batch = grid, len(begun)
    free = ~(begun[:, None] & (torch.arange(t) < min(window, t) - 1))[:, :, None, None].expand(-1, -1, h, w)
    progress = torch.rand(batch * t, generator=rng)
    rows = free.reshape(batch * t, 1, h, w)
    masked = random_mask(rows, masked_count(progress, rows.flatten(1).sum(1)), rng)
    return free, masked.view(batch, t, h, w)


def add_noise(ids: Tensor, most: float, vocab_size: int, rng: torch.Generator) -> Tensor:
    """Ids int64 (B, t, h, w), of which in half of the clips up to the fraction `most` is replaced by random ones."""
    if not most:
        return ids
    fraction = (
        most * torch.rand(len(ids), 1, 1, 1, generator=rng) * (torch.rand(len(ids), 1, 1, 1, generator=rng) < 0.5)
    )
    noisy, random = torch.rand(ids.shape, generator=rng) < fraction, torch.randint(vocab_size, ids.shape, generator=rng)
    return torch.where(to_device(noisy, ids.device), to_device(random, ids.device), ids)


@dataclass(frozen=True)
class GeneratorBatch:
    """A batch of the second stage, or a micro-batch of it, on the device of the networks.

    ids: int64 (B, t, h, w). text: embeddings, or int64 tokens (B, L, ...) for a text encoder in training. dropped: bool
    (B,), where the text is hidden. where: int64 (M,), the masked positions in the flattened ids. weight: float32 (M,),
    of their losses. free: int64 (F,), the positions to be generated, which a critic scores. uniform: float32 (M, 1) in
    [0, 1), from which ids are sampled for the critic; None without one. fraction, free_fraction: of the weights, and of
    the positions to be generated, in the batch.

    clean: int64 (B, t, h, w), what a causal generator sees of earlier latent frames. actions: float32 (B, t, A), with
    dropped_actions, bool (B,), where they are hidden. starts: bool (B,), False where a clip begins in the middle of a
    recording. caption_starts: the latent frames at which the captions of each sample start, where they change; `text`
    then has one row for each caption.
    """

    ids: Tensor
    text: Text | Tensor
    dropped: Tensor
    where: Tensor
    weight: Tensor
    free: Tensor
    uniform: Tensor | None
    fraction: float = 1.0
    free_fraction: float = 1.0
    clean: Tensor | None = None
    actions: Tensor | None = None
    dropped_actions: Tensor | None = None
    starts: Tensor | None = None
    caption_starts: Sequence[Sequence[int]] | None = None

    def encode_text(self, text_encoder: TextEncoder) -> Text:
        """The embeddings, by an encoder in training if they are not there."""
        text = self.text if isinstance(self.text, Text) else text_encoder(self.text)
        return text if self.caption_starts is None else Text.timed(text, self.caption_starts)

    @property
    def targets(self) -> Tensor:
        """The masked ids, int64 (M,)."""
        return self.ids.flatten()[self.where]

    def conditioning(self, text: Text) -> tuple[Text | Tensor | None, ...]:
        """The arguments of `Generator.condition`; a generator without actions need not know theirs."""
        others = (self.actions, self.dropped, self.dropped_actions, self.starts)
        return (text, *others[: 2 if self.actions is None and self.starts is None else None])

    def masked_ids(self, mask_id: int) -> Tensor:
        return self.ids.flatten().index_fill(0, self.where, mask_id).view_as(self.ids)


def masked_logits(generator: Generator, text: Text, batch: GeneratorBatch) -> Tensor:
    """Logits (M, V) of the masked positions."""
    condition = generator.condition(*batch.conditioning(text))
    return generator(batch.masked_ids(generator.mask_id), condition, batch.where, batch.clean)


def make_micro_batches(
    ids: Tensor,
    text: Text | Tensor,
    masks: tuple[Tensor, Tensor],
    dropped: Tensor,
    uniform: Tensor | None = None,
    first_frame_weight: float = 1.0,
    count: int = 1,
    caption_starts: Sequence[Sequence[int]] | None = None,
    **others: Tensor,
) -> list[GeneratorBatch]:
    """The batch, as at most `count` micro-batches for gradient accumulation.

    ids and text are on the device of the networks; masks (those of `draw_masks`), dropped, uniform, and `others`, which
    have a row for each sample, on the CPU.
    """
    (free, masked), device = masks, ids.device
    columns = others | {"ids": ids[:, : free.shape[1]], "dropped": dropped}
    weight = torch.ones(masked.shape)
    weight[others.get("starts", slice(None)), 0] = first_frame_weight
    total, all_free, size = weight[masked].sum(), free.sum(), -(-len(ids) // count)
    firsts = range(0, len(ids), size)
    starts = None if caption_starts is None else [caption_starts[first : first + size] for first in firsts]
    captions = [1] * len(ids) if caption_starts is None else [len(row) for row in caption_starts]
    texts = _split(text, [sum(captions[first : first + size]) for first in firsts])
    batches, used = [], 0
    for n, first in enumerate(firsts):
        rows = slice(first, first + size)
        where, weights = masked[rows].flatten().nonzero().squeeze(1), weight[rows][masked[rows]]
        uniforms = None if uniform is None else to_device(uniform[used : used + len(where)], device)
        used += len(where)
        batches.append(
            GeneratorBatch(
                text=texts[n],
                where=to_device(where, device),
                weight=to_device(weights, device),
                free=to_device(free[rows].flatten().nonzero().squeeze(1), device),
                uniform=uniforms,
                fraction=float(weights.sum() / total),
                free_fraction=float(free[rows].sum() / all_free),
                caption_starts=None if starts is None else starts[n],
                **{name: to_device(tensor[rows], device) for name, tensor in columns.items()},
            )
        )
    return batches


def _split(text: Text | Tensor, rows: Sequence[int]) -> Sequence[Text | Tensor]:
    if isinstance(text, Tensor):
        return text.split(rows)
    fields = [field.split(rows) for field in text if field is not None]
    return [Text(*columns) for columns in zip(*fields, strict=True)]
