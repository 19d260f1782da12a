"""The command line: what it writes, and that bad input is a sentence, exit code 2 and no file."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from typer.main import get_command
from typer.testing import CliRunner, Result

from helpers.sampling import sampling_config
from phenaki import __version__
from phenaki.cli import app
from phenaki.cli.generate import DEMO
from phenaki.cli.story import read_story
from phenaki.conditioning import WordEncoder
from phenaki.core import files, hub
from phenaki.core.components import save_component
from phenaki.core.errors import PhenakiError
from phenaki.generators import Components, MaskedTransformer
from phenaki.media.reader import read_video
from phenaki.pipeline import Phenaki
from phenaki.tokenizers import CViViT


def run(*arguments: object) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, [str(argument) for argument in arguments])


def refused(result: Result) -> str:
    """The sentence, without the line breaks and frames of typer's usage errors."""
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    return " ".join(re.sub(r"[│╭╮╰╯─]", " ", result.output).split())


@pytest.fixture
def model(tokenizer: CViViT, generator: MaskedTransformer, text_encoder: WordEncoder) -> Phenaki:
    return Phenaki(Components(generator, tokenizer, text_encoder), sampling_config(steps=2, prime_frames=3))


@pytest.fixture(autouse=True)
def packaged(model: Phenaki, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny model under the name of the released one; the folder that commands run in is empty."""
    model.save_pretrained(tmp_path / "models" / "shapes-64")
    monkeypatch.setattr(hub, "ZOO", tmp_path / "models")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "models" / "shapes-64"


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("phenaki.pipeline.model.rollout", lambda *_, **__: pytest.fail("the work began"))


# ---- generate


def test_generate_writes_what_the_python_api_returns(model: Phenaki) -> None:
    arguments = ["a red circle", "now it moves", "--frames", 5, "--samples", 2, "--seed", 4, "--steps", 3, "--fps", 4]
    result = run("generate", *arguments, "-o", "a.webp", "--upscale", 2)
    assert result.exit_code == 0, result.output
    assert "a.webp: 9 frames of 132x64 at 4 fps, seed 4" in result.output
    clip = read_video("a.webp")
    made = model.generate(["a red circle", "now it moves"], frames=5, samples=2, seed=4, steps=3)
    assert clip.fps == pytest.approx(4)
    assert np.array_equal(clip.frames[:, ::2, : 2 * 32 : 2], made.clips[0])
    assert np.array_equal(clip.frames[:, ::2, -2 * 32 :: 2], made.clips[1])
    assert os.listdir() == ["a.webp"]


@pytest.mark.parametrize("out", ["a.mp4", "a.gif", "a.png", "frames/"])
def test_generate_by_ending(out: str) -> None:
    assert run("generate", "a red circle", "-o", out, "--frames", 3).exit_code == 0
    assert os.listdir() == [out.rstrip("/")]
    assert len(read_video(out).frames) == (1 if out == "a.png" else 3)


def test_an_mp4_grows_while_frames_are_generated(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the second scene is made, the frames of the first have left the program: memory does not grow."""
    from phenaki.media import writer
    from phenaki.pipeline import model as pipeline

    order: list[str] = []
    rollout, add = pipeline.rollout, writer.VideoWriter.add

    def observed(*args, **options):
        for piece in rollout(*args, **options):
            order.append("made")
            yield piece

    monkeypatch.setattr(pipeline, "rollout", observed)
    monkeypatch.setattr(writer.VideoWriter, "add", lambda self, clip: (order.append("written"), add(self, clip))[1])
    assert run("generate", "a", "b", "c", "-o", "a.mp4", "--frames", 3).exit_code == 0
    assert order == ["made", "written"] * 3


def test_a_story_file() -> None:
    Path("story.txt").write_text(
        "\ufeff# a comment\n\n[5] a red circle\n  now it moves  \n[3]now it [stops]\n", "utf-8"
    )
    read = [(line.prompt, line.frames) for line in read_story(Path("story.txt"))]
    assert read == [("a red circle", 5), ("now it moves", None), ("now it [stops]", 3)]
    result = run("generate", "--story", "story.txt", "--frames", 9, "-o", "a.webp", "--upscale", 1)
    assert result.exit_code == 0, result.output
    assert len(read_video("a.webp").frames) == 5 + 8 + 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no scenes"),
        ("# nothing\n\n", "has no scenes"),
        ("a\n[x] b\n", r"line 2: '\[x\] b' is not a scene"),
        ("a\n[5]\n", r"line 2: '\[5\]' is not a scene"),
        ("[4] a\n", "the nearest are 3 and 5"),
        ("a\nкруг\n", "line 2: .* letters"),
        ("[3] a\n[0] b\n", "line 2: .* the nearest are 1 and 3"),
    ],
)
@pytest.mark.usefixtures("no_work")
def test_bad_stories(text: str, said: str) -> None:
    Path("story.txt").write_text(text, "utf-8")
    assert re.search(said, refused(run("generate", "--story", "story.txt", "-o", "a.mp4")))
    assert os.listdir() == ["story.txt"]


