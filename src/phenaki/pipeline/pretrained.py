"""What every model has, whatever it generates: networks, a device, a folder."""

from __future__ import annotations

import tempfile
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Self, Unpack

import torch

from phenaki.core import hub
from phenaki.core.arguments import check_types
from phenaki.core.components import CONFIG_FILE, fingerprint
from phenaki.core.config import quoted
from phenaki.core.errors import PhenakiError
from phenaki.core.hub import PushOptions
from phenaki.core.precision import best_device, move, precision_of
from phenaki.generators import Components
from phenaki.nn.block import blocks, check_compiles, compile_block
from phenaki.pipeline.card import model_summary
from phenaki.pipeline.domain import Domain
from phenaki.pipeline.loading import load_model, save_model
from phenaki.pipeline.words import MODEL_ATTRIBUTES, LoadOptions, no_attribute, other_words
from phenaki.sampling import SamplingConfig


class PretrainedModel:
    """Networks that fit together, with the sampling settings and the domain of the model, on one device.

    `name`: what the model was loaded by. Raises PhenakiError for components without a tokenizer or a text encoder.
    """

    strict = False

    @check_types
    def __init__(
        self,
        components: Components,
        sampling: SamplingConfig | None = None,
        domain: Domain | None = None,
        name: str = "",
    ) -> None:
        if components.tokenizer is None or components.text_encoder is None:
            raise PhenakiError("a generator alone makes no video: add its tokenizer and its text encoder")
        self.components, self.sampling = components, sampling or SamplingConfig()
        self.domain, self.name = domain or Domain(), name
        self.tokenizer, self.generator = components.tokenizer, components.generator
        self.text_encoder, self.critic = components.text_encoder, components.critic
        for network in components.networks.values():
            network.eval()

    @property
    def fps(self) -> float:
        return self.tokenizer.config.fps

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the frames, in pixels."""
        return self.tokenizer.config.image_size

    @property
    def device(self) -> torch.device:
        return self.components.device

    @cached_property
    def fingerprint(self) -> str:
        """Of tokenizer, generator and text encoder: configurations and weights."""
        return "-".join(fingerprint(network)[:12] for network in (self.tokenizer, self.generator, self.text_encoder))

    @check_types
    def to(
        self,
        *targets: str | int | torch.device | torch.dtype,
        device: str | int | torch.device | None = None,
        dtype: torch.dtype | str | None = None,
    ) -> Self:
        """Move all networks to a device such as "cpu" or "cuda", or let them run in torch.bfloat16 or torch.float32.

        Weights stay in float32, and norms and quantizers run in it: `dtype` is that of the matrix products. Without
        one, or with "auto", they run in bfloat16 where that is faster. Raises PhenakiError for a device or a dtype that
        cannot be used.
        """
        for target in targets:
            if isinstance(target, torch.dtype):
                dtype = target
            elif isinstance(target, (str, int, torch.device)):
                device = target
            else:
                raise PhenakiError(f"to({quoted(target)}): pass a device or a dtype")
        if dtype is not None:
            self.tokenizer.precision = self.generator.precision = precision_of(dtype)
        if device is not None:
            move(list(self.components.networks.values()), device)
        return self

    def compile(self) -> Self:
        """Run the layers of all networks through torch.compile, for many videos of few shapes on a GPU: the first of
        each shape takes a minute longer. Raises PhenakiError where torch.compile does not work."""
        check_compiles(self.device, "compile", "do without")
        for block in blocks(self.components.networks.values()):
            compile_block(block)
        return self

    def __repr__(self) -> str:
        height, width = self.image_size
        clip = f"{self.generator.config.frames} frames of {width}x{height} pixels at {self.fps:g} fps"
        precision = "" if self.components.precision == "auto" else f", in {self.components.precision}"
        lines = [f"{type(self).__name__} {self.name or 'without a name'}: {clip}, on {self.device}{precision}"]
        for kind, network in self.components.networks.items():
            millions = sum(weight.numel() for weight in network.parameters()) / 1e6
            lines.append(f"  {kind:<10} {type(network).__name__}, {millions:.1f} M parameters")
        if self.domain.subject:
            lines.append(f"  knows      {self.domain.subject}")
        if self.domain.prompts:
            lines.append(f"  try        {self.domain.prompts[0]!r}")
        return "\n".join(lines)

    if not TYPE_CHECKING:  # which would take any name then

        def __getattr__(self, name):
            raise no_attribute(self, name, MODEL_ATTRIBUTES)

    # ---- folders

    @classmethod
    @other_words
    def from_pretrained(
        cls,
        name_or_folder: str | Path,
        device: str | int | torch.device = "auto",
        *,
        dtype: torch.dtype | str | None = None,
        **options: Unpack[LoadOptions],
    ) -> Self:
        """The model of a name in the package, a folder, or `owner/name` on the Hugging Face hub.

        Args:
            device: "auto" takes CUDA where there is one.
            dtype: as in `to`.
            options: `revision`, `subfolder`, `cache_dir`, `token`, `local_files_only` (`core/hub.py: HubOptions`).

        Raises PhenakiError for an unknown name (with those there are), for a folder that holds no whole model, and for
        components that are broken or were not built for one another.
        """
        model = cls.from_folder(hub.resolve(name_or_folder, **options), device, str(name_or_folder))
        return model if dtype is None else model.to(dtype=dtype)

    @classmethod
    def from_folder(cls, folder: Path, device: str | int | torch.device, name: str = "") -> Self:
        return cls(*load_model(folder), name).to(best_device() if device == "auto" else device)

    @check_types
    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write the model as a folder that `from_pretrained` reads, completely or not at all.

        `dtype`: of the stored weights (torch.float16: half the size). Other files in the folder stay. Raises
        PhenakiError where it cannot write.
        """
        save_model(folder, self.components, self.sampling, dtype=dtype, domain=self.domain)

    def push_to_hub(self, repository: str, **options: Unpack[PushOptions]) -> str:
        """Upload the model to `owner/name` on the Hugging Face hub, and return the address of the commit.

        The repository is created if it is not there; options are `private`, `token`, `revision` and `commit_message`.
        Raises PhenakiError if the hub refuses, or cannot be reached.
        """
        with tempfile.TemporaryDirectory() as parent:
            folder = Path(parent) / str(repository).rpartition("/")[2]
            self.save_pretrained(folder)
            files = {**hub.model_files(folder), CONFIG_FILE: model_summary(self.components)}
            return hub.push(files, repository, **options)
