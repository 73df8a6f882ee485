"""The embedding inside a picture: from the text chunk, which is what A1111 takes first, or from the side strips."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from typing import TYPE_CHECKING, Any

from adapterhub.files.images import payload, strips
from adapterhub.files.images.picture import Picture, decoding
from adapterhub.files.images.png import SIGNATURE, read_png
from adapterhub.files.images.webp import read_webp
from adapterhub.files.limits import Limits
from adapterhub.files.package import File, Problem
from adapterhub.files.pickles.state import Refusal, shown
from adapterhub.files.pickles.tree import file_of
from adapterhub.files.source import Source

if TYPE_CHECKING:
    from PIL import Image

_STRIPS = "side strips"
_NOTHING = "no-embedding"
_SHOWN = 5
"""Differences that a message names."""


def read_file(source: Source, limits: Limits) -> tuple[File, list[Problem]]:
    """The embedding in a PNG or WebP picture, with the tree and the names of the `.pt` that A1111 makes of it.

    Where both the text chunk and the strips hold one, the text chunk counts, and a difference is a problem of severity
    error. A picture that never held one is a file without tensors, and a warning `no-embedding`; Refusal under that name
    where what is left of strips shows that it did, and where the picture breaks a rule.
    """
    is_png = source.read(0, min(source.size, len(SIGNATURE))) == SIGNATURE
    picture = read_png(source, limits) if is_png else read_webp(source, limits)
    tree, problems = _tree(picture, limits)
    file, odd = file_of(tree, {}, limits) if tree is not None else (File({}), [])
    source.ensure_unchanged()
    return file, problems + odd


def _tree(picture: Picture, limits: Limits) -> tuple[Any, list[Problem]]:
    image = _decoded(picture, picture.pixels) if picture.pixels else None
    hidden = strips.find(image, limits.payload) if image else None
    if picture.text is None:
        if hidden is None:
            return None, [_nothing(picture, image, limits)]
        return payload.loads(hidden, limits), []
    tree = payload.loads(picture.text, limits)
    return tree, list(_doubts(picture, image, hidden, tree, limits))


def _decoded(picture: Picture, pixels: bytes) -> Image.Image:
    """The pixels in RGB, as A1111 looks at them. Refusal where Pillow cannot decode them."""
    from PIL import Image

    try:
        with decoding():
            image = Image.open(BytesIO(pixels), formats=(picture.format,))
            image.load()
    except ValueError as error:
        raise Refusal("picture-pixels", f"the pixels of {picture.kind} cannot be decoded: {error}") from None
    return image if image.mode == "RGB" else image.convert("RGB")


def _nothing(picture: Picture, image: Image.Image | None, limits: Limits) -> Problem:
    """What to say of a picture without an embedding. Refusal where it held one."""
    message = f"{picture.kind} without an embedding; resizing, JPEG and optimising destroy the strips that hold one"
    if image and strips.remains(image):
        raise Refusal(
            _NOTHING,
            f"{message}. Dark lines part strips from its sides, as if it had held one: they are cropped, scaled or recompressed",
        )
    if image is None and picture.width * picture.height > limits.decoded:
        message += f"; strips were not looked for, as it has more than {limits.decoded} pixels"
    return Problem("warning", _NOTHING, "", message)


def _doubts(
    picture: Picture, image: Image.Image | None, hidden: bytes | None, tree: Any, limits: Limits
) -> Iterator[Problem]:
    """What is odd about the strips, where the text chunk makes `tree`."""
    if image is None:
        message = f"not looked for, as the picture has more than {limits.decoded} pixels; the text chunk counts"
        yield Problem("warning", "strips-not-read", _STRIPS, message)
    elif hidden is None and strips.remains(image):
        message = "they are cropped, scaled or recompressed; the text chunk counts"
        yield Problem("warning", "strips-damaged", _STRIPS, message)
    elif hidden is not None and hidden != picture.text and (places := _contradictions(tree, hidden, limits)):
        message = f"they differ from the text chunk, which counts, in {', '.join(places[:_SHOWN])}"
        others = f" and {len(places) - _SHOWN} more places" if len(places) > _SHOWN else ""
        yield Problem("error", "contradiction", _STRIPS, message + others)


def _contradictions(tree: Any, hidden: bytes, limits: Limits) -> list[str]:
    try:
        other = payload.loads(hidden, limits)
    except Refusal as refusal:
        return [f"all: {refusal.message}"]
    return [shown(place) for place in payload.differences(tree, other)]
