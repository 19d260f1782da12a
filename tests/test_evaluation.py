"""Metrics are right: an oracle reaches 100 %, a wrong model nothing, and each metric has its protocol."""

from __future__ import annotations

import io
import itertools
import json
import math
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor

from helpers.sampling import sampling_config
from phenaki import evaluation
from phenaki.conditioning import WordEncoder
from phenaki.core.errors import PhenakiError
from phenaki.evaluation import Clips, evaluate, report, write_metrics
from phenaki.evaluation.generate import MAX_CLIPS, batch_size, score_videos, seeded_rng
from phenaki.evaluation.generate import generate as generate_clips
from phenaki.evaluation.rates import claim_rates, wilson
from phenaki.generators import Components, MaskedTransformer, MaskedTransformerSizes
from phenaki.media.convert import to_float
from phenaki.nn.state import StreamState
from phenaki.pipeline import Phenaki
from phenaki.sampling import SamplingConfig, Scene, rollout
from phenaki.tokenizers import CViViT, QuantizerConfig, Tokenizer
from phenaki.tokenizers.quantizers import build_quantizer
from phenaki.worlds.shapes import Report, ShapesWorld
from phenaki.worlds.shapes.evaluation import ShapesEval


@pytest.fixture
def model(tokenizer: CViViT, generator: MaskedTransformer, text_encoder: WordEncoder) -> Phenaki:
    return Phenaki(
        Components(generator, tokenizer, text_encoder), sampling_config(steps=2, guidance_scale=2.0, prime_frames=1)
    )


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, count in (("PROMPTS", 30), ("STORIES", 12)):
        monkeypatch.setattr(evaluation, name, count)


# ---- evaluate


def test_a_quick_run_gives_metrics_with_their_protocol(model: Phenaki, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "PROMPTS", 40)
    monkeypatch.setattr(evaluation, "STORIES", 20)
    metrics = evaluate(model, world=ShapesEval, quick=True, seed=5, clips=40)
    assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics
    assert list(metrics) == ["reconstruction", "prompts", "stories"]
    for block in metrics.values():
        protocol = block["protocol"]
        assert {"commit", "torch", "phenaki", "device", "threads", "seconds", "world", "world_seed"} <= set(protocol)
        assert (protocol["frames"], protocol["fps"], protocol["size"]) == (11, 8, [32, 32])
        assert protocol["quick"] is True
        assert protocol["commit"] is None or re.fullmatch("[0-9a-f]{40}(-dirty)?", protocol["commit"])
    assert metrics["reconstruction"]["protocol"]["clips"] == 4
    assert set(metrics["reconstruction"]["protocol"]["model"]) == {"tokenizer"}
    made = metrics["prompts"]["protocol"], metrics["stories"]["protocol"]
    assert made[0]["prompts_of_each_kind"] == 4
    assert (made[1]["stories"], made[1]["scenes"]) == (2, 3)
    for protocol in made:
        assert set(protocol["model"]) == {"tokenizer", "generator", "text"}
        assert protocol["sampling"]["decoding"]["steps"] == 2
        assert protocol["seed"] == 5
    assert [metrics["prompts"][kind]["count"] for kind in ("one_object", "held_out_pairs", "two_objects")] == [4] * 3
    assert metrics["prompts"]["held_out_pairs"]["split"] == "held_out"
    assert metrics["stories"]["scenes"]["count"] == 6
    assert all(rate > 0 for rate in metrics["prompts"]["frames_per_second"].values())


def test_the_same_seed_gives_the_same_metrics(model: Phenaki, few: None) -> None:
    def measured(seed: int) -> list[dict[str, Any]]:
        metrics = evaluate(model, ["prompts", "stories"], ShapesEval, quick=True, seed=seed)
        del metrics["prompts"]["frames_per_second"]
        return [{k: v for k, v in block.items() if k != "protocol"} for block in metrics.values()]

    assert measured(1) == measured(1)
    one, two = (generate_clips(model, [("a red circle",)], seeded_rng(model, s), lambda _: None) for s in (1, 2))
    assert (one != two).any()


