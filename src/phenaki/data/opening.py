"""What a uri names: a procedural world, a folder of files, shards, a packed dataset, or token shards."""

from __future__ import annotations

import os
import posixpath
import re
from dataclasses import dataclass, fields
from typing import Any, Literal

from phenaki.core.actions import ActionSpec
from phenaki.core.config import bounded, configclass, from_dict
from phenaki.core.errors import PhenakiError
from phenaki.core.files import parse_json_object
from phenaki.core.worlds import WORLDS
from phenaki.data.actions import DATASET, common_spec, read_action_spec
from phenaki.data.captions import check_template
from phenaki.data.config import DataConfig, SourceConfig
from phenaki.data.folder import MEDIA, Folder
from phenaki.data.journal import JOURNAL, SPLITS
from phenaki.data.shards import first_field
from phenaki.data.sources import FolderSource, ProceduralSource, ShardSource, Source
from phenaki.data.storage import SUFFIX, expand, files_under, is_remote, join, read_optional
from phenaki.data.tokens import FIELD, TOKENS, TokenSet, TokenSource, rank_prefix

Split = Literal["train", "validation"]

_SHARDS = re.compile(r"[*{[]|\.tar(\?|$)")  # uris that name shards themselves, not their folder


def open_source(
    source: SourceConfig, config: DataConfig, captions: bool, split: Split = "train", actions: bool = False
) -> Source:
    """The source at a uri. `split` selects the part of a packed dataset or procedural world.

    `captions`: samples without one are bad. `actions`: samples have those of the source, if it has any. Raises
    PhenakiError if the uri does not exist or holds nothing usable, and for token shards of clips of another size.
    """
    for template in source.templates:
        check_template(template)
    uri, size = source.uri, config.size_of(source)
    if world := WORLDS.get(uri):
        frames = max(config.lengths)
        opened = world(source.options, seed=config.seed, split=split, size=size, frames=frames)
        return ProceduralSource(opened, actions)
    if source.options:
        worlds = ", ".join(WORLDS) or "none is registered"
        raise PhenakiError(f"'{uri}' takes no options: they are for procedural worlds ({worlds})")
    if made_by := token_set(uri):
        _check_size(uri, made_by.image_size, size)
        return TokenSource(_token_shards(uri, made_by), made_by, source.templates, captions, actions)
    if packed := _read_packed(uri):
        templates = source.templates or packed.templates
        spec = read_action_spec(uri) if actions else None
        return ShardSource(_packed_shards(uri, packed, split), templates, captions, actions, spec)
    if os.path.isdir(uri) and not _holds_shards(uri):
        folder = Folder(uri, label_from_folder=bool(source.templates), captions=captions, actions=actions)
        return FolderSource(folder, source.templates, captions)
    if os.path.isfile(uri) and _is_media(uri):
        raise PhenakiError(f"'{uri}' is a single file: name its folder")
    shards = expand(uri)
    _check_not_packed(uri, shards)
    return ShardSource(shards, source.templates, captions, actions, _spec_beside(shards[0]) if actions else None)


def action_spec(config: DataConfig) -> ActionSpec | None:
    """The actions that all sources have in common, and the validation clips; None if none has any.

    Raises PhenakiError if those of two sources differ, and as `open_source` does.
    """
    sources = [*config.sources, *([SourceConfig(config.validation)] if config.validation else [])]
    return common_spec({source.uri: _action_spec_of(source, config) for source in sources})


def _action_spec_of(source: SourceConfig, config: DataConfig) -> ActionSpec | None:
    if source.uri in WORLDS:
        return open_source(source, config, captions=False, actions=True).actions
    if made_by := token_set(source.uri):
        return made_by.actions
    if _read_packed(source.uri) or (os.path.isdir(source.uri) and not _holds_shards(source.uri)):
        return read_action_spec(source.uri)
    return _spec_beside(expand(source.uri)[0])


def _spec_beside(shard: str) -> ActionSpec | None:
    """The actions in the dataset.json in a shard's folder, or of the packed dataset of which that is a split."""
    folder = posixpath.dirname(shard.partition("?")[0] if is_remote(shard) else shard) or "."
    above, name = posixpath.split(folder)
    return read_action_spec(folder) or (read_action_spec(above or ".") if name in SPLITS else None)


def has_validation(uri: str) -> bool:
    """Whether there is a validation split, which is not trained on."""
    if uri in WORLDS:
        return True
    packed = _read_packed(uri)
    return packed is not None and packed.validation is not None


def count_packed(uri: str, split: Split = "train") -> int | None:
    """The number of samples in a split of a packed dataset; None for other sources, which do not record it."""
    packed = _read_packed(uri)
    return packed.split(split).samples if packed else None


def check_has_clips(uri: str) -> None:
    """Raise PhenakiError for token shards, which hold no clips."""
    if token_set(uri):
        raise PhenakiError(f"'{uri}' holds token shards, but clips are needed: name the data they were made from")


def token_set(uri: str) -> TokenSet | None:
    """What made the token shards at a uri; None if there are none.

    Raises PhenakiError for a pattern that names token shards without a tokens.json beside them.
    """
    if uri in WORLDS:
        return None
    folder = uri if _is_folder(uri) else _folder_of_tokens(uri)
    made_by = _read_json(folder, TOKENS) if folder else None
    if folder not in (None, uri) and made_by is None:
        raise PhenakiError(f"'{uri}' names token shards without a {TOKENS} beside them, which records what made them")
    return from_dict(TokenSet, made_by, where=f"'{join(folder, TOKENS)}'") if made_by else None


