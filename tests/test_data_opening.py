"""What lies at a place is found out by looking there; validation clips are never those that are trained on."""

from __future__ import annotations

import pickle
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from helpers import media_files
from helpers.servers import BUCKET, FileServer, serve_s3
from phenaki.core.errors import BadSample, PhenakiError
from phenaki.data.config import DataConfig, SourceConfig
from phenaki.data.eval_samples import eval_samples
from phenaki.data.journal import Journal
from phenaki.data.loader import Batches
from phenaki.data.opening import has_validation, open_source
from phenaki.data.packing import PackConfig, pack
from phenaki.data.shards import ShardWriter
from phenaki.data.sources import FolderSource, ProceduralSource, ShardSource, Source, StreamConfig
from phenaki.data.storage import join, open_atomic
from phenaki.data.tokenizing import TokenizeConfig, tokenize
from phenaki.data.tokens import TokenSource
from phenaki.tokenizers import CViViT
from phenaki.worlds.shapes import ShapesWorld

SHAPES = SourceConfig("shapes")
DATA = DataConfig((SHAPES,), size=32, batch=2, lengths=(5,), workers=0)
VIEW = replace(DATA.view(5, SHAPES), random=False)


def opened(place: Path | str, split: str = "train", captions: bool = True, **source: object) -> Source:
    return open_source(SourceConfig(str(place), **source), DATA, captions, split)


def captions(source: Source) -> list[str]:
    """Of one epoch, sorted."""
    items = source.items(StreamConfig(shuffle=0, epochs=1), {})
    return sorted(source.sample(item, VIEW, np.random.default_rng(0)).caption for item, _ in items)


@pytest.fixture(scope="session")
def said(clips: Path) -> list[str]:
    return sorted(file.read_text() for file in clips.glob("*.txt"))


@pytest.fixture(scope="session")
def shards(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The clips in 3 shards, beside each other and in a folder."""
    root = tmp_path_factory.mktemp("shards")
    with ShardWriter(str(root), "clips", max_samples=3) as writer:
        for file in sorted(clips.glob("*.mp4")):
            writer.write(file.stem, {"mp4": file.read_bytes(), "txt": file.with_suffix(".txt").read_bytes()})
    return root


@pytest.fixture(scope="session")
def packed(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The clips as `phenaki data pack` writes them, a part kept back, with labels and a template."""
    root = tmp_path_factory.mktemp("packed [1]")
    sources = root / "sources" / "texture"
    sources.mkdir(parents=True)
    for file in clips.glob("*.mp4"):
        (sources / file.name).write_bytes(file.read_bytes())
    templates = ("a video of {label}",)
    asked = PackConfig((root / "sources",), str(root / "out"), label_from_folder=True, templates=templates)
    pack(replace(asked, validation=0.5, shard_samples=2, processes=1), progress=False)
    return root / "out"


# ---- local ones


def test_shapes_have_a_split_for_each() -> None:
    for split, part in (("train", "train"), ("validation", "test")):
        source = opened("shapes", split, options={"objects": 2, "continued": 1.0})
        assert isinstance(source, ProceduralSource)
        drawn, expected = source.sample(3, VIEW, np.random.default_rng(0)), ShapesWorld(0, part, 32, 5, 2, 1.0)[3]
        assert np.array_equal(drawn.video, expected.video)
        assert (drawn.caption, drawn.continued) == (expected.caption, True)


def test_options_of_a_world_are_checked(clips: Path) -> None:
    with pytest.raises(PhenakiError, match="the options of 'shapes': Unknown key 'object'. Did you mean 'objects'"):
        opened("shapes", options={"object": 2})
    with pytest.raises(PhenakiError, match=r"takes no options: they are for procedural worlds \(shapes\)"):
        opened(clips, options={"objects": 2})


def test_a_world_crosses_to_a_process_that_did_not_import_it() -> None:
    source = opened("shapes")
    code = (
        "import pickle, sys; import numpy as np\n"
        "source, view = pickle.load(sys.stdin.buffer)\n"
        "print(source.sample(3, view, np.random.default_rng(0)).caption)"
    )
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, input=pickle.dumps((source, VIEW)), capture_output=True, check=True).stdout
    assert found.decode().strip() == source.sample(3, VIEW, np.random.default_rng(0)).caption


def test_a_folder_of_files(clips: Path, said: list[str]) -> None:
    source = opened(clips)
    assert isinstance(source, FolderSource)
    assert captions(source) == said


