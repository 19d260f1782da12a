"""Named, complete configurations. Each is a function that returns it whole; `key=value` overrides single values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from phenaki.conditioning import T5Config, WordEncoderConfig
from phenaki.core.errors import PhenakiError, did_you_mean
from phenaki.data.config import DataConfig
from phenaki.generators import MaskedTransformerSizes
from phenaki.generators.critic import CriticConfig
from phenaki.generators.losses import GeneratorLossConfig
from phenaki.sampling import SamplingConfig
from phenaki.tokenizers import Conv3DConfig, CViViTConfig, QuantizerConfig
from phenaki.tokenizers.discriminator import DiscriminatorConfig
from phenaki.tokenizers.losses import TokenizerLossConfig
from phenaki.training.config import RunConfig
from phenaki.training.critic import CriticRecipe
from phenaki.training.generator import GeneratorRecipe, PrefixConfig
from phenaki.training.optim import OptimizerConfig
from phenaki.training.tokenizer import TokenizerRecipe

Recipe = TypeVar("Recipe")


def cvivit_debug() -> TokenizerRecipe:
    """A first stage that trains in seconds, for tests and first tries."""
    return TokenizerRecipe(
        tokenizer=CViViTConfig(
            image_size=(32, 32),
            width=64,
            spatial_layers=1,
            temporal_layers=1,
            quantizer=QuantizerConfig(kind="fsq", levels=(8, 8, 8)),
        ),
        data=DataConfig(size=32, batch=4, lengths=(1, 5), length_shares=(0.25, 0.75), workers=0),
        optimizer=OptimizerConfig(kind="muon", lr=2e-3, warmup_steps=10, clip=1.0, ema_decay=0.9),
        run=RunConfig(steps=100, log_every=10, picture_every=100, checkpoint_every=50),
    )


def cvivit_debug_codebook() -> TokenizerRecipe:
    """`cvivit_debug` with the paper's quantizer in place of finite scalar quantization."""
    recipe = cvivit_debug()
    quantizer = QuantizerConfig(kind="codebook", codebook_size=512, code_dim=8)
    return replace(recipe, tokenizer=replace(recipe.tokenizer, quantizer=quantizer))


def cvivit_shapes_64() -> TokenizerRecipe:
    """The first stage of the released model `shapes-64`: small batches and Muon, as steps are what counts on a CPU."""
    return TokenizerRecipe(
        tokenizer=CViViTConfig(
            image_size=(64, 64),
            width=128,
            spatial_layers=2,
            temporal_layers=2,
            pixel_hidden=512,
            quantizer=QuantizerConfig(kind="fsq", levels=(8, 8, 6, 5)),
        ),
        data=DataConfig(batch=6, lengths=(1, 3, 11), length_shares=(0.1, 0.4, 0.5)),
        loss=TokenizerLossConfig(alike=0.01),
        optimizer=OptimizerConfig(kind="muon", lr=2e-3, warmup_steps=100, cooldown_fraction=0.5, clip=0.03),
        run=RunConfig(steps=12_000, log_every=25, picture_every=500, checkpoint_every=500),
    )


def cvivit_128() -> TokenizerRecipe:
    """The paper's first stage (appendix B.1): 11 frames of 128 x 128, 50 M parameters, 8192 codes, 1 M steps.

    A fifth of the steps see images alone. LPIPS and I3D need their weights: loss.lpips=0 loss.i3d=0 does without.
    """
    return TokenizerRecipe(
        data=DataConfig(size=128, batch=128, lengths=(1, 11), length_shares=(0.2, 0.8), workers=8),
        loss=TokenizerLossConfig(adversarial=0.1, lpips=0.1, i3d=1.0),
        optimizer=OptimizerConfig(kind="adamw", lr=1e-4, warmup_steps=100_000, ema_decay=0.9999),
        run=RunConfig(steps=1_000_000, log_every=100, picture_every=5000, checkpoint_every=5000),
    )


def cvivit_64() -> TokenizerRecipe:
    """`cvivit_128` for frames of 64 x 64."""
    return _at_64(cvivit_128())


