"""The procedural world: endless captioned clips of moving shapes, their truth, and a checker that sees pixels only.

To be read in this order: scene, render, captions, world; sight (what is seen in pixels), checker (is it as claimed).
"""

from __future__ import annotations

from phenaki.core.worlds import WORLDS
from phenaki.worlds.shapes.captions import Claims, ObjectClaims, caption, parse_caption, true_claims
from phenaki.worlds.shapes.checker import Finding, Report, StoryReport, check, check_story, judge
from phenaki.worlds.shapes.dataset import ShapesDataset
from phenaki.worlds.shapes.render import render
from phenaki.worlds.shapes.scene import (
    ACTIONS,
    BACKGROUNDS,
    COLORS,
    HELD_OUT_PAIRS,
    MOVES,
    SHAPES,
    SIZES,
    SPLITS,
    Scene,
    SceneObject,
    has_held_out_pair,
    next_scene,
    sample_scene,
)
from phenaki.worlds.shapes.sight import Seen, SeenObject, look
from phenaki.worlds.shapes.world import ShapesSample, ShapesWorld, Story

WORLDS["shapes"] = ShapesDataset

__all__ = [
    "ACTIONS",
    "BACKGROUNDS",
    "COLORS",
    "HELD_OUT_PAIRS",
    "MOVES",
    "SHAPES",
    "SIZES",
    "SPLITS",
    "Claims",
    "Finding",
    "ObjectClaims",
    "Report",
    "Scene",
    "SceneObject",
    "Seen",
    "SeenObject",
    "ShapesDataset",
    "ShapesSample",
    "ShapesWorld",
    "Story",
    "StoryReport",
    "caption",
    "check",
    "check_story",
    "has_held_out_pair",
    "judge",
    "look",
    "next_scene",
    "parse_caption",
    "render",
    "sample_scene",
    "true_claims",
]
