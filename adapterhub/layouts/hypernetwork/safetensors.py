"""Ours: `hypernet.WIDTH.NET.PART.NUMBER.weight` and `.bias` in safetensors, the structure as JSON in the metadata.

Described by `schemas/hypernetwork.schema.json`; no other tool reads it: safetensors has no place for A1111's numbers as keys.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from adapterhub.adapter import Adapter, Key
from adapterhub.documents import HypernetworkStructure
from adapterhub.errors import BrokenAdapter
from adapterhub.files import SAFETENSORS, File, Package, strict_json
from adapterhub.layouts.base import Form
from adapterhub.layouts.hypernetwork.layout import Content, HypernetworkLayout
from adapterhub.layouts.hypernetwork.structure import ROLES, STRUCTURE, SUFFIXES, Net, checked

_START = "hypernet."
_NAME = re.compile(
    r"hypernet\.([1-9]\d{0,4})\.([kv])\.(linear|norm|activation|upsample)\.(0|[1-9]\d{0,5})\.(weight|bias)"
)


def _find(package: Package) -> Content | None:
    if len(package.files) != 1 or package.only.tree is not None:
        return None
    places = {key: name for name in package.only.tensors if name.startswith(_START) and (key := _key(name))}
    if not places:
        return None
    metadata = package.only.metadata
    widths = list(dict.fromkeys(int(key.module.partition(".")[0]) for key in places))
    kept = {field: text for field, text in metadata.items() if field != STRUCTURE}
    return Content(places, None, lambda: _told(metadata, widths), kept, () if STRUCTURE in metadata else (STRUCTURE,))


def _key(name: str) -> Key | None:
    found = _NAME.fullmatch(name)
    return None if found is None else Net(int(found[1]), found[2]).key(found[3], int(found[4]), ROLES[found[5]])


def _told(metadata: Mapping[str, str], widths: list[int]) -> HypernetworkStructure:
    if STRUCTURE not in metadata:
        return checked({}, widths)
    try:
        fields = strict_json.loads(metadata[STRUCTURE])
    except (ValueError, RecursionError) as error:
        raise BrokenAdapter(
            f"{STRUCTURE} is not JSON: {error}", (STRUCTURE,), mend="Convert the first file again."
        ) from None
    if not isinstance(fields, dict):
        raise BrokenAdapter(f"{STRUCTURE} is no JSON object", (STRUCTURE,), mend="Convert the first file again.")
    return checked(fields, widths)


def _place(key: Key, adapter: Adapter) -> str:
    return f"hypernet.{key.module}.{SUFFIXES[key.role]}"


def _save(adapter: Adapter, places: Mapping[Key, str], form: Form) -> File:
    return File(
        {places[key]: tensor for key, tensor in adapter.tensors.items()}, adapter.metadata, container=form.container
    )


LAYOUT = HypernetworkLayout(
    name="safetensors",
    summary="adapterhub's own: flat names, the structure in the metadata",
    find=_find,
    containers={".safetensors": SAFETENSORS},
    place=_place,
    save=_save,
)
