"""What lies at a uri: the procedural world, a folder of files, shards, a packed data set, or token shards."""

from __future__ import annotations

import json
import os
import posixpath
import re
from typing import Any, Literal

from phenaki.core.config import from_dict
from phenaki.core.errors import PhenakiError
from phenaki.data.captions import check_template
from phenaki.data.config import DataConfig, SourceConfig
from phenaki.data.folder import MEDIA, Folder
from phenaki.data.journal import JOURNAL, SPLITS
from phenaki.data.packing import DATASET
from phenaki.data.shards import first_field
from phenaki.data.sources import FolderSource, ShardSource, Source
from phenaki.data.storage import ENDING, expand, files_under, join, read_if_there
from phenaki.data.tokens import FIELD, TOKENS, TokenSet, TokenSource, name_of_share
from phenaki.data.worlds import is_world, open_world

Split = Literal["train", "validation"]

_PATTERN = re.compile(r"[*{[]|\.tar(\?|$)")  # of uris that are shards by themselves, and no folder


def open_source(source: SourceConfig, config: DataConfig, captions: bool, split: Split = "train") -> Source:
    """The source at a uri. Of a packed data set and of the procedural world, the part that `split` names.

    `captions`: samples without one are bad. Raises PhenakiError for a uri that is not there or holds nothing usable,
    and for token shards of clips of another size.
    """
    for template in source.templates:
        check_template(template)
    if is_world(source.uri):
        return open_world(source, config, split)
    if made_by := token_set(source.uri):
        _check_size(source.uri, made_by.image_size, config.size_of(source))
        return TokenSource(_token_shards(source.uri, made_by), made_by, source.templates, captions)
    if packed := _json(source.uri, DATASET):
        templates = source.templates or tuple(packed.get("templates", ()))
        return ShardSource(_packed_shards(source.uri, packed, split), templates, captions)
    if os.path.isdir(source.uri) and not _holds_shards(source.uri):
        folder = Folder(source.uri, label_from_folder=bool(source.templates), captions=captions)
        return FolderSource(folder, source.templates, captions)
    if os.path.isfile(source.uri) and _is_media(source.uri):
        raise PhenakiError(f"'{source.uri}' is a single file: name its folder")
    shards = expand(source.uri)
    _check_no_packed(source.uri, shards)
    return ShardSource(shards, source.templates, captions)


def has_validation(uri: str) -> bool:
    """Whether the uri has a part for validation that is not trained on."""
    if is_world(uri):
        return True
    packed = _json(uri, DATASET)
    return bool(packed and packed.get("validation"))


def count_packed(uri: str, split: Split = "train") -> int | None:
    """The samples in a part of a packed data set; None for other uris, which do not tell."""
    packed = _json(uri, DATASET)
    return packed.get(split, {}).get("samples", 0) if packed else None


def check_holds_clips(uri: str) -> None:
    """Raise PhenakiError for token shards, of which no clips can be made."""
    if token_set(uri):
        raise PhenakiError(f"'{uri}' holds token shards, and clips are needed here: name what these were made of")


def token_set(uri: str) -> TokenSet | None:
    """What made the token shards at a uri; None where there are none.

    Raises PhenakiError for a pattern that names token shards which do not lie beside one tokens.json.
    """
    if is_world(uri):
        return None
    folder = uri if _is_folder(uri) else _folder_of_tokens(uri)
    made_by = _json(folder, TOKENS) if folder else None
    if folder not in (None, uri) and made_by is None:
        raise PhenakiError(f"'{uri}' names token shards, and beside them is no {TOKENS}, which says what made them")
    return from_dict(TokenSet, made_by, where=f"'{join(folder, TOKENS)}'") if made_by else None


def _check_size(uri: str, size: tuple[int, int], asked: tuple[int, int]) -> None:
    """Raise PhenakiError where token shards are of clips of another size than is asked of them."""
    if size != asked:
        raise PhenakiError(
            f"the ids in '{uri}' are of clips of {size[0]}x{size[1]} pixels, and {asked[0]}x{asked[1]} are asked "
            f"for: a source of training names its size, {{uri: {uri}, size: [{size[0]}, {size[1]}]}}, and the "
            "clips by which a run is judged are of data.size"
        )


