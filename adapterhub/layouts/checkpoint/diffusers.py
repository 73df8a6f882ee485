"""A diffusers folder: `model_index.json`, and a folder for each component; also the weights of a component alone.

What the folder has no place for lies in a file of ours beside `model_index.json`, which no reader opens, and goes back from
there. Source: diffusers `pipelines/pipeline_utils.py` (`save_pretrained`), `models/modeling_utils.py`; transformers
`modeling_utils.py`; the old names of the VAE's attention: diffusers before 0.17 (`models/attention_processor.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

import adapterhub.architectures as architectures
from adapterhub.adapter import Adapter, Key, Kind
from adapterhub.architectures import pipeline
from adapterhub.errors import BrokenAdapter
from adapterhub.files import ASIDE_FILE, DIRECTORY, File, Package
from adapterhub.files.directories import PIPELINE
from adapterhub.layouts.base import Encoded, Form, Reading, Recognised
from adapterhub.layouts.checkpoint.aside import ASIDE, aside
from adapterhub.layouts.checkpoint.bare import Bare, judged
from adapterhub.layouts.checkpoint.places import Placed, as_layer, key, rows, spelled
from adapterhub.layouts.checkpoint.scoring import Judged, best, recognised
from adapterhub.layouts.checkpoint.single_file import reading
from adapterhub.tensors import LazyTensor

FILES = {
    "unet": "unet/diffusion_pytorch_model.safetensors", "vae": "vae/diffusion_pytorch_model.safetensors",
    "text_encoder": "text_encoder/model.safetensors", "text_encoder_2": "text_encoder_2/model.safetensors",
}  # fmt: skip
_OLD_VAE = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}
_ANCHORS = (
    "down_blocks.0.resnets.0.conv1.weight", "encoder.down_blocks.0.resnets.0.conv1.weight",
    "text_model.embeddings.token_embedding.weight", "embeddings.token_embedding.weight",
)  # fmt: skip
"""Tensors that tell a component's file from every other."""
_TEXT = "text_model."


@dataclass(frozen=True, eq=False)
class Diffusers:
    """The layout `diffusers` of whole models."""

    name: str = "diffusers"
    kind: Kind = Kind.CHECKPOINT
    summary: str = "a folder with `model_index.json`"
    writes: bool = True
    containers: Mapping[str, str] = field(default_factory=lambda: {"": DIRECTORY})

    def recognise(self, package: Package) -> Recognised | None:
        """What it is, by the architecture that names the most of its tensors."""
        found = judged(package, _judged)
        return None if found is None else recognised(self, found[1], partial(_reading, *found))

    def decode(self, package: Package) -> Reading:
        """The weights, and what is kept aside."""
        found = judged(package, _judged)
        assert found is not None
        return _reading(*found)

    def place(self, held: Key, adapter: Adapter) -> str:
        """File and name."""
        return f"{ASIDE_FILE}:{held.module}" if held.component == ASIDE else f"{FILES[held.component]}:{spelled(held)}"

    def encode(self, adapter: Adapter, form: Form) -> Encoded:
        """A file for each component, and one for what is kept aside."""
        files: dict[str, dict[str, LazyTensor]] = {}
        places: dict[Key, str | None] = {}
        for held, tensor in adapter.tensors.items():
            places[held] = place = self.place(held, adapter)
            file, _, name = place.partition(":")
            files.setdefault(file, {})[name] = tensor
        if adapter.metadata:
            files.setdefault(ASIDE_FILE, {})
        made = {
            name: File(tensors, adapter.metadata if name == ASIDE_FILE else {"format": "pt"})
            for name, tensors in files.items()
        }
        return Encoded(Package.new(made, container=DIRECTORY), places)


LAYOUT = Diffusers()


def _metadata(package: Package) -> Mapping[str, str]:
    """That of the single file that the folder was made of; what diffusers writes says nothing."""
    return package.files[ASIDE_FILE].metadata if ASIDE_FILE in package.files else {}


def _claimed_again(judged: Judged) -> Iterator[str]:
    """Tensors of the file of ours that would stand where weights of the folder go in a single file."""
    table = rows(judged.architecture)
    for held, place in judged.placed.places.items():
        row = table.get(held.module) if held.component == ASIDE else None
        if row is not None and any(key(name) in judged.placed.tensors for name in row.tensors):
            yield place


