"""Whether a model descends from a base, and how far it went: DreamBooth leaves no other trace in the weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from adapterhub.adapter import Adapter
from adapterhub.documents import Problem


def descent(adapter: Adapter, base: Path) -> Iterator[Problem]:
    """To be done."""
    return iter(())
