"""`inspect` and `validate` of what lies on the Hub or at an https address: a few requests for ranges, no download.

One for the repository, one for each document (a configuration, an index) and one for each header that is no longer than
`ranges.BLOCK`: 9 for a pipeline of SD 1, 11 for one of SDXL (and the redirects of the Hub); no more than `contents.REQUESTS`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from adapterhub.errors import NeedsDownload, UsageError
from adapterhub.files import Address, Elsewhere, Package, read_source
from adapterhub.hub.addresses import Plain, is_address, located, shown
from adapterhub.hub.choosing import choose
from adapterhub.hub.ranges import Ranges
from adapterhub.hub.repository import repository

if TYPE_CHECKING:
    from adapterhub.documents import Inspection, Validation


def inspect(
    path: Path | str,
    *,
    hash: bool = False,  # noqa: A002 (--hash)
    tensors: bool = False,
    spectrum: bool = False,
    base: Path | str | None = None,
    variant: str | None = None,
) -> Inspection:
    """What the file or folder at `path` is, which may be an address: hf://user/name[@revision][/file] or https://….

    Of what is remote only the header and small tensors are read: `hash` and `spectrum` raise NeedsDownload there. The rest is
    as `operations.inspect` says.
    """
    from adapterhub.operations.inspect import inspect as local

    if not is_address(str(path)):
        return local(path, hash=hash, tensors=tensors, spectrum=spectrum, base=base, variant=variant)
    _require_no(variant)
    if hash or spectrum:
        raise NeedsDownload(shown(str(path)), "digests and spectra take all of it")
    with opened(str(path)) as package:
        return local(package, tensors=tensors)


def validate(path: Path | str, *, base: Path | str | None = None, variant: str | None = None) -> Validation:
    """Whether the file or folder at `path` is sound; of a remote one as far as its header tells, which a warning says."""
    from adapterhub.operations.validate import validate as local

    if not is_address(str(path)):
        return local(path, base=base, variant=variant)
    _require_no(variant)
    if base is not None:
        raise NeedsDownload(shown(str(path)), "its values are not read for a base")
    with opened(str(path)) as package:
        return local(package, values=False)


def _require_no(variant: str | None) -> None:
    if variant is not None:
        raise UsageError("--variant is for folders on this machine", mend="Give the address of the file that is meant.")


@contextmanager
def opened(text: str) -> Iterator[Package]:
    """The package at an address."""
    place = located(text)
    if isinstance(place, Plain):
        with package_at(Ranges(place.url)) as package:
            yield package
        return
    with choose(repository(place), place).open() as package:
        yield package


def package_at(content: Ranges, name: str | None = None) -> Package:
    """The file at a plain address; what it is called, there or by the server, says what it is not read as."""
    address = Address(content.name)
    called = address if name is None else address.with_name(name)
    return read_source(Elsewhere(called, content), address)
