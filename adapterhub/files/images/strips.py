"""The strips beside a picture: the low nibbles of a payload's bytes to its left, the high ones to its right.

Each nibble lies in the low four bits of one channel of one pixel, combined by XOR with a key stream; a black column
parts each strip from the picture. What stands in the upper four bits is for the eye.
Source: A1111 `image_embedding.py` (`insert_image_data_embed`, `extract_image_data_embed`, `crop_black`, `lcg`).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

from adapterhub.files.images.picture import inflate

if TYPE_CHECKING:
    from PIL import Image

CHANNELS = 3
LOW = 15
"""The bits of a channel that hold data."""
_BLOCK = 1 << 16
"""Nibbles that are looked at at once: what is no payload shows in the first of them."""
_LOW_OF = bytes(byte & LOW for byte in range(256))
_HIGH_OF = bytes(byte >> 4 for byte in range(256))
_REACH = 4
"""Columns to both sides of a black line that it is compared with, and by which two lines may miss their symmetry."""


def key_stream() -> Iterator[int]:
    """What data is combined with: the states of a linear congruential generator, modulo 255 (not 256).

    A loop is quicker than importing numpy, up to a million keys; an embedding takes some ten thousand.
    """
    state = 0
    while True:
        state = (1664525 * state + 1013904223) & 0xFFFFFFFF
        yield state % 255


def strip_width(size: int, height: int) -> int:
    """The width of each strip for `size` bytes: they are filled up to whole rows, and always by at least one.

    Source: A1111 fills twice, to a multiple of the height and then of a row of pixels, and never by nothing.
    """
    row = height * CHANNELS
    filled = size + height - size % height
    return (filled + row - filled % row) // row


def hide(packed: bytes, height: int) -> tuple[bytes, bytes]:
    """The channels of both strips, their upper bits zero, for a zlib stream; what is left over repeats it."""
    count = strip_width(len(packed), height) * height * CHANNELS
    filled = (packed * -(-count // len(packed)))[:count]
    key = _keys(key_stream(), count)
    low, high = (_combined(filled.translate(table), key).to_bytes(count, "little") for table in (_LOW_OF, _HIGH_OF))
    return low, high


def find(image: Image.Image, limit: int) -> bytes | None:
    """The payload in the strips of an RGB picture; None where there are none, or damaged ones.

    Refusal where it inflates to more than `limit` bytes.
    """
    low = image.crop(_bounds(image)).point([value & LOW for value in range(256)] * CHANNELS)
    columns, _ = low.getprojection()
    black = [place for place, filled in enumerate(columns) if not filled]
    if len(black) < 2 or black[0] != low.width - 1 - black[-1]:
        return None
    left, right = ((0, 0, black[0], low.height), (black[-1] + 1, 0, low.width, low.height))
    try:
        return inflate(_packed(low.crop(left).tobytes(), low.crop(right).tobytes()), limit)
    except zlib.error:
        return None


def remains(image: Image.Image) -> bool:
    """Whether an RGB picture has two dark lines from top to bottom, at places that mirror each other."""
    from PIL import Image

    light = image.resize((image.width, 1), Image.Resampling.BOX).convert("L").tobytes()
    dark = [
        place
        for place in range(_REACH, image.width - _REACH)
        if 4 * light[place] < 3 * min(light[place - _REACH], light[place + _REACH])
    ]
    mirrored = {image.width - 1 - place + shift for place in dark for shift in range(-_REACH, _REACH + 1)}
    return any(place in mirrored and 2 * place + _REACH < image.width for place in dark)


def _bounds(image: Image.Image) -> tuple[int, int, int, int] | None:
    """The smallest rectangle around all pixels none of whose channels is 0."""
    from PIL import ImageChops

    red, green, blue = image.split()
    return ImageChops.darker(red, ImageChops.darker(green, blue)).getbbox()


def _packed(low: bytes, high: bytes) -> Iterator[bytes]:
    """The bytes whose nibbles both strips hold."""
    keys = key_stream()
    for start in range(0, len(low), _BLOCK):
        parts = low[start : start + _BLOCK], high[start : start + _BLOCK]
        count = len(parts[0])
        key = _keys(keys, count)
        yield (_combined(parts[0], key) | _combined(parts[1], key) << 4).to_bytes(count, "little")


def _keys(keys: Iterator[int], count: int) -> int:
    """The low nibbles of the next keys, one in each byte of a number."""
    return int.from_bytes(bytes(islice(keys, count)).translate(_LOW_OF), "little")


def _combined(nibbles: bytes, key: int) -> int:
    return int.from_bytes(nibbles, "little") ^ key
