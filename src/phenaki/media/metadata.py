"""How a file was made, kept in the file itself: JSON in the comment of an mp4, GIF, WebP or PNG."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from phenaki.core.errors import BadSample, PhenakiError
from phenaki.core.reading import open_regular
from phenaki.core.version import __version__
from phenaki.media.pictures import open_image
from phenaki.media.streams import open_container
from phenaki.media.view import reading_errors

Metadata = Mapping[str, Any]
"""JSON-serialisable, such as prompts, seed and settings."""

VERSION = "phenaki"  # the key that marks a comment as ours, and holds the version that wrote it
_DESCRIPTION = 0x010E  # EXIF: ImageDescription


def to_comment(metadata: Metadata) -> str:
    """Metadata with this version as one line of ASCII."""
    return json.dumps({VERSION: __version__} | dict(metadata))


def from_comment(comment: str | bytes | None) -> dict[str, Any] | None:
    """The metadata in a comment; None for any that `to_comment` did not write."""
    try:
        metadata = json.loads(comment or "null")
    except (ValueError, RecursionError):
        return None
    return metadata if isinstance(metadata, dict) and VERSION in metadata else None


def picture_options(metadata: Metadata | None, form: str) -> dict[str, Any]:
    """What Pillow's `save` takes to keep the metadata in a "GIF", "WebP" or "PNG"."""
    if metadata is None:
        return {}
    comment = to_comment(metadata)
    if form == "PNG":
        info = PngInfo()
        info.add_text("Comment", comment)
        return {"pnginfo": info}
    if form == "WebP":
        exif = Image.Exif()
        exif[_DESCRIPTION] = comment
        return {"exif": exif.tobytes()}
    return {"comment": comment.encode()}


def read_metadata(path: str | Path) -> dict[str, Any] | None:
    """How a file, or a folder of frames, was made, with the version under "phenaki"; None if it does not say.

    Raises PhenakiError for a missing file, and for one that is no video or picture.
    """
    path = Path(path)
    if not os.path.exists(path):
        raise PhenakiError(f"There is no file or folder '{path}'.")
    if path.is_dir():
        pictures = sorted(path.glob("*.png"))
        return read_metadata(pictures[0]) if pictures else None
    try:
        with reading_errors(), open_regular(path) as file:
            comments = _comments(file, path.suffix.lower())
    except BadSample as error:
        raise PhenakiError(f"'{path}' is no video or picture: {error}.") from error
    return next(filter(None, map(from_comment, comments)), None)


def _comments(file: BinaryIO, ending: str) -> tuple[Any, ...]:
    if ending in (".gif", ".webp", ".png"):
        with open_image(file) as image:
            return image.info.get("Comment"), image.info.get("comment"), image.getexif().get(_DESCRIPTION)
    with open_container(file) as container:
        return (container.metadata.get("comment"),)
