"""The world of shapes, on which the recipes train unless other data are named (`--data`)."""

from phenaki.data.config import SourceConfig

SHAPES = (SourceConfig("shapes"),)