def _reading(bare: Bare, found: Judged) -> Reading:
    if strays := [bare.stored(place) for place in (*found.placed.rest, *_claimed_again(found))]:
        raise BrokenAdapter(f"{bare.package.path}: {len(strays)} tensors have no place of their own in {found.architecture}: {strays[0]} …",
                            strays, mend="Its parts are of several models: get the folder again.")  # fmt: skip
    return bare.told(reading(found.placed, found.architecture, _metadata(bare.package)))


def _judged(package: Package) -> Judged | None:
    parts = components(package)
    if parts:
        judged = best(partial(as_folder, package, parts)) if parts.keys() <= FILES.keys() else None
        return judged and _as_stated(judged, package, parts)
    if len(package.files) != 1 or not any(anchor in package.only.tensors for anchor in _ANCHORS):
        return None
    found = [judged for part in FILES if (judged := best(partial(as_folder, package, {part: ("", package.only)})))]
    return max(found, key=lambda judged: judged.score, default=None)


def _as_stated(judged: Judged, package: Package, parts: Mapping[str, tuple[str, File]]) -> Judged:
    """Of the architectures that are equally good, those whose pipeline the index of the folder names, if any is."""
    index = package.documents.get(PIPELINE)
    if not judged.also or not isinstance(index, dict):
        return judged
    candidates = (judged.architecture, *judged.also)
    stated = [name for name in candidates if index.get("_class_name") in pipeline.classes(name)]
    if not stated:
        return judged
    first, *also = stated
    return Judged(first, tuple(also), as_folder(package, parts, first), judged.score)


def components(package: Package) -> dict[str, tuple[str, File]]:
    """(name, file) of each component that lies in a folder of its own."""
    return {name.partition("/")[0]: (name, file) for name, file in package.files.items() if "/" in name}


def as_folder(package: Package, parts: Mapping[str, tuple[str, File]], architecture: str) -> Placed:
    """The tensors of every component that `architecture` has; those of the file of ours are aside. The rest are those of
    other components, and what is the same weight as another.
    """
    known, several = architectures.get(architecture).parts, len(package.files) > 1
    placed = Placed(rest=[f"{file}:{name}" for component, (file, content) in parts.items() if component not in known
                          for name in content.tensors])  # fmt: skip
    found = [(f"{file}:{name}" if several else name, held, tensor)
             for component, (file, content) in parts.items() if component in known
             for name, held, tensor in _component(component, content, architecture)]  # fmt: skip
    if found and ASIDE_FILE in package.files:
        kept = package.files[ASIDE_FILE].tensors
        found += [(f"{ASIDE_FILE}:{name}", aside(name), tensor) for name, tensor in kept.items()]
    for place, held, tensor in found:
        if held in placed.tensors:
            placed.rest.append(place)
        else:
            placed.place(held, tensor, place, architecture)
    return placed


def _component(component: str, file: File, architecture: str) -> Iterator[tuple[str, Key, LazyTensor]]:
    """(name, key, tensor); what is no weight of the component is aside, under the name that it has in a single file."""
    model = architectures.get(architecture)
    weights, part = model.weights[component], model.parts[component]
    # transformers ≥ 5.6 writes CLIPTextModel without this level
    short = component.startswith("text_encoder") and not any(name.startswith(_TEXT) for name in file.tensors)
    for name, tensor in file.tensors.items():
        now = _current(component, f"{_TEXT}{name}" if short and not name.startswith("text_projection.") else name)
        path, _, kind = now.rpartition(".")
        known = path in weights and kind in ("weight", "bias")
        if known and (ours := as_layer(held := key(f"{component}.{now}"), tensor, architecture)) is not None:
            yield name, held, ours
        else:
            yield name, aside(part.prefix + now), tensor


def _current(component: str, name: str) -> str:
    """The name that the VAE's attention has today."""
    if component == "vae" and ".attentions." in name:
        for old, new in _OLD_VAE.items():
            name = name.replace(old, new)
    return name
