"""EmbeddingLayout: what is declared of a layout of embeddings, and how it is read and written by that."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from adapterhub.adapter import Adapter, Key, Kind, Module, Role
from adapterhub.errors import BrokenAdapter
from adapterhub.files import DIRECTORY, File, Package
from adapterhub.layouts.base import Encoded, Form, Reading, Recognised
from adapterhub.layouts.embedding.encoders import architectures_of
from adapterhub.metadata import utf8
from adapterhub.tensors import LazyTensor

TOKEN, STEM, NAME = "adapterhub.token", "adapterhub.stem", "adapterhub.name"
"""Metadata that keeps what a layout has no place for: the token, the first file's name, the name that A1111 keeps inside."""
_NOT_IN_NAMES = re.compile(r"[^\w.\- ]+", re.ASCII)


class Vectors(NamedTuple):
    """One tensor of a file, whose name there is `place`."""

    token: str
    component: str
    place: str
    tensor: LazyTensor
    role: Role = Role.VECTORS


class Saved(NamedTuple):
    """One file to be written: `tensors` by place, of one `token` of `adapter`."""

    adapter: Adapter
    token: str
    tensors: Mapping[str, LazyTensor]
    form: Form


def _metadata(package: Package) -> dict[str, str]:
    return {name: text for file in package.files.values() for name, text in file.metadata.items()}


def _nowhere(key: Key, adapter: Adapter) -> None:
    return None


def _together(key: Key) -> str:
    return ""


@dataclass(frozen=True, kw_only=True, eq=False)
class EmbeddingLayout:
    """`find` gives the vectors of a package, none where it is not in this layout. A layout that is written has `place`, the
    name of each key's tensor, and `save`, the file of one token; `apart` ends the name of the file that a key goes into;
    it `holds_token` unless the file's name is the token, and `keeps_fields` if a file that is no safetensors has room for metadata too.
    """

    name: str
    kind: Kind = Kind.EMBEDDING
    summary: str
    find: Callable[[Package], Sequence[Vectors]]
    read_metadata: Callable[[Package], dict[str, str]] = _metadata
    containers: Mapping[str, str] = field(default_factory=dict)
    place: Callable[[Key, Adapter], str | None] = _nowhere
    save: Callable[[Saved], File] | None = None
    apart: Callable[[Key], str] = _together
    holds_token: bool = False
    keeps_fields: bool = False
    usual_stem: str = ""

    @property
    def writes(self) -> bool:
        """Whether it is written at all."""
        return self.save is not None

    def recognise(self, package: Package) -> Recognised | None:
        """What the vectors are for, told by their widths."""
        found = self.find(package)
        if not found:
            return None
        widths = {row.component: row.tensor.shape[-1] for row in found}
        names = architectures_of(widths)
        evidence = tuple(f"vectors of {width} for {component}" for component, width in widths.items())
        return Recognised(self, names[0] if names else "", names[1:], evidence)

    def decode(self, package: Package) -> Reading:
        """The embedding. BrokenAdapter where two tensors claim one place."""
        modules: dict[Module, dict[Role, LazyTensor]] = {}
        names: dict[Module, dict[Role, str]] = {}
        for token, component, place, tensor, role in self.find(package):
            there = names.setdefault(Module(component, token), {})
            if role in there:
                raise BrokenAdapter(
                    f"{there[role]} and {place} are both vectors of {token!r} for {component}", (there[role], place),
                    mend="Readers differ in which they take: remove one.",
                )  # fmt: skip
            there[role] = place
            modules.setdefault(Module(component, token), {})[role] = tensor
        known = self.recognise(package)
        architecture = known.architecture if known else ""
        return Reading(self.kind, architecture, modules, names, self.read_metadata(package), {})

    def encode(self, adapter: Adapter, form: Form) -> Encoded:
        """The file of each token. One is a file by the name that `form` says; several, or parts apart, make a folder."""
        assert self.save is not None
        suffix = next(suffix for suffix, container in self.containers.items() if container == form.container)
        parts: dict[tuple[str, str], dict[Key, LazyTensor]] = {}
        for key, tensor in adapter.tensors.items():
            parts.setdefault((key.module, self.apart(key)), {})[key] = tensor
        stems = self._stems(adapter, form.stem if len(parts) == 1 else "")
        files: dict[str, File] = {}
        places: dict[Key, str | None] = {}
        for (token, ending), tensors in parts.items():
            name = f"{stems[token]}{ending}{suffix}"
            held = {str(self.place(key, adapter)): tensor for key, tensor in tensors.items()}
            files[name] = self.save(Saved(self._named(adapter, token), token, held, form))
            before = f"{name}:" if len(parts) > 1 else ""
            places |= {key: f"{before}{self.place(key, adapter)}" for key in tensors}
        return Encoded(Package.new(files, container=DIRECTORY if len(files) > 1 else None), places)

    def _named(self, adapter: Adapter, token: str) -> Adapter:
        """The embedding with its token in the metadata, where the file does not hold it."""
        return adapter if self.holds_token else adapter.with_metadata({TOKEN: token, **adapter.metadata})

    def _stems(self, adapter: Adapter, given: str) -> dict[str, str]:
        held = tokens(adapter)
        if len(held) == 1:
            return {held[0]: given or self.usual_stem or file_name(held[0])}
        return dict(zip(held, _distinct(map(file_name, held)), strict=True))


def tokens(adapter: Adapter) -> tuple[str, ...]:
    """The tokens of an embedding, each once, in their order."""
    return tuple(dict.fromkeys(key.module for key in adapter.tensors))


def stem(package: Package) -> str:
    """The name of the file without its suffix: the token, for A1111 and ComfyUI, of an embedding that does not hold one."""
    paths = list(package.paths.values()) if len(package.paths) == 1 else [package.path]
    return utf8(paths[0].stem) if paths[0] is not None else "embedding"


def file_name(token: str) -> str:
    """`token` as A1111 would name its file: letters, digits and `._- `."""
    return _NOT_IN_NAMES.sub("", token).strip(" .") or "embedding"


def _distinct(names: Iterable[str]) -> list[str]:
    """`names`, numbered where one comes again; file systems may not tell upper from lower case."""
    taken: dict[str, int] = {}
    made = []
    for name in names:
        count = taken[name.lower()] = taken.get(name.lower(), 0) + 1
        made.append(name if count == 1 else f"{name}-{count}")
    return made
