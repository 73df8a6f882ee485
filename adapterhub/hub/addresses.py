"""What a person gives to be pulled or looked at: a repository of the Hub, by id, URI or web address, or any https address."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from adapterhub.errors import UsageError
from adapterhub.hub.errors import explained

Origin = tuple[str, str, int | None]
_PORTS = {"https": 443, "http": 80}
_SCHEME = re.compile(r"(hf|https?):/", re.IGNORECASE)
_HUB_HOSTS = ("huggingface.co", "hf.co", "www.huggingface.co")
_SHOWN = 300


@dataclass(frozen=True, slots=True)
class InRepository:
    """`file` of the model repository `repo`, or the repository as such, at `revision`."""

    repo: str
    revision: str | None = None
    file: str | None = None

    def __str__(self) -> str:
        at = f"@{self.revision}" if self.revision else ""
        return f"hf://{self.repo}{at}" + (f"/{self.file}" if self.file else "")


@dataclass(frozen=True, slots=True)
class Plain:
    """An address of the web."""

    url: str

    def __str__(self) -> str:
        return shown(self.url)


def is_address(text: str) -> bool:
    """Whether this is meant for the network, and is no path."""
    return _SCHEME.match(text) is not None


def located(text: str, *, allow_http: bool = False) -> InRepository | Plain:
    """Where `text` leads: USER/NAME, hf://…, the web address of a repository or of a file in it, or another address."""
    from huggingface_hub import constants, parse_hf_uri

    if not text.isprintable():
        raise UsageError(f"{text[:_SHOWN]!a} is no address")
    if is_address(text) and not text.startswith("hf:") and not _is_of_hub(text, constants.ENDPOINT):
        return Plain(checked(text, allow_http=allow_http))
    with explained(shown(text)):
        uri = parse_hf_uri(text if is_address(text) else f"hf://{text}", endpoint=constants.ENDPOINT)
    if uri.type != "model":
        raise UsageError(
            f"{shown(text)} is a {uri.type}, and not a model", mend="Adapters and models lie in model repositories."
        )
    endpoint(allow_http=allow_http)
    return InRepository(uri.id, uri.revision, uri.path_in_repo or None)


def endpoint(*, allow_http: bool = False) -> str:
    """The Hub's address, which the token goes to ($HF_ENDPOINT). UsageError where it is not encrypted, and that is not allowed."""
    from huggingface_hub import constants

    return checked(constants.ENDPOINT, allow_http=allow_http)


def _is_of_hub(text: str, endpoint: str) -> bool:
    return origin(text) == origin(endpoint) or origin(text)[1] in _HUB_HOSTS


def checked(url: str, *, allow_http: bool = False) -> str:
    """The address, if it may be asked: https, or http where it is allowed or leads to this machine. UsageError if not."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host, parts = None, urlsplit("")
    if not host or parts.scheme not in _PORTS:
        raise UsageError(f"{shown(url)} is no https address")
    if parts.username is not None or parts.password is not None:
        raise UsageError("an address with a name or password in it is not asked for", mend="Give it without.")
    if parts.scheme == "http" and not allow_http and not is_loopback(host):
        raise UsageError(
            f"{shown(url)} is not encrypted: anybody on the way can change what comes",
            mend="Use https; pull takes --allow-http.",
        )
    return url


def is_loopback(host: str) -> bool:
    """Whether this host is this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def origin(url: str) -> Origin:
    """Scheme, host and port: who is sent what. Nothing is one for an address that cannot be read."""
    try:
        parts = urlsplit(url)
        return parts.scheme.lower(), (parts.hostname or "").lower(), parts.port or _PORTS.get(parts.scheme.lower())
    except ValueError:
        return "", "", None


def shown(text: str) -> str:
    """An address for messages and for the registry: without what follows a `?`, where keys and signatures stand, and without
    a name and password.
    """
    head = re.split(r"[?#]", text, maxsplit=1)[0]
    return re.sub(r"//[^/@]*@", "//", head)[:_SHOWN]
