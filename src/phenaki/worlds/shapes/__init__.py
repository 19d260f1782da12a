"""The world of shapes: endless captioned clips of moving shapes, their truth, and a checker that sees only pixels.

Read in this order: scene, render, captions, world; observe (what a video shows), checker (whether it is as claimed).
"""

from __future__ import annotations

from phenaki.core.worlds import WORLDS
from phenaki.worlds.shapes.captions import Claims, ObjectClaims, caption, parse_caption, true_claims
from phenaki.worlds.shapes.checker import Report, check, check_story, verify
from phenaki.worlds.shapes.dataset import ShapesDataset
from phenaki.worlds.shapes.observe import observe
from phenaki.worlds.shapes.render import render
from phenaki.worlds.shapes.scene import (
    ACTIONS,
    BACKGROUNDS,
    COLORS,
    HELD_OUT_PAIRS,
    SHAPES,
    SIZES,
    SPLITS,
    Scene,
    SceneObject,
    has_held_out_pair,
    next_scene,
)
from phenaki.worlds.shapes.world import ShapesSample, ShapesWorld

WORLDS["shapes"] = ShapesDataset
