"""Checkpoints of phenaki-pytorch and of Obvious Research's C-ViViT, made components: docs/import.md."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor, nn

from phenaki.compat.arguments import CViViTArguments, MaskGitArguments, cvivit_config, maskgit_config, read_arguments
from phenaki.compat.checkpoint import Part, find_part
from phenaki.compat.cvivit import PegCViViT
from phenaki.compat.maskgit import PegMaskGit
from phenaki.core.components import save_component
from phenaki.core.errors import PhenakiError
from phenaki.core.files import write_folder_atomic, writing
from phenaki.core.weights import load_weights, read_tensors

Source = Literal["obvious-cvivit", "phenaki-pytorch"]
_PROJECTS = {
    "obvious-cvivit": "Obvious Research's C-ViViT (https://github.com/obvious-research/phenaki-cvivit)",
    "phenaki-pytorch": "phenaki-pytorch (https://github.com/lucidrains/phenaki-pytorch)",
}
_TOKENIZER_CARD = (
    "C-ViViT, a video tokenizer",
    """**Not causal.** The position-generating convolutions of the temporal layers mix times, so that ids depend on
later frames (`causal: false` in config.json). The ids of the beginning of a clip are not the beginning of its ids:
whole clips can be encoded and decoded, streams cannot.""",
    "ids = model.encode(video)  # float (B, 3, T, H, W) in [0, 1]",
)
_GENERATOR_CARD = (
    "MaskGIT, a generator of video ids",
    """It writes the ids of the tokenizer that is described in config.json, from text embeddings of that width. Token
critics are left out: ids are decoded by confidence.""",
    "model.config",
)
_TOKENIZER_LANDMARK = "to_patch_emb_first_frame.2.weight"
_MASKGIT_LANDMARK = "continuous_pos_bias.net.0.0.weight"
_TOKENIZER_MODULES = re.compile(
    r"(to_patch_emb|to_pixels)(_first_frame)?|(enc|dec)_(spatial|temporal)_transformer|spatial_rel_pos_bias|vq"
)
_MASKGIT_MODULES = re.compile("token_emb|pos_emb|continuous_pos_bias|transformer|to_logits")
# In their files, and without effect: what self-attention keeps for a context it never has, and the codes' training.
_IDLE = re.compile(r".*\.layers\.\d+\.1\.(context_norm\.\w+|null_kv)|vq\._codebook\.(cluster_size|embed_avg|initted)")


@dataclass(frozen=True)
class Imported:
    """A component that was written. left_out: what else the checkpoint holds, each with its number of tensors."""

    module: nn.Module
    prefix: str
    left_out: dict[str, int]


def import_tokenizer(checkpoint: Path, out: Path, source: Source, config: Path | None = None) -> Imported:
    """Write the C-ViViT in `checkpoint` as the tokenizer `out`, with a model card.

    config: a JSON file of `CViViTArguments`. Raises PhenakiError for a file that cannot be read, would run code, or
    holds another architecture, for a configuration that contradicts it, and where `out` cannot be written.
    """
    given = read_arguments(CViViTArguments, config)
    tensors = read_tensors(checkpoint)
    part = _tokenizer_part(tensors, checkpoint)
    module = PegCViViT(cvivit_config(part, given, (128, 128) if source == "obvious-cvivit" else None))
    return _write(module, part, checkpoint, out, source)


def import_maskgit(checkpoint: Path, out: Path, config: Path | None = None) -> Imported:
    """Write phenaki-pytorch's MaskGit in `checkpoint` as the generator `out`, with a model card.

    config: a JSON file of `MaskGitArguments`. Raises PhenakiError as `import_tokenizer` does.
    """
    given = read_arguments(MaskGitArguments, config)
    tensors = read_tensors(checkpoint)
    part = find_part(tensors, _MASKGIT_LANDMARK, f"'{checkpoint}'", "MaskGIT of phenaki-pytorch", _MASKGIT_MODULES)
    beside = _tokenizer_part(tensors, checkpoint) if _has(tensors, _TOKENIZER_LANDMARK) else None
    return _write(PegMaskGit(maskgit_config(part, given, beside)), part, checkpoint, out, "phenaki-pytorch")


def _has(tensors: Mapping[str, Tensor], landmark: str) -> bool:
    return any(name == landmark or name.endswith(f".{landmark}") for name in tensors)


def _tokenizer_part(tensors: Mapping[str, Tensor], checkpoint: Path) -> Part:
    return find_part(tensors, _TOKENIZER_LANDMARK, f"'{checkpoint}'", "C-ViViT", _TOKENIZER_MODULES)


def _write(module: nn.Module, part: Part, checkpoint: Path, out: Path, source: Source) -> Imported:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise PhenakiError(f"'{out}' is there already: name a new folder")
    used = {name: tensor for name, tensor in part.tensors.items() if not _IDLE.fullmatch(name)}
    load_weights(module, used, part.where)
    if broken := [name for name, tensor in used.items() if not tensor.isfinite().all()]:
        raise PhenakiError(
            f"{part.where}: '{part.prefix}{broken[0]}' holds numbers that are not finite ({len(broken)} of its "
            f"{len(used)} tensors do): its training had failed by then, take an earlier checkpoint"
        )
    imported = Imported(module.eval(), part.prefix, part.left_out)
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    with write_folder_atomic(out) as new:
        save_component(module, new)
        (new / "README.md").write_text(_card(imported, checkpoint, source), encoding="utf-8")
    return imported


def _card(imported: Imported, checkpoint: Path, source: Source) -> str:
    with open(checkpoint, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    title, caveat, use = _TOKENIZER_CARD if isinstance(imported.module, PegCViViT) else _GENERATOR_CARD
    wrapped = f" Its names begin with `{imported.prefix}` there." if imported.prefix else ""
    return f"""# {title}, imported

The weights are those of `{checkpoint.name}` (SHA-256 `{digest}`),
a checkpoint of {_PROJECTS[source]}.{wrapped}
Their licence and their training data are what the authors of that file say. Nothing was trained further.

Left out: {left_out(imported)}.

{caveat}

```python
import phenaki

model = phenaki.load(FOLDER)
{use}
```
"""


def left_out(imported: Imported) -> str:
    """What the checkpoint holds beside the network, in words."""
    parts = [f"{name} ({count} tensor{'s' * (count > 1)})" for name, count in sorted(imported.left_out.items())]
    return ", ".join(parts) or "nothing"
