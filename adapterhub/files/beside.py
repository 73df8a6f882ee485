"""What stands beside the weights: small documents, and the names by which one file refers to another."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from adapterhub.errors import MalformedFile
from adapterhub.files import strict_json
from adapterhub.files.limits import Limits
from adapterhub.files.source import Source, machine

_LEAVES = re.compile(r"(\A|[/\\])\.\.([/\\]|\Z)|\A[/\\~]|\A[A-Za-z]:|[\0\\]|\A\Z")


def read_document(path: Path, limits: Limits) -> Any:
    """The JSON document at `path`. MalformedFile where it is too large, no JSON, or repeats a name."""
    return document_in(Source(path), limits)


def document_in(source: Source, limits: Limits) -> Any:
    """The JSON document that `source` is, which is closed."""
    return parse_document(_content(source, limits, "json-too-large"), source.path, limits)


def parse_document(content: bytes, path: Path, limits: Limits) -> Any:
    """The JSON document `content`, read from `path`."""
    if strict_json.most_values(content) > limits.document_values:
        raise _malformed(path, "json-values", f"more than {limits.document_values} values")
    try:
        return strict_json.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise _malformed(path, "json", f"this is not JSON: {error}") from None


def read_text(path: Path, limits: Limits) -> str:
    """The text at `path`."""
    return text_in(Source(path), limits)


def text_in(source: Source, limits: Limits) -> str:
    """The text that `source` is, its ends of lines as they are. MalformedFile where it is too large, or no UTF-8."""
    try:
        return _content(source, limits, "text-too-large").decode()
    except UnicodeDecodeError as error:
        raise _malformed(source.path, "text-not-utf8", f"the text is not UTF-8 at byte {error.start}") from None


def _content(source: Source, limits: Limits, rule: str) -> bytes:
    try:
        if source.size > limits.document:
            raise _malformed(source.path, rule, f"{source.size} bytes, above the limit of {limits.document}")
        return source.read(0, source.size)
    finally:
        source.close()


def leaves(name: str) -> bool:
    """Whether a relative name, taken as it stands, leads out of its folder on this or another system."""
    return _LEAVES.search(name) is not None


def require_within(name: str, path: Path) -> None:
    """MalformedFile where the name, by which `path` refers to a file, leaves its folder."""
    if leaves(name):
        raise _malformed(path, "name-outside", f"{name!r} leads out of the folder")


def inside(folder: Path, name: str, path: Path) -> Path:
    """The real path of the file `name` of `folder`, as `path` (an index, a folder) refers to it.

    MalformedFile where the name, or the link that it is, leaves the folder. The blobs of a Hugging Face cache are
    where the links of its snapshots lead, and count as inside.
    """
    require_within(name, path)
    with machine("look up", folder / name):
        try:
            real, root = (folder / name).resolve(), folder.resolve()
        except RuntimeError:  # links that run in circles
            raise _malformed(path, "link-loop", f"{name!r} is a link to itself") from None
    if not any(real.is_relative_to(allowed) for allowed in (root, *_blobs(folder))):
        raise _malformed(path, "link-outside", f"{name!r} is a link out of the folder")
    return real


def _blobs(folder: Path) -> list[Path]:
    """`…/models--x--y/blobs`, where `folder`, or what it is a link to, lies in `…/models--x--y/snapshots/…`."""
    return [
        (snapshots.parent / "blobs").resolve()
        for snapshots in (*folder.absolute().parents, *folder.resolve().parents)
        if snapshots.name == "snapshots" and snapshots.parent.name.startswith("models--")
    ]


def _malformed(path: Path, rule: str, message: str) -> MalformedFile:
    return MalformedFile(path, rule, message, mend="Get the whole folder again, or mend the file by hand.")
