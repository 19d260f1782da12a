"""Text encoders with one contract (base.py).

`words`: bytes grouped into words, trained with the generator. `t5` and `clip`: pretrained, frozen, by name or folder.
`none`: for generators without text. Embeddings that the caller computed are a `Text`.
"""

import os

from phenaki.conditioning import clip, t5
from phenaki.conditioning.base import Text, TextEncoder
from phenaki.conditioning.clip import CLIPConfig, CLIPEncoder
from phenaki.conditioning.none import NoText, NoTextConfig
from phenaki.conditioning.pretrained import read_sizes
from phenaki.conditioning.t5 import T5Config, T5Encoder
from phenaki.conditioning.words import WordEncoder, WordEncoderConfig
from phenaki.core import hub
from phenaki.core.components import CONFIG_FILE, read_json
from phenaki.core.errors import PhenakiError
from phenaki.core.registry import TEXT_ENCODERS

TEXT_ENCODERS.register("words", WordEncoderConfig, WordEncoder)
TEXT_ENCODERS.register("t5", T5Config, T5Encoder)
TEXT_ENCODERS.register("clip", CLIPConfig, CLIPEncoder)
TEXT_ENCODERS.register("none", NoTextConfig, NoText)

TextConfig = NoTextConfig | WordEncoderConfig | T5Config | CLIPConfig


def encoder_class(config: TextConfig) -> type[TextEncoder]:
    """The class that a configuration builds."""
    return TEXT_ENCODERS.model_class(config)


def named_config(name: str) -> TextConfig | None:
    """The configuration of "none", or of a T5 or CLIP in a folder or the Hugging Face cache; None for a phenaki model.

    A folder's path is made absolute; the length is the network's. Raises PhenakiError if the name is not on this
    machine or is another kind of network.
    """
    if name == "none":
        return NoTextConfig()
    if name in hub.model_names():
        return None
    folder = hub.local_folder(name)
    if (folder / hub.MODEL_FILE).is_file():
        return None
    kind = read_json(folder / CONFIG_FILE).get("model_type")
    if kind is None:
        return None
    source = str(folder.resolve()) if os.path.isdir(name) else name
    if kind in t5.KINDS:
        return T5Config(source, width=read_sizes(folder).d_model)
    if kind in clip.KINDS:
        sizes = read_sizes(folder)
        return CLIPConfig(source, width=sizes.hidden_size, length=sizes.max_position_embeddings)
    raise PhenakiError(
        f"'{name}' is a {kind}: supported text encoders are T5 ({', '.join(t5.KINDS)}), CLIP and phenaki's own"
    )
