"""The discriminator and its losses."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from helpers.fake_gpu import DEVICE, FakeGPU, needs_fake_gpu
from phenaki.core.errors import PhenakiError
from phenaki.tokenizers import Conv3D, Conv3DConfig, CViViT, CViViTConfig, QuantizerConfig
from phenaki.tokenizers.discriminator import (
    Discriminator,
    DiscriminatorConfig,
    _downsample,
    _downsample_rows,
    adaptive_weight,
    adversarial_loss,
    discriminator_loss,
    gradient_penalty,
)

SMALL = DiscriminatorConfig(width=4, blocks=2)


def build(**changes: object) -> Discriminator:
    torch.manual_seed(0)
    return Discriminator(replace(SMALL, **changes))


@pytest.mark.parametrize("minibatch_stddev", [False, True])
@pytest.mark.parametrize("shape", [(2, 3, 1, 16, 16), (2, 3, 4, 16, 24), (1, 3, 5, 10, 17)])
def test_one_logit_per_frame_or_per_clip(shape: tuple[int, ...], minibatch_stddev: bool) -> None:
    video = torch.rand(shape)
    assert build(minibatch_stddev=minibatch_stddev)(video).shape == (shape[0] * shape[2],)
    assert build(minibatch_stddev=minibatch_stddev, input="clips")(video).shape == (shape[0],)


def test_frames_are_independent_and_clips_are_not() -> None:
    video = torch.rand(1, 3, 4, 16, 16)
    backwards = video.flip(2)
    frames, clips = build(), build(input="clips")
    assert torch.allclose(frames(video).flip(0), frames(backwards), atol=1e-6)
    assert not torch.allclose(clips(video), clips(backwards), atol=1e-6)


def test_samples_interact_by_minibatch_stddev_only() -> None:
    video, other = torch.rand(2, 1, 3, 2, 16, 16).unbind(0)
    pair = torch.cat((video, other))
    alone, together = build(), build(minibatch_stddev=True)
    assert torch.allclose(alone(pair)[:2], alone(video), atol=1e-6)
    assert not torch.allclose(together(pair)[:2], together(video), atol=1e-6)


@pytest.mark.parametrize("kind", ["hinge", "logistic"])
def test_the_two_losses_are_opposed(kind: str) -> None:
    scores = torch.tensor([-0.5, 0.5])
    low, high = scores - 0.4, scores + 0.4
    assert adversarial_loss(high, kind) < adversarial_loss(low, kind)
    assert discriminator_loss(high, low, kind) < discriminator_loss(scores, scores, kind)
    assert discriminator_loss(scores, scores, kind) < discriminator_loss(low, high, kind)


def test_the_penalty_is_half_the_squared_gradient_and_trains_the_discriminator() -> None:
    class Sum(torch.nn.Module):
        def forward(self, video: torch.Tensor) -> torch.Tensor:
            return 3 * video.flatten(1).sum(1)

    video = torch.rand(2, 3, 1, 4, 4)
    assert gradient_penalty(Sum(), video) == pytest.approx(9 * video[0].numel() / 2)
    for discriminator in (build(), build(input="clips", minibatch_stddev=True)):
        gradient_penalty(discriminator, torch.rand(2, 3, 3, 16, 16)).backward()
        assert discriminator.blocks[0].first.frames.weight.grad.any()
    assert not video.requires_grad


@pytest.mark.parametrize("input", ["frames", "clips"])
def test_bfloat16_gives_the_gradients_of_float32(input: str) -> None:
    """torch's Conv3d in bfloat16 on CPUs has weight gradients of 1e30 now and then, for clips of two frames."""
    for trial in range(5):
        torch.manual_seed(trial)
        discriminator = Discriminator(replace(SMALL, input=input, width=16))
        video = torch.rand(2, 3, 5, 16, 16)
        gradients = []
        for enabled in (False, True):
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
                loss = discriminator(video).sum()
            gradients.append(torch.autograd.grad(loss, discriminator.blocks[1].first.frames.weight)[0])
        assert (gradients[0] - gradients[1]).norm() < 0.1 * gradients[0].norm()


SIZES = {"width": 64, "spatial_layers": 1, "temporal_layers": 1}
FSQ = QuantizerConfig(levels=(4, 4))