def conv3d_debug() -> TokenizerRecipe:
    """A convolutional first stage that trains in seconds, for tests and first tries."""
    return TokenizerRecipe(
        tokenizer=Conv3DConfig(
            image_size=(32, 32),
            widths=(16, 32, 64),
            blocks=(1, 1, 1),
            quantizer=QuantizerConfig(kind="fsq", levels=(8, 8, 8)),
        ),
        data=DataConfig(size=32, batch=4, lengths=(1, 5), length_shares=(0.25, 0.75), workers=0),
        optimizer=OptimizerConfig(kind="adamw", lr=2e-3, warmup_steps=10, clip=1.0, ema_decay=0.9),
        run=RunConfig(steps=100, log_every=10, picture_every=100, checkpoint_every=50),
    )


def conv3d_128() -> TokenizerRecipe:
    """LAION's first stage: 11 frames of 128 x 128 and single images, 43 M parameters, 8192 codes, 100,000 steps.

    LPIPS needs its weights: loss.lpips=0 does without.
    """
    return TokenizerRecipe(
        tokenizer=Conv3DConfig(),
        data=DataConfig(size=128, batch=64, lengths=(1, 11), length_shares=(0.2, 0.8), workers=8),
        loss=TokenizerLossConfig(quantizer=0.1, adversarial=0.1, lpips=0.1),
        discriminator=DiscriminatorConfig(lr=3e-6),
        optimizer=OptimizerConfig(kind="adamw", lr=3e-4, warmup_steps=1000),
        run=RunConfig(steps=100_000, log_every=100, picture_every=5000, checkpoint_every=1000),
    )


def conv3d_64() -> TokenizerRecipe:
    """`conv3d_128` for frames of 64 x 64."""
    return _at_64(conv3d_128())


def masked_debug() -> GeneratorRecipe:
    """A second stage that trains in seconds, on the tokenizer of `cvivit_debug`."""
    return GeneratorRecipe(
        generator=MaskedTransformerSizes(frames=5, width=64, layers=2),
        text=WordEncoderConfig(width=64, layers=1),
        data=DataConfig(size=32, batch=4, lengths=(1, 5), length_shares=(0.25, 0.75), workers=0),
        prefix=PrefixConfig(steps=(0, 1), shares=(0.8, 0.2), continued_shares=(0.0, 1.0)),
        optimizer=OptimizerConfig(kind="muon", lr=2e-3, warmup_steps=10, clip=1.0, ema_decay=0.9),
        sampling=SamplingConfig(steps=4, prime_frames=1),
        run=RunConfig(steps=100, log_every=10, picture_every=100, checkpoint_every=50),
    )


def masked_shapes_64() -> GeneratorRecipe:
    """The second stage of the released model `shapes-64`."""
    return GeneratorRecipe(
        generator=MaskedTransformerSizes(frames=11, width=256, layers=6),
        text=WordEncoderConfig(width=192, layers=2),
        data=DataConfig(batch=8, lengths=(1, 11), length_shares=(0.3, 0.7), seed=1),
        prefix=PrefixConfig(
            steps=(0, 1, 3),
            shares=(0.25, 0.65, 0.1),
            continued_shares=(0.0, 0.85, 0.15),
            last=0.08,
            box=0.08,
            alone=0.2,
        ),
        loss=GeneratorLossConfig(label_smoothing=0.02, text_drop=0.1, first_frame_weight=2.0),
        optimizer=OptimizerConfig(kind="muon", lr=2e-3, warmup_steps=200, cooldown_fraction=0.35, clip=1.0),
        sampling=SamplingConfig(
            steps=8,
            guidance=1.5,
            temperature=0.4,
            choice_temperature=4.0,
            prime_frames=1,
            first_frame_alone=True,
            first_frame_steps=36,
            guidance_share=0.5,
        ),
        run=RunConfig(steps=20_000, log_every=25, picture_every=500, checkpoint_every=250),
    )