@pytest.mark.usefixtures("no_work")
def test_stories_that_cannot_be_read() -> None:
    with pytest.raises(PhenakiError, match="no story file"):
        list(read_story(Path("missing.txt")))
    with pytest.raises(PhenakiError, match="is a folder"):
        list(read_story(Path(".")))
    Path("bytes").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PhenakiError, match="line 1: not valid UTF-8"):
        list(read_story(Path("bytes")))
    assert "either prompts or --story" in refused(run("generate", "a", "--story", "bytes", "-o", "a.mp4"))


BAD = [
    (["", "-o", "a.mp4"], "the prompt is empty"),
    (["  ", "-o", "a.mp4"], "the prompt is empty"),
    (["a" * 10_000, "-o", "a.mp4"], "at most 64"),
    (["赤い円が右に動く", "-o", "a.mp4"], "latin letters only"),
    (["a", "--frames", "10", "-o", "a.mp4"], "the nearest are 9 and 11"),
    (["a", "-m", "shapes-46", "-o", "a.mp4"], "no model or folder 'shapes-46'. Did you mean 'shapes-64'.* shapes-64"),
    (["a", "-m", "nope", "-o", "a.mp4"], "Models in the package: shapes-64"),
    (["a", "-m", ".", "-o", "a.mp4"], "is no folder of a model"),
    (["a", "-o", "nowhere/a.mp4"], "the folder 'nowhere' does not exist"),
    (["a", "-o", "/dev/null/a.mp4"], "Cannot write"),
    (["a", "-o", "a.avi"], r"the ending '.avi', which cannot be written. There are .mp4, .gif, .webp, .png"),
    (["a", "-o", ""], "-o is empty: give a value"),
    (["a", "-o", "."], "'.' is a folder: give -o ./ for numbered pictures"),
    (["a", "-o", "./"], "holds other things"),
    (["a", "-o", "a.mp4", "--size", "12x8"], "height must be a multiple of 8"),
    (["a", "-o", "a.mp4", "--width", "12"], "width of 8"),
    (["a", "-o", "a.mp4", "--size", "16x16", "--width", "16"], "--size and --width or --height: give one"),
    (["a", "-o", "a.mp4", "--device", "tpu"], "the device 'tpu' cannot be used"),
    (["a", "-o", "a.mp4", "--device", "vulkan"], "'Vulkan' backend$"),
    (["a", "-o", "a.mp4", "--precision", "float16"], "--precision 'float16': use auto, float32 or bfloat16"),
    (["a", "-o", "a.mp4", "--steps", "0"], "steps 0"),
    (["a", "-o", "a.mp4", "--guidance-scale", "-1"], "guidance_scale -1.0 must be at least 0"),
    (["a", "-o", "a.mp4", "--temperature", "inf"], "temperature inf"),
    (["a", "-o", "a.mp4", "--choice-temperature", "nan"], "choice_temperature nan"),
    (["a", "-o", "a.mp4", "--top-k", "-1"], "top_k -1"),
    (["a", "-o", "a.mp4", "--seed", str(2**64)], "seed 18446744073709551616"),
    (["a", "-o", "a.mp4", "--fps", "0"], "rate between"),
    (["a", "-o", "a.gif", "--fps", "300"], "GIF shows at most 100"),
    (["a", "-o", "a.mp4", "--samples", "64", "--upscale", "32"], "exceed the 16383 a side"),
    (["a", "-o", "a.mp4", "--samples", "0"], "--samples"),
    (["a", "-o", "a.mp4", "--frames", "many"], "--frames.*'many'.*integer"),
    ([], 'there is no prompt: say what the video shows, as in phenaki generate "a large red circle'),
    (["a", "--replay", "a.mp4"], "leave out prompts and settings"),
    (["--replay", "a.mp4", "--seed", "3"], "no file or folder 'a.mp4'"),
    (["--replay", "notes.txt"], "'notes.txt' is no video or picture: it cannot be read"),
]