@pytest.mark.parametrize("frames", [1, 3])
@pytest.mark.parametrize(
    "tokenizer",
    [
        CViViT(CViViTConfig((16, 16), **SIZES, quantizer=FSQ)),
        Conv3D(Conv3DConfig((16, 16), widths=(8, 8, 8), blocks=(1, 1, 1), quantizer=FSQ)),
    ],
    ids=["cvivit", "conv3d"],
)
def test_the_adaptive_weight_equalizes_both_gradient_norms(tokenizer: CViViT | Conv3D, frames: int) -> None:
    made = tokenizer(torch.rand(1, 3, frames, 16, 16)).video
    others, adversarial = made.square().mean(), 0.1 * made.abs().mean()
    weight = adaptive_weight(others, adversarial, tokenizer.last_layer)
    assert not weight.requires_grad
    lengths = []
    for loss in (others, weight * adversarial):
        gradients = torch.autograd.grad(loss, tokenizer.last_layer, retain_graph=True, allow_unused=True)
        lengths.append(torch.cat([g.flatten() for g in gradients if g is not None]).norm())
    assert lengths[0] > 0
    assert lengths[1] == pytest.approx(lengths[0].item(), rel=0.2)  # up to the epsilon in the denominator


def test_invalid_configs_are_refused() -> None:
    with pytest.raises(PhenakiError, match="blocks 5 downsample frames of 16x24 .* at most 4"):
        DiscriminatorConfig().check_size(16, 24)
    DiscriminatorConfig(blocks=4).check_size(16, 24)
    for name, value in {
        "width": 0,
        "penalty": -1.0,
        "penalty_every": 0,
        "start": -1,
        "lr": 0.0,
        "betas": (0, 2),
    }.items():
        with pytest.raises(PhenakiError, match=f"^{name} "):
            DiscriminatorConfig(**{name: value})


@pytest.mark.parametrize("size", [(8, 8), (7, 9), (6, 5), (3, 2)])
def test_the_blur_of_a_gpu_is_that_of_a_cpu(size: tuple[int, int]) -> None:
    """One convolution, or slices."""
    x = torch.randn(2, 3, 4, *size)
    assert torch.allclose(_downsample(x, (3, 4)), _downsample_rows(x), atol=1e-5)


@needs_fake_gpu
def test_a_gpu_computes_what_a_cpu_does() -> None:
    """With the gains in the weights, and another blur."""
    network, video = Discriminator(DiscriminatorConfig(width=4, blocks=2)), torch.rand(1, 3, 2, 8, 8)
    with FakeGPU():
        found = deepcopy(network).to(DEVICE)(video.to(DEVICE)).cpu()
    assert torch.allclose(found, network(video), atol=1e-5)


@pytest.mark.parametrize("input", ["frames", "clips"])
def test_convolutions_of_a_gpu_have_their_channels_last(input: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The discriminator's, and those of a convolutional tokenizer by their order of axes."""
    network, video = Discriminator(replace(SMALL, input=input)), torch.rand(2, 3, 5, 16, 16, requires_grad=True)
    expected = torch.autograd.grad(network(video).sum(), [video, *network.parameters()])
    monkeypatch.setattr("phenaki.tokenizers.discriminator.is_on_cpu", lambda x: False)
    convolution, seen = F.conv2d, []

    def conv2d(x: torch.Tensor, weight: torch.Tensor, *arguments: object, **options: object) -> torch.Tensor:
        made = convolution(x, weight, *arguments, **options)
        seen.append([each.is_contiguous(memory_format=torch.channels_last) for each in (x, made)])
        return made

    monkeypatch.setattr(F, "conv2d", conv2d)
    found = torch.autograd.grad(network(video).sum(), [video, *network.parameters()])
    assert len(seen) > 5 and all(map(all, seen))
    assert all(torch.allclose(one, other, atol=1e-4) for one, other in zip(found, expected, strict=True))
    seen.clear()
    sizes = {"widths": (8, 8, 8), "blocks": (1, 1, 1), "quantizer": FSQ}
    Conv3D(Conv3DConfig((16, 16), **sizes))(torch.rand(1, 3, 3, 16, 16))
    assert len(seen) > 10 and all(map(all, seen))
