"""The checker: what it accepts, and above all what it does not."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from phenaki.core.errors import PhenakiError
from phenaki.worlds.shapes import (
    ACTIONS,
    BACKGROUNDS,
    COLORS,
    SHAPES,
    SIZES,
    Claims,
    Scene,
    SceneObject,
    ShapesWorld,
    check,
    check_story,
    observe,
    parse_caption,
    render,
    true_claims,
    verify,
)
from phenaki.worlds.shapes.segment import label

VALUES = {
    "shape": SHAPES,
    "color": tuple(COLORS),
    "size": tuple(SIZES),
    "action": ACTIONS,
    "target_color": tuple(COLORS),
}


def lossy(video: np.ndarray, seed: int) -> np.ndarray:
    """A 3x3 blur and noise of 30 dB."""
    height, width = video.shape[1:3]
    wide = np.pad(video.astype(np.float32), ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    blurred = sum(wide[:, y : y + height, x : x + width] for y in range(3) for x in range(3)) / 9
    return np.clip(blurred + np.random.default_rng(seed).normal(0, 8, video.shape), 0, 255).astype(np.uint8)


def falsified(claims: Claims, rng: np.random.Generator) -> list[tuple[str, Claims]]:
    """For each claim that is made, the claims with this one changed to another value."""
    out = []

    def another(values: tuple[str, ...], value: str) -> str:
        return str(rng.choice([v for v in values if v != value]))

    for k, obj in enumerate(claims.objects):
        for kind, values in VALUES.items():
            if (value := getattr(obj, kind)) is None:
                continue
            wrong = replace(obj, **{kind: another(values, value)})
            if kind == "action":
                wrong = replace(wrong, target_color="red" if wrong.action == "recolor" else None)
            out.append((kind, replace(claims, objects=(*claims.objects[:k], wrong, *claims.objects[k + 1 :]))))
    if claims.background is not None:
        out.append(("background", replace(claims, background=another(tuple(BACKGROUNDS), claims.background))))
    return out


def test_own_captions_are_accepted_and_changed_ones_are_not() -> None:
    count = 520
    accepted, random_accepted = 0, 0
    wrong, wrong_accepted = Counter(), Counter()
    worlds = ShapesWorld(seed=11, split="test"), ShapesWorld(seed=12, split="held_out", continued=0.5)
    for i in range(count):
        sample, rng = worlds[i % 2][i], np.random.default_rng(i)
        seen = observe(sample.video)
        accepted += verify(seen, sample.claims).fulfilled and verify(seen, true_claims(sample.scene)).fulfilled
        changed = falsified(sample.claims, rng)
        one = int(rng.integers(len(changed)))
        for k, (kind, claims) in enumerate(changed):
            fulfilled = verify(seen, claims).fulfilled
            wrong[kind] += 1
            wrong_accepted[kind] += fulfilled
            random_accepted += fulfilled and k == one
    print(f"own captions accepted {accepted} of {count}; one claim changed: accepted {random_accepted} of {count};")
    print("by kind:", {kind: f"{wrong_accepted[kind]} of {wrong[kind]}" for kind in wrong})
    assert accepted >= 0.99 * count
    assert random_accepted <= 0.02 * count
    assert all(wrong_accepted[kind] <= 0.02 * wrong[kind] for kind in wrong)
    assert set(wrong) == {*VALUES, "background"}


def test_a_lossy_codec_is_forgiven() -> None:
    world = ShapesWorld(seed=13, split="test", continued=0.3)
    count = 100
    good = sum(check(lossy(world[i].video, i), true_claims(world.scene(i))).fulfilled for i in range(count))
    assert good >= 97


@pytest.mark.parametrize("settings", [{"size": 128}, {"size": (64, 96)}, {"frames": 1}, {"frames": 3}, {"frames": 23}])
def test_other_sizes_and_lengths_are_judged(settings: dict) -> None:
    world = ShapesWorld(seed=14, split="test", **settings)
    assert sum(check(world[i].video, world.caption(i)).fulfilled for i in range(20)) >= 19


def scene(**changes: object) -> Scene:
    obj = SceneObject("square", "red", "right", 20.0, 30.0, 10.0, dx=20.0)
    return Scene((replace(obj, **changes),), "gray", 11, 64, 64)


CAPTION = "a red square moves to the right, on a gray background"


def test_float_and_uint8_videos_are_judged_alike() -> None:
    video = render(scene())
    assert check(video, CAPTION).fulfilled
    assert check(video.astype(np.float32) / 255, CAPTION).fulfilled


def failures() -> dict[str, np.ndarray]:
    """Videos that CAPTION does not describe, each in one respect."""
    good = render(scene())
    rng = np.random.default_rng(0)
    empty = np.broadcast_to(np.asarray(BACKGROUNDS["gray"], np.uint8), good.shape)
    other = render(scene(color="blue"))
    still = render(scene(action="still", dx=0.0))
    circle = render(scene(shape="circle"))
    large = render(scene(radius=13.0))
    dark = good.copy()
    dark[6:][(dark[6:] == empty[6:]).all(-1)] = (10, 10, 12)
    ghost = np.where(good == empty, render(scene(color="white", y=52.0, radius=3.0)), good)
    faint = np.where(good == empty, (0.7 * empty + 0.3 * render(scene(color="white", y=50.0))).astype(np.uint8), good)
    brief = good.copy()
    brief[5, 48:56, 4:12] = (50, 90, 240)
    patches = np.where(np.kron(rng.random((11, 16, 16)) < 0.35, np.ones((1, 4, 4)))[..., None] > 0, empty, good)
    holes = np.where(np.kron(rng.random((11, 32, 32)) < 0.1, np.ones((1, 2, 2)))[..., None] > 0, empty, good)
    loose = empty.copy()
    loose[np.kron(rng.random((11, 16, 16)) < 0.12, np.ones((1, 4, 4))) > 0] = (230, 40, 40)
    halves = good.copy()
    halves[(np.arange(64) < 30)[None, :, None] & (good != empty).any(-1)] = (50, 90, 240)
    back = render(scene(action="left", x=40.0, dx=-20.0))
    leap = np.concatenate([good[:5], good[9:], good[9:], good[9:]])
    flicker = good.copy()
    flicker[4] = empty[4]
    return {
        "nothing": empty.copy(),
        "noise": rng.integers(0, 256, good.shape, dtype=np.uint8),
        "another object beside": np.where(good == empty, render(scene(color="green", y=52.0, radius=8.0)), good),
        "a small ghost beside": ghost,
        "a faint ghost beside": faint,
        "something else for one frame": brief,
        "scattered patches for an object": patches,
        "small holes in the object": holes,
        "loose patches of its colour": loose,
        "a first frame of another colour": np.concatenate([other[:1], good[1:]]),
        "a last frame of another colour": np.concatenate([good[:-1], other[-1:]]),
        "half of it of another colour": halves,
        "another shape from the middle on": np.concatenate([good[:5], circle[5:]]),
        "another shape in two frames": np.concatenate([good[:5], circle[5:7], good[7:]]),
        "another size from the middle on": np.concatenate([good[:5], large[5:]]),
        "another background from the middle on": dark,
        "missing in one frame": flicker,
        "missing from the middle on": np.concatenate([good[:5], empty[5:]]),
        "frozen": still,
        "frozen at its first frame": np.repeat(good[:1], 11, 0),
        "backwards": good[::-1],
        "going back": np.concatenate([good[:8], back[3:6]]),
        "leaping": leap,
        "moving and growing": render(scene(growth=1.5)),
        "moving and turning": render(scene(turn=110.0)),
        "moving and changing colour": render(scene(target_color="blue")),
        "turning the wrong way": render(scene(turn=-110.0)),
    }


@pytest.mark.parametrize("name", failures())
def test_what_is_not_as_claimed_is_refused(name: str) -> None:
    report = check(failures()[name], CAPTION)
    assert not report.fulfilled, f"{name} was accepted:\n{report}"


def test_actions_need_their_direction() -> None:
    spin = render(scene(action="spin", dx=0.0, turn=110.0))
    assert check(spin, "a red square spins").fulfilled
    assert not check(spin[::-1], "a red square spins").fulfilled
    fade = render(scene(action="fade", dx=0.0))
    assert check(fade, "a red square fades away").fulfilled
    assert check(fade[::-1], "a red square appears").fulfilled
    assert not check(fade[::-1], "a red square fades away").fulfilled
    assert not check(fade, "a red square stays still").fulfilled
    other = render(scene(action="fade", dx=0.0, color="cyan"))
    assert not check(np.concatenate([fade[:5], other[5:]]), "a red square fades away").fulfilled
    turns = render(scene(action="recolor", dx=0.0, target_color="cyan"))
    assert check(turns, "a red square turns cyan").fulfilled
    assert not check(turns, "a red square turns blue").fulfilled
    assert not check(turns[::-1], "a red square turns cyan").fulfilled


def test_two_objects_are_told_apart() -> None:
    first = SceneObject("square", "red", "still", 18.0, 18.0, 8.0, "small")
    second = SceneObject("circle", "blue", "still", 45.0, 42.0, 13.0, "large")
    video = render(Scene((first, second), "black", 11, 64, 64))
    assert check(video, "a small red square rests and a large blue circle rests").fulfilled
    assert check(video, "a large blue circle rests and a small red square rests").fulfilled
    assert not check(video, "a small blue square rests and a large red circle rests").fulfilled
    assert not check(video, "a small red circle rests and a large blue square rests").fulfilled
    assert not check(video, "a small red square rests").fulfilled


def test_stories_are_accepted_scene_by_scene() -> None:
    world = ShapesWorld(seed=15, split="test")
    reports = [check_story((story := world.story(i)).video, story.captions) for i in range(30)]
    assert sum(r.fulfilled for r in reports) >= 29
    noisy = [check_story(lossy((story := world.story(i)).video, i), story.captions) for i in range(20)]
    assert sum(r.fulfilled for r in noisy) >= 19


def test_a_story_keeps_its_object_and_background() -> None:
    """Later captions claim neither colour nor shape nor background, so that only the identity can fail."""
    captions = ["a red square moves to the right", "now it moves down", "it moves to the left"]

    def story(background: tuple[str, ...] = ("gray",) * 3, **changes: object) -> np.ndarray:
        first = scene()
        second = scene(x=40.0, action="down", dx=0.0, dy=18.0)
        third = scene(**{"x": 40.0, "y": 48.0, "action": "left", "dx": -18.0, **changes})
        parts = [render(replace(s, background=b)) for s, b in zip((first, second, third), background, strict=True)]
        return np.concatenate([parts[0], parts[1][1:], parts[2][1:]])

    report = check_story(story(), captions)
    assert report.fulfilled and report.same_objects and report.same_background
    for changes in ({"color": "blue"}, {"shape": "circle"}, {"x": 50.0}):
        # The shared frame is the second scene's, so that only the third tells.
        report = check_story(story(**changes), captions)
        assert not report.same_objects, changes
        assert report.same_background
    assert not check_story(story(("gray", "gray", "black")), captions).same_background
    with pytest.raises(PhenakiError, match="28 frames, not 30"):
        check_story(story()[:-1], captions)


def test_claims_left_out_are_not_judged() -> None:
    video = render(scene())
    assert check(video, "it moves to the right").fulfilled
    assert check(video, "a square").fulfilled
    assert not check(video, "it moves to the left").fulfilled


@pytest.mark.parametrize(
    "video", [np.zeros((64, 64, 3), np.uint8), np.zeros((3, 3, 64, 64)), np.zeros((1, 64, 64, 3), int)]
)
def test_what_is_no_video_is_named(video: np.ndarray) -> None:
    with pytest.raises(PhenakiError, match="a video to check"):
        observe(video)


def test_regions_are_connected_pixels() -> None:
    """Against a flood fill."""
    rng = np.random.default_rng(1)
    mask = rng.random((4, 20, 23)) < 0.4
    labels, count = label(mask)
    expected = 0
    left = mask.copy()
    for seed in np.argwhere(mask):
        if not left[tuple(seed)]:
            continue
        expected += 1
        members, stack = [], [tuple(seed)]
        left[tuple(seed)] = False
        while stack:
            t, y, x = stack.pop()
            members.append(labels[t, y, x])
            for v in range(max(0, y - 1), min(20, y + 2)):
                for u in range(max(0, x - 1), min(23, x + 2)):
                    if left[t, v, u]:
                        left[t, v, u] = False
                        stack.append((t, v, u))
        assert len(set(members)) == 1
    assert count == expected == labels.max()
    assert (labels > 0).tolist() == mask.tolist()


def test_parsing_on_the_way() -> None:
    assert check(render(scene()), parse_caption(CAPTION)).fulfilled
    with pytest.raises(PhenakiError, match="sqare"):
        check(render(scene()), "a red sqare")
