"""cloneofsimo/lora: `unet:0:up`, `text_encoder:0:down`; modules are numbered in the order in which its code meets them.

Source: cloneofsimo/lora `lora_diffusion/lora.py` (`_find_modules_v2`, `save_safeloras_with_embeds`): the descendants of the
classes listed in the metadata, in the attribute order of the diffusers of its day, where the feed-forward stood between
the attentions and `mid_block` came last. Ranks are in the metadata, alpha does not exist, tokens lie beside under their
own names.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache

import adapterhub.architectures as architectures
from adapterhub.adapter import Adapter, Key, Kind, Module, Role
from adapterhub.architectures import Architecture
from adapterhub.errors import RefusedInput
from adapterhub.files import SAFETENSORS, File, Package
from adapterhub.layouts.base import Encoded, Reading
from adapterhub.layouts.lora.placing import AlphaPlace, Fit, fit_of, reading_of
from adapterhub.layouts.lora.spelled import EMBEDDING, Spelled
from adapterhub.tensors import LazyTensor

_PLACE = re.compile(r"(unet|text_encoder):(\d{1,5}):(up|down)")
_SIDES = {"up": Role.UP, "down": Role.DOWN}
_CLASSES = {"unet": ("CrossAttention", "Attention", "GEGLU"), "text_encoder": ("CLIPAttention",)}
_EMBED = "<embed>"
_FIELD = ".string_to_param.*"  # a token is kept as A1111's bundles keep it

_ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
# The leaves of a transformer block in the order of each generation of diffusers, and those of a resnet ("extended").
_TRANSFORMER = {
    "feed-forward-between": [*(f"attn1.{p}" for p in _ATTENTION), "ff.net.0.proj", *(f"attn2.{p}" for p in _ATTENTION)],
    "feed-forward-last": [*(f"attn1.{p}" for p in _ATTENTION), *(f"attn2.{p}" for p in _ATTENTION), "ff.net.0.proj"],
}
_RESNET = ("conv1", "time_emb_proj", "conv2", "conv_shortcut")
_TEXT = ("k_proj", "v_proj", "q_proj", "out_proj")
_BLOCKS = ("down_blocks", "up_blocks", "mid_block")
_ORDERS = tuple((order, extended) for extended in (False, True) for order in _TRANSFORMER)


@cache
def traversal(architecture: str, component: str, order: str, extended: bool) -> tuple[str, ...]:
    """The modules of a component in cloneofsimo's order."""
    modules = architectures.get(architecture).weights[component]
    if component == "text_encoder":
        layers = dict.fromkeys(path.rpartition(".self_attn.")[0] for path in modules if ".self_attn." in path)
        return tuple(f"{layer}.self_attn.{leaf}" for layer in layers for leaf in _TEXT)
    ranked = ((_rank(path, _TRANSFORMER[order], extended), path) for path in modules)
    return tuple(path for rank, path in sorted((rank, path) for rank, path in ranked if rank is not None))


def _rank(path: str, leaves: list[str], extended: bool) -> tuple[int, ...] | None:
    """Where a UNet module stands in the traversal; None where it is no target."""
    block, _, rest = path.partition(".")
    if block not in _BLOCKS:
        return None
    index = 0
    if block != "mid_block":
        number, _, rest = rest.partition(".")
        index = int(number)
    kind, number, leaf = (*rest.split(".", 2), "", "")[:3]
    if kind == "attentions" and leaf.startswith("transformer_blocks."):
        _, inner, leaf = leaf.split(".", 2)
        return (_BLOCKS.index(block), index, 0, int(number), int(inner), leaves.index(leaf)) if leaf in leaves else None
    if kind == "resnets" and extended and leaf in _RESNET:
        return (_BLOCKS.index(block), index, 1, int(number), 0, _RESNET.index(leaf))
    return None


