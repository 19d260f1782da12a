"""Actions and captions that change stay with their frames: from a folder, packed, cut, tokenized, in batches."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load

from helpers import media_files
from phenaki.conditioning import WordEncoder
from phenaki.core.actions import ActionSpec
from phenaki.core.config import to_dict
from phenaki.core.errors import BadSample, PhenakiError
from phenaki.core.worlds import WORLDS
from phenaki.data.batch import Batch
from phenaki.data.config import DataConfig, SourceConfig
from phenaki.data.cuts import Cutting
from phenaki.data.eval_samples import eval_samples
from phenaki.data.inspecting import inspect_data
from phenaki.data.loader import Batches
from phenaki.data.opening import action_spec, open_source
from phenaki.data.packing import PackConfig, PackReport, pack
from phenaki.data.sample import EncodedSample
from phenaki.data.shards import ShardWriter, read_shard
from phenaki.data.sources import Sample, Source, StreamConfig
from phenaki.data.tokenizing import TokenizeConfig, tokenize
from phenaki.data.tokens import NO_END, Tokens
from phenaki.media.convert import to_float
from phenaki.media.reader import read_clip
from phenaki.media.view import ClipView
from phenaki.tokenizers import CViViT

SPEC = ActionSpec(("jump", "mouse", "throttle"), ("button", "relative", "level"))
RATE, FRAMES = media_files.RATE, 60  # of the recordings
CAPTIONS = [(0.0, "a red one"), (0.5, "a green one"), (1.4, "a blue one")]  # on the edges of frames


STAMPS = media_files.even(FRAMES)


def table(frames: int = FRAMES, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    rows = np.stack([rng.random(frames) < 0.3, rng.normal(size=frames), rng.random(frames)], axis=1)
    rows[0] = 0
    return rows.astype(np.float32)


def stored(captions: list[tuple[float, str]]) -> list[dict[str, Any]]:
    return [{"start": start, "text": text} for start, text in captions]


def record(folder: Path, count: int = 3, spec: ActionSpec | None = SPEC, **changes: Any) -> Path:
    """Recordings with actions and captions that change; frames show their own index."""
    folder.mkdir()
    for number in range(count):
        media = media_files.video(**{"stamps": STAMPS, "tick": Fraction(1, RATE), "size": (32, 32)} | changes)
        (folder / f"{number}.mp4").write_bytes(media + b"\0" * number)  # or they would be duplicates
        (folder / f"{number}.captions.json").write_text(json.dumps(stored(CAPTIONS)))
        if spec:
            np.save(folder / f"{number}.actions.npy", table(seed=number))
    if spec:
        (folder / "dataset.json").write_text(json.dumps({"actions": to_dict(spec), "world": "test"}))
    return folder


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.mktemp("data") / "recordings")


def config(*places: Path | str, **changes: Any) -> DataConfig:
    sources = tuple(SourceConfig(str(place)) for place in places)
    return replace(DataConfig(sources, size=32, fps=RATE, batch=2, lengths=(7,), workers=0, shuffle=4), **changes)


def opened(place: Path | str, **changes: Any) -> Source:
    data = config(place, **changes)
    return open_source(data.sources[0], data, captions=True, actions=True)


def items(source: Source) -> list[EncodedSample]:
    return [item for item, _ in source.items(StreamConfig(shuffle=0, epochs=1), {})]


def packed(*folders: Path, out: Path, **options: Any) -> PackReport:
    return pack(PackConfig(folders, str(out), validation=0, processes=1, **options), progress=False)


def view(frames: int = 7, fps: float = RATE, random: bool = True) -> ClipView:
    return ClipView(frames, fps, (32, 32), random)


def expected_actions(rows: np.ndarray, shown: list[int]) -> np.ndarray:
    """What happened between the frames that are shown."""
    actions = np.zeros((len(shown), 3))
    for row, (before, now) in enumerate(pairwise(shown), start=1):
        between = range(before + 1, now + 1)
        actions[row, 0] = max((rows[i, 0] for i in between), default=0)
        actions[row, 1] = sum(rows[i, 1] for i in between)
        actions[row, 2] = np.mean([rows[i, 2] for i in between]) if between else rows[now, 2]
    return actions


def expected_captions(shown: list[int], captions: list[tuple[float, str]] = CAPTIONS) -> list[str]:
    """Of each frame."""
    return [[text for start, text in captions if round(start * RATE) <= frame][-1] for frame in shown]


def captions_of(sample: Sample | Tokens, frames: int) -> list[str]:
    """Of each frame."""
    timed = sample.timed_captions or ((0, sample.caption),)
    assert timed[0] == (0, sample.caption)
    return [[text for start, text in timed if start <= frame][-1] for frame in range(frames)]


def check(sample: Sample, rows: np.ndarray) -> list[int]:
    """The frames that a sample shows, whose actions and captions it has."""
    shown = media_files.index_of(sample.video)
    assert sample.actions.dtype == np.float32
    assert sample.actions == pytest.approx(expected_actions(rows, shown), abs=1e-5)
    assert captions_of(sample, len(shown)) == expected_captions(shown)
    return shown


# reading


@pytest.mark.parametrize("fps", [30, 15, 11, 60])
def test_a_clip_from_any_place_has_the_actions_and_captions_of_its_frames(fps: float, recordings: Path) -> None:
    source, rng = opened(recordings), np.random.default_rng(0)
    firsts = set()
    for item, seed in zip(items(source), range(3), strict=True):
        for _ in range(10):
            shown = check(source.sample(item, view(7, fps), rng), table(seed=seed))
            firsts.add(shown[0])
    assert len(firsts) > 5


MS = Fraction(1, 1000)
FORMS = {
    "irregular": {"stamps": [stamp + 0.03 * (i % 3 == 1) for i, stamp in enumerate(STAMPS)], "tick": MS},
    "late": {"stamps": [2 + stamp for stamp in STAMPS], "form": "matroska", "tick": MS},
    "reordered": {"options": {"bf": "3"}},
}


@pytest.mark.parametrize("form", FORMS)
def test_rows_are_found_by_time_stamps(form: str, tmp_path: Path) -> None:
    source = opened(record(tmp_path / "data", 1, **FORMS[form]))
    for seed in range(10):
        sample = source.sample(items(source)[0], view(9, 25), np.random.default_rng(seed))
        shown = media_files.index_of(sample.video)
        assert sample.actions == pytest.approx(expected_actions(table(), shown), abs=1e-5)


def test_captions_change_within_a_clip(recordings: Path) -> None:
    source = opened(recordings)
    sample = source.sample(items(source)[0], view(41, random=False), np.random.default_rng(0))
    assert sample.timed_captions == ((0, "a red one"), (5, "a green one"), (32, "a blue one"))  # from frame 10 on
    sample = source.sample(items(source)[0], view(5, random=False), np.random.default_rng(0))
    assert (sample.caption, sample.timed_captions) == ("a green one", ())


def test_nothing_is_read_that_is_not_asked_for(recordings: Path) -> None:
    data = config(recordings)
    source = open_source(data.sources[0], data, captions=False)
    sample = source.sample(items(source)[0], view(), np.random.default_rng(0))
    assert (sample.caption, sample.timed_captions, sample.actions, source.actions) == ("", (), None, None)


def test_pictures_and_single_frames_have_one_row_of_zeros(tmp_path: Path) -> None:
    folder = record(tmp_path / "data", 1)
    (folder / "still.png").write_bytes(media_files.picture(media_files.noise(0, (32, 32))))
    (folder / "still.txt").write_text("still")
    source = opened(folder)
    for item in items(source):
        assert not source.sample(item, view(1), np.random.default_rng(0)).actions.any()
    assert source.sample(items(source)[1], view(2), np.random.default_rng(0)) is None


def test_captions_that_change_may_stand_in_a_table(tmp_path: Path) -> None:
    folder = record(tmp_path / "data", 2)
    lines = [{"video": "0.mp4", "caption": stored([(0, "one"), (0.5, "two")])}, {"video": "1.mp4", "caption": "three"}]
    (folder / "captions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    first, second = items(opened(folder))
    assert first.timed_captions == ((0, "one"), (0.5, "two")) and not first.captions
    assert second.captions == ("three",) and not second.timed_captions


# packing


def test_packed_as_they_are_samples_stay_the_same(recordings: Path, tmp_path: Path) -> None:
    packed(recordings, out=tmp_path)
    plain, shards = opened(recordings), opened(tmp_path)
    by_source = {item.metadata["source"]: item for item in items(shards)}
    for item in items(plain):
        one, two = (
            source.sample(of, view(41), np.random.default_rng(1))
            for source, of in ((plain, item), (shards, by_source[item.key]))
        )
        assert np.array_equal(one.video, two.video) and np.array_equal(one.actions, two.actions)
        assert one.timed_captions == two.timed_captions != ()
    assert action_spec(config(tmp_path)) == action_spec(config(tmp_path / "train")) == SPEC
    assert action_spec(config(f"{tmp_path}/train/*.tar")) == SPEC


@pytest.mark.parametrize("cutting", [Cutting(seconds=0.5), Cutting(fps=10), Cutting(fps=10, seconds=0.6)])
def test_cut_and_resampled_clips_keep_their_actions_and_captions(
    cutting: Cutting, recordings: Path, tmp_path: Path
) -> None:
    packed(recordings, out=tmp_path, cutting=cutting)
    source = opened(tmp_path)
    firsts = []
    for item in items(source):
        fps, frames = item.metadata["fps"], item.metadata["frames"]
        sample = source.sample(item, view(frames, fps, random=False), np.random.default_rng(0))
        firsts.append(check(sample, table(seed=int(item.metadata["source"][0])))[0])
    assert len(firsts) == 3 * (round(2 / cutting.seconds) if cutting.seconds else 1)


def test_a_caption_that_holds_all_along_is_a_plain_one(recordings: Path, tmp_path: Path) -> None:
    packed(recordings, out=tmp_path, cutting=Cutting(seconds=0.5))
    found = {(item.metadata["start"], item.captions, len(item.timed_captions)) for item in items(opened(tmp_path))}
    assert found == {(0.0, ("a red one",), 0), (0.5, ("a green one",), 0), (1.0, (), 2), (1.5, ("a blue one",), 0)}


def test_tables_of_buttons_stay_small(tmp_path: Path) -> None:
    spec = ActionSpec(("a", "b", "c"), ("button",) * 3)
    folder = record(tmp_path / "data", 1, spec)
    np.save(folder / "0.actions.npy", table() != 0)
    packed(folder, out=tmp_path / "out", cutting=Cutting(fps=10))
    (item,) = (item for item, _ in read_shard(str(tmp_path / "out/train/shard-000000.tar"), actions=True))
    assert len(item.actions) < 300  # a header of 128 bytes and 20 rows of 3 bytes


def test_packing_does_not_resume_over_changed_actions(recordings: Path, tmp_path: Path) -> None:
    folder = record(tmp_path / "data", 2)
    packed(folder, out=tmp_path / "out")
    np.save(folder / "0.actions.npy", np.zeros((FRAMES, 3), np.uint8))
    with pytest.raises(PhenakiError, match="sources have changed"):
        packed(folder, out=tmp_path / "out")


# tokens


@pytest.fixture
def clocked(tokenizer: CViViT) -> CViViT:
    """A tokenizer of the recordings' rate, for latent frames of 2."""
    return CViViT(replace(tokenizer.config, fps=RATE)).eval()