def test_what_cannot_be_evaluated_is_refused(model: Phenaki) -> None:
    with pytest.raises(PhenakiError, match="Did you mean 'stories'"):
        evaluate(model, ["storys"], ShapesEval)
    with pytest.raises(PhenakiError, match="tokenizer alone"):
        evaluate(model.tokenizer, ["prompts"], world=ShapesEval)


def test_progress_adds_up_to_the_samples(model: Phenaki) -> None:
    counted: list[float] = []
    evaluation.prompts(model, ShapesEval((32, 32)), 3, 0, counted.append)
    assert sum(counted) == pytest.approx(9)
    counted.clear()
    evaluation.stories(model, ShapesEval((32, 32)), 2, 0, counted.append)
    assert sum(counted) == pytest.approx(2)


# ---- reconstruction


@dataclass(frozen=True)
class PlainConfig:
    image_size: tuple[int, int] = (64, 64)
    fps: float = 8.0


class Remembering(Tokenizer):
    """Decodes to the clips it last encoded, with `damage` applied."""

    def __init__(self, damage: Callable[[Tensor], Tensor] = lambda video: video) -> None:
        super().__init__()
        self.config = PlainConfig()
        self.patch = (2, 16, 16)
        self.quantizer = build_quantizer(QuantizerConfig(levels=(4, 4)), 8)
        self.damage = damage
        self.clips = torch.empty(0)

    def encode_latents(self, video: Tensor, state: StreamState | None = None) -> Tensor:
        self.clips = video
        return torch.zeros(len(video), *self.grid(*video.shape[2:]), 8)

    def decode_latents(self, latents: Tensor, state: StreamState | None = None) -> Tensor:
        return self.damage(self.clips)


def test_perfect_reconstruction_has_the_highest_psnr() -> None:
    metrics = evaluate(Remembering(), ["reconstruction"], ShapesEval, quick=True)["reconstruction"]
    assert (metrics["psnr"], metrics["psnr_first"], metrics["psnr_rest"]) == (100.0, 100.0, 100.0)
    assert metrics["first_minus_rest"] == 0
    assert metrics["protocol"]["clips"] == 51
    assert (metrics["codes_used"], metrics["perplexity"]) == (
        pytest.approx(1 / 16),
        pytest.approx(1.0),
    )  # it writes a single code
    assert metrics["bits_per_pixel"] == pytest.approx(6 * 4 * 4 * 4 / (11 * 64 * 64))
    assert [each["rate"] for each in metrics["fulfilled"].values()] == [1, 1]
    assert sum(each["count"] for each in metrics["fulfilled"].values()) == 51


def test_psnr_separates_the_first_frame() -> None:
    def damage(video: Tensor) -> Tensor:
        error = torch.full_like(video, 0.01)
        error[:, :, 0] = 0.1
        return torch.where(video > 0.5, video - error, video + error)

    metrics = evaluate(Remembering(damage), ["reconstruction"], ShapesEval, quick=True)["reconstruction"]
    assert metrics["psnr_first"] == pytest.approx(20, abs=1e-3)
    assert metrics["psnr_rest"] == pytest.approx(40, abs=1e-3)
    assert metrics["first_minus_rest"] == pytest.approx(-20, abs=1e-3)
    assert metrics["psnr"] == pytest.approx(-10 * math.log10((1e-2 + 10 * 1e-4) / 11), abs=1e-3)


def test_claims_fail_where_the_reconstruction_loses_them() -> None:
    tokenizer = Remembering(lambda video: video.flip(2))
    metrics = evaluation.reconstruction(
        tokenizer, Clips(tokenizer, ShapesEval((64, 64)), count=30), advance=lambda _: None
    )
    claims = metrics["fulfilled"]["one_object"]["claims"]
    assert claims["rest"]["rate"] == claims["shape"]["rate"] == 1
    turned = {"left", "right", "up", "down", "grow", "shrink", "fade", "appear", "recolor"}
    assert all(each["rate"] == 0 for name, each in claims["action"]["claimed"].items() if name in turned)


