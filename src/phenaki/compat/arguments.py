"""Configurations of imported networks: read off the weights' shapes, completed by the user's --config file."""

from __future__ import annotations

import json
import math
from dataclasses import field
from pathlib import Path
from typing import Any, TypeVar

from phenaki.compat.checkpoint import NetworkState
from phenaki.compat.cvivit import PegCViViTConfig, Pixels
from phenaki.compat.maskgit import PegMaskGitConfig
from phenaki.core.components import read_json
from phenaki.core.config import bounded, configclass, from_dict, to_dict
from phenaki.core.errors import PhenakiError
from phenaki.core.grid import frame_count
from phenaki.tokenizers.spec import TokenizerSpec

Arguments = TypeVar("Arguments")

CHANNELS = 3

# Arguments of the original constructors that affect training only; they are ignored.
_TRAINING = set(
    "discr_base_dim use_vgg_and_gan vgg discr_attn_res_layers use_hinge_loss attn_dropout ff_dropout "
    "wandb_mode local_vgg force_cpu i3d_model_path commit_loss_w gen_loss_w perceptual_loss_w i3d_loss_w recon_loss_w "
    "use_discr gp_weight gradient_shrink_alpha".split()
)
_LOOKUP_FREE_TRAINING = set(
    "entropy_loss_weight commitment_loss_weight diversity_gamma frac_per_sample_entropy "
    "experimental_softplus_entropy_loss entropy_loss_offset".split()
)

Sides = int | tuple[int, int]


@configclass
class CViViTArguments:
    """Arguments of the original C-ViViT's constructor, from --config, with `fps` and `pixels` of `PegCViViTConfig`.

    Those that follow from the weights are optional, and must agree with them.
    """

    image_size: Sides | None = bounded(None, above=0)
    patch_size: Sides | None = bounded(None, above=0)
    temporal_patch_size: int | None = bounded(None, above=0)
    dim: int | None = bounded(None, above=0)
    spatial_depth: int | None = bounded(None, above=0)
    temporal_depth: int | None = bounded(None, above=0)
    dim_head: int | None = bounded(None, above=0)
    heads: int | None = bounded(None, above=0)
    ff_mult: float | None = bounded(None, above=0)
    channels: int | None = bounded(None, above=0)
    codebook_size: int | None = bounded(None, above=0)
    codebook_dim: int | None = bounded(None, above=0)
    lookup_free_quantization: bool | None = None
    lookup_free_quantization_kwargs: dict[str, Any] = field(default_factory=dict)
    fps: float = bounded(8.0, above=0)
    pixels: Pixels = "rgb"

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.lookup_free_quantization_kwargs) - _LOOKUP_FREE_TRAINING):
            raise PhenakiError(
                f"lookup_free_quantization_kwargs {', '.join(unknown)}: only networks with their defaults are supported"
            )


@configclass
class MaskGitArguments:
    """Arguments of phenaki-pytorch's MaskGit, and of the C-ViViT whose ids it generates, from --config.

    frames: of the longest training clip; by default as many as its positions allow.
    """

    image_size: Sides | None = bounded(None, above=0)
    patch_size: Sides | None = bounded(None, above=0)
    temporal_patch_size: int | None = bounded(None, above=0)
    dim: int | None = bounded(None, above=0)
    num_tokens: int | None = bounded(None, above=0)
    max_seq_len: int | None = bounded(None, above=0)
    depth: int | None = bounded(None, above=0)
    dim_head: int | None = bounded(None, above=0)
    heads: int | None = bounded(None, above=0)
    ff_mult: float | None = bounded(None, above=0)
    dim_context: int | None = bounded(None, above=0)
    unconditional: bool | None = None
    frames: int | None = bounded(None, above=0)
    fps: float = bounded(8.0, above=0)


def read_arguments(cls: type[Arguments], file: Path | None) -> Arguments:
    """The arguments in a JSON file, if any. Raises PhenakiError for unknown arguments and wrong types."""
    if file is None:
        return cls()
    if not file.is_file():
        raise PhenakiError(f"there is no --config file '{file}'")
    data = read_json(file)
    return from_dict(cls, {name: value for name, value in data.items() if name not in _TRAINING}, where=f"'{file}'")