@pytest.mark.parametrize(("arguments", "said"), BAD, ids=[" ".join(arguments)[:40] for arguments, _ in BAD])
@pytest.mark.usefixtures("no_work")
def test_bad_input_is_a_sentence_before_any_work(arguments: list[str], said: str) -> None:
    Path("notes.txt").write_text("mine")
    assert re.search(said, refused(run("generate", *arguments)))
    assert os.listdir() == ["notes.txt"]


@pytest.mark.usefixtures("no_work")
def test_a_folder_that_may_not_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may write everywhere, so the system's refusal is simulated."""

    def denied(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(files, "open", denied, raising=False)
    assert "permission denied" in refused(run("generate", "a", "-o", "a.mp4"))
    assert os.listdir() == []


@pytest.mark.parametrize("out", ["a.mp4", "a.gif", "frames/"])
def test_a_full_disk_leaves_what_was_there(out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    assert run("generate", "a", "-o", out, "--frames", 3).exit_code == 0
    before = [frame.tobytes() for frame in read_video(out).frames]
    monkeypatch.setattr(os, "fsync", full)
    assert "the disk is full" in refused(run("generate", "a blue star", "-o", out, "--frames", 3, "--seed", 1))
    assert os.listdir() == [out.rstrip("/")] and [frame.tobytes() for frame in read_video(out).frames] == before


def test_other_system_errors_are_sentences_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_many(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files", "x")

    monkeypatch.setattr("phenaki.pipeline.model.rollout", too_many)
    assert refused(run("generate", "a", "-o", "a.mp4")) == "phenaki: Too many open files: 'x'"

    def memory(*_: object, **__: object) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr("phenaki.pipeline.model.rollout", memory)
    assert "out of memory: generate fewer samples" in refused(run("generate", "a", "-o", "a.mp4"))

    def bug(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("phenaki.pipeline.model.rollout", bug)
    assert isinstance(run("generate", "a", "-o", "a.mp4").exception, RuntimeError)  # with its traceback
    assert os.listdir() == []


def test_ctrl_c_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from phenaki.pipeline import model as pipeline

    rollout = pipeline.rollout

    def interrupted(*args, **options):
        yield next(rollout(*args, **options))
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "rollout", interrupted)
    result = run("generate", "a", "b", "-o", "a.mp4", "--frames", 3)
    assert result.exit_code == 130 and "phenaki: interrupted" in result.output
    assert os.listdir() == []


def edit(path: Path, old: str, new: str) -> None:
    path.write_text(path.read_text().replace(old, new))


@pytest.mark.parametrize(
    ("breaks", "said"),
    [
        (lambda m: os.truncate(m / "generator/weights.safetensors", 1000), "not a complete safetensors file"),
        (
            lambda m: edit(m / "generator/config.json", '"layers"', '"layer"'),
            "Unknown key 'layer'. Did you mean 'layers'",
        ),
        (lambda m: edit(m / "model.json", '"tokenizer"', '"tokeniser"'), "Unknown key 'tokeniser'"),
        (
            lambda m: edit(m / "generator/config.json", ',\n    "text_width": 64', ""),
            "The key 'text_width' .* is missing",
        ),
        (lambda m: edit(m / "generator/config.json", ": 125", ": 100"), "generator/weights.safetensors.* do not fit"),
        (lambda m: edit(m / "tokenizer/config.json", "5", "6"), "do not fit CViViT|vocab_size 125"),
    ],
)
@pytest.mark.usefixtures("no_work")
def test_a_broken_model_is_a_sentence(packaged: Path, breaks, said: str) -> None:
    breaks(packaged)
    assert re.search(said, refused(run("generate", "a", "-o", "a.mp4")))
    assert os.listdir() == []


@pytest.mark.usefixtures("no_work")
def test_a_generator_of_another_vocabulary(
    packaged: Path, text_encoder: WordEncoder, generator: MaskedTransformer
) -> None:
    from dataclasses import replace

    config = replace(generator.config, tokenizer=replace(generator.config.tokenizer, vocab_size=64))
    save_component(MaskedTransformer(config), packaged / "generator")
    assert "vocab_size 64, not 125" in refused(run("generate", "a", "-o", "a.mp4"))


def test_the_whole_program_ends_with_a_sentence_and_exit_code_2(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "phenaki", "generate", "a", "-m", "shapes-46", "-o", "a.mp4"]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert ended.returncode == 2 and ended.stdout == ""
    assert re.fullmatch(r"phenaki: There is no model or folder 'shapes-46'\..*\n", ended.stderr)


# ---- the other commands


def test_demo_writes_three_kinds_of_picture() -> None:
    result = run("demo", "--out", "pictures/demo")
    assert result.exit_code == 0, result.output
    assert all(prompt in result.output for prompt in DEMO)
    for name, count in (("demo.mp4", 31), ("demo.gif", 31), ("demo.png", 1)):
        assert f"pictures/demo/{name}" in result.output
        assert len(read_video(f"pictures/demo/{name}").frames) == count
    assert run("demo", "--out", "pictures/demo").exit_code == 0  # and again
    Path("file").write_text("mine")
    assert "file" in refused(run("demo", "--out", "file"))
    assert "file" in refused(run("demo", "--out", "file/inside"))


def test_models_and_version() -> None:
    assert re.search(r"32x32 pixels, 8 fps, scenes of 11 frames, [\d.]+ MB", run("models").output)
    assert run("--version").output == f"phenaki {__version__}\n"


def test_help_explains_every_command_and_option() -> None:
    commands = {"phenaki": get_command(app)}
    for name, command in commands["phenaki"].commands.items():
        commands |= {name: command} | {f"{name} {inner}": c for inner, c in getattr(command, "commands", {}).items()}
    assert {"generate", "demo", "models", "evaluate", "train tokenizer", "train generator"} < set(commands)
    for name, command in commands.items():
        assert len(command.help) > 30, name
        for parameter in command.params:
            assert len(parameter.help) > 10, f"{name} {parameter.name}"
        assert run(*name.split()[name == "phenaki" :], "--help").exit_code == 0


DEBUG = ["--recipe", "cvivit_debug", "run.steps=2", "run.eval_every=2", "run.log_every=1", "data.batch=2"]


@pytest.mark.filterwarnings("ignore:.*knows the words")  # two steps teach few words
def test_both_stages_are_trained_and_the_result_makes_a_video() -> None:
    trained = run("train", "tokenizer", *DEBUG, "--out", "one")
    assert trained.exit_code == 0 and "The tokenizer is in one/tokenizer" in trained.output
    smallest = ["run.steps=2", "run.eval_every=2", "run.log_every=1", "data.batch=2", "sampling.decoding.steps=1"]
    second = run("train", "generator", "-r", "masked_debug", "--tokenizer", "one/tokenizer", "--out", "two", *smallest)
    assert second.exit_code == 0 and "is in two/model" in second.output
    assert "unknown: zebra" in refused(run("generate", "zebra", "-m", "two/model", "--strict"))
    assert run("generate", "a red circle", "-m", "two/model", "-o", "a.mp4", "--frames", 3).exit_code == 0
    assert "perhaps you mean 'two/model'" in refused(run("generate", "a", "-m", "two", "-o", "b.mp4"))
    critic = run("train", "critic", "-r", "critic_debug", "--model", "two/model", "--out", "judged", *smallest[:-1])
    assert critic.exit_code == 0 and "is in judged/model" in critic.output
    asking = ["generate", "a red circle", "-o", "c.mp4", "--frames", 3, "--order", "critic", "-m"]
    assert "needs a critic, which this model does not have" in refused(run(*asking, "two/model"))
    assert run(*asking, "judged/model").exit_code == 0
    assert run("train", "tokenizer", *DEBUG, "--out", "one").exit_code == 0  # nothing is left to do

    other = refused(run("train", "tokenizer", *DEBUG, "tokenizer.width=128", "--out", "one"))
    assert "started with another recipe (changed: tokenizer.width from 64 to 128)" in other
    wrong = ["train", "generator", "-r", "masked_debug", "--out", "three", "--tokenizer"]
    assert "name the folder of a tokenizer" in refused(run(*wrong, "two/model/generator"))
    assert "no model or folder 'nowhere'" in refused(run(*wrong, "nowhere"))
    assert not Path("three").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["-r", "cvivit_debag"],
            "no recipe 'cvivit_debag'. Did you mean 'cvivit_debug'.*cvivit_paper.*cvivit_shapes_64",
        ),
        (["-r", "cvivit_debug", "optimizer.lrr=1"], "Unknown key 'optimizer.lrr'. Did you mean 'lr'"),
        (["-r", "cvivit_debug", "tokeniser.width=1"], "Unknown key 'tokeniser'. Did you mean 'tokenizer'"),
        (["-r", "cvivit_debug", "steps"], "'steps' is not an override. Write key=value without spaces"),
        (["-r", "cvivit_debug", "steps=9"], "Unknown key 'steps'. Did you mean 'run.steps'?"),
        (["-r", "cvivit_debug", "lr=9"], "Did you mean 'discriminator.lr' or 'optimizer.lr'?"),
        (["-r", "cvivit_debug", "run.steps=many"], "run.steps must be an integer"),
        (["-r", "cvivit_debug", "run.steps=0"], "run.steps 0 must be at least 1"),
        (["-r", "masked_debug"], "'masked_debug' is a generator recipe, for `phenaki train generator`.*cvivit_paper"),
        ([], "--recipe"),
    ],
)
def test_bad_recipes(arguments: list[str], said: str) -> None:
    assert re.search(said, refused(run("train", "tokenizer", *arguments, "--out", "one")))
    assert os.listdir() == []


