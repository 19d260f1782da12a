"""Rollout: lengths, priming, bounded memory."""

from __future__ import annotations

import gc
import sys
import warnings
from dataclasses import replace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor

from helpers.sampling import sampling_config
from phenaki.conditioning import Text, WordEncoder
from phenaki.core.errors import PhenakiError
from phenaki.generators import Components, MaskedTransformer
from phenaki.sampling import Rollout, RolloutConfig, Scene, count_steps, plan_windows, rollout
from phenaki.sampling.scenes import window_sampling
from phenaki.tokenizers import CViViT

FAST = sampling_config(steps=2, prime_frames=5)


@pytest.fixture
def components(tokenizer: CViViT, generator: MaskedTransformer, text_encoder: WordEncoder) -> Components:
    return Components(generator, tokenizer, text_encoder)


def test_plans_add_up_to_the_scenes() -> None:
    for prime_frames in (1, 3, 5, 11):
        for lengths in ((11, 10, 10), (1, 2), (31, 6, 40), (5,)):
            windows = plan_windows(
                [Scene(str(i), n) for i, n in enumerate(lengths)], 11, 2, RolloutConfig(prime_frames=prime_frames)
            )
            for i, n in enumerate(lengths):
                assert sum(window.new for window in windows if window.prompt == str(i)) == n
            assert windows[0].known == 0
            for window in windows:
                assert window.known + window.new <= 11
                assert window.new > 0
                assert window is windows[0] or (window.known - 1) % 2 == 0


def test_the_first_frame_may_be_decoded_alone() -> None:
    windows = plan_windows(
        [Scene("a", 11), Scene("b", 10)], 11, 2, RolloutConfig(prime_frames=1, first_frame_alone=True)
    )
    assert [(window.known, window.new) for window in windows] == [(0, 1), (1, 10), (1, 10)]


def test_a_first_frame_alone_has_steps_of_its_own() -> None:
    config = sampling_config(steps=3, prime_frames=1, first_frame_alone=True, first_frame_steps=5)
    windows = plan_windows([Scene("a", 11), Scene("b", 10)], 11, 2, config.rollout)
    assert [window_sampling(window, config).decoding.steps for window in windows] == [5, 3, 3]
    assert count_steps(windows, config) == 11
    assert count_steps(windows, replace(config, rollout=replace(config.rollout, first_frame_steps=0))) == 9


@pytest.mark.parametrize(("lengths", "nearest"), [((10,), "9 and 11"), ((11, 5), "4 and 6"), ((11, 0), "2 and 4")])
def test_scenes_that_do_not_fit_are_refused(lengths: tuple[int, ...], nearest: str) -> None:
    with pytest.raises(PhenakiError, match=nearest):
        plan_windows([Scene("x", n) for n in lengths], 11, 2, FAST.rollout)


def test_a_generator_of_single_images_generates_one_image_and_nothing_else() -> None:
    assert [(window.known, window.new) for window in plan_windows([Scene("a", 1)], 1, 2, FAST.rollout)] == [(0, 1)]
    for scenes, primed in (([Scene("a", 3)], False), ([Scene("a", 1), Scene("b", 2)], False), ([Scene("a", 2)], True)):
        with pytest.raises(PhenakiError, match="single images"):
            plan_windows(scenes, 1, 2, FAST.rollout, primed)


def test_every_frame_is_yielded_once(components: Components) -> None:
    scenes = [Scene("a red circle", 15), Scene("it moves", 10), Scene("it stops", 2)]
    rng = torch.Generator().manual_seed(0)
    steps: list[int] = []
    pieces = list(rollout(components, scenes, FAST, rng, samples=2, on_step=steps.append))
    assert torch.cat(pieces, 2).shape == (2, 3, 27, 32, 32)
    assert len(steps) == len(plan_windows(scenes, 11, 2, FAST.rollout)) * FAST.decoding.steps


