"""`inspect` and `validate` of what lies on the Hub or at an https address: a few requests for ranges, no download."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapterhub.errors import NeedsDownload
from adapterhub.files import LIMITS, Address, Elsewhere, Package, read_elsewhere
from adapterhub.files.beside import parse_document
from adapterhub.hub.addresses import InRepository, Plain, is_address, located, shown
from adapterhub.hub.ranges import Ranges
from adapterhub.hub.repository import Chosen, Repository, choose, repository

if TYPE_CHECKING:
    from adapterhub.documents import Inspection, Validation


def inspect(
    path: Path | str,
    *,
    hash: bool = False,  # noqa: A002 (--hash)
    tensors: bool = False,
    spectrum: bool = False,
    base: Path | str | None = None,
) -> Inspection:
    """What the file or folder at `path` is, which may be an address: hf://user/name[@revision][/file] or https://….

    Of what is remote only the header and small tensors are read: `hash` and `spectrum` raise NeedsDownload there. The rest is
    as `operations.inspect` says.
    """
    from adapterhub.operations.inspect import inspect as local

    if not is_address(str(path)):
        return local(path, hash=hash, tensors=tensors, spectrum=spectrum, base=base)
    if hash or spectrum:
        raise NeedsDownload(shown(str(path)), "digests and spectra take all of it")
    with opened(str(path)) as package:
        return local(package, tensors=tensors)


def validate(path: Path | str, *, base: Path | str | None = None) -> Validation:
    """Whether the file or folder at `path` is sound; of a remote one as far as its header tells, which a warning says."""
    from adapterhub.operations.validate import validate as local

    if not is_address(str(path)):
        return local(path, base=base)
    if base is not None:
        raise NeedsDownload(shown(str(path)), "its values are not read for a base")
    with opened(str(path)) as package:
        return local(package, values=False)


@contextmanager
def opened(text: str) -> Iterator[Package]:
    """The package at an address."""
    place = located(text)
    if isinstance(place, Plain):
        with package_at(Ranges(place.url)) as package:
            yield package
        return
    there = repository(place)
    with package_in(there, choose(there, place.file), place) as package:
        yield package


def package_at(content: Ranges, name: str | None = None) -> Package:
    """The file at a plain address; what it is called, there or by the server, says what it is not read as."""
    address = Address(content.name)
    called = address if name is None else address.with_name(name)
    return read_elsewhere(address, {called.name: Elsewhere(called, content)})


def package_in(there: Repository, chosen: Chosen, place: InRepository) -> Package:
    """What was chosen in a repository. NeedsDownload for a whole pipeline."""
    if not chosen.weights:
        raise NeedsDownload(str(place), "a whole pipeline of many files")
    sources = {name: Elsewhere(Address(f"hf://{there.repo}/{name}"), _ranges(there, name)) for name in chosen.weights}
    return read_elsewhere(Address(str(place)), sources, _documents(there, chosen), whole=chosen.whole)


def _documents(there: Repository, chosen: Chosen) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in chosen.documents:
        size = there.files[name].size
        if size > LIMITS.document or not size:
            raise NeedsDownload(f"hf://{there.repo}/{name}", f"a document of {size} bytes")
        content = _ranges(there, name).read(0, size)
        address = Address(f"hf://{there.repo}/{name}")
        found[name] = (
            content.decode("utf-8", "replace") if name.endswith(".txt") else parse_document(content, address, LIMITS)
        )
    return found


def _ranges(there: Repository, name: str) -> Ranges:
    """A file at the commit that was resolved, so that all that is read of it is of one version."""
    from huggingface_hub import constants, hf_hub_url

    url = hf_hub_url(there.repo, name, revision=there.commit, endpoint=constants.ENDPOINT)
    return Ranges(url, size=there.files[name].size, name=f"hf://{there.repo}/{name}", allow_http=True)