def test_a_file_where_the_run_should_be() -> None:
    Path("one").write_text("mine")
    assert "'one' is a file: give a folder" in refused(run("train", "tokenizer", *DEBUG, "--out", "one"))


def test_evaluate_prints_and_writes_metrics(monkeypatch: pytest.MonkeyPatch, packaged: Path) -> None:
    from phenaki import evaluation as evaluate

    monkeypatch.setattr(evaluate, "CLIPS", 20)
    result = run("evaluate", packaged / "tokenizer", "--quick", "--out", "metrics.json")
    assert result.exit_code == 0, result.output
    assert "PSNR" in result.output
    metrics = json.loads(Path("metrics.json").read_text())
    assert list(metrics) == ["reconstruction"]
    assert "tokenizer alone" in refused(run("evaluate", packaged / "tokenizer", "--suite", "prompts"))
    assert "does not exist" in refused(
        run("evaluate", "shapes-64", "--data", "shapes", "--out", "nowhere/metrics.json")
    )
    assert "--suite" in refused(run("evaluate", "shapes-64", "--suite", "everything"))


# ---- data


@pytest.fixture
def videos(clips: Path) -> Path:
    """The clips and a broken file, in the folder that commands run in."""
    folder = Path("videos")
    folder.mkdir()
    for file in clips.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "broken.mp4").write_bytes(b"no video")
    (folder / "broken.txt").write_text("a video")
    return folder


