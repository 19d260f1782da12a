"""Which claims of a caption a video fulfils, by its pixels alone."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from phenaki.core.errors import PhenakiError
from phenaki.worlds.shapes.captions import Claims, ObjectClaims, parse_caption
from phenaki.worlds.shapes.describe import ObservedObject
from phenaki.worlds.shapes.observe import Observation, observe
from phenaki.worlds.shapes.recording import SPEED
from phenaki.worlds.shapes.segment import MAX_REGIONS
from phenaki.worlds.shapes.track import JUMP

_LARGEST = 19.0  # from the centre of the largest object to where the border stops it, with a pixel to spare


@dataclass(frozen=True)
class Finding:
    """One claim and what was found. `object`: index among the claimed objects, None for claims about the video.

    Kinds: shape, color, size, action, target_color, background; and, claimed of every video: objects (how many), steady
    (each of them one connected thing from frame to frame), rest (nothing else visible, a steady background).
    """

    object: int | None
    kind: str
    claimed: str
    found: str | None
    fulfilled: bool


@dataclass(frozen=True)
class Report:
    findings: tuple[Finding, ...]
    observation: Observation

    @property
    def fulfilled(self) -> bool:
        """Whether all claims are true."""
        return all(f.fulfilled for f in self.findings)

    def __str__(self) -> str:
        def line(f: Finding) -> str:
            whose = "video" if f.object is None else f"object {f.object}"
            return f"{'yes' if f.fulfilled else 'NO':4}{whose:9} {f.kind:13} claimed {f.claimed}, found {f.found}"

        return "\n".join(map(line, self.findings))


@dataclass(frozen=True)
class StoryReport:
    """A report for each scene, and whether the same objects (shape, and colour up to claimed changes) and the same
    background are seen in all of them."""

    scenes: tuple[Report, ...]
    same_objects: bool
    same_background: bool

    @property
    def fulfilled(self) -> bool:
        return all(r.fulfilled for r in self.scenes) and self.same_objects and self.same_background


def _compare(index: int, claimed: ObjectClaims, observed: ObservedObject | None) -> list[Finding]:
    findings = []
    for kind in ("shape", "color", "size", "action", "target_color"):
        wanted = getattr(claimed, kind)
        if wanted not in (None, "steered"):  # where keys move it, a caption claims no motion
            found = None if observed is None else getattr(observed, kind)
            findings.append(Finding(index, kind, wanted, found, found == wanted))
    steady = observed is not None and not observed.faults
    found = "yes" if steady else None if observed is None else "; ".join(observed.faults)
    return [*findings, Finding(index, "steady", "yes", found, steady)]


def _match(claims: Claims, observation: Observation) -> list[int | None]:
    """For each claimed object, the index of the observed one that fulfils most of its claims; each is used once."""
    wanted = len(claims.objects)
    indices: list[int | None] = [*range(len(observation.objects)), *[None] * max(0, wanted - len(observation.objects))]

    def score(order: tuple[int | None, ...]) -> int:
        pairs = zip(claims.objects, order, strict=True)
        found = [_compare(0, c, None if n is None else observation.objects[n]) for c, n in pairs]
        return sum(f.fulfilled for f in itertools.chain(*found))

    return list(max(itertools.permutations(indices[: wanted + MAX_REGIONS], wanted), key=score))


def verify(observation: Observation, claims: Claims) -> Report:
    """Compare what was observed with claims."""
    order = _match(claims, observation)
    wanted, found = len(claims.objects), len(observation.objects)
    findings = [Finding(None, "objects", str(wanted), str(found), found == wanted)]
    rest = "; ".join(observation.faults) or "nothing"
    findings.append(Finding(None, "rest", "nothing", rest, not observation.faults))
    if claims.background is not None:
        background = observation.background
        findings.append(Finding(None, "background", claims.background, background, background == claims.background))
    for index, (claimed, number) in enumerate(zip(claims.objects, order, strict=True)):
        findings += _compare(index, claimed, None if number is None else observation.objects[number])
    return Report(tuple(findings), observation)


def check(video: np.ndarray, claims: str | Claims) -> Report:
    """Compare a video, uint8 or float in 0..1, (T, H, W, 3), with a caption or its claims.

    Raises PhenakiError for a caption that cannot be parsed or an array that is not a video.
    """
    claims = parse_caption(claims) if isinstance(claims, str) else claims
    return verify(observe(video), claims)


def check_story(video: np.ndarray, captions: Sequence[str | Claims], frames: int | None = None) -> StoryReport:
    """Compare the scenes of a story with their captions or claims.

    `video` (1 + scenes * (frames - 1), H, W, 3): each scene begins with the last frame of the one before. `frames` per
    scene defaults to what the length of the video implies.
    """
    if not captions:
        raise PhenakiError("a story needs at least one caption")
    frames = (len(video) - 1) // len(captions) + 1 if frames is None else frames
    if len(video) != 1 + len(captions) * (frames - 1):
        raise PhenakiError(
            f"a story of {len(captions)} scenes of {frames} frames has 1 + scenes x (frames - 1) = "
            f"{1 + len(captions) * (frames - 1)} frames, not {len(video)}"
        )
    scenes = [parse_caption(text) if isinstance(text, str) else text for text in captions]
    starts = [k * (frames - 1) for k in range(len(scenes))]
    reports = [verify(observe(video[s : s + frames]), claims) for s, claims in zip(starts, scenes, strict=True)]
    backgrounds = {r.observation.background for r in reports}
    same_background = len(backgrounds) == 1 and None not in backgrounds
    return StoryReport(tuple(reports), _same_objects(reports, scenes), same_background)


def _same_objects(reports: list[Report], scenes: list[Claims]) -> bool:
    """Whether each object is found again in the next scene where it was left, with its shape and colour; one that had
    faded away may appear in another index."""
    for report, claims in zip(reports, scenes, strict=True):
        objects = report.observation.objects
        if len(objects) != len(claims.objects) or any(o.shape is None or o.color is None for o in objects):
            return False
        for claimed, number in zip(claims.objects, _match(claims, report.observation), strict=True):
            if objects[number].target_color is not None and claimed.action != "recolor":
                return False
    for before, after in itertools.pairwise(reports):
        left = list(before.observation.objects)
        for now in after.observation.objects:
            same = [
                o
                for o in left
                if o.shape == now.shape
                and (o.target_color or o.color) == now.color
                and (o.action == "fade" or math.dist(o.last, now.first) <= JUMP)
            ]
            if not same:
                return False
            left.remove(same[0])
        if left:
            return False
    return True


def obeyed(video: np.ndarray, key: str) -> bool | None:
    """Whether the one object in a short video (T, H, W, 3), of 5 frames or more, moves the way of an arrow key, by at
    least half of what it would; None if the border may have stopped it."""
    objects = observe(video).objects
    if len(objects) != 1:
        return False
    (x0, y0), (x1, y1) = objects[0].first, objects[0].last
    along, space, across = {
        "left": (x0 - x1, x0, y1 - y0),
        "right": (x1 - x0, 64 - x0, y1 - y0),
        "up": (y0 - y1, y0, x1 - x0),
        "down": (y1 - y0, 64 - y0, x1 - x0),
    }[key]
    way = SPEED * (len(video) - 1)
    if space < _LARGEST + way:
        return None
    return along >= way / 2 - 0.5 and abs(across) <= along / 2
