"""The world of shapes, on which the recipes train unless other data are named (`--data`)."""

from phenaki.data.config import SourceConfig

SHAPES = (SourceConfig("shapes"),)
RECORDINGS = (SourceConfig("shapes", options={"recordings": True, "control": 0.3}),)
"""Long clips in which captions switch, with keys that steer an object."""
