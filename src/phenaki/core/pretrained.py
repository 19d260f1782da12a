"""Components that load and save themselves: folders, the package, the Hugging Face hub."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Self, Unpack

import torch
from torch import Tensor, nn

from phenaki.core import hub
from phenaki.core.card import component_card
from phenaki.core.components import CONFIG_FILE, component_kind, is_component, load_component, save_component
from phenaki.core.errors import PhenakiError
from phenaki.core.hub import CARD_FILE, HubOptions, PushOptions
from phenaki.core.precision import best_device, check_dtype, move
from phenaki.core.registry import REGISTRIES


class PretrainedComponent(nn.Module):
    """A tokenizer, generator, text encoder or critic: a class of a registry, or a base class of some.

    dtypes: of its weights, in which it runs; a conversion to another is refused.
    """

    dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.bfloat16, torch.float64)

    @classmethod
    def from_pretrained(
        cls, name_or_folder: str | Path, device: str | int | torch.device = "auto", **options: Unpack[HubOptions]
    ) -> Self:
        """The component in a folder of its own or of a complete model, in evaluation mode.

        Names are those of `phenaki.load`, such as "shapes-64", "owner/name" or "owner/name/tokenizer". Raises
        PhenakiError for a folder that holds none, or one of another class.
        """
        folder = hub.resolve(name_or_folder, **options)
        if not is_component(folder):
            classes = {kind: [entry.model for entry in each.types.values()] for kind, each in REGISTRIES.items()}
            kinds = [kind for kind, models in classes.items() if any(issubclass(model, cls) for model in models)]
            folder = next((folder / kind for kind in kinds if (folder / kind / CONFIG_FILE).is_file()), folder)
        component = load_component(folder)
        if not isinstance(component, cls):
            raise PhenakiError(
                f"'{folder}' holds a {component_kind(folder)} of the class {type(component).__name__}, which is no "
                f"{cls.__name__}: use {type(component).__name__}.from_pretrained, or phenaki.load"
            )
        move([component], best_device() if device == "auto" else device)
        return component

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write a folder that `from_pretrained` reads, with a card if it has none.

        `dtype`: of the stored weights (torch.float16: half the size). Raises PhenakiError where it cannot write.
        """
        save_component(self, folder, dtype)
        if not (card := Path(folder) / CARD_FILE).exists():
            card.write_text(component_card(Path(folder).name, self), encoding="utf-8")

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Every conversion and move of a module goes through here."""
        check_dtype(fn(torch.zeros(1)).dtype, self.dtypes, type(self).__name__)
        return super()._apply(fn, recurse)

    def push_to_hub(self, repository: str, **options: Unpack[PushOptions]) -> str:
        """Upload the component to `owner/name` on the Hugging Face hub, and return the address of the commit.

        The repository is created if it is not there. Raises PhenakiError if the hub refuses, or cannot be reached.
        """
        with tempfile.TemporaryDirectory() as parent:
            folder = Path(parent) / repository.rpartition("/")[2]
            self.save_pretrained(folder)
            return hub.push(hub.model_files(folder), repository, **options)
