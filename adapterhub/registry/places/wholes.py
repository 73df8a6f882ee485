"""Folders that are one thing, as `adapterhub.files.read` takes them: told by names alone, before any is opened."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from adapterhub.errors import AdapterhubError
from adapterhub.files.directories import COMPONENTS, KNOWN, PEFT, PIPELINE, SCHEDULER, Known, preferred
from adapterhub.files.folder import WEIGHTS, Folder
from adapterhub.files.package import ASIDE_FILE
from adapterhub.registry.places import names
from adapterhub.registry.places.listing import Listing


class Whole(NamedTuple):
    """The files of a folder that is one thing, by names relative to it, and its folders that are part of it."""

    files: tuple[str, ...]
    parts: tuple[str, ...] = ()


def whole(folder: Listing) -> Whole | None:
    """What makes the folder one thing; None where each file in it stands for itself."""
    for known in KNOWN:
        if found := [name for stem in known.weights if (name := _weights(folder, stem))]:
            return _well_known(folder, known, found)
    return _adapter_of_components(folder) or _pipeline(folder)


def _well_known(folder: Listing, known: Known, found: list[str]) -> Whole | None:
    """Weights that mean nothing without a document, or that come in several files: as for the reader, they decide."""
    one = known.needs in folder.documents or len(found) > 1
    return Whole((*found, *sorted(folder.documents))) if one else None


def _adapter_of_components(folder: Listing) -> Whole | None:
    """A folder of PEFT for each component. Two adapters side by side have other names, and stay two."""
    files: list[str] = []
    for part in (name for name in folder.folders if name in COMPONENTS):
        there = [f"{stem}{suffix}" for stem in PEFT.weights for suffix in WEIGHTS]
        config = os.path.join(part, PEFT.needs or "")
        weights = [name for name in there if os.path.exists(folder.at(os.path.join(part, name)))]
        if not weights or not os.path.exists(folder.at(config)):
            return None
        files += [os.path.join(part, weights[0]), config]
    return Whole(tuple(files), tuple(name for name in folder.folders if name in COMPONENTS)) if files else None


def _pipeline(folder: Listing) -> Whole | None:
    """A pipeline of diffusers. All its folders are parts of it, those too that adapterhub does not read."""
    if PIPELINE not in folder.documents:
        return None
    files = [name for name in folder.models if name == ASIDE_FILE] + sorted(folder.documents)
    for part in (name for name in folder.folders if name in (*COMPONENTS, SCHEDULER)):
        files += [os.path.join(part, name) for name in _component(folder.at(part))]
    return Whole(tuple(files), tuple(folder.folders))


def _component(path: str) -> list[str]:
    try:
        listing, weights = Listing(path), preferred(Folder(Path(path)))
    except (AdapterhubError, OSError):  # reading says what is wrong with it
        return []
    joined = names.shards(listing.models, [name for name in weights if names.is_index(name)])
    return [*weights, *(name for shards in joined.values() for name in shards), *sorted(listing.documents)]


def _weights(folder: Listing, stem: str) -> str | None:
    return next((stem + suffix for suffix in WEIGHTS if folder.holds(stem + suffix)), None)
