"""Broken and hostile pictures are refused by a rule, or read for what they are, and cost little."""

import base64
import struct
import tempfile
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from adapterhub import files
from adapterhub.errors import MalformedFile
from adapterhub.files import Problem
from tests.files.pictures import COVER, chunk, document, framed_by_hand, with_chunk

SIGNATURE, KEYWORD = b"\x89PNG\r\n\x1a\n", b"sd-ti-embedding\0"
END = chunk(b"IEND", b"")
WIDE = document(np.random.default_rng(0).standard_normal((2, 768), np.float32).tolist())
STRIPS = framed_by_hand(WIDE, COVER.resize((200, 128)))


def begin(width: int = 1, height: int = 1, kind: bytes = b"\x08\x02\0\0\0") -> bytes:
    return chunk(b"IHDR", struct.pack(">2I", width, height) + kind)


def data(content: bytes = b"\0\1\2\3") -> bytes:
    return chunk(b"IDAT", zlib.compress(content))


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    out = BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def carrying(payload: bytes | str) -> bytes:
    raw = payload.encode() if isinstance(payload, str) else payload
    return with_chunk(b"tEXt", KEYWORD + base64.b64encode(raw))


def rule(content: bytes, name: str = "x.png") -> str:
    """The rule by which a file of this content is refused."""
    return str(refusal(content, name).rule)


def refusal(content: bytes, name: str = "x.png") -> MalformedFile:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        path.write_bytes(content)
        with pytest.raises(MalformedFile) as caught:
            files.read(path)
        return caught.value


def doubt(content: bytes, name: str = "x.png") -> Problem:
    """The one problem of a picture that holds nothing."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        path.write_bytes(content)
        with files.read(path) as package:
            assert not package.only.tensors
            (problem,) = package.problems
            return problem


def understood(content: bytes) -> list[tuple[tuple[int, ...], bytes]] | None:
    """The tensors of a file of this content; None where a rule refuses it, and nothing else may."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.png")
        path.write_bytes(content)
        try:
            with files.read(path) as package:
                return [(tensor.shape, tensor.read()) for tensor in package.only.tensors.values()]
        except MalformedFile:
            return None


SOUND = with_chunk(b"tEXt", KEYWORD + base64.b64encode(document().encode()))
PNGS = {
    "cut in a chunk": (SOUND[:-20], "png-cut"),
    "cut before its end": (SOUND[:-12], "png-cut"),
    "nothing but a signature": (SIGNATURE, "png-cut"),
    "a length beyond the file": (SIGNATURE + b"\x7f\xff\xff\xffIHDR" + bytes(30), "png-cut"),
    "a wrong CRC": (SOUND[:-1] + b"\0", "png-crc"),
    "bytes behind": (SOUND + b"PK\3\4", "png-trailing"),
    "two ends": (SOUND + END, "png-trailing"),
    "no pixels": (SIGNATURE + begin() + END, "png-order"),
    "pixels first": (SIGNATURE + data() + begin() + END, "png-order"),
    "two beginnings": (SIGNATURE + begin() + begin() + data() + END, "png-order"),
    "pixels in two places": (SIGNATURE + begin() + data() + chunk(b"tIME", b"") + data() + END, "png-order"),
    "a short beginning": (SIGNATURE + chunk(b"IHDR", bytes(8)) + data() + END, "png-order"),
    "a chunk that may not be skipped": (SIGNATURE + begin() + chunk(b"ABCD", b"") + data() + END, "png-chunk"),
    "a chunk without a name": (SIGNATURE + begin() + chunk(b"\0\1\2;", b"") + data() + END, "png-chunk"),
    "countless chunks": (SIGNATURE + begin() + chunk(b"aaaa", b"") * 70_000 + data() + END, "png-chunks"),
    "no width": (SIGNATURE + begin(0, 5) + data() + END, "picture-empty"),
    "60,000 × 60,000 pixels": (SIGNATURE + begin(60_000, 60_000) + data() + END, "picture-too-large"),
    "2³² × 2³² pixels": (SIGNATURE + begin(2**32 - 1, 2**32 - 1) + data() + END, "picture-too-large"),
    "too few bytes of pixels": (SIGNATURE + begin(9, 9) + data() + END, "picture-pixels"),
    "pixels of no kind": (SIGNATURE + begin(kind=b"\x07\x05\0\0\0") + data() + END, "picture-pixels"),
    "far too many bytes of pixels": (SIGNATURE + begin() + chunk(b"IDAT", bytes(1 << 20)) + END, "picture-data"),
    "two embeddings": (SOUND[:-12] + chunk(b"tEXt", KEYWORD) + END, "png-text-twice"),
    "an embedding of nothing": (with_chunk(b"tEXt", KEYWORD), "payload-json"),
    "no base64": (with_chunk(b"tEXt", KEYWORD + b"e30=\n!"), "png-text"),
    "an unknown compression": (with_chunk(b"zTXt", KEYWORD + b"\1"), "png-text"),
    "no zlib": (with_chunk(b"zTXt", KEYWORD + b"\0abc"), "png-text"),
    "a cut iTXt": (with_chunk(b"iTXt", KEYWORD + b"\0\0en"), "png-text"),
}  # fmt: skip


