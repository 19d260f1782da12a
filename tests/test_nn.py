"""Attention and positions."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from phenaki.nn.attention import Attention, attend
from phenaki.nn.linear import RaggedLinear, rounded
from phenaki.nn.positions import fourier_features, rotary_table, rotate
from phenaki.nn.state import StreamState
from phenaki.nn.transformer import TransformerBlock


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("masking", ["none", "causal", "padding", "causal padding"])
def test_every_kernel_equals_the_definition(dtype: torch.dtype, masking: str) -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 3, 7, 64).to(dtype).unbind()
    mask = torch.ones(2, 1, 7, 7, dtype=torch.bool)
    padding = torch.ones(2, 1, 1, 7, dtype=torch.bool)
    padding[0, ..., 5:] = False
    if "causal" in masking:
        mask = mask.tril()
    if "padding" in masking:
        mask = mask & padding
    scores = (q.double() @ k.double().transpose(-1, -2)) / 8
    expected = scores.masked_fill(~mask, -torch.inf).softmax(-1) @ v.double()
    with sdpa_kernel(SDPBackend.MATH):  # the strictest: like CUDA's, it refuses a mask together with `is_causal`
        found = attend(q, k, v, padding if "padding" in masking else None, 9 if "causal" in masking else None)
    assert found.dtype == dtype
    assert torch.allclose(found.double(), expected, atol=1e-5 if dtype == torch.float32 else 3e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("queries", [1, 3, 9])
@pytest.mark.parametrize("window", [1, 2, 8, 9, 20])
def test_a_window_is_a_band_of_the_mask(dtype: torch.dtype, queries: int, window: int) -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 3, 9, 64).to(dtype).unbind()
    distance = torch.arange(9)[:, None] - torch.arange(9)
    seen = (distance >= 0) & (distance < window)
    scores = (q.double() @ k.double().transpose(-1, -2)) / 8
    expected = (scores.masked_fill(~seen, -torch.inf).softmax(-1) @ v.double())[:, :, -queries:]
    with sdpa_kernel(SDPBackend.MATH):
        found = attend(q[:, :, -queries:], k, v, window=window)
    assert torch.allclose(found.double(), expected, atol=1e-5 if dtype == torch.float32 else 3e-2)
    padding = torch.arange(9).expand(2, 1, 1, 9) > 0
    both = attend(q, k, v, padding, window)[:, :, 1:]
    assert torch.allclose(both, attend(q[:, :, 1:], k[:, :, 1:], v[:, :, 1:], None, window), atol=3e-2)


@pytest.mark.parametrize("window", [1, 2, 5])
def test_attention_keeps_a_window_of_the_stream(window: int) -> None:
    torch.manual_seed(0)
    layer, x, state = Attention(64, window=window), torch.randn(2, 12, 64), StreamState()
    whole = layer(x, rotary_table((12,), 64, x.device))
    outputs, sizes = [], []
    for chunk in x.split([1, 4, 1, 2, 3, 1], dim=1):
        before = min(state.latent_frames, window - 1)
        outputs.append(layer(chunk, rotary_table((before + chunk.shape[1],), 64, x.device), state=state))
        state.latent_frames += chunk.shape[1]
        sizes.append(state.nbytes)
    assert torch.allclose(torch.cat(outputs, 1), whole, atol=1e-5)
    assert sizes[1:] == [2 * (window - 1) * 2 * 64 * 4] * 5  # keys and values in float32


@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("masking", ["none", "causal", "padding"])
def test_many_scores_are_computed_in_parts(monkeypatch: pytest.MonkeyPatch, masking: str, heads: int) -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, heads, 21, 64).bfloat16().unbind()
    mask = (torch.rand(2, 1, 1, 21) < 0.8) if masking == "padding" else None
    whole = attend(q, k, v, mask, window=21 if masking == "causal" else None)
    sizes: list[int] = []
    softmax = torch.Tensor.softmax
    monkeypatch.setattr(torch.Tensor, "softmax", lambda x, dim: sizes.append(x.numel()) or softmax(x, dim))
    monkeypatch.setattr("phenaki.nn.attention._SCORES", 300)
    assert torch.allclose(attend(q, k, v, mask, window=21 if masking == "causal" else None), whole, atol=1e-2)
    assert max(sizes) <= 300 and sum(sizes) == 2 * heads * 21 * 21


def test_rotary_scores_depend_on_the_distance_only() -> None:
    torch.manual_seed(0)
    q, k = torch.randn(2, 64).unbind()
    table = rotary_table((5, 6), 64, q.device)
    turned_q, turned_k = rotate(q.expand(30, 64), table), rotate(k.expand(30, 64), table)
    scores = (turned_q @ turned_k.T).view(5, 6, 5, 6)
    assert torch.allclose(scores[0, 0, 1, 2], scores[3, 2, 4, 4], atol=1e-4)
    assert not torch.allclose(scores[0, 0, 1, 2], scores[0, 0, 2, 1], atol=1e-2)
    assert torch.allclose(turned_q.norm(dim=-1), q.norm().expand(30), atol=1e-4)


def test_fourier_features_distinguish_all_positions() -> None:
    features = fourier_features((6, 8, 8), (6, 8, 8), 6, torch.device("cpu"))
    assert features.shape == (384, 36)
    distances = torch.cdist(features, features) + torch.eye(384) * 9
    assert distances.min() > 0.1


def test_cross_attention_ignores_padding() -> None:
    torch.manual_seed(0)
    layer = TransformerBlock(64, context_width=32)
    x, context = torch.randn(2, 5, 64), torch.randn(2, 4, 32)
    mask = torch.tensor([[True, True, False, False], [True] * 4])
    changed = context.clone()
    changed[0, 2:] += 1

    def run(c: torch.Tensor) -> torch.Tensor:
        return layer(x, context=layer.cross.keys_values(c), context_mask=mask[:, None])

    assert torch.equal(run(context)[0], run(changed)[0])
    changed[1, 2:] += 1
    assert not torch.equal(run(context)[1], run(changed)[1])


def test_each_query_of_cross_attention_may_have_its_own_mask() -> None:
    torch.manual_seed(0)
    layer = TransformerBlock(64, context_width=32)
    x, context = torch.randn(2, 5, 64), torch.randn(2, 4, 32)
    keys_values, mask = layer.cross.keys_values(context), torch.ones(2, 1, 4, dtype=torch.bool)
    own = mask.repeat(1, 5, 1)
    assert torch.allclose(layer.cross.cross(x, keys_values, own), layer.cross.cross(x, keys_values, mask), atol=1e-6)
    own[0, 3:, 2:] = False
    changed = context.clone()
    changed[0, 2:] += 1
    before, after = (layer.cross.cross(x, layer.cross.keys_values(each), own) for each in (context, changed))
    assert torch.equal(before[0, 3:], after[0, 3:]) and torch.equal(before[1], after[1])
    assert (before[0, :3] != after[0, :3]).any(-1).all()


def test_normalised_queries_bound_the_logits() -> None:
    attention = Attention(64)
    x = torch.randn(1, 9, 64) * 1e3
    q = attention.norm_q(attention._heads(attention.to_q(x))).transpose(1, 2)
    assert torch.allclose(q.norm(dim=-1), torch.full((1, 1, 9), 8.0), atol=1e-2)
    assert torch.isfinite(F.softmax(q @ q.transpose(-1, -2), -1)).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [0, 1, 64, 65, 700])
def test_padded_rows_change_nothing(rows: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    ragged, plain = RaggedLinear(16, 24), torch.nn.Linear(16, 24)
    plain.load_state_dict(ragged.state_dict())
    x, weight = torch.randn(rows, 16), torch.randn(rows, 24)
    found = []
    for layer in (ragged, plain):
        given = x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            made = layer(given)
        (made.float() * weight).sum().backward()
        found.append((made, given.grad, layer.weight.grad, layer.bias.grad))
    for one, other in zip(*found, strict=True):
        assert one.shape == other.shape
        assert torch.allclose(one, other, rtol=1e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-5)


def test_there_are_few_padded_sizes() -> None:
    met = [rounded(rows) for rows in range(1, 100_000)]
    assert all(rows <= to <= max(1.125 * rows, rows + 63) for rows, to in enumerate(met, 1))
    assert len(set(met)) < 100
