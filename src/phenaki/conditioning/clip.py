"""The text encoder of CLIP (2103.00020)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from phenaki.conditioning.base import Text
from phenaki.conditioning.pretrained import PretrainedConfig, PretrainedEncoder, read_sizes
from phenaki.core.errors import PhenakiError

KINDS = ("clip", "clip_text_model")  # as transformers calls them


@dataclass(frozen=True)
class CLIPConfig(PretrainedConfig):
    """`pooled`: whether the embedding that CLIP compares with pictures follows the tokens', as one token more."""

    name: str = "openai/clip-vit-large-patch14"
    width: int = 768
    length: int = 77
    pooled: bool = False


class CLIPEncoder(PretrainedEncoder):
    """Prompts -> the last states of CLIP's text tower (B, L, D), a token each, those of start and end too; with
    `pooled` (B, L + 1, D). Raises PhenakiError for a `length` that it has no positions for, too."""

    def __init__(self, config: CLIPConfig):
        super().__init__(config)
        sizes = self.network.config
        self._check_width(sizes.hidden_size)
        if config.length > sizes.max_position_embeddings:
            raise PhenakiError(
                f"text.length {config.length}: '{config.name}' reads at most {sizes.max_position_embeddings} tokens"
            )
        if config.pooled and sizes.projection_dim != sizes.hidden_size:
            raise PhenakiError(
                f"the pooled embedding of '{config.name}' has width {sizes.projection_dim} and its tokens have "
                f"{sizes.hidden_size}, so it cannot be one of them: take text.pooled=false"
            )

    def _load(self, transformers: ModuleType, folder: Path, **options: Any) -> tuple[nn.Module, dict[str, Any]]:
        kind = transformers.CLIPTextModelWithProjection if self.config.pooled else transformers.CLIPTextModel
        options |= {"config": read_sizes(folder), "local_files_only": True, "output_loading_info": True}
        return kind.from_pretrained(folder, **options)

    def _embed(self, ids: Tensor, mask: Tensor) -> Text:
        read = self.network(input_ids=ids, attention_mask=mask.long())
        if not self.config.pooled:
            return Text(read.last_hidden_state, mask)
        embeddings = torch.cat((read.last_hidden_state, read.text_embeds[:, None]), 1)
        return Text(embeddings, torch.cat((mask, torch.ones_like(mask[:, :1])), 1))
