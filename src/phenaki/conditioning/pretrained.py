"""Pretrained, frozen text encoders, loaded with transformers from a folder or from the Hugging Face cache.

Their weights are not copied: a model's text/ folder holds only a config.json that names the encoder.
"""

from __future__ import annotations

import sys
import threading
import warnings
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from phenaki.conditioning.base import Text, TextEncoder, check_text
from phenaki.core.components import ExternalWeights
from phenaki.core.config import bounded, configclass
from phenaki.core.errors import PhenakiError, PhenakiWarning
from phenaki.core.hub import local_folder
from phenaki.core.precision import prefers_bfloat16

_EXCERPT = 40  # characters before the cut, in the warning
_TOKENIZING = threading.Lock()  # a transformers tokenizer keeps its truncation setting as state


@configclass
class PretrainedConfig:
    """name: a folder as `hf download --local-dir` writes it, or `owner/name` on the Hugging Face hub."""

    name: str
    width: int = bounded(at_least=1)
    """Of the embeddings."""
    length: int = bounded(at_least=2)
    """Prompts are truncated to this many tokens, special tokens included."""
    revision: str = ""
    """Branch, tag or commit on the hub; empty: the main branch."""
    dtype: Literal["stored", "float32", "bfloat16", "float16"] = "stored"
    """Of the computation; "stored": as in the files, but bfloat16 on GPUs where those are float32."""

    def check(self, prompt: str) -> None:
        """Any text is valid, empty ones too; long ones are truncated."""
        check_text(prompt)


class PretrainedEncoder(ExternalWeights, TextEncoder):
    """A frozen encoder that computes in its own dtype and returns float32.

    Subclasses define `_network_class` and `_embed`. Raises PhenakiError if the encoder is not on this machine, naming
    what to download, is incomplete, or has another width than configured.
    """

    learned = False
    dtypes = (*TextEncoder.dtypes, torch.float16)

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
                network, loaded = self._network_class(transformers).from_pretrained(
                    folder, config=read_sizes(folder), dtype=dtype, local_files_only=True, output_loading_info=True
                )
            except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:  # whatever its parts raise
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                raise PhenakiError(f"the text encoder in '{folder}' cannot be loaded: {reason}") from error
        if missing := sorted(loaded["missing_keys"]):  # transformers initialises them randomly
            raise PhenakiError(
                f"the {type(self).__name__} in '{folder}' is incomplete: {len(missing)} of its weights are missing, "
                f"such as {missing[0]}. Download it again"
            )
        self.network: nn.Module = network.eval().requires_grad_(False)

    @abstractmethod
    def _network_class(self, transformers: ModuleType) -> type[nn.Module]:
        """The class of transformers that loads the network."""

    @abstractmethod
    def _embed(self, ids: Tensor, mask: Tensor) -> Text:
        """ids int64 (B, L), arbitrary where `mask` (bool (B, L)) is False -> embeddings and mask."""

    def _check_width(self, width: int) -> None:
        if width != self.width:
            raise PhenakiError(
                f"the embeddings of '{self.config.name}' have width {width}, not {self.width}: set text.width={width} "
                "for a new generator, or use the text encoder that the generator was trained with"
            )

    def train(self, mode: bool = True) -> PretrainedEncoder:
        """Stay in evaluation mode, without dropout."""
        return super().train(False)

    def tokenize(self, prompts: Sequence[str]) -> Tensor:
        """Prompts -> int64 (B, L): ids + 1, padded with 0, truncated to `length`."""
        with _TOKENIZING:
            encoded = self._tokenizer(list(prompts), truncation=True, max_length=self.config.length)
        return pad_sequence([torch.tensor(ids, dtype=torch.long) + 1 for ids in encoded["input_ids"]], batch_first=True)

    @torch.no_grad()
    def forward(self, tokens: Tensor) -> Text:
        mask = tokens > 0
        in_bfloat16 = self.config.dtype == "stored" and tokens.is_cuda and prefers_bfloat16(tokens.device)
        with torch.autocast(tokens.device.type, torch.bfloat16, enabled=in_bfloat16):
            text = self._embed((tokens - 1).clamp_min(0), mask)
        return text._replace(embeddings=text.embeddings.float())

    def encode(self, prompts: Sequence[str]) -> Text:
        """Check and encode prompts, with a warning for each that is truncated."""
        with _TOKENIZING:
            for prompt in dict.fromkeys(prompts):
                self._warn_if_truncated(prompt)
        return super().encode(prompts)

    def _warn_if_truncated(self, prompt: str) -> None:
        count, length = len(self._tokenizer(prompt, verbose=False)["input_ids"]), self.config.length
        if count <= length:
            return
        kept = self._tokenizer(prompt, truncation=True, max_length=length)["input_ids"]
        end = self._tokenizer.decode(kept, skip_special_tokens=True).strip()[-_EXCERPT:]
        warnings.warn(
            f"the prompt has {count} tokens and this text encoder reads {length}: it is truncated after '...{end}'. "
            "Shorten it, or pass its scenes as several prompts",
            PhenakiWarning,
            stacklevel=3,
        )


def read_sizes(folder: Path) -> Any:
    """The transformers configuration of the text encoder in a folder."""
    config = _transformers().AutoConfig.from_pretrained(folder, local_files_only=True)
    sizes = getattr(config, "text_config", config)
    if hasattr(config, "projection_dim"):  # may be unset in text_config
        sizes.projection_dim = config.projection_dim
    return sizes


def _transformers() -> ModuleType:
    try:
        import transformers
    except ImportError as error:
        raise PhenakiError(
            "T5 and CLIP need transformers, which is not installed: pip install 'phenaki[text]'"
        ) from error
    return transformers


@contextmanager
def _quiet(transformers: ModuleType) -> Iterator[None]:
    """Silence transformers while it loads, and its progress bar unless stderr is a terminal."""
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
