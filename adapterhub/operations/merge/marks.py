"""The fingerprints of adapters that are merged, which the recipe names. Those of large ones are remembered: many merges take the
same adapter, and to read and hash its numbers takes longer than many a merge.
"""

from __future__ import annotations

import hashlib
from importlib.metadata import version

from adapterhub import files
from adapterhub.fingerprint import fingerprint
from adapterhub.operations.source import Source

_KIND = "fingerprint"
_WORTHWHILE = 16 << 20
"""Bytes of an adapter below which that is quick."""
_MARKING = 12
"""How much longer than hashing a file its fingerprint takes."""


def mark(source: Source, digest: str) -> str:
    """The fingerprint of an adapter whose files have this `digest`."""
    name = _name(source, digest)
    return fingerprint(source.adapter) if name is None else files.cached_digest(_KIND, name, lambda: _settled(source))


def cost(source: Source, digest: str) -> int:
    """What it takes, as bytes that would be hashed in that time."""
    name = _name(source, digest)
    known = name is not None and files.is_cached_digest(_KIND, name)
    return 0 if known else _MARKING * source.package.size


def _name(source: Source, digest: str) -> str | None:
    """Everything that it follows from; None for what is not remembered: small adapters, and what was read in part."""
    if source.package.size < _WORTHWHILE or source.dropped:
        return None
    adapter = source.adapter
    told = (version("adapterhub"), digest, adapter.kind, source.layout.name, adapter.architecture)
    return hashlib.sha256("\0".join(told).encode()).hexdigest()


def _settled(source: Source) -> str:
    """The fingerprint of what has the digest: a file that has changed since has another."""
    found = fingerprint(source.adapter)
    source.package.ensure_unchanged()
    return found