def _check_size(uri: str, size: tuple[int, int], wanted: tuple[int, int]) -> None:
    """Raise PhenakiError if token shards are of clips of another size than wanted."""
    if size != wanted:
        raise PhenakiError(
            f"the ids in '{uri}' are of clips of {size[0]}x{size[1]} pixels, not {wanted[0]}x{wanted[1]}: set the size "
            f"of the source, {{uri: {uri}, size: [{size[0]}, {size[1]}]}}; evaluation clips have the size data.size"
        )


def _folder_of_tokens(pattern: str) -> str | None:
    """The folder of the token shards that a pattern names; None if it names other shards."""
    shards = expand(pattern)
    if first_field(shards[0]) != FIELD:
        return None
    folders = sorted({posixpath.dirname(shard.partition("?")[0]) for shard in shards})
    if len(folders) > 1:
        raise PhenakiError(f"'{pattern}' names token shards in {len(folders)} folders: name one source per folder")
    return folders[0] or "."


def _token_shards(uri: str, made_by: TokenSet) -> list[str]:
    """Counted by the progress files where possible, since web servers do not list folders."""
    if not _is_folder(uri):
        return expand(uri)
    shards = []
    for rank in range(made_by.processes):
        prefix = rank_prefix(rank)
        progress = _read_json(uri, f"{prefix}.json") or {}
        count = _counts(progress, f"'{join(uri, prefix)}.json'").shards
        shards += [join(uri, f"{prefix}-{number:06d}.tar") for number in range(count)]
    return shards or expand(uri)


def _packed_shards(uri: str, packed: _Packed, split: Split) -> list[str]:
    """By their number, since web servers do not list folders."""
    count = packed.split(split).shards
    if not count:
        raise PhenakiError(f"'{uri}' has no {split} samples: pack it with another --validation")
    return expand(join(uri, f"{split}/shard-{{000000..{count - 1:06d}}}.tar"))


@configclass
class _Counts:
    """Of a split: what is in it."""

    shards: int = bounded(0, at_least=0, at_most=1_000_000)
    samples: int = bounded(0, at_least=0)


@dataclass(frozen=True)
class _Packed:
    """What is read here of the dataset.json of a packed dataset."""

    train: _Counts | None = None
    validation: _Counts | None = None
    templates: tuple[str, ...] = ()

    def split(self, name: Split) -> _Counts:
        return getattr(self, name) or _Counts()


def _read_packed(uri: str) -> _Packed | None:
    """The dataset.json of a packed dataset; None for others, such as one that names the actions of plain files."""
    description, where = _read_json(uri, DATASET), f"'{join(uri, DATASET)}'"
    if not description or not any(split in description for split in SPLITS):
        return None
    counts = {split: _counts(description[split], where) for split in SPLITS if split in description}
    return from_dict(_Packed, counts | {"templates": description.get("templates", ())}, where)


def _counts(values: Any, where: str) -> _Counts:
    if not isinstance(values, dict):
        raise PhenakiError(f"{where} has {values!r:.40} in place of a split's counts: copy it again, or pack again")
    return from_dict(
        _Counts, {field.name: values[field.name] for field in fields(_Counts) if field.name in values}, where
    )


def _holds_shards(folder: str) -> bool:
    """Raises PhenakiError for a folder of both shards and media files, of which only one kind could be used."""
    shard = next((file for file in files_under(folder) if file.endswith(SUFFIX)), None)
    media = next(filter(_is_media, files_under(folder)), None)
    if shard and media:
        raise PhenakiError(
            f"'{folder}' holds shards ('{shard}') and other files ('{media}'): name the shards by a pattern, or move "
            "them to their own folder"
        )
    if not shard and not media:
        _check_finished(folder)
    return shard is not None


def _is_media(file: str) -> bool:
    return os.path.splitext(file)[1].lower() in MEDIA


def _check_not_packed(uri: str, shards: list[str]) -> None:
    """Raise PhenakiError for a folder above a packed dataset, whose validation split would be trained on.

    A split, such as "my/shards/train", may be named.
    """
    folders = {posixpath.split(posixpath.dirname(shard)) for shard in shards if _is_folder(uri)}
    for folder, part in sorted(folders):
        if part not in SPLITS or len(folder) < len(uri.rstrip("/")):
            continue
        if read_optional(join(folder, DATASET)):
            raise PhenakiError(f"'{uri}' contains the packed dataset '{folder}': name that, or its splits by a pattern")
        _check_finished(folder)


def _check_finished(folder: str) -> None:
    """Raise PhenakiError for a folder into which packing is under way or was interrupted."""
    if os.path.exists(join(folder, JOURNAL)):
        raise PhenakiError(f"Packing into '{folder}' is not finished: run the same `phenaki data pack` to resume it")


def _is_folder(uri: str) -> bool:
    """Judging by its name if it is remote."""
    return os.path.isdir(uri) or not _SHARDS.search(uri)


def _read_json(uri: str, name: str) -> dict[str, Any] | None:
    """The JSON object in the file `name` of a local or remote folder; None if there is none."""
    if not _is_folder(uri):
        return None
    try:
        data = read_optional(join(uri, name))
    except PhenakiError as error:
        raise PhenakiError(f"'{uri}' cannot be read: looking for {name} failed. {error}") from error
    if data is None:
        return None
    return parse_json_object(data, f"'{join(uri, name)}'")