def test_a_window_keeps_the_ids_of_the_frames_before(components: Components, monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules["phenaki.sampling.rollout"]  # the attribute of that name is the function
    decoded: list[tuple[torch.Tensor, torch.Tensor]] = []
    plain = module.sample_ids

    def spy(components: Components, text: Text, ids: torch.Tensor, known: torch.Tensor, *rest) -> torch.Tensor:
        found = plain(components, text, ids, known, *rest)
        decoded.append((ids, known))
        assert torch.equal(found[known], ids[known])
        return found

    monkeypatch.setattr(module, "sample_ids", spy)
    pieces = list(rollout(components, [Scene("a", 11), Scene("b", 6)], FAST, torch.Generator().manual_seed(0)))
    ids, known = decoded[1]
    assert known[:, :3].all()
    assert not known[:, 3:].any()
    assert torch.equal(ids[:, :3], components.tokenizer.encode(pieces[0][:, :, -5:]))


def test_start_frames_are_continued(components: Components) -> None:
    start = torch.rand(1, 3, 5, 32, 32, generator=torch.Generator().manual_seed(0))
    rng = torch.Generator().manual_seed(0)
    pieces = list(rollout(components, [Scene("a", 6)], FAST, rng, samples=2, start=start))
    assert pieces[0].shape == (2, 3, 6, 32, 32)


def test_a_scene_may_have_its_own_prime_frames() -> None:
    scenes = [Scene("a", 11), Scene("b", 16, prime_frames=3), Scene("c", 6)]
    assert [(window.known, window.new) for window in plan_windows(scenes, 11, 2, FAST.rollout)] == [
        (0, 11),
        (3, 8),
        (3, 8),
        (5, 6),
    ]


def test_a_rollout_of_another_size(components: Components) -> None:
    rng = torch.Generator().manual_seed(0)
    pieces = list(rollout(components, [Scene("a", 3), Scene("b", 2)], FAST, rng, size=(16, 48)))
    assert [piece.shape for piece in pieces] == [(1, 3, 3, 16, 48), (1, 3, 2, 16, 48)]


def test_a_rollout_resumes_from_its_state(components: Components) -> None:
    scenes = [Scene("a", 11), Scene("b", 6, prime_frames=1), Scene("c", 6, prime_frames=9)]

    def new(seed: int) -> Rollout:
        rng = torch.Generator().manual_seed(seed)
        return Rollout(components, FAST, rng, samples=2)

    whole, begun, resumed = new(0), new(0), new(1)
    expected = [torch.cat(list(whole.generate(scene)), 2) for scene in scenes]
    for scene in scenes[:2]:
        list(begun.generate(scene))
    resumed.restore(begun.state())
    assert torch.equal(torch.cat(list(resumed.generate(scenes[2])), 2), expected[2])


def test_the_state_of_a_thousand_scenes_is_that_of_ten(components: Components) -> None:
    rng = torch.Generator().manual_seed(0)
    config = sampling_config(steps=1, guidance_scale=1.0, prime_frames=1)
    video = Rollout(components, config, rng, size=(8, 8))
    sizes = []
    for number in range(1000):
        for piece in video.generate(Scene(f"scene {number}", 2 + (number == 0))):
            del piece
        if number % 330 == 10:
            sizes.append((held(), sum(tensor.untyped_storage().nbytes() for tensor in video.state().values())))
    assert len(sizes) == 3 and len(set(sizes)) == 1


def held() -> int:
    """Elements of all tensors that are alive, but for the fake ones that tests of compiling leave."""
    gc.collect()
    with warnings.catch_warnings(action="ignore"):  # of objects that dislike being looked at
        return sum(o.numel() for o in gc.get_objects() if isinstance(o, torch.Tensor) and not isinstance(o, FakeTensor))


def test_memory_does_not_grow_with_the_number_of_scenes(components: Components) -> None:
    """As many elements are alive between windows after the last scene as after the third."""
    scenes = [Scene("a", 11), *[Scene(f"b {number}", 6) for number in range(6)]]
    sizes = []
    for piece in rollout(components, scenes, FAST, torch.Generator().manual_seed(0)):
        del piece
        sizes.append(held())
    assert sizes[-1] == sizes[2]