def test_psnr_is_the_mean_over_clips_not_over_their_errors() -> None:
    def damage(video: Tensor) -> Tensor:
        error = torch.where(torch.arange(len(video)) % 2 == 0, 0.1, 0.01).view(-1, 1, 1, 1, 1)
        return torch.where(video > 0.5, video - error, video + error)

    tokenizer = Remembering(damage)
    metrics = evaluation.reconstruction(
        tokenizer, Clips(tokenizer, ShapesEval((64, 64)), count=32), advance=lambda _: None
    )
    assert metrics["psnr"] == pytest.approx(30, abs=1e-3)


# ---- an oracle and a wrong model


class Oracle:
    """Replaces `rollout`: returns the world's own video of each caption, or that of another caption."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, tokenizer: Tokenizer, shift: int = 0) -> None:
        self.videos: dict[tuple[str, ...], np.ndarray] = {}
        unseen = ShapesEval(tokenizer.config.image_size)
        for kind in unseen.kinds:
            world = unseen.world(kind)
            samples = [world[i] for i in range(evaluation.PROMPTS)]
            self._learn([((s.caption,), s.video) for s in samples], shift)
        world = unseen.world("one_object")
        stories = [world.story(i) for i in range(evaluation.STORIES)]
        self._learn([(each.captions, each.video) for each in stories], shift)
        monkeypatch.setattr("phenaki.evaluation.generate.rollout", self)

    def _learn(self, pairs: Sequence[tuple[tuple[str, ...], np.ndarray]], shift: int) -> None:
        for k, (captions, _) in enumerate(pairs):
            self.videos[captions] = pairs[(k + shift) % len(pairs)][1]

    def __call__(self, *args: Any, samples: int, **named: Any) -> Iterator[Tensor]:
        scenes: Sequence[Scene] = args[1]
        videos = to_float(
            np.stack([self.videos[captions] for captions in zip(*(s.prompt for s in scenes), strict=True)])
        )
        assert len(videos) == samples
        yield from videos.split([scene.frames for scene in scenes], dim=2)


@dataclass
class Parts:
    """A model of which only the tokenizer's sizes matter here."""

    components: Components
    sampling: SamplingConfig


def model_of(tokenizer: Tokenizer, text_encoder: WordEncoder) -> Parts:
    sizes = MaskedTransformerSizes(frames=11, width=64, layers=1)
    generator = MaskedTransformer(sizes.config(tokenizer.spec, text_encoder.width))
    return Parts(Components(generator.eval(), tokenizer, text_encoder), sampling_config(steps=1))


@pytest.fixture
def parts(text_encoder: WordEncoder) -> Parts:
    return model_of(Remembering(), text_encoder)


def test_an_oracle_fulfils_everything(parts: Parts, few: None, monkeypatch: pytest.MonkeyPatch) -> None:
    Oracle(monkeypatch, parts.components.tokenizer)
    metrics = evaluate(parts, ["prompts", "stories"], ShapesEval)
    for kind in ("one_object", "held_out_pairs", "two_objects"):
        assert metrics["prompts"][kind]["rate"] == 1
        assert metrics["prompts"][kind]["interval"] == wilson(30, 30)
        assert all(each["rate"] == 1 for each in metrics["prompts"][kind]["claims"].values())
    for name in ("scenes", "persistent", "same_object", "same_background", "fulfilled"):
        assert metrics["stories"][name]["rate"] == 1
    assert [each["rate"] for each in metrics["stories"]["scenes"]["by_position"]] == [1, 1, 1]


