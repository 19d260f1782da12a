"""Recipes of the second stage."""

from __future__ import annotations

from dataclasses import replace

from phenaki.conditioning import T5Config, WordEncoderConfig
from phenaki.data.config import DataConfig
from phenaki.generators import CausalTransformerSizes, MaskedTransformerSizes
from phenaki.generators.losses import GeneratorLossConfig
from phenaki.sampling import DecodingConfig, GuidanceConfig, RolloutConfig, SamplingConfig
from phenaki.training.config import RunConfig
from phenaki.training.generator import GeneratorRecipe
from phenaki.training.masking import PrefixConfig
from phenaki.training.optim import OptimizerConfig
from phenaki.training.recipes.shapes import RECORDINGS, SHAPES


def masked_debug() -> GeneratorRecipe:
    """A second stage that trains in seconds, on the tokenizer of `cvivit_debug`."""
    return GeneratorRecipe(
        generator=MaskedTransformerSizes(frames=5, width=64, layers=2),
        text=WordEncoderConfig(width=64, layers=1),
        data=DataConfig(SHAPES, size=32, batch=4, lengths=(1, 5), length_weights=(0.25, 0.75), workers=0),
        prefix=PrefixConfig(latent_frames=(0, 1), probabilities=(0.8, 0.2), continued_probabilities=(0.0, 1.0)),
        optimizer=OptimizerConfig(kind="muon", lr=2e-3, warmup_steps=10, clip=1.0, ema_decay=0.9),
        sampling=SamplingConfig(DecodingConfig(steps=4), rollout=RolloutConfig(prime_frames=1)),
        run=RunConfig(steps=100, log_every=10, eval_every=100, checkpoint_every=50),
    )


def masked_shapes_64() -> GeneratorRecipe:
    """The second stage of the released model `shapes-64`."""
    return GeneratorRecipe(
        generator=MaskedTransformerSizes(frames=11, width=256, layers=6),
        text=WordEncoderConfig(width=192, layers=2),
        data=DataConfig(SHAPES, batch=8, lengths=(1, 11), length_weights=(0.3, 0.7), seed=1),
        prefix=PrefixConfig(
            latent_frames=(0, 1, 3),
            probabilities=(0.25, 0.65, 0.1),
            continued_probabilities=(0.0, 0.85, 0.15),
            last=0.08,
            box=0.08,
            alone=0.2,
        ),
        loss=GeneratorLossConfig(label_smoothing=0.02, text_drop=0.1, first_frame_weight=2.0),
        optimizer=OptimizerConfig(kind="muon", lr=2e-3, warmup_steps=200, cooldown_fraction=0.35, clip=1.0),
        sampling=SamplingConfig(
            DecodingConfig(steps=8, temperature=0.4, choice_temperature=4.0),
            GuidanceConfig(scale=1.5, fraction=0.5),
            RolloutConfig(prime_frames=1, first_frame_alone=True, first_frame_steps=36),
        ),
        run=RunConfig(steps=20_000, log_every=25, eval_every=500, checkpoint_every=250),
    )


def causal_debug() -> GeneratorRecipe:
    """A causal second stage that trains in seconds, on the tokenizer of `cvivit_debug`, with keys."""
    base = masked_debug()
    return replace(
        base,
        generator=CausalTransformerSizes(frames=13, width=64, layers=2, window=3),
        data=DataConfig(RECORDINGS, size=32, batch=4, lengths=(1, 13), length_weights=(0.25, 0.75), workers=0),
        loss=GeneratorLossConfig(history_noise=0.05),
    )


def causal_shapes_64() -> GeneratorRecipe:
    """A causal second stage of the world of shapes, with keys, to be fine-tuned from the generator of `shapes-64` on
    the ids of a tokenizer of `cvivit_shapes_64_streaming`: clips of up to 26 latent frames in which captions switch."""
    return GeneratorRecipe(
        generator=CausalTransformerSizes(frames=51, width=256, layers=6, window=6),
        text=WordEncoderConfig(width=192, layers=2),
        data=DataConfig(RECORDINGS, batch=4, lengths=(1, 11, 25, 51), length_weights=(0.1, 0.2, 0.25, 0.45), seed=1),
        loss=GeneratorLossConfig(label_smoothing=0.02, first_frame_weight=2.0, history_noise=0.06),
        optimizer=OptimizerConfig(kind="muon", lr=1e-3, warmup_steps=30, cooldown_fraction=0.35, clip=1.0),
        sampling=SamplingConfig(
            DecodingConfig(steps=8, temperature=0.4, choice_temperature=4.0),
            GuidanceConfig(scale=1.5),
            RolloutConfig(scene_frames=11, first_frame_steps=36),
        ),
        run=RunConfig(steps=3_000, log_every=25, eval_every=500, checkpoint_every=100),
    )


