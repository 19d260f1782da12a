"""A few broken inputs of every surface, and properties of what people may type; `make fuzz` runs 10,000."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzz.__main__ import SURFACES, run
from fuzz.guard import judge
from fuzz.misbehaviour import SOUND
from fuzz.mutate import ODD, mutate_json
from fuzz.surface import Surface
from phenaki.cli.story import read_story
from phenaki.core.config import from_dict, override, to_dict
from phenaki.core.errors import PhenakiError
from phenaki.core.files import parse_json
from phenaki.sampling import SamplingConfig

QUICK = {"commands": 4, "media": 20, "shards": 20, "datasets": 10, "models": 10, "arguments": 25}  # others: 15
FEW = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path.resolve()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", SURFACES, ids=lambda kind: kind.name)
def test_no_broken_input_breaks_the_rule(kind: type[Surface], folder: Path) -> None:
    ended = run(kind(folder), seed=1, first=0, count=QUICK.get(kind.name, 15))
    assert {verdict.kind for _, verdict in ended} >= {"sentence"} or kind.name in ("checkpoints", "media")
    assert not [f"{case}\n{verdict.text}" for case, verdict in ended if verdict.kind == "fault"]


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (lambda path: 1 / 0, "ZeroDivisionError"),
        (lambda path: __import__("time").sleep(5), "took more than"),
        (lambda path: open("/tmp/phenaki-elsewhere", "w"), "outside of"),
        (lambda path: __import__("os").system("true"), "os.system"),
        (lambda path: (path / ".phenaki-1.tmp").touch(), "it left"),
    ],
)
def test_the_guard_sees_what_breaks_the_rule(broken: Any, said: str, folder: Path) -> None:
    verdict = judge(lambda: broken(folder), folder, seconds=0.5)
    assert verdict.kind == "fault" and said in verdict.text


def test_a_mutation_depends_on_its_generator_alone() -> None:
    """The odd values stay as they are, and no mutation is so large that writing it takes long."""
    before = repr(ODD)
    for seed in range(12_500):
        rng = Random(seed)
        assert len(repr(mutate_json(rng.choice(SOUND), rng))) < 1_000_000
    assert repr(ODD) == before


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@FEW
@given(st.dictionaries(st.sampled_from(["decoding", "guidance", "rollout", "x"]), PLAIN))
def test_a_configuration_is_right_or_refused(values: dict[str, Any]) -> None:
    try:
        config = from_dict(SamplingConfig, values)
    except PhenakiError:
        return
    assert from_dict(SamplingConfig, to_dict(config)) == config


@FEW
@given(st.sampled_from(["decoding.steps", "guidance", "rollout.prime_frames", ""]), st.text())
def test_an_override_is_right_or_refused(key: str, value: str) -> None:
    try:
        config = override(SamplingConfig(), [f"{key}={value}"])
    except PhenakiError:
        return
    assert from_dict(SamplingConfig, to_dict(config)) == config


@FEW
@given(st.binary(max_size=60))
def test_a_story_and_json_are_read_or_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "story.txt").write_bytes(data)
    for read in (lambda: list(read_story(tmp_path / "story.txt")), lambda: parse_json(data, "here")):
        try:
            read()
        except PhenakiError:
            continue
