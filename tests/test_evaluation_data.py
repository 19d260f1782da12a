"""Reconstruction of any data: standard metrics with a protocol, compared only if it is the same."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor
from typer.testing import CliRunner

from phenaki.cli import app
from phenaki.core.components import save_component
from phenaki.core.errors import PhenakiError
from phenaki.evaluation import Clips, PerceptualNetworks, compare, evaluate, write_metrics
from phenaki.evaluation.pixels import edge_energy, psnr, sharpness, ssim
from phenaki.evaluation.reconstruction import reconstruction
from phenaki.generators import MaskedTransformer
from phenaki.media.convert import to_float
from phenaki.nn.state import StreamState
from phenaki.perceptual import I3D, LPIPS
from phenaki.tokenizers import CViViT


class Perfect(CViViT):
    """Decodes to the clip it last encoded, darker by `damage`."""

    damage = 0.0

    def encode_latents(self, video: Tensor, state: StreamState | None = None) -> Tensor:
        self.clip = video
        return super().encode_latents(video, state)

    def decode_latents(self, latents: Tensor, state: StreamState | None = None) -> Tensor:
        return self.clip * (1 - self.damage)


@pytest.fixture
def perfect(tokenizer: CViViT) -> Perfect:
    return Perfect(tokenizer.config).eval()


@pytest.fixture
def perceptual() -> PerceptualNetworks:
    torch.manual_seed(0)
    lpips, i3d = LPIPS(width=8), I3D(narrow=8)
    for name, weights in [*lpips.named_parameters(), *i3d.named_parameters()]:
        if name.startswith("lin"):
            torch.nn.init.uniform_(weights)
        elif weights.ndim > 1:
            torch.nn.init.kaiming_normal_(weights)
    lpips.files, i3d.files = {"vgg.pth": "a" * 64}, {"rgb.pt": "b" * 64}
    return PerceptualNetworks(lpips.eval().requires_grad_(False), i3d.eval().requires_grad_(False))


def measured(tokenizer: CViViT, source: Path, **changes: Any) -> dict[str, Any]:
    arguments = {"suites": ["reconstruction"], "data": str(source), "frames": 9, "progress": False}
    return evaluate(tokenizer, **arguments | changes)["reconstruction"]


# ---- metrics


def test_psnr_and_ssim_equal_torchmetrics() -> None:
    functional = pytest.importorskip("torchmetrics.functional.image")
    rng = torch.Generator().manual_seed(0)
    a = torch.rand(2, 3, 2, 16, 20, generator=rng)
    b = (a + 0.2 * torch.randn(a.shape, generator=rng)).clamp(0, 1)
    frames = [video.movedim(2, 1).flatten(0, 1) for video in (a, b)]
    expected = functional.structural_similarity_index_measure(*frames, data_range=1.0, reduction="none").view(2, 2)
    torch.testing.assert_close(ssim(a, b).float(), expected, rtol=1e-4, atol=1e-5)
    assert ssim(a, a).allclose(torch.ones(2, 2))
    for clip, found in enumerate(psnr((a - b).square())):
        assert found == pytest.approx(float(functional.peak_signal_noise_ratio(a[clip], b[clip], data_range=1.0)))
    with pytest.raises(PhenakiError, match="at least 11x11 pixels, its window, not 10x16"):
        ssim(a[:, :, :, :10, :16], a[:, :, :, :10, :16])


def test_sharpness_tells_blur_from_blocks() -> None:
    rng = torch.Generator().manual_seed(0)
    real = torch.rand(3, 3, 2, 48, 64, generator=rng)
    blurred = torch.nn.functional.avg_pool3d(real, (1, 3, 3), 1, (0, 1, 1), count_include_pad=False)
    colours = torch.nn.functional.avg_pool3d(real, (1, 8, 8)).repeat_interleave(8, 3).repeat_interleave(8, 4)
    energy = {name: edge_energy(x, (2, 8, 8)) for name, x in (("blur", blurred), ("real", real), ("flat", real * 0))}
    energy["blocks"] = edge_energy(0.5 * real + colours, (2, 8, 8))
    assert sharpness(energy["real"], energy["real"]) == pytest.approx({"gradient_energy": 1, "blockiness": 1})
    blur, blocks = sharpness(energy["blur"], energy["real"]), sharpness(energy["blocks"], energy["real"])
    assert blur["gradient_energy"] < 0.3 and blur["blockiness"] == pytest.approx(1, abs=0.2)
    assert blocks["blockiness"] > 1.03
    assert sharpness(energy["real"], energy["flat"]) == {}
    assert energy["real"].shape == (3, 3)


def test_a_perfect_reconstruction_has_no_distance(
    perfect: Perfect, clips: Path, perceptual: PerceptualNetworks
) -> None:
    pytest.importorskip("torchmetrics")
    metrics = measured(perfect, clips, perceptual=perceptual, clips=2)
    assert (metrics["psnr"], metrics["psnr_first"], metrics["first_minus_rest"]) == (100, 100, 0)
    assert metrics["ssim"] == pytest.approx(1)
    assert (metrics["gradient_energy"], metrics["blockiness"]) == pytest.approx((1, 1), rel=1e-4)
    assert metrics["lpips"] == 0
    assert metrics["rfvd"] == pytest.approx(0, abs=1e-3)
    assert 0 < metrics["codes_used"] <= 1 <= metrics["perplexity"]
    assert "fulfilled" not in metrics
    assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics
    perfect.damage = 0.3
    worse = measured(perfect, clips, perceptual=perceptual, clips=2)
    assert worse["psnr"] < 30 and worse["ssim"] < 0.99 and worse["lpips"] > 0 and worse["rfvd"] > 0.01


def test_rfvd_is_the_frechet_distance_of_the_logits(
    perfect: Perfect, clips: Path, perceptual: PerceptualNetworks
) -> None:
    pytest.importorskip("torchmetrics")
    perfect.damage = 0.3
    few = Clips(perfect, str(clips), 3, frames=9)
    found = reconstruction(perfect, few, lambda _: None, perceptual)["rfvd"]
    videos = torch.cat([to_float(sample.video) for sample in few])
    with torch.no_grad():
        real, made = (perceptual.i3d(each).double() for each in (videos, videos * 0.7))
    # with 3 clips in 400 dimensions: tr sqrt(A B) is the nuclear norm of X Y^T for A = X^T X, B = Y^T Y
    x, y = ((each - each.mean(0)) / 2**0.5 for each in (real, made))
    expected = (real.mean(0) - made.mean(0)).square().sum() + x.square().sum() + y.square().sum()
    expected -= 2 * torch.linalg.svdvals(x @ y.T).sum()
    assert found == pytest.approx(float(expected), rel=1e-3)


# ---- protocol


def test_the_protocol_says_what_was_measured(
    tokenizer: CViViT, clips: Path, perceptual: PerceptualNetworks, tmp_path: Path
) -> None:
    pytest.importorskip("torchmetrics")
    protocol = measured(tokenizer, clips, perceptual=perceptual, seed=3, clips=3)["protocol"]
    expected = {"data": str(clips), "split": "train", "seed": 3, "clips": 3, "frames": 9, "fps": 8, "size": [32, 32]}
    assert expected.items() <= protocol.items()
    assert (protocol["lpips"], protocol["i3d"]) == (perceptual.lpips.files, perceptual.i3d.files)
    assert {"temporal_crop", "resize", "crop", "range", "clips_sha256", "commit", "torch"} <= set(protocol)
    again = measured(tokenizer, shutil.copytree(clips, tmp_path / "copy"), seed=3, clips=3)["protocol"]
    assert again["clips_sha256"] == protocol["clips_sha256"]
    every = measured(tokenizer, clips, seed=3)["protocol"]
    assert every["clips"] == 7
    assert every["clips_sha256"] != protocol["clips_sha256"]


def test_unusable_clips_are_skipped_and_named(tokenizer: CViViT, clips: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(clips, tmp_path / "clips")
    (folder / "3.mp4").write_bytes(b"no video")
    metrics = measured(tokenizer, folder)
    assert metrics["protocol"]["clips"] == 6
    (sentence,) = metrics["skipped"]
    assert sentence.startswith("3.mp4: it cannot be read")
    with pytest.raises(PhenakiError, match="no usable clip of 21 frames: .*need more than 2.50 s"):
        measured(tokenizer, folder, frames=21)
    with pytest.raises(PhenakiError, match="nearest are 9 and 11"):
        measured(tokenizer, folder, frames=10)
    with pytest.raises(PhenakiError, match="need the procedural world: on"):
        evaluate(
            SimpleNamespace(components=SimpleNamespace(tokenizer=tokenizer)),
            ["reconstruction", "prompts"],
            data=str(folder),
        )


# ---- comparing


@pytest.fixture
def two(perfect: Perfect, clips: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Files of a perfect and a worse reconstruction, measured the same way."""
    paths = tmp_path / "one.json", tmp_path / "two.json"
    for path, damage in zip(paths, (0.0, 0.3), strict=True):
        perfect.damage = damage
        write_metrics(path, {"reconstruction": measured(perfect, clips)})
    return paths


