"""Stage 2: ids from text."""

from phenaki.core.actions import ActionSpec
from phenaki.core.registry import GENERATORS
from phenaki.generators.base import FORWARD_METHODS, Condition, Generator
from phenaki.generators.causal import CausalTransformer, CausalTransformerConfig, CausalTransformerSizes
from phenaki.generators.components import Components
from phenaki.generators.masked import MaskedTransformer, MaskedTransformerConfig, MaskedTransformerSizes
from phenaki.tokenizers.spec import TokenizerSpec

GENERATORS.register("masked", MaskedTransformerConfig, MaskedTransformer)
GENERATORS.register("causal", CausalTransformerConfig, CausalTransformer)

GeneratorSizes = MaskedTransformerSizes | CausalTransformerSizes
"""What a recipe chooses; its type chooses the generator. Sizes with a `window` are of a causal one."""


def build_generator(
    sizes: GeneratorSizes, tokenizer: TokenizerSpec, text_width: int, actions: ActionSpec | None = None
) -> Generator:
    """The generator, randomly initialised, that the sizes are for."""
    config = sizes.config(*((tokenizer, text_width) if actions is None else (tokenizer, text_width, actions)))
    return GENERATORS.model_class(config)(config)
