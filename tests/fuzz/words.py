"""What people type: configurations, overrides, prompts, command lines."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from typer.testing import CliRunner

from fuzz.models import tiny_model
from fuzz.mutate import ODD, mutate_bytes, mutate_json
from fuzz.surface import Case, Surface
from helpers import media_files
from phenaki.cli import app
from phenaki.core.config import from_dict, override, to_dict
from phenaki.core.errors import PhenakiError
from phenaki.core.memory import lay_out
from phenaki.core.registry import REGISTRIES
from phenaki.data.pack_config import PackConfig
from phenaki.data.packing import pack
from phenaki.media.writer import write_video
from phenaki.training import recipes

ODD_TEXT = [value for value in ODD if isinstance(value, str) and "\0" not in value and len(value) < 2000]
WORDS = [
    "a red circle moves up",
    "a",
    "now it turns blue",
    "",
    " ",
    "-",
    "--",
    "a " * 200,
    "赤い円",
    "é",
    "\x1b[31m",
    "\u202e",
]
WORDS += [
    "[21] a red circle",
    "x" * 3000,
    "\ud800",
    "a\nb",
    "%s",
    "{0}",
    "$(true)",
    "'",
    '"',
    "a red\u0301 circle",
    "🔴",
]
NUMBERS = [
    "0",
    "1",
    "3",
    "5",
    "-1",
    "7.5",
    "1e9",
    "nan",
    "inf",
    "1e400",
    "99999999999",
    "0x10",
    "1_0",
    "",
    "x",
    "²",
    "٣",
]


class Configs(Surface):
    """Configurations of every component and recipe, as JSON: what is built describes itself again."""

    name, weight = "configs", 0.12

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.components = [entry for registry in REGISTRIES.values() for entry in registry.types.values()]
        model = tiny_model()
        self.sound = {type(network.config): to_dict(network.config) for network in model.components.networks.values()}
        self.sound[type(model.sampling)] = to_dict(model.sampling)
        for made in self.components:
            try:
                self.sound.setdefault(made.config, to_dict(made.config()))
            except TypeError:  # it has no defaults
                continue
        for name in ("cvivit_debug", "masked_debug", "causal_debug"):
            recipe = getattr(recipes, name)()
            self.sound[type(recipe)] = to_dict(recipe)

    def case(self, rng: Random) -> Case:
        kind = rng.choice(list(self.sound))
        values = mutate_json(self.sound[kind], rng)
        return Case(f"{kind.__name__} {ascii(values)[:300]}", lambda: self._build(kind, values))

    def _build(self, kind: type, values: Any) -> None:
        config = from_dict(kind, values)
        assert from_dict(kind, json.loads(json.dumps(to_dict(config), allow_nan=False))) == config
        for entry in self.components:
            if entry.config is kind:
                lay_out(lambda entry=entry: entry.model(config), "the config")


class Overrides(Surface):
    """key=value of recipes."""

    name, weight = "overrides", 0.06

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.recipes = [recipes.cvivit_debug(), recipes.masked_debug()]
        self.keys = [
            f"{section}.{key}"
            for recipe in self.recipes
            for section, values in to_dict(recipe).items()
            for key in (values if isinstance(values, dict) else ())
        ]

    def case(self, rng: Random) -> Case:
        recipe, key = rng.choice(self.recipes), rng.choice(self.keys)
        match rng.randrange(5):
            case 0:
                key = key.partition(".")[0]
            case 1:
                key = mutate_bytes(key.encode(), rng).decode(errors="replace")
        value = rng.choice(ODD)
        text = rng.choice((str, repr, json.dumps))(value) if abs_small(value) else "9" * 5000
        if rng.random() < 0.3:
            text = mutate_bytes(text.encode("utf-8", "surrogatepass"), rng).decode(errors="surrogateescape")
        change = f"{key}={text}"
        return Case(ascii(change)[:300], lambda: self._override(recipe, change))

    def _override(self, recipe: Any, change: str) -> None:
        changed = override(recipe, [change])
        assert type(changed) is type(recipe) and from_dict(type(recipe), to_dict(changed)) == changed


def abs_small(value: Any) -> bool:
    """Whether Python writes it in decimal digits."""
    return not isinstance(value, int) or abs(value) < 10**300


class Prompts(Surface):
    """Prompts of every alphabet and none, in every number, with odd settings."""

    name, weight = "prompts", 0.05

    def case(self, rng: Random) -> Case:
        prompts = [self._prompt(rng) for _ in range(rng.choice((1, 1, 1, 2, 3)))]
        options = {"negative_prompt": self._prompt(rng)} if rng.random() < 0.3 else {}
        return Case(ascii((prompts, options))[:300], lambda: self._generate(prompts, options))

    def _prompt(self, rng: Random) -> str:
        prompt = rng.choice(WORDS)
        if rng.random() < 0.5:
            prompt = mutate_bytes(prompt.encode("utf-8", "surrogatepass"), rng).decode(errors="surrogateescape")
        return prompt + "".join(
            chr(rng.choice((rng.randrange(128), rng.randrange(0x110000)))) for _ in range(rng.randrange(3))
        )

    def _generate(self, prompts: list[str], options: dict[str, Any]) -> None:
        result = tiny_model().generate(prompts, steps=1, frames=3, **options)
        assert result.video.shape == (1, 3, 1 + 2 * len(prompts), 16, 16) and result.video.isfinite().all()


class CommandLines(Surface):
    """Commands with odd options and files: exit code 0 and what was asked for, or 2 and a sentence."""

    name, weight = "commands", 0.1

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        tiny_model().save_pretrained(folder / "model")
        clips = folder / "clips"
        clips.mkdir()
        for number in range(2):
            write_video(
                clips / f"{number}.mp4", np.stack([media_files.noise(number + t, (16, 16)) for t in range(5)]), 8
            )
            (clips / f"{number}.txt").write_text("a red circle")
        pack(PackConfig((str(clips),), str(folder / "packed"), processes=1, validation=0.0), progress=False)
        (folder / "story.txt").write_text("a red circle\nnow it turns blue\n")
        (folder / "picture.png").write_bytes(media_files.picture(media_files.noise(0, (16, 16))))
        (folder / "broken.mp4").write_bytes(b"no video")
        self.files = [
            "model",
            "clips",
            "clips/0.mp4",
            "packed",
            "story.txt",
            "picture.png",
            "broken.mp4",
            "nowhere",
            ".",
            "",
        ]
        self.files += [
            "/dev/null",
            "/dev/zero",
            "/proc/self/mem",
            "a:b.mp4",
            "http://127.0.0.1:1/x.mp4",
            "out.xyz",
            "\udcff.mp4",
        ]

    def case(self, rng: Random) -> Case:
        outs = (
            "out.mp4",
            "out.gif",
            "out.png",
            "out.webp",
            "out/",
            "out.part.mp4",
            "nowhere/out.mp4",
            "model",
            "out.xyz",
        )
        model, out = ["--model", "model", "--quiet"], ["-o", rng.choice(outs)]
        words = [word for word in WORDS if word != "--"]  # after it, --model is a prompt, and of a large model
        prompts = [rng.choice(words) for _ in range(rng.choice((1, 1, 2)))]
        file, other = rng.choice(self.files), rng.choice(self.files)
        number = f"{rng.choice(NUMBERS)}"
        odd = [
            "--frames",
            "--steps",
            "--samples",
            "--seed",
            "--size",
            "--fps",
            "--upscale",
            "--guidance-scale",
            "--top-p",
        ]
        odd += ["--temperature", "--order", "--schedule", "--prime-frames", "--no-such", "--image", "--top-k"]
        more = [rng.choice(odd), rng.choice((number, number, f"{number}x{rng.choice(NUMBERS)}", file))]
        more = more if rng.random() < 0.8 else []
        args = rng.choice(
            (
                ["generate", *prompts, *model, *out, *more],
                ["generate", "--story", file, *model, *out, *more],
                ["extend", file, *prompts, *model, *out, *more],
                ["interpolate", file, other, prompts[0], *model, *out, *more],
                ["inpaint", file, prompts[0], "--mask", other, *model, *out, *more],
                ["reconstruct", file, "--model", "model", *out],
                ["data", "inspect", file, *out],
                ["data", "pack", file, "out", "--processes", "1", "--size", number],
                ["data", "tokenize", file, "out", "--tokenizer", other, "--frames", number],
                [
                    "plan",
                    rng.choice(("masked_debug", "cvivit_debug", "", "x", file)),
                    f"{rng.choice(odd)[2:]}={number}",
                ],
                ["runs", file],
                ["info", file],
                ["compare", file, other],
                ["recipes", number],
                ["import", rng.choice(("obvious-cvivit", "x", "")), file, "out"],
                [
                    "train",
                    rng.choice(("tokenizer", "generator")),
                    "--recipe",
                    rng.choice(("x", file, "")),
                    "--out",
                    "out",
                ],
                [
                    "train",
                    "generator",
                    "--recipe",
                    "masked_debug",
                    "--tokenizer",
                    file,
                    "--data",
                    other,
                    "--out",
                    other,
                ],
                [rng.choice(("", "generat", "--version", "--help", "-")), *more],
            )
        )
        return Case(ascii(shlex.join(args))[:300], lambda: self._call(args))

    def _call(self, args: list[str]) -> None:
        for name in ("out.mp4", "out.gif", "out.png", "out.webp", "out", "out.part.mp4", "out.xyz"):
            self.fresh(name)
        before = os.getcwd()
        os.chdir(self.folder)
        try:
            result = CliRunner().invoke(app, args)
        finally:
            os.chdir(before)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code in (0, 2), f"exit code {result.exit_code}: {result.output[-500:]}"
        if result.exit_code == 2:
            raise PhenakiError(result.output[-2000:].encode(errors="replace").decode() or "no word")