def causal_laptop_64() -> GeneratorRecipe:
    """A causal second stage for your own recordings, with their actions if they have any, on the ids of
    `cvivit_laptop_64`. Some ids of the past are wrong in training, against drift."""
    return GeneratorRecipe(
        generator=CausalTransformerSizes(frames=17, width=256, layers=6, window=6),
        text=WordEncoderConfig(width=192, layers=2),
        data=DataConfig(RECORDINGS, batch=4, lengths=(1, 17), length_weights=(0.1, 0.9), seed=1),
        tie_levels=True,
        loss=GeneratorLossConfig(label_smoothing=0.02, first_frame_weight=2.0, history_noise=0.06),
        optimizer=OptimizerConfig(kind="muon", lr=2e-3, warmup_steps=50, cooldown_fraction=0.5, clip=1.0),
        sampling=SamplingConfig(
            DecodingConfig(steps=6, temperature=0.8, choice_temperature=4.0),
            GuidanceConfig(scale=1.5),
            RolloutConfig(scene_frames=17, first_frame_steps=24),
        ),
        run=RunConfig(steps=20_000, log_every=25, eval_every=500, checkpoint_every=250),
    )


def causal_laptop_128() -> GeneratorRecipe:
    """`causal_laptop_64`, larger, on the ids of `cvivit_laptop_128`."""
    recipe = causal_laptop_64()
    sizes = replace(recipe.generator, width=384, layers=8)
    return replace(recipe, generator=sizes, data=replace(recipe.data, size=128))


def base_128() -> GeneratorRecipe:
    """A second stage of 126 M parameters for one GPU, on ids of 11 frames of 128 x 128 (a grid of 6 x 16 x 16), with
    T5's text. A fifth of the steps see images alone."""
    return GeneratorRecipe(
        generator=MaskedTransformerSizes(frames=11, width=768, layers=12),
        text=T5Config("google/t5-v1_1-base", width=768),
        data=DataConfig(SHAPES, size=128, batch=64, lengths=(1, 11), length_weights=(0.2, 0.8), workers=8, seed=1),
        optimizer=OptimizerConfig("muon", lr=1e-3, warmup_steps=2000, cooldown_fraction=0.35, clip=1.0, accumulate=2),
        sampling=SamplingConfig(DecodingConfig(steps=24), GuidanceConfig(scale=4.0), RolloutConfig(prime_frames=5)),
        run=RunConfig(steps=200_000, log_every=100, eval_every=5000, checkpoint_every=1000, compile=None),
    )


def paper() -> GeneratorRecipe:
    """The paper's second stage (section 2.2): 1.8 B parameters, T5 XXL's text, batches of 512, 1 M steps.

    A fifth of the steps see images alone, as in its joint training.
    """
    return GeneratorRecipe(
        generator=MaskedTransformerSizes(frames=11, width=2048, layers=24),
        text=T5Config("google/t5-v1_1-xxl", width=4096),
        data=DataConfig(SHAPES, size=128, batch=512, lengths=(1, 11), length_weights=(0.2, 0.8), workers=8, seed=1),
        loss=GeneratorLossConfig(text_drop=0.1),
        optimizer=OptimizerConfig(kind="adamw", lr=1e-4, warmup_steps=10_000, ema_decay=0.9999),
        sampling=SamplingConfig(
            DecodingConfig(steps=48, choice_temperature=8.0), GuidanceConfig(scale=13.0), RolloutConfig(prime_frames=5)
        ),
        run=RunConfig(steps=1_000_000, log_every=100, eval_every=5000, checkpoint_every=1000, compile=None),
    )
