"""The causal 3D convolution: values, causality, chunks."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from phenaki.nn.convolution import CausalConv3d, CausalUpsample3d
from phenaki.nn.state import StreamState

SHAPES = [
    ((3, 3, 3), (1, 1, 1)),
    ((3, 1, 1), (1, 1, 1)),
    ((1, 3, 3), (1, 1, 1)),
    ((2, 2, 2), (2, 2, 2)),
    ((4, 3, 3), (2, 2, 2)),
    ((1, 2, 2), (1, 2, 2)),
]


def clip(frames: int) -> torch.Tensor:
    return torch.rand(2, frames, 6, 8, 5, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("kernel", "stride"), SHAPES)
@torch.no_grad()
def test_it_equals_torchs_convolution_padded_before_the_first_frame(kernel: tuple, stride: tuple) -> None:
    torch.manual_seed(0)
    layer, x = CausalConv3d(5, 7, kernel, stride), clip(6)
    weight = layer.frames.weight.unflatten(1, (kernel[0], 5)).transpose(1, 2)
    sides = [(size - step + 1) // 2 for size, step in zip(kernel[1:], stride[1:], strict=True)]
    padded = F.pad(x.permute(0, 4, 1, 2, 3), (sides[1], sides[1], sides[0], sides[0], kernel[0] - stride[0], 0))
    expected = F.conv3d(padded, weight, layer.frames.bias, stride).permute(0, 2, 3, 4, 1)
    assert torch.allclose(layer(x), expected, atol=1e-5)


@pytest.mark.parametrize(("kernel", "stride"), SHAPES)
@pytest.mark.parametrize("lengths", [(2, 8, 2), (4, 2, 2, 2, 2), (10, 2)])
@torch.no_grad()
def test_chunks_equal_one_pass(kernel: tuple, stride: tuple, lengths: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    layer, x, state = CausalConv3d(5, 7, kernel, stride), clip(12), StreamState()
    pieces = [layer(piece, state) for piece in x.split(lengths, dim=1)]
    assert torch.allclose(torch.cat(pieces, dim=1), layer(x), atol=1e-5)


@torch.no_grad()
def test_single_frames_stream_and_the_state_stays_small() -> None:
    torch.manual_seed(0)
    layer, x, state = CausalConv3d(5, 7, (3, 3, 3)), clip(12), StreamState()
    pieces, sizes = [], []
    for frame in x.split(1, dim=1):
        pieces.append(layer(frame, state))
        sizes.append(state.nbytes)
    assert torch.allclose(torch.cat(pieces, dim=1), layer(x), atol=1e-5)
    assert sizes[1:] == [4 * 2 * x[:, 0].numel()] * 11  # a kernel of three keeps two frames


@pytest.mark.parametrize(("kernel", "stride"), SHAPES)
def test_it_is_causal(kernel: tuple, stride: tuple) -> None:
    layer, x = CausalConv3d(5, 7, kernel, stride), clip(6).requires_grad_()
    layer(x)[:, 0].sum().backward()
    seen = x.grad.abs().amax((0, 2, 3, 4)) > 0
    assert seen.tolist() == [frame < stride[0] for frame in range(6)]


def test_frames_that_do_not_fill_a_stride_are_refused() -> None:
    with pytest.raises(ValueError, match="5 frames"):
        CausalConv3d(5, 7, (2, 2, 2), (2, 2, 2))(clip(5))


@torch.no_grad()
def test_upsampling_computes_each_position_alone() -> None:
    torch.manual_seed(0)
    layer, x = CausalUpsample3d(5, 3, (2, 2, 2)), clip(3)
    changed = x.clone()
    changed[:, 1, 2, 4] += 1
    differs = (layer(changed) != layer(x)).any(-1).any(0)
    assert differs.shape == (6, 12, 16)
    assert differs[2:4, 4:6, 8:10].all()
    assert differs.sum() == 8
