"""What a fuzzer starts from: the files that other tests make by hand, and the words of each format."""

from __future__ import annotations

import base64
import json
import re
import struct
import zlib
from collections.abc import Iterable, Mapping
from io import BytesIO
from typing import Any

from PIL import Image

from tests.files.pictures import COVER, chunk, document, framed_by_hand, text, with_chunk
from tests.fuzz.folders import FIRST, PIPELINE, SECOND
from tests.hostile import (
    pickled,
    test_image_bombs,
    test_images,
    test_legacy_containers,
    test_mutations,
    test_pickle_streams,
    test_pickled_tensors,
    test_pickles,
    test_safetensors,
    test_torch_mutations,
    test_torch_zips,
)

LARGEST = 1 << 14
"""Bytes of a seed, and of what is made of it."""
LONGEST_WORD = 64
"""Bytes; libFuzzer takes no longer ones."""
SIGNS = [b"{", b"}", b"[", b"]", b",", b":", b'"', b"null", b"true", b"NaN", b"-0", b"1e999", b"9007199254740993", b"\\ud800",
         b"\\u0061", b"\xef\xbb\xbf", b"\xc3\xa9", b"9" * 30]  # fmt: skip
SMALL = COVER.resize((24, 16))


def _first(table: Mapping[str, tuple[Any, ...]]) -> list[Any]:
    """What stands first in the rows of a test's table: what is refused."""
    return [row[0] for row in table.values()]


def _picture(image: Image.Image, kind: str, **options: object) -> bytes:
    out = BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def _pickles() -> Iterable[bytes]:
    yield pickled.whole(pickled.tensor())
    yield from map(pickled.whole, _first(test_pickled_tensors.TENSORS))
    yield from _first(test_pickles.CALLS)
    yield from _first(test_pickle_streams.STREAMS)


def _pictures() -> Iterable[bytes]:
    yield _picture(SMALL, "PNG", pnginfo=text(document()))
    yield _picture(framed_by_hand(document(), SMALL), "PNG")
    yield _picture(SMALL.quantize(4), "PNG", transparency=0)
    yield with_chunk(b"zTXt", test_images.KEYWORD + b"\0" + zlib.compress(base64.b64encode(document().encode())), SMALL)
    yield with_chunk(b"iTXt", test_images.KEYWORD + b"\0\0\0\0" + b"e30=", SMALL)
    yield test_images.SIGNATURE + test_images.begin() + test_images.data() + chunk(b"tIME", b"") + test_images.END


def _webps() -> Iterable[bytes]:
    yield _picture(framed_by_hand(document(), SMALL), "WEBP", lossless=True)
    yield from _first(test_images.WEBPS)


def _bytes(content: bytes | str) -> bytes:
    return content.encode() if isinstance(content, str) else content


def _json(*values: object) -> list[bytes]:
    return [json.dumps(value).encode() for value in values]


SEEDS = {
    "header": lambda: [test_mutations.WHOLE, *_first(test_safetensors.REFUSED)],
    "zip": lambda: [*test_torch_zips.SOUND.values(), *_first(test_torch_zips.REFUSED)],
    "legacy": lambda: [
        test_torch_mutations.SEEDS[1],
        *test_legacy_containers.SOUND.values(),
        *_first(test_legacy_containers.REFUSED),
    ],
    "pickle": _pickles,
    "png": _pictures,
    "webp": _webps,
    "payload": lambda: [document().encode(), *map(_bytes, _first(test_images.PAYLOADS))],
    "index": lambda: _json(
        {"metadata": {"total_size": 12}, "weight_map": {"a": FIRST, "b": SECOND, "c": FIRST}},
        {"weight_map": {"a": f"../{FIRST}", "b": "C:x", "c": "/x"}},
    ),
    "pipeline": lambda: _json({name: ["diffusers", "x"] for name in PIPELINE}, {"unet": [None, None]}),
    "config": lambda: _json({"r": 4, "lora_alpha": 4.0, "target_modules": ["to_q"], "auto_map": {"x": "y.z"}}),
}
WORDS = {
    "header": [*SIGNS, *test_mutations.TOKENS, b"BOOL", b"F4", b"F6_E2M3", b"data_offsets", b"shape"],
    "zip": [b"PK\1\2", b"PK\3\4", b"PK\5\6", b"PK\6\6", b"PK\6\7", b"PK\7\x08", b"\xff" * 4, b"data.pkl", b"byteorder"],
    "legacy": [*test_torch_mutations.TOKENS, struct.pack("<q", 4)],
    "pickle": [*test_torch_mutations.TOKENS, pickled.REBUILD, pickled.storage(), pickled.tensor()],
    "png": [*SIGNS, *test_images.KEYWORD.split(b"\0"), *test_image_bombs.KINDS],
    "webp": [b"VP8L", b"VP8 ", b"VP8X", b"ANMF", b"\x2f"],
    "payload": [*SIGNS, b"TORCHTENSOR", b'{"TORCHTENSOR":[', b"state_dict"],
    "index": [*SIGNS, b"weight_map", b"metadata", b"total_size", b"..", b"/", b"\\", b"~", b"\\u0000", FIRST.encode()],
    "pipeline": [*SIGNS, b"unet", b"vae", b"text_encoder", b"custom_pipeline", b"..", b"/", b"\\u0000"],
    "config": [*SIGNS, b"auto_map", b"r", b"target_modules"],
}


def seeds(name: str) -> list[bytes]:
    """What the target `name` starts from."""
    return [content for content in SEEDS[name]() if len(content) <= LARGEST]


def dictionary(name: str) -> str:
    """The words of the target `name`, as libFuzzer reads them."""
    words = (word.hex() for word in dict.fromkeys(WORDS[name]) if 0 < len(word) <= LONGEST_WORD)
    return "".join('"' + re.sub("..", r"\\x\g<0>", word) + '"\n' for word in words)
