"""Pictures for a card: decoded and written again without whatever else they held, for that tells of machines and people.

The prompt is the one that A1111 writes into its pictures (`modules/processing.py`, `create_infotext`).
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from adapterhub.errors import MalformedFile, UsageError
from adapterhub.operations.header.cleaning import cleaned

MOST = 20
LARGEST = 40_000_000
"""Pixels of one picture."""
_SUFFIXES = {"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp"}
_KEPT: dict[str, dict[str, Any]] = {"PNG": {}, "JPEG": {"quality": "keep"}, "WEBP": {"lossless": True}}
_REST = re.compile(r"\n(?:Negative prompt:|Steps:)")
_TEXT = "parameters"


def staged(images: Sequence[Path | str], folder: Path) -> list[tuple[str, str]]:
    """Writes the pictures into `folder` as `image_0.png` and so on; their names, each with its prompt."""
    if len(images) > MOST:
        raise UsageError(f"{len(images)} pictures are more than the {MOST} that a card takes")
    return [_staged(Path(path), number, folder) for number, path in enumerate(images)]


def _staged(path: Path, number: int, folder: Path) -> tuple[str, str]:
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=tuple(_SUFFIXES)) as picture:
                if picture.width * picture.height > LARGEST:
                    raise MalformedFile(path, "too-large", f"has more than {LARGEST} pixels")
                name = f"image_{number}{_SUFFIXES[str(picture.format)]}"
                text = picture.info.get(_TEXT)
                picture.load()
                _write(picture, folder / name)
    except (
        UnidentifiedImageError,
        Image.DecompressionBombWarning,
        Image.DecompressionBombError,
        ValueError,
        SyntaxError,
    ) as error:
        raise MalformedFile(path, "no-picture", "is no PNG, JPEG or WebP that can be shown", mend="Give another picture.") from error  # fmt: skip
    return name, prompt_of(text) if isinstance(text, str) else ""


def _write(picture: object, target: Path) -> None:
    from PIL import Image

    assert isinstance(picture, Image.Image)
    kept, format_ = _KEPT[str(picture.format)], picture.format
    for name in ("exif", "xmp", "comment", "icc_profile", *[name for name in picture.info if name != "transparency"]):
        picture.info.pop(name, None)
    picture.save(target, format=format_, **kept)


def prompt_of(text: str) -> str:
    """The prompt in A1111's text: what stands before the negative prompt and the settings."""
    kept, _ = cleaned({_TEXT: _REST.split(text[:20_000], maxsplit=1)[0]})
    return kept.get(_TEXT, "").strip()