def base_128() -> GeneratorRecipe:
    """A second stage of 126 M parameters for one GPU, on ids of 11 frames of 128 x 128 (a grid of 6 x 16 x 16), with
    T5's text. A fifth of the steps see images alone."""
    return GeneratorRecipe(
        generator=MaskedTransformerSizes(frames=11, width=768, layers=12),
        text=T5Config("google/t5-v1_1-base", width=768),
        data=DataConfig(size=128, batch=64, lengths=(1, 11), length_shares=(0.2, 0.8), workers=8, seed=1),
        optimizer=OptimizerConfig(kind="muon", lr=1e-3, warmup_steps=2000, cooldown_fraction=0.35, clip=1.0),
        sampling=SamplingConfig(steps=24, guidance=4.0, prime_frames=5),
        run=RunConfig(steps=200_000, log_every=100, picture_every=5000, checkpoint_every=1000),
    )


def paper() -> GeneratorRecipe:
    """The paper's second stage (section 2.2): 1.8 B parameters, T5 XXL's text, batches of 512, 1 M steps.

    A fifth of the steps see images alone, as in its joint training.
    """
    return GeneratorRecipe(
        generator=MaskedTransformerSizes(frames=11, width=2048, layers=24),
        text=T5Config("google/t5-v1_1-xxl", width=4096),
        data=DataConfig(size=128, batch=512, lengths=(1, 11), length_shares=(0.2, 0.8), workers=8, seed=1),
        loss=GeneratorLossConfig(text_drop=0.1),
        optimizer=OptimizerConfig(kind="adamw", lr=1e-4, warmup_steps=10_000, ema_decay=0.9999),
        sampling=SamplingConfig(steps=48, guidance=12.0, choice_temperature=8.0, prime_frames=5),
        run=RunConfig(steps=1_000_000, log_every=100, picture_every=5000, checkpoint_every=1000),
    )


def critic_debug() -> CriticRecipe:
    """A critic that trains in seconds, for models of `masked_debug`."""
    of = masked_debug()
    run = replace(of.run, steps=50, picture_every=50)
    return CriticRecipe(CriticConfig("token", layers=1), of.data, of.prefix, of.optimizer, run)


def critic_shapes_64() -> CriticRecipe:
    """A critic for the released model `shapes-64`, as large as its generator and by the same data; it judges ids as
    sampling draws them."""
    of = masked_shapes_64()
    critic, run = CriticConfig("token", temperature=of.sampling.temperature), replace(of.run, steps=8_000)
    return CriticRecipe(critic, of.data, of.prefix, of.optimizer, run)


TOKENIZER_RECIPES: dict[str, Callable[[], TokenizerRecipe]] = {
    f.__name__: f
    for f in (
        cvivit_debug,
        cvivit_debug_codebook,
        cvivit_shapes_64,
        cvivit_64,
        cvivit_128,
        conv3d_debug,
        conv3d_64,
        conv3d_128,
    )
} | {"cvivit_paper": cvivit_128}
GENERATOR_RECIPES: dict[str, Callable[[], GeneratorRecipe]] = {
    f.__name__: f for f in (masked_debug, masked_shapes_64, base_128, paper)
}
CRITIC_RECIPES: dict[str, Callable[[], CriticRecipe]] = {f.__name__: f for f in (critic_debug, critic_shapes_64)}
_TRAININGS = {"tokenizer": TOKENIZER_RECIPES, "generator": GENERATOR_RECIPES, "critic": CRITIC_RECIPES}


def _at_64(recipe: TokenizerRecipe) -> TokenizerRecipe:
    return replace(recipe, tokenizer=replace(recipe.tokenizer, image_size=(64, 64)), data=replace(recipe.data, size=64))


def recipe(name: str, recipes: dict[str, Callable[[], Recipe]]) -> Recipe:
    """The recipe of that name. Raises PhenakiError, naming those there are, for any other."""
    if name not in recipes:
        of = next((training for training, others in _TRAININGS.items() if name in others), None)
        trouble = f"there is no recipe '{name}'.{did_you_mean(name, recipes)}"
        if of:
            trouble = f"'{name}' is a {of}'s recipe, for `phenaki train {of}`, and none of those that are wanted here."
        raise PhenakiError(f"{trouble} Recipes: {', '.join(sorted(recipes))}.")
    return recipes[name]()
