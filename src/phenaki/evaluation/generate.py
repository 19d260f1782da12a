"""Videos of many prompts, generated in batches by the code that users call, and scored."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, CancelledError, ThreadPoolExecutor, wait
from itertools import islice
from typing import Protocol, TypeVar

import torch

from phenaki.generators import Components
from phenaki.media.convert import Frames, to_uint8
from phenaki.sampling import SamplingConfig, Scene, count_steps, longest_clip, plan_windows, rollout

FRAMES = 11  # of a clip, and of each scene of a story (paper, table 6)
MAX_CLIPS = {"cpu": 10, "cuda": 500}  # per batch
MAX_LOGITS = {"cpu": 20_000_000, "cuda": 400_000_000}  # per batch, with both branches of guidance
MAX_WORKERS = 8  # batches at a time, each with its own memory
Advance = Callable[[float], None]
"""Called with the number of samples finished since the last call, fractions included."""
Item = TypeVar("Item")
Score = TypeVar("Score")
Story = Sequence[str]
"""The prompts of its scenes."""


class Model(Protocol):
    """What is evaluated: `phenaki.Phenaki`, or any object with these parts."""

    components: Components
    sampling: SamplingConfig


def score_videos(
    model: Model, stories: Sequence[Story], score: Callable[[Frames, Story], Score], seed: int, advance: Advance
) -> list[Score]:
    """The score of the generated video (T, H, W, 3) of each story, in order.

    On a CPU several batches run at a time with a part of the threads each, a quarter faster than all threads on one
    batch (docs/log.md). Each batch has its own random seed, so the result does not depend on how many run at a time.
    """
    groups = list(batches(stories, batch_size(model)))
    seeds = torch.randint(2**62, (len(groups),), generator=torch.Generator().manual_seed(seed)).tolist()
    threads = torch.get_num_threads()
    threads_each = math.ceil(threads / min(MAX_WORKERS, len(groups)))
    workers = threads // threads_each if model.components.device.type == "cpu" else 1
    stopped = threading.Event()

    def on_step(finished: float) -> None:
        if stopped.is_set():
            raise CancelledError
        advance(finished)

    def score_batch(batch: Sequence[Story], seed: int) -> list[Score]:
        videos = generate(model, batch, seeded_rng(model, seed), on_step)
        return [score(video, prompts) for video, prompts in zip(videos, batch, strict=True)]

    pool = ThreadPoolExecutor(workers, "score_videos", initializer=torch.set_num_threads, initargs=(threads_each,))
    try:
        futures = [pool.submit(score_batch, *batch) for batch in zip(groups, seeds, strict=True)]
        for done in wait(futures, return_when=FIRST_EXCEPTION).done:
            done.result()
        return [scored for future in futures for scored in future.result()]
    finally:  # after an error or Ctrl-C the other batches end after their current step
        stopped.set()
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)  # the pool's initializer changed the default of new threads


def generate(model: Model, stories: Sequence[Story], rng: torch.Generator, advance: Advance) -> Frames:
    """A batch of stories with equally many scenes each -> uint8 (B, 1 + scenes * 10, H, W, 3).

    Each scene has 11 frames; its first is the last frame of the scene before. `rng`: on the generator's
    device.
    """
    scenes = [Scene(prompts, FRAMES - (k > 0)) for k, prompts in enumerate(zip(*stories, strict=True))]
    components, sampling = model.components, model.sampling
    longest, period = longest_clip(components.generator), components.tokenizer.patch[0]
    windows = plan_windows(scenes, longest, period, sampling.rollout)
    step = len(stories) / count_steps(windows, sampling)
    pieces = rollout(components, scenes, sampling, rng, samples=len(stories), on_step=lambda _: advance(step))
    return to_uint8(torch.cat(list(pieces), dim=2))


def seeded_rng(model: Model, seed: int) -> torch.Generator:
    """A random generator on the model's device."""
    return torch.Generator(model.components.device).manual_seed(seed)


def batch_size(model: Model) -> int:
    """Clips per batch: at most `MAX_CLIPS`, fewer where their logits would not fit into memory."""
    tokenizer, on_cpu = model.components.tokenizer, model.components.device.type == "cpu"
    t, h, w = tokenizer.grid(FRAMES, *tokenizer.config.image_size)
    device = "cpu" if on_cpu else "cuda"
    return max(1, min(MAX_CLIPS[device], MAX_LOGITS[device] // (2 * t * h * w * tokenizer.vocab_size)))


def batches(items: Iterable[Item], size: int) -> Iterator[Sequence[Item]]:
    rest = iter(items)
    while batch := tuple(islice(rest, size)):
        yield batch
