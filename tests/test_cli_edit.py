"""Pictures, clips and masks on the command line; sampling options; stories, interrupted and resumed."""

from __future__ import annotations

import io
import os
import re
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from helpers.sampling import sampling_config
from phenaki.cli import app
from phenaki.cli.inputs import read_size
from phenaki.conditioning import WordEncoder
from phenaki.core import hub
from phenaki.core.config import from_dict
from phenaki.core.errors import PhenakiError
from phenaki.generators import Components, MaskedTransformer
from phenaki.media.convert import Frames, to_float
from phenaki.media.metadata import read_metadata
from phenaki.media.reader import read_video
from phenaki.media.writer import write_image, write_video
from phenaki.pipeline import Phenaki
from phenaki.sampling import Rollout, SamplingConfig, SamplingOptions
from phenaki.tokenizers import CViViT


def run(*arguments: object, pipe: str | None = None) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, [str(argument) for argument in arguments], input=pipe)


def made(*arguments: object, pipe: str | None = None) -> Result:
    result = run(*arguments, pipe=pipe)
    assert result.exit_code == 0, result.output
    return result


def refused(*arguments: object, pipe: str | None = None) -> str:
    """The error message of a command that wrote nothing."""
    before = sorted(os.listdir())
    result = run(*arguments, pipe=pipe)
    assert result.exit_code == 2 and "Traceback" not in result.output, result.output
    assert sorted(os.listdir()) == before
    return " ".join(re.sub(r"[│╭╮╰╯─]", " ", result.output).split())


def texture(frames: int, height: int = 32, width: int = 32, seed: int = 0) -> Frames:
    return np.random.default_rng(seed).integers(0, 256, (frames, height, width, 3), np.uint8)


def frames_of(name: str) -> Frames:
    return read_video(name).frames


