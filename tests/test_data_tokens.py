"""Token shards: they hold what the networks say, each sample once a pass, also after a stop, and refuse to be mixed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from threading import Semaphore
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load, save

from helpers.servers import BUCKET, serve_files, serve_s3
from phenaki.conditioning import WordEncoder, WordEncoderConfig
from phenaki.core.errors import BadSample, PhenakiError
from phenaki.core.precision import autocast
from phenaki.data import sample as sample_module
from phenaki.data import storage, tokenizing
from phenaki.data.config import DataConfig, SourceConfig
from phenaki.data.loader import Batches
from phenaki.data.opening import open_source, token_set
from phenaki.data.sample import EncodedSample
from phenaki.data.shards import ShardWriter, read_shard
from phenaki.data.sources import FolderSource, Sample, StreamConfig
from phenaki.data.storage import join, open_atomic
from phenaki.data.tokenizing import TokenizeConfig, tokenize
from phenaki.data.tokens import TokenSource
from phenaki.media.convert import to_float
from phenaki.media.reader import read_clip
from phenaki.media.view import ClipView
from phenaki.tokenizers import CViViT, QuantizerConfig
from phenaki.worlds.shapes import ShapesWorld

FIXED = ClipView(5, 8, (32, 32), random=False)


def config(place: Path | str, **settings: object) -> TokenizeConfig:
    return TokenizeConfig(SourceConfig(str(place)), frames=5, **settings)


def samples(out: Path) -> list[EncodedSample]:
    """What lies in the token shards, in their order."""
    found = [item for shard in sorted(out.glob("*.tar")) for item, _ in read_shard(str(shard))]
    assert all(isinstance(item, EncodedSample) for item in found)
    return found


def names(out: Path) -> list[str]:
    return [item.metadata["source"] for item in samples(out)]


def encoded(tokenizer: CViViT, folder: Path, view: ClipView = FIXED) -> np.ndarray:
    """The ids of the fixed clips of a folder's files, in their order."""
    files = sorted(folder.glob("*.mp4"))
    videos = [read_clip(file, ".mp4", view, np.random.default_rng(0)) for file in files]
    return tokenizer.encode(to_float(np.stack(videos))).numpy()


@pytest.mark.parametrize(("levels", "kind"), [((5, 5, 5), np.uint8), ((8, 8, 8), np.uint16)])
def test_the_ids_are_the_tokenizers_in_the_smallest_type(
    levels: tuple[int, ...], kind: type, tokenizer: CViViT, clips: Path, tmp_path: Path
) -> None:
    tokenizer = CViViT(replace(tokenizer.config, quantizer=QuantizerConfig(levels=levels))).eval()
    done = tokenize(config(clips), str(tmp_path), tokenizer)
    assert (done.written, done.bad, done.finished) == (7, 0, True)
    ids = np.stack([load(item.media)["ids"] for item in samples(tmp_path)])
    assert ids.dtype == kind
    assert np.array_equal(ids, encoded(tokenizer, clips))
    assert names(tmp_path) == [f"{number}.mp4" for number in range(7)]
    assert [item.captions for item in samples(tmp_path)][2] == ("texture 2 moves up up",)


def test_each_pass_shows_another_clip_of_each_sample(tokenizer: CViViT, clips: Path, tmp_path: Path) -> None:
    tokenize(config(clips, passes=3, batch=7), str(tmp_path), tokenizer)
    assert set(Counter(names(tmp_path)).values()) == {3}
    shown = [{load(item.media)["ids"].tobytes() for item in samples(tmp_path)[first::7]} for first in range(7)]
    assert sum(map(len, shown)) > 14  # of 21, as two random places may be the same


@pytest.mark.parametrize("passes", [1, 2])
def test_processes_share_the_samples_without_loss_or_double(
    passes: int, tokenizer: CViViT, clips: Path, tmp_path: Path
) -> None:
    written = [tokenize(config(clips, passes=passes), str(tmp_path), tokenizer, None, r, 2).written for r in range(2)]
    assert Counter(names(tmp_path)) == dict.fromkeys((f"{number}.mp4" for number in range(7)), passes)
    assert abs(written[0] - written[1]) <= 1


