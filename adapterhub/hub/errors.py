"""What the Hub's client raises, as our errors: one table, which pushing and pulling share.

Source: huggingface_hub `errors.py` and `utils/_http.py` (`hf_raise_for_status`). The words are ours: a client's message may
quote a signed address, and a server's body anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import NamedTuple

from adapterhub.errors import AdapterhubError, MachineFailure, NoAccess, NotFound, RefusedInput, Unreachable, UsageError

_LOGIN = "Log in with hf auth login, or set HF_TOKEN; look at the spelling, too: what is private looks as if it were not there."
_AGAIN = "Try again later."


WITHOUT_XET = "Where it is Xet that is out of reach (a mirror may have none), HF_HUB_DISABLE_XET=1 goes without it."


class Row(NamedTuple):
    """What an exception means: the error, what it says of `{what}`, and how to mend it."""

    error: Callable[..., AdapterhubError]
    message: str
    mend: str | None = None


_STATUSES = {
    400: Row(UsageError, "the server does not take the request for {what}", "Look at its spelling."),
    401: Row(NoAccess, "{what} takes a login, and the token, if there is one, is not accepted", _LOGIN),
    403: Row(NoAccess, "the token may not do this with {what}", "Take one that may, or ask the owner."),
    404: Row(NotFound, "{what} is not there", "Look at its spelling."),
    409: Row(UsageError, "{what} is in the way", "Take another name, or say that it may be there."),
    412: Row(MachineFailure, "{what} was changed by somebody else meanwhile; nothing was written", "Run the command again."),
    413: Row(RefusedInput, "the server finds {what} too large"),
    416: Row(RefusedInput, "{what} is shorter than the server said", "It was changed meanwhile: run the command again."),
    429: Row(Unreachable, "the server asks for patience: too many requests for {what}", "Wait some minutes, or log in."),
}  # fmt: skip
_UNCACHED = Row(
    Unreachable, "{what} cannot be reached, and is not in the cache", "Look at the network and at HF_HUB_OFFLINE."
)
_CODES = {
    "GatedRepo": Row(NoAccess, "{what} is gated", "Ask for access on its page, then log in with hf auth login."),
    "RepoNotFound": Row(NotFound, "{what} is not on the Hub, or is private", _LOGIN),
    "RevisionNotFound": Row(NotFound, "{what} has no such revision", "Its page lists branches and tags."),
    "EntryNotFound": Row(NotFound, "{what} is not there", "Without a file, the command lists what is."),
}
"""What the Hub calls some refusals in X-Error-Code, whatever their status."""
_REFUSED = Row(Unreachable, "the server answered {status} for {what}", _AGAIN)


@cache
def _table() -> tuple[tuple[type[BaseException], Row], ...]:
    """The client's exceptions, each before those that it is a kind of."""
    import httpx2
    from huggingface_hub import errors

    return (
        (errors.GatedRepoError, _CODES["GatedRepo"]),
        (errors.RepositoryNotFoundError, _CODES["RepoNotFound"]),
        (errors.LocalEntryNotFoundError, _UNCACHED),
        (errors.RevisionNotFoundError, _CODES["RevisionNotFound"]),
        (errors.EntryNotFoundError, _CODES["EntryNotFound"]),
        (errors.DisabledRepoError, Row(NoAccess, "{what} was disabled by the Hub", "Its page says why.")),
        (errors.OfflineModeIsEnabled, Row(Unreachable, "{what} is not asked for: offline mode is on", "Unset HF_HUB_OFFLINE.")),
        (errors.LocalTokenNotFoundError, Row(NoAccess, "{what} needs a token, and there is none", _LOGIN)),
        (errors.HFValidationError, Row(UsageError, "{what} is no id of a repository: USER/NAME", None)),
        (errors.HfUriError, Row(UsageError, "{what} is no address on the Hub", "Write hf://USER/NAME[@REVISION][/FILE].")),
        (errors.FileMetadataError, Row(Unreachable, "the server does not say what {what} is", _AGAIN)),
        (errors.XetDownloadError, Row(Unreachable, "{what} could not be downloaded", _AGAIN)),
        (httpx2.TimeoutException, Row(Unreachable, "the server did not answer in time about {what}", _AGAIN)),
        (httpx2.TooManyRedirects, Row(RefusedInput, "{what} leads from address to address without end", None)),
        (httpx2.UnsupportedProtocol, Row(UsageError, "{what} is no https address", None)),
        (httpx2.InvalidURL, Row(UsageError, "{what} is no address", None)),
        (httpx2.HTTPError, Row(Unreachable, "the connection to the server failed over {what}", "Look at the network; try again.")),
        (httpx2.StreamError, Row(Unreachable, "the answer about {what} broke off", _AGAIN)),
        (ConnectionError, Row(Unreachable, "the connection to the server failed over {what}", f"Look at the network. {WITHOUT_XET}")),
        (TimeoutError, Row(Unreachable, "the server did not answer in time about {what}", _AGAIN)),
    )  # fmt: skip


@contextmanager
def explained(what: str) -> Iterator[None]:
    """What the client raises inside, as an error of ours about `what`; other exceptions pass."""
    try:
        yield
    except AdapterhubError:
        raise
    except Exception as error:
        found = _unwrapped(error)
        row = _row(found)
        if row is None:
            raise
        raise row.error(row.message.format(what=what, status=_status(found) or ""), mend=row.mend) from error


def refusal(status: int, what: str, code: str | None = None) -> AdapterhubError:
    """What an answer of this status and the Hub's `code` means, where the client did not look at it."""
    row = _CODES.get(code or "") or _STATUSES.get(status, _REFUSED)
    return row.error(row.message.format(what=what, status=status), mend=row.mend)


def _unwrapped(error: Exception) -> Exception:
    """What an upload met, which the client wraps in a RuntimeError; and why something could not be reached that it does not have."""
    from huggingface_hub import errors

    while isinstance(error, (RuntimeError, errors.LocalEntryNotFoundError)) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    return error


def _row(error: Exception) -> Row | None:
    for kind, row in _table():
        if isinstance(error, kind) and not (row.error is Unreachable and _status(error)):
            return row
    return _STATUSES.get(_status(error) or 0, _REFUSED) if _status(error) else None


def _status(error: Exception) -> int | None:
    response = getattr(error, "response", None)
    return getattr(response, "status_code", None)
