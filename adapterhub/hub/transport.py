"""One request at a time over the session of the Hub's client: where it may lead, whom the token is shown, how long it may take.

The client itself retries downloads from the Hub; what is asked here are ranges, plain addresses and Civitai.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING
from urllib.parse import urljoin

from adapterhub.errors import RefusedInput, Unreachable, UsageError
from adapterhub.hub.addresses import checked, origin, shown
from adapterhub.hub.errors import explained, refusal

if TYPE_CHECKING:
    from httpx2 import Request, Response

HOPS = 8
"""Redirects that are followed."""
TRIES = 3
WAIT = 0.5
"""Seconds before the second try; twice as many before the next."""
PATIENCE = 20
"""Seconds that a server may ask us to wait before we give up instead."""
CONNECT, SILENCE = 10.0, 30.0
"""Seconds for a connection, and between two pieces of an answer."""
COMMITS = 180.0
"""Seconds that a server may take over what it was sent; the client itself waits for ever."""
PACE, WINDOW = 1024, 60.0
"""Bytes that must come within so many seconds, lest a server that sends one at a time keeps us for ever."""
_AGAIN = (429, 500, 502, 503, 504)


@contextmanager
def answer(
    url: str, headers: Mapping[str, str] | None = None, *, allow_http: bool = False, retry: bool = True
) -> Iterator[Response]:
    """The answer to a GET, its body still to come, of any status that is not tried again; closed afterwards."""
    what = shown(url)
    with explained(what):
        response = _persistent(url, headers or {}, allow_http, TRIES if retry else 1)
        try:
            yield response
        finally:
            response.close()


@contextmanager
def patient() -> Iterator[None]:
    """The client's requests inside wait for COMMITS at most, if they would wait for ever: those that send, and those that list."""
    from huggingface_hub import get_session

    session = get_session()
    former = session.event_hooks
    session.event_hooks = {**former, "request": [*former["request"], _limited]}
    try:
        yield
    finally:
        session.event_hooks = former


def _limited(request: Request) -> None:
    limits = request.extensions.get("timeout", {})
    own = {"connect": CONNECT, "read": COMMITS, "write": COMMITS, "pool": COMMITS}
    request.extensions = {**request.extensions, "timeout": {
        name: own[name] if limits.get(name) is None else limits[name] for name in own}}  # fmt: skip


def _persistent(url: str, headers: Mapping[str, str], allow_http: bool, tries: int) -> Response:
    """The answer, after several tries if need be."""
    attempt = 1
    while True:
        response = _tried(url, headers, allow_http, last=attempt == tries)
        wait: float | None = WAIT * 2 ** (attempt - 1) if response is None else _wait(response, attempt)
        if response is not None and (response.status_code not in _AGAIN or attempt == tries or wait is None):
            return response
        if response is not None:
            response.close()
        time.sleep(wait or 0)
        attempt += 1


def _tried(url: str, headers: Mapping[str, str], allow_http: bool, *, last: bool) -> Response | None:
    """The answer; None where the network failed, and it is not the `last` try."""
    import httpx2

    try:
        return _followed(url, headers, allow_http)
    except (httpx2.TimeoutException, httpx2.NetworkError, httpx2.RemoteProtocolError):
        if last:
            raise
        return None


def _wait(response: Response, attempt: int) -> float | None:
    """Seconds until the next try; None where that is too long."""
    asked = response.headers.get("Retry-After", "")
    if not asked.isdecimal():
        return float(WAIT * 2 ** (attempt - 1))
    return float(asked) if len(asked) < 6 and int(asked) <= PATIENCE else None


def _followed(url: str, headers: Mapping[str, str], allow_http: bool) -> Response:
    """The answer at the end of redirects, each of which is checked like an address that was given."""
    import httpx2
    from huggingface_hub import get_session

    for _ in range(HOPS + 1):
        session = get_session()
        request = session.build_request(
            "GET", url, headers={**_own(url), "Accept-Encoding": "identity", **headers},
            timeout=httpx2.Timeout(SILENCE, connect=CONNECT),
        )  # fmt: skip
        response = session.send(request, stream=True, follow_redirects=False)
        if not response.has_redirect_location:
            return response
        response.close()
        url = _next(url, response.headers["Location"], allow_http)
    raise RefusedInput(f"{shown(url)} leads from address to address without end")


def _next(url: str, location: str, allow_http: bool) -> str:
    """Where a redirect leads. An encrypted connection never leads to an open one, not even on this machine."""
    target = urljoin(url, location)
    if url.startswith("https:") and not target.startswith("https:") and not allow_http:
        raise RefusedInput(
            f"{shown(url)} leads to an address that is not encrypted", mend="If that is meant, --allow-http."
        )
    try:
        return checked(target, allow_http=allow_http)
    except UsageError as error:
        raise RefusedInput(f"{shown(url)} leads elsewhere: {error.message}", mend=error.mend) from None


def _own(url: str) -> dict[str, str]:
    """Who we are; to the Hub's own endpoint, and nobody else, with the token."""
    from huggingface_hub import constants
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    token = None if origin(url) == origin(constants.ENDPOINT) else False
    return build_hf_headers(token=token, library_name="adapterhub", library_version=version("adapterhub"))


def require_good(response: Response, what: str) -> None:
    """Raises what the status means, unless that is success; the body is not looked at."""
    if not 200 <= response.status_code < 300:
        raise refusal(response.status_code, what, response.headers.get("X-Error-Code"))
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise RefusedInput(f"{what} comes packed, though it was asked for as it is")


def pieces(response: Response, what: str) -> Iterator[bytes]:
    """The body as it comes. Unreachable where it comes too slowly."""
    since, counted = time.monotonic(), 0
    for piece in response.iter_raw():  # as it comes: gathered pieces could be waited for without end
        counted += len(piece)
        yield piece
        now = time.monotonic()
        if now - since > WINDOW:
            if counted < PACE:
                raise Unreachable(f"{what} comes too slowly: {counted} bytes in a minute", mend="Try again later.")
            since, counted = now, 0


def body(response: Response, what: str, most: int) -> bytes:
    """The whole body. RefusedInput above `most` bytes."""
    parts: list[bytes] = []
    count = 0
    for piece in pieces(response, what):
        count += len(piece)
        if count > most:
            raise RefusedInput(f"{what}: the answer is longer than {most} bytes")
        parts.append(piece)
    return b"".join(parts)
