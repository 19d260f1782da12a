"""Sampling: parallel decoding over a callable, guidance, stories and edits."""

from phenaki.sample.decode import SamplingConfig, decode
from phenaki.sample.edit import inpaint, interpolate
from phenaki.sample.guidance import guided, steered
from phenaki.sample.story import Scene, Storyteller, plan, story

__all__ = [
    "SamplingConfig",
    "Scene",
    "Storyteller",
    "decode",
    "guided",
    "inpaint",
    "interpolate",
    "plan",
    "steered",
    "story",
]