def tokens(out: Path) -> list[EncodedSample]:
    return [item for shard in sorted(out.glob("*.tar")) for item, _ in read_shard(str(shard))]


def test_clips_of_tokens_have_the_actions_and_captions_of_their_frames(
    clocked: CViViT, recordings: Path, tmp_path: Path
) -> None:
    tokenize(TokenizeConfig(SourceConfig(str(recordings)), frames=41, passes=2), str(tmp_path), clocked)
    plain = open_source(SourceConfig(str(recordings)), config(recordings), captions=True, actions=True)
    source = opened(tmp_path, lengths=(41,))
    assert source.actions == SPEC
    for number, item in enumerate(items(source)):
        sample = source.sample(item, view(41), np.random.default_rng(0))
        rng = np.random.default_rng([0, 0, number])
        original = plain.sample(items(plain)[number % 3], view(41), rng)
        assert np.array_equal(sample.actions, original.actions) and sample.actions.any()
        assert captions_of(sample, 41) == captions_of(original, 41)
        assert sample.start is None


def test_windows_of_recordings_begin_at_any_latent_frame(clocked: CViViT, recordings: Path, tmp_path: Path) -> None:
    tokenize(TokenizeConfig(SourceConfig(str(recordings)), frames=0), str(tmp_path), clocked)
    source, rng = opened(tmp_path), np.random.default_rng(0)
    starts = []
    for number, item in enumerate(items(source)):
        every = read_clip(recordings / f"{number}.mp4", ".mp4", view(59, random=False), rng)
        shown = media_files.index_of(every)
        ids = clocked.encode(to_float(every[None]))[0].numpy()
        assert load(item.media)["ids"].shape == (30, 4, 4)
        for _ in range(100):
            sample = source.sample(item, view(7), rng)
            starts.append(sample.start)
            first = 2 * sample.start
            assert np.array_equal(sample.ids, ids[sample.start : sample.start + 4])
            expected = expected_actions(table(seed=number), shown[first : first + 7])
            assert sample.actions == pytest.approx(expected, abs=1e-5)
            assert captions_of(sample, 7) == expected_captions(shown[first : first + 7])
        assert source.sample(item, view(7, random=False), rng).start == 0
    assert set(starts) == set(range(27))
    assert 0.05 < starts.count(0) / len(starts) < 0.3


