"""Which claims of a caption a video fulfils, judged from its pixels alone."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from phenaki.core.errors import PhenakiError
from phenaki.worlds.shapes.captions import Claims, ObjectClaims, parse_caption
from phenaki.worlds.shapes.sight import JUMP, MOST, Seen, SeenObject, look


@dataclass(frozen=True)
class Finding:
    """One claim and what was found. `object` is the place in the claims' order, None for claims on the whole video.

    Kinds: shape, color, size, action, target_color, background; and, claimed of every video: objects (how many), steady
    (each of them one connected thing from frame to frame), rest (nothing else to be seen, a steady background).
    """

    object: int | None
    kind: str
    claimed: str
    found: str | None
    fulfilled: bool


@dataclass(frozen=True)
class Report:
    findings: tuple[Finding, ...]
    seen: Seen

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


def _compare(place: int, claimed: ObjectClaims, seen: SeenObject | None) -> list[Finding]:
    findings = []
    for kind in ("shape", "color", "size", "action", "target_color"):
        wanted = getattr(claimed, kind)
        if wanted is not None:
            found = None if seen is None else getattr(seen, kind)
            findings.append(Finding(place, kind, wanted, found, found == wanted))
    steady = seen is not None and not seen.faults
    found = "yes" if steady else None if seen is None else "; ".join(seen.faults)
    return [*findings, Finding(place, "steady", "yes", found, steady)]


def _match(claims: Claims, seen: Seen) -> list[int | None]:
    """For each claimed object the number of the seen one that fulfils most of what is said of it, each used once."""
    wanted = len(claims.objects)
    numbers: list[int | None] = [*range(len(seen.objects)), *[None] * max(0, wanted - len(seen.objects))]

    def score(order: tuple[int | None, ...]) -> int:
        pairs = zip(claims.objects, order, strict=True)
        found = [_compare(0, c, None if n is None else seen.objects[n]) for c, n in pairs]
        return sum(f.fulfilled for f in itertools.chain(*found))

    return list(max(itertools.permutations(numbers[: wanted + MOST], wanted), key=score))


def judge(seen: Seen, claims: Claims) -> Report:
    """Hold what was seen against claims."""
    order = _match(claims, seen)
    wanted, found = len(claims.objects), len(seen.objects)
    findings = [Finding(None, "objects", str(wanted), str(found), found == wanted)]
    rest = "; ".join(seen.faults) or "nothing"
    findings.append(Finding(None, "rest", "nothing", rest, not seen.faults))
    if claims.background is not None:
        background = seen.background
        findings.append(Finding(None, "background", claims.background, background, background == claims.background))
    for place, (claimed, number) in enumerate(zip(claims.objects, order, strict=True)):
        findings += _compare(place, claimed, None if number is None else seen.objects[number])
    return Report(tuple(findings), seen)


def check(video: np.ndarray, claims: str | Claims) -> Report:
    """Hold a video, uint8 or float in 0..1, (T, H, W, 3), against a caption or its claims.

    PhenakiError for a caption that cannot be read, or an array that is no video.
    """
    claims = parse_caption(claims) if isinstance(claims, str) else claims
    return judge(look(video), claims)


def check_story(video: np.ndarray, captions: Sequence[str | Claims], frames: int | None = None) -> StoryReport:
    """Hold the scenes of a story against their captions or claims.

    `video` (1 + scenes * (frames - 1), H, W, 3): each scene begins with the frame that ends the one before. `frames` of
    a scene follows from the video's length where it is not given.
    """
    if not captions:
        raise PhenakiError("a story has at least one caption")
    frames = (len(video) - 1) // len(captions) + 1 if frames is None else frames
    if len(video) != 1 + len(captions) * (frames - 1):
        raise PhenakiError(
            f"a video of {len(video)} frames is no story of {len(captions)} scenes of {frames} frames: "
            f"that takes 1 + scenes x (frames - 1) = {1 + len(captions) * (frames - 1)}"
        )
    scenes = [parse_caption(text) if isinstance(text, str) else text for text in captions]
    starts = [k * (frames - 1) for k in range(len(scenes))]
    reports = [judge(look(video[s : s + frames]), claims) for s, claims in zip(starts, scenes, strict=True)]
    backgrounds = {r.seen.background for r in reports}
    same_background = len(backgrounds) == 1 and None not in backgrounds
    return StoryReport(tuple(reports), _same_objects(reports, scenes), same_background)


def _same_objects(reports: list[Report], scenes: list[Claims]) -> bool:
    """Whether each object is found again in the next scene where it was left, with its shape and colour; one that had
    faded away may appear in another place."""
    for report, claims in zip(reports, scenes, strict=True):
        objects = report.seen.objects
        if len(objects) != len(claims.objects) or any(o.shape is None or o.color is None for o in objects):
            return False
        for claimed, number in zip(claims.objects, _match(claims, report.seen), strict=True):
            if objects[number].target_color is not None and claimed.action != "recolor":
                return False
    for before, after in itertools.pairwise(reports):
        left = list(before.seen.objects)
        for now in after.seen.objects:
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
