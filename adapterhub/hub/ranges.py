"""A remote file read in parts: what was fetched is remembered, parts that lie near each other come together, and there is an end
to how much is asked for. Every part must be of the version that the first was of.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from adapterhub.errors import MalformedFile, NeedsDownload, RefusedInput
from adapterhub.hub.addresses import shown
from adapterhub.hub.errors import explained
from adapterhub.hub.transport import answer, pieces, require_good

if TYPE_CHECKING:
    from httpx2 import Response

BLOCK = 1 << 18
"""Bytes that are fetched at least: most headers come with the first request."""
REQUESTS, BYTES = 40, 48 << 20
"""What one file may take; a header has 16 MiB at most."""
FEW, LITTLE = 16, 16 << 20
"""Requests and bytes that small tensors are worth."""
_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})")


@dataclass
class Purse:
    """What may be asked for: of a file, or of all files that are read together as `name`."""

    name: str
    requests: int
    bytes: int

    def pay(self, length: int) -> None:
        """Takes a request for `length` bytes. NeedsDownload where there is nothing left for it."""
        self.requests -= 1
        self.bytes -= length
        if self.requests < 0 or self.bytes < 0:
            raise NeedsDownload(self.name, "the answer lies in too many parts of it")


class Ranges:
    """The file at `url`, of `size` bytes where that is known; it is asked for when it is read, which the `purse` that it has in common
    with other files pays for, too.
    """

    def __init__(
        self, url: str, *, size: int | None = None, name: str | None = None, allow_http: bool = False, purse: Purse | None = None
    ) -> None:  # fmt: skip
        self.url, self.name, self.allow_http = url, name or shown(url), allow_http
        self.disposition: str | None = None
        """The name that the server gives it."""
        self.version: str | None = None
        """The ETag of all that was read."""
        own = Purse(self.name, REQUESTS, BYTES)
        self._purses = (own,) if purse is None else (own, purse)
        self._starts: list[int] = []
        self._parts: list[bytes] = []
        self._closed_to = False
        self._size = size
        if size is None:
            self._get(0, BLOCK)

    @property
    def size(self) -> int:
        """How many bytes there are."""
        assert self._size is not None
        return self._size

    def read(self, start: int, length: int) -> bytes:
        """Exactly `length` bytes from `start`. NeedsDownload where that is more than may be asked for."""
        if start < 0 or start + length > self.size:
            raise RefusedInput(f"{self.name}: bytes up to {start + length} of {self.size}")
        found = self._known(start, length)
        if found is None:
            if self._closed_to:
                raise NeedsDownload(self.name, "not all of it was fetched")
            self._get(start, min(max(length, BLOCK), self.size - start))
            found = self._known(start, length)
        assert found is not None
        return found

    def fetch(self, spans: Sequence[tuple[int, int]]) -> bool:
        """Gets all of `spans` in a few requests; False where they lie too far apart: then what is not there stays unread."""
        missing = [span for span in spans if self._known(*span) is None]
        runs = _joined(missing)
        if len(runs) > FEW or sum(length for _, length in runs) > LITTLE:
            self._closed_to = True
            return False
        for start, length in runs:
            self._get(start, length)
        return True

    def close(self) -> None:
        """Forgets what was fetched."""
        self._starts, self._parts = [], []

    def _known(self, start: int, length: int) -> bytes | None:
        place = bisect_right(self._starts, start) - 1
        if place < 0:
            return None if length else b""
        at = start - self._starts[place]
        found = self._parts[place][at : at + length]
        return found if len(found) == length else None

    def _get(self, start: int, length: int) -> None:
        """Fetches `length` bytes, or those that are there if it is not known yet how many there are."""
        for purse in self._purses:
            purse.pay(length)
        with explained(self.name), answer(
            self.url, {"Range": f"bytes={start}-{start + length - 1}"}, allow_http=self.allow_http
        ) as response:  # fmt: skip
            if response.status_code == 416 and self._size is None:
                raise MalformedFile(self.name, "empty", "the file is empty", mend="Get it again.")
            require_good(response, self.name)
            length = self._agreed(response, start, length)
            self._keep(start, _exactly(response, self.name, length))

    def _agreed(self, response: Response, start: int, length: int) -> int:
        """How many bytes follow; refused where they are others than were asked for, or of another version."""
        told = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if response.status_code == 206 and told:
            begins, ends, size = map(int, told.groups())
        elif response.status_code == 200 and not start and (whole := _whole(response, self._size)) is not None:
            begins, size = 0, whole  # all of it, from the beginning
            ends = min(length, size) - 1
        else:
            raise NeedsDownload(self.name, "the server gives only all of it")
        version = response.headers.get("X-Linked-ETag") or response.headers.get("ETag")
        if self._size is None:
            self._size, self.disposition = size, response.headers.get("Content-Disposition")
        if size != self._size or (self.version and version and version != self.version):
            raise MalformedFile(
                self.name, "changed-while-reading", "the file changed on the server", mend="Run the command again."
            )
        if begins != start or ends != min(start + length, size) - 1:
            raise RefusedInput(f"{self.name}: the server answered with other bytes than were asked for")
        self.version = self.version or version
        return ends + 1 - begins

    def _keep(self, start: int, part: bytes) -> None:
        """Remembers a part; where the next begins inside of it, it stands for both."""
        place = bisect_right(self._starts, start)
        self._starts.insert(place, start)
        self._parts.insert(place, part)
        while place + 1 < len(self._starts) and self._starts[place + 1] + len(self._parts[place + 1]) <= start + len(
            part
        ):
            del self._starts[place + 1], self._parts[place + 1]


def _whole(response: Response, size: int | None) -> int | None:
    """How long a whole body is, as it says or as was told before: small files may come without a length."""
    told = response.headers.get("Content-Length", "")
    return int(told) if told.isdecimal() and len(told) < 19 else size


def _joined(spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Spans that are nearer to each other than a block, as one."""
    runs: list[tuple[int, int]] = []
    for start, length in sorted(spans):
        if runs and start - sum(runs[-1]) < BLOCK:
            first, so_far = runs[-1]
            runs[-1] = (first, max(so_far, start + length - first))
        else:
            runs.append((start, length))
    return runs


def _exactly(response: Response, name: str, length: int) -> bytes:
    """The first `length` bytes of the body; what follows is left."""
    parts, missing = [], length
    for piece in pieces(response, name):
        parts.append(piece[:missing])
        missing -= len(parts[-1])
        if not missing:
            break
    if missing:
        raise RefusedInput(f"{name}: the answer broke off", mend="Run the command again.")
    return b"".join(parts)
