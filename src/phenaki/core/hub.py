"""Model names to folders: models in the package, local folders, and the Hugging Face hub."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TypedDict, Unpack

from phenaki.core.config import is_unicode, quoted
from phenaki.core.errors import PhenakiError, did_you_mean

CARD_FILE, METRICS_FILE = "README.md", "metrics.json"
MODEL_FILE = "model.json"  # in the folder of a complete model
_PUSHED = (".json", ".safetensors", ".md", ".png", ".gif", ".webp", ".mp4")
ZOO = Path(__file__).parents[1] / "zoo"
_REPOSITORY = r"\w[\w.-]*/\w[\w.-]*"
_REVISION = r"\w[\w./+-]*"
_TEXT_ENCODERS = (
    *("google-t5/t5-small", "google-t5/t5-base", "google-t5/t5-large"),
    *(f"google/t5-v1_1-{size}" for size in ("small", "base", "large", "xl", "xxl")),
    *("openai/clip-vit-base-patch32", "openai/clip-vit-large-patch14"),
)
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
    if not is_unicode(str(name_or_folder)):
        raise PhenakiError(f"there is no model {quoted(name_or_folder)}: pass a name, or the path of a folder")
    check_revision(options.get("revision"))
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
        entries = folder.iterdir() if folder.is_dir() else ()  # an empty repository has no folder
        inside = ", ".join(sorted(entry.name for entry in entries if entry.is_dir())) or "no folder"
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


def check_revision(revision: object) -> None:
    """Raise PhenakiError for what is no branch, tag or commit: huggingface_hub reads the file that a path names."""
    if revision and not (isinstance(revision, str) and re.fullmatch(_REVISION, revision) and ".." not in revision):
        raise PhenakiError(f"revision {quoted(revision)}: pass a branch, a tag or a commit")


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
    check_revision(revision)
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision or None, local_files_only=True))
    except LocalEntryNotFoundError as error:
        own = name.rpartition("/")[2]
        if near := [known for known in _TEXT_ENCODERS if known != name and known.endswith(f"/{own}")]:
            raise PhenakiError(
                f"there is no folder '{name}'. If a model of the Hugging Face hub is meant, it is {near[0]}: "
                f"`phenaki weights get {near[0]}` puts it into the cache"
            ) from error
        wanted = f"{name} --revision {revision}" if revision else name
        raise PhenakiError(
            f"there is no folder '{name}', and that model is not in the local Hugging Face cache; it is not downloaded "
            f"automatically. Run `phenaki weights get {name}` or `hf download {wanted}` to put it into the cache, "
            f"{constants.HF_HUB_CACHE}, or "
            f"`hf download {wanted} --local-dir DIR` on any machine, copy DIR here and pass it instead"
        ) from error


class PushOptions(TypedDict, total=False):
    """`private`: of a repository that is created. `revision`: a branch, created if it is not there; None: main."""

    private: bool | None
    token: str | bool | None
    revision: str | None
    commit_message: str | None


def fetch_text_encoder(name: str) -> Path:
    """The folder of `owner/name` in the local Hugging Face cache, downloaded unless it is there.

    The hub checks each file. Raises PhenakiError for an unknown name, and if the hub cannot be reached.
    """
    if not re.fullmatch(_REPOSITORY, name):
        raise PhenakiError(f"'{name}' is not owner/name of a model on the Hugging Face hub")
    from huggingface_hub import snapshot_download

    patterns = ["*.json", "*.safetensors", "*.model", "merges.txt", "vocab.txt", "pytorch_model.bin"]
    try:
        return Path(snapshot_download(name, allow_patterns=patterns))
    except Exception as error:  # network errors depend on the hub's HTTP client
        raise PhenakiError(
            f"'{name}' cannot be downloaded from the Hugging Face hub ({type(error).__name__}): check the name and the "
            f"network, or run `hf download {name} --local-dir DIR` on another machine and pass DIR"
        ) from error


def model_files(folder: Path) -> dict[str, bytes | Path]:
    """The files of a model or a component, by their names in a repository; no links to what lies elsewhere."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix.lower() in _PUSHED)
    files = (path for path in files if _is_within(path.resolve(), folder.resolve()))
    names = ((path.relative_to(folder), path) for path in files)
    return {name.as_posix(): path for name, path in names if not any(part[0] == "." for part in name.parts)}


def _is_within(file: Path, folder: Path) -> bool:
    """Whether a file lies in the folder, or, of a snapshot in the hub's cache, among the files of its repository."""
    return file.is_relative_to(folder) or any(file.parent == parent / "blobs" for parent in folder.parents)


def push(files: Mapping[str, bytes | Path], repository: str, **options: Unpack[PushOptions]) -> str:
    """Upload files to `owner/name` on the Hugging Face hub in one commit, and return its address.

    Raises PhenakiError if the hub refuses, or cannot be reached.
    """
    if not isinstance(repository, str) or not re.fullmatch(_REPOSITORY, repository):
        raise PhenakiError(f"{repository!r} is no repository on the Hugging Face hub: pass owner/name")
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    revision = options.get("revision")
    try:
        api = HfApi(token=options.get("token"))
        api.create_repo(repository, private=options.get("private"), exist_ok=True)
        if revision:
            api.create_branch(repository, branch=revision, exist_ok=True)
        additions = [
            CommitOperationAdd(name, content if isinstance(content, bytes) else str(content))
            for name, content in files.items()
        ]
        message = options.get("commit_message") or "Upload with phenaki"
        return str(api.create_commit(repository, additions, commit_message=message, revision=revision).commit_url)
    except (HfHubHTTPError, LocalTokenNotFoundError) as error:
        status = getattr(getattr(error, "response", None), "status_code", 401)
        advice = ": run `hf auth login` with a token that may write there" if status in (401, 403) else ""
        raise PhenakiError(f"the Hugging Face hub refuses to write to '{repository}' ({status}){advice}") from error
    except Exception as error:  # network errors depend on the hub's HTTP client
        raise PhenakiError(f"the Hugging Face hub cannot be reached ({type(error).__name__}): {error}") from error