@pytest.mark.parametrize("what", PNGS)
def test_a_png_that_breaks_a_rule_is_refused_by_it(what: str) -> None:
    content, expected = PNGS[what]
    assert rule(content) == expected


PAYLOADS = {
    "no JSON": ("x", "payload-json"),
    "no text": (b"\xff\xfe", "payload-json"),
    "two documents": ("{}{}", "payload-json"),
    "a list": ("[]", "payload-json"),
    "a name twice": ('{"a": 1, "a": 2}', "payload-json"),
    "half a character": (r'{"a": "\ud800"}', "payload-json"),
    "half a character as a name": (r'{"\udfff": 1}', "payload-json"),
    "a number of 100,000 digits": ('{"a": %s}' % ("9" * 100_000), "payload-json"),
    "NaN as a step": ('{"step": NaN}', "payload-json"),
    "too large a number as a step": ('{"step": 1e999}', "payload-json"),
    "100,000 levels": ("[" * 100_000, "payload-json"),
    "300 levels": ('{"a": ' + "[" * 300 + "]" * 300 + "}", "payload-depth"),
    "a tensor of 300 axes": ('{"a": {"TORCHTENSOR": ' + "[" * 300 + "]" * 300 + "}}", "tensor-rank"),
    "a million empty lists": ('{"a": [' + "[]," * 1_000_000 + "[]]}", "payload-nodes"),
    "uneven rows": ('{"a": {"TORCHTENSOR": [[1, 2], [3]]}}', "payload-tensor"),
    "rows and numbers": ('{"a": {"TORCHTENSOR": [1, [2]]}}', "payload-tensor"),
    "numbers and rows": ('{"a": {"TORCHTENSOR": [[1], 2]}}', "payload-tensor"),
    "a tensor of texts": ('{"a": {"TORCHTENSOR": ["1.5"]}}', "payload-tensor"),
    "a tensor of truths": ('{"a": {"TORCHTENSOR": [true]}}', "payload-tensor"),
    "a tensor of nothing": ('{"a": {"TORCHTENSOR": null}}', "payload-tensor"),
    "a tensor of an object": ('{"a": {"TORCHTENSOR": {"TORCHTENSOR": [1]}}}', "payload-tensor"),
    "an integer that no float has": ('{"a": {"TORCHTENSOR": [9007199254740993]}}', "payload-tensor"),
    "a tensor with more": ('{"a": {"TORCHTENSOR": [1], "b": 1}}', "payload-tensor"),
    "two tensors of one name": ('{"a.b": {"TORCHTENSOR": [1]}, "a": {"b": {"TORCHTENSOR": [1]}}}', "pickle-duplicate"),
}  # fmt: skip


@pytest.mark.parametrize("what", PAYLOADS)
def test_a_payload_that_breaks_a_rule_is_refused_by_it(what: str) -> None:
    content, expected = PAYLOADS[what]
    assert rule(carrying(content)) == expected


def test_strips_are_read_by_the_same_rules() -> None:
    assert rule(encoded(framed_by_hand('{"a": {"TORCHTENSOR": [[1], []]}}', COVER))) == "payload-tensor"


def resized(factor: float) -> Callable[[Image.Image], Image.Image]:
    return lambda image: image.resize((round(image.width * factor), round(image.height * factor)))


def jpeg(image: Image.Image) -> Image.Image:
    return Image.open(BytesIO(encoded(image, "JPEG", quality=95))).convert("RGB")


def cropped(left: int = 0, top: int = 0, right: int = 0, bottom: int = 0) -> Callable[[Image.Image], Image.Image]:
    return lambda image: image.crop((left, top, image.width - right, image.height - bottom))


DAMAGED = {
    "a column less to the left": cropped(left=1), "a column less to the right": cropped(right=1),
    "a column less on both sides": cropped(left=1, right=1), "a row less at the top": cropped(top=1),
    "half the rows": cropped(bottom=64), "half the size": resized(0.5), "twice the size": resized(2),
    "through JPEG": jpeg, "fewer colours": lambda image: image.quantize(256), "mirrored": ImageOps.mirror,
}  # fmt: skip


@pytest.mark.parametrize("what", DAMAGED)
def test_damaged_strips_are_no_embedding_and_the_message_says_what_they_were(what: str) -> None:
    error = refusal(encoded(DAMAGED[what](STRIPS)))
    assert error.rule == "no-embedding"
    assert "cropped, scaled or recompressed" in error.message