def test_long_recordings_are_encoded_as_one_stream(clocked: CViViT, tmp_path: Path, monkeypatch) -> None:
    folder = record(tmp_path / "data", 1, None)
    tokenize(TokenizeConfig(SourceConfig(str(folder)), frames=0), str(tmp_path / "once"), clocked)
    monkeypatch.setattr("phenaki.data.tokenizing._CHUNK", 8)
    tokenize(TokenizeConfig(SourceConfig(str(folder)), frames=0), str(tmp_path / "parts"), clocked)
    once, parts = (load(tokens(tmp_path / name)[0].media)["ids"] for name in ("once", "parts"))
    assert np.array_equal(once, parts)


@pytest.mark.parametrize("frames", [41, 0])
def test_embeddings_of_captions_that_change_know_their_latent_frames(
    frames: int, clocked: CViViT, text_encoder: WordEncoder, recordings: Path, tmp_path: Path
) -> None:
    tokenize(TokenizeConfig(SourceConfig(str(recordings)), frames=frames), str(tmp_path), clocked, text_encoder)
    source, rng = opened(tmp_path, lengths=(41,)), np.random.default_rng(0)
    texts = {}
    for _, caption in CAPTIONS:
        text = text_encoder(text_encoder.tokenize([caption]))
        texts[caption] = text.embeddings[text.mask].half().detach().numpy()
    for item in items(source):
        sample = source.sample(item, view(41), rng)
        timed = sample.timed_captions or ((0, sample.caption),)
        firsts = [-(-frame // 2) for frame, _ in timed]
        expected = [
            (begin, end) for (_, text), begin, end in zip(timed, firsts, [*firsts[1:], NO_END], strict=True)
            for _ in texts[text]
        ]  # fmt: skip
        assert sample.text_frames.tolist() == list(map(list, expected))
        assert sample.text == pytest.approx(np.concatenate([texts[text] for _, text in timed]), abs=1e-2)
    batch = next(Batches(config(tmp_path, lengths=(41,)), 2))
    assert batch["text_frames"].shape == (*batch["text"].shape[:2], 2)


# batches


def take(batches: Batches, count: int) -> list[Batch]:
    return [next(batches) for _ in range(count)]


def same(one: Batch, two: Batch) -> bool:
    return one.keys() == two.keys() and all(
        torch.equal(value, two[name]) if isinstance(value, torch.Tensor) else value == two[name]
        for name, value in one.items()
    )


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", ["folder", "packed", "tokens"])
def test_batches_have_actions_and_resume_exactly(
    kind: str, workers: int, clocked: CViViT, recordings: Path, tmp_path: Path
) -> None:
    place = recordings
    if kind == "packed":
        place = tmp_path / "packed"
        packed(recordings, out=place)
    if kind == "tokens":
        place = tmp_path / "tokens"
        tokenize(TokenizeConfig(SourceConfig(str(recordings)), frames=0), str(place), clocked)
    data = config(place, lengths=(41,), workers=workers)
    batches = Batches(data, 2, actions=True)
    assert batches.actions == SPEC == action_spec(data)
    before = take(batches, 3)
    state = json.loads(json.dumps(batches.state_dict()))
    after = take(batches, 4)
    resumed = Batches(data, 2, actions=True)
    resumed.load_state_dict(state)
    assert all(map(same, take(resumed, 4), after))
    for batch in before + after:
        assert batch["actions"].shape == (2, 41, 3) and not batch["actions"][:, 0].any()
        assert ("start" in batch) == (kind == "tokens")
        for caption, timed in zip(batch["captions"], batch.get("timed_captions", []), strict=False):
            assert timed[0] == (0, caption)
    assert any("timed_captions" in batch for batch in before + after)


def test_sources_with_and_without_actions_are_mixed(recordings: Path, tmp_path: Path) -> None:
    bare = record(tmp_path / "bare", 2, None)
    batches = Batches(config(recordings, bare), 2, actions=True)
    assert batches.actions == SPEC
    assert {"actions" in batch for batch in take(batches, 12)} == {True, False}
    assert all("actions" not in batch for batch in take(Batches(config(recordings), 2), 2))


def test_actions_of_one_run_have_one_spec(recordings: Path, tmp_path: Path) -> None:
    other = record(tmp_path / "other", 1, replace(SPEC, names=("jump", "mouse", "brake")))
    sentence = r"throttle \(level\), and those of '.*other' jump \(button\), mouse \(relative\), brake \(level\)"
    with pytest.raises(PhenakiError, match=sentence):
        Batches(config(recordings, other), 2, actions=True)
    with pytest.raises(PhenakiError, match=sentence):
        action_spec(config(recordings, validation=str(other)))
    with pytest.raises(PhenakiError, match=sentence):
        packed(recordings, other, out=tmp_path / "out")
    bare = record(tmp_path / "bare", 1, None)
    with pytest.raises(PhenakiError, match="'.*bare' has no actions, and another source has jump"):
        packed(recordings, bare, out=tmp_path / "out")


def test_a_run_does_not_resume_with_other_actions(tmp_path: Path) -> None:
    folder = record(tmp_path / "data", 2)
    state = Batches(config(folder), 2, actions=True).state_dict()
    other = replace(SPEC, names=("jump", "mouse", "brake"))
    (folder / "dataset.json").write_text(json.dumps({"actions": to_dict(other)}))
    with pytest.raises(PhenakiError, match=r"have changed .* from jump .* throttle \(level\) to .* brake \(level\)"):
        Batches(config(folder), 2, actions=True).load_state_dict(state)


def test_clips_with_actions_are_not_mirrored(recordings: Path, clocked: CViViT, tmp_path: Path) -> None:
    with pytest.raises(PhenakiError, match="data.flip mirrors clips but not their actions"):
        Batches(config(recordings, flip=True), 2, actions=True)
    mirrored = TokenizeConfig(SourceConfig(str(recordings)), frames=5, passes=2, flip=True)
    with pytest.raises(PhenakiError, match="leave out --flip"):
        tokenize(mirrored, str(tmp_path), clocked)


def test_evaluation_samples_have_actions(recordings: Path) -> None:
    for sample in eval_samples(config(recordings), count=2, actions=True).samples:
        check(sample, table(seed=int(sample.metadata["name"][0])))
    assert eval_samples(config(recordings), count=1).samples[0].actions is None


@dataclass
class WorldClip:
    video: np.ndarray
    caption: str
    continued: bool
    actions: np.ndarray
    timed_captions: tuple[tuple[int, str], ...]


class ArrowWorld:
    actions = SPEC

    def __init__(self, options: Any, **_: Any) -> None: ...

    def sample(self, index: int, frames: int) -> WorldClip:
        video = np.full((frames, 32, 32, 3), index % 256, np.uint8)
        return WorldClip(video, "left", False, table(frames, index), ((0, "left"), (3, "right")))


def test_a_procedural_world_brings_actions(monkeypatch, clocked: CViViT, tmp_path: Path) -> None:
    monkeypatch.setitem(WORLDS, "arrows", ArrowWorld)
    assert action_spec(config("arrows")) == SPEC
    batch = next(Batches(config("arrows"), 2, actions=True))
    assert torch.equal(batch["actions"][1], torch.from_numpy(table(7, 1)))
    assert batch["timed_captions"] == [((0, "left"), (3, "right"))] * 2
    assert "actions" not in next(Batches(config("arrows"), 2))
    assert next(Batches(config("arrows", lengths=(1,)), 2, actions=True))["actions"].shape == (2, 1, 3)
    tokenize(TokenizeConfig(SourceConfig("arrows"), frames=7, samples=2), str(tmp_path), clocked)
    source = opened(tmp_path)
    sample = source.sample(items(source)[1], view(7), np.random.default_rng(0))
    assert np.array_equal(sample.actions, table(7, 1)) and sample.timed_captions == ((0, "left"), (3, "right"))
    with pytest.raises(PhenakiError, match="has no recordings"):
        tokenize(TokenizeConfig(SourceConfig("arrows"), frames=0, samples=2), str(tmp_path / "more"), clocked)


def test_inspection_tells_actions_and_captions_that_change(recordings: Path, tmp_path: Path) -> None:
    packed(recordings, out=tmp_path / "packed")
    means = np.abs(np.concatenate([table(seed=seed) for seed in range(3)])).mean(axis=0)
    for place in (recordings, tmp_path / "packed"):
        summary = inspect_data(str(place), tmp_path / "out", progress=False)
        assert list(summary.actions.values()) == pytest.approx(means, abs=1e-5)
        assert summary.captions_change == 3 and len(summary.caption_words) == 9
        assert any(line.startswith("actions       jump 0.") for line in summary.lines())
    np.save(recordings / "2.actions.npy", table()[:9])
    try:
        assert inspect_data(str(recordings), tmp_path / "out", progress=False).bad == [
            "2.mp4: its action table has 9 rows; one per frame is needed, 60"
        ]
    finally:
        np.save(recordings / "2.actions.npy", table(seed=2))


# bad input


def broken(rows: np.ndarray, row: int, value: float) -> np.ndarray:
    rows[row, 1] = value
    return rows


TABLES = {
    "short": (table(FRAMES - 1), "has 59 rows; one per frame is needed, 60"),
    "nan": (broken(table(), 9, np.nan), "has nan as 'mouse' in row 9"),
    "wide": (np.zeros((FRAMES, 4), np.float32), "has 4 columns; there are 3 actions: jump, mouse, throttle"),
    "missing": (None, r"it has no action table '0.actions.npy'"),
    "objects": (np.array([{}]), "its action table cannot be read: Object arrays"),
}


@pytest.mark.parametrize("name", TABLES)
def test_bad_action_tables_make_bad_samples(name: str, tmp_path: Path) -> None:
    rows, sentence = TABLES[name]
    folder = record(tmp_path / "data", 2)
    (folder / "0.actions.npy").unlink()
    if rows is not None:
        np.save(folder / "0.actions.npy", rows)
    source = opened(folder)
    with pytest.raises(BadSample, match=f"^0.mp4: .*{sentence}"):
        source.sample(items(source)[0], view(), np.random.default_rng(0))
    report = packed(folder, out=tmp_path / "out")
    assert sentence.replace("\\", "") in report.refused["0.mp4"] and report.train.samples == 1


CHANGES = {
    "falling": ([(0, "a"), (2, "b"), (1, "c")], "begin at 2 and then at 1 s: the seconds must rise"),
    "twice": ([(0, "a"), (1, "b"), (1, "c")], "begin at 1 and then at 1 s: the seconds must rise"),
    "late": ([(0.5, "a"), (2, "b")], "first caption begins at 0.5 s, not at 0"),
    "after": ([(0, "a"), (2, "b")], "a caption begins at 2 s, but the video ends at 2.00 s"),
    "empty": ([(0, "a"), (2, " ")], "its caption from 2 s on has no text"),
    "nan": ([(0, "a"), (float("nan"), "b")], "the seconds must rise"),
    "words": ([(0, "a"), ("1", "b")], r"need the form \[\{\"start\": seconds"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_bad_timed_captions_make_bad_samples(name: str, tmp_path: Path) -> None:
    captions, sentence = CHANGES[name]
    folder = record(tmp_path / "data", 2, None)
    (folder / "0.captions.json").write_text(json.dumps(stored(captions)))
    source = opened(folder)
    with pytest.raises(BadSample, match=f"^0.mp4: .*{sentence}"):
        source.sample(items(source)[0], view(), np.random.default_rng(0))
    report = packed(folder, out=tmp_path / "out")
    assert list(report.refused) == ["0.mp4"] and report.train.samples == 1


def test_captions_without_json_or_with_texts_between_are_bad(tmp_path: Path) -> None:
    folder = record(tmp_path / "data", 2, None)
    (folder / "0.captions.json").write_text("[{")
    (folder / "1.captions.json").write_text(json.dumps(["a", *stored([(1, "b")])]))
    first, second = items(opened(folder))
    assert isinstance(first, BadSample) and "'0.captions.json' is not valid JSON" in str(first)
    assert isinstance(second, BadSample) and 'the form [{"start": seconds, "text": "..."}, ...]' in str(second)


def test_tables_without_a_spec_are_refused(tmp_path: Path) -> None:
    folder = record(tmp_path / "data", 1)
    (folder / "dataset.json").unlink()
    sentence = r"has action tables \('0.actions.npy'\), but no dataset.json at its top"
    with pytest.raises(PhenakiError, match=sentence):
        opened(folder)
    with pytest.raises(PhenakiError, match=sentence):
        packed(folder, out=tmp_path / "out")
    assert open_source(SourceConfig(str(folder)), config(folder), captions=True).actions is None
    with ShardWriter(str(tmp_path / "shards")) as writer:
        table_bytes = (folder / "0.actions.npy").read_bytes()
        writer.write("0", {"mp4": (folder / "0.mp4").read_bytes(), "txt": b"a", "actions.npy": table_bytes})
    with pytest.raises(PhenakiError, match="an action table, but no dataset.json with the data says"):
        Batches(config(tmp_path / "shards"), 2, actions=True)
    assert next(Batches(config(tmp_path / "shards"), 2))["captions"] == ["a", "a"]
    (tmp_path / "shards" / "dataset.json").write_text(json.dumps({"actions": to_dict(SPEC)}))
    assert "actions" in next(Batches(config(tmp_path / "shards"), 2, actions=True))


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ({"names": ["a"], "kinds": ["wheel"]}, r"dataset.json': kinds\[0\] must be one of 'button', .* not 'wheel'"),
        ({"names": ["a", "b"], "kinds": ["button"]}, "2 names of actions and 1 kinds"),
        ({"names": ["a"]}, "The key 'kinds' of ActionSpec is missing"),
        ([{"name": "a", "kind": "button"}], "must be a mapping with keys of ActionSpec"),
    ],
)
def test_bad_specs_are_refused(spec: Any, sentence: str, tmp_path: Path) -> None:
    folder = record(tmp_path / "data", 1)
    (folder / "dataset.json").write_text(json.dumps({"actions": spec}))
    with pytest.raises(PhenakiError, match=sentence):
        opened(folder)


def test_recordings_are_tokenized_once_and_at_least_two_latent_frames_long(clocked: CViViT, tmp_path: Path) -> None:
    with pytest.raises(PhenakiError, match=r"whole recordings \(--frames 0\) are always the same"):
        TokenizeConfig(SourceConfig("x"), frames=0, passes=2)
    folder = record(tmp_path / "data", 1, None)
    (folder / "short.mp4").write_bytes(media_files.video(media_files.even(2)))
    (folder / "short.txt").write_text("short")
    (folder / "still.png").write_bytes(media_files.picture(media_files.noise(0, (32, 32))))
    place = SourceConfig(str(folder))
    done = tokenize(TokenizeConfig(place, frames=0, max_bad_fraction=0.5), str(tmp_path / "out"), clocked)
    assert (done.written, done.bad, done.stills) == (1, 1, 1)
    bad = (tmp_path / "out/tokens-000-000000.bad.txt").read_text()
    assert "short.mp4: 0.07 s of video; 3 frames at 30 fps need more than 0.07 s" in bad
