"""The header of a safetensors file by itself: its text fields changed, its tensors exactly as they stand."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from adapterhub.errors import MalformedFile, NotAnAdapter, UsageError
from adapterhub.files import foreign
from adapterhub.files.containers import CONTAINERS
from adapterhub.files.limits import FORMAT_HEADER_BYTES, LIMITS, Limits
from adapterhub.files.plain_header import METADATA
from adapterhub.files.safetensors import PREFIX, SPARE, Header, header_length, parse_header
from adapterhub.files.source import Source


@dataclass(frozen=True, slots=True)
class HeaderText:
    """The header of the file at `path`, which has `size` bytes: as it stands there, without its length, and what it says."""

    path: Path
    size: int
    raw: bytes
    header: Header

    @property
    def metadata(self) -> Mapping[str, str]:
        return self.header.metadata

    @property
    def spare(self) -> int:
        """Bytes of padding behind the JSON."""
        return len(self.raw) - len(self.raw.rstrip(b" \t\r\n"))

    @property
    def data_size(self) -> int:
        return self.size - PREFIX - len(self.raw)


def read_header(path: Path, *, limits: Limits = LIMITS) -> HeaderText:
    """The header of the safetensors file at `path`. NotAnAdapter for a container that has none, MalformedFile for what is
    none at all.
    """
    source = Source(path)
    try:
        return header_of(source, limits)
    finally:
        source.close()


def header_of(source: Source, limits: Limits = LIMITS) -> HeaderText:
    """The header of an open file."""
    head = source.read(0, min(source.size, foreign.SNIFFED))
    for container in CONTAINERS:
        if container.pattern.match(head):
            raise NotAnAdapter(
                f"{source.path}: a file of the container {container.name}, which has no header of text fields",
                mend="adapterhub convert writes it as safetensors; edit that.",
            )
    count = header_length(head, source.size, source.path, limits)
    raw = source.read(PREFIX, count)
    header = parse_header(raw, source.size - PREFIX - count, source.path, limits)
    return HeaderText(source.path, source.size, raw, header)


def with_metadata(old: HeaderText, metadata: Mapping[str, str], *, limits: Limits = LIMITS) -> tuple[bytes, bool]:
    """Length and header with `metadata` in place of the old, and whether they are as long as the old ones.

    Everything else is as it was, fields of tensors that safetensors does not know too. Where the new text has no room,
    SPARE spaces follow it. UsageError where it is larger than a header may be.
    """
    if sum(map(len, metadata)) + sum(map(len, metadata.values())) > limits.metadata:
        raise UsageError(f"the fields would have more than {limits.metadata} characters", mend="Set less.")
    document = json.loads(old.raw)
    document.pop(METADATA, None)
    if metadata:
        document = {METADATA: dict(metadata), **document}
    text = json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
    fits = len(text) <= len(old.raw)
    count = len(old.raw) if fits else -(-(len(text) + SPARE) // 8) * 8
    if count > min(limits.header, FORMAT_HEADER_BYTES):
        raise UsageError(f"the header would have {count} bytes, above the limit of {limits.header}", mend="Set less.")
    whole = count.to_bytes(PREFIX, "little") + text.ljust(count)
    _prove(old, whole[PREFIX:], metadata, limits)
    return whole, fits


def _prove(old: HeaderText, raw: bytes, metadata: Mapping[str, str], limits: Limits) -> None:
    """The new header is read before it is written: the same tensors at the same bytes, and the fields that were asked for."""
    try:
        new = parse_header(raw, old.data_size, old.path, limits)
    except MalformedFile as error:
        raise UsageError(f"these fields would make a header that is refused: {error.message}") from error
    if new.columns != old.header.columns or new.metadata != dict(metadata):
        raise UsageError(f"{old.path}: these fields cannot be written and read back as they are")


def cached_blob(path: Path) -> bool:
    """Whether the real path of a file lies in a Hugging Face cache, whose files are called and shared by their content:
    `models--x--y/blobs/…` or, without links, `…/snapshots/…` (huggingface_hub, "Understand caching").
    """
    parts = Path(os.path.realpath(path)).parts
    return any(
        repo.startswith(("models--", "datasets--", "spaces--")) and folder in ("blobs", "snapshots")
        for repo, folder in pairwise(parts)
    )
