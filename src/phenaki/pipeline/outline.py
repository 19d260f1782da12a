"""What a model's folder says without its weights."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phenaki.core.components import CRITIC, REQUIRED, WEIGHTS_FILE, read_config
from phenaki.core.config import from_dict
from phenaki.core.errors import PhenakiError
from phenaki.core.grid import latent_frames
from phenaki.core.hub import METRICS_FILE
from phenaki.core.registry import REGISTRIES
from phenaki.core.weights import read_shapes
from phenaki.pipeline.loading import ModelFile, read_model_file
from phenaki.sampling import SamplingConfig
from phenaki.tokenizers import TokenizerSpec


@dataclass(frozen=True)
class Outline:
    """types, parameters: of each component, by its kind. frames: of the longest clip that the generator trained on.
    text: the text encoder's configuration; None if it is missing. metrics: as `phenaki evaluate` wrote them."""

    folder: Path
    file: ModelFile
    tokenizer: TokenizerSpec
    frames: int
    text: Any
    types: Mapping[str, str]
    parameters: Mapping[str, int]
    metrics: Mapping[str, Any]

    @property
    def megabytes(self) -> float:
        return sum(file.stat().st_size for file in self.folder.rglob("*") if file.is_file()) / 1e6

    def check(
        self,
        prompts: Sequence[str | Sequence[str]],
        frames: int | Sequence[int] | None,
        size: tuple[int, int],
        options: Mapping[str, Any],
    ) -> SamplingConfig:
        """The sampling settings with `options`. Raises PhenakiError for what the model will refuse: prompts that it
        cannot read, lengths and sizes that do not fit, settings out of range."""
        for number, prompt in enumerate(prompts, start=1):
            try:
                for text in [prompt] if isinstance(prompt, str) else prompt:
                    if self.text is not None:
                        self.text.check(text)
            except PhenakiError as error:
                raise PhenakiError(f"scene {number}: {error}" if len(prompts) > 1 else str(error)) from error
        for length in [frames] if isinstance(frames, int) else frames or ():
            latent_frames(length, self.tokenizer.patch[0])
        self.tokenizer.grid(1, *size)
        return self.file.sampling.with_options(options)


def read_outline(folder: Path) -> Outline:
    """The outline of the model in `folder`. Raises PhenakiError for a folder without one, or with broken files."""
    file = read_model_file(folder)
    configs, types, parameters = {}, {}, {}
    for kind in (*REQUIRED, *([CRITIC] if file.critic else [])):
        if not (folder / kind).is_dir():
            continue
        types[kind], values = read_config(folder / kind)
        config = REGISTRIES[kind][types[kind]].config
        configs[kind] = from_dict(config, values, where=f"'{folder / kind / 'config.json'}'")
        weights = folder / kind / WEIGHTS_FILE
        parameters[kind] = sum(map(math.prod, read_shapes(weights).values())) if weights.is_file() else 0
    if "generator" not in configs:
        raise PhenakiError(f"'{folder}' holds no generator/: text to video needs one")
    generator, metrics = configs["generator"], folder / METRICS_FILE
    return Outline(
        folder,
        file,
        generator.tokenizer,
        generator.frames,
        configs.get("text"),
        types,
        parameters,
        json.loads(metrics.read_text(encoding="utf-8")) if metrics.is_file() else {},
    )
