"""What a file is that is not safetensors, told from its first bytes, so that a refusal can name it."""

from __future__ import annotations

import re
from typing import NamedTuple

SNIFFED = 4096
"""Bytes that `recognise` wants."""


class Foreign(NamedTuple):
    """One kind of file: `rule` is the refusal's id."""

    rule: str
    pattern: re.Pattern[bytes]
    message: str
    mend: str


def _row(rule: str, pattern: bytes, message: str, mend: str) -> Foreign:
    return Foreign(rule, re.compile(pattern, re.DOTALL | re.IGNORECASE), message, mend)


_DOWNLOAD = "Download the file itself; the address, or the permission to read it, was wrong."
_CONVERT = "Save it as safetensors with the tool that made it."
_RENAME = "If you trust where it comes from, name it .pt, or better, get it as safetensors."
_PICTURE = "If it holds an embedding, give it the name of a picture again."
TORCH_MAGIC = rb"\x80[\x02-\x05](\x95.{8})?\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"
"""How a file of torch's format before 1.6 begins: with torch's magic number, pickled."""

FOREIGN = (
    _row("lfs-pointer", rb"version https://git-lfs", "the file is a Git LFS pointer", "Run git lfs pull."),
    _row("html", rb"\s*<(!doctype|html|head|\?xml|!--)", "an HTML page, not a model", _DOWNLOAD),
    _row("json", rb"\s*[{\[]\s*([\"{\[\]}]|\d)", "a JSON document, not a model", _DOWNLOAD),
    _row("pickle", rb"PK\x03\x04.*(data\.pkl|archive/)", "a torch pickle under another name", _RENAME),
    _row("zip", rb"PK\x03\x04|PK\x05\x06", "a zip archive, not a model", "Unpack it first."),
    _row("pickle", TORCH_MAGIC, "a torch pickle under another name", _RENAME),
    _row("pickle", rb"\x80[\x01-\x05]", "a pickle that torch.save did not write", _CONVERT),
    _row("png", rb"\x89PNG\r\n\x1a\n", "a PNG picture under another name", _PICTURE),
    _row("webp", rb"RIFF....WEBP", "a WebP picture under another name", _PICTURE),
    _row("jpeg", rb"\xff\xd8\xff", "a JPEG picture, not a model", _DOWNLOAD),
    _row("gguf", rb"GGUF", "a GGUF file, which adapterhub does not read", _CONVERT),
    _row("hdf5", rb"\x89HDF\r\n\x1a\n", "an HDF5 file, which adapterhub does not read", _CONVERT),
    _row("numpy", rb"\x93NUMPY", "a NumPy array, not a model", _CONVERT),
    _row("gzip", rb"\x1f\x8b", "a gzip archive, not a model", "Unpack it first."),
    _row("archive", rb"7z\xbc\xaf\x27\x1c|Rar!|\xfd7zXZ|\x28\xb5\x2f\xfd", "an archive, not a model", "Unpack it."),
    _row("zeros", rb"\x00{64}", "the file begins with zeros only: an unfinished download", "Download it again."),
)  # fmt: skip


def recognise(head: bytes) -> Foreign | None:
    """The first row that the first bytes of a file fit; None for what nobody knows."""
    return next((row for row in FOREIGN if row.pattern.match(head)), None)
