"""LPIPS and I3D: published names and values, frozen, and errors for invalid files."""

from __future__ import annotations

import hashlib
import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from phenaki.core.errors import PhenakiError
from phenaki.perceptual import I3D, LPIPS, MissingWeights, load_i3d, load_lpips
from phenaki.perceptual.i3d import _same

NARROW = 8
COUNT = ".num_batches_tracked"

VGG16 = {0: (64, 3), 2: (64, 64), 5: (128, 64), 7: (128, 128), 10: (256, 128), 12: (256, 256), 14: (256, 256)}
VGG16 |= {17: (512, 256)} | {place: (512, 512) for place in (19, 21, 24, 26, 28)}
HEADS = {f"lin{number}.model.1.weight": (1, channels, 1, 1) for number, channels in enumerate((64, 128, 256, 512, 512))}

MIXED = {  # inputs, then the outputs of b0, b1a, b1b, b2a, b2b, b3b
    "3b": (192, 64, 96, 128, 16, 32, 32),
    "3c": (256, 128, 128, 192, 32, 96, 64),
    "4b": (480, 192, 96, 208, 16, 48, 64),
    "4c": (512, 160, 112, 224, 24, 64, 64),
    "4d": (512, 128, 128, 256, 24, 64, 64),
    "4e": (512, 112, 144, 288, 32, 64, 64),
    "4f": (528, 256, 160, 320, 32, 128, 128),
    "5b": (832, 256, 160, 320, 32, 128, 128),
    "5c": (832, 384, 192, 384, 48, 128, 128),
}


def published_i3d() -> dict[str, tuple[int, ...]]:
    """Names and shapes in rgb_imagenet.pt, which predates num_batches_tracked."""
    units = {"Conv3d_1a_7x7": (64, 3, 7), "Conv3d_2b_1x1": (64, 64, 1), "Conv3d_2c_3x3": (192, 64, 3)}
    for name, (given, b0, b1a, b1b, b2a, b2b, b3b) in MIXED.items():
        block = {"b0": (b0, given, 1), "b1a": (b1a, given, 1), "b1b": (b1b, b1a, 3)}
        block |= {"b2a": (b2a, given, 1), "b2b": (b2b, b2a, 3), "b3b": (b3b, given, 1)}
        units |= {f"Mixed_{name}.{unit}": shape for unit, shape in block.items()}
    shapes: dict[str, tuple[int, ...]] = {"logits.conv3d.weight": (400, 1024, 1, 1, 1), "logits.conv3d.bias": (400,)}
    for unit, (outputs, inputs, kernel) in units.items():
        shapes[f"{unit}.conv3d.weight"] = (outputs, inputs, *3 * (kernel,))
        shapes |= {f"{unit}.bn.{name}": (outputs,) for name in ("weight", "bias", "running_mean", "running_var")}
    return shapes


