"""Which files of a repository are meant: those of the folder that is one adapter or model, or one that was named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from adapterhub.errors import NotFound, UsageError
from adapterhub.files import LIMITS, Address, Folder, Package, read_folder, read_part
from adapterhub.files.directories import LONE, preferred, survey
from adapterhub.files.folder import INDEX, listed
from adapterhub.files.opened import is_index, part_of, shards_of
from adapterhub.hub.addresses import InRepository
from adapterhub.hub.contents import RemoteFolder
from adapterhub.hub.repository import Repository

_DOCUMENTS = (".json", ".txt", ".model")
"""How the files of a pipeline end that are no weights: configurations, and what tokenizers are made of."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """`weights` and `documents` of what is meant, by their names in the repository, and what opens them."""

    weights: tuple[str, ...]
    documents: tuple[str, ...]
    open: Callable[[], Package]

    @property
    def names(self) -> tuple[str, ...]:
        """All files."""
        return tuple(dict.fromkeys((*self.weights, *self.documents)))


def choose(there: Repository, place: InRepository) -> Chosen:
    """What is meant: the file of `place`; or what its folder, as the same on a disk, is: what is called as adapters are, a pipeline,
    or the only file of weights. The shards of an index come with it; MalformedFile where one is not there.

    NotFound where the file is not there, UsageError with a list where nothing or several would do.
    """
    root = RemoteFolder(Address(str(InRepository(place.repo, place.revision))), there)
    if place.file is None:
        return _of_folder(root, there)
    if place.file in there.files:
        return _of_file(root, place.file)
    if any(name.startswith(f"{place.file}/") for name in there.files):
        return _of_folder(root.part(place.file), there)
    raise NotFound(f"{there.repo} has no file {place.file!a} at {there.commit[:8]}", mend=_choices(there))


def _of_file(root: RemoteFolder, name: str) -> Chosen:
    within, _, file = name.rpartition("/")
    folder = root.part(within)
    weights = [*_shards(folder, file), file] if INDEX.search(file) else [file]
    return Chosen(folder.called(weights), (), lambda: read_part(folder, file))


def _of_folder(folder: RemoteFolder, there: Repository) -> Chosen:
    try:
        found, _ = survey(folder, LIMITS)
        weights = [name for first in found.weights for name in (*_shards(folder, first), first)]
        more, others = _pipeline(folder) if found.pipeline else ([], [])
    except UsageError as reason:
        raise UsageError(reason.message, mend=_choices(there)) from None
    documents = folder.called([*found.documents, *others])
    return Chosen(folder.called([*weights, *more]), documents, lambda: read_folder(folder))


def _pipeline(folder: Folder) -> tuple[list[str], list[str]]:
    """Weights and documents of all that a pipeline has in folders, without the other formats and variants of the weights."""
    weights: list[str] = []
    documents: list[str] = []
    for name in folder.folders:
        if not name.startswith("."):
            part = folder.part(name)
            weights += [f"{name}/{one}" for first in preferred(part) for one in (*_shards(part, first), first)]
            documents += [
                f"{name}/{one}" for one in sorted(part.files) if one.endswith(_DOCUMENTS) and not INDEX.search(one)
            ]
    return weights, documents


def _shards(folder: Folder, name: str) -> list[str]:
    """What the index `name` joins; nothing where it is none."""
    if not is_index(name):
        return []
    home, path = part_of(folder, name), folder.path / name
    start = name[: name.rfind("/") + 1]
    return [start + shard for shard in shards_of(folder.document(name, LIMITS), path, home, LIMITS)]


def _choices(there: Repository) -> str:
    every = (*LONE[0], *LONE[1], *LONE[2])
    weights = [name for name in there.files if name.lower().endswith(every) or INDEX.search(name)]
    return f"Say which with --file: {listed(weights or there.files) or 'there is none'}."