@pytest.mark.usefixtures("videos")
def test_videos_are_packed_inspected_tokenized_and_trained_on() -> None:
    packed = run("data", "pack", "videos", "packed", "--processes", 1, "--validation", 0.4)
    assert packed.exit_code == 0, packed.output
    assert re.search(r"7 of 8 sources packed\n.*train .*\n.*validation .*\n1 refused:\n  broken.mp4: ", packed.output)

    inspected = run("data", "inspect", "packed", "--out", "look")
    assert inspected.exit_code == 0, inspected.output
    trained_on = re.search(r"train +(\d) samples", packed.output)[1]
    assert f"{trained_on} of {trained_on} samples looked at" in inspected.output
    assert sorted(os.listdir("look")) == ["clips.png", "histograms.png", "summary.json"]
    assert "holds out none" not in packed.output

    first = run("train", "tokenizer", *DEBUG, "--data", "packed", "--out", "one")
    assert first.exit_code == 0, first.output
    arguments = ["--tokenizer", "one/tokenizer", "--frames", 5, "--passes", 2]
    tokens = run("data", "tokenize", "packed", "tokens", *arguments)
    assert tokens.exit_code == 0, tokens.output
    assert re.search(r"\d+ samples in 1 shards at tokens; 0 skipped", tokens.output)
    again = run("data", "tokenize", "packed", "tokens", *arguments)
    assert again.output == tokens.output

    smallest = ["-r", "masked_debug", *DEBUG[2:], "sampling.decoding.steps=1", "--data", "tokens"]
    apart = run("train", "generator", *smallest, "--out", "two")
    assert apart.exit_code == 0, apart.output
    assert "holds no tokenizer/" in refused(run("generate", "a", "-m", "two/model", "-o", "a.mp4", "--frames", 3))
    whole = run("train", "generator", *smallest, "--tokenizer", "one/tokenizer", "--out", "three")
    assert whole.exit_code == 0, whole.output
    assert run("generate", "texture moves up", "-m", "three/model", "-o", "a.mp4", "--frames", 3).exit_code == 0


