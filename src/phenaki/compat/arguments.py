"""What a checkpoint's shapes tell of the network, and what its user has to."""

from __future__ import annotations

import json
import math
from dataclasses import field
from pathlib import Path
from typing import Any, TypeVar

from phenaki.compat.checkpoint import Part
from phenaki.compat.cvivit import PegCViViTConfig, Pixels
from phenaki.compat.maskgit import PegMaskGitConfig
from phenaki.core.config import bounded, configclass, from_dict, to_dict
from phenaki.core.errors import PhenakiError
from phenaki.core.grid import frame_count
from phenaki.tokenizers.base import TokenizerFacts

Arguments = TypeVar("Arguments")

CHANNELS = 3

# Arguments of their constructors that shape the training alone.
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
    """Arguments of their C-ViViT's constructor, as --config gives them, with `fps` and `pixels` (`PegCViViTConfig`).

    What the weights show needs not be given; if it is, it must agree.
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
                f"lookup_free_quantization_kwargs {', '.join(unknown)}: only networks that leave them at their "
                "defaults can be imported"
            )


@configclass
class MaskGitArguments:
    """Arguments of phenaki-pytorch's MaskGit, and of the C-ViViT whose ids it writes, as --config gives them.

    frames: the longest clip it was trained on; as many as its places hold if not given.
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


def read_arguments(kind: type[Arguments], file: Path | None) -> Arguments:
    """Those in a JSON file, or none. Raises PhenakiError for what is no argument, and for values of a wrong type."""
    if file is None:
        return kind()
    if not file.is_file():
        raise PhenakiError(f"there is no file '{file}' for --config")
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PhenakiError(f"'{file}' cannot be read as JSON: {error}") from error
    if not isinstance(data, dict):
        raise PhenakiError(f"'{file}' must hold a JSON object, not a {type(data).__name__}")
    return from_dict(kind, {name: value for name, value in data.items() if name not in _TRAINING}, where=f"'{file}'")


