"""A whole model in one file, in the names of CompVis' LDM and Stability's SGM: what A1111, ComfyUI and Kohya read.

Also one of its components alone, without the prefix that it has in there: a VAE, a UNet, a text encoder.
Source: CompVis/stable-diffusion, Stability-AI/stablediffusion and generative-models (`sgm`), open_clip.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import adapterhub.architectures as architectures
from adapterhub.adapter import Adapter, Key, Kind, Module, Role
from adapterhub.errors import BrokenAdapter
from adapterhub.files import SAFETENSORS, File, Package
from adapterhub.layouts.base import Encoded, Form, Reading, Recognised
from adapterhub.layouts.checkpoint.aside import ASIDE, aside
from adapterhub.layouts.checkpoint.bare import Bare, judged
from adapterhub.layouts.checkpoint.places import Placed, key, place_of, put_together, rows, take_apart, turned
from adapterhub.layouts.checkpoint.scoring import Judged, best, recognised
from adapterhub.tensors import LazyTensor

_ANCHORS = {
    "unet": ("input_blocks.0.0.weight", "time_embed.0.weight"),
    "vae": ("encoder.down.0.block.0.conv1.weight", "decoder.up.0.block.0.conv1.weight"),
    "text_encoder": ("text_model.embeddings.token_embedding.weight", "token_embedding.weight"),
}
"""By component (SDXL's second text encoder is like the first) tensors that every model has, without their prefix."""
_WITHIN = "diffusion_model."
"""The prefix of a UNet alone inside what LDM and ComfyUI call `model`, and that of ComfyUI's LoRAs."""
_ROOTS = ("embeddings.", "encoder.", "final_layer_norm.")
_CLIP = {"sd1": "cond_stage_model.transformer.", "sdxl": "conditioner.embedders.0.transformer."}
_LINEAR = ("text_projection.weight.weight", "text_projection.weight")
_OPEN_CLIP = {"sdxl": "conditioner.embedders.1.model.", "sdxl-refiner": "conditioner.embedders.0.model."}
_MOVED: Mapping[str, Mapping[str, str]] = {
    **{name: {head + root: f"{head}text_model.{root}" for root in _ROOTS} for name, head in _CLIP.items()},
    "sd2": {"conditioner.embedders.0.model.": "cond_stage_model.model."},
}
"""By architecture, places that some files have, and those that all others have for the same: CLIP without `text_model.`, as
NovelAI's model and what Kohya writes with transformers ≥ 5.6 have it; SD 2.1 Turbo in the names of SGM, as it was published.
"""
_PROJECTION = {f"{head}{name}": f"{head}text_projection" for head in _OPEN_CLIP.values() for name in _LINEAR}
"""Places of a text projection that is stored as a linear layer, where all others have its transpose: Playground v2.
Source: ComfyUI `comfy/utils.py` (`clip_text_transformers_convert`); Kohya `library/sdxl_model_util.py` has the name.
"""


AXES = "adapterhub.axes"
"""The field of metadata, in a folder, that tells which layers of the single file had other axes than most have."""


@dataclass(frozen=True, eq=False)
class SingleFile:
    """The layout `single-file`."""

    name: str = "single-file"
    kind: Kind = Kind.CHECKPOINT
    summary: str = "one LDM-named file: A1111, ComfyUI, Kohya"
    writes: bool = True
    containers: Mapping[str, str] = field(default_factory=lambda: {".safetensors": SAFETENSORS})

    def recognise(self, package: Package) -> Recognised | None:
        """What it is, by the architecture that names the most of its tensors."""
        found = judged(package, _judged)
        return None if found is None else recognised(self, found[1], partial(_reading, *found))

    def decode(self, package: Package) -> Reading:
        """The weights, and what is kept aside."""
        found = judged(package, _judged)
        assert found is not None
        return _reading(*found)

    def place(self, key: Key, adapter: Adapter) -> str | None:
        """The name of the tensor that `key` is, or is a part of."""
        if key.component == ASIDE:
            return key.module
        return place_of(adapter.architecture).get(key)

    def encode(self, adapter: Adapter, form: Form) -> Encoded:
        """One file of everything."""
        tensors = put_together(adapter.tensors, adapter.architecture)
        tensors |= {
            place: turned(tensors[place]) for place in adapter.metadata.get(AXES, "").split() if place in tensors
        }
        tensors |= {key.module: tensor for key, tensor in adapter.tensors.items() if key.component == ASIDE}
        metadata = {field: text for field, text in adapter.metadata.items() if field != AXES}
        name = f"{form.stem or 'model'}.safetensors"
        places = {key: self.place(key, adapter) for key in adapter.tensors}
        return Encoded(Package.new({name: File(tensors, metadata, container=form.container)}), places)


LAYOUT = SingleFile()


def reading(placed: Placed, architecture: str, metadata: Mapping[str, str]) -> Reading:
    """What was placed, module by module."""
    modules: dict[Module, dict[Role, LazyTensor]] = {}
    names: dict[Module, dict[Role, str]] = {}
    for (component, module, role), tensor in placed.tensors.items():
        modules.setdefault(Module(component, module), {})[role] = tensor
        names.setdefault(Module(component, module), {})[role] = placed.places[Key(component, module, role)]
    return Reading(Kind.CHECKPOINT, architecture, modules, names, dict(metadata), {})


def _reading(bare: Bare, found: Judged) -> Reading:
    package, placed, metadata = bare.package, found.placed, dict(bare.package.only.metadata)
    metadata.pop(AXES, None)
    if placed.turned:
        metadata[AXES] = " ".join(sorted({place_of(found.architecture)[held] for held in placed.turned}))
    if twice := [bare.stored(name) for name in placed.rest if _is_there(name, placed, found.architecture)]:
        raise BrokenAdapter(f"{package.path}: {len(twice)} weights are there with their prefix and without: {twice[0]} …", twice,
                            mend="Its parts are of several models: get the file again.")  # fmt: skip
    for name in placed.rest:
        held = aside(_usual(name, package.only.tensors, found.architecture))
        placed.tensors[held], placed.places[held] = package.only.tensors[name], name
    return bare.told(reading(placed, found.architecture, metadata))


def _is_there(name: str, placed: Placed, architecture: str) -> bool:
    """Whether another tensor is the weight that has this name in whole models."""
    row = rows(architecture).get(name)
    return row is not None and any(key(ours) in placed.tensors for ours in row.tensors)


def _judged(package: Package) -> Judged | None:
    if len(package.files) != 1:
        return None
    tensors = package.only.tensors
    prefixes = {part.prefix: component for name in architectures.NAMES
                for component, part in architectures.get(name).parts.items()}  # fmt: skip
    if any(prefix + anchor in tensors for prefix, component in prefixes.items() for anchor in _anchors(component)):
        return best(partial(as_whole, tensors))
    return _alone(tensors)


def as_whole(tensors: Mapping[str, LazyTensor], architecture: str) -> Placed:
    """`tensors` as a whole model, under the names that they have in the file."""
    names = {_usual(name, tensors, architecture): name for name in tensors}
    placed = take_apart({usual: _transposed(name, usual, tensors[name]) for usual, name in names.items()}, architecture)
    there = {key: names[place] for key, place in placed.places.items()}
    return replace(placed, places=there, rest=[names[usual] for usual in placed.rest])


def _usual(name: str, tensors: Mapping[str, LazyTensor], architecture: str) -> str:
    """The name that a tensor has in other files; its own where something else has that name in here."""
    linear = _PROJECTION.get(name) if architecture in _OPEN_CLIP else None
    if linear is not None and linear not in tensors and name.removesuffix(".weight") not in tensors:
        return linear
    for old, new in _MOVED.get(architecture, {}).items():
        if name.startswith(old) and (usual := new + name.removeprefix(old)) not in tensors:
            return usual
    return name


def _transposed(name: str, usual: str, tensor: LazyTensor) -> LazyTensor:
    """A tensor as it stands under its usual name."""
    return tensor.transpose() if usual == _PROJECTION.get(name) and len(tensor.shape) == 2 else tensor


def _anchors(component: str) -> tuple[str, ...]:
    return _ANCHORS.get(component, _ANCHORS["text_encoder"])


def _alone(tensors: Mapping[str, LazyTensor]) -> Judged | None:
    """A component without its prefix, or with the end of it."""
    if (first := tensors.get(_WITHIN + _ANCHORS["unet"][0])) is not None and first.shape[2:] == (3, 3):  # no IA3
        return best(partial(_of, tensors, "unet", without="model."))
    for component in _ANCHORS:
        if not any(anchor in tensors for anchor in _anchors(component)):
            continue
        parts = (component, f"{component}_2")
        found = [judged for part in parts if (judged := best(partial(_of, tensors, part))) is not None]
        if found:
            return max(found, key=lambda judged: judged.score)
    return None


def _of(tensors: Mapping[str, LazyTensor], component: str, architecture: str, without: str | None = None) -> Placed:
    """`tensors` as the component `component`, `without` its prefix or the start of that, under the names that they have in the
    file.
    """
    part = architectures.get(architecture).parts.get(component)
    if part is None:
        return Placed()
    start = part.prefix if without is None else without
    placed = take_apart({start + name: tensor for name, tensor in tensors.items()}, architecture)
    bare = {key: place.removeprefix(start) for key, place in placed.places.items()}
    return replace(placed, places=bare, rest=[name.removeprefix(start) for name in placed.rest])