def test_more_processes_than_samples(tokenizer: CViViT, tmp_path: Path, clips: Path) -> None:
    one = tmp_path / "one"
    one.mkdir()
    for name in ("3.mp4", "3.txt"):
        (one / name).write_bytes((clips / name).read_bytes())
    written = [tokenize(config(one), str(tmp_path / "out"), tokenizer, None, r, 2).written for r in range(2)]
    assert written == [1, 0]


@pytest.mark.parametrize("stop_at", [2, 4, 6])
def test_stopped_and_taken_up_again_equals_uninterrupted(
    stop_at: int, tokenizer: CViViT, text_encoder: WordEncoder, clips: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(tokenizing, "_SHARD_SAMPLES", 4)
    asked = config(clips, passes=2, batch=2)

    def stop(written: int) -> None:
        if written == stop_at:
            raise KeyboardInterrupt

    whole, parts = tmp_path / "whole", tmp_path / "parts"
    tokenize(asked, str(whole), tokenizer, text_encoder)
    with pytest.raises(KeyboardInterrupt):
        tokenize(asked, str(parts), tokenizer, text_encoder, on_written=stop)
    assert len(samples(parts)) == (0 if stop_at < 6 else 4)
    done = tokenize(asked, str(parts), tokenizer, text_encoder)
    assert done == tokenize(asked, str(parts), tokenizer, text_encoder)  # there is nothing left to do
    assert tree(parts) == tree(whole)
    assert sum(name.endswith(".tar") for name in tree(whole)) == 4


def tree(out: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in out.iterdir()}


def test_written_twice_the_shards_are_equal_byte_by_byte(
    tokenizer: CViViT, text_encoder: WordEncoder, clips: Path, tmp_path: Path
) -> None:
    for out in ("once", "twice"):
        tokenize(config(clips, passes=3, flip=True, batch=3), str(tmp_path / out), tokenizer, text_encoder)
    assert tree(tmp_path / "once") == tree(tmp_path / "twice")


def test_the_next_clips_are_decoded_while_these_are_encoded(
    tokenizer: CViViT, clips: Path, tmp_path: Path, monkeypatch
) -> None:
    ahead, numbers = Semaphore(0), count()
    read, encode = FolderSource.sample, tokenizer.encode

    def sample(*given: Any) -> Sample | None:
        drawn = read(*given)
        if next(numbers) >= 2:  # behind the first group
            ahead.release()
        return drawn

    def encode_late(video: torch.Tensor) -> torch.Tensor:
        assert all(ahead.acquire(timeout=5) for _ in range(len(video)))
        return encode(video)

    monkeypatch.setattr(FolderSource, "sample", sample)
    monkeypatch.setattr(tokenizer, "encode", encode_late)
    assert tokenize(config(clips, batch=2, passes=2, samples=12), str(tmp_path), tokenizer).written == 12


def test_a_place_belongs_to_one_tokenizer_one_setting_and_one_process_count(
    tokenizer: CViViT, text_encoder: WordEncoder, clips: Path, tmp_path: Path
) -> None:
    tokenize(config(clips), str(tmp_path), tokenizer)
    before = tree(tmp_path)
    torch.manual_seed(9)
    other = CViViT(tokenizer.config)
    for asked, networks, processes, said in (
        (config(clips), (other,), 1, "another tokenizer, text encoder or template"),
        (config(clips), (tokenizer, text_encoder), 1, "another tokenizer, text encoder or template"),
        (replace(config(clips), frames=3), (tokenizer,), 1, "another source or setting"),
        (config(clips, passes=2), (tokenizer,), 1, "another source or setting"),
        (config(clips / "."), (tokenizer,), 2, "another process count"),
    ):
        for rank in (0, 1):  # of which only the first has written anything
            with pytest.raises(PhenakiError, match=f"was started with {said}: use the same"):
                tokenize(asked, str(tmp_path), *networks, rank=rank, world_size=processes)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("first", [0, 1])
def test_no_process_mixes_tokenizers_whichever_wrote_first(
    first: int, tokenizer: CViViT, clips: Path, tmp_path: Path
) -> None:
    torch.manual_seed(9)
    other = CViViT(tokenizer.config).eval()
    tokenize(config(clips), str(tmp_path), tokenizer, rank=first, world_size=2)
    made_by = token_set(str(tmp_path))
    with pytest.raises(PhenakiError, match="another tokenizer"):
        tokenize(config(clips), str(tmp_path), other, rank=1 - first, world_size=2)
    tokenize(config(clips), str(tmp_path), tokenizer, rank=1 - first, world_size=2)
    assert token_set(str(tmp_path)) == made_by
    assert len(set(names(tmp_path))) == len(samples(tmp_path)) == 7


def test_a_place_without_samples_is_not_yet_that_of_any_setting(
    tokenizer: CViViT, text_encoder: WordEncoder, clips: Path, tmp_path: Path
) -> None:
    folder, out = tmp_path / "folder", tmp_path / "out"
    folder.mkdir()
    (folder / "0.mp4").write_bytes((clips / "0.mp4").read_bytes())
    with pytest.raises(PhenakiError, match="it has no caption"):
        tokenize(config(folder), str(out), tokenizer)
    (folder / "0.txt").write_text("a texture")
    assert tokenize(config(folder), str(out), tokenizer, text_encoder).written == 1


def test_the_embeddings_are_the_text_encoders(
    tokenizer: CViViT, text_encoder: WordEncoder, clips: Path, tmp_path: Path
) -> None:
    tokenize(config(clips), str(tmp_path), tokenizer, text_encoder)
    found = samples(tmp_path)
    with torch.no_grad(), autocast(torch.device("cpu")):
        text = text_encoder.encode([item.captions[0] for item in found])
    for item, embeddings, mask in zip(found, text.embeddings, text.mask, strict=True):
        stored = load(item.media)["text"]
        assert stored.dtype == np.float16
        assert np.array_equal(stored, embeddings[mask].half().numpy())
    assert len(load(found[6].media)["text"]) == 9  # words
    assert token_set(str(tmp_path)).text_width == 64


def test_a_caption_for_each_use_is_drawn_where_none_is_embedded(
    tokenizer: CViViT, text_encoder: WordEncoder, clips: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "labelled"
    folder.mkdir()
    (folder / "0.mp4").write_bytes((clips / "0.mp4").read_bytes())
    (folder / "captions.jsonl").write_text(json.dumps({"path": "0.mp4", "label": "texture"}))
    templates = ("a video of {label}", "{label} that moves")
    asked = TokenizeConfig(SourceConfig(str(folder), templates=templates), frames=5, passes=8)
    tokenize(asked, str(tmp_path / "plain"), tokenizer)
    tokenize(asked, str(tmp_path / "embedded"), tokenizer, text_encoder)
    assert {item.captions for item in samples(tmp_path / "embedded")} == {
        ("a video of texture",),
        ("texture that moves",),
    }
    source = opened(tmp_path / "plain")
    drawn = {source.sample(samples(tmp_path / "plain")[0], FIXED, np.random.default_rng(n)).caption for n in range(9)}
    assert drawn == {"a video of texture", "texture that moves"}


def opened(out: Path) -> TokenSource:
    data = DataConfig((SourceConfig(str(out)),), size=32, lengths=(5,))
    source = open_source(data.sources[0], data, captions=True)
    assert isinstance(source, TokenSource)
    return source


def test_fewer_frames_are_the_first_ids(tokenizer: CViViT, clips: Path, tmp_path: Path) -> None:
    tokenize(config(clips), str(tmp_path), tokenizer)
    rng = np.random.default_rng(0)
    videos = to_float(np.stack([read_clip(file, ".mp4", FIXED, rng) for file in sorted(clips.glob("*.mp4"))]))
    for frames in (1, 3, 5):
        view = replace(FIXED, frames=frames)
        given = [opened(tmp_path).sample(item, view, rng).ids for item in samples(tmp_path)]
        assert given[0].dtype == np.int64
        assert np.array_equal(np.stack(given), tokenizer.encode(videos[:, :, :frames]).numpy())
    with pytest.raises(BadSample, match=r"ids of shape \(3, 4, 4\) .*; 4 latent frames of 4x4 ids below 125"):
        opened(tmp_path).sample(samples(tmp_path)[0], replace(FIXED, frames=7), rng)


BREAKS: dict[str, Callable[[np.ndarray], bytes]] = {
    "no safetensors": lambda ids: b"no safetensors",
    "without ids": lambda ids: save({"text": ids}),
    "foreign ids": lambda ids: save({"ids": ids + 125}),
    "another grid": lambda ids: save({"ids": ids[:, :2]}),
    "no grid": lambda ids: save({"ids": ids[0, 0]}),
    "ids below 0": lambda ids: save({"ids": ids.astype(np.int64) - 125}),
    "ids that are no integers": lambda ids: save({"ids": ids.astype(np.float32)}),
}


@pytest.mark.parametrize("broken", BREAKS)
def test_a_sample_that_holds_no_such_ids_is_bad(broken: str, tokenizer: CViViT, clips: Path, tmp_path: Path) -> None:
    tokenize(config(clips), str(tmp_path), tokenizer)
    item = samples(tmp_path)[0]
    item = item._replace(media=BREAKS[broken](load(item.media)["ids"]))
    with pytest.raises(BadSample, match=r"^tokens-000-000000.tar/000000001 \(0.mp4\): .*ids"):
        opened(tmp_path).sample(item, FIXED, np.random.default_rng(0))


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text[:, :-1].copy(),
        lambda text: text[0],
        lambda text: np.full_like(text, np.nan),
        lambda text: text.astype(np.int16),
    ],
    ids=["another width", "no length", "no number", "integers"],
)
def test_embeddings_that_are_none_of_the_set_are_bad(
    change: Callable[[np.ndarray], np.ndarray],
    tokenizer: CViViT,
    text_encoder: WordEncoder,
    clips: Path,
    tmp_path: Path,
) -> None:
    tokenize(config(clips), str(tmp_path), tokenizer, text_encoder)
    item = samples(tmp_path)[0]
    arrays = load(item.media)
    assert opened(tmp_path).sample(item, FIXED, np.random.default_rng(0)).text.shape[1:] == (64,)
    item = item._replace(media=save(arrays | {"text": change(arrays["text"])}))
    with pytest.raises(BadSample, match=r"000000001 \(0.mp4\): text embeddings of shape .* of width 64 are needed"):
        opened(tmp_path).sample(item, FIXED, np.random.default_rng(0))