@pytest.fixture(autouse=True)
def model(
    tokenizer: CViViT,
    generator: MaskedTransformer,
    text_encoder: WordEncoder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Phenaki:
    """A tiny model under the name of the released one; the folder that commands run in holds a clip and a picture."""
    model = Phenaki(Components(generator, tokenizer, text_encoder), sampling_config(steps=2, prime_frames=3))
    model.save_pretrained(tmp_path / "models" / "shapes-64")
    monkeypatch.setattr(hub, "ZOO", tmp_path / "models")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    write_video("clip.webp", texture(5), 8)
    write_image("one.png", texture(1, seed=1)[0])
    return model


# ---- generate: first frame, size, single picture


def test_a_video_begins_with_the_picture(model: Phenaki) -> None:
    result = made("generate", "a", "--image", "one.png", "-o", "a.webp", "--frames", 5, "--upscale", 1, "--seed", 2)
    assert "cropped" not in result.output
    start = to_float(texture(1, seed=1))
    expected = model.generate("a", start=start, frames=5, seed=2)
    assert np.array_equal(frames_of("a.webp"), expected.clips[0])
    assert np.array_equal(frames_of("a.webp")[0], texture(1, seed=1)[0])
    assert expected.scene_starts == (1,) and expected.video.shape[2] == 5


def test_a_picture_of_another_aspect_is_cropped_and_reported() -> None:
    wide = np.zeros((40, 80, 3), np.uint8)
    wide[:, 20:60] = (200, 100, 50)  # the middle square
    write_image("wide.png", wide)
    result = made("generate", "a", "--image", "wide.png", "-o", "a.webp", "--frames", 3, "--upscale", 1)
    assert "'wide.png': 80x40 pixels, resized and cropped to 32x32" in result.stderr
    assert abs(frames_of("a.webp")[0].astype(int)[:, 2:-2] - (200, 100, 50)).max() < 8
    write_image("square.png", wide[:, 20:60])
    result = made("generate", "a", "--image", "square.png", "-o", "b.webp", "--frames", 3, "--upscale", 1)
    assert "'square.png': 40x40 pixels, resized to 32x32" in result.stderr


def test_other_sizes_where_the_grid_allows(model: Phenaki) -> None:
    made("generate", "a", "b", "-o", "a.webp", "--size", "48x16", "--frames", 3, "--upscale", 1)
    assert frames_of("a.webp").shape == (5, 16, 48, 3)
    made("extend", "clip.webp", "a", "-o", "b.webp", "--size", "48x16", "--frames", 3, "--upscale", 1)
    assert frames_of("b.webp").shape == (7, 16, 48, 3)
    assert read_size("48X16") == (16, 48)
    for size, said in (("30x32", "multiple of 8"), ("0x8", "multiple of 8"), ("48", "width x height"), ("axb", "such")):
        assert said in refused("generate", "a", "-o", "c.webp", "--size", size)


def test_one_frame_is_a_picture() -> None:
    made("generate", "a", "--frames", 1, "-o", "x.png", "--upscale", 2)
    with Image.open("x.png") as picture:
        assert picture.size == (64, 64)
    said = refused("generate", "a", "--frames", 1, "--image", "one.png", "-o", "y.png")
    assert "a scene of 1 frame adds nothing" in said and "at least 3" in said


# ---- extend


def test_a_clip_is_extended(model: Phenaki) -> None:
    made(
        "extend",
        "clip.webp",
        "a",
        "b",
        "-o",
        "a.webp",
        "--frames",
        3,
        "--prime-frames",
        5,
        "--samples",
        2,
        "--upscale",
        1,
    )
    clip = frames_of("a.webp")
    assert clip.shape[0] == 5 + 2 + 2
    assert np.array_equal(clip[:5, :, :32], texture(5)) and np.array_equal(clip[:5, :, -32:], texture(5))
    result = model.extend(to_float(texture(5)), ["a", "b"], frames=3, prime_frames=5, samples=2)
    assert np.array_equal(clip[:, :, :32], result.clips[0])
    assert result.scene_starts == (5, 7)


def test_clips_are_resampled_to_the_models_rate() -> None:
    frames = np.repeat(np.linspace(10, 240, 12, dtype=np.uint8), 32 * 32 * 3).reshape(12, 32, 32, 3)
    write_video("fast.mp4", frames, 24)
    result = made("extend", "fast.mp4", "a", "-o", "a.webp", "--frames", 3, "--upscale", 1)
    assert "12 frames at 24 fps, resampled to 4 at 8 fps" in result.stderr
    levels = frames_of("a.webp")[:4].mean((1, 2, 3))
    assert np.allclose(levels, frames[::3].mean((1, 2, 3)), atol=4)


# ---- interpolate


def test_frames_between_two_pictures(model: Phenaki) -> None:
    write_image("two.png", texture(1, seed=2)[0])
    made("interpolate", "one.png", "two.png", "a", "-o", "a.webp", "--upscale", 1, "--frames", 7)
    clip = frames_of("a.webp")
    assert len(clip) == 7
    assert np.array_equal(clip[0], texture(1, seed=1)[0]) and np.array_equal(clip[-1], texture(1, seed=2)[0])
    made("interpolate", "clip.webp", "two.png", "a", "-o", "b.webp", "--upscale", 1, "--frames", 7)
    clip = frames_of("b.webp")
    assert len(clip) == 5 + (7 - 3 - 1) + 1
    assert np.array_equal(clip[:5], texture(5))


# ---- inpaint


def mask(height: int = 32, width: int = 32) -> None:
    picture = np.zeros((height, width, 3), np.uint8)
    picture[: height // 4, width // 2 :] = 255
    write_image("mask.png", picture)


def test_the_masked_area_is_regenerated_and_the_rest_is_kept(model: Phenaki) -> None:
    mask()
    made("inpaint", "clip.webp", "a", "--mask", "mask.png", "--blend", "-o", "a.webp", "--upscale", 1)
    clip, given = frames_of("a.webp"), texture(5)
    assert np.array_equal(clip[:, 8:], given[:, 8:]) and np.array_equal(clip[:, :8, :16], given[:, :8, :16])
    assert not np.array_equal(clip[:, :8, 16:], given[:, :8, 16:])
    made("inpaint", "clip.webp", "a", "--mask", "mask.png", "-o", "b.webp", "--upscale", 1)
    assert not np.array_equal(frames_of("b.webp")[:, 8:], given[:, 8:])


def test_a_mask_may_be_a_video_and_is_resized_with_its_video() -> None:
    write_video("large.webp", texture(3, 64, 96), 8)
    moving = np.zeros((3, 64, 96, 3), np.uint8)
    moving[1, :16, 32:48] = 255  # the second patch of the first row of the middle square
    write_video("moving.webp", moving, 8)
    said = made("inpaint", "large.webp", "a", "--mask", "moving.webp", "--blend", "-o", "a.webp", "--upscale", 1).stderr
    assert "96x64 pixels" in said
    made("extend", "large.webp", "a", "-o", "fitted.webp", "--upscale", 1, "--frames", 3)
    new, old = frames_of("a.webp"), frames_of("fitted.webp")[:3]
    changed = (new != old).any(-1)
    assert changed[1:, :8, 8:16].any()
    changed[1:, :8, 8:16] = False
    assert not changed.any()


# ---- sampling options of all four commands

COMMANDS = {
    "generate": ["a"],
    "extend": ["one.png", "a"],
    "interpolate": ["one.png", "one.png", "a"],
    "inpaint": ["clip.webp", "a", "--mask", "one.png"],
}
SAMPLING: dict[str, object] = {
    "steps": 3,
    "guidance_scale": 4.0,
    "guidance_scale_end": 2.0,
    "guidance_fraction": 0.5,
    "guidance_over": "text",
    "negative_prompt": "a star",
    "temperature": 0.9,
    "temperature_end": 0.5,
    "choice_temperature": 2.0,
    "top_k": 9,
    "top_p": 0.8,
    "typical_p": 0.7,
    "schedule": "linear",
    "order": "halton",
    "prime_frames": 1,
    "first_frame_steps": 2,
}


@pytest.mark.parametrize("command", COMMANDS)
def test_sampling_options_reach_the_model(command: str, model: Phenaki, monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(SAMPLING) == set(SamplingOptions.__annotations__)
    options = {name: value for name, value in SAMPLING.items() if name != "first_frame_steps"}
    if command in ("generate", "inpaint"):  # the others start from frames they are given
        options["first_frame_steps"] = 2
    received: list[SamplingConfig] = []
    with_options = SamplingConfig.with_options
    monkeypatch.setattr(
        SamplingConfig, "with_options", lambda self, given: received.append(with_options(self, given)) or received[-1]
    )
    flags = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", value)]
    made(command, *COMMANDS[command], "-o", "a.webp", *flags)
    expected = with_options(model.sampling, options)
    assert received and all(sampling == expected for sampling in received)  # checked, used, and kept in the file
    assert from_dict(SamplingConfig, read_metadata("a.webp")["sampling"]) == expected


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("flag", "value", "said"),
    [
        ("--guidance-scale", -1, "guidance_scale -1.0 must be at least 0"),
        ("--guidance-fraction", 2, "guidance_fraction 2.0 must be above 0 and at most 1"),
        ("--prime-frames", 0, "prime_frames 0 must be at least 1"),
        ("--schedule", "sine", "schedule must be one of 'cosine'"),
        ("--order", "haltom", "order must be one of .* Did you mean 'halton'"),
        ("--top-p", "much", "--top-p.*'much'"),
    ],
)
def test_bad_sampling_options_are_named(command: str, flag: str, value: object, said: str) -> None:
    assert re.search(said, refused(command, *COMMANDS[command], "-o", "a.webp", flag, value))


# ---- bad input


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["generate", "a", "--image", "clip.webp"], "'clip.webp' has 5 frames.*phenaki extend"),
        (["generate", "a", "--image", "no.png"], "'no.png': it cannot be read: No such file"),
        (["generate", "a", "--image", "text.png"], "'text.png': it cannot be read"),
        (["extend", "clip.webp", "a", "--prime-frames", "7"], "prime_frames 7, but the clip has 5: use at most 5"),
        (["extend", "one.png", "a", "--prime-frames", "3"], "prime_frames 3, but the clip has 1: use at most 1"),
        (["extend", "clip.webp", "a", "--prime-frames", "4"], "prime_frames 4 does not fit .* use 3 or 5"),
        (
            ["extend", "clip.webp", "a", "--prime-frames", "11"],
            "11 leaves no frame .* the 11 .* use at most 9",
        ),
        (["extend", "clip.webp", "a", "--frames", "4"], "the nearest are 3 and 5"),
        (["interpolate", "one.png", "one.png", "a", "--frames", "4"], "the nearest are 3 and 5"),
        (["interpolate", "one.png", "one.png", "a", "--frames", "3"], "3 frames, 3 of them known.* at least 5"),
        (["interpolate", "one.png", "one.png", "a", "--frames", "13"], "at most 11 at a time"),
        (["interpolate", "one.png", "one.png", "a", "--prime-frames", "3"], "the clip has 1: use at most 1"),
        (["inpaint", "clip.webp", "a", "--mask", "black.png"], "the mask 'black.png' is empty: paint white"),
        (
            ["inpaint", "clip.webp", "a", "--mask", "small.png"],
            "'small.png' has 16x16 pixels, but 'clip.webp' has 32",
        ),
        (["inpaint", "clip.webp", "a", "--mask", "three.webp"], "'three.webp' has 3 frames, but 'clip.webp' has 5"),
        (["inpaint", "four.webp", "a", "--mask", "white.png"], r"has 4 frames, .* needs 1 \+ 2k: --frames 3 drops"),
        (
            ["inpaint", "four.webp", "a", "--mask", "white.png", "--frames", "7"],
            "'four.webp' has 4 frames: use at most 3",
        ),
        (["inpaint", "four.webp", "a", "--mask", "white.png", "--frames", "2"], "the nearest are 1 and 3"),
        (["inpaint", "clip.webp", " ", "--mask", "white.png"], "the prompt is empty"),
    ],
)
def test_bad_input_is_a_sentence(arguments: list[str], said: str) -> None:
    Path("text.png").write_text("no picture")
    write_image("black.png", np.zeros((32, 32, 3), np.uint8))
    write_image("white.png", np.full((32, 32, 3), 255, np.uint8))
    write_image("small.png", np.full((16, 16, 3), 255, np.uint8))
    write_video("three.webp", np.concatenate([np.full((2, 32, 32, 3), 255, np.uint8), texture(1)]), 8)
    write_video("four.webp", texture(4), 8)
    assert re.search(said, refused(*arguments, "-o", "a.mp4"))


