"""A picture as its container describes it: checked, but no pixel decoded."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from adapterhub.files.limits import Limits
from adapterhub.files.pickles.state import Refusal

_PIXEL_BYTES = 8
"""What one pixel takes at most: four channels of 16 bits."""


@dataclass(frozen=True, slots=True)
class Picture:
    """`pixels` is a file of `format` for Pillow, without anything that has no say in pixels; None where there are more
    than `Limits.decoded`, or none that could hold strips. `text` is the payload of the text chunk.
    """

    kind: str
    format: str
    width: int
    height: int
    pixels: bytes | None
    text: bytes | None = None


def require_size(width: int, height: int, limits: Limits) -> None:
    """Refusal for a picture without pixels, or with too many."""
    if not width or not height:
        raise Refusal("picture-empty", f"the picture claims to be {width} × {height}")
    if width * height > limits.pixels:
        raise Refusal("picture-too-large", f"the picture claims {width} × {height} pixels, above {limits.pixels}")


def require_packed(size: int, width: int, height: int) -> None:
    """Refusal for more bytes of compressed pixels than there could be."""
    if size > _PIXEL_BYTES * (width + 1) * (height + 1) + (1 << 16):
        raise Refusal("picture-data", f"{size} bytes of pixels in a picture of {width} × {height}")


@contextmanager
def decoding() -> Iterator[None]:
    """Turns whatever Pillow raises for a broken picture into a ValueError that says why."""
    from PIL import Image, UnidentifiedImageError

    try:
        yield
    except UnidentifiedImageError:
        raise ValueError("it is no picture, or a broken one") from None
    except (OSError, SyntaxError, EOFError, struct.error, Image.DecompressionBombError) as error:
        raise ValueError(str(error)) from None


def inflate(pieces: Iterable[bytes], limit: int) -> bytes:
    """What a zlib stream holds; what follows its end is not looked at.

    Refusal where that is more than `limit` bytes, zlib.error where there is no stream, or a damaged or cut one.
    """
    stream = zlib.decompressobj()
    parts, left = [], limit
    for piece in pieces:
        parts.append(stream.decompress(piece, left + 1))
        left -= len(parts[-1])
        if left < 0:
            raise Refusal("payload-too-large", f"the embedding inflates to more than {limit} bytes")
        if stream.eof:
            return b"".join(parts)
    raise zlib.error("the stream is cut")
