"""Architectures of the earlier reproductions, and how their checkpoints become components: docs/import.md.

Nothing else knows them: `phenaki.core.hub` finds their types here when it loads a component.
"""

from phenaki.compat.cvivit import PegCViViT, PegCViViTConfig
from phenaki.compat.maskgit import PegMaskGit, PegMaskGitConfig

REGISTRY = {
    "tokenizer": {"peg_cvivit": (PegCViViTConfig, PegCViViT)},
    "generator": {"peg_maskgit": (PegMaskGitConfig, PegMaskGit)},
}

__all__ = ["REGISTRY", "PegCViViT", "PegCViViTConfig", "PegMaskGit", "PegMaskGitConfig"]
