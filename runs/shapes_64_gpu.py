"""Trains the generator of `shapes-64` on one GPU in a quarter of an hour: `python runs/shapes_64_gpu.py START OUT`.

START is a model: its tokenizer is kept, its generator trained further. It is the training of `phenaki train generator
--recipe masked_shapes_64` with larger batches, arranged for a GPU that is faster than one process can draw and encode:
processes draw clips, the GPU encodes them and keeps their ids, and batches are drawn from all that were kept so far.
OUT becomes a model with averaged weights, written five times on the way and at the end.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from dataclasses import replace
from functools import partial
from multiprocessing.queues import SimpleQueue
from multiprocessing.sharedctypes import RawArray
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from phenaki import Phenaki
from phenaki.conditioning.words import WORD_BYTES, WordEncoder
from phenaki.core.precision import autocast
from phenaki.generators import Components
from phenaki.generators.masking import masked_count, random_mask
from phenaki.media.convert import to_float
from phenaki.pipeline import save_model
from phenaki.training.generator import GeneratorRecipe, compute_loss
from phenaki.training.masking import GeneratorBatch
from phenaki.training.optim import Optimizers, averaged
from phenaki.training.recipes import masked_shapes_64
from phenaki.worlds.shapes import ShapesWorld

FRAMES, SIZE = 11, 64
WORDS = 32  # the longest caption of the world has 28
CHUNK = 256  # samples that a process draws at a time
IMAGES = 10  # one chunk of so many is of single images, whose captions name no action
CONTINUED = 0.3  # share of the clips that go on from an earlier scene
EVERY = 2  # steps to a chunk
SAVES = 5
FIRST_FRAMES = 0.3  # share of the steps that learn first frames and images alone


class Chunk:
    """Memory that a drawing process shares with the training: clips or images, the words of their captions, and which
    of them go on from an earlier scene."""

    def __init__(self) -> None:
        self.video = _shared(np.uint8, CHUNK, FRAMES, SIZE, SIZE, 3)
        self.words = _shared(np.int16, CHUNK, WORDS, WORD_BYTES)
        self.continued = _shared(np.uint8, CHUNK)
        self.frames = _shared(np.uint8, 1)

    def draw(self, world: ShapesWorld, first: int, encoder: WordEncoder) -> None:
        samples = [world[first + i] for i in range(CHUNK)]
        words = encoder.tokenize([sample.caption for sample in samples]).numpy()
        self.frames[0] = world.frames
        self.video[:, : world.frames] = np.stack([sample.video for sample in samples])
        self.continued[:] = [sample.continued for sample in samples]
        self.words[:] = 0
        self.words[:, : words.shape[1]] = words


def _shared(dtype: type, *shape: int) -> np.ndarray:
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.frombuffer(RawArray("B", size), dtype).reshape(shape)


def draw_for_ever(
    number: int, processes: int, seed: int, chunks: list[Chunk], free: SimpleQueue, ready: SimpleQueue
) -> None:
    """Fill chunks, those of one process after those of another: no clip is drawn twice."""
    torch.set_num_threads(1)
    encoder = WordEncoder(masked_shapes_64().text)
    clips = ShapesWorld(seed, size=SIZE, frames=FRAMES, continued=CONTINUED)
    images = ShapesWorld(seed, size=SIZE, frames=1)
    turn = number
    while True:
        chunk = free.get()
        world = images if (turn // processes) % IMAGES == 0 else clips
        chunks[chunk].draw(world, turn * CHUNK, encoder)
        ready.put(chunk)
        turn += processes


class Drawing(NamedTuple):
    """Chunks, and the queues of the numbers of those that may be filled and of those that are."""

    chunks: list[Chunk]
    free: SimpleQueue
    ready: SimpleQueue


def chunks_of(processes: int, seed: int) -> Drawing:
    """Chunks, and the processes that fill them; to be called before CUDA is used, as they are forked."""
    fork = multiprocessing.get_context("fork")
    chunks = [Chunk() for _ in range(2 * processes)]
    free, ready = fork.SimpleQueue(), fork.SimpleQueue()
    for number in range(len(chunks)):
        free.put(number)
    for number in range(processes):
        arguments = (number, processes, seed, chunks, free, ready)
        fork.Process(target=draw_for_ever, args=arguments, daemon=True).start()
    return Drawing(chunks, free, ready)


class Kept:
    """The last `capacity` samples of one kind, as ids and words on the device."""

    def __init__(self, capacity: int, grid: tuple[int, int, int], device: torch.device):
        self.ids = torch.zeros(capacity, *grid, dtype=torch.int16, device=device)
        self.words = torch.zeros(capacity, WORDS, WORD_BYTES, dtype=torch.int16, device=device)
        self.continued = torch.zeros(capacity, dtype=torch.bool)
        self.count = 0

    def add(self, ids: Tensor, words: Tensor, continued: Tensor) -> None:
        place = self.count % len(self.ids)
        self.ids[place : place + CHUNK] = ids.short()
        self.words[place : place + CHUNK] = words
        self.continued[place : place + CHUNK] = continued
        self.count += CHUNK

    def draw(self, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        chosen = torch.randint(min(self.count, len(self.ids)), (count,), generator=rng)
        there = chosen.to(self.ids.device, non_blocking=True)
        return self.ids[there].long(), self.words[there].long(), self.continued[chosen]


class Samples:
    """Clips and images that processes draw, encoded and kept."""

    def __init__(self, tokenizer: nn.Module, drawing: Drawing, capacity: int, device: torch.device):
        self.tokenizer, self.device = tokenizer, device
        grid = tokenizer.grid(FRAMES, SIZE, SIZE)
        self.clips = Kept(capacity * CHUNK, grid, device)
        self.images = Kept((1 + capacity // IMAGES) * CHUNK, (1, *grid[1:]), device)
        self.drawing = drawing

    def receive(self) -> None:
        """Wait for the next chunk, encode and keep it."""
        number = self.drawing.ready.get()
        chunk = self.drawing.chunks[number]
        frames = int(chunk.frames[0])
        video = torch.from_numpy(chunk.video[:, :frames]).to(self.device)
        words, continued = torch.from_numpy(chunk.words).to(self.device), torch.from_numpy(chunk.continued).bool()
        kept = self.clips if frames == FRAMES else self.images
        kept.add(self.tokenizer.encode(to_float(video)), words, continued)
        self.drawing.free.put(number)

    def batch(self, count: int, rng: torch.Generator, alone: bool) -> tuple[Tensor, Tensor, Tensor]:
        """ids (B, t, h, w), words (B, L, WORD_BYTES), continued (B,): clips, or first frames and images, half each."""
        if not alone:
            return self.clips.draw(count, rng)
        clips, images = self.clips.draw(count // 2, rng), self.images.draw(count // 2, rng)
        return torch.cat((clips[0][:, :1], images[0])), *map(torch.cat, list(zip(clips, images, strict=True))[1:])


class StackedMuon:
    """`torch.optim.Muon` as `OptimizerConfig` sets it, but for all matrices of a shape at a time: ten times as fast on
    a GPU, for which small matrices are not worth a kernel each."""

    def __init__(self, muon: torch.optim.Muon):
        (self.group,) = self.param_groups = muon.param_groups
        shapes = sorted({tuple(p.shape) for p in self.group["params"]})
        self.stacks = [[p for p in self.group["params"] if tuple(p.shape) == shape] for shape in shapes]
        self.momenta = [[torch.zeros_like(p) for p in stack] for stack in self.stacks]

    @torch.no_grad()
    def step(self) -> None:
        group = self.group
        for stack, momenta in zip(self.stacks, self.momenta, strict=True):
            gradients = [p.grad for p in stack]
            torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
            x = torch.stack(torch._foreach_lerp(gradients, momenta, group["momentum"])).bfloat16()
            wide = x.shape[1] <= x.shape[2]
            x = x if wide else x.mT
            x = x / x.norm(dim=(1, 2), keepdim=True).clamp_min(group["eps"])
            a, b, c = group["ns_coefficients"]
            for _ in range(group["ns_steps"]):
                gram = x @ x.mT
                x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
            x = (x if wide else x.mT).float()
            torch._foreach_mul_(stack, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(stack, list(x.unbind()), alpha=-group["lr"] * 0.2 * max(x.shape[1:]) ** 0.5)

    def zero_grad(self, set_to_none: bool) -> None:
        for p in self.group["params"]:
            p.grad = None


def train(start: Phenaki, samples: Samples, recipe: GeneratorRecipe, out: Path, minutes: float) -> None:
    """As `phenaki.training.generator.train_generator`, with masks drawn on the GPU and a schedule by wall time."""
    device = samples.device
    networks = {"generator": start.generator.train(), "text_encoder": start.text_encoder.train()}
    generator, encoder = networks.values()
    averages = {name: averaged(network, recipe.optimizer.ema_decay) for name, network in networks.items()}
    schedule = Optimizers(networks.values(), recipe.optimizer, recipe.run.steps)
    adamw, muon = schedule.optimizers
    optimizers = adamw, StackedMuon(muon)
    components = Components(generator, start.tokenizer, encoder)
    for network in networks.values():
        network.compile()
    cpu, gpu = torch.Generator().manual_seed(recipe.run.seed), torch.Generator(device).manual_seed(recipe.run.seed)
    losses: dict[bool, list[Tensor]] = {False: [], True: []}
    began, step, progress, saved = time.monotonic(), 0, 0.0, 0
    while progress < 1:
        alone = step % 10 < round(10 * FIRST_FRAMES)
        if step % EVERY == 0:
            samples.receive()
        ids, words, continued = samples.batch(recipe.data.batch * (4 if alone else 1), cpu, alone)
        free = recipe.prefix.draw_free(continued, tuple(ids.shape[1:]), cpu).to(device, non_blocking=True)
        count = masked_count(torch.rand(len(ids), generator=gpu, device=device), free.flatten(1).sum(1))
        masked = random_mask(free, count, gpu)
        dropped = torch.rand(len(ids), generator=gpu, device=device) < recipe.loss.text_drop
        weight = torch.ones(ids.shape, device=device)
        weight[:, 0] = recipe.loss.first_frame_weight
        where = masked.flatten().nonzero().squeeze(1)  # waits for the GPU: once a step, before the long part
        batch = GeneratorBatch(ids, words, dropped, where, weight.flatten()[where], free=where, uniform=None)
        loss, *_ = compute_loss(components, batch, recipe, partial(autocast, device, recipe.run.precision))
        loss.backward()
        nn.utils.clip_grad_norm_(schedule.parameters, recipe.optimizer.clip)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = schedule.lr(round(progress * recipe.run.steps))
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        for name, average in averages.items():
            average.update_parameters(networks[name])

        losses[alone].append(loss.detach())
        step, took = step + 1, time.monotonic() - began
        progress = took / (60 * minutes)
        if step % 200 == 0 or progress >= 1:
            first, clips = (torch.stack(losses[kind] or [loss.detach()]).mean().item() for kind in (True, False))
            drawn = samples.clips.count + samples.images.count
            print(f"step {step}, {took:.0f} s: loss {clips:.4f}, alone {first:.4f}, {drawn:,} drawn", flush=True)
            losses = {False: [], True: []}
        if progress >= 1 or int(progress * SAVES) > saved:
            saved = int(progress * SAVES)
            averaged_networks = {name: average.module for name, average in averages.items()}
            save_model(out, replace(components, **averaged_networks), start.sampling)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("start")
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=16)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument("--capacity", type=int, default=16_000, help="chunks of clips that are kept")
    parser.add_argument("--processes", type=int, default=10)
    parser.add_argument("--device", default="cuda")
    given = parser.parse_args()

    recipe = masked_shapes_64()
    recipe = replace(
        recipe,
        data=replace(recipe.data, batch=given.batch),
        optimizer=replace(recipe.optimizer, lr=given.lr, warmup_steps=1000, cooldown_fraction=0.6),
        run=replace(recipe.run, steps=100_000, seed=given.seed),
    )
    torch.set_float32_matmul_precision("high")
    drawing = chunks_of(given.processes, given.seed)
    start = Phenaki.from_pretrained(given.start, device=given.device)
    samples = Samples(start.tokenizer.requires_grad_(False), drawing, given.capacity, torch.device(given.device))
    while samples.clips.count < 32 * CHUNK or not samples.images.count:
        samples.receive()
    train(start, samples, recipe, given.out, given.minutes)


if __name__ == "__main__":
    main()
