"""The pictures that embeddings are put into: covers of every kind, and cards."""

import json
import os
import struct
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from adapterhub import files
from adapterhub.errors import UsageError
from adapterhub.files.images import strips
from adapterhub.files.images.cover import fitted
from adapterhub.files.images.writing import render
from tests.files.pictures import COVER, EXPECTED, chunk, document, embedding, floats, saved, strips_by_hand


def gradient(mode: str) -> Image.Image:
    grey = Image.linear_gradient("L").resize((90, 70))
    if mode == "I;16":
        return Image.fromarray(np.asarray(grey).astype("<u2") * 257)
    return grey.convert("RGB").convert(mode) if mode == "CMYK" else grey.convert(mode)


FORMATS = {
    "1": "PNG",
    "L": "PNG",
    "LA": "PNG",
    "P": "GIF",
    "RGB": "BMP",
    "RGBA": "PNG",
    "I;16": "PNG",
    "CMYK": "JPEG",
    "F": "TIFF",
}


@pytest.mark.parametrize("mode", FORMATS)
def test_a_cover_of_any_mode_stands_between_the_strips(tmp_path: Path, mode: str) -> None:
    path = saved(gradient(mode), tmp_path / "cover", format=FORMATS[mode])
    content = render(embedding(floats()), path, "png")
    with Image.open(BytesIO(content)) as image:
        inner = np.asarray(image.crop(((image.width - 90) // 2, 0, (image.width + 90) // 2, 70)))
        assert json.loads(strips_by_hand(image)) == json.loads(document(EXPECTED))
    distance = np.abs(inner.astype(int) - np.asarray(gradient("L"))[:, :, None])
    assert distance.max() <= (255 if mode == "1" else 6 if mode in ("CMYK", "P") else 0)
    assert distance.mean() <= 128


def test_a_cover_is_turned_as_its_exif_says_and_white_where_it_is_transparent(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = saved(Image.new("RGBA", (100, 70), (0, 0, 0, 0)), tmp_path / "cover.png", exif=exif)
    with Image.open(BytesIO(render(embedding(floats()), path, "png"))) as image:
        assert image.height == 100
        assert image.getpixel((image.width // 2, 50)) == (255, 255, 255)


BIG = 200_000
SIZES = {
    "as large as it must be": ((300, 300), 100, (300, 300)),
    "too small": ((20, 10), BIG, None),
    "a pixel": ((1, 1), BIG, None),
    "flat": ((300, 1), 100, (300, 64)),
    "narrow": ((1, 2048), 100, (1, 2048)),
}


@pytest.mark.parametrize("what", SIZES)
def test_a_cover_is_enlarged_only_where_strips_would_be_wider_than_it(what: str) -> None:
    size, count, expected = SIZES[what]
    image = fitted(Image.new("RGB", size), count)
    assert expected is None or image.size == expected
    assert image.height >= 64
    assert strips.strip_width(count, image.height) <= image.width


def test_a_large_cover_becomes_smaller(tmp_path: Path) -> None:
    path = saved(Image.new("L", (6000, 3000), 99), tmp_path / "cover.png")
    with Image.open(BytesIO(render(embedding(floats()), path, "png"))) as image:
        assert (image.height, image.width < 2100) == (1024, True)
        assert image.getpixel((image.width // 2, 500)) == (99, 99, 99)


def test_a_cover_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "note.png").write_bytes(b"not a picture")
    cut = saved(COVER, tmp_path / "whole.png").read_bytes()[:200]
    (tmp_path / "cut.png").write_bytes(cut)
    (tmp_path / "figure.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n")
    bomb = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">2I5B", 60000, 60000, 8, 2, 0, 0, 0)) + chunk(b"IDAT", b"")
    )
    (tmp_path / "bomb.png").write_bytes(bomb)
    os.mkfifo(tmp_path / "pipe.png")
    for name in ("note.png", "cut.png", "figure.png", "bomb.png", "pipe.png", "missing.png", "."):
        with pytest.raises(UsageError, match=str(tmp_path / name).replace("/.", "")):
            render(embedding(floats()), tmp_path / name, "png")


NAMES = ["yuno", "", None, "x" * 5000, "a\nb\x1b[31m", "日本語 \U0001f600", "-" * 60, 5]


@pytest.mark.parametrize("name", NAMES)
def test_a_card_is_drawn_for_every_name_and_always_the_same(name: Any) -> None:
    tree = {**embedding(floats()), "name": name}
    content = render(tree, None, "png")
    assert content == render(tree, None, "png")
    with Image.open(BytesIO(content)) as image:
        assert json.loads(strips_by_hand(image))["name"] == name
        inner = image.crop((image.width // 2 - 256, 0, image.width // 2 + 256, 512))
        assert inner.getextrema() != Image.new("RGB", (512, 512), inner.getpixel((0, 0))).getextrema()


@pytest.mark.parametrize("rows", [[0.0] * 4, [[float("nan")] * 4], [], 1.5, np.zeros((300, 4)).tolist()])
def test_vectors_of_every_shape_are_drawn_and_read(tmp_path: Path, rows: Any) -> None:
    (tmp_path / "x.png").write_bytes(render(embedding(floats(rows)), None, "png"))
    with files.read(tmp_path / "x.png") as package:
        found = package.only.tensors["string_to_param.*"]
        assert (found.shape, found.read()) == (floats(rows).shape, floats(rows).read())


def test_a_picture_that_would_be_too_wide_for_webp_is_refused(tmp_path: Path) -> None:
    path = saved(Image.new("RGB", (2048, 1)), tmp_path / "cover.png")
    dice = np.random.default_rng(0).standard_normal((300, 768), np.float32)
    with pytest.raises(UsageError, match="WebP ends at 16383"):
        render(embedding(floats(dice)), path, "webp")
