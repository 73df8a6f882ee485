"""Errors of one module among many say of which."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from adapterhub.adapter import Module
from adapterhub.errors import BrokenAdapter, NeedsBase


@contextmanager
def naming(module: Module) -> Iterator[None]:
    """Puts the name of `module` before what is refused about it, unless it is told already."""
    where = ".".join(module)
    try:
        yield
    except BrokenAdapter as fault:
        if fault.places:
            raise
        raise BrokenAdapter(f"{where}: {fault.message}", [where], mend=fault.mend) from fault
    except NeedsBase as fault:
        raise NeedsBase(f"{where}: {fault.message}", mend=fault.mend) from fault
