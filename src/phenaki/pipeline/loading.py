"""A whole model as a folder: model.json and a folder for each component."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Unpack

import torch
from torch import nn

import phenaki.compat  # noqa: F401, registers its types, as the imports below register theirs
from phenaki.conditioning import TextEncoder, encoder_class, named_config
from phenaki.core import hub
from phenaki.core.card import component_card, with_metadata
from phenaki.core.components import (
    CONFIG_FILE,
    CRITIC,
    REQUIRED,
    component_kind,
    fingerprint,
    is_component,
    load_component,
    read_json,
    save_component,
)
from phenaki.core.config import from_dict, to_dict
from phenaki.core.errors import PhenakiError
from phenaki.core.files import write_folder_atomic, writing
from phenaki.core.hub import CARD_FILE, METRICS_FILE, MODEL_FILE, PushOptions
from phenaki.core.version import __version__
from phenaki.generators import Components
from phenaki.generators.critic import Critic
from phenaki.pipeline.card import model_card, model_metadata, model_summary
from phenaki.pipeline.domain import Domain
from phenaki.sampling import SamplingConfig


@dataclass(frozen=True)
class ModelFile:
    """model.json, next to the components tokenizer/, generator/ and text/.

    `phenaki`: the version that wrote it. `tokenizer`: fingerprint of the tokenizer whose ids the generator writes.
    `critic`: fingerprint of the critic in critic/; "": there is none. `domain`: what it was trained to show.
    """

    phenaki: str
    sampling: SamplingConfig
    tokenizer: str
    critic: str = ""
    domain: Domain = field(default_factory=Domain)


def read_model_file(folder: Path) -> ModelFile:
    """What model.json says of the model in `folder`. Raises PhenakiError for a folder without one, or a broken one."""
    if not (folder / MODEL_FILE).is_file():
        raise no_model_error(folder)
    return from_dict(ModelFile, read_json(folder / MODEL_FILE), where=f"'{folder / MODEL_FILE}'")


def load_model(folder: Path) -> tuple[Components, SamplingConfig, Domain]:
    """The networks, on the CPU, the sampling settings and the domain of the model in `folder`.

    Raises PhenakiError for a folder that holds no complete model, and for components that are broken or were not built
    for one another.
    """
    file = read_model_file(folder)
    for kind in REQUIRED:
        if not (folder / kind).is_dir():
            raise PhenakiError(
                f"'{folder}' holds no {kind}/: a model trained from token shards comes without the networks that made "
                f"them. Copy the folder of the {kind} there"
            )
    tokenizer, generator, text_encoder = (load_component(folder / kind, kind) for kind in REQUIRED)
    critic = _load_critic(folder, file) if file.critic else None
    try:
        components = Components(generator, tokenizer, text_encoder, critic)
    except PhenakiError as error:
        raise PhenakiError(f"'{folder}': {error}") from error
    if fingerprint(folder / "tokenizer") != file.tokenizer:
        raise PhenakiError(
            f"'{folder}': the fingerprint of the tokenizer in '{folder / 'tokenizer'}' is not the one in {MODEL_FILE}: "
            "put back the tokenizer that the generator was trained on"
        )
    return components, file.sampling, file.domain


def _load_critic(folder: Path, file: ModelFile) -> Critic:
    critic = folder / CRITIC
    if not critic.is_dir() or fingerprint(critic) != file.critic:
        raise PhenakiError(
            f"'{folder}' holds no critic/, or another one than {MODEL_FILE} names: put back the critic trained "
            f'for this generator, or write "critic": "" in {MODEL_FILE} to do without'
        )
    return load_component(critic, CRITIC)


def save_model(
    folder: str | Path,
    components: Components,
    sampling: SamplingConfig,
    tokenizer_fingerprint: str = "",
    dtype: torch.dtype | None = None,
    domain: Domain | None = None,
) -> None:
    """Write a model as a folder that `load_model` reads, completely or not at all; other files in it stay.

    Components without a tokenizer, whose `tokenizer_fingerprint` is recorded then, or without a text encoder are
    written too: with these copied into the folder as tokenizer/ and text/ it is complete. A card is added to a folder
    without one. `dtype`: of the stored
    weights (torch.float16: half the size).
    """
    if not str(folder):
        raise PhenakiError("the folder to save to is empty: name one")
    folder, networks = Path(folder), components.networks
    with writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
    with write_folder_atomic(folder) as new:
        for kind, network in networks.items():
            save_component(network, new / kind, dtype)
        tokenizer = fingerprint(new / "tokenizer") if "tokenizer" in networks else tokenizer_fingerprint
        critic = fingerprint(new / CRITIC) if CRITIC in networks else ""
        file = ModelFile(__version__, sampling, tokenizer, critic, domain or Domain())
        (new / MODEL_FILE).write_text(json.dumps(to_dict(file), indent=2) + "\n", encoding="utf-8")
        if not (folder / CARD_FILE).exists():
            (new / CARD_FILE).write_text(model_card(folder.name, components, file.domain), encoding="utf-8")


def push_folder(folder: Path, repository: str, **options: Unpack[PushOptions]) -> str:
    """Upload the model or the component in `folder` to `owner/name` on the hub, and return the address of the commit.

    Its card gets the metadata that it lacks, metrics.json included. Raises PhenakiError as `hub.push` does, and for a
    folder that holds neither.
    """
    files, card = hub.model_files(folder), folder / CARD_FILE
    name = repository.rpartition("/")[2]
    if (folder / MODEL_FILE).is_file():
        components, _, domain = load_model(folder)
        metrics = read_json(folder / METRICS_FILE) if (folder / METRICS_FILE).is_file() else {}
        text, values = model_card(repository, components, domain), model_metadata(domain, name, metrics)
        files[CONFIG_FILE] = model_summary(components)
    elif is_component(folder):
        text, values = component_card(repository, load_component(folder)), {}
    else:
        raise no_model_error(folder)
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else text
    files[CARD_FILE] = with_metadata(text, values).encode()
    return hub.push(files, repository, **options)


def load_part(name_or_folder: str | Path, kind: str) -> nn.Module:
    """A component of the kind "tokenizer", "generator" or "text", on the CPU: in a folder of its own, or of a model.

    Raises PhenakiError for a folder that holds no such component.
    """
    folder = hub.resolve(name_or_folder)
    if not is_component(folder) and (folder / kind / CONFIG_FILE).is_file():
        folder = folder / kind
    if not is_component(folder):
        raise no_model_error(folder)
    if (found := component_kind(folder)) != kind:
        raise PhenakiError(f"'{folder}' holds a {found}: name the folder of a {kind}, or of a whole model")
    return load_component(folder, kind)


def load_text_encoder(name_or_folder: str | Path) -> TextEncoder:
    """A text encoder: "none", a T5 or CLIP of transformers by its folder or name, or what `load_part` finds.

    Raises PhenakiError as that does, and for a T5 or CLIP that is not on this machine.
    """
    config = named_config(str(name_or_folder))
    return load_part(name_or_folder, "text") if config is None else encoder_class(config)(config).eval()


def no_model_error(folder: Path) -> PhenakiError:
    """The error for a folder without model.json: what it holds instead, and models nearby."""
    if is_component(folder):
        return PhenakiError(
            f"'{folder}' holds a single component ({component_kind(folder)}) and no {MODEL_FILE}: text to video "
            f"needs a whole model, a folder with {MODEL_FILE}"
        )
    near = [str(path.parent) for name in (MODEL_FILE, CONFIG_FILE) for path in sorted(folder.glob(f"*/{name}"))]
    way_out = f"; perhaps you mean {' or '.join(repr(path) for path in near[:3])}" if near else ""
    return PhenakiError(
        f"'{folder}' is no folder of a model: it holds neither {MODEL_FILE} (a whole model) nor {CONFIG_FILE} "
        f"(a tokenizer, generator or text encoder){way_out or '; `phenaki models` lists those in the package'}"
    )
