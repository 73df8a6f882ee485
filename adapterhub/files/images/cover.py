"""The picture that an embedding is put into: the user's own, or a card."""

from __future__ import annotations

import math
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from adapterhub.errors import UsageError
from adapterhub.files.images.picture import decoding
from adapterhub.files.images.strips import CHANNELS
from adapterhub.files.limits import LIMITS
from adapterhub.files.source import machine

if TYPE_CHECKING:
    from PIL import Image

LARGEST = 2048
"""Pixels of the longer side; larger covers are made smaller."""
SHORTEST = 64
"""Pixels of the height: in fewer, a column of a strip could be black by chance, and end it."""
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
"""What covers may be; some formats of Pillow run other programs."""
_BYTES = 256 << 20
_FILLING = 2
"""Columns of a strip, at most, that only fill it up."""
_PAPER = (255, 255, 255)


def open_cover(path: Path) -> Image.Image:
    """The picture at `path` in RGB: turned as its EXIF says, on white where it is transparent, at most LARGEST.

    UsageError where it cannot be read.
    """
    from PIL import Image, ImageOps

    with machine("read", path):
        if not path.is_file():
            raise UsageError(f"the cover {path} is no file")
        if path.stat().st_size > _BYTES:
            raise UsageError(f"the cover {path} has more than {_BYTES} bytes")
        content = path.read_bytes()
    try:
        with decoding():
            image = Image.open(BytesIO(content), formats=_FORMATS)
            if image.width * image.height > LIMITS.pixels:
                raise ValueError(f"it has more than {LIMITS.pixels} pixels")
            image.thumbnail((LARGEST, LARGEST))
            return _opaque(ImageOps.exif_transpose(image))
    except ValueError as error:
        raise UsageError(
            f"the cover {path} cannot be read: {error}", mend=f"Give a picture of one of {', '.join(_FORMATS)}."
        ) from None


def fitted(image: Image.Image, size: int) -> Image.Image:
    """`image`, enlarged only where strips for `size` bytes would be wider than it, and no lower than SHORTEST."""
    from PIL import Image

    growth = math.sqrt(size / (CHANNELS * max(image.width - _FILLING, 1) * image.height))
    growth = min(growth, LARGEST / max(image.size))
    if growth > 1:
        image = image.resize((math.ceil(image.width * growth), math.ceil(image.height * growth)))
    if image.height >= SHORTEST:
        return image
    canvas = Image.new("RGB", (image.width, SHORTEST), _PAPER)
    canvas.paste(image, (0, (SHORTEST - image.height) // 2))
    return canvas


def _opaque(image: Image.Image) -> Image.Image:
    """In RGB; 16 bits of grey become 8, and what is transparent white."""
    from PIL import Image

    if image.mode.startswith("I;16"):
        image = image.convert("I").point(lambda value: value * (1 / 256)).convert("L")
    if not image.has_transparency_data:
        return image.convert("RGB")
    paper = Image.new("RGBA", image.size, (*_PAPER, 255))
    paper.alpha_composite(image.convert("RGBA"))
    return paper.convert("RGB")
