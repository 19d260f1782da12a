"""Arguments of the public functions and classes, of wrong types and values."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch

import phenaki
from fuzz.models import tiny_model
from fuzz.mutate import ODD
from fuzz.surface import Case, Surface
from phenaki import Generation, Phenaki, Text
from phenaki.core.components import load_component, save_component
from phenaki.media.inputs import as_mask, as_video
from phenaki.media.reader import read_video
from phenaki.media.writer import write_image, write_video

PROMPT = "a red circle"


class _Odd:
    """An object that nobody expects."""

    def __repr__(self) -> str:
        return "an odd object"


def odd_values(folder: Path) -> list[Any]:
    """Tensors, arrays, paths and objects beside plain values."""
    values = [*ODD, b"bytes", object, _Odd(), len, 1j, range(3), {1, 2}, (1, 2, 3), ["a", 1], [PROMPT, None], math.pi]
    values += [
        np.float32(1),
        np.int64(3),
        np.array([1, 2]),
        np.zeros((2, 16, 16, 3), np.uint8),
        np.zeros((16, 16), bool),
    ]
    values += [
        np.array(["a"]),
        np.zeros((0, 16, 16, 3), np.uint8),
        np.full((1, 16, 16, 3), np.nan),
        np.zeros((2, 2, 2, 2, 2)),
    ]
    shapes = (
        (),
        (0,),
        (3,),
        (16, 16),
        (3, 16, 16),
        (1, 3, 1, 16, 16),
        (1, 3, 3, 16, 16),
        (2, 3, 0, 16, 16),
        (1, 1, 2, 2),
    )
    values += [torch.zeros(shape) for shape in shapes]
    values += [
        torch.zeros(1, 3, 3, 16, 16, dtype=dtype) for dtype in (torch.float64, torch.int64, torch.bool, torch.float16)
    ]
    values += [
        torch.zeros(1, 2, 2, 2, dtype=dtype) for dtype in (torch.int64, torch.int32, torch.uint8, torch.complex64)
    ]
    values += [torch.full((1, 2, 2, 2), number) for number in (-1, 10**6, 2**62)]
    values += [torch.full((1, 3, 3, 16, 16), number) for number in (float("nan"), -5.0, 300.0)]
    values += [torch.zeros(1, 3, 3, 16, 16, device="meta"), torch.zeros(1, 3, 3, 15, 17), torch.zeros(3, 3).to_sparse()]
    values += [
        folder,
        folder / "nowhere",
        Path("/dev/null"),
        torch.device("meta"),
        torch.float16,
        "cuda:99",
        "cpu",
        torch,
    ]
    return [
        *values,
        Text(torch.zeros(1, 2, 64), torch.ones(1, 2, dtype=torch.bool)),
        Text(torch.zeros(1, 2, 3), torch.ones(2)),
    ]


class Arguments(Surface):
    """Sound calls with one argument, or two, of odd values."""

    name, weight = "arguments", 0.12

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.odd = odd_values(folder)
        model = tiny_model()
        model.save_pretrained(folder / "model")
        video, ids = torch.rand(1, 3, 3, 16, 16), torch.zeros(1, 2, 2, 2, dtype=torch.int64)
        clip = np.zeros((3, 16, 16, 3), np.uint8)
        write_video(folder / "clip.mp4", clip, 8)
        made = model.generate(PROMPT, frames=3)
        text = model.text_encoder.encode([PROMPT])
        sampling = {"steps": 1, "guidance_scale": 1.5, "temperature": 1.0, "top_k": 0, "order": "random"}
        sampling |= {"schedule": "cosine", "negative_prompt": "a blue star", "prime_frames": 1, "top_p": 0.9}
        general = {"frames": 3, "seed": 0, "samples": 1, "progress": False} | sampling
        generate = {"prompts": PROMPT, "start": None, "size": None} | general
        self.calls: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
            "load": (phenaki.load, {"name_or_folder": folder / "model", "device": "cpu"}),
            "from_pretrained": (Phenaki.from_pretrained, {"name_or_folder": folder / "model", "device": "cpu"}),
            "Phenaki": (Phenaki, {"components": model.components, "sampling": model.sampling}),
            "to": (lambda device: phenaki.load(folder / "model").to(device), {"device": "cpu"}),
            "save_pretrained": (model.save_pretrained, {"folder": folder / "saved", "dtype": torch.float16}),
            "generate": (model.generate, generate),
            "call": (model, generate),
            "stream": (lambda **options: list(model.stream(**options)), generate | {"on_progress": None}),
            "rollout": (model.rollout, {"start": None, "size": (16, 16), "seed": 1, "samples": 1} | sampling),
            "scene": (model.scene, {"prompt": PROMPT, "frames": 3, "prime_frames": 1, "first": True}),
            "play": (model.play, {"prompt": PROMPT, "seed": 0, "events": ()}),
            "extend": (model.extend, {"video": video, "prompts": PROMPT} | general),
            "interpolate": (
                model.interpolate,
                {"first": video[:, :, :1], "last": video[:, :, :1], "prompt": PROMPT} | general | {"frames": 5},
            ),
            "inpaint": (
                model.inpaint,
                {
                    "video": video,
                    "mask": torch.ones(16, 16, dtype=torch.bool),
                    "prompt": PROMPT,
                    "blend": True,
                    "steps": 1,
                },
            ),
            "encode": (model.tokenizer.encode, {"video": video}),
            "decode": (model.tokenizer.decode, {"ids": ids}),
            "encode_stream": (lambda chunks: list(model.tokenizer.encode_stream(chunks)), {"chunks": [video]}),
            "decode_stream": (lambda chunks: list(model.tokenizer.decode_stream(chunks)), {"chunks": [ids]}),
            "chunk": (lambda chunk: list(model.tokenizer.encode_stream([chunk])), {"chunk": video}),
            "ids": (lambda chunk: list(model.tokenizer.decode_stream([chunk])), {"chunk": ids}),
            "grid": (model.tokenizer.grid, {"frames": 3, "height": 16, "width": 16}),
            "encode_text": (model.components.encode_text, {"prompts": PROMPT, "samples": 1}),
            "embeddings": (model.generate, {"prompts": text, "frames": 3, "steps": 1}),
            "Text": (lambda **fields: Text(**fields).checked(), {"embeddings": text.embeddings, "mask": text.mask}),
            "Generation": (
                Generation,
                {"video": made.video, "prompts": (PROMPT,), "scene_starts": (0,), "fps": 8.0, "seed": 0},
            ),
            "save": (made.save, {"path": folder / "out.gif", "upscale": 1}),
            "as_video": (as_video, {"source": clip, "size": None, "fps": None}),
            "as_mask": (as_mask, {"source": np.ones((16, 16), bool), "size": None}),
            "read_video": (read_video, {"path": folder / "clip.mp4"}),
            "write_video": (write_video, {"path": folder / "out.mp4", "clip": clip, "fps": 8.0}),
            "write_image": (write_image, {"path": folder / "out.png", "picture": clip[0]}),
            "load_component": (load_component, {"folder": folder / "model" / "text", "kind": "text"}),
            "save_component": (
                save_component,
                {"module": model.text_encoder, "folder": folder / "component", "dtype": torch.float16},
            ),
        }

    def case(self, rng: Random) -> Case:
        name = rng.choice(list(self.calls))
        call, arguments = self.calls[name]
        odd = {
            key: rng.choice(self.odd) for key in rng.sample(list(arguments), min(len(arguments), rng.choice((1, 1, 2))))
        }
        return Case(f"{name} with {_short(odd)}", lambda: call(**(arguments | odd)))

    def every(self) -> list[Case]:
        """Each odd value in the place of each argument."""
        return [
            Case(
                f"{name} with {_short({key: value})}", lambda call=call, values=arguments | {key: value}: call(**values)
            )
            for name, (call, arguments) in self.calls.items()
            for key in arguments
            for value in self.odd
        ]


def _short(values: dict[str, Any]) -> str:
    def show(value: Any) -> str:
        if isinstance(value, (torch.Tensor, np.ndarray)):
            return f"{type(value).__name__}{tuple(value.shape)} {value.dtype}"
        return "a huge integer" if isinstance(value, int) and abs(value) > 10**300 else ascii(value)[:60]

    return ", ".join(f"{key} {show(value)}" for key, value in values.items())