def change(path: Path, **changes: Any) -> None:
    metrics = json.loads(path.read_text())
    metrics["reconstruction"]["protocol"] |= changes
    path.write_text(json.dumps(metrics))


def rendered(*paths: Path) -> list[str]:
    console = Console(width=200, record=True, quiet=False, file=io.StringIO())
    console.print(compare(paths))
    return console.export_text().splitlines()


def test_comparable_metrics_are_shown_side_by_side(two: tuple[Path, Path]) -> None:
    one, other = (json.loads(path.read_text())["reconstruction"] for path in two)
    (line,) = [line for line in rendered(*two) if "SSIM" in line]
    assert line.split()[1:] == [f"{each['ssim']:.4f}" for each in (one, other)] + [
        f"-{one['ssim'] - other['ssim']:.4f}"
    ]
    change(two[1], commit="abc", data="elsewhere", seconds=9, model={"tokenizer": "another"})
    assert any("different commit: " in line and "abc" in line for line in rendered(*two))
    third = shutil.copy(two[0], two[0].with_name("three.json"))
    (line,) = [line for line in rendered(*two, third) if "SSIM" in line]
    assert line.split()[1:] == [f"{each['ssim']:.4f}" for each in (one, other, one)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frames": 11}, "frames is 9 and 11"),
        ({"clips_sha256": "f" * 64}, r"clips_sha256 is \w{12}... and ffffffffffff..."),
        ({"lpips": {"vgg.pth": "c"}}, "lpips is not recorded and {'vgg.pth': 'c'}"),
        ({"size": [64, 64]}, r"size is \[32, 32\] and \[64, 64\]"),
        ({"resize": "nearest"}, "resize is short side"),
    ],
)
def test_different_protocols_are_not_compared(two: tuple[Path, Path], changes: dict[str, Any], message: str) -> None:
    change(two[1], **changes)
    with pytest.raises(PhenakiError, match=f"one.json' and '.*two.json' cannot be compared.*{message}"):
        compare(two)