def test_rows_that_only_fill_up_the_strips_may_be_missing() -> None:
    expected = understood(encoded(STRIPS))
    assert expected is not None
    assert understood(encoded(STRIPS.crop((0, 0, STRIPS.width, STRIPS.height - 1)))) == expected


PLAIN = {
    "black": Image.new("RGB", (64, 64)), "white": Image.new("RGB", (64, 64), "white"), "one pixel": Image.new("RGB", (1, 1)),
    "grey": Image.linear_gradient("L"), "palette": COVER.quantize(16), "noise": Image.effect_noise((200, 200), 90),
    "blank columns": Image.new("RGB", (64, 64), (16, 32, 48)), "black and white": Image.new("1", (300, 300)),
    "clear": Image.new("RGBA", (64, 64)),
}  # fmt: skip


@pytest.mark.parametrize("what", PLAIN)
@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_an_ordinary_picture_is_no_embedding(what: str, kind: str) -> None:
    problem = doubt(encoded(PLAIN[what], kind, **({"lossless": True} if kind == "WEBP" else {})))
    assert (problem.severity, problem.code) == ("warning", "no-embedding")
    assert "destroy" in problem.message


ODD = {
    "APNG": encoded(STRIPS, save_all=True, append_images=[Image.new("RGB", STRIPS.size)], default_image=True),
    "transparent": encoded(STRIPS.convert("RGBA")),
    "16 bits": None, "interlaced": None,
}  # fmt: skip


def by_rows(kind: int, depth: int, rows: list[bytes], *, interlaced: bool = False) -> bytes:
    """A PNG of STRIPS' size, of rows that are not filtered."""
    head = begin(*STRIPS.size, bytes([depth, kind, 0, 0, interlaced]))
    return SIGNATURE + head + data(b"".join(b"\0" + row for row in rows)) + END


def passes() -> list[bytes]:
    """The rows of STRIPS in the order of Adam7 (PNG specification, section 8)."""
    pixels = np.asarray(STRIPS)
    starts = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    return [row.tobytes() for y, x, down, across in starts for row in pixels[y::down, x::across]]


ODD["16 bits"] = by_rows(2, 16, [(row.astype(">u2") * 257).tobytes() for row in np.asarray(STRIPS)])
ODD["interlaced"] = by_rows(2, 8, passes(), interlaced=True)


@pytest.mark.parametrize("what", ODD)
def test_pixels_are_read_however_png_stores_them(what: str) -> None:
    assert understood(ODD[what]) == understood(encoded(STRIPS)) != None  # noqa: E711


WEBP = encoded(STRIPS, "WEBP", lossless=True, method=0)
EXTENDED = encoded(STRIPS, "WEBP", lossless=True, method=0, exif=b"Exif\0\0MM")
FRAMES = encoded(STRIPS, "WEBP", lossless=True, method=0, save_all=True, append_images=[COVER.resize(STRIPS.size)])
WEBPS = {
    "cut": (WEBP[:-2], "webp-size"),
    "bytes behind": (WEBP + b"PK\3\4", "webp-size"),
    "no chunk": (b"RIFF\4\0\0\0WEBP", "webp-order"),
    "two pictures": (b"RIFF" + struct.pack("<I", 2 * len(WEBP) - 20) + WEBP[8:] + WEBP[12:], "webp-order"),
    "a chunk beyond the file": (WEBP[:16] + b"\xff\xff\xff\x7f" + WEBP[20:], "webp-cut"),
    "no mark": (WEBP[:20] + b"\0" + WEBP[21:], "webp-pixels"),
    "broken pixels": (WEBP[:30] + bytes(200) + WEBP[230:], "picture-pixels"),
    "another canvas": (EXTENDED[:24] + b"\1\0\0" + EXTENDED[27:], "webp-canvas"),
    "16,384 × 16,384": (b"RIFF\x12\0\0\0WEBPVP8L\5\0\0\0\x2f\xff\xff\xff\x0f\0", "picture-too-large"),
    "short": (b"RIFF\x0e\0\0\0WEBPVP8L\2\0\0\0\x2f\xff", "webp-cut"),
}


@pytest.mark.parametrize("what", WEBPS)
def test_a_webp_that_breaks_a_rule_is_refused_by_it(what: str) -> None:
    content, expected = WEBPS[what]
    assert rule(content, "x.webp") == expected


@pytest.mark.parametrize("content", [encoded(STRIPS, "WEBP"), FRAMES], ids=["lossy", "animated"])
def test_a_webp_that_cannot_carry_strips_holds_nothing(content: bytes) -> None:
    assert doubt(content, "x.webp").code == "no-embedding"


@pytest.mark.parametrize("content", [WEBP, EXTENDED], ids=["simple", "extended"])
def test_a_sound_webp_is_read(content: bytes) -> None:
    assert understood(content) == understood(encoded(STRIPS)) != None  # noqa: E711
