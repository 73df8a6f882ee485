"""A1111's `.pt`: by width a pair of state_dicts, and fields that say what the nets are made of.

Written so that A1111 and ComfyUI read the same: ComfyUI knows no activation but a text, takes a missing `activate_output` for
False, and leaves dropout switched on; dropout does nothing when images are made, and so it is left out of the modules and kept
in a note. Source: A1111 `modules/hypernetworks/hypernetwork.py` (`Hypernetwork.save`); ComfyUI
`comfy_extras/nodes_hypernetwork.py`.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from adapterhub.adapter import Adapter, Key
from adapterhub.documents import HypernetworkStructure
from adapterhub.files import TORCH_ZIP, File, Package
from adapterhub.layouts.base import Form
from adapterhub.layouts.hypernetwork.dictionary import DROPOUT, NOTES, STEP, TEXTS, content, dictionary
from adapterhub.layouts.hypernetwork.layout import Content, HypernetworkLayout
from adapterhub.layouts.hypernetwork.structure import STRUCTURE, Net, expected, net_of, structure_of

_FIRST = "linear1."


def _find(package: Package) -> Content | None:
    tree = dictionary(package)
    return None if tree is None or is_old(tree) else content(tree)


def is_old(tree: Mapping[Any, Any]) -> bool:
    """Whether the layers have NovelAI's names, which A1111 wrote too in its first days."""
    return any(name.startswith(_FIRST) for pair in tree.values() if isinstance(pair, list | tuple)
               for half in pair if isinstance(half, dict) for name in half if isinstance(name, str))  # fmt: skip


def _place(key: Key, adapter: Adapter) -> str | None:
    net = net_of(key)
    named = expected(_undropped(structure_of(adapter)), net).get(key)
    return None if named is None else f"{net.width}.{'kv'.index(net.half)}.{named[0]}"


def _undropped(structure: HypernetworkStructure) -> HypernetworkStructure:
    return structure.model_copy(update={"dropout": None})


def _save(adapter: Adapter, places: Mapping[Key, str], form: Form) -> File:
    structure = structure_of(adapter)
    told = {field: text for field, text in adapter.metadata.items() if field != STRUCTURE}
    texts = {field: told.pop(field, None) for field in TEXTS}
    step = told.pop(STEP, None)
    tree: dict[Any, Any] = {
        width: tuple(_state_dict(Net(width, half), structure, adapter) for half in "kv") for width in structure.widths
    }
    tree |= {
        "step": int(step) if step is not None and step.isdecimal() else step,
        "name": texts["name"] or form.stem or "hypernetwork",
        **_fields(structure),
        **{field: text for field, text in texts.items() if field != "name"},
    }
    if structure.dropout is not None:
        told[DROPOUT] = json.dumps(structure.dropout)
    if told:
        tree[NOTES] = told
    return File({place: adapter.tensors[key] for key, place in places.items()}, {}, tree, form.container)


def _state_dict(net: Net, structure: HypernetworkStructure, adapter: Adapter) -> OrderedDict[str, Any]:
    named = expected(_undropped(structure), net)
    return OrderedDict((name, adapter.tensors[key]) for key, (name, _) in named.items() if key in adapter.tensors)


def _fields(structure: HypernetworkStructure) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "layer_structure": list(structure.layer_structure),
        "activation_func": structure.activation,
        "is_layer_norm": structure.layer_norm,
        "weight_initialization": structure.weight_initialization,
        "activate_output": structure.activate_output,
        "use_dropout": False,
        "dropout_structure": None,
        "last_layer_dropout": False,
    }
    if structure.skip_connection:
        fields |= {"skip_connection": True, "upsample_linear": "Linear" if structure.upsample_linear else None}
    return fields


LAYOUT = HypernetworkLayout(
    name="a1111",
    summary="`.pt` keyed by width: a pair of state_dicts each, for keys and for values",
    find=_find,
    containers={".pt": TORCH_ZIP},
    place=_place,
    save=_save,
)
