"""Clips and stories of many prompts, several at a time, by the same code that users get."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Protocol, TypeVar

import torch

from phenaki.generator import Generator
from phenaki.generator.critic import Critic
from phenaki.sample import SamplingConfig, Scene, plan, story
from phenaki.sample.story import count_steps
from phenaki.text import TextEncoder
from phenaki.tokenizer import Tokenizer
from phenaki.video import Frames, to_uint8

FRAMES = 11  # of a clip, and of each scene of a story (paper, table 6)
MOST_CLIPS = 25
MOST_LOGITS = 20_000_000  # at a time, with both branches of the guidance: 80 MB; larger batches are no faster on a CPU
Advance = Callable[[float], None]
"""Called with how many samples were finished since the last call; fractions count."""
Item = TypeVar("Item")


class Model(Protocol):
    """What is evaluated: `phenaki.Phenaki`, or anything with the same parts."""

    tokenizer: Tokenizer
    generator: Generator
    text_encoder: TextEncoder
    sampling: SamplingConfig
    critic: Critic | None


def generate(model: Model, stories: Sequence[Sequence[str]], rng: torch.Generator, advance: Advance) -> Frames:
    """Stories made side by side, given by the prompts of their scenes, equally many for each.

    `rng`: on the generator's device. Returns uint8 (B, 1 + scenes * 10, H, W, 3): each scene has 11 frames, of which
    the first is the last of the scene before.
    """
    scenes = [Scene(prompts, FRAMES - (k > 0)) for k, prompts in enumerate(zip(*stories, strict=True))]
    sampling = model.sampling
    windows = plan(scenes, model.generator.config.frames, model.tokenizer.patch[0], sampling)
    step = len(stories) / count_steps(windows, sampling)
    parts = model.tokenizer, model.generator, model.text_encoder
    options = {"samples": len(stories), "on_step": lambda _: advance(step), "critic": model.critic}
    pieces = story(*parts, scenes, sampling, rng, **options)
    return to_uint8(torch.cat(list(pieces), dim=2))


def random_numbers(model: Model, seed: int) -> torch.Generator:
    return torch.Generator(next(model.generator.parameters()).device).manual_seed(seed)


def side_by_side(model: Model) -> int:
    """How many clips are made at a time: at most 25, fewer where their logits would fill the memory; 20 times as many
    on a GPU."""
    t, h, w = model.tokenizer.grid(FRAMES, *model.tokenizer.config.image_size)
    times = 1 if next(model.generator.parameters()).device.type == "cpu" else 20
    return max(1, min(times * MOST_CLIPS, times * MOST_LOGITS // (2 * t * h * w * model.tokenizer.vocab_size)))


def batches(items: Iterable[Item], size: int) -> Iterator[Sequence[Item]]:
    rest = iter(items)
    while batch := tuple(islice(rest, size)):
        yield batch
