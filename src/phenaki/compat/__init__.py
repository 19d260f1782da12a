"""Architectures of the earlier reproductions, and how their checkpoints become components: docs/import.md.

Importing this package registers their types. `phenaki.pipeline`, which puts models together, does that, so that
`phenaki.load` takes imported components; the command line calls the importers. Nothing else imports it.
"""

from phenaki.compat.cvivit import PegCViViT, PegCViViTConfig
from phenaki.compat.maskgit import PegMaskGit, PegMaskGitConfig
from phenaki.core.registry import GENERATORS, TOKENIZERS

TOKENIZERS.register("peg_cvivit", PegCViViTConfig, PegCViViT)
GENERATORS.register("peg_maskgit", PegMaskGitConfig, PegMaskGit)

__all__ = ["PegCViViT", "PegCViViTConfig", "PegMaskGit", "PegMaskGitConfig"]