@pytest.mark.usefixtures("videos")
def test_each_process_of_a_launcher_tokenizes_its_part(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = run("data", "pack", "videos", "--to", "packed", "--processes", 1, "--validation", 0)
    assert packed.exit_code == 0, packed.output
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, samples in ((0, 3), (1, 4)):  # 7 in all
        monkeypatch.setenv("RANK", str(rank))
        tokens = run("data", "tokenize", "packed", "tokens", "-t", "shapes-64", "--frames", 5)
        assert f"{samples} samples in 1 shards at tokens; 0 skipped" in tokens.output
    shards = ["tokens-000-000000.tar", "tokens-000.json", "tokens-001-000000.tar", "tokens-001.json", "tokens.json"]
    assert sorted(os.listdir("tokens")) == shards


@pytest.mark.usefixtures("videos")
def test_too_few_sources_for_validation_are_reported() -> None:
    none = run("data", "pack", "videos", "packed", "--processes", 1, "--validation", 0.001)
    assert none.exit_code == 0
    assert "--validation 0.001 of so few sources holds out none: a run would be evaluated on clips" in none.output
    asked = run("data", "pack", "videos", "other", "--processes", 1, "--validation", 0)
    assert "holds out none" not in asked.output


@pytest.mark.usefixtures("videos")
def test_tokens_with_embeddings_of_a_complete_model() -> None:
    arguments = ["data", "tokenize", "videos", "tokens", "-t", "shapes-64", "--text-encoder", "shapes-64"]
    assert "'videos' has no usable sample: " in refused(run(*arguments))  # the clips have 9 frames, not 11
    few = refused(run(*arguments, "--frames", 5))
    assert "1 of 8 samples are unusable, more than --max-bad-fraction 0.1" in few
    tokens = run(*arguments, "--frames", 5, "--max-bad-fraction", 0.2)
    assert tokens.exit_code == 0, tokens.output
    assert "skipped: broken.mp4: it cannot be read" in tokens.output
    assert "7 samples in 1 shards at tokens; 1 skipped" in tokens.output
    trained = run("train", "generator", "-r", "masked_debug", *DEBUG[2:], "--data", "tokens", "--out", "two")
    assert trained.exit_code == 0, trained.output
    assert sorted(os.listdir("two/model")) == ["README.md", "generator", "model.json"]


BAD_DATA = [
    (["data", "pack", "videos"], "give the sources, then the output folder: phenaki data pack videos OUT"),
    (["data", "pack", "nowhere", "out"], "'nowhere' is not there"),
    (["data", "pack", "videos", "out", "--template", "a video"], "has no {label}"),
    (["data", "pack", "videos", "out", "--validation", "2"], "validation 2.0 must be"),
    (["data", "pack", "videos", "out", "--table", "nowhere.csv"], "nowhere.csv"),
    (["data", "pack", "videos", "http://127.0.0.1:9/out", "--processes", "1"], "over http files are only read"),
    (["data", "inspect", "nowhere"], "nowhere"),
    (["data", "inspect", "videos", "--samples", "0"], "--samples"),
    (["data", "tokenize", "videos", "out"], "--tokenizer"),
    (["data", "tokenize", "videos", "out", "-t", "nowhere"], "no model or folder 'nowhere'"),
    (["data", "tokenize", "nowhere", "out", "-t", "shapes-64"], "nowhere"),
    (["data", "tokenize", "shapes", "out", "-t", "shapes-64"], "'shapes' is endless: set the number of samples"),
    (["data", "tokenize", "videos", "out", "-t", "shapes-64", "--frames", "4"], "the nearest are 3 and 5"),
    (["data", "tokenize", "videos", "out", "-t", "shapes-64", "--split", "all"], "all"),
    (["data", "tokenize", "videos", "out", "-t", "shapes-64", "--flip"], "--flip needs --passes 2"),
    (["train", "tokenizer", "-r", "cvivit_debug", "-o", "out", "-d", "nowhere"], "nowhere"),
    (
        ["train", "tokenizer", "-r", "cvivit_debug", "-o", "out", "-d", "videos", "data.lengths=[99]"],
        "one weight per length",
    ),
    (
        ["train", "generator", "-r", "masked_debug", "-o", "out", "-d", "videos"],
        r"name the tokenizer that makes them \(--tokenizer\)",
    ),
    (["train", "generator", "-r", "masked_debug", "-o", "out"], "'shapes' holds no tokens.json, so no ids"),
]


@pytest.mark.parametrize(("arguments", "said"), BAD_DATA, ids=[" ".join(arguments)[:50] for arguments, _ in BAD_DATA])
@pytest.mark.usefixtures("videos")
def test_bad_data_is_a_sentence(arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("phenaki.data.storage.FIRST_WAIT", 0.001)
    assert re.search(said, refused(run(*arguments)))
    assert os.listdir() == ["videos"]


def test_a_training_with_too_many_broken_files_ends_with_a_sentence(videos: Path) -> None:
    for number in range(7):
        (videos / f"empty{number}.mp4").write_bytes(b"")
    arguments = ["train", "tokenizer", *DEBUG, "run.steps=99", "--data", "videos", "--out", "one"]
    result = refused(run(*arguments))
    assert re.search(
        r"phenaki: \d+ of \d+ samples are unusable, more than data.max_bad_fraction 0.1; the last one: ", result
    )
    assert len(Path("one/bad_samples.txt").read_text().splitlines()) == 8


def test_recipes_are_listed_and_shown() -> None:
    listed = run("recipes")
    assert listed.exit_code == 0
    assert all(name in listed.output for name in ("cvivit_shapes_64", "masked_shapes_64", "critic_debug"))
    shown = run("recipes", "masked_shapes_64")
    assert shown.exit_code == 0
    settings = yaml.safe_load(shown.output)
    assert settings["generator"]["width"] == 256 and settings["sampling"]["decoding"]["steps"] == 8
    wrong = run("recipes", "masked_shape_64")
    assert wrong.exit_code == 2 and "masked_shapes_64" in wrong.output
