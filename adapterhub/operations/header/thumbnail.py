"""The small picture in `modelspec.thumbnail`: a data URI (RFC 2397), as ModelSpec wants it of about 256 × 256 pixels."""

from __future__ import annotations

import base64
import binascii
import re
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

from adapterhub.documents.header import Thumbnail
from adapterhub.errors import NotFound, RefusedInput
from adapterhub.files import publishing
from adapterhub.files.images.cover import open_cover
from adapterhub.files.images.picture import decoding
from adapterhub.files.limits import LIMITS
from adapterhub.files.source import machine
from adapterhub.files.streaming import write_all
from adapterhub.files.targets import require_file_target

FIELD = "modelspec.thumbnail"
SIDE = 256
"""Pixels of the longer side."""
_QUALITY = 85
_TYPES = {"image/jpeg": "JPEG", "image/png": "PNG", "image/webp": "WEBP", "image/gif": "GIF"}
"""Media types that are taken out, and Pillow's names for them. An SVG may hold programs."""
_URI = re.compile(r"data:([\w/+.-]{1,64});base64,([A-Za-z0-9+/]*={0,2})\s*")


class Picture(NamedTuple):
    """The bytes of a thumbnail, and what they are."""

    content: bytes
    told: Thumbnail


def rendered(path: Path) -> str:
    """The picture at `path` as a data URI: turned as its EXIF says, which then goes, and at most SIDE × SIDE."""
    image = open_cover(path)
    image.thumbnail((SIDE, SIDE))
    out = BytesIO()
    image.save(out, "JPEG", quality=_QUALITY, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(out.getvalue()).decode('ascii')}"


def picture(uri: str) -> Picture:
    """The picture in a data URI. ValueError, completing "is …", where it is none."""
    from PIL import Image

    found = _URI.fullmatch(uri)
    if found is None:
        raise ValueError("no data URI in base64, such as data:image/jpeg;base64,…")
    if found[1].lower() not in _TYPES:
        raise ValueError(f"of the type {found[1]}, not one of {', '.join(_TYPES)}")
    try:
        content = base64.b64decode(found[2], validate=True)
    except binascii.Error as error:
        raise ValueError(f"no base64: {error}") from None
    try:
        with decoding(), Image.open(BytesIO(content), formats=[_TYPES[found[1].lower()]]) as image:
            width, height = image.size
    except ValueError:
        raise ValueError(f"no picture of the type {found[1]}") from None
    if width * height > LIMITS.pixels:
        raise ValueError(f"a picture of {width} × {height}, above {LIMITS.pixels} pixels")
    return Picture(content, Thumbnail(media_type=found[1].lower(), width=width, height=height, size=len(content)))


def extract(path: Path, uri: str | None, target: Path, *, force: bool) -> None:
    """Writes the picture as it is to `target`. NotFound where the header of `path` has none, RefusedInput where it is odd."""
    if uri is None:
        raise NotFound(f"{path} has no {FIELD}", mend="adapterhub metadata --thumbnail PICTURE gives it one.")
    try:
        content = picture(uri).content
    except ValueError as error:
        raise RefusedInput(f"{path}: {FIELD} is {error}") from None
    require_file_target(target, [path], force=force)
    with publishing.unpublished_file(target) as (temporary, descriptor):
        with machine("write", target):
            write_all(descriptor, content)
        publishing.publish_file(temporary, target, force=force)
