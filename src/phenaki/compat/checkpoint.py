"""Finding one network in a checkpoint that holds more."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from phenaki.core.errors import PhenakiError


@dataclass(frozen=True)
class Part:
    """The tensors of one network in a checkpoint, by the names that they have in it.

    prefix: what its names begin with in the file, from the wrappers around it. left_out: what else the file holds, each
    with its number of tensors.
    """

    where: str
    prefix: str
    tensors: dict[str, Tensor]
    left_out: dict[str, int]

    def shape(self, name: str, dims: int) -> tuple[int, ...]:
        """The shape of a tensor of that many dimensions. Raises PhenakiError if there is none."""
        if name not in self.tensors:
            raise PhenakiError(
                f"{self.where} has no '{self.prefix}{name}': it is not whole, or of another architecture"
            )
        shape = tuple(self.tensors[name].shape)
        if len(shape) != dims or 0 in shape:
            raise PhenakiError(
                f"{self.where}: '{self.prefix}{name}' is of shape {shape} and should have {dims} dimensions: "
                "it is of another architecture"
            )
        return shape

    def layers(self, transformer: str) -> int:
        """How many layers a transformer has."""
        numbered = re.compile(rf"{re.escape(transformer)}\.layers\.(\d+)\.")
        return len({found[1] for name in self.tensors if (found := numbered.match(name))})


def find_part(tensors: Mapping[str, Tensor], landmark: str, where: str, what: str, modules: re.Pattern[str]) -> Part:
    """The network that has a tensor named `landmark`, whatever DDP, EMA or a trainer put in front of its names.

    Of several, a moving average (EMA) is taken first, then the one that is wrapped least. `modules`: what
    its names begin with, up to the first dot. Raises PhenakiError that says `what` was looked for.
    """
    ends = [name for name in tensors if name == landmark or name.endswith(f".{landmark}")]
    prefixes = [name.removesuffix(landmark) for name in ends]
    if not prefixes:
        first = ", ".join(list(tensors)[:3])
        raise PhenakiError(f"{where} holds no {what}: no tensor is named '{landmark}', but {first} and so on")
    prefix = min(prefixes, key=lambda prefix: ("ema" not in re.split(r"[._]", prefix), prefix.count("."), prefix))
    mine, left_out = {}, Counter()
    for name, tensor in tensors.items():
        inside = name.startswith(prefix)
        words = name.removeprefix(prefix).split(".") if inside else name.split(".")
        if inside and modules.fullmatch(words[0]):
            mine[name.removeprefix(prefix)] = tensor
        else:
            left_out[prefix + words[0] if inside else ".".join(words[: max(1, prefix.count("."))])] += 1
    return Part(where, prefix, mine, dict(left_out))