@pytest.mark.parametrize(
    ("pattern", "count"), [("", 7), ("clips-{000000..000002}.tar", 7), ("clips-000001.tar", 3), ("*-00000[01].tar", 6)]
)
def test_shards_in_a_folder_by_name_and_by_pattern(pattern: str, count: int, shards: Path, said: list[str]) -> None:
    source = opened(shards / pattern)
    assert isinstance(source, ShardSource)
    assert len(captions(source)) == count
    assert set(captions(source)) <= set(said)


def test_a_packed_data_set_has_two_parts_and_templates(packed: Path) -> None:
    parts = {split: opened(packed, split) for split in ("train", "validation")}
    keys = {
        split: {item.key.partition("/")[2] for item, _ in source.items(StreamConfig(shuffle=0, epochs=1), {})}
        for split, source in parts.items()
    }
    assert keys["train"] and keys["validation"]
    assert not keys["train"] & keys["validation"]
    assert len(keys["train"] | keys["validation"]) == 7
    assert set(captions(parts["train"])) == {"a video of texture"}
    assert set(captions(opened(packed, templates=("{label}!",)))) == {"texture!"}


def test_token_shards(clips: Path, said: list[str], tokenizer: CViViT, tmp_path: Path) -> None:
    tokenize(TokenizeConfig(SourceConfig(str(clips)), frames=5), str(tmp_path), tokenizer)
    source = opened(tmp_path)
    assert isinstance(source, TokenSource)
    assert captions(source) == said


def test_names_of_folders_are_labels_where_there_are_templates(clips: Path, tmp_path: Path) -> None:
    for name, file in (("bear/1.mp4", "1.mp4"), ("owl/2.mp4", "2.mp4"), ("3.mp4", "3.mp4")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(clips / file, tmp_path / name)
    for name in ("1.mp4", "2.mp4"):
        assert not list(tmp_path.glob(f"*/{name[0]}.txt"))
    (tmp_path / "3.txt").write_text("its own")
    assert captions(opened(tmp_path, templates=("a video of {label}",))) == [
        "a video of bear",
        "a video of owl",
        "its own",
    ]
    with pytest.raises(PhenakiError, match="1.mp4: .* to make one of its folder's name 'bear', give the"):
        captions(opened(tmp_path))
    (tmp_path / "3.txt").unlink()
    with pytest.raises(PhenakiError, match="3.mp4: it has no caption$"):  # its folder is the place itself
        captions(opened(tmp_path, templates=("a video of {label}",)))


def test_what_is_broken_is_told_before_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "0.mp4").write_bytes(b"no video, and no caption")
    with pytest.raises(PhenakiError, match="0.mp4: it cannot be read"):
        captions(opened(tmp_path))


def test_samples_know_where_they_are_from(clips: Path, packed: Path, tmp_path: Path) -> None:
    def metadata(source: Source) -> list[dict[str, object]]:
        items = source.items(StreamConfig(shuffle=0, epochs=1), {})
        return [dict(source.sample(item, VIEW, np.random.default_rng(0)).metadata) for item, _ in items]

    assert [entry["name"] for entry in metadata(opened(clips))] == [f"{number}.mp4" for number in range(7)]
    for entry in metadata(opened(packed)):
        assert entry["name"].startswith("shard-00000") and entry["source"].startswith("texture/")
        assert (entry["start"], entry["fps"], entry["width"], entry["height"], entry["seconds"]) == (
            0,
            8,
            32,
            32,
            9 / 8,
        )
    with ShardWriter(str(tmp_path)) as writer:
        strange = b'{"fps": "8 per second", "width": null, "seconds": 1.125, "more": {"of": "it"}}'
        writer.write("a", {"mp4": (clips / "0.mp4").read_bytes(), "json": strange, "txt": b"a texture"})
    assert metadata(opened(tmp_path)) == [{"name": "shard-000000.tar/a", "seconds": 1.125}]


def test_a_caption_that_cannot_be_read_costs_only_those_who_need_one(clips: Path, tmp_path: Path) -> None:
    shutil.copytree(clips, tmp_path / "folder")
    words = {0: b"\xe4", 1: b"x" * 100_000, 2: "käse".encode()}
    for number, text in words.items():
        (tmp_path / f"folder/{number}.txt").write_bytes(text)
    with ShardWriter(str(tmp_path / "shards")) as writer:
        for number, text in words.items():
            writer.write(f"{number}", {"mp4": (clips / f"{number}.mp4").read_bytes(), "txt": text})
        writer.write("3", {"mp4": (clips / "3.mp4").read_bytes(), "json": b'{"captions": 3}'})
    for name, count, bad in (("folder", 7, 2), ("shards", 4, 3)):
        assert captions(opened(tmp_path / name, captions=False)) == [""] * count
        items = [item for item, _ in opened(tmp_path / name).items(StreamConfig(shuffle=0, epochs=1), {})]
        assert sum(isinstance(item, BadSample) for item in items) == bad


