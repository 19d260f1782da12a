"""One function chooses the device of every command."""

from __future__ import annotations

import pytest
import torch

from helpers.fake_gpu import DEVICE, FakeGPU
from phenaki.core.precision import best_device, resolve_device
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


def test_no_metric_is_float64_on_the_device() -> None:
    """MPS has none."""
    with FakeGPU() as gpu:
        psnr(torch.rand(2, 3, 1, 4, 4).to(DEVICE))
        code_usage(torch.randint(9, (2, 1, 4, 4)).to(DEVICE), 9)
    assert torch.float64 not in gpu.dtypes