def shapes_of(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def lively(module: nn.Module) -> nn.Module:
    """With random statistics, signals that reach the end, and non-negative heads, as if trained."""
    rng = torch.Generator().manual_seed(0)
    for name, tensor in module.state_dict().items():
        if tensor.ndim == 1:  # biases and statistics
            tensor.copy_(0.5 + torch.rand(tensor.shape, generator=rng))
        elif name.startswith("lin"):
            tensor.copy_(torch.rand(tensor.shape, generator=rng))
        elif tensor.ndim > 1:
            nn.init.kaiming_normal_(tensor, generator=rng)
    return module.eval()


@pytest.fixture
def lpips() -> LPIPS:
    torch.manual_seed(0)
    return lively(LPIPS(width=64 // NARROW))


@pytest.fixture
def i3d() -> I3D:
    torch.manual_seed(0)
    return lively(I3D(narrow=NARROW))


def video(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


# ---- LPIPS


def test_lpips_has_the_published_names() -> None:
    expected = {f"features.{place}.weight": (*channels, 3, 3) for place, channels in VGG16.items()}
    expected |= {f"features.{place}.bias": channels[:1] for place, channels in VGG16.items()}
    with torch.device("meta"):
        assert shapes_of(LPIPS()) == expected | HEADS


def test_lpips_equals_torchmetrics(monkeypatch: pytest.MonkeyPatch) -> None:
    reference = pytest.importorskip("torchmetrics.functional.image.lpips")
    if not hasattr(reference, "_get_tv_model_features"):
        pytest.skip("this version of torchmetrics builds VGG by torchvision alone")
    torch.manual_seed(0)
    lpips = lively(LPIPS())
    layers: list[nn.Module] = []
    for width in (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512):
        before = next((layer.out_channels for layer in reversed(layers) if isinstance(layer, nn.Conv2d)), 3)
        layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU()] if width else [nn.MaxPool2d(2, 2)]
    features = nn.Sequential(*layers)
    monkeypatch.setattr(reference, "_get_tv_model_features", lambda *_: features)
    other = reference._LPIPS(pretrained=False, net="vgg", use_dropout=True)
    state = lpips.state_dict()
    features.load_state_dict({name[9:]: tensor for name, tensor in state.items() if name.startswith("features")})
    other.load_state_dict({name: tensor for name, tensor in state.items() if name.startswith("lin")}, strict=False)
    a, b = video(1, 3, 2, 32, 48), video(1, 3, 2, 32, 48, seed=1)
    with torch.no_grad():
        expected = other(a[0].movedim(1, 0), b[0].movedim(1, 0), normalize=True).flatten()
        found = lpips(a, b)
    assert found.shape == (1, 2)
    torch.testing.assert_close(found[0], expected, rtol=1e-4, atol=1e-6)


def test_lpips_is_computed_per_frame(lpips: LPIPS) -> None:
    a, b = video(2, 3, 3, 16, 16), video(2, 3, 3, 16, 16, seed=1)
    b[1, :, 2] = a[1, :, 2]
    distances = lpips(a, b)
    assert distances.shape == (2, 3)
    assert distances[1, 2] == 0
    assert (distances.flatten()[:-1] > 0).all()
    torch.testing.assert_close(lpips(a[1:, :, 1:2], b[1:, :, 1:2]), distances[1:, 1:2])


def test_lpips_has_gradients_for_the_video_only(lpips: LPIPS, tmp_path: Path) -> None:
    save_file(lpips.state_dict(), tmp_path / "lpips.safetensors")
    loaded = load_lpips(tmp_path)
    a = torch.zeros(1, 3, 1, 16, 16, requires_grad=True)  # flat: features of zero length would have no gradient
    loaded(a, video(1, 3, 1, 16, 16)).sum().backward()
    assert a.grad.isfinite().all() and a.grad.abs().sum() > 0
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


@pytest.mark.parametrize(
    "shapes", [((1, 3, 2, 16, 16), (1, 3, 1, 16, 16)), ((3, 1, 16, 16),) * 2, ((1, 3, 1, 8, 16),) * 2]
)
def test_lpips_refuses_other_shapes(lpips: LPIPS, shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    with pytest.raises(PhenakiError, match="LPIPS compares two videos"):
        lpips(*(torch.zeros(shape) for shape in shapes))


# ---- I3D


def test_i3d_has_the_published_names() -> None:
    with torch.device("meta"):
        shapes = shapes_of(I3D())
    assert {name: shape for name, shape in shapes.items() if not name.endswith(COUNT)} == published_i3d()


@pytest.mark.parametrize(("kernel", "stride"), [(7, 2), (3, 1), (3, 2), (2, 2), (1, 1)])
def test_padding_is_that_of_tensorflow(kernel: int, stride: int) -> None:
    """TensorFlow's rule: ceil(n / stride) windows with minimal padding, the odd one at the end."""
    for n in range(1, 18):
        padded = _same(torch.ones(1, 1, 1, 1, n), (1, 1, kernel), (1, 1, stride)).flatten()
        windows = -(-n // stride)
        assert len(padded) == max(n, (windows - 1) * stride + kernel)
        front, back = (int(side.cumprod(0).sum()) for side in (1 - padded, 1 - padded.flip(0)))
        assert back - front in (0, 1)


def test_i3d_features_have_the_published_strides(i3d: I3D) -> None:
    clip = video(1, 3, 11, 20, 24)
    expected = {"Conv3d_1a_7x7": (64, 6, 112), "Conv3d_2c_3x3": (192, 6, 56), "Mixed_3c": (480, 6, 28)}
    expected |= {"Mixed_4f": (832, 3, 14), "Mixed_5c": (1024, 2, 7)}
    with torch.no_grad():
        for layer, (channels, steps, side) in expected.items():
            assert i3d.features(clip, layer).shape == (1, channels // NARROW, steps, side, side)
        assert torch.equal(i3d.features(clip), i3d.features(clip, "Mixed_4f"))
    with pytest.raises(PhenakiError, match="no layer 'Mixed_9z'; its layers are Conv3d_1a_7x7, .*Mixed_5c"):
        i3d.features(clip, "Mixed_9z")


def test_i3d_depends_on_motion_and_range(i3d: I3D) -> None:
    clip = video(2, 3, 9, 16, 16)
    with torch.no_grad():
        logits = i3d(clip)
        assert logits.shape == (2, 400)
        torch.testing.assert_close(i3d(clip[1:]), logits[1:])  # batch norm uses its stored statistics
        assert not torch.allclose(i3d(clip.flip(2)), logits)
        grey = i3d.features(torch.full((1, 3, 1, 16, 16), 0.5), "Conv3d_1a_7x7")
        norm = i3d.Conv3d_1a_7x7.bn
        still = (norm.bias - norm.running_mean * norm.weight / (norm.running_var + 1e-3).sqrt()).relu()
        torch.testing.assert_close(grey[0, :, 0, 5, 5], still)  # 0.5 is the middle of -1..1
    with pytest.raises(PhenakiError, match="at least 9 frames, not 8"):
        i3d(clip[:, :, :8])


def test_i3d_has_gradients_for_the_video_only(i3d: I3D, tmp_path: Path) -> None:
    torch.save(i3d.state_dict(), tmp_path / "rgb_imagenet.pt")
    loaded = load_i3d(tmp_path)
    clip = video(1, 3, 3, 16, 16).requires_grad_()
    loaded.features(clip, "Mixed_3b").sum().backward()
    assert clip.grad.isfinite().all() and clip.grad.abs().sum() > 0
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


# ---- files


def write_parts(lpips: LPIPS, folder: Path) -> None:
    state = lpips.state_dict()
    vgg = {name: tensor for name, tensor in state.items() if name.startswith("features")}
    torch.save(vgg | {"classifier.0.weight": torch.zeros(2)}, folder / "vgg16-397923af.pth")
    torch.save({name: state[name] for name in HEADS}, folder / "vgg.pth")


def test_one_file_or_two_are_one_network(lpips: LPIPS, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_file(lpips.state_dict(), tmp_path / "mine.safetensors")
    write_parts(lpips, tmp_path)
    monkeypatch.setenv("PHENAKI_CACHE", str(tmp_path))
    a, b = video(1, 3, 1, 16, 16), video(1, 3, 1, 16, 16, seed=1)
    for loaded in (load_lpips(tmp_path / "mine.safetensors"), load_lpips(tmp_path), load_lpips()):
        assert torch.equal(loaded(a, b), lpips(a, b))
    assert list(load_lpips().files) == ["vgg16-397923af.pth", "vgg.pth"]
    assert load_lpips().files["vgg.pth"] == hashlib.sha256((tmp_path / "vgg.pth").read_bytes()).hexdigest()


def test_i3d_files_of_any_age(i3d: I3D, tmp_path: Path) -> None:
    state = i3d.state_dict()
    torch.save(state, tmp_path / "new.pt")
    old = {name: tensor for name, tensor in state.items() if not name.endswith(COUNT)}
    torch.save(old, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    for name in ("new.pt", "old.pt"):
        loaded = load_i3d(tmp_path / name).state_dict()
        assert all(torch.equal(loaded[name], state[name]) for name in state)


def test_missing_weights_are_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lpips: LPIPS) -> None:
    monkeypatch.setenv("PHENAKI_CACHE", str(tmp_path))
    with pytest.raises(MissingWeights, match=r"vgg16-397923af.pth and vgg.pth in '.*https://.*loss.lpips=0"):
        load_lpips()
    with pytest.raises(MissingWeights, match=r"rgb_imagenet.pt in '.*https://.*loss.i3d=0"):
        load_i3d()
    for load in (load_lpips, load_i3d):
        with pytest.raises(PhenakiError, match="there is no file or folder .*nowhere") as raised:
            load(tmp_path / "nowhere")
        assert not isinstance(raised.value, MissingWeights)  # a path that was passed is never skipped
    write_parts(lpips, tmp_path)
    (tmp_path / "vgg.pth").unlink()
    with pytest.raises(PhenakiError, match="there is no lpips.safetensors, or vgg16-397923af.pth and vgg.pth in"):
        load_lpips(tmp_path)


class Trap:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("sprung",)


@pytest.mark.filterwarnings("ignore")
def test_files_of_something_else_are_refused(
    lpips: LPIPS, i3d: I3D, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save_file(lpips.state_dict(), "lpips.safetensors")
    write_parts(lpips, tmp_path)
    torch.save(i3d.state_dict(), "i3d.pt")
    deeper = {f"features.{place}.weight": torch.zeros(8, 8, 3, 3) for place in (0, 2, 5, 7, 10, 12, 14, 16, 19)}
    torch.save(deeper, "vgg19.pth")
    torch.save([torch.zeros(1)], "list.pt")
    torch.save({"model": Trap()}, "trap.pt")
    Path("trap.pickle").write_bytes(pickle.dumps(Trap()))
    Path("broken.pt").write_bytes(Path("i3d.pt").read_bytes()[:1000])
    Path("broken.safetensors").write_bytes(b"\0" * 100)
    Path("empty.pt").touch()
    with torch.no_grad():
        torch.jit.trace(nn.Linear(1, 1), torch.zeros(1, 1)).save("script.pt")
    for load, names in (
        (load_lpips, ("i3d.pt", "vgg19.pth", "vgg16-397923af.pth")),
        (load_i3d, ("lpips.safetensors", "vgg16-397923af.pth")),
    ):
        for name in names:
            with pytest.raises(PhenakiError, match=f"{name}': the weights do not fit"):
                load(name)
        for name in ("list.pt", "trap.pt", "trap.pickle", "broken.pt", "broken.safetensors", "empty.pt", "script.pt"):
            with pytest.raises(PhenakiError, match=rf"'{name}' (holds|(\([\d,]+ bytes\) )?is not a complete)"):
                load(name)
    assert not Path("sprung").exists()