def test_a_bad_sample_of_a_shard_names_the_file_that_it_was_made_of(tmp_path: Path) -> None:
    (tmp_path / "dog").mkdir()
    (tmp_path / "dog/short.mp4").write_bytes(media_files.video([0, 0.1]))
    pack(PackConfig((tmp_path / "dog",), str(tmp_path / "out"), validation=0, processes=1), progress=False)
    with pytest.raises(BadSample, match=r"^shard-000000.tar/00000000 \(short.mp4\): 0.13 s of video"):
        captions(opened(tmp_path / "out"))


# ---- remote ones


def test_a_web_server(server: FileServer, shards: Path, packed: Path, said: list[str]) -> None:
    server.folder = shards
    assert captions(opened(f"{server.url}/clips-{{000000..000002}}.tar")) == said
    assert len(captions(opened(f"{server.url}/clips-000000.tar?signature=abc"))) == 3
    server.cuts = [500, 600]
    assert captions(opened(f"{server.url}/clips-{{000000..000002}}.tar")) == said
    server.folder = packed
    assert has_validation(server.url)
    for split in ("train", "validation"):
        assert captions(opened(server.url, split)) == captions(opened(packed, split))
    with pytest.raises(PhenakiError, match="nothing of that name is there"):
        opened(f"{server.url}/clips-000009.tar")


def test_a_server_that_refuses_is_told_of_the_place_that_was_named(server: FileServer) -> None:
    server.status = 403
    with pytest.raises(PhenakiError, match=rf"^'{server.url}' cannot be read: looking for tokens.json failed\. "):
        opened(server.url)


def test_a_bucket(shards: Path, packed: Path, clips: Path, said: list[str], tokenizer: CViViT) -> None:
    with serve_s3():
        place = f"s3://{BUCKET}/data"
        for folder, name in ((shards, "shards"), (packed, "packed")):
            for file in folder.rglob("*"):
                if file.is_file():
                    with open_atomic(join(f"{place}/{name}", str(file.relative_to(folder)))) as copy:
                        copy.write(file.read_bytes())
        assert captions(opened(f"{place}/shards")) == said
        assert captions(opened(f"{place}/shards/clips-{{000000..000002}}.tar")) == said
        for split in ("train", "validation"):
            assert captions(opened(f"{place}/packed", split)) == captions(opened(packed, split))
        done = tokenize(TokenizeConfig(SourceConfig(str(clips)), frames=5), f"{place}/tokens", tokenizer)
        assert done == tokenize(TokenizeConfig(SourceConfig(str(clips)), frames=5), f"{place}/tokens", tokenizer)
        assert captions(opened(f"{place}/tokens")) == said
        data = replace(DATA, sources=(SourceConfig(f"{place}/tokens"),))
        assert next(Batches(data, 2))["ids"].shape == (2, 3, 4, 4)
        with pytest.raises(PhenakiError, match="there is no bucket of that name"):
            opened("s3://nowhere/data")
        with pytest.raises(PhenakiError, match="Nothing was found"):
            opened(f"{place}/nothing")


# ---- what is refused


def test_places_with_nothing_usable(clips: Path, shards: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("no shard")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "tokens.json").write_text("{")
    (tmp_path / "strange").mkdir()
    (tmp_path / "strange" / "tokens.json").write_text('{"tokeniser": "a"}')
    (tmp_path / "all").mkdir()
    (tmp_path / "all" / "dataset.json").write_text('{"train": {"shards": 1}}')
    for place, split, expected in (
        ("nowhere", "train", "nothing of that name is there|Nothing was found"),
        ("empty", "train", "holds no videos or pictures"),
        ("broken", "train", "tokens.json' cannot be read as JSON"),
        ("strange", "train", "Unknown key 'tokeniser'. Did you mean 'tokenizer'"),
        ("all", "validation", "has no validation samples"),
        ("*.tar", "train", "Nothing was found"),
    ):
        with pytest.raises(PhenakiError, match=expected):
            opened(tmp_path / place, split)
    with pytest.raises(PhenakiError, match="has no {label}"):
        opened(clips, templates=("a video",))
    with pytest.raises(PhenakiError, match="'.*/0.mp4' is a single file: name its folder"):
        opened(clips / "0.mp4")


def test_packing_that_has_just_begun_is_told_from_an_empty_folder(clips: Path, tmp_path: Path) -> None:
    config = PackConfig((clips,), str(tmp_path / "out"), processes=1)
    (tmp_path / "out").mkdir()
    with pytest.raises(PhenakiError, match="holds no videos or pictures"):
        opened(tmp_path / "out")
    Journal(config.out, config.options(), "sources").__exit__()
    with pytest.raises(PhenakiError, match="Packing into '.*/out' is not finished: run the same `phenaki data pack`"):
        opened(tmp_path / "out")


