"""An embedding into a picture: as a text chunk and side strips of a PNG, or as side strips of a lossless WebP."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapterhub.errors import UsageError
from adapterhub.files.images import payload, strips
from adapterhub.files.images.card import draw_card, magnitudes
from adapterhub.files.images.cover import fitted, open_cover
from adapterhub.files.images.png import KEYWORD
from adapterhub.files.package import PNG, WEBP
from adapterhub.tensors import LazyTensor, values

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

_SEPARATOR = 1
"""Columns of black between a strip and the picture."""
_LARGEST_WEBP = 16383
# Upper four bits of the strips, none of them 0: A1111 cuts off what is black before it looks for the strips.
_QUIET, _LOUD = (16, 16, 32), (48, 128, 144)


def render(tree: Mapping[str, Any], cover: Path | None, container: str) -> bytes:
    """The picture file of `container` (PNG or WEBP) that holds `tree`: on `cover`, or on a plain card.

    UsageError where the cover cannot be read, or the picture would be too wide for WebP. The same input gives the same
    bytes, for the same Pillow.
    """
    content = payload.dumps(tree)
    packed = zlib.compress(content, 9)
    vectors = _vectors(tree)
    image = fitted(open_cover(cover) if cover else draw_card(tree, vectors), len(packed))
    framed = _framed(image, packed, magnitudes(vectors[0]))
    return _WRITERS[container](framed, content)


def _vectors(tree: Any) -> np.ndarray:
    """The first tensor of `tree` as a matrix, for the eye; one 0 where there is none."""
    import numpy as np

    found = next((tensor for tensor in _tensors(tree) if tensor.size), None)
    if found is None:
        return np.zeros((1, 1))
    matrix = values(found)
    return matrix.reshape(-1, matrix.shape[-1] if matrix.shape else 1)


def _tensors(tree: Any) -> Iterator[LazyTensor]:
    if isinstance(tree, LazyTensor):
        yield tree
    elif isinstance(tree, Mapping):
        for value in tree.values():
            yield from _tensors(value)


def _framed(image: Image.Image, packed: bytes, waves: np.ndarray) -> Image.Image:
    """`image` between the strips that hold `packed`, a black column on either side."""
    from PIL import Image, ImageChops, ImageOps

    width = strips.strip_width(len(packed), image.height)
    wave = _wave((width, image.height), waves)
    low, high = (
        ImageChops.add(Image.frombytes("RGB", wave.size, nibbles), decoration)
        for nibbles, decoration in zip(strips.hide(packed, image.height), (ImageOps.mirror(wave), wave), strict=True)
    )
    begin = width + _SEPARATOR
    framed = Image.new("RGB", (2 * begin + image.width, image.height))
    framed.paste(low, (0, 0))
    framed.paste(image, (begin, 0))
    framed.paste(high, (begin + image.width + _SEPARATOR, 0))
    return framed


def _wave(size: tuple[int, int], waves: np.ndarray) -> Image.Image:
    """What the right strip looks like: a bar from the left for each row, as long as its value says."""
    from PIL import Image, ImageDraw

    width, height = size
    image = Image.new("RGB", size, _QUIET)
    draw = ImageDraw.Draw(image)
    for row in range(height):
        length = round(float(waves[row * len(waves) // height]) * width)
        if length:
            draw.line((0, row, length - 1, row), fill=_LOUD)
    return image


def _png(image: Image.Image, content: bytes) -> bytes:
    from PIL.PngImagePlugin import PngInfo

    text = PngInfo()
    text.add_text(KEYWORD.decode(), base64.b64encode(content).decode())
    return _saved(image, "PNG", pnginfo=text)


def _webp(image: Image.Image, _: bytes) -> bytes:
    if max(image.size) > _LARGEST_WEBP:
        raise UsageError(
            f"the picture would be {image.width} × {image.height}, and WebP ends at {_LARGEST_WEBP}",
            mend="Give a taller cover, or write a PNG.",
        )
    return _saved(image, "WEBP", lossless=True, quality=80, method=4)


def _saved(image: Image.Image, name: str, **options: Any) -> bytes:
    out = BytesIO()
    image.save(out, name, **options)
    return out.getvalue()


_WRITERS = {PNG: _png, WEBP: _webp}
