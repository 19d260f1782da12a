"""A generator of one's own is compared with held-out clips of its data; the figures move the way they should."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from helpers.sampling import sampling_config
from phenaki.cli import app
from phenaki.conditioning import WordEncoder
from phenaki.core.errors import PhenakiError
from phenaki.evaluation import evaluate
from phenaki.evaluation.generation import clip_features, kernel_distance, retrieval
from phenaki.generators import Components, MaskedTransformer
from phenaki.media.convert import to_float
from phenaki.media.reader import read_video
from phenaki.pipeline import Domain, Phenaki
from phenaki.tokenizers import CViViT


@pytest.fixture
def model(tokenizer: CViViT, generator: MaskedTransformer, text_encoder: WordEncoder) -> Phenaki:
    sampling = sampling_config(steps=1, prime_frames=3)
    model = Phenaki(Components(generator, tokenizer, text_encoder), sampling)
    model.sampling = type(sampling)(sampling.decoding, sampling.guidance, type(sampling.rollout)(scene_frames=5))
    return model


def real_clips(folder: Path) -> torch.Tensor:
    return to_float(np.stack([read_video(file).frames[:5] for file in sorted(folder.glob("*.mp4"))]))


def test_features_see_layout_and_motion(tokenizer: CViViT, clips: Path) -> None:
    video = real_clips(clips)
    real = clip_features(tokenizer, video)
    assert len(real) == 7 and real.shape[1] % 3 == 0
    still = clip_features(tokenizer, video[:, :, :1].expand_as(video))
    third = real.shape[1] // 3
    assert still[:, 2 * third :].mean() < real[:, 2 * third :].mean()  # it changes less over time
    grey = clip_features(tokenizer, torch.full_like(video, 0.5))
    assert grey[:, third : 2 * third].mean() < real[:, third : 2 * third].mean()  # and within a frame


def test_the_distance_is_unbiased_and_grows() -> None:
    rng = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 200, 8, generator=rng, dtype=torch.float64)
    assert abs(kernel_distance(a, b)) < 0.1 < kernel_distance(a, b + 0.5) < kernel_distance(a, b + 1)


def test_captions_are_found_again_by_their_clips() -> None:
    features = torch.eye(6, dtype=torch.float64)
    captions = ["a", "b", "c", "d", "e", "a"]
    found = retrieval(features, features, captions)
    assert found["first"]["rate"] == found["five"]["rate"] == 1 and found["chance"] == pytest.approx(8 / 36)
    shifted = retrieval(features.roll(1, 0), features, captions)
    assert shifted["first"]["rate"] == pytest.approx(1 / 6)  # only the first "a" finds the other one


def test_what_is_generated_is_compared_with_held_out_clips(model: Phenaki, clips: Path) -> None:
    pairs = []
    block = evaluate(
        model, ("generation",), data=str(clips), clips=5, progress=False, show=lambda *shown: pairs.append(shown)
    )["generation"]
    assert block["protocol"]["clips"] == 5 and block["protocol"]["frames"] == 5
    assert "tokenizer latents" in block["protocol"]["features"] and "sampling" in block["protocol"]
    assert block["kernel_distance"] > block["real_distance"]  # random weights
    assert set(block["retrieval"]) == {"first", "five", "chance"} and block["motion"] > 0 < block["gradient_energy"]
    ((captions, real, made),) = pairs
    assert len(captions) == len(real) == len(made) == 5 and captions[0].startswith("texture")
    assert all(clip.shape == (5, 32, 32, 3) for clip in (*real, *made))
    again = evaluate(model, ("generation",), data=str(clips), clips=5, progress=False)["generation"]
    assert again["kernel_distance"] == block["kernel_distance"]
    with pytest.raises(PhenakiError, match="needs captioned clips"):
        evaluate(model, ("generation",), progress=False)


def test_the_command_writes_a_report(model: Phenaki, clips: Path, tmp_path: Path) -> None:
    model.domain = Domain(words=("texture", "zebra"))
    model.save_pretrained(tmp_path / "model")
    command = ["evaluate", str(tmp_path / "model"), "--suite", "generation", "--clips", "4"]
    report, out = tmp_path / "report", tmp_path / "metrics.json"
    made = CliRunner(env={"COLUMNS": "160"}).invoke(
        app, [*command, "--data", str(clips), "--report", str(report), "--out", str(out)]
    )
    assert made.exit_code == 0, made.output
    assert "kernel distance to real clips" in made.output and "motion relative to real clips" in made.output
    page = (report / "report.html").read_text()
    assert "kernel distance" in page and "data:image/png;base64," in page and "data:video/mp4;base64," in page
    assert {file.name for file in report.iterdir()} == {"report.html", "generation.png", "generation.mp4"}
    assert json.loads(out.read_text())["generation"]["kernel_distance"] > 0


@pytest.mark.parametrize("suite", ["prompts", "stories", "all"])
def test_a_model_of_other_data_is_not_asked_about_shapes(suite: str, model: Phenaki, tmp_path: Path) -> None:
    model.domain = Domain(words=("a", "red", "zebra"))
    model.save_pretrained(tmp_path / "model")
    asked = CliRunner().invoke(app, ["evaluate", str(tmp_path / "model"), "--suite", suite])
    said = " ".join(asked.output.split())
    assert asked.exit_code == 2 and "trained on other captions (with zebra)" in said and "--data FOLDER" in said
