"""HypernetworkLayout: what is declared of a layout of hypernetworks, and how it is read and written by that."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from adapterhub.adapter import Adapter, Key, Kind, Module, Role
from adapterhub.documents import HypernetworkStructure
from adapterhub.files import File, Package
from adapterhub.layouts.base import Encoded, Form, Reading, Recognised
from adapterhub.layouts.hypernetwork.found import corrected
from adapterhub.layouts.hypernetwork.structure import checked, net_of, with_structure
from adapterhub.layouts.hypernetwork.widths import architectures_of
from adapterhub.tensors import LazyTensor


class Content(NamedTuple):
    """What a file holds: the place of each key, its `names` in a state_dict where it has one, and what the file says of its
    structure and else; `missing` are the fields that it lacks, `noted` the dropout of training that no module stands for.
    """

    places: Mapping[Key, str]
    names: Mapping[Key, str] | None
    told: Callable[[], HypernetworkStructure]
    metadata: Mapping[str, str]
    missing: tuple[str, ...] = ()
    noted: tuple[float, ...] = ()

    def structure(self, tensors: Mapping[Key, LazyTensor]) -> HypernetworkStructure:
        """The structure that the tensors show. BrokenAdapter where the fields cannot be."""
        found = corrected(self.told(), tensors, self.names)
        if found.dropout is None and len(self.noted) == len(found.layer_structure):
            found = found.model_copy(update={"dropout": list(self.noted)})
        return checked(found.model_dump(), found.widths)


def _nowhere(key: Key, adapter: Adapter) -> None:
    return None


@dataclass(frozen=True, kw_only=True, eq=False)
class HypernetworkLayout:
    """`find` gives the content of a package, None where it is not in this layout. A layout that is written has `place`, the
    name of each key's tensor, and `save`, the file.
    """

    name: str
    kind: Kind = Kind.HYPERNETWORK
    summary: str
    find: Callable[[Package], Content | None]
    containers: Mapping[str, str] = field(default_factory=dict)
    place: Callable[[Key, Adapter], str | None] = _nowhere
    save: Callable[[Adapter, Mapping[Key, str], Form], File] | None = None

    @property
    def writes(self) -> bool:
        """Whether it is written at all."""
        return self.save is not None

    def recognise(self, package: Package) -> Recognised | None:
        """What the nets are for, told by their widths."""
        content = self.find(package)
        if content is None or not content.places:
            return None
        widths = dict.fromkeys(net_of(key).width for key in content.places)
        names = architectures_of(widths)
        evidence = f"nets for contexts of {', '.join(map(str, widths))}"
        return Recognised(self, names[0] if names else "", names[1:], (evidence,))

    def decode(self, package: Package) -> Reading:
        """The hypernetwork; its structure is what the tensors show. BrokenAdapter where its fields cannot be."""
        content = self.content(package)
        stored = package.only.tensors
        tensors = {key: stored[place] for key, place in content.places.items()}
        modules: dict[Module, dict[Role, LazyTensor]] = {}
        names: dict[Module, dict[Role, str]] = {}
        for key, tensor in tensors.items():
            module = Module(key.component, key.module)
            modules.setdefault(module, {})[key.role] = tensor
            names.setdefault(module, {})[key.role] = content.places[key]
        metadata = with_structure(content.metadata, content.structure(tensors))
        known = architectures_of({net_of(key).width for key in tensors})
        return Reading(self.kind, known[0] if known else "", modules, names, metadata, {})

    def content(self, package: Package) -> Content:
        """What a package that was recognised holds."""
        found = self.find(package)
        assert found is not None
        return found

    def encode(self, adapter: Adapter, form: Form) -> Encoded:
        """The file, by the name that `form` says."""
        assert self.save is not None
        suffix = next(suffix for suffix, container in self.containers.items() if container == form.container)
        places = {key: str(self.place(key, adapter)) for key in adapter.tensors}
        name = f"{form.stem or adapter.metadata.get('name') or 'hypernetwork'}{suffix}"
        return Encoded(Package.new({name: self.save(adapter, places, form)}), dict(places))