def _folder_of_tokens(pattern: str) -> str | None:
    """Where the token shards lie that a pattern names; None where it names other shards."""
    shards = expand(pattern)
    if first_field(shards[0]) != FIELD:
        return None
    folders = sorted({posixpath.dirname(shard.partition("?")[0]) for shard in shards})
    if len(folders) > 1:
        raise PhenakiError(f"'{pattern}' names token shards in {len(folders)} folders: name one after the other")
    return folders[0] or "."


def _token_shards(uri: str, made_by: TokenSet) -> list[str]:
    """Of a folder by their number, where it is told, and not by listing them, which a web server cannot."""
    if not _is_folder(uri):
        return expand(uri)
    shards = []
    for rank in range(made_by.processes):
        name = name_of_share(rank)
        count = (_json(uri, f"{name}.json") or {}).get("shards", 0)
        shards += [join(uri, f"{name}-{number:06d}.tar") for number in range(count)]
    return shards or expand(uri)


def _packed_shards(uri: str, packed: dict[str, Any], split: Split) -> list[str]:
    """By their number and not by listing them, which a web server cannot."""
    count = packed.get(split, {}).get("shards", 0)
    if not count:
        raise PhenakiError(f"'{uri}' has no samples for {split}: pack it with another --validation")
    return expand(join(uri, f"{split}/shard-{{000000..{count - 1:06d}}}.tar"))


def _holds_shards(folder: str) -> bool:
    """Raises PhenakiError for a folder that holds media files as well, since only one of both could be taken."""
    shard = next((file for file in files_under(folder) if file.endswith(ENDING)), None)
    media = next(filter(_is_media, files_under(folder)), None)
    if shard and media:
        raise PhenakiError(
            f"'{folder}' holds shards ('{shard}') and other files ('{media}'): name the shards by a pattern, or move "
            "them to a folder of their own"
        )
    if not shard and not media:
        _check_finished(folder)
    return shard is not None


def _is_media(file: str) -> bool:
    return os.path.splitext(file)[1].lower() in MEDIA


def _check_no_packed(uri: str, shards: list[str]) -> None:
    """Raise PhenakiError for a folder with what `pack` wrote or is writing: its validation part would be trained on.

    A part of it, such as "my/shards/train", may be named by itself.
    """
    folders = {posixpath.split(posixpath.dirname(shard)) for shard in shards if _is_folder(uri)}
    for folder, part in sorted(folders):
        if part not in SPLITS or len(folder) < len(uri.rstrip("/")):
            continue
        if read_if_there(join(folder, DATASET)):
            raise PhenakiError(f"'{uri}' holds the packed data set '{folder}': name that, or its parts by a pattern")
        _check_finished(folder)


def _check_finished(folder: str) -> None:
    """Raise PhenakiError for a folder that `pack` is writing, or was when it was stopped."""
    if os.path.exists(join(folder, JOURNAL)):
        raise PhenakiError(f"Packing into '{folder}' is not finished: the same `phenaki data pack` goes on with it")


def _is_folder(uri: str) -> bool:
    """By its name, where it is not local."""
    return os.path.isdir(uri) or not _PATTERN.search(uri)


def _json(uri: str, name: str) -> dict[str, Any] | None:
    """The JSON object `name` in the folder `uri`, local or remote, where there is one."""
    if not _is_folder(uri):
        return None
    try:
        data = read_if_there(join(uri, name))
    except PhenakiError as error:
        raise PhenakiError(f"'{uri}' cannot be read: a look for {name} there failed. {error}") from error
    if data is None:
        return None
    try:
        return json.loads(data)
    except ValueError as error:
        raise PhenakiError(f"'{join(uri, name)}' cannot be read as JSON: {error}.") from error