def cvivit_config(
    network: NetworkState, arguments: CViViTArguments, default_size: Sides | None = None
) -> PegCViViTConfig:
    """The configuration that follows from the weights and the user's arguments; `default_size` if neither has a size.

    Raises PhenakiError where they contradict each other, and for what neither determines.
    """
    width, first = network.shape("to_patch_emb_first_frame.2.weight", 2)
    _, rest = network.shape("to_patch_emb.2.weight", 2)
    heads, _ = network.shape("spatial_rel_pos_bias.net.2.weight", 2)
    (head_dim,) = network.shape("enc_spatial_transformer.layers.0.1.q_scale", 1)
    _, hidden = network.shape("enc_spatial_transformer.layers.0.3.4.weight", 2)
    lookup_free = "vq.mask" in network.tensors
    if lookup_free:
        (code_dim,) = network.shape("vq.mask", 1)
        codebook_size = 2**code_dim
    else:
        _, codebook_size, code_dim = network.shape("vq._codebook.embed", 3)
    sides = _patch(network, first, arguments.patch_size)
    if rest % first:
        raise PhenakiError(
            f"{network.file}: patches of {rest} values and first-frame patches of {first} values do not fit together"
        )
    found = {
        "dim": width,
        "temporal_patch_size": rest // first,
        "spatial_depth": network.layers("enc_spatial_transformer"),
        "temporal_depth": network.layers("enc_temporal_transformer"),
        "dim_head": head_dim,
        "heads": heads,
        "channels": CHANNELS,
        "codebook_size": codebook_size,
        "codebook_dim": code_dim,
        "lookup_free_quantization": lookup_free,
    }
    _check_agreement(network, arguments, found, hidden)
    return PegCViViTConfig(
        image_size=_pair(_required(network, "image_size", arguments.image_size or default_size)),
        patch=(rest // first, *sides),
        width=width,
        spatial_layers=found["spatial_depth"],
        temporal_layers=found["temporal_depth"],
        heads=heads,
        head_dim=head_dim,
        hidden=hidden,
        quantizer="lookup_free" if lookup_free else "cosine",
        codebook_size=codebook_size,
        code_dim=code_dim,
        spatial_peg="enc_spatial_transformer.layers.0.0.dsconv.weight" in network.tensors,
        fps=arguments.fps,
        pixels=arguments.pixels,
    )


def maskgit_config(
    network: NetworkState, arguments: MaskGitArguments, tokenizer: NetworkState | None
) -> PegMaskGitConfig:
    """The configuration from the weights, the user's arguments, and the `tokenizer` if it is in the same file."""
    vocab_size, width = network.shape("to_logits.weight", 2)
    positions, _ = network.shape("pos_emb.weight", 2)
    heads, head_dim = network.shape("continuous_pos_bias.net.2.weight", 2)
    _, hidden = network.shape("transformer.layers.0.3.4.weight", 2)
    if "transformer.layers.0.2.null_kv" not in network.tensors:
        raise PhenakiError(
            f"{network.file}: this MaskGIT was trained without text (unconditional); one with text is needed"
        )
    (text_width,) = network.shape("transformer.layers.0.2.context_norm.gamma", 1)
    found = {
        "dim": width,
        "num_tokens": vocab_size,
        "max_seq_len": positions,
        "depth": network.layers("transformer"),
        "dim_head": head_dim,
        "heads": heads,
        "dim_context": text_width,
        "unconditional": False,
    }
    _check_agreement(network, arguments, found, hidden)
    spec = _tokenizer_spec(network, arguments, tokenizer, vocab_size)
    per_frame = (spec.image_size[0] // spec.patch[1]) * (spec.image_size[1] // spec.patch[2])
    if not 1 <= per_frame <= positions:
        raise PhenakiError(
            f"{network.file}: images of {spec.image_size} pixels are {per_frame} patches of {spec.patch[1:]}, and this "
            f"MaskGIT has positions for 1 to {positions}: check image_size and patch_size"
        )
    return PegMaskGitConfig(
        tokenizer=spec,
        text_width=text_width,
        frames=arguments.frames or frame_count(positions // per_frame, spec.patch[0]),
        positions=positions,
        width=width,
        layers=found["depth"],
        heads=heads,
        head_dim=head_dim,
        hidden=hidden,
    )


def _tokenizer_spec(
    network: NetworkState, arguments: MaskGitArguments, tokenizer: NetworkState | None, vocab_size: int
) -> TokenizerSpec:
    if tokenizer is not None:
        names = ("image_size", "patch_size", "temporal_patch_size", "fps")
        config = cvivit_config(tokenizer, CViViTArguments(**{name: getattr(arguments, name) for name in names}))
        if config.codebook_size != vocab_size:
            raise PhenakiError(
                f"{network.file}: its MaskGIT predicts {vocab_size} codes, its C-ViViT has {config.codebook_size}"
            )
        return TokenizerSpec(vocab_size, config.patch, config.image_size, config.fps)
    period = _required(network, "temporal_patch_size", arguments.temporal_patch_size)
    patch = (period, *_pair(_required(network, "patch_size", arguments.patch_size)))
    image_size = _pair(_required(network, "image_size", arguments.image_size))
    return TokenizerSpec(vocab_size, patch, image_size, arguments.fps)


def _check_agreement(network: NetworkState, arguments: Any, found: dict[str, Any], hidden: int) -> None:
    """Raise PhenakiError that names each argument that contradicts the weights."""
    if arguments.ff_mult is not None:
        fits = int(arguments.ff_mult * (2 / 3) * found["dim"]) == hidden
        found = found | {"ff_mult": arguments.ff_mult if fits else None}
    values = to_dict(arguments)
    wrong = [
        f"{name} {values[name]}" + (f", but the weights have {value}" if value is not None else " does not fit them")
        for name, value in found.items()
        if values[name] is not None and values[name] != value
    ]
    if wrong:
        raise PhenakiError(f"{network.file} does not match the --config: {'; '.join(wrong)}")


def _patch(network: NetworkState, values: int, sides: Sides | None) -> tuple[int, int]:
    """Height and width of patches with this many values; square by default."""
    if values % CHANNELS:
        raise PhenakiError(
            f"{network.file}: patches of {values} values do not have 3 channels; only RGB can be imported"
        )
    area = values // CHANNELS
    height, width = _pair(math.isqrt(area) if sides is None else sides)
    if height * width == area:
        return height, width
    if sides is None:
        raise PhenakiError(f"{network.file}: patches of {area} pixels are not square: {_hint('patch_size')}")
    raise PhenakiError(
        f"{network.file} does not match the --config: patch_size {height}x{width}, but the weights have patches "
        f"of {area} pixels"
    )


def _required(network: NetworkState, name: str, value: Any) -> Any:
    if value is None:
        raise PhenakiError(f"{network.file} does not determine {name}: {_hint(name)}")
    return value


def _hint(name: str) -> str:
    example = {"image_size": 128, "patch_size": [8, 4], "temporal_patch_size": 2}[name]
    return f"set it with --config FILE.json, such as {json.dumps({name: example})}"


def _pair(sides: Sides) -> tuple[int, int]:
    return (sides, sides) if isinstance(sides, int) else sides
