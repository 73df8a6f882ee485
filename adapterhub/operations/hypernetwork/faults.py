"""What is wrong or odd about a hypernetwork by its shapes and fields; its values: `values.py`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import adapterhub.architectures as architectures
from adapterhub.adapter import Adapter, Key
from adapterhub.documents import HypernetworkStructure, Problem
from adapterhub.files import Package
from adapterhub.layouts.base import Reading
from adapterhub.layouts.hypernetwork.layout import Content, HypernetworkLayout
from adapterhub.layouts.hypernetwork.structure import (
    ACTIVATIONS,
    STRUCTURE,
    SUFFIXES,
    Net,
    expected,
    net_of,
    nets,
    structure_of,
)
from adapterhub.layouts.hypernetwork.widths import widths_of
from adapterhub.layouts.identity import Identity
from adapterhub.metadata import claimed
from adapterhub.operations.problems import error, warning
from adapterhub.tensors import LazyTensor

EMPTY_HASH = "e3b0c442"
"""SHA-256 of nothing: what A1111's first hash, of 64 KiB at 1 MiB, gives for a file that ends before."""
_AGAIN = "Get the file again."
_DEFAULTS = {
    "layer_structure": "[1, 2, 1]", "activation_func": "linear", "is_layer_norm": "False",
    "activate_output": "True (and ComfyUI False)", STRUCTURE: "a linear net",
}  # fmt: skip
"""What is taken where a field is missing."""
_FIELDS = ("layer_structure", "activation", "layer_norm", "dropout", "upsample_linear")


def faults(package: Package, identity: Identity, reading: Reading) -> Iterator[Problem]:
    """Every problem that the header tells."""
    layout = identity.layout
    assert isinstance(layout, HypernetworkLayout)
    content = layout.content(package)
    structure = structure_of(reading.adapter)
    yield from _keys(package, content, structure, reading.adapter)
    yield from _fields(content, structure)
    yield from _widths(identity, structure)
    yield from _told(identity, reading.metadata)
    yield from _text_widths(package)


def _keys(package: Package, content: Content, structure: HypernetworkStructure, adapter: Adapter) -> Iterator[Problem]:
    """Tensors that no net has, and what is wrong with each net."""
    known = set(content.places.values())
    for place in package.only.tensors:
        if place not in known:
            yield error("unknown-key", place, "no part of a net has such a tensor", "--allow-loss leaves it out.")
    there: dict[Net, dict[Key, LazyTensor]] = {}
    for key, tensor in adapter.tensors.items():
        there.setdefault(net_of(key), {})[key] = tensor
    for net in nets(structure):
        if net in there:
            yield from _shapes(net, structure, there[net])
        else:
            lack = f"contexts of {net.width} have no net for {_HALVES[net.half]}"
            yield error("missing-half", f"{net.width}.{net.half}", lack, _AGAIN)


def _shapes(net: Net, structure: HypernetworkStructure, held: Mapping[Key, LazyTensor]) -> Iterator[Problem]:
    """Whether a net has what the structure asks for, in shapes that fit together."""
    wanted = expected(structure, net)
    for key, (_, shape) in wanted.items():
        if key not in held:
            yield error("missing-tensor", _named(key), "the other layers ask for it, and it is not there", _AGAIN)
        elif held[key].shape != shape:
            yield error("shape-mismatch", _named(key), f"has the shape {list(held[key].shape)}, and {list(shape)} fits the "
                        f"width {net.width} and the layers {structure.layer_structure}", _AGAIN)  # fmt: skip
    for key in held:
        if key not in wanted:
            yield error("uneven-nets", _named(key), "another net has no such layer, and all are alike", _AGAIN)


def _named(key: Key) -> str:
    return f"{key.module}.{SUFFIXES[key.role]}"


_HALVES = {"k": "keys", "v": "values"}


def _fields(content: Content, structure: HypernetworkStructure) -> Iterator[Problem]:
    """Fields that are missing, that say something else than the tensors, or that nobody knows."""
    for field in content.missing:
        yield warning("missing-field", field, f"is not there, and {_DEFAULTS[field]} is taken",
                      "adapterhub convert --to a1111 writes every field.")  # fmt: skip
    told = content.told()
    for field in _FIELDS:
        says, shown = getattr(told, field), getattr(structure, field)
        if says != shown and not _is_untold(field, content, shown):
            yield warning("structure-contradicts", field, f"is told to be {says}, and the tensors are those of {shown}: "
                          "they count", "adapterhub convert writes fields that agree.")  # fmt: skip
    if structure.activation not in ACTIVATIONS:
        yield error("unknown-activation", "activation_func", f"no net can be built with {structure.activation!r}",
                    f"Known: {', '.join(sorted(ACTIVATIONS))}.")  # fmt: skip


def _is_untold(field: str, content: Content, shown: object) -> bool:
    """Whether the file says nothing of a field, so that it contradicts nothing."""
    return field in content.missing or (field == "dropout" and shown == list(content.noted))


def _widths(identity: Identity, structure: HypernetworkStructure) -> Iterator[Problem]:
    widths = ", ".join(map(str, structure.widths))
    if not identity.architecture:
        yield warning("unknown-architecture", "", f"no known model has contexts of {widths}")
        return
    if identity.also:
        yield warning("ambiguous-architecture", "", f"contexts of {widths} occur in {identity.architecture}, and in "
                      f"{', '.join(identity.also)} as well", "Say which it is for: --architecture NAME.")  # fmt: skip
    idle = sorted(set(structure.widths) - widths_of(identity.architecture))
    if idle:
        title = architectures.get(identity.architecture).title
        yield warning(
            "idle-width", ", ".join(map(str, idle)), f"{title} has no contexts of this width: these nets do nothing"
        )


def _told(identity: Identity, metadata: Mapping[str, str]) -> Iterator[Problem]:
    if metadata.get("sd_checkpoint") == EMPTY_HASH:
        yield warning("empty-hash", "sd_checkpoint", f"{EMPTY_HASH} is the hash of nothing, and names no checkpoint")
    told = claimed(metadata)
    if told is not None and identity.architecture and told not in (identity.architecture, *identity.also):
        title = architectures.get(identity.architecture).title
        yield warning("metadata-contradicts", "metadata", f"claims {told}, and the widths are those of {title}",
                      "The widths count; convert writes metadata that agrees.")  # fmt: skip


def _text_widths(package: Package) -> Iterator[Problem]:
    tree: Any = package.only.tree
    texts = [key for key in tree if isinstance(key, str) and key.isdecimal()] if isinstance(tree, dict) else []
    if texts:
        yield warning("text-width", ", ".join(texts), "is text, and A1111 and ComfyUI look for numbers: they load nothing",
                      "adapterhub convert --to a1111 writes numbers.")  # fmt: skip
