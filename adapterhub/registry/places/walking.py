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

    def of(self, file: str) -> _Context:
        """What is known of a file in this folder: of a link into a cache, also what its blob is called after."""
        context = self.at(file)
        blob = hugging_face.blob(file) if hugging_face.REPOSITORY in context.told else NOTHING
        return context._replace(told={**context.told, **blob}) if blob else context

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
            yield from self._tree(path, context) if os.path.isdir(path) else self._alone(path, context)
        while self.linked_folders:
            task = self.linked_folders.popleft()
            if self._enters(task.path):
                yield from self._tree(*task)
        for task in self.linked_files:
            thing = _thing(task.path, (task.path,), task.context)
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
        joined = names.shards(listing.models, listing.indexes)
        taken = {name for parts in joined.values() for name in parts}
        if apart:
            taken.update(apart.files)
            yield _thing(listing.path, map(listing.at, apart.files), context)
        for name in (*listing.indexes, *listing.models, *_pictures(listing, context)):
            path = listing.at(name)
            if name in taken or path in self.beginnings or _left_alone(path, context):
                continue
            if name in listing.linked and _may_be_met(path):
                self.linked_files.append(_Task(path, context.of(path)))
            else:
                yield _thing(path, (path, *map(listing.at, joined.get(name, ()))), context.of(path))

    def _alone(self, path: str, context: _Context) -> Iterator[Found | Trouble]:
        """A file that was given as such, with the shards that it joins."""
        folder, name = os.path.split(path)
        try:
            parts = names.shards(Listing(folder).models, [name])[name] if names.is_index(name) else []
        except (OSError, ValueError) as error:
            yield trouble(path, error)
        else:
            yield _thing(path, (path, *(os.path.join(folder, part) for part in parts)), context.of(path))

    def _met_under_its_own_name(self, link: str) -> bool:
        folder, name = os.path.split(os.path.realpath(link))
        identity = _identity(folder)
        if identity is None or identity not in self.visited:
            return False
        return names.MODEL.fullmatch(name) is not None or self.visited[identity]


def _thing(path: str, files: Iterable[str], context: _Context) -> Found | Trouble:
    """What lies at `path`; the first trouble with one of its `files` instead, if there is any."""
    there: list[OnDisk] = []
    for file in map(on_disk, files):
        if isinstance(file, Trouble):
            return file
        there.append(file)
    return Found(Path(path), tuple(there), context.name, context.hint, context.told)


def _may_be_met(link: str) -> bool:
    """Whether what a link leads to is called like something that is found under its own name."""
    name = os.path.basename(os.path.realpath(link))
    return names.MODEL.fullmatch(name) is not None or names.PICTURE.fullmatch(name) is not None


def _left_alone(path: str, context: _Context) -> bool:
    return context.application is not None and path in context.application.others


def _pictures(listing: Listing, context: _Context) -> Iterable[str]:
    """The pictures that may be embeddings: where an application keeps these, all but previews; in other folders those beside
    models too, for an embedding may lie there as a picture and as a file.
    """
    if context.application is None and (listing.models or context.pictures):
        return listing.pictures
    return names.without_previews(listing.pictures, listing.models) if context.pictures else ()


def _identity(path: str) -> _Identity | None:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino
