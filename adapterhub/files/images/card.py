"""A plain card for an embedding without a cover: what it is called, what it is, and how its values look."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

_SIDE, _MARGIN = 512, 40
_GROUND, _INK, _FAINT = (24, 28, 38), (240, 240, 235), (150, 160, 175)
_DARK, _BRIGHT = (30, 50, 80), (120, 220, 210)
"""What the smallest and the largest value are drawn in."""
_NAME_SIZES = range(44, 19, -4)
_TEXT_SIZE = 20
_MAP = (_MARGIN, 210, _SIDE - _MARGIN, 430)
"""Where the values are drawn: left, top, right, bottom."""


def draw_card(tree: Mapping[str, Any], vectors: np.ndarray) -> Image.Image:
    """A card for the embedding `tree`, whose `vectors` are the rows of a matrix."""
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (_SIDE, _SIDE), _GROUND)
    image.paste(_map(vectors), _MAP[:2])
    draw = ImageDraw.Draw(image)
    _line(draw, 56, _printable(tree.get("name")) or "embedding", _INK, _NAME_SIZES)
    step, checkpoint = tree.get("step"), _printable(tree.get("sd_checkpoint_name"))
    count, width = vectors.shape
    facts = [f"{count} vector{'s' * (count != 1)} of {width} values"]
    if isinstance(step, int):
        facts.append(f"step {step}")
    _line(draw, 130, "  ·  ".join(facts), _FAINT, (_TEXT_SIZE,))
    _line(draw, 446, checkpoint, _FAINT, (_TEXT_SIZE,))
    return image


def _printable(text: Any) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in text[:200]) if isinstance(text, str) else ""


def _line(draw: Any, top: int, text: str, colour: tuple[int, int, int], sizes: Sequence[int]) -> None:
    """One line of text in the largest of `sizes` that it fits in, cut where it fits in none."""
    from PIL import ImageFont

    room = _SIDE - 2 * _MARGIN
    fonts = [ImageFont.load_default(size) for size in sizes]
    font = next((font for font in fonts if font.getlength(text) <= room), fonts[-1])
    whole = text
    while font.getlength(text) > room:
        whole = whole[:-1]
        text = f"{whole}..."
    draw.text((_MARGIN, top), text, fill=colour, font=font)


def _map(vectors: np.ndarray) -> Image.Image:
    """One row for each vector, brighter where a value is farther from 0."""
    import numpy as np
    from PIL import Image, ImageOps

    grey = np.rint(magnitudes(vectors) * 255).astype(np.uint8)
    left, top, right, bottom = _MAP
    image = Image.fromarray(grey).resize((right - left, bottom - top), Image.Resampling.NEAREST)
    return ImageOps.colorize(image, _DARK, _BRIGHT)


def magnitudes(values: np.ndarray) -> np.ndarray:
    """How far each value is from 0, as a part of the farthest: 0 to 1."""
    import numpy as np

    sizes = np.abs(np.nan_to_num(values.astype(np.float64), posinf=0, neginf=0))
    return sizes / (sizes.max(initial=0) or 1)
