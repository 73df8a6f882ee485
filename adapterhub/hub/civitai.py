"""Civitai's answer to "whose file has this hash?": its public API, asked no faster than it likes, and never with a token.

Source: developer.civitai.com, `GET /api/v1/model-versions/by-hash/:hash`: any of the hashes that it keeps, of which SHA-256 is
one; 404 where it knows none.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from typing import Protocol

from adapterhub.errors import RefusedInput, UsageError
from adapterhub.hub.addresses import checked
from adapterhub.hub.transport import answer, body, require_good

ENDPOINT = "https://civitai.com"
MOST = 4 << 20
"""Bytes of an answer."""
PAUSE = 0.5
"""Seconds between two questions."""
_HASH = re.compile(r"[0-9a-f]{8,64}")


class LookUp(Protocol):
    """Who knows files by their hash."""

    def by_hash(self, digest: str) -> str | None:
        """The JSON that is known of the file with this hash; None where nothing is. Raises errors of ours."""


class Civitai:
    """The API at `endpoint`: `$ADAPTERHUB_CIVITAI_ENDPOINT`, if it is not given, or Civitai's own."""

    def __init__(
        self, endpoint: str | None = None, *, pause: float = PAUSE, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        given = endpoint or os.environ.get("ADAPTERHUB_CIVITAI_ENDPOINT") or ENDPOINT
        self.endpoint = checked(given).rstrip("/")
        self._pause, self._sleep, self._next = pause, sleep, 0.0

    def by_hash(self, digest: str) -> str | None:
        """What Civitai has of the version of a model that this file is of."""
        if not _HASH.fullmatch(digest):
            raise UsageError(f"{digest!a} is no hash")
        self._wait()
        what = "Civitai's answer"
        with answer(
            f"{self.endpoint}/api/v1/model-versions/by-hash/{digest}", {"Accept": "application/json"}
        ) as response:
            if response.status_code == 404:
                return None
            require_good(response, what)
            content = body(response, what, MOST)
        try:
            return content.decode()
        except UnicodeDecodeError:
            raise RefusedInput(f"{what} is no text") from None

    def _wait(self) -> None:
        """So that questions are PAUSE apart."""
        now = time.monotonic()
        if now < self._next:
            self._sleep(self._next - now)
        self._next = max(now, self._next) + self._pause
