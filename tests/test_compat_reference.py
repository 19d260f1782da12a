"""Imported networks compared with phenaki-pytorch itself, in more sizes than tests/golden has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from helpers.reproductions import files
from phenaki.compat.importing import import_maskgit, import_tokenizer
from phenaki.conditioning import Text

reference = pytest.importorskip("phenaki_pytorch", reason="phenaki-pytorch is not installed")
pytestmark = pytest.mark.slow

TOKENIZERS = {
    "rectangles": dict(dim=36, image_size=(24, 40), patch_size=(4, 8), temporal_patch_size=3, heads=3, dim_head=8),
    "tall patches, one head": dict(dim=24, image_size=(32, 18), patch_size=(16, 6), temporal_patch_size=1, heads=1),
    "codes as wide as the network": dict(
        dim=8, image_size=16, patch_size=4, temporal_patch_size=4, heads=6, dim_head=4
    ),
}
QUANTIZERS = {
    "cosine": dict(codebook_size=300, lookup_free_quantization=False),
    "lookup-free": dict(codebook_size=256, lookup_free_quantization=True),
}


def disturbed(network: nn.Module) -> nn.Module:
    """Change every parameter from its initial value, so that a forgotten one shows."""
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=rng))
    return network.eval()


def as_obvious(network: nn.Module, arguments: dict[str, Any], code_dim: int) -> nn.Module:
    """Obvious Research's C-ViViT: convolutions everywhere, attention over all times, factorized codes."""
    from phenaki_pytorch.attention import Transformer
    from vector_quantize_pytorch import VectorQuantize

    for name in ("enc_spatial", "enc_temporal", "dec_spatial", "dec_temporal"):
        sizes = {key: arguments[key] for key in ("dim", "heads", "dim_head")}
        layers = len(getattr(network, f"{name}_transformer").layers)
        transformer = Transformer(depth=layers, peg=True, peg_causal=True, ff_mult=3, **sizes)
        setattr(network, f"{name}_transformer", transformer)
    codes = dict(dim=arguments["dim"], codebook_size=arguments["codebook_size"], codebook_dim=code_dim)
    network.vq = VectorQuantize(use_cosine_sim=True, **codes)
    network.decode_from_codebook_indices = lambda ids: network.decode(network.vq.get_output_from_indices(ids))
    return network


def same(theirs: nn.Module, source: str, arguments: dict[str, Any], folder: Path) -> None:
    """Compare ids and pixels of images and clips, of one sample and several."""
    checkpoint, config = files(folder, disturbed(theirs).state_dict(), arguments)
    ours = import_tokenizer(checkpoint, folder / "out", source, config).module
    height, width = ours.config.image_size
    for samples, steps in ((1, 1), (3, 4), (1, 7)):
        rng = torch.Generator().manual_seed(steps)
        video = torch.rand(samples, 3, ours.frames(steps), height, width, generator=rng)
        with torch.no_grad():
            ids = theirs(video, return_only_codebook_ids=True)
            pixels = theirs.decode_from_codebook_indices(ids.flatten(1))
            assert torch.equal(ours.encode(video), ids.long())
            assert (ours.decode_latents(ours.quantizer.indices_to_latents(ids.long())) - pixels).abs().max() < 1e-4
            assert ids.unique().numel() > 3


@pytest.mark.parametrize("quantizer", QUANTIZERS)
@pytest.mark.parametrize("sizes", TOKENIZERS)
def test_tokenizers(sizes: str, quantizer: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    arguments = TOKENIZERS[sizes] | QUANTIZERS[quantizer]
    arguments |= dict(spatial_depth=2, temporal_depth=3, use_vgg_and_gan=False)
    same(reference.CViViT(**arguments), "phenaki-pytorch", arguments, tmp_path)


@pytest.mark.parametrize("code_dim", [5, 36])
def test_obvious_tokenizers(code_dim: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    arguments = TOKENIZERS["rectangles"] | QUANTIZERS["cosine"] | dict(spatial_depth=1, temporal_depth=2)
    theirs = reference.CViViT(**arguments, use_vgg_and_gan=False)
    config = arguments | dict(ff_mult=3, codebook_dim=code_dim)
    same(as_obvious(theirs, arguments, code_dim), "obvious-cvivit", config, tmp_path)


def test_generators(tmp_path: Path) -> None:
    torch.manual_seed(0)
    arguments = dict(dim=36, num_tokens=50, max_seq_len=70, dim_context=20, depth=2, heads=3, dim_head=8)
    theirs = disturbed(reference.MaskGit(**arguments, ff_mult=3))
    sizes = dict(image_size=[24, 40], patch_size=[4, 8], temporal_patch_size=3)
    checkpoint, config = files(tmp_path, theirs.state_dict(), arguments | sizes | dict(ff_mult=3))
    ours = import_maskgit(checkpoint, tmp_path / "out", config).module
    rng = torch.Generator().manual_seed(1)
    for grid in ((2, 6, 5), (1, 3, 7), (4, 2, 2)):
        ids = torch.randint(0, 51, (2, *grid), generator=rng)
        text = Text(torch.randn(2, 9, 20, generator=rng), torch.arange(9) < torch.tensor([[9], [4]]))
        for dropped in (False, True):
            drop = torch.full((2,), dropped)
            with torch.no_grad():
                wanted = theirs(ids, cond_drop_prob=float(dropped), text_mask=text.mask, context=text.embeddings)
                logits = ours(ids, ours.condition(text, drop=drop))
            assert (logits.flatten(1, 3) - wanted).abs().max() < 1e-4
