"""One function chooses the device of every command."""

from __future__ import annotations

from contextlib import contextmanager
from weakref import ref

import pytest
import torch

from helpers.fake_gpu import DEVICE, FakeGPU, needs_fake_gpu
from helpers.versions import needs_torch
from phenaki.core import precision
from phenaki.core.precision import autocast, best_device, resolve_device, to_device, with_cast_weights
from phenaki.evaluation.pixels import psnr
from phenaki.tokenizers import code_usage


@pytest.mark.parametrize(
    ("local_rank", "seen", "expected"), [("3", 8, "cuda:3"), ("3", 1, "cuda:0"), (None, 8, "cuda:0")]
)
def test_each_process_takes_its_own_gpu(
    local_rank: str | None, seen: int, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the launcher shows each process one GPU alone."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: seen)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if local_rank:
        monkeypatch.setenv("LOCAL_RANK", local_rank)
    assert best_device() == resolve_device("cuda") == resolve_device("auto") == torch.device(expected)


def test_a_mac_has_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert best_device() == torch.device("mps")


@needs_fake_gpu
def test_no_metric_is_float64_on_the_device() -> None:
    """MPS has none."""
    with FakeGPU() as gpu:
        psnr(torch.rand(2, 3, 1, 4, 4).to(DEVICE))
        code_usage(torch.randint(9, (2, 1, 4, 4)).to(DEVICE), 9)
    assert torch.float64 not in gpu.dtypes


@pytest.mark.parametrize(("size", "beside"), [(2**20, True), (2**10, False)])
def test_a_batch_is_copied_on_a_stream_of_its_own(size: int, beside: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stream that computes waits for it, and the memory is not used again before that is done with it."""
    events: list[str] = []

    class Stream:
        def __init__(self, name: str) -> None:
            self.name = name

        def wait_stream(self, other: Stream) -> None:
            events.append(f"{self.name} waits for {other.name}")

    @contextmanager
    def on(stream: Stream):
        events.append(f"on {stream.name}")
        yield
        events.append("end")

    computing, copying = Stream("computing"), Stream("copying")
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: computing)
    monkeypatch.setattr(torch.cuda, "stream", on)
    monkeypatch.setattr(precision, "_copy_stream", lambda device: copying)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: events.append("pinned") or tensor)
    monkeypatch.setattr(
        torch.Tensor, "to", lambda tensor, device, non_blocking: events.append(f"copied {non_blocking}") or tensor
    )
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, stream: events.append(f"kept for {stream.name}"))
    to_device(torch.zeros(size, dtype=torch.uint8), torch.device("cuda", 0))
    expected = ["on copying", "copied True", "end", "computing waits for copying", "kept for computing"]
    assert events == ["pinned", *(expected if beside else ["copied True"])]


@needs_torch("2.13")
def test_the_fake_device_sees_copies_that_wait() -> None:
    pageable = torch.ones(3)
    with FakeGPU() as gpu:
        for make, waits in (
            (lambda: pageable.to(DEVICE, non_blocking=True), 1),  # a GPU's driver copies it first
            (lambda: pageable.pin_memory().to(DEVICE), 1),
            (lambda: pageable.pin_memory().to(DEVICE, non_blocking=True), 0),
            (lambda: to_device(pageable, DEVICE).cpu(), 1),
            (lambda: to_device(pageable, DEVICE).sum().item(), 1),
            (lambda: to_device(pageable, DEVICE), 0),
        ):
            gpu.syncs.clear()
            make()
            assert len(gpu.syncs) == waits


def test_cast_weights_give_the_same_results() -> None:
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Linear(64, 64), torch.nn.LayerNorm(64), torch.nn.Linear(64, 3)
    ).requires_grad_(False)
    x, cpu = torch.randn(5, 64), torch.device("cpu")
    copy = with_cast_weights(network, cpu, "bfloat16")
    with autocast(cpu, "bfloat16"):
        assert torch.equal(copy(x), network(x))
    assert copy[0].weight.dtype == torch.bfloat16 and network[0].weight.dtype == torch.float32
    assert copy[1].weight is network[1].weight
    assert with_cast_weights(network, cpu, "bfloat16") is copy
    network[0].weight.mul_(2)
    assert torch.equal(with_cast_weights(network, cpu, "bfloat16")[0].weight, network[0].weight.bfloat16())


def test_nothing_is_copied_where_nothing_is_cast() -> None:
    network = torch.nn.Linear(4, 4)
    assert with_cast_weights(network, torch.device("cpu"), "float32") is network
    network.forward = network.forward  # as compiled blocks have it
    assert with_cast_weights(network, torch.device("cpu"), "bfloat16") is network
    with torch.inference_mode():
        network = torch.nn.Linear(4, 4)  # does not count its changes
    assert with_cast_weights(network, torch.device("cpu"), "bfloat16") is network


def test_a_copy_with_cast_weights_lives_as_long_as_somebody_holds_it() -> None:
    network, cpu = torch.nn.Linear(4, 4), torch.device("cpu")
    copy = with_cast_weights(network, cpu, "bfloat16")
    held = ref(copy)
    assert with_cast_weights(network, cpu, "bfloat16") is copy
    del copy
    assert held() is None
