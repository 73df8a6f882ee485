"""Pictures of a folder and what is said of them, brought to squares: Pillow and numpy, nothing else."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from adapterhub.errors import MalformedFile, NotFound

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp"})
SMALLEST = 16
"""Pixels of a side below which a picture shows nothing that could be learned."""


@dataclass(frozen=True)
class Picture:
    """A picture, upright and without transparency (which becomes white), and what stands beside it as its caption."""

    name: str
    image: Image.Image
    caption: str | None


def load(folder: Path, *, captions: bool = True) -> list[Picture]:
    """The pictures in `folder` by name, not those in folders inside. NotFound where there are none; MalformedFile for one that
    cannot be decoded or is too small.
    """
    if not folder.is_dir():
        raise NotFound(f"{folder}: no such folder", mend="Give the folder that the pictures lie in.")
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())
    if not found:
        raise NotFound(f"{folder}: no pictures in it", mend=f"Training needs some of {', '.join(sorted(SUFFIXES))}.")
    told = _listed(folder) if captions else {}
    return [Picture(path.name, _image(path), _beside(path, told) if captions else None) for path in found]


def _listed(folder: Path) -> dict[str, str]:
    """The captions in metadata.jsonl, as Hugging Face's image folders have them: {"file_name": …, "text": …} a line."""
    path = folder / "metadata.jsonl"
    told: dict[str, str] = {}
    if not path.is_file():
        return told
    for number, line in enumerate(path.read_text("utf-8", errors="strict").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            told[str(row["file_name"])] = str(row["text"])
        except (ValueError, KeyError, TypeError):
            raise MalformedFile(path, "caption", f'line {number} is no {{"file_name": …, "text": …}}') from None
    return told


def _beside(path: Path, listed: dict[str, str]) -> str | None:
    text = path.with_suffix(".txt")
    if text.is_file():
        try:
            return text.read_text("utf-8").strip()
        except UnicodeDecodeError:
            raise MalformedFile(text, "caption", "the caption is not UTF-8") from None
    return listed.get(path.name)


def _image(path: Path) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as opened:
                image = _opaque(ImageOps.exif_transpose(opened))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise MalformedFile(
            path, "picture", f"the picture cannot be decoded: {error}", mend="Remove it, or save it again."
        ) from None
    if min(image.size) < SMALLEST:
        raise MalformedFile(path, "picture", f"the picture has {image.width} × {image.height} pixels, and training needs "
                                             f"{SMALLEST} a side at least")  # fmt: skip
    return image


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
    left, top = round((image.width - side) * where), round((image.height - side) * where)
    cut = np.asarray(image.crop((left, top, left + side, top + side)), dtype=np.float32)
    return torch.from_numpy(cut).permute(2, 0, 1) / 127.5 - 1


def upscaled(pictures: Sequence[Picture], side: int) -> list[str]:
    """The names of those that are smaller than `side`."""
    return [picture.name for picture in pictures if min(picture.image.size) < side]