# ---- stories


STORY = """a red circle
# a comment
[frames=5 prime_frames=1] it moves
[prime_frames=3 frames=7] it stops

[3] it fades
"""
OPTIONS = ["--frames", 5, "--seed", 3, "--upscale", 1]
STORY_ARGS = ["generate", "--story", "story.txt", *OPTIONS]


@pytest.fixture
def story() -> None:
    Path("story.txt").write_text(STORY)


@pytest.mark.usefixtures("story")
def test_a_story_from_a_file_is_the_one_from_a_pipe(model: Phenaki) -> None:
    made(*STORY_ARGS, "-o", "file.webp")
    made("generate", "--story", "-", *OPTIONS, "-o", "pipe.webp", pipe=STORY)
    rollout, scenes = model.rollout(seed=3), []
    for line in (("a red circle", 5, None, True), ("it moves", 5, 1), ("it stops", 7, 3), ("it fades", 3)):
        scenes += rollout.generate(model.scene(*line))
    expected = np.concatenate([(255 * piece[0]).round().byte().movedim(0, -1).numpy() for piece in scenes])
    assert np.array_equal(frames_of("file.webp"), expected) and len(expected) == 5 + 4 + 6 + 2
    assert np.array_equal(frames_of("pipe.webp"), expected)


@pytest.mark.usefixtures("story")
def test_scenes_of_a_pipe_are_generated_as_they_arrive(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bad line ends a story after its first scenes; it resumes when the line is corrected."""
    wrong = STORY.replace("[prime_frames=3 frames=7]", "[prime_frames=4]")
    result = run("generate", "--story", "-", *OPTIONS, "-o", "a.mp4", pipe=wrong)
    assert result.exit_code == 2
    assert "the story, line 4: prime_frames 4 does not fit" in result.output
    assert "'a.part.mp4' has 2 scenes: continue with --resume" in result.output
    assert len(frames_of("a.part.mp4")) == 5 + 4
    made("generate", "--story", "-", *OPTIONS, "-o", "a.mp4", "--resume", pipe=STORY)
    made(*STORY_ARGS, "-o", "b.mp4")
    assert np.array_equal(frames_of("a.mp4"), frames_of("b.mp4"))


@pytest.mark.usefixtures("story")
@pytest.mark.parametrize("windows", [1, 2, 3])
def test_a_resumed_story_is_the_uninterrupted_one(windows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    extras = ["--samples", 2, "--image", "one.png"]
    made(*STORY_ARGS, *extras, "-o", "complete.mp4")
    assert sorted(path for path in os.listdir() if "complete" in path) == ["complete.mp4"]
    generate_window, left = Rollout._generate_window, windows

    def stopped(self, *rest):
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        return generate_window(self, *rest)

    monkeypatch.setattr(Rollout, "_generate_window", stopped)
    assert run(*STORY_ARGS, *extras, "-o", "a.mp4").exit_code == 130
    monkeypatch.setattr(Rollout, "_generate_window", generate_window)
    with open("a.part.mp4", "ab") as file:  # an interrupted scene
        file.write(b"half a fragment")
    assert "continue it with --resume, or delete" in refused(*STORY_ARGS, *extras, "-o", "a.mp4")
    assert "changed: samples from 2 to 1" in refused(*STORY_ARGS, "--image", "one.png", "-o", "a.mp4", "--resume")
    Path("other.txt").write_text(STORY.replace("red", "blue"))
    other = ["generate", "--story", "other.txt", *OPTIONS, *extras]
    assert "that are not the first of this story" in refused(*other, "-o", "a.mp4", "--resume")
    made(*STORY_ARGS, *extras, "-o", "a.mp4", "--resume")
    assert np.array_equal(frames_of("a.mp4"), frames_of("complete.mp4"))
    assert not list(Path().glob("a.part.*"))
    before = Path("a.mp4").read_bytes()
    assert "'a.mp4' is complete" in made(*STORY_ARGS, *extras, "-o", "a.mp4", "--resume").output
    assert Path("a.mp4").read_bytes() == before


@pytest.mark.usefixtures("story")
def test_an_interrupted_first_scene_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Rollout, "_generate_window", stopped)
    before = sorted(os.listdir())
    assert run(*STORY_ARGS, "-o", "a.mp4").exit_code == 130
    assert sorted(os.listdir()) == before


@pytest.mark.usefixtures("story")
def test_bad_paths_and_rates_are_refused() -> None:
    assert "rate between" in refused(*STORY_ARGS, "-o", "a.mp4", "--fps", 0)
    assert "the folder 'nowhere' does not exist" in refused(*STORY_ARGS, "-o", "nowhere/a.mp4")


@pytest.mark.usefixtures("story")
def test_resuming_is_for_stories_in_mp4() -> None:
    for arguments in ([*STORY_ARGS, "-o", "a.gif"], ["generate", "a", "-o", "a.mp4"]):
        assert "--resume continues a --story that is written to an .mp4" in refused(*arguments, "--resume")


@pytest.mark.parametrize("arguments", [["a", "b"], ["--story", "-"]])
def test_a_video_to_standard_output(arguments: list[str]) -> None:
    """The output is an mp4 and nothing else, in consecutive fragments."""
    result = made("generate", *arguments, "--frames", 5, "--upscale", 1, "-o", "-", pipe="a\nb\n")
    assert "9 frames of 32x32" in result.stderr
    with av.open(io.BytesIO(result.stdout_bytes)) as container:
        times = [float(frame.pts * frame.time_base) for frame in container.decode(video=0)]
    assert times == [number / 8 for number in range(9)]


@pytest.mark.parametrize("line", ["[frames=x] a", "[length=5] a", "[] a", "[5]", "[prime_frames=-1] a", "[frames 5] a"])
def test_lines_that_are_not_scenes(line: str) -> None:
    Path("story.txt").write_text(f"a\n{line}\n")
    assert re.search(r"'story.txt', line 2: '.*' is not a scene: write a prompt", refused(*STORY_ARGS, "-o", "a.mp4"))


def test_prime_frames_of_a_scene_are_checked(model: Phenaki) -> None:
    with pytest.raises(PhenakiError, match="use 1 or 3"):
        model.scene("a", prime_frames=2)
    with pytest.raises(PhenakiError, match="use at most 9"):
        model.scene("a", prime_frames=11)
