"""Pictures and captions of a folder: each exact, or an error before the first step; and what no base is."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from adapterhub import train
from adapterhub.errors import AdapterhubError, MalformedFile, NotFound, RefusedInput, UsageError
from adapterhub.train.pictures import covering, load, square
from tests.train.trainings import settings

BaseOf = Callable[[str], Path]
SIZE = (20, 24)


def rgb(path: Path) -> np.ndarray:
    (picture,) = load(path.parent)
    return np.asarray(picture.image)


def plain(mode: str, value: object, path: Path, **options: object) -> None:
    Image.new(mode, SIZE, value).save(path, **options)


def deep_grey(path: Path) -> None:
    values = np.full(SIZE[::-1], 0x8080, np.uint16)
    values[0, 0], values[0, 1] = 0, 0xFFFF
    Image.fromarray(values).save(path)


def palette(path: Path) -> None:
    image = Image.new("P", SIZE, 0)
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((0, 0), 1)
    image.save(path, transparency=1)


def animated(path: Path) -> None:
    frames = [Image.new("RGB", SIZE, colour) for colour in ("red", "blue")]
    frames[0].save(
        path, save_all=True, append_images=frames[1:], **({"lossless": True} if path.suffix == ".webp" else {})
    )


EXACT: dict[str, tuple[str, Callable[[Path], None], dict[tuple[int, int], tuple[int, int, int]]]] = {
    "RGB": ("a.png", lambda path: plain("RGB", (1, 2, 3), path), {(5, 5): (1, 2, 3)}),
    "grey": ("a.bmp", lambda path: plain("L", 77, path), {(5, 5): (77, 77, 77)}),
    "one bit": ("a.png", lambda path: plain("1", 1, path), {(5, 5): (255, 255, 255)}),
    "16 bits": ("a.png", deep_grey, {(0, 0): (0, 0, 0), (1, 0): (255, 255, 255), (5, 5): (128, 128, 128)}),
    "RGBA, clear": ("a.png", lambda path: plain("RGBA", (0, 0, 0, 0), path), {(5, 5): (255, 255, 255)}),
    "RGBA, half": ("a.png", lambda path: plain("RGBA", (255, 0, 0, 51), path), {(5, 5): (255, 204, 204)}),
    "LA": ("a.png", lambda path: plain("LA", (0, 51), path), {(5, 5): (204, 204, 204)}),
    "palette": ("a.png", palette, {(0, 0): (255, 255, 255), (5, 5): (10, 20, 30)}),
    "GIF": ("a.gif", animated, {(5, 5): (255, 0, 0)}),
    "WebP": ("a.webp", animated, {(5, 5): (255, 0, 0)}),
    "CMYK": ("a.jpg", lambda path: plain("CMYK", (255, 0, 0, 0), path, quality=100), {(5, 5): (0, 255, 255)}),
}  # fmt: skip


@pytest.mark.parametrize("name", EXACT)
def test_a_picture_of_any_kind_becomes_what_it_shows_on_white(name: str, tmp_path: Path) -> None:
    file, make, expected = EXACT[name]
    make(tmp_path / file)
    found = rgb(tmp_path / file)
    assert found.shape == (*SIZE[::-1], 3)
    near = 2 if file.endswith(".jpg") else 0
    for (x, y), colour in expected.items():
        assert np.abs(found[y, x].astype(int) - colour).max() <= near, (x, y)


TURNS = {1: (0, 0), 2: (-1, 0), 3: (-1, -1), 4: (0, -1), 5: (0, 0), 6: (-1, 0), 7: (-1, -1), 8: (0, -1)}
"""EXIF's orientation → where the first pixel of the file is seen (column, row)."""


