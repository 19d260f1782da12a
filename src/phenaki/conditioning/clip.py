"""The text encoder of CLIP (2103.00020)."""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor, nn

from phenaki.conditioning.base import Text
from phenaki.conditioning.pretrained import PretrainedConfig, PretrainedEncoder
from phenaki.core.config import bounded, configclass
from phenaki.core.errors import PhenakiError

KINDS = ("clip", "clip_text_model")  # model_type in transformers


@configclass
class CLIPConfig(PretrainedConfig):
    """pooled: append the embedding that CLIP compares with images, as one more token."""

    name: str = "openai/clip-vit-large-patch14"
    width: int = bounded(768, at_least=1)
    length: int = bounded(77, at_least=2)
    pooled: bool = False


class CLIPEncoder(PretrainedEncoder):
    """Prompts -> the last hidden states of CLIP's text model (B, L, D), special tokens included; (B, L + 1, D) with
    `pooled`. Also raises PhenakiError for a `length` beyond its position embeddings."""

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
                f"{sizes.hidden_size}, so it cannot be appended: use text.pooled=false"
            )

    def _network_class(self, transformers: ModuleType) -> type[nn.Module]:
        return transformers.CLIPTextModelWithProjection if self.config.pooled else transformers.CLIPTextModel

    def _embed(self, ids: Tensor, mask: Tensor) -> Text:
        out = self.network(input_ids=ids, attention_mask=mask.long())
        if not self.config.pooled:
            return Text(out.last_hidden_state, mask)
        embeddings = torch.cat((out.last_hidden_state, out.text_embeds[:, None]), 1)
        return Text(embeddings, torch.cat((mask, torch.ones_like(mask[:, :1])), 1))
