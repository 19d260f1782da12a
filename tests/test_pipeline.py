"""A whole model: text in, video out, the same for the same seed, and the same from its folder."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import phenaki
from helpers.sampling import sampling_config
from phenaki.conditioning import WordEncoder, WordEncoderConfig
from phenaki.core import hub
from phenaki.core.components import REQUIRED, save_component
from phenaki.core.errors import PhenakiError
from phenaki.generators import Components, MaskedTransformer, MaskedTransformerSizes
from phenaki.media.reader import read_video
from phenaki.pipeline import Phenaki, load
from phenaki.tokenizers import CViViT, QuantizerConfig

FAST = sampling_config(steps=2, guidance_scale=2.0, prime_frames=3)
STORY = ["a red circle", "now it moves up", "now it stops"]


@pytest.fixture
def model(tokenizer: CViViT, generator: MaskedTransformer, text_encoder: WordEncoder) -> Phenaki:
    return Phenaki(Components(generator, tokenizer, text_encoder), FAST)


@pytest.fixture
def folder(model: Phenaki, tmp_path: Path) -> Path:
    model.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def change(path: Path, edit: Callable[[dict], object]) -> None:
    """Edit a JSON file in place."""
    data = json.loads(path.read_text())
    edit(data)
    path.write_text(json.dumps(data))


# ---- text to video


def test_the_result_says_what_it_holds(model: Phenaki) -> None:
    result = model.generate(STORY, frames=11, seed=3, samples=2)
    assert result.video.shape == (2, 3, 31, 32, 32)
    assert result.video.dtype == torch.float32
    assert 0 <= result.video.min() and result.video.max() <= 1
    assert result.prompts == tuple(STORY) and result.scene_starts == (0, 11, 21)
    assert result.fps == model.tokenizer.config.fps and result.seed == 3
    assert result.clips.shape == (2, 31, 32, 32, 3) and result.clips.dtype == np.uint8


def test_the_same_seed_gives_the_same_video(model: Phenaki) -> None:
    torch.manual_seed(1)
    first = model.generate("a red circle", frames=5, seed=7).video
    torch.manual_seed(2)  # the global state must not matter
    assert torch.equal(model.generate("a red circle", frames=5, seed=7).video, first)
    assert not torch.equal(model.generate("a red circle", frames=5, seed=8).video, first)


def test_a_stream_hands_out_what_generate_gives_as_it_is_made(model: Phenaki) -> None:
    asked = {"frames": [15, 5, 3], "seed": 1, "samples": 2}
    finished: list[tuple[int, int]] = []
    pieces = model.stream(STORY, **asked, on_progress=lambda done, total: finished.append((done, total)))
    assert not finished
    received = [next(pieces)]
    assert finished == [(1, 8), (2, 8)]  # 15 frames take two windows, and each window FAST.steps steps
    received += pieces
    assert finished[-1] == (8, 8)
    assert torch.equal(torch.cat(received, 2), model.generate(STORY, **asked).video)


def test_scenes_of_different_lengths(model: Phenaki) -> None:
    result = model.generate(STORY, frames=[1, 3, 11])
    assert result.video.shape[2] == 1 + 2 + 10 and result.scene_starts == (0, 1, 3)
    assert model.generate("a red circle").video.shape[2] == model.generator.config.frames


def test_settings_are_the_models_own_unless_given(model: Phenaki, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(
        "phenaki.pipeline.model.rollout", lambda *args, **_: iter(seen.append(args[2]) or [torch.zeros(1)])
    )
    list(model.stream("a", steps=None))
    list(model.stream("a", steps=5, guidance_scale=1, top_k=3, schedule="linear"))
    decoding = replace(FAST.decoding, steps=5, top_k=3, schedule="linear")
    assert seen == [FAST, replace(FAST, decoding=decoding, guidance=replace(FAST.guidance, scale=1.0))]


@pytest.mark.parametrize(
    ("prompts", "asked", "said"),
    [
        ("", {}, "the prompt is empty"),
        ("a" * 10_000, {}, "at most 64"),
        ("красный круг", {}, "letters that this model cannot read.*latin letters only"),
        ("\udcff", {}, "not valid UTF-8"),
        ([], {}, "there is no prompt"),
        (["a", " "], {}, "scene 2: the prompt is empty"),
        (["a", 3], {}, "scene 2: a prompt is text, not 3"),
        ("a", {"frames": 10}, "10 frames .* 1 \\+ 2k frames: the nearest are 9 and 11"),
        ("a", {"frames": 0}, "the nearest are 1 and 3"),
        (["a", "b"], {"frames": [11, 6]}, "scene 2: .* 6 frames .* the nearest are 5 and 7"),
        (["a", "b"], {"frames": 1}, "scene 2: a scene of 1 frame adds nothing.* at least 3 frames"),
        (["a", "b"], {"frames": [11]}, "1 lengths for 2 prompts"),
        ("a", {"steps": 0}, "steps 0 must be at least 1"),
        ("a", {"guidance_scale": -1.0}, "scale -1.0 must be at least 0"),
        ("a", {"temperature": float("nan")}, "temperature nan must be finite"),
        ("a", {"schedule": "cosin"}, "not 'cosin'. Did you mean 'cosine'"),
        ("a", {"setps": 3}, "no argument 'setps'. Did you mean 'steps'"),
        ("a", {"seed": -1}, "seed -1"),
        ("a", {"samples": 0}, "0 samples"),
    ],
)
def test_what_cannot_be_made_is_refused_before_any_work(
    model: Phenaki, monkeypatch: pytest.MonkeyPatch, prompts: object, asked: dict, said: str
) -> None:
    monkeypatch.setattr("phenaki.pipeline.model.rollout", lambda *_, **__: pytest.fail("the work began"))
    with pytest.raises(PhenakiError, match=said):
        model.stream(prompts, **asked)
    with pytest.raises(PhenakiError, match=said):
        model.generate(prompts, **asked)


# ---- start frames, and rollouts without end


def test_scenes_are_numbered_after_what_was_given(model: Phenaki) -> None:
    start = torch.rand(1, 3, 4, 32, 32, generator=torch.Generator().manual_seed(0))
    result = model.extend(start, STORY[:2], frames=[3, 5], samples=2)
    assert result.scene_starts == (4, 6) and result.video.shape[2] == 4 + 2 + 4
    assert torch.equal(result.video[:, :, :4], start.expand(2, -1, -1, -1, -1))
    pieces = list(model.stream(STORY[:2], start=start, frames=[3, 5], samples=2))
    assert torch.equal(torch.cat(pieces, 2), result.video)


def test_a_rollout_yields_what_a_stream_does(model: Phenaki) -> None:
    finished: list[tuple[int, int | None]] = []
    rollout = model.rollout(seed=5, on_progress=lambda *steps: finished.append(steps))
    pieces = []
    for number, prompt in enumerate(STORY):
        pieces += rollout.generate(model.scene(prompt, 5, first=not number))
    assert torch.equal(torch.cat(pieces, 2), model.generate(STORY, frames=5, seed=5).video)
    assert finished == [(number, None) for number in range(1, 7)]


WHITE = torch.ones(32, 32, dtype=torch.bool)


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda m, v: m.extend(v[0, 0], "a"), r"a video of shape \(5, 32, 32\)"),
        (lambda m, v: m.extend(2 * v, "a"), "pass RGB in"),
        (lambda m, v: m.extend(v.repeat(3, 1, 1, 1, 1), "a", samples=2), "for 2 samples: give one, or one for each"),
        (lambda m, v: m.extend(v[:, :, :0], "a"), "give one, or one for each"),
        (lambda m, v: m.extend(v[..., :31], "a"), "multiple of 8"),
        (lambda m, v: m.extend(v, "a", prime_frames=7), "the clip has 5: use at most 5"),
        (lambda m, v: m.generate("a", start=v, size=(16, 32)), "size 32x16, but the first frames have 32x32 pixels"),
        (lambda m, v: m.generate("a", size=(20, 32)), "multiple of 8"),
        (lambda m, v: m.interpolate(v, v[..., :16], "a"), "the two clips have 32x32 and 16x32 pixels"),
        (lambda m, v: m.inpaint(v, WHITE[None, None, None].expand(1, 2, 5, -1, -1), "a"), r"a mask of shape"),
        (lambda m, v: m.inpaint(v, WHITE[:16], "a"), "1 frames of 32x16 pixels, and the video 5 of 32x32"),
        (lambda m, v: m.inpaint(v, WHITE.expand(3, -1, -1), "a"), "give one frame, or 5"),
        (lambda m, v: m.inpaint(v, ~WHITE, "a"), "the mask is empty"),
        (lambda m, v: m.inpaint(v[:, :, :4], WHITE, "a"), "the nearest are 3 and 5"),
    ],
)
def test_what_is_given_must_fit(model: Phenaki, edit: Callable, said: str) -> None:
    with pytest.raises(PhenakiError, match=said):
        edit(model, torch.rand(1, 3, 5, 32, 32, generator=torch.Generator().manual_seed(0)))


# ---- saving what was made


def test_a_generator_of_single_images_makes_no_second_scene(tokenizer: CViViT, text_encoder: WordEncoder) -> None:
    sizes = MaskedTransformerSizes(frames=1, width=64, layers=1)
    model = Phenaki(
        Components(MaskedTransformer(sizes.config(tokenizer.spec, text_encoder.width)), tokenizer, text_encoder)
    )
    assert model.generate("a star", steps=1).video.shape == (1, 3, 1, 32, 32)
    for prompts, frames in ((["a star", "it moves"], None), ("a star", 3)):
        with pytest.raises(PhenakiError, match="single images: give one prompt and 1 frame"):
            model.generate(prompts, frames=frames)


def test_samples_are_saved_side_by_side_and_enlarged(model: Phenaki, tmp_path: Path) -> None:
    result = model.generate("a red circle", frames=3, samples=2)
    result.save(tmp_path / "plain.webp")
    result.save(tmp_path / "large.webp", upscale=3)
    plain, large = (read_video(tmp_path / name) for name in ("plain.webp", "large.webp"))
    assert plain.fps == pytest.approx(result.fps)
    assert np.array_equal(plain.frames[:, :, :32], result.clips[0])
    assert np.array_equal(plain.frames[:, :, -32:], result.clips[1])
    assert np.array_equal(large.frames[:, ::3, ::3], plain.frames)


@pytest.mark.parametrize("name", ["a.mp4", "a.gif", "a.png", "frames/"])
def test_the_ending_decides(model: Phenaki, tmp_path: Path, name: str) -> None:
    model.generate("a red circle", frames=3).save(f"{tmp_path}/{name}", upscale=2)
    frames = read_video(tmp_path / name).frames
    assert frames.shape[1:3] == (64, 64) or name == "a.png"


def test_a_picture_larger_than_a_video_can_be(model: Phenaki, tmp_path: Path) -> None:
    with pytest.raises(PhenakiError, match="32000x32000 pixels.* exceed the 16383 a side"):
        model.generate("a", frames=1).save(tmp_path / "a.mp4", upscale=1000)
    assert not os.listdir(tmp_path)


# ---- folders


def test_the_folder_alone_rebuilds_the_model(model: Phenaki, folder: Path) -> None:
    assert sorted(os.listdir(folder)) == ["README.md", "generator", "model.json", "text", "tokenizer"]
    loaded = Phenaki.from_pretrained(folder, device="cpu")
    assert loaded.sampling == FAST and loaded.image_size == (32, 32)
    for part in (loaded.tokenizer, loaded.generator, loaded.text_encoder):
        assert not part.training
    made, again = (each.generate(STORY[:2], frames=5, seed=2).video for each in (model, loaded))
    assert torch.equal(made, again)
    assert torch.equal(loaded.tokenizer.encode(made), model.tokenizer.encode(made))


def test_half_precision_on_the_disk(model: Phenaki, folder: Path, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "half", dtype=torch.float16)
    loaded = Phenaki.from_pretrained(tmp_path / "half", device="cpu")
    assert {p.dtype for p in loaded.generator.parameters()} == {torch.float32}
    sizes = [(place / "generator" / "weights.safetensors").stat().st_size for place in (folder, tmp_path / "half")]
    assert sizes[1] < 0.55 * sizes[0]
    for name, weight in model.generator.state_dict().items():
        assert torch.equal(loaded.generator.state_dict()[name], weight.half().float())
    assert loaded.generate("a", frames=3).video.shape == (1, 3, 3, 32, 32)


def test_saving_again_keeps_the_model_card_and_replaces_the_rest(model: Phenaki, folder: Path) -> None:
    (folder / "README.md").write_text("a card")
    model.sampling = replace(FAST, decoding=replace(FAST.decoding, steps=9))
    model.save_pretrained(folder)
    assert (
        Phenaki.from_pretrained(folder, device="cpu").sampling.decoding.steps == 9 and (folder / "README.md").exists()
    )


def test_a_failed_save_leaves_nothing(model: Phenaki, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(PhenakiError, match="the disk is full"):
        model.save_pretrained(tmp_path / "model")
    assert not os.listdir(tmp_path)


def test_load_gives_whatever_lies_there(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(load(folder), Phenaki)
    assert isinstance(phenaki.load(folder / "tokenizer"), CViViT)
    assert isinstance(load(str(folder / "generator")), MaskedTransformer)
    assert isinstance(load(folder / "text"), WordEncoder)
    monkeypatch.setattr(hub, "ZOO", tmp_path)
    assert isinstance(load("model"), Phenaki)  # by its name
    with pytest.raises(PhenakiError, match="'modle'. Did you mean 'model'.*package: model"):
        load("modle")
    with pytest.raises(PhenakiError, match=r"neither model.json .* nor config.json .*perhaps you mean '.*/model'"):
        load(tmp_path)
    with pytest.raises(PhenakiError, match=r"a single component \(tokenizer\)"):
        Phenaki.from_pretrained(folder / "tokenizer")
    (tmp_path / "empty").mkdir()
    with pytest.raises(PhenakiError, match="is no folder of a model"):
        Phenaki.from_pretrained(tmp_path / "empty")


def test_parts_that_were_not_built_for_one_another(
    model: Phenaki, folder: Path, tmp_path: Path, tokenizer: CViViT
) -> None:
    config = tokenizer.config
    other = CViViT(replace(config, quantizer=QuantizerConfig(levels=(4, 4))))
    with pytest.raises(PhenakiError, match="vocab_size 125, not 16"):
        Components(model.generator, other, model.text_encoder)
    save_component(other, folder / "tokenizer")
    with pytest.raises(PhenakiError, match="model': .*vocab_size 125, not 16"):
        Phenaki.from_pretrained(folder)
    retrained = CViViT(config)  # the same in all but its weights
    save_component(retrained, folder / "tokenizer")
    with pytest.raises(PhenakiError, match="fingerprint of the tokenizer.*is not the one in model.json: put back"):
        Phenaki.from_pretrained(folder)
    with pytest.raises(PhenakiError, match="text of width 64.* has width 128"):
        Components(model.generator, model.tokenizer, WordEncoder(WordEncoderConfig(width=128)))


@pytest.mark.parametrize(
    ("file", "edit", "said"),
    [
        ("model.json", lambda d: d.update(colour=1), "Unknown key 'colour'"),
        (
            "model.json",
            lambda d: d["sampling"]["decoding"].update(stepz=1),
            "'sampling.decoding.stepz'. Did you mean 'steps'",
        ),
        ("model.json", lambda d: d.pop("tokenizer"), "The key 'tokenizer' of ModelFile is missing"),
        ("model.json", lambda d: d["sampling"]["decoding"].update(steps=0), "steps 0"),
        ("generator/config.json", lambda d: d["config"].update(widht=1), "Unknown key 'widht'. Did you mean 'width'"),
        ("generator/config.json", lambda d: d["config"].pop("text_width"), "'text_width' .* is missing"),
        ("text/config.json", lambda d: d["config"].update(layers=3), "do not fit WordEncoder"),
        ("tokenizer/config.json", lambda d: d.update(type="vivit"), "'vivit'.* Did you mean 'cvivit'"),
    ],
)
def test_a_broken_folder_is_refused_in_words(folder: Path, file: str, edit: Callable, said: str) -> None:
    change(folder / file, edit)
    with pytest.raises(PhenakiError, match=said) as caught:
        Phenaki.from_pretrained(folder)
    assert f"{folder}/{file.partition('/')[0]}" in str(caught.value)


@pytest.mark.parametrize("kind", REQUIRED)
def test_truncated_and_missing_weights(folder: Path, kind: str) -> None:
    path = folder / kind / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(PhenakiError, match=f"{kind}/weights.safetensors.* is not a complete safetensors file"):
        Phenaki.from_pretrained(folder)
    path.unlink()
    with pytest.raises(PhenakiError, match=f"{kind}' has no weights.safetensors"):
        Phenaki.from_pretrained(folder)
    shutil.rmtree(folder / kind)
    with pytest.raises(PhenakiError, match=f"{folder}' holds no {kind}/: .*Copy the folder"):
        Phenaki.from_pretrained(folder)


def test_a_device_that_is_not_there(folder: Path) -> None:
    with pytest.raises(PhenakiError, match="the device 'cuda:99'"):
        Phenaki.from_pretrained(folder, device="cuda:99")


# ---- the package


def test_importing_the_package_and_its_command_line_is_quick() -> None:
    code = """
import sys, phenaki, phenaki.cli
assert not {"torch", "numpy", "av", "omegaconf"} & set(sys.modules)
assert {"Phenaki", "load", "PhenakiError"} <= set(dir(phenaki))
try:
    phenaki.laod
except AttributeError:
    print("fine")
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "fine\n"
    assert phenaki.Phenaki is Phenaki and phenaki.PhenakiError is PhenakiError