def cvivit_config(part: Part, given: CViViTArguments, image_size: Sides | None = None) -> PegCViViTConfig:
    """What the weights show, and what is `given` beside; `image_size` if it is not given. Raises PhenakiError where
    these contradict each other, and for what neither tells."""
    width, first = part.shape("to_patch_emb_first_frame.2.weight", 2)
    _, rest = part.shape("to_patch_emb.2.weight", 2)
    heads, _ = part.shape("spatial_rel_pos_bias.net.2.weight", 2)
    (head_dim,) = part.shape("enc_spatial_transformer.layers.0.1.q_scale", 1)
    _, hidden = part.shape("enc_spatial_transformer.layers.0.3.4.weight", 2)
    lookup_free = "vq.mask" in part.tensors
    if lookup_free:
        (code_dim,) = part.shape("vq.mask", 1)
        codebook_size = 2**code_dim
    else:
        _, codebook_size, code_dim = part.shape("vq._codebook.embed", 3)
    sides = _patch(part, first, given.patch_size)
    if rest % first:
        raise PhenakiError(f"{part.where}: patches of {rest} numbers in time and {first} in the first frame do not fit")
    shown = {
        "dim": width,
        "temporal_patch_size": rest // first,
        "spatial_depth": part.layers("enc_spatial_transformer"),
        "temporal_depth": part.layers("enc_temporal_transformer"),
        "dim_head": head_dim,
        "heads": heads,
        "channels": CHANNELS,
        "codebook_size": codebook_size,
        "codebook_dim": code_dim,
        "lookup_free_quantization": lookup_free,
    }
    _agree(part, given, shown, hidden)
    return PegCViViTConfig(
        image_size=_pair(_needed(part, "image_size", given.image_size or image_size)),
        patch=(rest // first, *sides),
        width=width,
        spatial_layers=shown["spatial_depth"],
        temporal_layers=shown["temporal_depth"],
        heads=heads,
        head_dim=head_dim,
        hidden=hidden,
        quantizer="lookup_free" if lookup_free else "cosine",
        codebook_size=codebook_size,
        code_dim=code_dim,
        everywhere="enc_spatial_transformer.layers.0.0.dsconv.weight" in part.tensors,
        fps=given.fps,
        pixels=given.pixels,
    )


def maskgit_config(part: Part, given: MaskGitArguments, tokenizer: Part | None) -> PegMaskGitConfig:
    """What the weights show, and those of the `tokenizer` in the same file, and what is `given` beside."""
    vocab_size, width = part.shape("to_logits.weight", 2)
    places, _ = part.shape("pos_emb.weight", 2)
    heads, head_dim = part.shape("continuous_pos_bias.net.2.weight", 2)
    _, hidden = part.shape("transformer.layers.0.3.4.weight", 2)
    if "transformer.layers.0.2.null_kv" not in part.tensors:
        raise PhenakiError(f"{part.where}: this MaskGIT was trained without text (unconditional), which is needed here")
    (text_width,) = part.shape("transformer.layers.0.2.context_norm.gamma", 1)
    shown = {
        "dim": width,
        "num_tokens": vocab_size,
        "max_seq_len": places,
        "depth": part.layers("transformer"),
        "dim_head": head_dim,
        "heads": heads,
        "dim_context": text_width,
        "unconditional": False,
    }
    _agree(part, given, shown, hidden)
    facts = _facts(part, given, tokenizer, vocab_size)
    step = (facts.image_size[0] // facts.patch[1]) * (facts.image_size[1] // facts.patch[2])
    if not 1 <= step <= places:
        raise PhenakiError(
            f"{part.where}: images of {facts.image_size} pixels are {step} patches of {facts.patch[1:]}, and this "
            f"MaskGIT holds 1 to {places}: check image_size and patch_size"
        )
    return PegMaskGitConfig(
        tokenizer=facts,
        text_width=text_width,
        frames=given.frames or frame_count(places // step, facts.patch[0]),
        places=places,
        width=width,
        layers=shown["depth"],
        heads=heads,
        head_dim=head_dim,
        hidden=hidden,
    )


def _facts(part: Part, given: MaskGitArguments, tokenizer: Part | None, vocab_size: int) -> TokenizerFacts:
    if tokenizer is not None:
        names = ("image_size", "patch_size", "temporal_patch_size", "fps")
        config = cvivit_config(tokenizer, CViViTArguments(**{name: getattr(given, name) for name in names}))
        if config.codebook_size != vocab_size:
            raise PhenakiError(
                f"{part.where}: its MaskGIT writes {vocab_size} codes and its C-ViViT has {config.codebook_size}"
            )
        return TokenizerFacts(vocab_size, config.patch, config.image_size, config.fps)
    period = _needed(part, "temporal_patch_size", given.temporal_patch_size)
    patch = (period, *_pair(_needed(part, "patch_size", given.patch_size)))
    return TokenizerFacts(vocab_size, patch, _pair(_needed(part, "image_size", given.image_size)), given.fps)


def _agree(part: Part, given: Any, shown: dict[str, Any], hidden: int) -> None:
    """Raise PhenakiError, naming each, for arguments that are not what the weights show."""
    if given.ff_mult is not None:
        shown = shown | {"ff_mult": given.ff_mult if int(given.ff_mult * (2 / 3) * shown["dim"]) == hidden else None}
    told = to_dict(given)
    wrong = [
        f"{name} {told[name]}" + (f" where the weights have {value}" if value is not None else " does not fit them")
        for name, value in shown.items()
        if told[name] is not None and told[name] != value
    ]
    if wrong:
        raise PhenakiError(f"{part.where} is not of this configuration: {'; '.join(wrong)}")


def _patch(part: Part, numbers: int, given: Sides | None) -> tuple[int, int]:
    """Height and width of the patches of `numbers` numbers, square ones unless they are given."""
    if numbers % CHANNELS:
        raise PhenakiError(f"{part.where}: patches of {numbers} numbers are not of 3 colours; only RGB can be imported")
    area = numbers // CHANNELS
    sides = _pair(given) if given is not None else (math.isqrt(area), math.isqrt(area))
    if sides[0] * sides[1] == area:
        return sides
    if given is None:
        raise PhenakiError(f"{part.where}: patches of {area} pixels are not square: {_way_out('patch_size')}")
    raise PhenakiError(
        f"{part.where} is not of this configuration: patch_size {sides[0]}x{sides[1]} where the weights have patches "
        f"of {area} pixels"
    )


def _needed(part: Part, name: str, value: Any) -> Any:
    if value is None:
        raise PhenakiError(f"{part.where} does not tell {name}: {_way_out(name)}")
    return value


def _way_out(name: str) -> str:
    example = {"image_size": 128, "patch_size": [8, 4], "temporal_patch_size": 2}[name]
    return f"give it in a file, with --config FILE.json, such as {json.dumps({name: example})}"


def _pair(sides: Sides) -> tuple[int, int]:
    return (sides, sides) if isinstance(sides, int) else sides
