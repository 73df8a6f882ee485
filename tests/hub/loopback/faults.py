"""What goes wrong on purpose.

`Fault(status=429)` answers the next request with that and does nothing else; `Fault(stall=2)` waits first; `Fault(cut="before")`
closes the connection before anything is done, `"after"` when all is done but the answer is lost, and `"within"` in the middle of
the answer. Which request it is: the `nth` of those that `method` and `path` (a regular expression that is searched for) fit,
counted from the call of `fail`, and `times - 1` more after it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

ANY = 10**9


@dataclass
class Fault:
    status: int | None = None
    code: str | None = None
    """X-Error-Code: RepoNotFound, GatedRepo, RevisionNotFound, EntryNotFound …"""
    message: str | None = None
    """X-Error-Message."""
    headers: dict[str, str] = field(default_factory=dict)
    stall: float = 0.0
    cut: str | None = None
    method: str | None = None
    path: str = ""
    nth: int = 1
    times: int = 1
    seen: int = 0

    def meets(self, method: str, path: str) -> bool:
        """Whether this is one of the requests that go wrong; counts them."""
        if self.method not in (None, method) or not re.search(self.path, path):
            return False
        self.seen += 1
        return self.nth <= self.seen < self.nth + self.times


@dataclass(frozen=True)
class Seen:
    """A request that came."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    status: int | None
    """What was answered; None where the connection was cut."""
    size: int
    """Bytes of its body."""

    @property
    def authorization(self) -> str | None:
        return self.headers.get("authorization")

    @property
    def range(self) -> str | None:
        return self.headers.get("range")

    def __str__(self) -> str:
        return f"{self.method} {self.path}"
