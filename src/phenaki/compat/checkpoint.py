"""Finding one network in a checkpoint that holds several."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from phenaki.core.errors import PhenakiError

# what torch.compile, FSDP, activation checkpointing, DDP and Lightning put into names
_WRAPPERS = {
    "_orig_mod",
    "_fsdp_wrapped_module",
    "_fpw_module",
    "_checkpoint_wrapped_module",
    "_forward_module",
    "module",
}


@dataclass(frozen=True)
class NetworkState:
    """The tensors of one network in a checkpoint, under the names the network gives them.

    prefix: what wrappers put in front of those names. skipped: number of tensors of each other module in the file.
    """

    file: str
    prefix: str
    tensors: dict[str, Tensor]
    skipped: dict[str, int]

    def shape(self, name: str, dims: int) -> tuple[int, ...]:
        """The shape of a tensor. Raises PhenakiError if it is missing or has another number of dimensions."""
        if name not in self.tensors:
            raise PhenakiError(
                f"{self.file} has no '{self.prefix}{name}': it is incomplete, or of another architecture"
            )
        shape = tuple(self.tensors[name].shape)
        if len(shape) != dims or 0 in shape:
            raise PhenakiError(
                f"{self.file}: '{self.prefix}{name}' has shape {shape}, expected {dims} dimensions: "
                "it is of another architecture"
            )
        return shape

    def layers(self, transformer: str) -> int:
        """The number of layers of a transformer."""
        numbered = re.compile(rf"{re.escape(transformer)}\.layers\.(\d+)\.")
        return len({match[1] for name in self.tensors if (match := numbered.match(name))})


def unwrap_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under the names that they have without wrappers, which may stand around any module of a network.

    Of tensors whose names become equal, the least wrapped one is kept.
    """
    unwrapped: dict[str, Tensor] = {}
    for name in sorted(tensors, key=lambda name: name.count(".")):
        unwrapped.setdefault(".".join(part for part in name.split(".") if part not in _WRAPPERS), tensors[name])
    return {name: unwrapped[name] for name in sorted(unwrapped)}


def find_network(
    tensors: Mapping[str, Tensor], landmark: str, file: str, description: str, modules: re.Pattern[str]
) -> NetworkState:
    """The network with a tensor named `landmark`, whatever DDP, EMA or a trainer put in front of its names.

    Of several, averaged weights (EMA) are preferred, then the least wrapped. `modules` matches the network's top-level
    modules. Raises PhenakiError, with the `description` of what was sought.
    """
    matches = [name for name in tensors if name == landmark or name.endswith(f".{landmark}")]
    prefixes = [name.removesuffix(landmark) for name in matches]
    if not prefixes:
        first = ", ".join(list(tensors)[:3])
        raise PhenakiError(f"{file} holds no {description}: it has no tensor '{landmark}', but {first} etc.")
    prefix = min(prefixes, key=lambda prefix: ("ema" not in re.split(r"[._]", prefix), prefix.count("."), prefix))
    own, skipped = {}, Counter()
    for name, tensor in tensors.items():
        inside = name.startswith(prefix)
        words = name.removeprefix(prefix).split(".") if inside else name.split(".")
        if inside and modules.fullmatch(words[0]):
            own[name.removeprefix(prefix)] = tensor
        else:
            skipped[prefix + words[0] if inside else ".".join(words[: max(1, prefix.count("."))])] += 1
    return NetworkState(file, prefix, own, dict(skipped))
