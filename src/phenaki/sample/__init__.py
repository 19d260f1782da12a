"""Sampling: parallel decoding over a callable, guidance, and stories."""

from phenaki.sample.decode import SamplingConfig, decode
from phenaki.sample.guidance import guided
from phenaki.sample.story import Scene, plan, story

__all__ = ["SamplingConfig", "Scene", "decode", "guided", "plan", "story"]
