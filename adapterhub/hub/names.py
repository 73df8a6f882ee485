"""Names from the network, before they become paths: what is left is a name in the folder that was meant, on any system."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

from adapterhub.errors import RefusedInput

LONGEST = 200
"""Bytes of one part of a name; systems allow 255, and a temporary name is longer than what it stands for."""
DEEPEST = 16
"""Folders in folders."""
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]|conin\$|conout\$)(\..*)?\Z", re.IGNORECASE)
"""What Windows takes for a device, with any suffix. Source: learn.microsoft.com, Naming Files, Paths, and Namespaces."""
_FORBIDDEN = re.compile(r'[<>:"|?*\\/]')
_LOOKS_LIKE_SPACE = re.compile(r"\s+")


def safe_name(text: str, otherwise: str = "download") -> str:
    """The name of a file for what a server calls it (`Content-Disposition`, the end of an address): its last part, without
    what some system forbids; `otherwise` where nothing is left.
    """
    last = re.split(r"[\\/]", unquote(text))[-1]
    kept = "".join(c if c.isprintable() and not _FORBIDDEN.match(c) else "_" for c in last)
    kept = _LOOKS_LIKE_SPACE.sub(" ", kept).strip(" .~")
    kept = _cut(kept)
    return f"_{kept}" if _RESERVED.match(kept) else kept or otherwise


def inside(folder: Path, name: str) -> Path:
    """The path of `name`, as a repository calls its file, in `folder`. RefusedInput where it is no plain relative name, or
    where a link that is there already leads out.
    """
    parts = name.split("/")
    if len(parts) > DEEPEST or not all(map(_is_plain, parts)):
        raise RefusedInput(
            f"{name[:LONGEST]!a} is no name for a file here", mend="Take another file of the repository."
        )
    path = folder.joinpath(*parts)
    if not path.parent.resolve().is_relative_to(folder.resolve()):
        raise RefusedInput(f"{path}: a link leads out of {folder}", mend="Take the link away, or give another folder.")
    return path


def _is_plain(part: str) -> bool:
    """Whether this is one name on every system, and the one that it looks like."""
    return (
        bool(part) and part == part.strip(" ").rstrip(".") and part.isprintable() and len(_bytes(part)) <= LONGEST
        and not _FORBIDDEN.search(part) and not _RESERVED.match(part) and part not in (".", "..") and not part.startswith("~")
    )  # fmt: skip


def _cut(name: str) -> str:
    """The name in LONGEST bytes, with its suffix."""
    stem, dot, suffix = name.rpartition(".")
    if not stem or len(suffix) > 20:
        stem, dot, suffix = name, "", ""
    room = LONGEST - len(_bytes(dot + suffix))
    return _bytes(stem)[:room].decode("utf-8", "ignore").rstrip(" .") + dot + suffix


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "replace")
