"""T5, the paper's text encoder (1910.10683; paper, section 2.2): T5 v1.1, Flan-T5, mT5, umT5, ByT5."""

from __future__ import annotations

from types import ModuleType

from torch import Tensor, nn

from phenaki.conditioning.base import Text
from phenaki.conditioning.pretrained import PretrainedConfig, PretrainedEncoder
from phenaki.core.config import bounded, configclass

KINDS = ("t5", "mt5", "umt5")  # model_type in transformers


@configclass
class T5Config(PretrainedConfig):
    name: str = "google/t5-v1_1-base"
    width: int = bounded(768, at_least=1)
    length: int = bounded(128, at_least=2)


class T5Encoder(PretrainedEncoder):
    """Prompts -> the hidden states of T5's encoder (B, L, D), end token included."""

    def __init__(self, config: T5Config):
        super().__init__(config)
        self._check_width(self.network.config.d_model)

    def _network_class(self, transformers: ModuleType) -> type[nn.Module]:
        return transformers.AutoModelForTextEncoding

    def _embed(self, ids: Tensor, mask: Tensor) -> Text:
        return Text(self.network(input_ids=ids, attention_mask=mask.long()).last_hidden_state, mask)
