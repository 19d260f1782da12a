"""The command line: `phenaki generate | extend | interpolate | inpaint | demo | models | data | train | evaluate |
compare | reconstruct | import`.

Nothing here imports torch before a command runs, so that help and usage errors come at once.
"""

from phenaki.cli import data, edit, evaluate, generate, imports, reconstruct, train  # noqa: F401  each adds its commands
from phenaki.cli.app import app, main

__all__ = ["app", "main"]
