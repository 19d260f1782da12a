"""What every model has, whatever it generates: networks, a device, a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Self

import torch

from phenaki.core import hub
from phenaki.core.errors import PhenakiError
from phenaki.core.precision import best_device
from phenaki.generators import Components
from phenaki.pipeline.domain import Domain
from phenaki.pipeline.loading import load_model, save_model
from phenaki.sampling import SamplingConfig


class PretrainedModel:
    """Networks that fit together, with the sampling settings and the domain of the model, on one device.

    `name`: what the model was loaded by. Raises PhenakiError for components without a tokenizer or a text encoder.
    """

    strict = False

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

    def to(self, device: str | torch.device) -> Self:
        """Move all networks to a device such as "cpu" or "cuda"."""
        try:
            for network in self.components.networks.values():
                network.to(device)
        except (RuntimeError, AssertionError) as error:  # what torch raises depends on how it was built
            reason = str(error).strip().partition("\n")[0]
            raise PhenakiError(f"the model cannot be moved to the device '{device}': {reason}") from error
        return self

    # ---- folders

    @classmethod
    def from_pretrained(cls, name_or_folder: str | Path, device: str | torch.device = "auto") -> Self:
        """The model of a name in the package, a folder, or `owner/name` on the Hugging Face hub.

        `device` "auto" takes CUDA where there is one. Raises PhenakiError for an unknown name (with those there are),
        for a folder that holds no whole model, and for components that are broken or were not built for one another.
        """
        return cls.from_folder(hub.resolve(name_or_folder), device, str(name_or_folder))

    @classmethod
    def from_folder(cls, folder: Path, device: str | torch.device, name: str = "") -> Self:
        return cls(*load_model(folder), name).to(best_device() if device == "auto" else device)

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write the model as a folder that `from_pretrained` reads, completely or not at all.

        `dtype`: of the stored weights (torch.float16: half the size). Other files in the folder stay. Raises
        PhenakiError where it cannot write.
        """
        save_model(folder, self.components, self.sampling, dtype=dtype, domain=self.domain)
