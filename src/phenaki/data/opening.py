"""What lies at a place: the procedural world, a folder of files, shards, a packed data set, or token shards."""

from __future__ import annotations

import json
import os
import posixpath
import re
from typing import Any, Literal

from phenaki.core.config import from_dict
from phenaki.core.errors import PhenakiError
from phenaki.data.captions import check_template
from phenaki.data.config import SHAPES, DataConfig, SourceConfig
from phenaki.data.folder import MEDIA, Folder
from phenaki.data.journal import JOURNAL, SPLITS
from phenaki.data.packing import DATASET
from phenaki.data.shards import first_field
from phenaki.data.sources import FolderSource, ShardSource, Source, World
from phenaki.data.storage import ENDING, expand, files_under, join, read_if_there
from phenaki.data.tokens import FIELD, TOKENS, TokenSet, TokenSource, name_of_share

Split = Literal["train", "validation"]

_PATTERN = re.compile(r"[*{[]|\.tar(\?|$)")  # of places that are shards by themselves, and no folder


def open_source(source: SourceConfig, config: DataConfig, captions: bool, split: Split = "train") -> Source:
    """The source at a place. Of a packed data set and of the procedural world, the part that `split` names.

    `captions`: samples without one are bad. Raises PhenakiError for a place that is not there or holds nothing usable,
    and for token shards of clips of another size.
    """
    for template in source.templates:
        check_template(template)
    if source.place == SHAPES:
        part = "train" if split == "train" else "test"
        size, frames = config.size_of(source), max(config.lengths)
        return World(config.seed, part, size, frames, source.objects, source.continued)
    if made_by := token_set(source.place):
        _check_size(source.place, made_by.image_size, config.size_of(source))
        return TokenSource(_token_shards(source.place, made_by), made_by, source.templates, captions)
    if packed := _json(source.place, DATASET):
        templates = source.templates or tuple(packed.get("templates", ()))
        return ShardSource(_packed_shards(source.place, packed, split), templates, captions)
    if os.path.isdir(source.place) and not _holds_shards(source.place):
        folder = Folder(source.place, label_from_folder=bool(source.templates), captions=captions)
        return FolderSource(folder, source.templates, captions)
    if os.path.isfile(source.place) and _is_media(source.place):
        raise PhenakiError(f"'{source.place}' is a single file: name its folder")
    shards = expand(source.place)
    _check_no_packed(source.place, shards)
    return ShardSource(shards, source.templates, captions)


def keeps_back(place: str) -> bool:
    """Whether the place has a part for validation that is not trained on."""
    packed = None if place == SHAPES else _json(place, DATASET)
    return place == SHAPES or bool(packed and packed.get("validation"))


def count_packed(place: str, split: Split = "train") -> int | None:
    """The samples in a part of a packed data set; None for other places, which do not tell."""
    packed = _json(place, DATASET)
    return packed.get(split, {}).get("samples", 0) if packed else None


def check_holds_clips(place: str) -> None:
    """Raise PhenakiError for token shards, of which no clips can be made."""
    if token_set(place):
        raise PhenakiError(f"'{place}' holds token shards, and clips are needed here: name what these were made of")


def token_set(place: str) -> TokenSet | None:
    """What made the token shards at a place; None where there are none.

    Raises PhenakiError for a pattern that names token shards which do not lie beside one tokens.json.
    """
    if place == SHAPES:
        return None
    folder = place if _is_folder(place) else _folder_of_tokens(place)
    made_by = _json(folder, TOKENS) if folder else None
    if folder not in (None, place) and made_by is None:
        raise PhenakiError(f"'{place}' names token shards, and beside them is no {TOKENS}, which says what made them")
    return from_dict(TokenSet, made_by, where=f"'{join(folder, TOKENS)}'") if made_by else None


def _check_size(place: str, size: tuple[int, int], asked: tuple[int, int]) -> None:
    """Raise PhenakiError where token shards are of clips of another size than is asked of them."""
    if size != asked:
        raise PhenakiError(
            f"the ids in '{place}' are of clips of {size[0]}x{size[1]} pixels, and {asked[0]}x{asked[1]} are asked "
            f"for: a source of training names its size, {{place: {place}, size: [{size[0]}, {size[1]}]}}, and the "
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


def _token_shards(place: str, made_by: TokenSet) -> list[str]:
    """Of a folder by their number, where it is told, and not by listing them, which a web server cannot."""
    if not _is_folder(place):
        return expand(place)
    shards = []
    for rank in range(made_by.processes):
        name = name_of_share(rank)
        count = (_json(place, f"{name}.json") or {}).get("shards", 0)
        shards += [join(place, f"{name}-{number:06d}.tar") for number in range(count)]
    return shards or expand(place)


def _packed_shards(place: str, packed: dict[str, Any], split: Split) -> list[str]:
    """By their number and not by listing them, which a web server cannot."""
    count = packed.get(split, {}).get("shards", 0)
    if not count:
        raise PhenakiError(f"'{place}' has no samples for {split}: pack it with another --validation")
    return expand(join(place, f"{split}/shard-{{000000..{count - 1:06d}}}.tar"))


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


def _check_no_packed(place: str, shards: list[str]) -> None:
    """Raise PhenakiError for a folder with what `pack` wrote or is writing: its validation part would be trained on.

    A part of it, such as "my/shards/train", may be named by itself.
    """
    folders = {posixpath.split(posixpath.dirname(shard)) for shard in shards if _is_folder(place)}
    for folder, part in sorted(folders):
        if part not in SPLITS or len(folder) < len(place.rstrip("/")):
            continue
        if read_if_there(join(folder, DATASET)):
            raise PhenakiError(f"'{place}' holds the packed data set '{folder}': name that, or its parts by a pattern")
        _check_finished(folder)


def _check_finished(folder: str) -> None:
    """Raise PhenakiError for a folder that `pack` is writing, or was when it was stopped."""
    if os.path.exists(join(folder, JOURNAL)):
        raise PhenakiError(f"Packing into '{folder}' is not finished: the same `phenaki data pack` goes on with it")


def _is_folder(place: str) -> bool:
    """By its name, where it is not local."""
    return os.path.isdir(place) or not _PATTERN.search(place)


def _json(place: str, name: str) -> dict[str, Any] | None:
    """The JSON object `name` in the folder `place`, local or remote, where there is one."""
    if not _is_folder(place):
        return None
    try:
        data = read_if_there(join(place, name))
    except PhenakiError as error:
        raise PhenakiError(f"'{place}' cannot be read: a look for {name} there failed. {error}") from error
    if data is None:
        return None
    try:
        return json.loads(data)
    except ValueError as error:
        raise PhenakiError(f"'{join(place, name)}' cannot be read as JSON: {error}.") from error
