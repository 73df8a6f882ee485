"""A repository of the Hub as a folder that is read: listed from what the Hub told, its files in ranges, documents once."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from adapterhub.files import Address, Elsewhere, Folder, Limits, Listing
from adapterhub.files.beside import require_within
from adapterhub.files.directories import LONE
from adapterhub.files.source import Source
from adapterhub.hub.names import DEEPEST
from adapterhub.hub.ranges import Purse, Ranges
from adapterhub.hub.repository import Repository

REQUESTS, BYTES = 128, 192 << 20
"""What all files of a repository may take that are read together: a pipeline takes a dozen requests, a shard one."""


class RemoteFolder(Folder):
    """The folder `within` ("" or "unet") of a repository, which is at `path`. Pictures are taken for those of its card."""

    def __init__(self, path: Address, there: Repository, within: str = "", root: RemoteFolder | None = None) -> None:
        super().__init__(path)
        self._there, self._start = there, f"{within}/" if within else ""
        self._tree: dict[str, Listing] = root._tree if root else _tree(there.files)
        self._purse: Purse = root._purse if root else Purse(str(path), REQUESTS, BYTES)
        self._documents: dict[str, Any] = {}

    def _listed(self) -> Listing:
        return self._tree.get(self._start, Listing())

    def part(self, name: str) -> RemoteFolder:
        """The folder `name` in it, whose requests count with its own."""
        if not name:
            return self
        return RemoteFolder(self._at(name), self._there, self._start + name, self)

    def source(self, name: str, by: Path | None = None) -> Source:
        """The file `name`, of which nothing is asked for yet."""
        require_within(name, by or self.path)
        return Elsewhere(self._at(name), ranges_of(self._there, self._start + name, self._purse))

    def holds(self, name: str, by: Path | None = None) -> bool:
        """Whether the repository has the file."""
        require_within(name, by or self.path)
        return self._start + name in self._there.files

    def document(self, name: str, limits: Limits) -> Any:
        """The document `name`, asked for once."""
        if name not in self._documents:
            self._documents[name] = super().document(name, limits)
        return self._documents[name]

    def called(self, names: Iterable[str]) -> tuple[str, ...]:
        """Its files `names` as the repository calls them."""
        return tuple(self._start + name for name in names)

    def _at(self, name: str) -> Address:
        return Address(self.path / name)


def _tree(names: Iterable[str]) -> dict[str, Listing]:
    """What lies in each folder ("", "unet/"), as deep as a pull goes: all of it at once, for a repository may have thousands."""
    found: dict[str, Listing] = {}
    for name in names:
        parts = name.split("/", DEEPEST)
        if len(parts) <= DEEPEST:
            _grow(found, parts)
    for listing in found.values():
        listing.folders.sort()
    return found


def _grow(tree: dict[str, Listing], parts: list[str]) -> None:
    """Puts a file into its folder, and folders that are new into theirs."""
    start = ""
    for part in parts[:-1]:
        if f"{start}{part}/" not in tree:
            tree.setdefault(start, Listing()).folders.append(part)
            tree[f"{start}{part}/"] = Listing()
        start = f"{start}{part}/"
    if not parts[-1].lower().endswith(LONE[-1]):
        tree.setdefault(start, Listing()).files.add(parts[-1])


def ranges_of(there: Repository, name: str, purse: Purse | None = None) -> Ranges:
    """A file at the commit that was resolved, so that all that is read of it is of one version."""
    from huggingface_hub import constants, hf_hub_url

    url = hf_hub_url(there.repo, name, revision=there.commit, endpoint=constants.ENDPOINT)
    return Ranges(
        url, size=there.files[name].size, name=f"hf://{there.repo}/{name}", allow_http=there.allow_http, purse=purse
    )