def test_what_is_kept_back_is_never_taken_along(packed: Path, tmp_path: Path) -> None:
    copied = tmp_path / "copies [1]" / "set"
    shutil.copytree(packed, copied)
    with pytest.raises(PhenakiError, match=r"contains the packed dataset '.*copies \[1\]/set': name that"):
        opened(tmp_path / "copies [1]")
    with pytest.raises(PhenakiError, match="Packing into '.*/set' is not finished"):
        (copied / "dataset.json").unlink()
        opened(copied)
    moved = copied.rename(tmp_path / "set")
    for part in ("train", "validation", "train/*.tar"):
        assert captions(opened(moved / part, templates=("{label}",)))


def test_kept_back_in_a_bucket_it_is_not_taken_along_either(packed: Path) -> None:
    with serve_s3():
        for file in (packed / "dataset.json", *packed.glob("*/*.tar")):
            with open_atomic(f"s3://{BUCKET}/sets/mine/{file.relative_to(packed)}") as copy:
                copy.write(file.read_bytes())
        with pytest.raises(PhenakiError, match=f"contains the packed dataset 's3://{BUCKET}/sets/mine': name that"):
            opened(f"s3://{BUCKET}/sets/")
        assert captions(opened(f"s3://{BUCKET}/sets/mine/validation", templates=("{label}",)))


def test_a_folder_is_one_of_shards_or_one_of_files(clips: Path, shards: Path, said: list[str], tmp_path: Path) -> None:
    mixed = tmp_path / "mixed"
    shutil.copytree(clips, mixed)
    (mixed / "._stray.tar").write_bytes(b"of macOS")
    assert captions(opened(mixed)) == said
    shutil.copy(shards / "clips-000000.tar", mixed / "stray.tar")
    with pytest.raises(PhenakiError, match=r"shards \('.*stray.tar'\) and other files \('.*mp4'\): name the shards by"):
        opened(mixed)
    assert len(captions(opened(mixed / "*.tar"))) == 3


# ---- what a run is judged by


@pytest.mark.parametrize(
    ("source", "validation", "name", "checkable"),
    [
        ("packed", "", "test", False),
        ("shapes", "", "test", True),
        ("shards", "shapes", "test", True),
        ("shards", "", "seen", False),
    ],
)
def test_what_is_shown_is_trained_on_only_where_it_says_so(
    source: str, validation: str, name: str, checkable: bool, packed: Path, shards: Path
) -> None:
    places = {"packed": str(packed), "shards": str(shards), "shapes": "shapes", "": ""}
    config = replace(DATA, sources=(SourceConfig(places[source]),), validation=places[validation])
    given = eval_samples(config, count=3)
    assert (given.name, given.checkable) == (name, checkable)
    again = eval_samples(config, count=3)
    assert all(np.array_equal(a.video, b.video) for a, b in zip(given.samples, again.samples, strict=True))
    batches = Batches(config, 2)
    trained = np.concatenate([next(batches)["video"].numpy() for _ in range(60)])
    nearest = [np.abs(trained.astype(int) - sample.video).mean((1, 2, 3, 4)).min() for sample in given.samples]
    if name == "seen":
        assert max(nearest) < 1
    else:  # textures that differ, or scenes on backgrounds that may be alike
        assert min(nearest) > (0 if checkable else 40)


def test_each_clip_is_shown_once(clips: Path) -> None:
    config = replace(DATA, sources=(SourceConfig(str(clips)),))
    assert len(eval_samples(config, count=32).samples) == 7


def test_images_alone_can_be_shown(clips: Path) -> None:
    config = replace(DATA, lengths=(1,), sources=(SourceConfig(str(clips), images=True),))
    assert eval_samples(config).samples[0].video.shape == (1, 32, 32, 3)


def test_a_validation_place_that_is_trained_on_is_refused(clips: Path, packed: Path) -> None:
    with pytest.raises(PhenakiError, match="is also a training source"):
        eval_samples(replace(DATA, sources=(SourceConfig(str(clips)),), validation=str(clips)))
    eval_samples(replace(DATA, sources=(SourceConfig(str(packed)),), validation=str(packed)))  # with a validation split


def test_nothing_to_show_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "0.mp4").write_bytes(b"no video")
    (tmp_path / "0.txt").write_text("a video")
    with pytest.raises(PhenakiError, match="has no usable clip of 5 frames: 0.mp4: it cannot be read"):
        eval_samples(replace(DATA, sources=(SourceConfig(str(tmp_path)),)))