# ---- wherever they lie


def of_an_epoch(place: str) -> list[str]:
    """The captions of what is found at a place of token shards, sorted."""
    data = DataConfig((SourceConfig(place),), size=32, lengths=(5,))
    source = open_source(data.sources[0], data, captions=True)
    assert isinstance(source, TokenSource)
    items = source.items(StreamConfig(shuffle=0, epochs=1), {})
    return sorted(source.sample(item, FIXED, np.random.default_rng(0)).caption for item, _ in items)


@pytest.fixture
def token_shards(tokenizer: CViViT, clips: Path, tmp_path: Path, monkeypatch) -> Path:
    """2 shards of one process and 2 of another, of 2 samples but for the last one."""
    monkeypatch.setattr(tokenizing, "_SHARD_SAMPLES", 2)
    monkeypatch.setattr(storage, "FIRST_WAIT", 0.001)
    for rank in range(2):
        tokenize(config(clips, batch=2), str(tmp_path / "tokens"), tokenizer, None, rank, 2)
    return tmp_path / "tokens"


ALL = ("", "/tokens-00{0,1}-{000000..000001}.tar")


def test_here_by_folder_braces_and_pattern(token_shards: Path, clips: Path, monkeypatch) -> None:
    said = sorted(file.read_text() for file in clips.glob("*.txt"))
    for name in (*ALL, "/*.tar"):
        assert of_an_epoch(f"{token_shards}{name}") == said
    assert len(of_an_epoch(f"{token_shards}/tokens-001-000000.tar")) == 2
    monkeypatch.chdir(token_shards)
    assert of_an_epoch("*.tar") == said