def test_videos_of_other_prompts_fulfil_almost_nothing(
    parts: Parts, few: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    Oracle(monkeypatch, parts.components.tokenizer, shift=1)
    metrics = evaluate(parts, ["prompts", "stories"], ShapesEval)
    for kind in ("one_object", "held_out_pairs", "two_objects"):
        assert metrics["prompts"][kind]["rate"] <= 0.1
        claims = metrics["prompts"][kind]["claims"]
        assert claims["rest"]["rate"] == 1  # clean videos, but of other things
        assert claims["shape"]["rate"] < 0.5
    assert metrics["stories"]["scenes"]["rate"] <= 0.15
    assert metrics["stories"]["fulfilled"]["rate"] == 0


def test_a_change_of_object_between_scenes_is_not_persistent(
    parts: Parts, few: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    oracle = Oracle(monkeypatch, parts.components.tokenizer)
    stories = [(captions, video) for captions, video in oracle.videos.items() if len(captions) == 3]
    for (captions, video), (_, other) in zip(stories, stories[1:] + stories[:1], strict=True):
        oracle.videos[captions] = np.concatenate((video[:11], other[11:]))
    metrics = evaluate(parts, ["stories"], ShapesEval)["stories"]
    assert metrics["scenes"]["by_position"][0]["rate"] == 1
    assert metrics["persistent"]["rate"] == 0


# ---- batches


def test_each_sample_follows_its_own_prompt(
    tokenizer: CViViT, generator: MaskedTransformer, text_encoder: WordEncoder
) -> None:
    """Without randomness, swapping the prompts of two samples swaps their videos."""
    components = Components(generator, tokenizer, text_encoder)
    config = sampling_config(steps=2, temperature=0, choice_temperature=0, prime_frames=1)

    def made(*prompts: str) -> Tensor:
        scenes = [Scene(prompts, 11), Scene("now it spins", 10)]
        rng = torch.Generator().manual_seed(0)
        return torch.cat(list(rollout(components, scenes, config, rng, len(prompts))), 2)

    one, two = made("a red circle", "a star"), made("a star", "a red circle")
    assert one.shape == (2, 3, 21, 32, 32)
    torch.testing.assert_close(one, two.flip(0))
    assert (one[0] != one[1]).any()
    with pytest.raises(PhenakiError, match="2 prompts for 3 samples"):
        scenes = [Scene(("a red circle", "a star"), 11)]
        next(rollout(components, scenes, config, torch.Generator(), 3))


def test_large_models_have_smaller_batches(model: Phenaki) -> None:
    assert batch_size(model) == 10

    class Large(Remembering):
        vocab_size = 65_536

        def __init__(self) -> None:
            super().__init__()
            self.patch = (2, 8, 8)

    assert batch_size(model_of(Large(), model.text_encoder)) == 1


def test_parallel_batches_equal_sequential_ones(model: Phenaki, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = [(f"a {colour} circle",) for colour in ("red", "green", "blue", "yellow", "white")]
    monkeypatch.setitem(MAX_CLIPS, "cpu", 2)

    def videos(threads: int) -> tuple[list[tuple[np.ndarray, Sequence[str], int]], set[int]]:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        makers: set[int] = set()

        def score(video: np.ndarray, captions: Sequence[str]) -> tuple[np.ndarray, Sequence[str], int]:
            makers.add(threading.get_ident())
            return video, captions, torch.get_num_threads()

        try:
            found = score_videos(model, prompts, score, 3, lambda _: None)
            assert torch.get_num_threads() == threads
        finally:
            torch.set_num_threads(before)
        return found, makers

    (one_by_one, makers), (at_once, several) = videos(1), videos(2)
    assert len(makers) == 1
    assert threading.get_ident() not in several
    for (video, captions, inner), (other, _, _), asked in zip(at_once, one_by_one, prompts, strict=True):
        assert np.array_equal(video, other)
        assert captions == asked
        assert inner == 1


@pytest.mark.parametrize("error", [PhenakiError, KeyboardInterrupt])
def test_an_error_in_one_batch_stops_all(
    model: Phenaki, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    """When one batch fails, others with very many steps to go end too."""
    monkeypatch.setitem(MAX_CLIPS, "cpu", 1)
    model.sampling = sampling_config(steps=1000)
    steps: list[float] = []
    lock = threading.Lock()

    def advance(finished: float) -> None:
        with lock:
            steps.append(finished)
            if len(steps) == 5:
                raise error("enough")

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(error, match="enough"):
            score_videos(model, [("a red circle",)] * 9, lambda *_: None, 0, advance)
    finally:
        torch.set_num_threads(before)
    assert len(steps) < 1000
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("score_videos")]


# ---- rates


def test_the_interval_contains_the_rate_and_narrows_with_the_count() -> None:
    for hits, count in itertools.product((0, 0.3, 0.5, 1), (10, 100, 1000)):
        low, high = wilson(hits * count, count)
        assert 0 <= low <= hits + 1e-12 and hits - 1e-12 <= high <= 1
        assert high - low > wilson(hits * count * 10, count * 10)[1] - wilson(hits * count * 10, count * 10)[0]
    assert wilson(475, 500) == pytest.approx([0.92723, 0.96591], abs=1e-5)


def test_the_interval_covers_the_truth_in_95_percent_of_draws() -> None:
    rng = np.random.default_rng(0)
    for truth in (0.75, 0.95):
        hits = rng.binomial(500, truth, 4000)
        covered = np.mean([low <= truth <= high for low, high in (wilson(h, 500) for h in hits)])
        assert 0.93 < covered < 0.97


def test_claims_are_counted_by_kind_and_by_value() -> None:
    from phenaki.worlds.shapes import check

    world = ShapesWorld(seed=3, split="test", objects=1)
    reports: list[Report] = [check(world[i].video, world[i].caption) for i in range(6)]
    claims = claim_rates(reports)
    assert claims["shape"]["count"] == claims["action"]["count"] == 6
    assert claims["shape"]["rate"] == 1
    counts = [each["count"] for each in claims["action"]["claimed"].values()]
    assert sum(counts) == 6
    assert "claimed" not in claims["steady"]


# ---- the report and the file


@pytest.fixture
def metrics(model: Phenaki, few: None) -> dict[str, Any]:
    return evaluate(model, world=ShapesEval, quick=True, clips=10)


def rendered(metrics: dict[str, Any]) -> str:
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(report(metrics), markup=False, highlight=False)
    return console.export_text()


def test_the_report_shows_each_target_and_whether_it_is_met(metrics: dict[str, Any]) -> None:
    metrics["prompts"]["one_object"] |= {"rate": 0.951, "interval": [0.92, 0.97]}
    metrics["reconstruction"]["psnr"] = 29.99
    lines = rendered(metrics).splitlines()
    (one,) = [line for line in lines if line.strip().startswith("one object ")]
    assert one.split(maxsplit=2)[2].split("  ")[0] == "95.1 %"
    assert "92.0 % to 97.0 %" in one
    assert "95.0 %, met" in one
    assert any("29.99 dB" in line and "30.00 dB, NOT met" in line for line in lines)
    assert sum("quick" in line for line in lines) == 3


def test_metrics_of_one_protocol_are_merged_in_a_file(metrics: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    for name in ("stories", "reconstruction", "prompts"):
        assert write_metrics(path, {name: metrics[name]}) == []
    assert json.loads(path.read_text()) == metrics
    assert write_metrics(path, {"stories": metrics["stories"]}) == []
    assert json.loads(path.read_text()) == metrics


@pytest.mark.parametrize(
    ("key", "value"), [("commit", "abc"), ("seed", 9), ("quick", False), ("model", {"tokenizer": "another"})]
)
def test_metrics_of_two_protocols_are_not_mixed(
    metrics: dict[str, Any], tmp_path: Path, key: str, value: object
) -> None:
    path = tmp_path / "metrics.json"
    write_metrics(path, {"prompts": metrics["prompts"]})
    other = metrics["stories"] | {"protocol": metrics["stories"]["protocol"] | {key: value}}
    (sentence,) = write_metrics(path, {"stories": other})
    assert "prompts" in sentence
    assert ("tokenizer" if key == "model" else key) in sentence
    assert list(json.loads(path.read_text())) == ["stories"]


def test_an_unwritable_file_is_reported_before_the_work(tmp_path: Path, metrics: dict[str, Any]) -> None:
    assert write_metrics(tmp_path / "new.json", {}) == []
    assert not list(tmp_path.iterdir())
    with pytest.raises(PhenakiError, match="does not exist"):
        write_metrics(tmp_path / "missing" / "metrics.json", {})
    path = tmp_path / "metrics.json"
    write_metrics(path, metrics)
    assert write_metrics(path, {}) == []
    assert json.loads(path.read_text()) == metrics
    for text in ('{"recipe": {}}', "[1]", "no JSON", '{"prompts": 3}'):
        path.write_text(text)
        for new in ({}, metrics):
            with pytest.raises(PhenakiError, match="is not a metrics file"):
                write_metrics(path, new)
        assert path.read_text() == text
