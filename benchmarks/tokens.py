"""The second stage from token shards against encoding live, with the 64-pixel recipe and the tokenizer of `shapes-64`.

`python benchmarks/tokens.py` trains `masked_shapes_64` for a few steps on clips from three places:

shapes   the procedural world, drawn and encoded at each step
clips    shards of mp4 files of 64x64 pixels at 8 frames per second, decoded and encoded at each step
tokens   token shards of these files

and prints the steps per second of the training as it is, text encoder and update of the generator included, which are
the same work everywhere; and of the inputs alone, ids and text embeddings ready in memory, for a text encoder that is
frozen (with tokens its embeddings come from the shards too). All on one core, in the training's own process; processor
time counts. Token shards save the inputs' work, and as much of a step as that is.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest import mock

import av
import torch
from torch import nn

from phenaki.data.config import DataConfig, SourceConfig
from phenaki.data.loader import Batches
from phenaki.data.shards import ShardWriter
from phenaki.data.tokenizing import TokenizeConfig, tokenize
from phenaki.media.writer import write_video
from phenaki.pipeline import load_part
from phenaki.training.generator import train_generator
from phenaki.training.inputs import open_inputs
from phenaki.training.recipes import masked_shapes_64
from phenaki.training.run import Run
from phenaki.worlds.shapes import ShapesWorld

FRAMES, BAR = 24, 3


class Enough(Exception):
    """Ends a training that was timed long enough."""


def write_clips(place: Path, count: int) -> None:
    world = ShapesWorld(0, "train", 64, FRAMES)
    place.mkdir()
    with ShardWriter(str(place)) as writer:
        for number in range(count):
            file = place / "clip.mp4"
            write_video(file, world[number].video, world.fps)
            writer.write(f"{number:06d}", {"mp4": file.read_bytes(), "txt": world[number].caption.encode()})
            file.unlink()


def mean_seconds(step: Callable[[], object], steps: int) -> float:
    step()
    began = time.process_time()
    for _ in range(steps):
        step()
    return (time.process_time() - began) / steps


def of_training(data: DataConfig, folder: Path, steps: int, tokenizer: nn.Module | None) -> float:
    """Seconds of a step of the real training, without its first."""
    ends: list[float] = []

    def log(self: Run, **values: float) -> None:
        ends.append(time.process_time())
        if len(ends) > steps:
            raise Enough

    recipe = masked_shapes_64()
    with mock.patch.object(Run, "log", log):
        try:
            train_generator(replace(recipe, data=data), folder, tokenizer)
        except Enough:
            return (ends[-1] - ends[0]) / steps
    raise RuntimeError("the training ended early")


def of_inputs(data: DataConfig, steps: int, tokenizer: nn.Module | None, text_encoder: nn.Module | None) -> float:
    inputs = open_inputs(data, masked_shapes_64().text, tokenizer, text_encoder)
    batches, device = Batches(data, inputs.spec.patch[0]), torch.device("cpu")

    def make() -> None:
        batch = next(batches)
        inputs.ids(batch, device)
        with torch.no_grad():
            inputs.text(batch, inputs.text_encoder, device)

    return mean_seconds(make, steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20, help="of training in each way; five times as many of inputs")
    parser.add_argument("--clips", type=int, default=256)
    arguments = parser.parse_args()
    tokenizer, text_encoder = load_part("shapes-64", "tokenizer"), load_part("shapes-64", "text")
    print(f"Python {platform.python_version()}, torch {torch.__version__}, PyAV {av.__version__}; one thread")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_clips(root / "clips", arguments.clips)
        source = SourceConfig(str(root / "clips"))
        tokenize(TokenizeConfig(source, passes=2), str(root / "tokens"), tokenizer)
        tokenize(TokenizeConfig(source, passes=2), str(root / "embedded"), tokenizer, text_encoder)

        def data(place: str) -> DataConfig:
            known = place if place == "shapes" else str(root / place)
            return replace(masked_shapes_64().data, sources=(SourceConfig(known),), workers=0)

        live = ("shapes", "clips")
        steps = {place: of_training(data(place), root / f"run_{place}", arguments.steps, tokenizer) for place in live}
        steps["tokens"] = of_training(data("tokens"), root / "run_tokens", arguments.steps, None)
        inputs = {place: of_inputs(data(place), 5 * arguments.steps, tokenizer, text_encoder) for place in live}
        inputs["tokens"] = of_inputs(data("embedded"), 5 * arguments.steps, None, None)
    for name, seconds in (("training", steps), ("inputs", inputs)):
        for place, cost in seconds.items():
            ratio = "" if place == "tokens" else f"   tokens / {place} {cost / seconds['tokens']:.2f}; the bar is {BAR}"
            print(f"{name:9} {place:7} {1 / cost:8.2f} steps/s   {1000 * cost:8.1f} ms a step{ratio}")


if __name__ == "__main__":
    main()
