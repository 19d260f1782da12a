"""The pipeline as people type it who come from diffusers, phenaki-pytorch or a notebook."""

from __future__ import annotations

import copy
import io
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import phenaki
from helpers.sampling import sampling_config
from phenaki.conditioning import Text, WordEncoder
from phenaki.core.errors import PhenakiError
from phenaki.generators import Components, MaskedTransformer
from phenaki.media.metadata import read_metadata
from phenaki.media.reader import read_video
from phenaki.pipeline import Phenaki, sampling_progress
from phenaki.pipeline.domain import Domain
from phenaki.pipeline.words import MODEL_ATTRIBUTES, RESULT_ATTRIBUTES, WORDS
from phenaki.tokenizers import CViViT

PROJECT = Path(__file__).parents[1]
CLIP = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)


@pytest.fixture
def model(tokenizer: CViViT, generator: MaskedTransformer, text_encoder: WordEncoder) -> Phenaki:
    sampling = sampling_config(steps=2, guidance_scale=2.0, prime_frames=3)
    domain = Domain("moving shapes", ("a red circle",))
    return Phenaki(Components(generator, tokenizer, text_encoder), sampling, domain, "tiny")


def same(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Equal up to the rounding of batches of different sizes."""
    return first.shape == second.shape and torch.allclose(first, second, atol=1e-3)


# ---- calls


def test_a_call_gives_frames_as_diffusers_does(model: Phenaki) -> None:
    result = model("a red circle", num_inference_steps=3, guidance_scale=1.5, num_frames=5)
    plain = model.generate("a red circle", steps=3, guidance_scale=1.5, frames=5)
    assert torch.equal(result.video, plain.video)
    assert [len(clip) for clip in result.frames] == [5] and result.frames[0][0].size == (32, 32)
    assert np.array_equal(np.asarray(result.frames[0][2]), result.clips[0, 2])
    array = model("a red circle", frames=5, output_type="np").frames
    assert array.shape == (1, 5, 32, 32, 3) and array.dtype == np.float32
    tensor = model("a red circle", frames=5, output_type="pt").frames
    assert tensor.shape == (1, 5, 3, 32, 32) and torch.equal(tensor[0].movedim(1, -1), torch.from_numpy(array)[0])
    with pytest.raises(PhenakiError, match="output_type 'latent': there are pil, np, pt"):
        model("a", output_type="latent")  # type: ignore[arg-type]


def test_several_prompts_of_a_call_are_a_batch_and_scenes_a_story(model: Phenaki) -> None:
    batch = model(["a red circle", "a blue star moves"], frames=5, seed=4)
    assert batch.video.shape == (2, 3, 5, 32, 32) and batch.prompts == (("a red circle", "a blue star moves"),)
    assert not torch.equal(batch.video[0], batch.video[1])
    other = model(["a red circle", "now it spins"], frames=5, seed=4).video
    assert same(other[:1], batch.video[:1]) and not same(other[1:], batch.video[1:])
    assert model(["a", "b"], frames=3, num_videos_per_prompt=2).prompts == (("a", "a", "b", "b"),)
    story = model(scenes=["a red circle", "it moves"], frames=5)
    assert torch.equal(story.video, model.generate(["a red circle", "it moves"], frames=5).video)
    assert story.video.shape[2] == 9
    batched_story = model.generate([("a circle", "a star"), "it moves"], frames=5)
    assert batched_story.video.shape == (2, 3, 9, 32, 32)
    for arguments in ({}, {"prompts": "a", "scenes": ["b"]}):
        with pytest.raises(PhenakiError, match="prompts, of a batch of videos, or scenes"):
            model(**arguments)
    with pytest.raises(PhenakiError, match="scenes of 2 prompts for 3 samples"):
        model.generate([("a", "b")], samples=3)


def test_words_of_other_libraries(model: Phenaki) -> None:
    plain = model.generate("a red circle", frames=5, steps=3, guidance_scale=1.5, size=(32, 64), samples=2)
    for words in (
        {"prompt": "a red circle", "num_frames": 5, "num_inference_steps": 3, "width": 64, "num_videos_per_prompt": 2},
        {"texts": ["a red circle"], "video_length": 5, "steps": 3, "height": 32, "width": 64, "batch_size": 2},
    ):
        assert torch.equal(model.generate(**words, guidance_scale=1.5).video, plain.video)
    assert torch.equal(
        model.generate("a", cond_scale=1.5, frames=3).video, model.generate("a", guidance_scale=1.5, frames=3).video
    )
    picture = Image.fromarray(CLIP[0])
    assert torch.equal(
        model.generate("a", image=picture, frames=3).video, model.generate("a", start=CLIP[0], frames=3).video
    )
    steps: list[tuple[int, int | None]] = []
    model.generate("a", frames=3, on_step=lambda *finished: steps.append(finished))
    assert steps == [(1, 2), (2, 2)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_frames": 5, "frames": 5}, "'frames' and 'num_frames' are the same argument"),
        ({"height": 32, "size": (32, 32)}, "'size' and 'height' are the same"),
        ({"num_inference_steps": 5, "steps": 5}, "'steps' and 'num_inference_steps' are the same"),
        ({"prompt": "b"}, "'prompts' and 'prompt' are the same"),
        ({"callback_on_step_end": print}, "pass on_progress="),
        ({"starting_temperature": 0.9}, "temperature= with temperature_end=0"),
        ({"latents": None}, "seed= decides"),
        ({"strength": 0.5}, "inpaint"),
        ({"generator": 3}, "one torch.Generator, or seed="),
        ({"duration": 2}, r"pass frames=, of which there are model.fps in a second"),
        ({"scenes": ["b"]}, "'prompts' and 'scenes' are the same"),
        ({"framse": 5}, "no argument 'framse'. Did you mean 'frames'"),
        ({"dtype": torch.float16}, "no argument 'dtype'"),
    ],
)
def test_words_that_cannot_be_taken_are_answered(model: Phenaki, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(PhenakiError, match=message):
        model.generate("a", **arguments)


def test_the_page_lists_all_words() -> None:
    page = (PROJECT / "docs" / "python.md").read_text(encoding="utf-8")
    assert not [word for word in WORDS if f"`{word}`" not in page]


# ---- seeds and numbers


def test_a_random_seed_is_named_and_gives_the_video_again(model: Phenaki) -> None:
    first, second = (model.generate("a", frames=3, seed=None) for _ in range(2))
    assert first.seed != second.seed
    assert torch.equal(model.generate("a", frames=3, seed=first.seed).video, first.video)


def test_a_torch_generator_moves_on(model: Phenaki) -> None:
    def videos() -> list[torch.Tensor]:
        rng = torch.Generator().manual_seed(5)
        return [model.generate("a", frames=3, generator=rng).video for _ in range(2)]

    first, again = videos(), videos()
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(first[0], first[1])


def test_numbers_of_numpy_and_torch(model: Phenaki) -> None:
    result = model.generate("a", seed=np.int64(3), frames=np.int32(5), steps=np.int64(3), samples=np.int8(2))
    plain = model.generate("a", seed=3, frames=5, steps=3, samples=2)
    assert torch.equal(result.video, plain.video) and result.seed == 3
    assert model.generate(["a", "b"], frames=np.array([3, 5])).video.shape[2] == 7
    assert model.generate("a", frames=torch.tensor(5), guidance_scale=np.float32(1.5)).video.shape[2] == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompts": 123}, "the prompt 123: pass text"),
        ({"prompts": None}, "there is no prompt: pass text"),
        ({"prompts": b"a"}, "the prompt b'a'"),
        ({"prompts": Path("a")}, "pass text"),
        ({"prompts": {"a": 1}}, "pass text"),
        ({"size": 64}, "size 64: pass height and width"),
        ({"size": "64x64"}, "size '64x64': pass height and width"),
        ({"size": (32.5, 32)}, "size 32.5: give a whole number"),
        ({"seed": 1.5}, "seed 1.5: give a whole number"),
        ({"seed": "one"}, "seed 'one'"),
        ({"samples": 1.5}, "samples 1.5"),
        ({"frames": "five"}, "frames 'five'"),
        ({"frames": 5.0}, "frames 5.0"),
        ({"steps": "many"}, "steps must be an integer, not 'many'"),
        ({"start": 3}, "a video of type int"),
        ({"start": "nowhere.png"}, "no file or folder 'nowhere.png'"),
    ],
)
def test_wrong_types_get_sentences(model: Phenaki, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(PhenakiError, match=message):
        model.generate(**({"prompts": "a"} | arguments))


# ---- videos, masks and embeddings go in


def test_start_in_every_form(model: Phenaki, tmp_path: Path) -> None:
    video = model.tokenizer.decode(model.tokenizer.encode(CLIP))
    result = model.generate("a", start=CLIP, frames=3)
    assert torch.equal(result.video[:, :, :5], torch.from_numpy(CLIP).movedim(-1, 0)[None].float() / 255)
    pictures = [Image.fromarray(frame) for frame in CLIP]
    for source in (pictures, CLIP.transpose(0, 3, 1, 2), result.video[:, :, :5]):
        assert torch.equal(model.extend(source, "a", frames=3).video, result.video)
    pictures[0].resize((64, 48)).save(tmp_path / "a.png")
    assert model.generate("a", start=tmp_path / "a.png", frames=3).video.shape == (1, 3, 3, 32, 32)
    assert model.extend(result, "b", frames=3).video.shape[2] == 9
    assert torch.equal(model.interpolate(CLIP[0], video[:, :, :1], "a").video[0, :, 0], result.video[0, :, 0])


def test_masks_in_every_form(model: Phenaki) -> None:
    mask = np.zeros((32, 32), bool)
    mask[:16] = True
    plain = model.inpaint(CLIP, torch.from_numpy(mask), "a", seed=1).video
    for source in (mask, mask.astype(np.uint8) * 255, Image.fromarray(mask)):
        assert torch.equal(model.inpaint(CLIP, source, "a", seed=1).video, plain)


def test_the_tokenizer_takes_them_too(tokenizer: CViViT) -> None:
    ids = tokenizer.encode(torch.from_numpy(CLIP).movedim(-1, 0)[None].float() / 255)
    for source in (CLIP, CLIP.transpose(0, 3, 1, 2), [Image.fromarray(frame) for frame in CLIP]):
        assert torch.equal(tokenizer.encode(source), ids)


def test_embeddings_are_a_condition(model: Phenaki) -> None:
    text = model.components.encode_text(["a red circle", "a blue star"], 2)
    batch = model(["a red circle", "a blue star"], frames=3)
    assert torch.equal(model(text, frames=3).video, batch.video)
    assert torch.equal(model(prompt_embeds=text, frames=3).video, batch.video)
    one = model.components.encode_text("a red circle", 1)
    plain = model.generate("a red circle", frames=3)
    for embeddings in (one, one.embeddings, one.embeddings[0]):
        assert torch.equal(model.generate(embeddings, frames=3).video, plain.video)
    assert model.generate(["a red circle", text.row(1)], frames=3).prompts == ("a red circle", None)
    with pytest.raises(PhenakiError, match="text of width 64, and this text has width 3"):
        model.generate(Text(torch.zeros(1, 2, 3), torch.ones(1, 2, dtype=torch.bool)))
    with pytest.raises(PhenakiError, match="a batch of texts and embeddings"):
        model(["a", one])  # type: ignore[list-item]


# ---- models


def test_a_model_says_what_it_is(model: Phenaki) -> None:
    lines = repr(model).splitlines()
    assert lines[0] == "Phenaki tiny: 11 frames of 32x32 pixels at 8 fps, on cpu"
    assert [line.split()[:2] for line in lines[1:4]] == [
        ["tokenizer", "CViViT,"],
        ["generator", "MaskedTransformer,"],
        ["text", "WordEncoder,"],
    ]
    assert lines[4:] == ["  knows      moving shapes", "  try        'a red circle'"]


def test_precision_is_that_of_the_products(model: Phenaki, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[torch.dtype] = set()
    layers = [
        m for name, m in model.tokenizer.named_modules() if type(m) is torch.nn.Linear and "quantizer" not in name
    ]
    for block in (model.generator.head, *layers):
        block.register_forward_hook(lambda _, __, output: seen.add(output.dtype))
    for dtype in (torch.bfloat16, torch.float32):
        seen.clear()
        assert model.to(dtype) is model and str(dtype).removeprefix("torch.") in repr(model)
        video = model.generate("a red circle", frames=3).video
        assert seen == {dtype} and video.dtype == torch.float32
        assert {weight.dtype for weight in model.generator.parameters()} == {torch.float32}
    with pytest.raises(PhenakiError, match=r"bfloat16 or torch.float32, not in torch.float16 \(float16 overflows"):
        model.to(torch.float16)
    with pytest.raises(PhenakiError, match="'nowhere'"):
        model.to("nowhere")
    assert model.to(dtype="bfloat16").components.precision == "bfloat16"
    assert model.to(dtype="auto").components.precision == "auto"
    assert model.to("cpu", torch.bfloat16).to(device="cpu", dtype=torch.float32).device.type == "cpu"


def test_words_of_from_pretrained(model: Phenaki, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "sub" / "model")
    loaded = Phenaki.from_pretrained(
        tmp_path,
        device="cpu",
        subfolder="sub/model",
        torch_dtype="bfloat16",
        cache_dir=tmp_path,
        token=None,
        local_files_only=True,
    )
    assert loaded.components.precision == "bfloat16"
    assert isinstance(phenaki.load(tmp_path / "sub", subfolder="model/tokenizer"), CViViT)
    for arguments, message in (
        ({"variant": "fp16"}, "no argument 'variant': a model has one set of weights"),
        ({"revison": "main"}, "no argument 'revison'. Did you mean 'revision'"),
        ({"revision": "main"}, "revision 'main': .* is on this machine"),
        ({"subfolder": "tests"}, "has no folder 'tests': it holds sub"),
    ):
        with pytest.raises(PhenakiError, match=message):
            Phenaki.from_pretrained(tmp_path, **arguments)


def test_parts_of_models_in_the_package() -> None:
    assert isinstance(phenaki.load("shapes-64/tokenizer"), CViViT)


def test_public_names_and_advice() -> None:
    assert dir(phenaki) == sorted(dir(phenaki), key=str.lower) or set(dir(phenaki)) == set(phenaki.__all__)
    assert phenaki.Tokenizer is not None and phenaki.Text is Text
    with pytest.raises(AttributeError, match="load a model first: phenaki.load"):
        phenaki.generate  # noqa: B018
    assert (Path(phenaki.__file__).parent / "py.typed").exists()


def test_attributes_of_other_libraries_are_answered(model: Phenaki) -> None:
    result = model.generate("a", frames=3)
    for owner, name, answer in (
        (model, "enable_model_cpu_offload", r"models are small: to\('cuda'\) moves all"),
        (model, "vae", "it is tokenizer"),
        (result, "videos", "it is video, a tensor, or frames"),
    ):
        with pytest.raises(AttributeError, match=f"has no attribute '{name}': {answer}"):
            getattr(owner, name)
    for owner, names in ((model, MODEL_ATTRIBUTES), (result, RESULT_ATTRIBUTES)):
        assert not hasattr(owner, "framse") and copy.copy(owner) is not owner
        assert not [name for name in names if hasattr(owner, name)]


# ---- results


def test_a_result_is_saved_to_a_stream(model: Phenaki, tmp_path: Path) -> None:
    result = model.generate("a red circle", frames=3)
    for form in ("mp4", "gif", "webp", "png"):
        stream = io.BytesIO()
        result.save(stream, format=form)
        (tmp_path / f"a.{form}").write_bytes(stream.getvalue())
        assert len(read_video(tmp_path / f"a.{form}").frames) == (1 if form == "png" else 3)
    for arguments, message in (
        ((io.BytesIO(),), "a stream has no ending: pass format="),
        ((io.BytesIO(), 1, "avi"), "'.avi'"),
        ((tmp_path / "a.mp4", 1, "gif"), "for streams: the ending of"),
        ((3,), "cannot be saved to 3"),
    ):
        with pytest.raises(PhenakiError, match=message):
            result.save(*arguments)


def test_a_name_without_an_ending_is_mp4(model: Phenaki, tmp_path: Path) -> None:
    result = model.generate("a red circle", frames=3)
    assert result.save(f"{tmp_path}/name") == result.save(tmp_path / "name") == tmp_path / "name.mp4"
    assert result.save(f"{tmp_path}/new/") == tmp_path / "new"
    (tmp_path / "old").mkdir()
    result.save(tmp_path / "old")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["name.mp4", "new", "old"]
    for folder in ("new", "old"):
        assert len(list((tmp_path / folder).glob("frame_*.png"))) == 3
    with pytest.raises(PhenakiError, match="name of the file to write is empty"):
        result.save("")
    with pytest.raises(PhenakiError, match="folder to save to is empty"):
        model.save_pretrained("")


def test_a_result_is_saved_at_another_rate(model: Phenaki, tmp_path: Path) -> None:
    result = model.generate("a red circle", frames=3)
    result.save(tmp_path / "a.mp4", fps=np.float32(16))
    assert read_video(tmp_path / "a.mp4").fps == 16
    result.save(stream := io.BytesIO(), format="webp", fps=16)
    assert read_metadata(tmp_path / "a.mp4")["fps"] == 16 and stream.getvalue()
    with pytest.raises(PhenakiError, match="fps"):
        result.save(tmp_path / "a.mp4", fps="fast")  # type: ignore[arg-type]


def test_a_result_plays_in_a_notebook(model: Phenaki) -> None:
    video = model.generate("a red circle", frames=3)._repr_html_()
    assert video.startswith("<video controls autoplay") and "data:video/mp4;base64,AAAA" in video
    assert model.generate("a red circle", frames=1)._repr_html_().startswith('<img src="data:image/png;base64,iVBOR')


@pytest.mark.parametrize("kind", ["jupyter", "marimo"])
def test_a_notebook_has_a_progress_bar(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    handle = types.SimpleNamespace(update=shown.append)
    display = types.SimpleNamespace(HTML=lambda text: text, display=lambda text, display_id: handle)
    shell = types.SimpleNamespace(kernel=object())
    output = types.SimpleNamespace(replace=shown.append)
    modules: dict[str, dict[str, Any]] = {
        "jupyter": {
            "IPython": types.SimpleNamespace(get_ipython=lambda: shell, display=display),
            "IPython.display": display,
        },
        "marimo": {
            "marimo": types.SimpleNamespace(running_in_notebook=lambda: True, output=output, Html=lambda text: text)
        },
    }
    for name, module in modules[kind].items():
        monkeypatch.setitem(sys.modules, name, module)
    with sampling_progress(True) as on_progress:
        on_progress(3, 12)
    assert '3 of 12 <progress value="3" max="12">' in shown[1] and shown[-1] == ""
    shown.clear()
    with sampling_progress(False) as on_progress:
        on_progress(3, 12)
    assert not shown


SCRIPT = """
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import phenaki
from phenaki import Generation, Phenaki, PhenakiError


def make(prompts: list[str], folder: Path) -> list[Path]:
    pipe = Phenaki.from_pretrained("shapes-64", device="cpu", dtype=torch.float32)
    batch = pipe(prompts, num_inference_steps=4, guidance_scale=1.5, seed=None, progress=False)
    first: Generation = pipe.generate(prompts[0], frames=11, steps=4, seed=np.int64(1).item())
    longer = pipe.extend(first, "now it turns yellow", num_inference_steps=4)
    picture = Image.fromarray(first.clips[0, 0])
    moved = pipe.generate("now it moves up", start=picture, frames=[11])
    ids = pipe.tokenizer.encode(first.clips)
    back: torch.Tensor = pipe.tokenizer.decode(ids)
    print(pipe.device, pipe.fps, pipe.image_size, back.shape, batch.prompts)
    paths = [folder / f"{number}.mp4" for number in range(2)]
    for path, result in zip(paths, (longer, moved), strict=True):
        result.save(path, upscale=2)
    for piece in pipe.stream(prompts, steps=2):
        print(piece.shape)
    try:
        phenaki.load("nowhere")
    except PhenakiError as error:
        print(error)
    return paths


print(make(["a red circle moves up", "a blue star spins"], Path.cwd()))
"""


@pytest.mark.slow
@pytest.mark.parametrize("checker", [["mypy", "--strict"], ["pyright"]])
def test_a_script_passes_a_strict_type_checker(tmp_path: Path, checker: list[str]) -> None:
    pytest.importorskip(checker[0], reason=f"{checker[0]} is not installed")
    script = tmp_path / "script.py"
    (tmp_path / "pyrightconfig.json").write_text('{"typeCheckingMode": "strict"}')

    def check(source: str) -> subprocess.CompletedProcess[str]:
        script.write_text(source)
        command = [sys.executable, "-m", *checker, str(script)]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)

    run = check(SCRIPT)
    assert run.returncode == 0, run.stdout
    for right, wrong in (
        ("frames=11", "framse=11"),
        ("steps=2", "stesp=2"),
        ("inference_steps=4", "infrence_steps=4"),
        ("upscale=2", "upscael=2"),
    ):
        run = check(SCRIPT.replace(right, wrong))
        assert run.returncode == 1 and wrong.partition("=")[0] in run.stdout, wrong


@pytest.mark.slow
def test_that_script_runs(tmp_path: Path) -> None:
    run = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert run.returncode == 0, run.stderr
    assert len(read_video(tmp_path / "0.mp4").frames) == 21
