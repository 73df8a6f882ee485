"""Pictures of a folder and what is said of them, brought to squares: Pillow and numpy, nothing else."""

from __future__ import annotations

import json
import struct
import warnings
import zlib
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from adapterhub.errors import MalformedFile, NotFound, UsageError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif"})
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
"""What is decoded, whatever a file is called: Pillow runs another program for some of the rest."""
_OTHER = frozenset({".tif", ".tiff", ".heic", ".heif", ".avif", ".jxl", ".jp2"})
"""Pictures that are not read; passed over in silence, they would be missed."""
SMALLEST = 16
"""Pixels of a side below which a picture shows nothing that could be learned."""
LONGEST = 16
"""Times that a picture may be as long as wide: of a longer one, a square shows next to nothing."""
LARGEST = 1 << 20
"""Bytes of a caption."""
_UNDECODABLE = (OSError, ValueError, SyntaxError, LookupError, TypeError, ArithmeticError, EOFError, AttributeError, RuntimeError,
                struct.error, zlib.error, Image.DecompressionBombError, Image.DecompressionBombWarning)  # fmt: skip
"""What Pillow's decoders raise for files that are damaged or made to hurt."""


@dataclass(frozen=True)
class Picture:
    """A picture, upright and without transparency (which becomes white), and what stands beside it as its caption. Of an animated
    one it is the first frame. `size` is what it was before it was brought down to the side that it is trained at.
    """

    name: str
    image: Image.Image
    caption: str | None
    size: tuple[int, int]


def load(folder: Path, *, captions: bool = True, side: int | None = None) -> list[Picture]:
    """The pictures in `folder` by name, not those in folders inside; `covering` the square of `side`, of which all are kept in
    memory: 3 · side² bytes each and more. UsageError without the folder; NotFound where there are none; MalformedFile for one that cannot be decoded or is too
    small. An empty caption counts for none.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder", mend="Give the folder that the pictures lie in.")
    there = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    if other := next((path for path in there if path.suffix.lower() in _OTHER), None):
        raise MalformedFile(other, "picture", "pictures of this kind are not read", mend="Save it as a PNG or JPEG, or take it out.")  # fmt: skip
    found = [path for path in there if path.suffix.lower() in SUFFIXES]
    if not found:
        raise NotFound(f"{folder}: no pictures in it", mend=f"Training needs some of {', '.join(sorted(SUFFIXES))}.")
    told = _listed(folder, {path.name for path in found}) if captions else {}
    return [_picture(path, _beside(path, told) if captions else None, side) for path in found]


def _picture(path: Path, caption: str | None, side: int | None) -> Picture:
    image = _image(path)
    return Picture(path.name, image if side is None else covering(image, side), caption or None, image.size)


def _listed(folder: Path, names: Set[str]) -> dict[str, str]:
    """The captions in metadata.jsonl, as Hugging Face's image folders have them: {"file_name": …, "text": …} a line, of one of
    the pictures called `names`.
    """
    path = folder / "metadata.jsonl"
    told: dict[str, str] = {}
    if not path.is_file():
        return told
    for number, line in enumerate(_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            name, caption = row["file_name"], row["text"]
        except (ValueError, KeyError, TypeError, RecursionError):
            name = caption = None
        if not isinstance(name, str) or not isinstance(caption, str):
            raise MalformedFile(path, "caption", f'line {number} is no {{"file_name": …, "text": …}}')
        if name not in names:
            raise MalformedFile(
                path, "caption", f"line {number} is of {name}, and there is no such picture in the folder"
            )
        told[name] = caption.strip()
    return told


def _text(path: Path) -> str:
    """What a file of captions says, a byte-order mark left out."""
    if path.name != "metadata.jsonl" and path.stat().st_size > LARGEST:
        raise MalformedFile(path, "caption", "this is no caption: it has more than a million bytes")
    try:
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError:
        raise MalformedFile(path, "caption", "the caption is not UTF-8", mend="Save it as UTF-8.") from None


def _beside(path: Path, listed: dict[str, str]) -> str | None:
    text = path.with_suffix(".txt")
    return _text(text).strip() if text.is_file() else listed.get(path.name)


def _image(path: Path) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=_FORMATS) as opened:
                _ensure_sides(path, opened.size)
                image = _opaque(ImageOps.exif_transpose(opened))
    except MalformedFile:
        raise
    except _UNDECODABLE as error:
        raise MalformedFile(
            path, "picture", f"the picture cannot be decoded: {error}", mend="Remove it, or save it again."
        ) from None
    return image


def _ensure_sides(path: Path, size: tuple[int, int]) -> None:
    width, height = size
    if min(size) < SMALLEST:
        raise MalformedFile(path, "picture", f"the picture has {width} × {height} pixels, and training needs {SMALLEST} a side at least",
                            mend="Take it out, or give a larger one.")  # fmt: skip
    if max(size) > LONGEST * min(size):
        raise MalformedFile(path, "picture", f"the picture has {width} × {height} pixels: a square of it shows next to nothing",
                            mend="Cut out what is to be learned.")  # fmt: skip


def _opaque(image: Image.Image) -> Image.Image:
    """RGB: 16 bits a channel become 8, and what is transparent becomes white."""
    if image.mode.startswith("I"):  # 16-bit grey: Pillow would clip it at 255
        return Image.fromarray((np.asarray(image).astype(np.uint32) // 257).clip(0, 255).astype(np.uint8)).convert(
            "RGB"
        )
    if image.has_transparency_data:
        coloured = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), coloured).convert("RGB")
    return image.convert("RGB")


def covering(image: Image.Image, side: int) -> Image.Image:
    """The picture scaled so that a square of `side` just fits into it."""
    scale = side / min(image.size)
    size = (max(side, round(image.width * scale)), max(side, round(image.height * scale)))
    return image if size == image.size else image.resize(size, Image.Resampling.LANCZOS)


def square(image: Image.Image, side: int, where: float = 0.5) -> Tensor:
    """The square of `side` of a covering picture, from its left or top (0) to its right or bottom (1): (3, side, side) in [-1, 1]."""
    left, top = corner(image, side, where)
    cut = np.asarray(image.crop((left, top, left + side, top + side)), dtype=np.float32)
    return torch.from_numpy(cut).permute(2, 0, 1) / 127.5 - 1


def corner(image: Image.Image, side: int, where: float) -> tuple[int, int]:
    """Left and top of the square that `square` cuts out, in pixels."""
    return round((image.width - side) * where), round((image.height - side) * where)