def test_on_a_web_server(token_shards: Path, clips: Path) -> None:
    pytest.importorskip("aiohttp", reason="aiohttp is not installed")
    said = sorted(file.read_text() for file in clips.glob("*.txt"))
    with serve_files(token_shards) as server:
        for name in ALL:
            assert of_an_epoch(f"{server.url}{name}") == said


def test_in_a_bucket(token_shards: Path, clips: Path) -> None:
    said = sorted(file.read_text() for file in clips.glob("*.txt"))
    with serve_s3():
        place = f"s3://{BUCKET}/tokens"
        for file in token_shards.iterdir():
            with open_atomic(join(place, file.name)) as copy:
                copy.write(file.read_bytes())
        for name in (*ALL, "/*.tar"):
            assert of_an_epoch(f"{place}{name}") == said


def test_shards_without_or_with_several_tokens_json_are_refused(token_shards: Path, tmp_path: Path) -> None:
    other = tmp_path / "others"
    other.mkdir()
    (other / "tokens-000-000000.tar").write_bytes((token_shards / "tokens-000-000000.tar").read_bytes())
    with pytest.raises(PhenakiError, match="names token shards without a tokens.json beside them"):
        token_set(f"{other}/*.tar")
    with pytest.raises(PhenakiError, match="names token shards in 2 folders"):
        token_set(f"{tmp_path}/*/*.tar")
    (token_shards / "tokens-000.json").unlink()
    (token_shards / "tokens-001.json").unlink()
    assert len(of_an_epoch(str(token_shards))) == 7  # what does not tell their number is listed
    with ShardWriter(str(tmp_path / "media")) as writer:
        writer.write("0", {"mp4": b"", "txt": b"a video"})
    assert token_set(f"{tmp_path}/media/*.tar") is None


