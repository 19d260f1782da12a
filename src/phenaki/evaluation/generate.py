"""Clips and stories of many prompts, made several at a time by the code that users get, and judged."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, CancelledError, ThreadPoolExecutor, wait
from itertools import islice
from typing import Protocol, TypeVar

import torch

from phenaki.conditioning import TextEncoder
from phenaki.generators import Generator
from phenaki.generators.critic import Critic
from phenaki.media.video import Frames, to_uint8
from phenaki.sampling import SamplingConfig, Scene, plan, story
from phenaki.sampling.rollout import count_steps
from phenaki.tokenizers import Tokenizer

FRAMES = 11  # of a clip, and of each scene of a story (paper, table 6)
MOST_CLIPS = {"cpu": 10, "cuda": 500}  # of a batch
MOST_LOGITS = {"cpu": 20_000_000, "cuda": 400_000_000}  # of a batch, with both branches of the guidance
MOST_AT_ONCE = 8  # batches, each with its own memory
Advance = Callable[[float], None]
"""Called with how many samples were finished since the last call; fractions count."""
Item = TypeVar("Item")
Verdict = TypeVar("Verdict")
Story = Sequence[str]
"""The prompts of its scenes."""


class Model(Protocol):
    """What is evaluated: `phenaki.Phenaki`, or anything with the same parts."""

    tokenizer: Tokenizer
    generator: Generator
    text_encoder: TextEncoder
    sampling: SamplingConfig
    critic: Critic | None


def verdicts(
    model: Model, stories: Sequence[Story], judge: Callable[[Frames, Story], Verdict], seed: int, advance: Advance
) -> list[Verdict]:
    """What `judge` says of the video (T, H, W, 3) of each story, in their order.

    On a CPU several batches are made at once, each by a share of the threads, which is a quarter faster than all
    threads on one (docs/log.md). Each batch has random numbers of its own, which do not depend on how many those are.
    """
    made = list(batches(stories, side_by_side(model)))
    seeds = torch.randint(2**62, (len(made),), generator=torch.Generator().manual_seed(seed)).tolist()
    threads = torch.get_num_threads()
    each = math.ceil(threads / min(MOST_AT_ONCE, len(made)))
    at_once = threads // each if _device(model).type == "cpu" else 1
    stopped = threading.Event()

    def on_step(finished: float) -> None:
        if stopped.is_set():
            raise CancelledError
        advance(finished)

    def of_batch(batch: Sequence[Story], seed: int) -> list[Verdict]:
        videos = generate(model, batch, random_numbers(model, seed), on_step)
        return [judge(video, told) for video, told in zip(videos, batch, strict=True)]

    pool = ThreadPoolExecutor(at_once, "verdicts", initializer=torch.set_num_threads, initargs=(each,))
    try:
        futures = [pool.submit(of_batch, *batch) for batch in zip(made, seeds, strict=True)]
        for done in wait(futures, return_when=FIRST_EXCEPTION).done:
            done.result()
        return [verdict for future in futures for verdict in future.result()]
    finally:  # an error or Ctrl-C ends the others after their step
        stopped.set()
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)  # for threads that begin later


def generate(model: Model, stories: Sequence[Story], rng: torch.Generator, advance: Advance) -> Frames:
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
    return torch.Generator(_device(model)).manual_seed(seed)


def side_by_side(model: Model) -> int:
    """How many clips are in a batch: at most `MOST_CLIPS`, fewer where their logits would fill the memory."""
    t, h, w = model.tokenizer.grid(FRAMES, *model.tokenizer.config.image_size)
    device = "cpu" if _device(model).type == "cpu" else "cuda"
    return max(1, min(MOST_CLIPS[device], MOST_LOGITS[device] // (2 * t * h * w * model.tokenizer.vocab_size)))


def _device(model: Model) -> torch.device:
    return next(model.generator.parameters()).device


def batches(items: Iterable[Item], size: int) -> Iterator[Sequence[Item]]:
    rest = iter(items)
    while batch := tuple(islice(rest, size)):
        yield batch
