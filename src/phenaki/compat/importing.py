"""Import of checkpoints of phenaki-pytorch and of Obvious Research's C-ViViT as components: docs/import.md."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor, nn

from phenaki.compat.arguments import CViViTArguments, MaskGitArguments, cvivit_config, maskgit_config, read_arguments
from phenaki.compat.checkpoint import NetworkState, find_network, unwrap_names
from phenaki.compat.cvivit import PegCViViT
from phenaki.compat.maskgit import PegMaskGit
from phenaki.core.components import save_component
from phenaki.core.errors import PhenakiError, pluralize
from phenaki.core.files import write_folder_atomic, writing
from phenaki.core.weights import load_weights, read_tensors

Project = Literal["obvious-cvivit", "phenaki-pytorch"]
_PROJECTS = {
    "obvious-cvivit": "Obvious Research's C-ViViT (https://github.com/obvious-research/phenaki-cvivit)",
    "phenaki-pytorch": "phenaki-pytorch (https://github.com/lucidrains/phenaki-pytorch)",
}
_TOKENIZER_CARD = (
    "C-ViViT, a video tokenizer",
    """**Not causal.** The position-generating convolutions of the temporal layers mix different times, so ids depend on
later frames (`causal: false` in config.json), and the ids of the beginning of a clip are not the beginning of its ids.
It encodes and decodes complete clips, but no streams.""",
    "ids = model.encode(video)  # float (B, 3, T, H, W) in [0, 1]",
)
_GENERATOR_CARD = (
    "MaskGIT, a generator of video ids",
    """It generates the ids of the tokenizer described in config.json from text embeddings of that width. Token critics
are not imported: decoding keeps tokens by confidence.""",
    "model.config",
)
_TOKENIZER_LANDMARK = "to_patch_emb_first_frame.2.weight"
_MASKGIT_LANDMARK = "continuous_pos_bias.net.0.0.weight"
_TOKENIZER_MODULES = re.compile(
    r"(to_patch_emb|to_pixels)(_first_frame)?|(enc|dec)_(spatial|temporal)_transformer|spatial_rel_pos_bias|vq"
)
_MASKGIT_MODULES = re.compile("token_emb|pos_emb|continuous_pos_bias|transformer|to_logits")
# Saved but without effect: the context norm of self-attention, which never has a context, and codebook statistics.
_UNUSED = re.compile(r".*\.layers\.\d+\.1\.(context_norm\.\w+|null_kv)|vq\._codebook\.(cluster_size|embed_avg|initted)")


@dataclass(frozen=True)
class Imported:
    """An imported component. skipped: number of tensors of each other module in the checkpoint."""

    module: nn.Module
    prefix: str
    skipped: dict[str, int]

    def describe_skipped(self) -> str:
        """Such as "optimizer (2 tensors)"."""
        return ", ".join(f"{name} ({pluralize(n, 'tensor')})" for name, n in sorted(self.skipped.items())) or "nothing"


def import_tokenizer(checkpoint: Path, out: Path, project: Project, config: Path | None = None) -> Imported:
    """Write the C-ViViT in `checkpoint` to `out` as a tokenizer, with a model card.

    config: a JSON file of `CViViTArguments`. Raises PhenakiError for a file that is unreadable, would run code or has
    another architecture, for a contradicting configuration, and if `out` cannot be written.
    """
    arguments = read_arguments(CViViTArguments, config)
    tensors = unwrap_names(read_tensors(checkpoint))
    network = _find_tokenizer(tensors, checkpoint)
    default_size = (128, 128) if project == "obvious-cvivit" else None
    return _write(PegCViViT(cvivit_config(network, arguments, default_size)), network, checkpoint, out, project)


def import_maskgit(checkpoint: Path, out: Path, config: Path | None = None) -> Imported:
    """Write phenaki-pytorch's MaskGit in `checkpoint` to `out` as a generator, with a model card.

    config: a JSON file of `MaskGitArguments`. Raises PhenakiError as `import_tokenizer` does.
    """
    arguments = read_arguments(MaskGitArguments, config)
    tensors = unwrap_names(read_tensors(checkpoint))
    description = "MaskGIT of phenaki-pytorch"
    network = find_network(tensors, _MASKGIT_LANDMARK, f"'{checkpoint}'", description, _MASKGIT_MODULES)
    tokenizer = _find_tokenizer(tensors, checkpoint) if _has(tensors, _TOKENIZER_LANDMARK) else None
    module = PegMaskGit(maskgit_config(network, arguments, tokenizer))
    return _write(module, network, checkpoint, out, "phenaki-pytorch")


def _has(tensors: Mapping[str, Tensor], landmark: str) -> bool:
    return any(name == landmark or name.endswith(f".{landmark}") for name in tensors)


def _find_tokenizer(tensors: Mapping[str, Tensor], checkpoint: Path) -> NetworkState:
    return find_network(tensors, _TOKENIZER_LANDMARK, f"'{checkpoint}'", "C-ViViT", _TOKENIZER_MODULES)


def _write(module: nn.Module, network: NetworkState, checkpoint: Path, out: Path, project: Project) -> Imported:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise PhenakiError(f"'{out}' already exists: choose a new folder")
    used = {name: tensor for name, tensor in network.tensors.items() if not _UNUSED.fullmatch(name)}
    load_weights(module, used, network.file)
    if broken := [name for name, tensor in used.items() if not tensor.isfinite().all()]:
        raise PhenakiError(
            f"{network.file}: '{network.prefix}{broken[0]}' has values that are not finite ({len(broken)} of "
            f"{len(used)} tensors do): its training had diverged, use an earlier checkpoint"
        )
    imported = Imported(module.eval(), network.prefix, network.skipped)
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    with write_folder_atomic(out) as new:
        save_component(module, new)
        (new / "README.md").write_text(_card(imported, checkpoint, project), encoding="utf-8")
    return imported


def _card(imported: Imported, checkpoint: Path, project: Project) -> str:
    with open(checkpoint, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    title, caveat, usage = _TOKENIZER_CARD if isinstance(imported.module, PegCViViT) else _GENERATOR_CARD
    prefix = f" Tensor names there begin with `{imported.prefix}`." if imported.prefix else ""
    return f"""# {title}, imported

The weights come from `{checkpoint.name}` (SHA-256 `{digest}`),
a checkpoint of {_PROJECTS[project]}.{prefix}
Licence and training data are those stated by its authors. The weights are unchanged.

Skipped: {imported.describe_skipped()}.

{caveat}

```python
import phenaki

model = phenaki.load(FOLDER)
{usage}
```
"""
