"""`pull`: an adapter or model from the Hub or from an https address, looked at before it is downloaded, verified after."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from adapterhub import files
from adapterhub.adapter import Kind
from adapterhub.documents import Pulled, PulledFile
from adapterhub.errors import NeedsDownload, NotAnAdapter, OutputExists, UsageError
from adapterhub.hub import download, placing, remote
from adapterhub.hub.addresses import InRepository, Plain, located
from adapterhub.hub.cached import cached
from adapterhub.hub.choosing import choose
from adapterhub.hub.names import inside, safe_name
from adapterhub.hub.ranges import Ranges
from adapterhub.hub.repository import Repository, repository

if TYPE_CHECKING:
    from adapterhub.files import Package

_SHA256 = re.compile(r"[0-9a-fA-F]{64}")


def _nowhere(sha256: str) -> Sequence[str]:
    return ()


def _silent(found: Pulled) -> None:
    """Nobody wants to be told."""


@dataclass(frozen=True)
class Wish:
    """How `pull` was asked to pull."""

    output: Path | None = None
    link: bool = False
    base: Path | None = None
    sha256: str | None = None
    allow_http: bool = False
    max_size: int | None = None
    dry_run: bool = False
    force: bool = False
    known: Callable[[str], Sequence[str]] = field(default=_nowhere)
    announce: Callable[[Pulled], None] = field(default=_silent)


def pull(
    source: str,
    output: Path | str | None = None,
    *,
    file: str | None = None,
    revision: str | None = None,
    link: bool = False,
    base: Path | str | None = None,
    sha256: str | None = None,
    allow_http: bool = False,
    max_size: int | None = None,
    dry_run: bool = False,
    force: bool = False,
    known: Callable[[str], Sequence[str]] = _nowhere,
    announce: Callable[[Pulled], None] = _silent,
) -> Pulled:
    """Gets what `source` names, USER/NAME, hf://USER/NAME[@REVISION][/FILE], a web address of the Hub or any https address, into
    the folder `output` (that of the repository's name; for a plain address this one).

    Before anything is downloaded its header is read by ranges, and `announce` is given what it is, how it fits `base`, and where
    `known` says that a file of the same SHA-256 is. What does not have the digest that the Hub tells, or `sha256`, is refused.
    With `link` the file in the Hub's cache is linked and not copied. NotFound, UsageError with the choices where several files
    would do, OutputExists without `force`, RefusedInput above `max_size` bytes, NoAccess, Unreachable.
    """
    if sha256 is not None and not _SHA256.fullmatch(sha256):
        raise UsageError(f"{sha256!a} is no SHA-256", mend="Give its 64 hexadecimal digits.")
    wish = Wish(None if output is None else Path(output), link, None if base is None else Path(base), sha256, allow_http,
                max_size, dry_run, force, known, announce)  # fmt: skip
    place = located(source, allow_http=allow_http)
    if isinstance(place, Plain):
        if file or revision or link:
            raise UsageError("a plain address has no files, revisions or cache to choose from")
        return _from_address(place, wish)
    given = replace(place, file=file or place.file, revision=revision or place.revision)
    return _from_hub(given, wish)


def _from_hub(place: InRepository, wish: Wish) -> Pulled:
    there = repository(place, allow_http=wish.allow_http)
    chosen = choose(there, place)
    if wish.sha256 and len(chosen.weights) > 1:
        raise UsageError(
            f"a SHA-256 is that of one file, and these are {len(chosen.weights)}", mend="Say which with --file."
        )
    folder = wish.output or Path(safe_name(there.repo.rpartition("/")[2]))
    targets = {name: inside(folder, name) for name in chosen.names}
    found = _looked_at(chosen.open, wish)
    rows = [_row(there, name, targets[name], wish) for name in chosen.names]
    told = Pulled(source=str(place), repo=there.repo, revision=there.commit, files=rows, **found)
    _require_wanted(told, targets.values(), wish)
    if wish.dry_run:
        return told.model_copy(update={"dry_run": True})
    wish.announce(told)
    here = {name: cached(there, name, wish.sha256 if name == chosen.names[0] else None) for name in chosen.names}
    placing.placed({targets[name]: path for name, path in here.items()}, link=wish.link, force=wish.force)
    done = [row.model_copy(update={"sha256": files.sha256(here[row.name])}) for row in rows]
    return told.model_copy(update={"files": done})


def _row(there: Repository, name: str, target: Path, wish: Wish) -> PulledFile:
    one = there.files[name]
    known = list(wish.known(one.sha256)) if one.sha256 else []
    return PulledFile(name=name, size=one.size, sha256=one.sha256, path=str(target), known=known)


def _looked_at(open_package: Callable[[], Package], wish: Wish) -> dict[str, Any]:
    """What it is by its header, and how it fits; or why that is not known before it is downloaded."""
    from adapterhub.operations.inspect import inspect

    try:
        with open_package() as package:
            found = inspect(package)
    except (NeedsDownload, NotAnAdapter) as reason:
        return {"unread": reason.message}
    return {"inspection": found, **({} if wish.base is None else _fit(open_package, found.kind, wish.base))}


def _fit(open_package: Callable[[], Package], kind: Kind, base: Path) -> dict[str, Any]:
    """How an adapter fits; a base that is none is an error."""
    from adapterhub.operations.fit.compatible import compatible

    if kind not in (Kind.LORA, Kind.EMBEDDING, Kind.HYPERNETWORK):
        return {"unfitted": f"it is of the kind {kind}, and no adapter"}
    try:
        with open_package() as package:
            return {"fit": compatible(package, base)}
    except NeedsDownload as reason:
        return {"unfitted": reason.message}


def _require_wanted(told: Pulled, targets: Iterable[Path], wish: Wish) -> None:
    """Raises before anything is downloaded: where something is there already, or it is too large, or another file."""
    size = sum(row.size or 0 for row in told.files)
    if wish.max_size is not None and size > wish.max_size:
        raise placing.too_large(told.source, size, wish.max_size)
    first = told.files[0]
    if first.sha256 is not None:
        placing.require_digest(told.source, first.sha256, wish.sha256)
    for path in targets:
        if path.is_dir():
            raise UsageError(f"{path} is a folder, and is not replaced by a file", mend="Give another folder with -o.")
        if not wish.force and (path.exists() or path.is_symlink()):
            raise OutputExists(path)


def _from_address(place: Plain, wish: Wish) -> Pulled:
    what = str(place)
    content = _ranges(place, wish)
    name = _name(place, content)
    folder = wish.output or Path()
    target = inside(folder, name)
    found = {"unread": "the server does not give parts of it"} if content is None else _looked_at(
        lambda: remote.package_at(content, name), wish)  # fmt: skip
    size = None if content is None else content.size
    known = list(wish.known(wish.sha256)) if wish.sha256 else []
    row = PulledFile(name=name, size=size, sha256=wish.sha256, path=str(target), known=known)
    told = Pulled(source=what, files=[row], **found)
    _require_wanted(told, [target], wish)
    if wish.dry_run:
        return told.model_copy(update={"dry_run": True})
    wish.announce(told)
    with placing.folders([folder]):
        count, digest = download.downloaded(
            place.url, target, what, size=size, version=None if content is None else content.version, most=wish.max_size,
            sha256=wish.sha256, allow_http=wish.allow_http, force=wish.force,
        )  # fmt: skip
    done = row.model_copy(update={"size": count, "sha256": digest, "known": list(wish.known(digest))})
    return told.model_copy(update={"files": [done]})


def _ranges(place: Plain, wish: Wish) -> Ranges | None:
    try:
        return Ranges(place.url, allow_http=wish.allow_http)
    except NeedsDownload:
        return None


def _name(place: Plain, content: Ranges | None) -> str:
    """What the server calls it (RFC 6266), or how the address ends."""
    from email.message import Message

    head = Message()
    head["Content-Disposition"] = (content and content.disposition) or ""
    with suppress(ValueError, LookupError):  # an encoding that nobody knows
        if told := head.get_filename():
            return safe_name(told)
    return safe_name(urlsplit(place.url).path)
