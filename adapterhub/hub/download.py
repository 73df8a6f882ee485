"""A file from a plain address, streamed to its place: counted, hashed, and taken up again where the connection broke off.

Source: RFC 9110, 13.1.5 (If-Range) and 14.2 (Range): the rest of a file is asked for only of the same version, which a strong ETag
tells; without one it is begun anew.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapterhub.errors import MalformedFile, RefusedInput, Unreachable
from adapterhub.files import LIMITS, containers, publishing
from adapterhub.files.source import machine
from adapterhub.files.streaming import write_all
from adapterhub.hub import transport
from adapterhub.hub.placing import require_digest, too_large
from adapterhub.hub.transport import answer, pieces, require_good

if TYPE_CHECKING:
    from httpx2 import Response

MOST = 1 << 40
"""Bytes of a file whose size nobody tells."""
RESUMED = 5
"""How many times a file that broke off is gone on with."""
_RANGE = re.compile(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18})")


def downloaded(
    url: str, target: Path, what: str, *, size: int | None, version: str | None, most: int | None,
    sha256: str | None, allow_http: bool, force: bool,
) -> tuple[int, str]:  # fmt: skip
    """Streams what is at `url` into `target`; gives its bytes and SHA-256. Refused above `most` bytes, where it is not of the
    `size`, `version` or `sha256` that were told, and where no reader of ours would open it.
    """
    with publishing.unpublished_file(target) as (temporary, descriptor):
        incoming = _Incoming(what, descriptor, min(most if most is not None else MOST, MOST), size, version)
        for again in range(RESUMED + 1):
            try:
                _receive(incoming, url, target, allow_http)
                break
            except Unreachable:
                if again == RESUMED or not incoming.began:
                    raise
                time.sleep(transport.WAIT * 2**again)
        require_digest(what, incoming.sha256, sha256)
        os.fsync(descriptor)
        for source in containers.open_file(temporary, LIMITS, name=target.name).sources.values():
            source.close()
        publishing.publish_file(temporary, target, force=force)
        return incoming.count, incoming.sha256


def _receive(incoming: _Incoming, url: str, target: Path, allow_http: bool) -> None:
    """All that is missing. Unreachable where it breaks off."""
    with answer(url, incoming.rest(), allow_http=allow_http) as response:
        require_good(response, incoming.what)
        incoming.begin(response)
        for piece in pieces(response, incoming.what):
            with machine("write", target):
                incoming.take(piece)
    incoming.require_whole()


@dataclass
class _Incoming:
    """What has come of a file, and what was told of it."""

    what: str
    descriptor: int
    limit: int
    size: int | None
    version: str | None
    began: bool = False
    count: int = 0
    _digest: Any = field(default_factory=hashlib.sha256)

    @property
    def sha256(self) -> str:
        """The digest of what has come."""
        return str(self._digest.hexdigest())

    def rest(self) -> dict[str, str]:
        """What asks for the missing bytes of the same version; nothing where all of it is to be asked for."""
        if not self.count or not self.version or self.version.startswith("W/"):
            return {}
        return {"Range": f"bytes={self.count}-", "If-Range": self.version}

    def begin(self, response: Response) -> None:
        """Takes note of an answer. What is no continuation begins anew; what is another file is refused."""
        part = _RANGE.fullmatch(response.headers.get("Content-Range", "")) if response.status_code == 206 else None
        if response.status_code == 206 and (part is None or int(part[1]) != self.count):
            raise RefusedInput(f"{self.what}: the server answered with other bytes than were asked for")
        told = response.headers.get("Content-Length", "")[:20]
        length = int(part[2]) if part else int(told) if told.isdecimal() else self.size
        self._require_same(length, response.headers.get("ETag"))
        if part is None:
            os.ftruncate(self.descriptor, 0)
            os.lseek(self.descriptor, 0, os.SEEK_SET)
            self.count, self._digest = 0, hashlib.sha256()
        self.began = True

    def _require_same(self, length: int | None, version: str | None) -> None:
        if length is not None and length > self.limit:
            raise too_large(self.what, length, self.limit)
        if (self.size is not None and length != self.size) or (self.version and version and version != self.version):
            raise MalformedFile(
                self.what, "changed-while-reading", "the file changed on the server", mend="Run the command again."
            )
        self.size = length
        self.version = self.version or version

    def take(self, piece: bytes) -> None:
        """Writes a piece. RefusedInput above the limit, or above what was told."""
        self.count += len(piece)
        if self.count > (self.limit if self.size is None else self.size):
            raise too_large(self.what, self.count, self.limit if self.size is None else self.size)
        self._digest.update(piece)
        write_all(self.descriptor, piece)

    def require_whole(self) -> None:
        """Unreachable where bytes are missing."""
        if self.size is not None and self.count != self.size:
            raise Unreachable(
                f"{self.what} broke off after {self.count} of {self.size} bytes", mend="Run the command again."
            )
