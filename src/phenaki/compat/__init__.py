"""Architectures of earlier reproductions, and the import of their checkpoints: docs/import.md.

Importing this package registers their types. `phenaki.pipeline` does so, for `phenaki.load` to take imported
components, and the command line calls the importers; nothing else imports it.
"""

from phenaki.compat.cvivit import PegCViViT, PegCViViTConfig
from phenaki.compat.maskgit import PegMaskGit, PegMaskGitConfig
from phenaki.core.registry import GENERATORS, TOKENIZERS

TOKENIZERS.register("peg_cvivit", PegCViViTConfig, PegCViViT)
GENERATORS.register("peg_maskgit", PegMaskGitConfig, PegMaskGit)

__all__ = ["PegCViViT", "PegCViViTConfig", "PegMaskGit", "PegMaskGitConfig"]
