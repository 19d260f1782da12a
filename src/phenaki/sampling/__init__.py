"""Sampling: parallel decoding over a callable, guidance, stories and edits."""

from phenaki.sampling.decoding import SamplingConfig, decode
from phenaki.sampling.editing import inpaint, interpolate
from phenaki.sampling.guidance import guided, steered
from phenaki.sampling.rollout import Scene, Storyteller, plan, story

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
