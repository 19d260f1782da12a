"""Checkpointed and compiled layers learn what plain ones learn."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from phenaki.conditioning import WordEncoder
from phenaki.core.errors import PhenakiError
from phenaki.core.precision import Precision, autocast
from phenaki.generators import CausalTransformer, CausalTransformerSizes, MaskedTransformer
from phenaki.tokenizers import build_tokenizer
from phenaki.training import recipes
from phenaki.training.config import RunConfig
from phenaki.training.layers import blocks, check_compiles, prepare_layers

CPU = torch.device("cpu")
TOLERANCE = {"float32": 1e-5, "bfloat16": 2e-2}
Networks = list[nn.Module]


def second_stage(generator: MaskedTransformer, text_encoder: WordEncoder) -> Tensor:
    ids = torch.arange(2 * 6 * 4 * 4).view(2, 6, 4, 4) % (generator.vocab_size + 1)
    text = text_encoder.encode(["a red circle", "a star moves"])
    return generator(ids, generator.condition(text, drop=torch.tensor([True, False]))).float().square().mean()


def first_stage(tokenizer: nn.Module) -> Tensor:
    video = torch.rand(2, 3, 5, 32, 32, generator=torch.Generator().manual_seed(0))
    return (tokenizer(video).video.float() - video).square().mean()


@pytest.fixture(params=["generator", "causal", "cvivit_debug", "conv3d_debug"])
def stage(request: pytest.FixtureRequest) -> tuple[Networks, Callable[..., Tensor]]:
    if request.param == "generator":
        return [request.getfixturevalue("generator"), request.getfixturevalue("text_encoder")], second_stage
    torch.manual_seed(0)
    if request.param == "causal":
        spec, text_encoder = request.getfixturevalue("tokenizer").spec, request.getfixturevalue("text_encoder")
        sizes = CausalTransformerSizes(frames=11, width=64, layers=2, window=3, sinks=1)
        return [CausalTransformer(sizes.config(spec, text_encoder.width)), text_encoder], second_stage
    return [build_tokenizer(recipes.TOKENIZER_RECIPES[request.param]().tokenizer)], first_stage


def step(networks: Networks, loss_of: Callable[..., Tensor], precision: Precision) -> tuple[Tensor, int]:
    """The gradients of all parameters in one row, and the bytes that the forward pass kept for them."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    parameters = [parameter for network in networks for parameter in network.parameters()]
    for parameter in parameters:
        parameter.grad = None
    with autocast(CPU, precision), saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = loss_of(*networks)
    size = sum(kept.values())
    loss.backward()
    return torch.cat([parameter.grad.flatten() for parameter in parameters if parameter.grad is not None]), size


def alike(found: Tensor, expected: Tensor, precision: Precision) -> bool:
    return bool((found - expected).norm() <= TOLERANCE[precision] * expected.norm())


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_checkpointed_layers_have_the_same_gradients_and_keep_less(
    stage: tuple[Networks, Callable[..., Tensor]], precision: Precision
) -> None:
    networks, loss_of = stage
    names = [list(network.state_dict()) for network in networks]
    expected, plain = step(networks, loss_of, precision)
    prepare_layers(networks, RunConfig(checkpointing=True), CPU)
    found, checkpointed = step(networks, loss_of, precision)
    assert len(found) == len(expected) and alike(found, expected, precision)
    assert checkpointed < 0.8 * plain
    assert [list(network.state_dict()) for network in networks] == names


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning", "ignore:The .grad attribute:UserWarning")  # torch's
@pytest.mark.parametrize("checkpointing", [False, True])
def test_compiled_layers_have_the_same_gradients(
    stage: tuple[Networks, Callable[..., Tensor]], checkpointing: bool
) -> None:
    networks, loss_of = stage
    expected, _ = step(networks, loss_of, "float32")
    plain = [layer.forward for layer in blocks(networks)]
    prepare_layers(networks, RunConfig(compile=True, checkpointing=checkpointing), CPU)
    assert all(layer.forward != before for layer, before in zip(blocks(networks), plain, strict=True))
    found, _ = step(networks, loss_of, "float32")
    assert len(found) == len(expected) and alike(found, expected, "float32")


def test_what_cannot_be_compiled_is_told_before_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("No working C++ compiler found\nmore lines")

    monkeypatch.setattr(torch, "compile", lambda function: fails)
    with pytest.raises(PhenakiError, match=r"run.compile: .* compiler found\): install a C\+\+ .*, or take another"):
        check_compiles(CPU, "run.compile", "take another")
