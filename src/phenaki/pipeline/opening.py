"""Whatever a folder of ours holds, by its name."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Unpack

import torch

from phenaki.core import hub
from phenaki.core.components import is_component, load_component
from phenaki.core.hub import MODEL_FILE
from phenaki.core.precision import best_device, move, precision_of
from phenaki.pipeline.loading import no_model_error
from phenaki.pipeline.model import Phenaki
from phenaki.pipeline.words import LoadOptions, other_words


@other_words
def load(
    name_or_folder: str | Path,
    device: str | int | torch.device = "auto",
    *,
    dtype: torch.dtype | str | None = None,
    **options: Unpack[LoadOptions],
) -> Any:
    """A whole model (`Phenaki`), or a single tokenizer, generator, text encoder or critic, whichever the folder holds.

    Arguments are those of `Phenaki.from_pretrained`; "shapes-64/tokenizer" and "owner/name/tokenizer" are parts. Raises
    PhenakiError for a folder that holds none of these.
    """
    folder = hub.resolve(name_or_folder, **options)
    if (folder / MODEL_FILE).is_file():
        model = Phenaki.from_folder(folder, device, str(name_or_folder))
        return model if dtype is None else model.to(dtype=dtype)
    if is_component(folder):
        component: Any = load_component(folder)
        move([component], best_device() if device == "auto" else device)
        if dtype is not None:
            component.precision = precision_of(dtype)
        return component
    raise no_model_error(folder)