def test_files_without_common_metrics_are_refused(two: tuple[Path, Path], tmp_path: Path) -> None:
    stories = tmp_path / "stories.json"
    stories.write_text('{"stories": {"protocol": {"model": {}}}}')
    with pytest.raises(PhenakiError, match="one.json' holds reconstruction; '.*stories.json' holds stories"):
        compare([two[0], stories])
    with pytest.raises(PhenakiError, match="no file 'missing.json'"):
        compare([two[0], "missing.json"])
    with pytest.raises(PhenakiError, match="two files or more"):
        compare(two[:1])


# ---- the command


def test_the_commands_evaluate_and_compare(
    tokenizer: CViViT, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PHENAKI_CACHE", str(tmp_path))
    save_component(tokenizer, tmp_path / "model")
    files = [str(tmp_path / name) for name in ("one.json", "two.json")]

    def run(*arguments: str) -> Any:
        return CliRunner(env={"COLUMNS": "150"}).invoke(app, arguments)

    for file in files:
        data = ["--data", str(clips), "--frames", "9", "--clips", "5", "--out", file]
        result = run("evaluate", str(tmp_path / "model"), "--suite", "reconstruction", *data)
        assert result.exit_code == 0, result.output
        assert f"Reconstruction of 5 clips of {clips}" in result.output
        assert "bits per pixel" in result.output
        assert "met" not in result.output  # the targets are those of the procedural world
        assert "LPIPS and FVD are skipped" in result.stderr
        assert len(result.stderr.splitlines()) == 1  # details are in `phenaki doctor`
    result = run("compare", *files)
    assert result.exit_code == 0, result.output
    assert "+0.00 dB" in result.output
    result = run("evaluate", str(tmp_path / "model"), "--data", str(clips), "--i3d", str(tmp_path / "none.pt"))
    assert result.exit_code == 2
    assert "there is no file or folder" in result.stderr and "get rgb_imagenet.pt from" in result.stderr
    for data, said in (([], True), (["--data", "shapes"], False)):
        result = run("evaluate", str(tmp_path / "model"), "--suite", "reconstruction", "--clips", "1", *data)
        assert result.exit_code == 0, result.output
        assert ("is evaluated on the procedural world of shapes" in result.stderr) is said


def test_a_component_that_makes_no_video_is_refused(generator: MaskedTransformer, tmp_path: Path) -> None:
    save_component(generator, tmp_path / "generator")
    result = CliRunner().invoke(app, ["evaluate", str(tmp_path / "generator")])
    assert result.exit_code == 2, result.output
    assert "is only a MaskedTransformer, which generates no video" in result.stderr
