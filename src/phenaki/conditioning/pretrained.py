"""Pretrained, frozen text encoders, read with transformers from a folder or from the user's cache of the hub.

Their weights stay where they are: a model's text/ holds a config.json that says which encoder read its text, no more.
"""

from __future__ import annotations

import sys
import threading
import warnings
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from phenaki.conditioning.base import Text, TextEncoder
from phenaki.core.components import ExternalWeights
from phenaki.core.errors import PhenakiError, PhenakiWarning
from phenaki.core.hub import local_folder

_SHOWN = 40  # letters of a prompt, where it is cut
_READING = threading.Lock()  # a tokenizer of transformers is told to cut or not by its own state


@dataclass(frozen=True)
class PretrainedConfig:
    """`name`: a folder as `hf download --local-dir` writes it, or `owner/name` of the Hugging Face hub. `width`: of its
    embeddings. `length`: tokens, those at the ends included, after which a prompt is cut. `revision`: branch, tag or
    commit on the hub, "" for its main branch. `dtype`: in which it computes; "stored" is that of its files."""

    name: str
    width: int
    length: int
    revision: str = ""
    dtype: Literal["stored", "float32", "bfloat16", "float16"] = "stored"

    def __post_init__(self) -> None:
        for key, least in (("width", 1), ("length", 2)):
            if getattr(self, key) < least:
                raise PhenakiError(f"text.{key} {getattr(self, key)} must be {least} or more")

    def check(self, prompt: str) -> None:
        """Any text can be read, none too; what is too long is cut."""


class PretrainedEncoder(ExternalWeights, TextEncoder):
    """The network is frozen, computes in its own dtype and hands out float32.

    Subclasses define `_load` and `_embed`. Raises PhenakiError where the encoder is not on this machine, with what to
    download and where to put it, where its files are not whole, and where its width is not the configured one.
    """

    learned = False

    def __init__(self, config: PretrainedConfig):
        super().__init__()
        self.config = config
        self.width = config.width
        transformers = _transformers()
        folder = local_folder(config.name, config.revision)
        dtype = "auto" if config.dtype == "stored" else getattr(torch, config.dtype)
        with _quiet(transformers):
            try:
                self._tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
                network, loaded = self._load(transformers, folder, dtype=dtype)
            except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:  # as its many parts may
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                raise PhenakiError(f"the text encoder in '{folder}' cannot be loaded: {reason}") from error
        if missing := sorted(loaded["missing_keys"]):  # transformers makes them up
            raise PhenakiError(
                f"'{folder}' holds no whole {type(self).__name__}: of its weights {len(missing)} are missing, "
                f"{missing[0]} first. Download it again"
            )
        self.network: nn.Module = network.eval().requires_grad_(False)

    @abstractmethod
    def _load(self, transformers: ModuleType, folder: Path, **options: Any) -> tuple[nn.Module, dict[str, Any]]:
        """The network, and what transformers says of its loading."""

    @abstractmethod
    def _embed(self, ids: Tensor, mask: Tensor) -> Text:
        """ids int64 (B, L), anything where `mask` (bool (B, L)) is False -> embeddings and mask."""

    def _check_width(self, width: int) -> None:
        if width != self.width:
            raise PhenakiError(
                f"the embeddings of '{self.config.name}' have width {width} and not {self.width}: set text.width="
                f"{width} for a new generator, or take the text encoder that the generator was trained with"
            )

    def train(self, mode: bool = True) -> PretrainedEncoder:
        """It stays in evaluation mode: its dropout is not for us."""
        return super().train(False)

    def tokenize(self, prompts: Sequence[str]) -> Tensor:
        """Prompts -> int64 (B, L): ids + 1, 0 where there is none; cut after `length` tokens."""
        with _READING:
            read = self._tokenizer(list(prompts), truncation=True, max_length=self.config.length)
        return pad_sequence([torch.tensor(ids, dtype=torch.long) + 1 for ids in read["input_ids"]], batch_first=True)

    @torch.no_grad()
    def forward(self, tokens: Tensor) -> Text:
        mask = tokens > 0
        with torch.autocast(tokens.device.type, enabled=False):
            text = self._embed((tokens - 1).clamp_min(0), mask)
        return text._replace(embeddings=text.embeddings.float())

    def encode(self, prompts: Sequence[str]) -> Text:
        """As the base; warns of each prompt that is cut, with where."""
        with _READING:
            for prompt in dict.fromkeys(prompts):
                self._warn_if_cut(prompt)
        return super().encode(prompts)

    def _warn_if_cut(self, prompt: str) -> None:
        count, length = len(self._tokenizer(prompt, verbose=False)["input_ids"]), self.config.length
        if count <= length:
            return
        kept = self._tokenizer(prompt, truncation=True, max_length=length)["input_ids"]
        end = self._tokenizer.decode(kept, skip_special_tokens=True).strip()[-_SHOWN:]
        warnings.warn(
            f"the prompt has {count} tokens and this text encoder reads {length}: it is cut after '...{end}'. "
            "Shorten it, or give its scenes as several prompts",
            PhenakiWarning,
            stacklevel=3,
        )


def read_sizes(folder: Path) -> Any:
    """The configuration, by transformers, of the text encoder in a folder."""
    whole = _transformers().AutoConfig.from_pretrained(folder, local_files_only=True)
    sizes = getattr(whole, "text_config", whole)
    if hasattr(whole, "projection_dim"):  # that of a part may not have been set
        sizes.projection_dim = whole.projection_dim
    return sizes


def _transformers() -> ModuleType:
    try:
        import transformers
    except ImportError as error:
        raise PhenakiError(
            "T5 and CLIP are read with transformers, which is not installed: pip install 'phenaki[text]'"
        ) from error
    return transformers


@contextmanager
def _quiet(transformers: ModuleType) -> Iterator[None]:
    """What it says while it loads is left out, and its progress bar where there is no terminal."""
    logging = transformers.utils.logging
    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()
