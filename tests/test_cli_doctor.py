"""`phenaki doctor`: what it reports and how to fix it."""

from __future__ import annotations

import pytest
import torch
from typer.testing import CliRunner

from phenaki.cli import app, doctor
from phenaki.core.errors import PhenakiError


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setattr(doctor, "_SECONDS", 0.01)
    monkeypatch.setattr(doctor, "_PRODUCT", 32)
    monkeypatch.setenv("PHENAKI_CACHE", str(tmp_path / "cache"))


def examined() -> tuple[int, str]:
    result = CliRunner().invoke(app, ["doctor"])
    return result.exit_code, result.output


def test_this_machine_is_usable() -> None:
    code, said = examined()
    assert code == 0, said
    assert "!!" not in said
    assert all(name in said for name in ("versions", "torch ", "CPU", "bfloat16", "h264", "GB free", "extra train"))
    assert "LPIPS" in said and "get VGG16 from" in said  # its cache is empty


def test_without_a_decoder_nothing_works(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise PhenakiError("no encoder")

    monkeypatch.setattr("phenaki.media.writer.write_video", broken)
    code, said = examined()
    assert code == 1
    assert "!!  video" in said and "no encoder" in said and "-> pip install --force-reinstall av" in said


def test_what_is_missing_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    version = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda package: None if package == "tensorboard" else version(package))
    code, said = examined()
    assert code == 0
    assert "--  extra train" in said and "pip install 'phenaki[train]'" in said
    monkeypatch.setattr(doctor, "_version", lambda package: None if package == "numpy" else version(package))
    code, said = examined()
    assert code == 1 and "numpy missing" in said


def test_a_failing_check_is_reported_and_the_others_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> int:
        raise RuntimeError("the driver is too old")

    monkeypatch.setattr("torch.cuda.device_count", broken)
    code, said = examined()
    assert code == 1 and "Traceback" not in said
    assert "!!  devices" in said and "the driver is too old" in said and "GB free" in said


@pytest.mark.parametrize("taken", [True, False])
def test_bfloat16_is_measured(taken: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The measurement, and what run.precision=auto takes, are compared."""
    import torch

    rates = {torch.float32: 10.0, torch.bfloat16: 25.0}
    monkeypatch.setattr(doctor, "_products_a_second", lambda device, kind: rates[kind])
    monkeypatch.setattr("phenaki.core.precision.prefers_bfloat16", lambda device: taken)
    finding = doctor._bfloat16(torch.device("cpu"))
    assert "2.5x the speed of float32" in finding.sentence
    assert (finding.kind, finding.way_out) == (("good", "") if taken else ("note", "run.precision=bfloat16"))


def no_compiler(device: torch.device, option: str, way_out: str) -> None:
    raise PhenakiError("no compiler")


def test_the_report_of_a_gpu_has_what_was_measured_beside_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    """On this CPU, which it names as such; without a GPU the command says so."""
    from phenaki.cli.gpu_report import gpu_report

    monkeypatch.setattr("phenaki.training.layers.check_compiles", no_compiler)
    lines = list(gpu_report(torch.device("cpu"), ("masked_debug", "cvivit_debug"), 0.01, {"rows": 32, "size": 1024}))
    assert lines[0].startswith("cpu, torch") and "TFLOP/s" in lines[1]
    rows = {tuple(line.split()[:3:2]): line.split() for line in lines[3:]}
    eager = [rows["masked_debug", "eager"], rows["cvivit_debug", "eager"]]
    assert "no compiler" in " ".join(rows["masked_debug", "compiled"])  # takes minutes where there is one
    assert all(float(row[3]) > 0 and float(row[5]) > 0 for row in eager)
    result = CliRunner().invoke(app, ["doctor", "--gpu"])
    assert result.exit_code == 2 and "no CUDA device" in result.output
