"""A1111's pictures, written and read in plain loops as its code is described, without ours; and what tests fill them with."""

import base64
import json
import struct
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from adapterhub.tensors import LazyTensor, from_bytes

FACTS = {"name": "zażółć-7", "step": 7, "sd_checkpoint": "0123456789", "sd_checkpoint_name": None}
ROWS = [[0.5, -0.25, 1 / 3, 1e-3], [2.0, 3.0, -4.0, 5.5]]
EXPECTED = np.array(ROWS, "<f4").tolist()
COVER = Image.linear_gradient("L").resize((96, 64)).convert("RGB")


# What A1111 does, in plain loops.


def keys_by_hand(count: int) -> list[int]:
    state, keys = 0, []
    for _ in range(count):
        state = (1664525 * state + 1013904223) % 2**32
        keys.append(state % 255)
    return keys


def framed_by_hand(document: str, cover: Image.Image, cyclic: bool = True, upper: int = 0x70) -> Image.Image:
    packed = zlib.compress(document.encode(), 9)
    width, height = cover.size
    total = len(packed) + height - len(packed) % height
    total += 3 * height - total % (3 * height)
    filled = (packed * (total // len(packed) + 1))[:total] if cyclic else packed.ljust(total, b"\0")
    keys, wide = keys_by_hand(total), total // (3 * height)
    out = Image.new("RGB", (width + 2 * wide + 2, height))
    out.paste(cover, (wide + 1, 0))
    for y in range(height):
        for x in range(wide):
            at = [(y * wide + x) * 3 + channel for channel in range(3)]
            out.putpixel((x, y), tuple((filled[i] & 15) ^ (keys[i] & 15) | upper for i in at))
            out.putpixel((width + wide + 2 + x, y), tuple((filled[i] >> 4) ^ (keys[i] & 15) | upper for i in at))
    return out


def strips_by_hand(image: Image.Image) -> bytes:
    """What the strips of an RGB picture hold, whose pixels are not black at its edges."""
    width, height = image.size
    pixel = image.load()
    assert all(0 not in pixel[x, y] for x in (0, width - 1) for y in range(height))
    empty = [x for x in range(width) if all(value & 15 == 0 for y in range(height) for value in pixel[x, y])]
    first, last = empty[0], empty[-1]
    assert first == width - 1 - last
    low = [value & 15 for y in range(height) for x in range(first) for value in pixel[x, y]]
    high = [value & 15 for y in range(height) for x in range(last + 1, width) for value in pixel[x, y]]
    keys = keys_by_hand(len(low))
    return zlib.decompress(bytes((b ^ k & 15) << 4 | a ^ k & 15 for a, b, k in zip(low, high, keys, strict=True)))


def document(rows: Any = ROWS, **changes: Any) -> str:
    tree = {"string_to_token": {"*": 265}, "string_to_param": {"*": {"TORCHTENSOR": rows}}, **FACTS, **changes}
    return json.dumps(tree)


# What tests ask for.


def embedding(tensor: LazyTensor) -> dict[str, Any]:
    return {"string_to_token": {"*": 265}, "string_to_param": {"*": tensor}, **FACTS}


def floats(rows: Any = ROWS) -> LazyTensor:
    array = np.array(rows, "<f4")
    return from_bytes("F32", array.shape, array.tobytes())


def saved(image: Image.Image, path: Path, **options: Any) -> Path:
    image.save(path, **options)
    return path


def text(content: str) -> PngInfo:
    info = PngInfo()
    info.add_text("sd-ti-embedding", base64.b64encode(content.encode()).decode())
    return info


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", len(content), kind) + content + struct.pack(">I", zlib.crc32(kind + content))


def with_chunk(kind: bytes, content: bytes, image: Image.Image = COVER) -> bytes:
    """A PNG of `image` with one more chunk behind its pixels."""
    out = BytesIO()
    image.save(out, "PNG")
    return out.getvalue()[:-12] + chunk(kind, content) + out.getvalue()[-12:]
