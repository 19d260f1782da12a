"""Recipes of the first stage."""

from __future__ import annotations

from dataclasses import replace

from phenaki.data.config import DataConfig
from phenaki.tokenizers import Conv3DConfig, CViViTConfig, QuantizerConfig
from phenaki.tokenizers.discriminator import DiscriminatorConfig
from phenaki.tokenizers.losses import TokenizerLossConfig
from phenaki.training.config import RunConfig
from phenaki.training.optim import OptimizerConfig
from phenaki.training.recipes.shapes import SHAPES
from phenaki.training.tokenizer import TokenizerRecipe


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
        data=DataConfig(SHAPES, size=32, batch=4, lengths=(1, 5), length_weights=(0.25, 0.75), workers=0),
        optimizer=OptimizerConfig(kind="muon", lr=2e-3, warmup_steps=10, clip=1.0, ema_decay=0.9),
        run=RunConfig(steps=100, log_every=10, eval_every=100, checkpoint_every=50),
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
        data=DataConfig(SHAPES, batch=6, lengths=(1, 3, 11), length_weights=(0.1, 0.4, 0.5)),
        loss=TokenizerLossConfig(token_consistency=0.01),
        optimizer=OptimizerConfig(kind="muon", lr=2e-3, warmup_steps=100, cooldown_fraction=0.5, clip=0.03),
        run=RunConfig(steps=12_000, log_every=25, eval_every=500, checkpoint_every=500),
    )


def cvivit_shapes_64_streaming() -> TokenizerRecipe:
    """`cvivit_shapes_64` for videos of any length: clips of up to 53 frames, 27 latent frames, which is more than the
    three windows that streaming needs. The first frame, one of so many, has a smaller fraction of the loss."""
    recipe = cvivit_shapes_64()
    lengths = {"lengths": (1, 11, 35, 53), "length_weights": (0.05, 0.3, 0.4, 0.25)}
    return replace(
        recipe,
        data=replace(recipe.data, batch=2, **lengths),
        loss=replace(recipe.loss, first_frame_fraction=0.15),
    )


def cvivit_laptop_64() -> TokenizerRecipe:
    """A first stage for your own videos on a laptop or a small GPU: sharp edges by a convolutional stem, 48 bits per
    patch as four ids of 4096 codes, a start at principal components, and a temporal window of which clips of 17 frames
    hold three."""
    return TokenizerRecipe(
        tokenizer=CViViTConfig(
            image_size=(64, 64),
            width=192,
            spatial_layers=2,
            temporal_layers=2,
            stem=(24, 48),
            linear_skip=True,
            window=3,
            quantizer=QuantizerConfig(kind="fsq", levels=(8, 8, 4, 4, 4) * 4, num_codebooks=4),
        ),
        data=DataConfig(SHAPES, batch=2, lengths=(1, 7, 17), length_weights=(0.1, 0.3, 0.6)),
        loss=TokenizerLossConfig(l1=0.1, first_frame_fraction=0.15),
        optimizer=OptimizerConfig(
            kind="muon", lr=1e-3, warmup_steps=100, cooldown_fraction=0.5, clip=0.03, ema_decay=0.99
        ),
        run=RunConfig(steps=6_000, log_every=25, eval_every=500, checkpoint_every=250),
    )


def cvivit_laptop_128() -> TokenizerRecipe:
    """`cvivit_laptop_64` for frames of 128 x 128: patches of 16 x 16, so that a generator has as many ids to write."""
    recipe = cvivit_laptop_64()
    sizes = {"image_size": (128, 128), "patch": (2, 16, 16), "width": 192, "stem": (24, 48, 96)}
    return replace(recipe, tokenizer=replace(recipe.tokenizer, **sizes), data=replace(recipe.data, size=128))


def cvivit_128() -> TokenizerRecipe:
    """The paper's first stage (appendix B.1): 11 frames of 128 x 128, 50 M parameters, 8192 codes, 1 M steps.

    A fifth of the steps see images alone. LPIPS and I3D need their weights: loss.lpips=0 loss.i3d=0 does without.
    """
    return TokenizerRecipe(
        data=DataConfig(SHAPES, size=128, batch=128, lengths=(1, 11), length_weights=(0.2, 0.8), workers=8),
        loss=TokenizerLossConfig(adversarial=0.1, lpips=0.1, i3d=1.0),
        optimizer=OptimizerConfig(kind="adamw", lr=1e-4, warmup_steps=100_000, ema_decay=0.9999),
        run=RunConfig(steps=1_000_000, log_every=100, eval_every=5000, checkpoint_every=5000, compile=None),
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
        data=DataConfig(SHAPES, size=32, batch=4, lengths=(1, 5), length_weights=(0.25, 0.75), workers=0),
        optimizer=OptimizerConfig(kind="adamw", lr=2e-3, warmup_steps=10, clip=1.0, ema_decay=0.9),
        run=RunConfig(steps=100, log_every=10, eval_every=100, checkpoint_every=50),
    )


def conv3d_128() -> TokenizerRecipe:
    """LAION's first stage: 11 frames of 128 x 128 and single images, 43 M parameters, 8192 codes, 100,000 steps.

    LPIPS needs its weights: loss.lpips=0 does without.
    """
    return TokenizerRecipe(
        tokenizer=Conv3DConfig(),
        data=DataConfig(SHAPES, size=128, batch=64, lengths=(1, 11), length_weights=(0.2, 0.8), workers=8),
        loss=TokenizerLossConfig(quantizer=0.1, adversarial=0.1, lpips=0.1),
        discriminator=DiscriminatorConfig(lr=3e-6),
        optimizer=OptimizerConfig(kind="adamw", lr=3e-4, warmup_steps=1000),
        run=RunConfig(steps=100_000, log_every=100, eval_every=5000, checkpoint_every=1000, compile=None),
    )


def conv3d_64() -> TokenizerRecipe:
    """`conv3d_128` for frames of 64 x 64."""
    return _at_64(conv3d_128())


def _at_64(recipe: TokenizerRecipe) -> TokenizerRecipe:
    return replace(recipe, tokenizer=replace(recipe.tokenizer, image_size=(64, 64)), data=replace(recipe.data, size=64))