def batches(place: Path, workers: int, **more: Any) -> Batches:
    data = DataConfig(
        (SourceConfig(str(place)),), size=32, lengths=(5,), batch=2, workers=workers, max_bad_fraction=0.5
    )
    return Batches(data, 2, **more)


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_made_ahead_are_those_that_come(workers: int, token_shards: Path) -> None:
    plain, ahead = batches(token_shards, workers), batches(token_shards, workers)
    for _ in range(5):
        before = ahead.state_dict()
        ahead.prefetch()
        ahead.prefetch()
        assert ahead.state_dict() == before
        given, expected = next(ahead), next(plain)
        assert given["captions"] == expected["captions"]
        assert torch.equal(given["ids"], expected["ids"]) and given["ids"].shape == (2, 3, 4, 4)
        assert ahead.state_dict() == plain.state_dict()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_caption_that_is_refused_is_a_bad_sample(workers: int, token_shards: Path) -> None:
    bad: list[str] = []
    given = batches(token_shards, workers, check_caption=_not_the_third, on_bad=bad.append)
    drawn = {caption for _ in range(6) for caption in next(given)["captions"]}
    assert drawn == {f"texture {number} moves" + " up" * number for number in (0, 1, 3, 4, 5, 6)}
    assert bad and all(line == "tokens-000-000000.tar/000000002 (2.mp4): 'texture 2' is refused" for line in bad)


def _not_the_third(caption: str) -> None:
    if caption.startswith("texture 2"):
        raise PhenakiError("'texture 2' is refused")


# ---- what is left out, and what is refused


def test_bad_samples_are_named_and_the_others_written(tokenizer: CViViT, clips: Path, tmp_path: Path) -> None:
    folder = tmp_path / "clips"
    folder.mkdir()
    for file in clips.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "2.mp4").write_bytes(b"no video")
    (folder / "4.txt").unlink()
    bad: list[str] = []
    done = tokenize(config(folder, max_bad_fraction=0.3), str(tmp_path / "out"), tokenizer, on_bad=bad.append)
    assert (done.written, done.bad, done.taken) == (5, 2, 7)
    assert [sentence.partition(": ")[0] for sentence in bad] == ["2.mp4", "4.mp4"]
    assert bad[1] == "4.mp4: it has no caption"
    assert left_out(tmp_path / "out") == bad
    assert names(tmp_path / "out") == [f"{number}.mp4" for number in (0, 1, 3, 5, 6)]


