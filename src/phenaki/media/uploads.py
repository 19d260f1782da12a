"""Pictures from strangers: bytes of unknown form and size in, and PNG out."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from phenaki.core.errors import BadSample, PhenakiError
from phenaki.media.convert import Frames
from phenaki.media.pictures import open_image, render
from phenaki.media.view import check_pixels

_MAX_PIXELS = 25_000_000


def read_picture(data: bytes, size: tuple[int, int]) -> Frames:
    """The first frame of a picture file, resized by its short side and center-cropped to `size`: uint8 (H, W, 3).

    Raises PhenakiError for what is no picture, and for one of more than 25 million pixels.
    """
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP", "GIF", "BMP")) as image:
            check_pixels(image.width, image.height, _MAX_PIXELS)  # before anything is decoded
        with open_image(io.BytesIO(data)) as image:
            return np.array(render(image, size))
    except BadSample as error:
        raise PhenakiError(f"the picture cannot be used: {error}") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PhenakiError(f"the picture cannot be used: it has more than {_MAX_PIXELS:,} pixels") from error
    except Exception as error:  # Pillow raises many kinds for broken files
        raise PhenakiError(
            f"{len(data):,} bytes are no PNG, JPEG, WebP, GIF or BMP picture, or a broken one: use another file"
        ) from error


def encode_png(picture: Frames) -> bytes:
    """A picture uint8 (H, W, 3) as the bytes of a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()