@dataclass(frozen=True)
class Cloneofsimo:
    """See the module."""

    name: str = "cloneofsimo"
    kind: Kind = Kind.LORA
    summary: str = "`unet:0:up` … with ranks in the metadata"
    alpha: AlphaPlace = AlphaPlace.FOLDED
    containers: Mapping[str, str] = field(default_factory=lambda: {".safetensors": SAFETENSORS})
    writes: bool = True

    def explains(self, package: Package, spelled: Mapping[str, Spelled], architecture: Architecture,
                 *, lenient: bool = False) -> Fit | None:  # fmt: skip
        """The numbering whose shapes agree, if the file is numbered at all."""
        if len(spelled) != 1 or architecture.name not in ("sd1", "sd2"):
            return None
        ((file, source),) = spelled.items()
        if not any(_PLACE.fullmatch(name) for name in source.unsplit):
            return None
        best: Fit | None = None
        for order in _ORDERS:
            fit = self._fit(source, package, file, architecture, *order)
            best = fit if best is None or _wrong(fit) < _wrong(best) else best
            if not _wrong(best):
                break
        return best if best and (lenient or not best.unplaced) else None

    def _fit(self, source: Spelled, package: Package, file: str, architecture: Architecture,
             order: str, extended: bool) -> Fit:  # fmt: skip
        metadata = package.files[file].metadata
        heads: dict[str, dict[Role, str]] = {}
        placed: dict[str, Module] = {}
        tokens: dict[str, Key] = {}
        unsplit: list[str] = [name for names in source.heads.values() for name in names.values()]
        for name in source.unsplit:
            match = _PLACE.fullmatch(name)
            if match is None:
                if metadata.get(name) == _EMBED:
                    tokens[name] = Key(EMBEDDING, name + _FIELD, Role.VECTORS)
                else:
                    unsplit.append(name)
                continue
            component, index, side = match[1], int(match[2]), match[3]
            modules = traversal(architecture.name, component, order, extended)
            if index >= len(modules):
                unsplit.append(name)
                continue
            head = f"{component}:{index}"
            placed[head] = Module(component, modules[index])
            heads.setdefault(head, {})[_SIDES[side]] = name
        numbered = Spelled(source.tensors, heads, {}, tuple(unsplit), bundled=tokens)
        return fit_of(self, architecture, {file: numbered}, {file: placed})

    def decode(self, package: Package, fit: Fit) -> Reading:
        """Numbers become modules; the ranks and class lists, which the tensors tell, leave the metadata."""
        told = re.compile(r"(unet|text_encoder)(:\d+:rank)?")
        metadata = {
            name: value for name, value in package.only.metadata.items()
            if not told.fullmatch(name) and value != _EMBED
        }  # fmt: skip
        return reading_of(self.kind, package, fit, metadata)

    def roles(self, component: str) -> Mapping[Role, str]:
        """Pairs, and nothing else."""
        return {Role.UP: ":up", Role.DOWN: ":down"}

    def place(self, key: Key, architecture: str) -> str | None:
        """`component:ordinal:side`, or the token's own name."""
        if key.role is Role.VECTORS:
            return key.module.removesuffix(_FIELD) if key.module.endswith(_FIELD) else None
        suffix = self.roles(key.component).get(key.role)
        ordinal = _ordinals(architecture).get(Module(key.component, key.module))
        return None if suffix is None or ordinal is None else f"{key.component}:{ordinal}{suffix}"

    def encode(self, adapter: Adapter) -> Encoded:
        """Its reader walks the whole numbering, so every module of it must be there."""
        places = {key: self.place(key, adapter.architecture) for key in adapter.tensors}
        metadata = dict(adapter.metadata)
        for component in adapter.components():
            if component != EMBEDDING:
                metadata |= self._described(adapter, component)
        for key, place in places.items():
            if key.role is Role.VECTORS and place is not None:
                metadata[place] = _EMBED
        tensors = {place: _written(key, adapter.tensors[key]) for key, place in places.items() if place is not None}
        return Encoded(Package.new({"lora.safetensors": File(tensors, metadata)}), places)

    def _described(self, adapter: Adapter, component: str) -> dict[str, str]:
        wanted = traversal(adapter.architecture, component, *_ORDERS[0])
        missing = [path for path in wanted if Key(component, path, Role.UP) not in adapter.tensors]
        if missing:
            raise RefusedInput(
                f"cloneofsimo numbers all {len(wanted)} modules of the {component}, and {len(missing)} are not in this "
                f"adapter, the first being {missing[0]}",
                mend="Choose a layout that names its modules.",
            )
        ranks = {
            f"{component}:{number}:rank": str(adapter.tensors[Key(component, path, Role.DOWN)].shape[0])
            for number, path in enumerate(wanted)
        }
        return {component: json.dumps(_CLASSES[component]), **ranks}


def _wrong(fit: Fit) -> int:
    return len(fit.unplaced) + len(fit.misfits)


def _written(key: Key, tensor: LazyTensor) -> LazyTensor:
    """A token is a flat vector here."""
    if key.role is Role.VECTORS and len(tensor.shape) == 2 and tensor.shape[0] == 1:
        return tensor.reshape(tensor.size)
    return tensor


@cache
def _ordinals(architecture: str) -> dict[Module, int]:
    if architecture not in ("sd1", "sd2"):
        return {}
    return {
        Module(component, path): number
        for component in _CLASSES
        for number, path in enumerate(traversal(architecture, component, *_ORDERS[0]))
    }


LAYOUT = Cloneofsimo()
