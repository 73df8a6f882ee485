"""One folder, listed once: the names in it that matter."""

from __future__ import annotations

import os
import stat
from bisect import bisect_left
from pathlib import Path

from adapterhub.files.directories import DOCUMENTS
from adapterhub.registry.places import names
from adapterhub.registry.places.found import Trouble, trouble

_DOCUMENTS = frozenset(DOCUMENTS)


class Listing:
    """The models, pictures, indexes of shards, documents and folders in the folder at `path`, by name and in order.

    `linked` are those that are links, `environment` says that Python lives here. Names alone are kept, since a folder may hold a million.
    """

    __slots__ = ("documents", "environment", "folders", "indexes", "linked", "models", "path", "pictures", "troubles")

    def __init__(self, path: str) -> None:
        self.path = path
        self.models: list[str] = []
        self.pictures: list[str] = []
        self.indexes: list[str] = []
        self.documents: set[str] = set()
        self.folders: list[str] = []
        self.environment = False
        self.linked: set[str] = set()
        self.troubles: list[Trouble] = []
        with os.scandir(path) as entries:
            for entry in entries:
                self._sort_in(entry)
        for found in (self.models, self.pictures, self.indexes, self.folders):
            found.sort()

    def at(self, name: str) -> str:
        """The path of what is called `name` in this folder."""
        return os.path.join(self.path, name)

    def holds(self, model: str) -> bool:
        """Whether there is a model of this name."""
        at = bisect_left(self.models, model)
        return at < len(self.models) and self.models[at] == model

    def _sort_in(self, entry: os.DirEntry[str]) -> None:
        if entry.is_dir(follow_symlinks=False) or (entry.is_symlink() and self._leads_to_folder(entry.name)):
            self.folders.append(entry.name)
        else:
            self._sort_in_file(entry.name)

    def _sort_in_file(self, name: str) -> None:
        if names.MODEL.fullmatch(name):
            self.models.append(name)
        elif names.PICTURE.fullmatch(name):
            self.pictures.append(name)
        elif names.is_index(name):
            self.indexes.append(name)
        elif name in _DOCUMENTS:
            self.documents.add(name)
        elif name == names.ENVIRONMENT:
            self.environment = True

    def _leads_to_folder(self, name: str) -> bool:
        self.linked.add(name)
        try:
            return stat.S_ISDIR(os.stat(self.at(name)).st_mode)
        except OSError as error:
            if not _matters(name):  # a model says so itself when its turn comes
                self.troubles.append(trouble(Path(self.at(name)), error))
            return False


def _matters(name: str) -> bool:
    return any((names.MODEL.fullmatch(name), names.PICTURE.fullmatch(name), names.is_index(name), name in _DOCUMENTS))
