"""The command line: `phenaki generate | extend | interpolate | inpaint | play | demo | models | info | push | data |
train | evaluate | compare | reconstruct | import | runs | recipes | plan | weights |
doctor`.

Nothing here imports torch before a command runs, so that help and usage errors are instant.
"""

from phenaki.cli import (  # noqa: F401  each registers its commands
    data,
    doctor,
    edit,
    evaluate,
    generate,
    imports,
    info,
    plan,
    play,
    push,
    recipes,
    reconstruct,
    runs,
    train,
    weights,
)
from phenaki.cli.app import app, main

__all__ = ["app", "main"]
