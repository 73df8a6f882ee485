"""walk: every file, and every folder that is one thing, that may be an adapter or a model."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from adapterhub.adapter import Kind
from adapterhub.registry.places import hugging_face, names
from adapterhub.registry.places.applications import recognised
from adapterhub.registry.places.found import NOTHING, Application, Found, OnDisk, Told, Trouble, on_disk, trouble
from adapterhub.registry.places.listing import Listing
from adapterhub.registry.places.wholes import Whole, whole

_Identity = tuple[int, int]


class _Context(NamedTuple):
    """What is known of a folder from where it lies; `pictures` if they may be embeddings there."""

    application: Application | None = None
    name: str | None = None
    hint: Kind | None = None
    told: Told = NOTHING
    pictures: bool = False

    def at(self, path: str) -> _Context:
        """What is known of `path` in this folder: what the application says of it."""
        entry = self.application.entries.get(path) if self.application else None
        return self._replace(hint=entry.kind, told={**self.told, **entry.told}) if entry else self

    def inside(self, folder: str) -> _Context:
        """What is known of what lies in `folder`, a folder of this one."""
        context = self.at(folder)
        if told := hugging_face.snapshot(folder):
            context = context._replace(name=context.name or hugging_face.NAME, told={**context.told, **told})
        pictures = context.pictures or context.hint is Kind.EMBEDDING
        return context._replace(pictures=pictures or bool(names.EMBEDDINGS.fullmatch(os.path.basename(folder))))


class _Task(NamedTuple):
    path: str
    context: _Context


def walk(paths: Iterable[Path | str]) -> Iterator[Found | Trouble]:
    """What may be an adapter or a model in each of `paths`, told by names alone: nothing of it is opened.

    Of a folder that an application is installed in, only its places are walked (see `recognised`); a file that is given as
    such is taken whatever its name. Every folder is entered once, however many links lead to it, and a link to a file that
    is met under its own name too adds nothing; hard links are each found. In the order of names, links last.
    """
    return _Walk(paths).things()


class _Walk:
    """One walk: where it begins, the folders it has been in (whether pictures count there), and links for later."""

    def __init__(self, paths: Iterable[Path | str]) -> None:
        self.beginnings: dict[str, _Context] = {}
        self.troubles: list[Trouble] = []
        self.visited: dict[_Identity, bool] = {}
        self.linked_folders: deque[_Task] = deque()
        self.linked_files: list[_Task] = []
        for path in paths:
            self._begin(Path(path).absolute())
        self.reserved = {identity for path in self.beginnings if (identity := _identity(path))}

    def _begin(self, path: Path) -> None:
        application = recognised(path)
        if application is None:
            self.beginnings.setdefault(str(path), _Context().inside(str(path)))
            return
        self.troubles += application.troubles
        for place in application.places:
            context = _Context(application, application.name, place.kind)
            self.beginnings.setdefault(str(place.path), context.inside(str(place.path)))

    def things(self) -> Iterator[Found | Trouble]:
        yield from self.troubles
        for path, context in self.beginnings.items():
            yield from self._tree(path, context) if os.path.isdir(path) else self._alone(path, context.at(path))
        while self.linked_folders:
            task = self.linked_folders.popleft()
            if self._enters(task.path):
                yield from self._tree(*task)
        for task in self.linked_files:
            thing = self._found(task.path, (on_disk(task.path),), task.context)
            if isinstance(thing, Trouble) or not self._met_under_its_own_name(task.path):
                yield thing

    def _tree(self, path: str, context: _Context) -> Iterator[Found | Trouble]:
        stack = [_Task(path, context)]
        while stack:
            folder, context = stack.pop()
            try:
                if not self._visit(folder, context):
                    continue
                listing = Listing(folder)
            except OSError as error:
                yield trouble(folder, error)
                continue
            if listing.environment and folder != path:
                continue
            yield from listing.troubles
            apart = whole(listing)
            yield from self._files(listing, context, apart)
            stack += reversed(list(self._folders(listing, context, apart)))

    def _visit(self, folder: str, context: _Context) -> bool:
        """Notes that `folder` is entered; False if it was already."""
        status = os.stat(folder)
        identity = status.st_dev, status.st_ino
        new = identity not in self.visited
        self.visited.setdefault(identity, context.pictures)
        return new

    def _enters(self, folder: str) -> bool:
        """Whether to enter a folder that is met: others hold no models, or are walked on their own."""
        return not names.skipped(folder) and (not self.reserved or _identity(folder) not in self.reserved)

    def _folders(self, listing: Listing, context: _Context, apart: Whole | None) -> Iterator[_Task]:
        for name in listing.folders:
            path = listing.at(name)
            if (apart and name in apart.parts) or _left_alone(path, context):
                continue
            task = _Task(path, context.inside(path))
            if name in listing.linked:
                self.linked_folders.append(task)
            elif self._enters(path):
                yield task

    def _files(self, listing: Listing, context: _Context, apart: Whole | None) -> Iterator[Found | Trouble]:
        taken: set[str] = set()
        if apart:
            taken.update(apart.files)
            yield self._found(listing.path, map(on_disk, map(listing.at, apart.files)), context)
        for index, parts in names.shards(listing.models, listing.indexes).items():
            taken.update(parts)
            here = context.at(listing.at(index))
            yield self._found(listing.at(index), map(on_disk, map(listing.at, (index, *parts))), here)
        pictures = names.without_previews(listing.pictures, listing.models) if context.pictures else ()
        for name in (*listing.models, *pictures):
            path = listing.at(name)
            if name not in taken and path not in self.beginnings and not _left_alone(path, context):
                yield from self._file(path, context.at(path), linked=name in listing.linked)

    def _file(self, path: str, context: _Context, *, linked: bool) -> Iterator[Found | Trouble]:
        if linked:
            context = context._replace(told={**context.told, **hugging_face.blob(path)})
            if names.MODEL.fullmatch(name := os.path.basename(os.path.realpath(path))) or names.PICTURE.fullmatch(name):
                self.linked_files.append(_Task(path, context))
                return
        yield self._found(path, (on_disk(path),), context)

    def _alone(self, path: str, context: _Context) -> Iterator[Found | Trouble]:
        """A file that was given as such, with the shards that it joins."""
        parts: list[str] = []
        if names.is_index(os.path.basename(path)):
            try:
                folder = Listing(os.path.dirname(path))
            except (OSError, ValueError) as error:
                yield trouble(path, error)
                return
            parts = [folder.at(name) for name in names.shards(folder.models, [os.path.basename(path)]).popitem()[1]]
        yield self._found(path, map(on_disk, (path, *parts)), context)

    def _met_under_its_own_name(self, link: str) -> bool:
        folder, name = os.path.split(os.path.realpath(link))
        identity = _identity(folder)
        if identity is None or identity not in self.visited:
            return False
        return names.MODEL.fullmatch(name) is not None or self.visited[identity]

    def _found(self, path: str, files: Iterable[OnDisk | Trouble], context: _Context) -> Found | Trouble:
        """What lies at `path`; the first trouble with one of its files instead, if there is any."""
        there: list[OnDisk] = []
        for file in files:
            if isinstance(file, Trouble):
                return file
            there.append(file)
        return Found(Path(path), tuple(there), context.name, context.hint, context.told)


def _left_alone(path: str, context: _Context) -> bool:
    return context.application is not None and path in context.application.others


def _identity(path: str) -> _Identity | None:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino
