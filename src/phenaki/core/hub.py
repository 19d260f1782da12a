"""Model names to folders: models in the package, local folders, and the Hugging Face hub."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TypedDict, Unpack

from phenaki.core.errors import PhenakiError, did_you_mean

MODEL_FILE = "model.json"  # in the folder of a complete model
ZOO = Path(__file__).parents[1] / "zoo"
_REPOSITORY = r"\w[\w.-]*/\w[\w.-]*"
_HUB_NAME = rf"(?P<repository>{_REPOSITORY})(?:/(?P<subfolder>\w[\w./-]*))?"


def model_names() -> list[str]:
    """Names of the models in the package."""
    return sorted(file.parent.name for file in ZOO.glob(f"*/{MODEL_FILE}"))


class HubOptions(TypedDict, total=False):
    """How a repository on the Hugging Face hub is downloaded; `subfolder` is one of any model.

    `revision`: a branch, tag or commit. `token`: as of `hf auth login`. `local_files_only`: nothing is downloaded.
    """

    revision: str | None
    subfolder: str | None
    cache_dir: str | Path | None
    token: str | bool | None
    local_files_only: bool


def resolve(name_or_folder: str | Path, **options: Unpack[HubOptions]) -> Path:
    """The folder of a model: an existing folder, a model in the package, or `owner/name` on the Hugging Face hub.

    Components are `shapes-64/tokenizer` and `owner/name/tokenizer`. Files in the hub's local cache are not downloaded
    again, and are used when the hub is unreachable. Raises PhenakiError that names the models in the package.
    """
    name, subfolder = str(name_or_folder), options.pop("subfolder", None) or ""
    if (folder := _local(name)) is None and isinstance(name_or_folder, str) and (hub := re.fullmatch(_HUB_NAME, name)):
        subfolder = "/".join(filter(None, (hub["subfolder"], subfolder)))
        folder = _from_hub(hub["repository"], subfolder, options)
    elif folder is not None and options.get("revision"):
        raise PhenakiError(f"revision {options['revision']!r}: '{name}' is on this machine, not on the hub")
    if folder is None:
        raise PhenakiError(
            f"There is no model or folder '{name}'.{did_you_mean(name, model_names())} "
            f"Models in the package: {', '.join(model_names()) or 'none'}. "
            "You can also pass a folder, or owner/name on the Hugging Face hub."
        )
    if not (folder / subfolder).is_dir():
        inside = ", ".join(sorted(entry.name for entry in folder.iterdir() if entry.is_dir())) or "no folder"
        raise PhenakiError(f"'{name}' has no folder '{subfolder}': it holds {inside}")
    return folder / subfolder


def _local(name: str) -> Path | None:
    """An existing folder, or a model in the package or a folder of it."""
    if os.path.isdir(name):
        return Path(name)
    if os.path.exists(name):
        raise PhenakiError(f"'{name}' is a file; pass a model folder, or one of: {', '.join(model_names())}.")
    if name.partition("/")[0] in model_names() and (ZOO / name).is_dir():
        return ZOO / name
    return None


def _from_hub(name: str, subfolder: str, options: HubOptions) -> Path:
    from huggingface_hub import snapshot_download  # slow to import, needed only here
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    within = f"{subfolder}/" if subfolder else ""
    try:
        return Path(snapshot_download(name, allow_patterns=[f"{within}*.json", f"{within}*.safetensors"], **options))
    except GatedRepoError as error:
        raise PhenakiError(
            f"'{name}' is gated on the Hugging Face hub: request access, then `hf auth login`."
        ) from error
    except RevisionNotFoundError as error:
        raise PhenakiError(f"'{name}' has no revision {options.get('revision')!r} on the Hugging Face hub.") from error
    except RepositoryNotFoundError as error:
        reason = "and no such model on the Hugging Face hub, or it is private: run `hf auth login`"
        raise PhenakiError(f"There is no folder '{name}', {reason}.") from error
    except Exception as error:  # network errors depend on the hub's HTTP client
        raise PhenakiError(
            f"There is no folder '{name}', it is not in the local cache of the Hugging Face hub, and the hub cannot be "
            f"reached ({type(error).__name__}). On a connected machine run `hf download {name} --local-dir DIR`, then "
            "pass DIR here."
        ) from error


def local_folder(name: str, revision: str = "") -> Path:
    """An existing folder, or the snapshot of `owner/name` in the local Hugging Face cache. Nothing is downloaded.

    Raises PhenakiError that says what to download, and where to put it.
    """
    if os.path.isdir(name):
        return Path(name)
    if not re.fullmatch(_REPOSITORY, name):
        raise PhenakiError(
            f"there is no folder '{name}': pass an existing folder, or owner/name on the Hugging Face hub"
        )
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision or None, local_files_only=True))
    except LocalEntryNotFoundError as error:
        wanted = f"{name} --revision {revision}" if revision else name
        raise PhenakiError(
            f"there is no folder '{name}', and that model is not in the local Hugging Face cache; it is not downloaded "
            f"automatically. Run `hf download {wanted}` to put it into the cache, {constants.HF_HUB_CACHE}, or "
            f"`hf download {wanted} --local-dir DIR` on any machine, copy DIR here and pass it instead"
        ) from error
