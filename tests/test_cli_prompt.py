"""A prompt is enough: names, folders, sizes, silence; what a file says, and the same video again from it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from helpers.sampling import sampling_config
from phenaki import __version__
from phenaki.cli import app
from phenaki.cli.output import output_path
from phenaki.conditioning import WordEncoder
from phenaki.core import hub
from phenaki.core.errors import PhenakiWarning
from phenaki.generators import Components, MaskedTransformer
from phenaki.media.metadata import read_metadata
from phenaki.media.reader import read_video
from phenaki.media.writer import write_image, write_video
from phenaki.pipeline import Domain, Phenaki
from phenaki.tokenizers import CViViT

SHORT = ["--frames", "3", "--upscale", "1"]


def run(*arguments: object, code: int = 0) -> Result:
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code and "Traceback" not in result.output, result.output
    return result


@pytest.fixture(autouse=True)
def model(
    tokenizer: CViViT,
    generator: MaskedTransformer,
    text_encoder: WordEncoder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Phenaki:
    """A tiny model under the name of the released one; the folder that commands run in is empty."""
    model = Phenaki(Components(generator, tokenizer, text_encoder), sampling_config(steps=1, prime_frames=3))
    model.save_pretrained(tmp_path / "models" / "shapes-64")
    monkeypatch.setattr(hub, "ZOO", tmp_path / "models")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return model


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("A cat, sleeping!", "a-cat-sleeping.mp4"),
        ("ein grüner Kreis", "ein-gruner-kreis.mp4"),
        ("../../etc/passwd", "etc-passwd.mp4"),
        ("круг", "video.mp4"),
        ("word " * 40, "-".join(["word"] * 12) + ".mp4"),
    ],
)
def test_a_name_from_the_prompt(title: str, name: str) -> None:
    assert output_path(None, title) == name
    Path(name).write_text("mine")
    assert output_path(None, title) == name.replace(".mp4", "-2.mp4")


def test_a_prompt_is_enough_and_names_without_an_ending_are_mp4() -> None:
    assert "a-red-circle.mp4: 3 frames of 32x32" in run("generate", "a red circle", *SHORT).output
    assert "noext.mp4: 3 frames" in run("generate", "a", "-o", "noext", *SHORT).output
    run("generate", "a", "-o", "frames/", *SHORT)
    assert sorted(os.listdir()) == ["a-red-circle.mp4", "frames", "noext.mp4"]
    assert "'frames' is a folder: give -o frames/" in run("generate", "a", "-o", "frames", code=2).output


def test_sizes_samples_and_silence() -> None:
    said = run("generate", "a", *SHORT, "--width", 48, "-n", 2, "-q", "-o", "a.webp", "--precision", "float32")
    assert said.output == ""
    assert read_video("a.webp").frames.shape == (3, 32, 48 * 2 + 2, 3)
    run("generate", "a", *SHORT, "--height", 16, "--width", 24, "--device", "cpu", "-o", "b.webp")
    assert read_video("b.webp").frames.shape == (3, 16, 24, 3)


def test_unknown_words_are_told_and_refused_on_request(model: Phenaki) -> None:
    model.domain = Domain("moving shapes", ("a red circle",), ("a", "red", "circle"))
    model.save_pretrained(hub.ZOO / "shapes-64")
    with pytest.warns(PhenakiWarning, match="shapes-64 knows moving shapes only; unknown: cat; try: 'a red circle'"):
        run("generate", "a cat", *SHORT)
    assert "unknown: cat" in run("generate", "a cat", *SHORT, "-o", "b.mp4", "--strict", code=2).output
    assert not Path("b.mp4").exists()
    assert "a-red-circle.mp4" in run("generate", "a red circle", *SHORT, "--strict").output


def test_a_wrong_length_is_told_before_torch_is_imported() -> None:
    code = "import sys; from phenaki.cli import app\ntry: app(sys.argv[1:])\nfinally: print('torch' in sys.modules)"
    for wrong in (["--frames", "12"], ["--width", "63"], ["-o", "a.avi"], ["-o", "no/a.mp4"], ["-m", "shapes-46"]):
        command = [sys.executable, "-c", code, "generate", "a", *wrong]
        ended = subprocess.run(command, capture_output=True, text=True)
        assert ended.stdout == "False\n" and ended.stderr.startswith("phenaki: "), ended


def test_mistakes_that_need_no_weights_are_told_without_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("phenaki.pipeline.pretrained.load_model", lambda *_: pytest.fail("weights were loaded"))
    for wrong in (["--steps", 0], ["--device", "tpu"], ["--top-p", 2], ["b", "круг"]):
        run("generate", "a", *wrong, code=2)


def test_scenes_in_one_string_are_one_scene() -> None:
    for prompt in ("a;b;c", "['a', 'b']", "a\nb"):
        assert "3 frames" in run("generate", prompt, *SHORT, "-o", "a.mp4").output
        assert read_metadata("a.mp4")["prompts"] == [prompt]


def test_time_is_said_in_words() -> None:
    said = run("plan", "cvivit_debug", "--tflops", "0.01").output
    assert re.search(r"time +(\d+ (d|h|min|s) ?){1,2} for 100 steps", said), said


# ---- files that say how they were made


def test_a_file_says_how_it_was_made_and_is_made_again(model: Phenaki) -> None:
    run("generate", "a red circle", "it moves", *SHORT, "--seed", 7, "-n", 2, "--steps", 2, "--fps", 4, "-o", "a.webp")
    made = read_metadata("a.webp")
    wanted = {"phenaki": __version__, "command": "generate", "model": "shapes-64", "seed": 7, "samples": 2, "frames": 3}
    assert wanted.items() <= made.items() and made["prompts"] == ["a red circle", "it moves"]
    assert made["sampling"]["decoding"]["steps"] == 2 and made["size"] == [32, 32] and made["fps"] == 4
    info = run("info", "a.webp").output
    for said in ("a red circle", "it moves", "seed: 7", "steps: 2", __version__, "phenaki generate --replay a.webp"):
        assert said in info
    run("generate", "--replay", "a.webp", "-o", "b.webp")
    assert Path("a.webp").read_bytes() == Path("b.webp").read_bytes()
    assert "leave out --seed" in run("generate", "--replay", "a.webp", "--seed", 8, code=2).output


COMMANDS = {
    "extend": ["clip.webp", "a", "b", *SHORT],
    "interpolate": ["one.png", "one.png", "a", "--frames", 5, "--upscale", 1],
    "inpaint": ["clip.webp", "a", "--mask", "mask.png", "--upscale", 1, "--blend"],
    "generate": ["a", "--image", "one.png", *SHORT],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_videos_from_files_are_made_again_while_the_files_are_there(command: str) -> None:
    texture = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)
    write_video("clip.webp", texture, 8)
    write_image("one.png", texture[0])
    write_image("mask.png", np.pad(np.full((16, 16, 3), 255, np.uint8), ((0, 16), (0, 16), (0, 0))))
    run(command, *COMMANDS[command], "-o", "a.webp")
    run("generate", "--replay", "a.webp", "-o", "b.webp")
    assert Path("a.webp").read_bytes() == Path("b.webp").read_bytes()
    changed = next(Path(name) for name in ("clip.webp", "one.png") if name in COMMANDS[command])
    write_video("other.webp", texture[::-1], 8)
    os.replace("other.webp", changed)
    assert "has changed since" in run("generate", "--replay", "a.webp", "-o", "c.webp", code=2).output
    changed.unlink()
    assert "which is not there" in run("generate", "--replay", "a.webp", "-o", "c.webp", code=2).output


@pytest.mark.parametrize("out", ["a.mp4", "a.webp"])
def test_stories_are_made_again(out: str) -> None:
    Path("story.txt").write_text("a\n[5 prime_frames=1] b\n[prime_frames=3] c\n".replace("[5 ", "[frames=5 "))
    run("generate", "--story", "story.txt", *SHORT, "-o", out)
    assert read_metadata(out)["prompts"] == ["a", "b", "c"]
    run("generate", "--replay", out, "-o", f"again_{out}")
    one, two = (read_video(name).frames.astype(int) for name in (out, f"again_{out}"))
    assert np.abs(one - two).mean() < (0.5 if out == "a.webp" else 8)  # a story's mp4 is encoded scene by scene


def test_a_replay_with_other_weights_is_said(model: Phenaki) -> None:
    run("generate", "a", *SHORT, "-o", "a.webp")
    next(model.generator.parameters()).data.add_(1)
    model.save_pretrained(hub.ZOO / "shapes-64")
    said = run("generate", "--replay", "a.webp", "-o", "b.webp")
    assert "'shapes-64' has other weights than the model of that video" in said.stderr


def test_files_that_do_not_say(tmp_path: Path) -> None:
    write_video("a.mp4", np.zeros((3, 32, 32, 3), np.uint8), 8)
    assert "'a.mp4' does not say how it was made" in run("generate", "--replay", "a.mp4", code=2).output
    said = run("info", "a.mp4").output
    assert "3 frames of 32x32 at 8 fps" in said and "does not say how it was made" in said
    assert "no file or folder 'nothing.mp4'" in run("info", "nothing.mp4", code=2).output


# ---- what models can


def test_models_and_info(model: Phenaki) -> None:
    model.domain = Domain("moving shapes", ("a red circle",), ("a", "red", "circle"), "Apache-2.0")
    model.save_pretrained(hub.ZOO / "shapes-64")
    listed = run("models").output
    assert "shapes-64: moving shapes" in listed and "32x32 pixels, 8 fps, scenes of 11 frames" in listed
    for named in ("shapes-64", hub.ZOO / "shapes-64"):
        info = run("info", named).output
        for said in ("moving shapes", "a red circle", "Apache-2.0", "32x32", "steps: 1", "3 words", "masked", "cvivit"):
            assert said in info, said
    assert "Did you mean 'shapes-64'" in run("info", "shapes-46", code=2).output


# ---- help


def test_help_is_plain() -> None:
    for words in ([], ["generate"], ["extend"], ["train", "tokenizer"], ["data", "pack"], ["data", "record", "doom"]):
        for option in ("-h", "--help"):
            text = run(*words, option).output
            assert not any(odd in text for odd in ("<bool>", "<path>", "list[", "{CLIP}", "{PROMPT")), text
    assert "extend [OPTIONS] CLIP PROMPT..." in run("extend", "-h").output
    assert "generate [OPTIONS] [PROMPT]..." in run("generate", "-h").output


@pytest.mark.parametrize(
    ("typed", "ours"), [("--num_frames", "--frames"), ("--guidance_scale", "--guidance-scale"), ("--cfg-scale", "--gu")]
)
def test_options_of_other_programs_are_answered_with_ours(typed: str, ours: str) -> None:
    assert re.search(
        f"No such option: {typed}.*{ours}", " ".join(run("generate", "a", typed, 3, code=2).output.split())
    )


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (("a red circle",), "say what to do with the prompt, as in phenaki generate 'a red circle'"),
        (
            ("generate", "--prompt", "a"),
            'No such option: --prompt. A prompt has none before it: phenaki generate "a re',
        ),
        (("generate", "a", "--seconds", "5"), "No such option: --seconds (Possible options: --frames)"),
        (("train", "tokenizer", "--batch-size", "4"), "It is a setting of the recipe: write data.batch=VALUE"),
        (("train", "generator", "--lr=1e-3"), "write optimizer.lr=VALUE, without dashes"),
        (("train", "generator", "-r", "masked_debug", "--out", ""), "--out is empty: give a value, or leave it out"),
        (("generate", "--story=", "-o", "a.mp4"), "--story is empty"),
        (("train", "masked_debug", "-o", "a"), "phenaki train generator --recipe masked_debug -o a"),
    ],
)
def test_what_stands_elsewhere_is_answered_with_its_name(typed: tuple[str, ...], said: str) -> None:
    assert said in " ".join(run(*typed, code=2).output.replace("│", "").split())


def test_a_text_encoder_that_is_not_there_names_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    from phenaki.core.errors import PhenakiError
    from phenaki.core.hub import local_folder

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(PhenakiError, match="no folder 'encoders/t5-base'. If a model .* it is google-t5/t5-base"):
        local_folder("encoders/t5-base")


def test_training_asks_what_to_train() -> None:
    said = run("train", "--recipe", "masked_debug", "--out", "a", code=2).output
    assert "Say tokenizer, generator, critic or judge" in said
    assert "phenaki train generator --recipe masked_debug --out a" in said
    assert "Say tokenizer" in run("train", "--recipe", "nothing", code=2).output


def test_export_is_found_where_people_look_for_it() -> None:
    for words in (["export"], ["train", "export"]):
        assert "no checkpoint" in run(*words, "nothing", "model", code=2).output


def test_names_of_models_are_completed() -> None:
    environment = os.environ | {
        "_PHENAKI_COMPLETE": "complete_bash",
        "COMP_CWORD": "3",
        "COMP_WORDS": "phenaki generate -m s",
    }
    code = "from phenaki.cli import app; app(prog_name='phenaki')"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert ended.stdout.split() == ["shapes-64", "shapes-64-causal"], ended


def test_help_is_quick() -> None:
    began = time.process_time()
    run("generate", "-h")
    assert time.process_time() - began < 1.5


def test_what_python_saves_is_made_again(model: Phenaki) -> None:
    model = Phenaki.from_pretrained("shapes-64")
    model.generate(["a", "b"], frames=3, seed=5, samples=2, steps=2).save("a.webp", upscale=2)
    model(["a", "b"], frames=3, seed=5).save("batch.webp")
    for name in ("a.webp", "batch.webp"):
        run("generate", "--replay", name, "-o", f"again_{name}")
        assert np.array_equal(read_video(name).frames, read_video(f"again_{name}").frames)
    model.generate("a", frames=3, start=model.generate("a", frames=3)).save("c.webp")
    assert "came from no file" in run("generate", "--replay", "c.webp", code=2).output