def left_out(out: Path) -> list[str]:
    return [line for file in sorted(out.glob("*.bad.txt")) for line in file.read_text().splitlines()]


@pytest.fixture
def half_bad(clips: Path, tmp_path: Path) -> Path:
    """14 files of which every second one is no video."""
    folder = tmp_path / "half"
    folder.mkdir()
    for file in clips.iterdir():
        (folder / f"{file.stem}a{file.suffix}").write_bytes(file.read_bytes())
        (folder / f"{file.stem}b{file.suffix}").write_bytes(b"no video")
    return folder


def test_a_bad_sample_is_named_once_beside_a_shard_also_after_a_stop(
    tokenizer: CViViT, half_bad: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(tokenizing, "_SHARD_SAMPLES", 2)
    asked = config(half_bad, batch=2, max_bad_fraction=1.0)

    def stop(written: int) -> None:
        if written == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tokenize(asked, str(tmp_path / "parts"), tokenizer, on_written=stop)
    assert len(left_out(tmp_path / "parts")) == 4
    for out in ("parts", "whole"):
        assert tokenize(asked, str(tmp_path / out), tokenizer).bad == 7
    assert tree(tmp_path / "parts") == tree(tmp_path / "whole")
    assert [sentence.partition(".")[0] for sentence in left_out(tmp_path / "whole")] == [f"{n}b" for n in range(7)]
    assert all(len(text.splitlines()) <= 3 for name, text in tree(tmp_path / "whole").items() if "bad" in name)
    assert "no video" not in (tmp_path / "whole/tokens-000.json").read_text()


def test_above_the_share_of_bad_samples_it_stops_and_goes_on_with_a_higher_one(
    tokenizer: CViViT, half_bad: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(tokenizing, "_SHARD_SAMPLES", 2)
    monkeypatch.setattr(sample_module, "_MIN_SAMPLES", 8)
    asked = config(half_bad, batch=2)
    for _ in range(2):
        with pytest.raises(
            PhenakiError, match=r"^4 of 8 samples .* more than --max-bad-fraction 0.1; the last one: 3b.mp4: "
        ):
            tokenize(asked, str(tmp_path / "out"), tokenizer)
        assert names(tmp_path / "out") == ["0a.mp4", "1a.mp4"]
    assert tokenize(replace(asked, max_bad_fraction=0.5), str(tmp_path / "out"), tokenizer).written == 7
    assert names(tmp_path / "out") == [f"{number}a.mp4" for number in range(7)]
    with pytest.raises(PhenakiError, match="max_bad_fraction 1.5 must be"):
        config(half_bad, max_bad_fraction=1.5)


def test_at_the_end_the_share_of_bad_samples_is_that_of_all_however_few(
    tokenizer: CViViT, half_bad: Path, tmp_path: Path
) -> None:
    out = str(tmp_path / "out")
    for _ in range(2):  # a second try does not pass it over either
        with pytest.raises(
            PhenakiError, match=r"^7 of 14 samples .* --max-bad-fraction 0.4; .* command with --max-bad-fraction=1$"
        ):
            tokenize(config(half_bad, max_bad_fraction=0.4), out, tokenizer)
    assert tokenize(config(half_bad, max_bad_fraction=0.5), out, tokenizer).finished


def test_still_pictures_are_counted_where_clips_are_wanted(tokenizer: CViViT, clips: Path, tmp_path: Path) -> None:
    folder, out = tmp_path / "folder", tmp_path / "out"
    folder.mkdir()
    for number in range(3):
        Image.new("RGB", (32, 32)).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text("a picture")
    with pytest.raises(PhenakiError, match=r"no usable sample: 3 still images. Clips of 5 frames .*\(--frames\)"):
        tokenize(config(folder), str(out), tokenizer)
    assert not out.exists()
    for name in ("3.mp4", "3.txt"):
        (folder / name).write_bytes((clips / name).read_bytes())
    done = tokenize(config(folder), str(out), tokenizer)
    assert (done.written, done.stills, done.bad, done.taken) == (1, 3, 0, 4)
    assert tokenize(replace(config(folder), frames=1), str(tmp_path / "pictures"), tokenizer).written == 4


def test_a_start_that_fails_says_frames_and_leaves_nothing(tokenizer: CViViT, clips: Path, tmp_path: Path) -> None:
    for frames, said in (
        (11, r"no usable sample: 6.mp4: 1.12 s .* Clips of 11 frames are needed \(--frames\)$"),
        (6, "^--frames 6: "),
    ):
        with pytest.raises(PhenakiError, match=said):
            tokenize(replace(config(clips), frames=frames), str(tmp_path / "out"), tokenizer)
    for out in (clips, clips / "tokens"):
        with pytest.raises(PhenakiError, match="lies within the source"):
            tokenize(config(clips), str(out), tokenizer)
    assert not (tmp_path / "out").exists() and not (clips / "tokens").exists()


def test_captions_that_the_text_encoder_cannot_read_are_named(tokenizer: CViViT, clips: Path, tmp_path: Path) -> None:
    short = WordEncoder(WordEncoderConfig(width=64, layers=1, max_words=5))
    bad: list[str] = []
    assert (
        tokenize(config(clips, max_bad_fraction=0.6), str(tmp_path), tokenizer, short, on_bad=bad.append).written == 3
    )
    assert bad[0].startswith("3.mp4: the prompt has 6 words and this model reads at most 5")


def test_no_usable_sample_is_an_error(tokenizer: CViViT, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "0.mp4").write_bytes(b"no video")
    (folder / "0.txt").write_text("a video")
    with pytest.raises(PhenakiError, match="has no usable sample: 0.mp4: it cannot be read"):
        tokenize(config(folder), str(tmp_path / "out"), tokenizer)


def test_the_world_has_no_end(tokenizer: CViViT, tmp_path: Path) -> None:
    with pytest.raises(PhenakiError, match="'shapes' is endless: set the number of samples"):
        tokenize(config("shapes"), str(tmp_path), tokenizer)
    written = [tokenize(config("shapes", samples=15), str(tmp_path), tokenizer, None, r, 2).written for r in range(2)]
    assert written == [8, 7]
    world = ShapesWorld(0, "train", 32, 5, None, continued=0.3)
    ids = tokenizer.encode(to_float(np.stack([world[index].video for index in range(0, 16, 2)]))).numpy()
    found = samples(tmp_path)
    assert np.array_equal(np.stack([load(item.media)["ids"] for item in found[:8]]), ids)
    order = [*range(0, 16, 2), *range(1, 15, 2)]
    assert [item.captions[0] for item in found] == [world[index].caption for index in order]
    continued = [opened(tmp_path).sample(item, FIXED, np.random.default_rng(0)).continued for item in found]
    assert continued == [world[index].continued for index in order]
    assert len(set(continued)) == 2


def test_impossible_requests_are_refused(tokenizer: CViViT, clips: Path, tmp_path: Path) -> None:
    tokenize(config(clips), str(tmp_path / "tokens"), tokenizer)
    with pytest.raises(PhenakiError, match="tokens' holds token shards, but clips are needed"):
        tokenize(config(tmp_path / "tokens"), str(tmp_path / "again"), tokenizer)
    with pytest.raises(PhenakiError, match="4 frames"):
        tokenize(replace(config(clips), frames=4), str(tmp_path / "again"), tokenizer)
    with pytest.raises(PhenakiError, match="--flip needs --passes 2"):
        config(clips, flip=True)
    with pytest.raises(PhenakiError, match="passes 0 must be at least 1"):
        config(clips, passes=0)
    assert not (tmp_path / "again").exists()


def test_the_tokenizers_size_and_rate_are_those_of_the_clips(tokenizer: CViViT, clips: Path, tmp_path: Path) -> None:
    small = replace(tokenizer.config, image_size=(16, 16), fps=4.0, quantizer=QuantizerConfig(levels=(5, 5)))
    torch.manual_seed(0)
    tokenizer = CViViT(small).eval()
    tokenize(replace(config(clips), frames=3), str(tmp_path), tokenizer)
    ids = np.stack([load(item.media)["ids"] for item in samples(tmp_path)])
    assert np.array_equal(ids, encoded(tokenizer, clips, ClipView(3, 4, (16, 16), random=False)))