@pytest.mark.parametrize("turn", TURNS)
def test_a_picture_is_turned_as_its_exif_says(turn: int, tmp_path: Path) -> None:
    image = Image.new("RGB", SIZE, "black")
    image.putpixel((0, 0), (255, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = turn
    image.save(tmp_path / "a.png", exif=exif)
    found = rgb(tmp_path / "a.png")
    x, y = TURNS[turn]
    assert found.shape[:2] == (SIZE if turn > 4 else SIZE[::-1])
    assert found[y, x].tolist() == [255, 0, 0]


def test_a_picture_is_scaled_to_cover_the_square_that_is_cut_out_of_it(tmp_path: Path) -> None:
    ramp = np.broadcast_to(np.arange(128, dtype=np.uint8)[None, :, None] * 2, (64, 128, 3))
    Image.fromarray(np.ascontiguousarray(ramp)).save(tmp_path / "a.png")
    (picture,) = load(tmp_path, side=32)
    assert (picture.size, picture.image.size) == ((128, 64), (64, 32))
    left, middle, right = (square(picture.image, 32, where) for where in (0.0, 0.5, 1.0))
    assert {tuple(one.shape) for one in (left, middle, right)} == {(3, 32, 32)}
    whole = torch.from_numpy(np.asarray(picture.image, dtype=np.float32)).permute(2, 0, 1) / 127.5 - 1
    assert torch.equal(left, whole[..., :32])
    assert torch.equal(middle, whole[..., 16:48])
    assert torch.equal(right, whole[..., 32:])
    assert covering(picture.image, 32) is picture.image


def bomb(path: Path) -> None:
    """A PNG of 100,000 × 100,000 pixels in a hundred bytes."""
    head = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", head), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in parts))  # fmt: skip


def cut_off(path: Path) -> None:
    chance = np.random.default_rng(0)
    Image.fromarray(chance.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:5000])


def foreign(path: Path) -> None:
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n(x) run\n")


BAD: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "no picture": ("a.png", lambda path: path.write_bytes(b"not a picture"), "cannot be decoded"),
    "empty": ("a.png", lambda path: path.write_bytes(b""), "cannot be decoded"),
    "cut off": ("a.png", cut_off, "cannot be decoded"),
    "a program": ("a.png", foreign, "cannot be decoded"),
    "one pixel": ("a.png", lambda path: Image.new("RGB", (1, 1)).save(path), "1 × 1 pixels, and training needs 16"),
    "a line": ("a.png", lambda path: Image.new("RGB", (16, 999)).save(path), "16 × 999 pixels: a square"),
    "bomb": ("a.png", bomb, "cannot be decoded"),
    "another kind": ("a.tiff", lambda path: Image.new("RGB", (32, 32)).save(path), "pictures of this kind are not read"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_picture_that_cannot_be_used_is_named(name: str, tmp_path: Path) -> None:
    file, make, said = BAD[name]
    make(tmp_path / file)
    with pytest.raises(MalformedFile, match=said) as raised:
        load(tmp_path)
    assert file in raised.value.message


def test_bytes_that_are_changed_anywhere_give_a_picture_or_a_refusal(tmp_path: Path) -> None:
    chance = np.random.default_rng(1)
    for suffix in ("png", "jpg", "webp", "gif", "bmp"):
        Image.fromarray(chance.integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(tmp_path / f"whole.{suffix}")
        whole = (tmp_path / f"whole.{suffix}").read_bytes()
        (tmp_path / f"whole.{suffix}").unlink()
        for _ in range(40):
            changed = bytearray(whole)
            for place in chance.integers(0, len(whole), 3):
                changed[place] = chance.integers(0, 256)
            (tmp_path / f"a.{suffix}").write_bytes(changed)
            with suppress(MalformedFile):
                load(tmp_path)
        (tmp_path / f"a.{suffix}").unlink()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.png", "b.png"):
        Image.new("RGB", SIZE, "red").save(tmp_path / name)
    return tmp_path


def captions(folder: Path) -> list[str | None]:
    return [picture.caption for picture in load(folder)]


def test_captions_stand_beside_the_pictures_or_in_a_list(folder: Path) -> None:
    assert captions(folder) == [None, None]
    rows = [{"file_name": "a.png", "text": "from the list"}, {"file_name": "b.png", "text": " ein Füchslein "}]
    (folder / "metadata.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + "\n\n", "utf-8")
    assert captions(folder) == ["from the list", "ein Füchslein"]
    (folder / "a.txt").write_bytes("\ufeffbeside it\n".encode())
    assert captions(folder) == ["beside it", "ein Füchslein"]
    (folder / "a.txt").write_text("  \n")
    assert captions(folder) == [None, "ein Füchslein"]
    assert [picture.caption for picture in load(folder, captions=False)] == [None, None]


BAD_CAPTIONS: dict[str, tuple[str, bytes, str]] = {
    "latin 1": ("a.txt", "Füchslein".encode("latin-1"), "not UTF-8"),
    "a book": ("a.txt", b"x" * 1_100_000, "no caption"),
    "latin 1 in the list": ("metadata.jsonl", b'{"file_name": "a.png", "text": "F\xfcchslein"}', "not UTF-8"),
    "no JSON": ("metadata.jsonl", b"{", "line 1 is no"),
    "no object": ("metadata.jsonl", b"[1]", "line 1 is no"),
    "no text": ("metadata.jsonl", b'{"file_name": "a.png", "text": null}', "line 1 is no"),
    "deep": ("metadata.jsonl", b"[" * 100_000, "line 1 is no"),
    "a picture that is not there": ("metadata.jsonl", b'{"file_name": "c.png", "text": "x"}', "line 1 is of c.png"),
}


@pytest.mark.parametrize("name", BAD_CAPTIONS)
def test_a_caption_that_cannot_be_used_is_named(name: str, folder: Path) -> None:
    file, text, said = BAD_CAPTIONS[name]
    (folder / file).write_bytes(text)
    with pytest.raises(MalformedFile, match=said):
        load(folder)


def test_a_folder_without_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no pictures in it"):
        load(tmp_path)
    with pytest.raises(UsageError, match="no such folder"):
        load(tmp_path / "nowhere")


def refused(kind: type[AdapterhubError], said: str, base: Path, images: Path, out: Path, technique: str = "lora", **changes: object) -> None:  # fmt: skip
    """Nothing is trained, and nothing is left behind."""
    with pytest.raises(kind, match=said):
        train.run(settings(technique, base, images, out, **changes))
    assert not out.exists()


def test_captions_that_are_too_long_or_missing_are_refused_before_the_first_step(
    base_of: BaseOf, folder: Path, tmp_path: Path
) -> None:
    (folder / "a.txt").write_text("cat " * 76)
    refused(
        RefusedInput,
        "a.png: its caption has 76 tokens, and the text encoder reads 75",
        base_of("sd1"),
        folder,
        tmp_path / "out",
    )
    (folder / "a.txt").write_text("cat " * 75)
    refused(UsageError, "b.png has no caption", base_of("sd1"), folder, tmp_path / "out", prompt=None)
    train.run(settings("lora", base_of("sd1"), folder, tmp_path / "out", steps=1))


def test_a_base_that_is_none_is_refused_before_the_first_step(
    base_of: BaseOf, pictures: Path, style: Path, tmp_path: Path
) -> None:
    refused(RefusedInput, "no whole model", style, pictures, tmp_path / "out")
    refused(RefusedInput, "architecture sdxl-refiner, and this trainer knows sd1, sd2, sdxl", base_of("sdxl-refiner"), pictures, tmp_path / "out")  # fmt: skip
    refused(UsageError, "no such file or folder", tmp_path / "nowhere", pictures, tmp_path / "out")
    refused(NotFound, "neither a path nor a model that can be had from the Hub", Path("nobody/nothing"), pictures, tmp_path / "out")  # fmt: skip
    (tmp_path / "text.safetensors").write_text("not a model")
    refused(MalformedFile, "text.safetensors", tmp_path / "text.safetensors", pictures, tmp_path / "out")
